/* The softcap, alone or with a softmax, and the gradient, float32. Arrays (rows, width) are dense and changed in place;
   threads share the rows. t is the tanh of the input, which the gradient needs. */

#include <math.h>
#include <stdint.h>

#include "real.h"

/* t = tanh(inner z), z = outer t. */
void softcap(float *z, float *t, int64_t count, float inner, float outer, int64_t threads)
{
    #pragma omp parallel for simd schedule(static) num_threads(threads)
    for (int64_t k = 0; k < count; k++) {
        t[k] = tanh_one(inner * z[k]);
        z[k] = outer * t[k];
    }
}

/* t = tanh(z), and z = softmax of cap t over each row. A z of -inf gets a probability of 0. t may be null. */
void softcap_softmax(float *z, float *t, int64_t rows, int64_t width, float cap, int64_t threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        float *z_r = z + row * width, *t_r = t ? t + row * width : z_r, most = -INFINITY, sum = 0;
        #pragma omp simd reduction(max : most)
        for (int64_t k = 0; k < width; k++) {
            float x = z_r[k], y = tanh_one(x);
            t_r[k] = y;
            x = x == -INFINITY ? -INFINITY : cap * y;
            z_r[k] = x;
            most = x > most ? x : most;
        }
        #pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < width; k++) {
            float scale, p = exp_parts(z_r[k] - most, &scale);
            p = z_r[k] == -INFINITY ? 0.0f : FMA(scale, p, scale);
            z_r[k] = p;
            sum += p;
        }
        float share = 1.0f / sum;
        #pragma omp simd
        for (int64_t k = 0; k < width; k++) z_r[k] *= share;
    }
}

/* d, the gradient of the probabilities p, becomes the gradient of the tanh's argument divided by cap. */
void softcap_softmax_backward(float *d, const float *p, const float *t, int64_t rows, int64_t width, int64_t threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const float *p_r = p + row * width, *t_r = t + row * width;
        float *d_r = d + row * width, sum = 0;
        #pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < width; k++) sum += d_r[k] * p_r[k];
        #pragma omp simd
        for (int64_t k = 0; k < width; k++) d_r[k] = p_r[k] * (d_r[k] - sum) * (1.0f - t_r[k] * t_r[k]);
    }
}
