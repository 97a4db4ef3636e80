/* The softcap, alone or with a softmax, and the gradient. Arrays (rows, width) are dense; threads share the rows. Scores
   are float32. Probabilities and the gradients of scores are factors of matrix products: they are rounded to the type of
   stored.h, and are either in float32 in place of what they are computed from, or beside it in that type.
   t is the tanh of the input, which the gradient needs. */

#include <math.h>
#include <stdint.h>

#include "real.h"
#include "stored.h"

/* t = tanh(inner z), z = outer t. */
void softcap(float *z, float *t, int64_t count, float inner, float outer, int64_t threads)
{
    #pragma omp parallel for simd schedule(static) num_threads(threads)
    for (int64_t k = 0; k < count; k++) {
        t[k] = tanh_one(inner * z[k]);
        z[k] = outer * t[k];
    }
}

/* t = tanh(z), and z = softmax of cap t over each row, or of z if cap is 0, where t is not used. A z of -inf gets a
   probability of 0. t may be null, and so may p, which gets what z gets. */
void softcap_softmax(float *z, float *t, stored *p, int64_t rows, int64_t width, float cap, int64_t threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        float *z_r = z + row * width, *t_r = t ? t + row * width : z_r, most = -INFINITY, sum = 0;
        if (cap != 0) {
            #pragma omp simd reduction(max : most)
            for (int64_t k = 0; k < width; k++) {
                float x = z_r[k], y = tanh_one(x);
                t_r[k] = y;
                x = x == -INFINITY ? -INFINITY : cap * y;
                z_r[k] = x;
                most = x > most ? x : most;
            }
        } else {
            #pragma omp simd reduction(max : most)
            for (int64_t k = 0; k < width; k++) most = z_r[k] > most ? z_r[k] : most;
        }
        #pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < width; k++) {
            float scale, e = exp_parts(z_r[k] - most, &scale);
            e = z_r[k] == -INFINITY ? 0.0f : FMA(scale, e, scale);
            z_r[k] = e;
            sum += e;
        }
        float share = 1.0f / sum;
        #pragma omp simd
        for (int64_t k = 0; k < width; k++) z_r[k] = wide(narrow(z_r[k] * share));
        if (p) {
            stored *p_r = p + row * width;
            #pragma omp simd
            for (int64_t k = 0; k < width; k++) p_r[k] = narrow(z_r[k]);
        }
    }
}

/* d, the gradient of the probabilities p, becomes the gradient of the tanh's argument divided by cap, or of the scores if t
   is null. It is written to `to` instead unless that is null. */
void softcap_softmax_backward(float *d, const float *p, const float *t, stored *to, int64_t rows, int64_t width,
                              int64_t threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const float *p_r = p + row * width, *t_r = t + row * width;
        float *d_r = d + row * width, sum = 0;
        #pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < width; k++) sum += d_r[k] * p_r[k];
        if (t) {
            #pragma omp simd
            for (int64_t k = 0; k < width; k++) d_r[k] = p_r[k] * (d_r[k] - sum) * (1.0f - t_r[k] * t_r[k]);
        } else {
            #pragma omp simd
            for (int64_t k = 0; k < width; k++) d_r[k] = p_r[k] * (d_r[k] - sum);
        }
        if (to) {
            stored *to_r = to + row * width;
            #pragma omp simd
            for (int64_t k = 0; k < width; k++) to_r[k] = narrow(d_r[k]);
        } else if (sizeof(stored) < sizeof(float)) {
            #pragma omp simd
            for (int64_t k = 0; k < width; k++) d_r[k] = wide(narrow(d_r[k]));
        }
    }
}
