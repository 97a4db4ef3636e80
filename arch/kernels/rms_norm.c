/* RMSNorm and its gradient. x, y and their gradients (rows, width), as in stored.h, and w (width) are dense; threads share
   the rows. y = x r (1 + w) with r = (mean(x^2) + eps)^-1/2, one number per row, which the gradient needs. */

#include <math.h>
#include <stdint.h>

#include "real.h"
#include "stored.h"

void rms_norm(const stored *x, const float *w, stored *y, float *r, int64_t rows, int64_t width, float eps,
              int64_t threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const stored *x_r = x + row * width;
        stored *y_r = y + row * width;
        float squares = 0;
        #pragma omp simd reduction(+ : squares)
        for (int64_t k = 0; k < width; k++) squares += wide(x_r[k]) * wide(x_r[k]);
        float scale = r[row] = 1.0f / sqrtf(squares / (float)width + eps);
        #pragma omp simd
        for (int64_t k = 0; k < width; k++) y_r[k] = narrow(wide(x_r[k]) * scale * (1.0f + w[k]));
    }
}

/* dx = dy (1 + w) r - x r^3 mean(dy (1 + w) x); dw (blocks, width) = the sum of dy x r over each block of `block` rows;
   the caller adds up the blocks. Blocks do not depend on the number of threads, so neither do the bits of the sum. */
void rms_norm_backward(const stored *dy, const stored *x, const float *w, const float *r, stored *dx, float *dw,
                       int64_t rows, int64_t width, int64_t block, int64_t threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t start = 0; start < rows; start += block) {
        float *dw_b = dw + start / block * width;
        int64_t end = start + block < rows ? start + block : rows;
        for (int64_t k = 0; k < width; k++) dw_b[k] = 0;
        for (int64_t row = start; row < end; row++) {
            const stored *x_r = x + row * width, *dy_r = dy + row * width;
            stored *dx_r = dx + row * width;
            float scale = r[row], pull = 0;
            #pragma omp simd reduction(+ : pull)
            for (int64_t k = 0; k < width; k++) {
                float both = wide(dy_r[k]) * wide(x_r[k]);
                dw_b[k] = FMA(both, scale, dw_b[k]);
                pull = FMA(both, 1.0f + w[k], pull);
            }
            pull *= scale * scale * scale / (float)width;
            #pragma omp simd
            for (int64_t k = 0; k < width; k++)
                dx_r[k] = narrow(FMA(wide(dy_r[k]) * (1.0f + w[k]), scale, -pull * wide(x_r[k])));
        }
    }
}
