/* The causal depthwise convolution and its gradient, in one pass each:

       y_t = bias + sum over j < taps of w_(taps-1-j) x_(t-j), without taps that reach before the token's document

   `tail` has the `taps` - 1 inputs before the first token. Arrays are dense: x, y (rows, tokens, width), tail (rows,
   taps - 1, width), these as in stored.h; pos (rows, tokens), w (taps, width), bias (width). A thread
   handles pieces of TILE channels, as in linear_scan.c, so no result depends on the number of threads. */

#include <stdint.h>

#include "real.h"
#include "stored.h"

#define TILE 64
#define MOST 8   /* taps at most */
#define SPAN 128 /* tokens over which a tap's gradient is summed in float32 */

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The input at token t >= -(taps - 1). */
static inline const stored *input(const stored *x, const stored *tail, int64_t t, int64_t taps, int64_t width)
{
    return t < 0 ? tail + (t + taps - 1) * width : x + t * width;
}

static inline __attribute__((always_inline)) void forward(const stored *x, const stored *tail, const int64_t *pos,
                                                          const float *w, const float *bias, stored *y, int64_t tokens,
                                                          int64_t taps, int64_t width, int64_t n)
{
    for (int64_t t = 0; t < tokens; t++) {
        float sum[TILE];
        for (int64_t k = 0; k < n; k++) sum[k] = bias[k];
        for (int64_t j = 0; j < taps; j++) {
            if (j > pos[t]) break;
            const stored *x_j = input(x, tail, t - j, taps, width);
            const float *w_j = w + (taps - 1 - j) * width;
            #pragma omp simd
            for (int64_t k = 0; k < n; k++) sum[k] = FMA(w_j[k], wide(x_j[k]), sum[k]);
        }
        for (int64_t k = 0; k < n; k++) y[t * width + k] = narrow(sum[k]);
    }
}

/* dw (taps + 1, width) in double, the last row for the bias; the caller sums it over rows. */
static inline __attribute__((always_inline)) void backward(const stored *dy, const stored *x, const stored *tail,
                                                           const int64_t *pos, const float *w, stored *dx, stored *dtail,
                                                           double *dw, int64_t tokens, int64_t taps, int64_t width,
                                                           int64_t n)
{
    float part[MOST + 1][TILE];
    for (int64_t j = 0; j <= taps; j++)
        for (int64_t k = 0; k < n; k++) dw[j * width + k] = 0;
    for (int64_t t = 1 - taps; t < tokens; t++) {
        float sum[TILE];
        for (int64_t k = 0; k < n; k++) sum[k] = 0;
        for (int64_t j = t < 0 ? -t : 0; j < taps && t + j < tokens; j++) {
            if (pos[t + j] < j) continue;
            const stored *dy_j = dy + (t + j) * width;
            const float *w_j = w + (taps - 1 - j) * width;
            #pragma omp simd
            for (int64_t k = 0; k < n; k++) sum[k] = FMA(w_j[k], wide(dy_j[k]), sum[k]);
        }
        stored *to = t < 0 ? dtail + (t + taps - 1) * width : dx + t * width;
        for (int64_t k = 0; k < n; k++) to[k] = narrow(sum[k]);
    }
    for (int64_t start = 0; start < tokens; start += SPAN) {
        for (int64_t j = 0; j <= taps; j++)
            for (int64_t k = 0; k < n; k++) part[j][k] = 0;
        for (int64_t t = start; t < least(start + SPAN, tokens); t++) {
            const stored *dy_t = dy + t * width;
            for (int64_t j = 0; j < taps; j++) {
                if (j > pos[t]) break;
                const stored *x_j = input(x, tail, t - j, taps, width);
                float *part_j = part[taps - 1 - j];
                #pragma omp simd
                for (int64_t k = 0; k < n; k++) part_j[k] = FMA(wide(dy_t[k]), wide(x_j[k]), part_j[k]);
            }
            #pragma omp simd
            for (int64_t k = 0; k < n; k++) part[taps][k] += wide(dy_t[k]);
        }
        for (int64_t j = 0; j <= taps; j++)
            for (int64_t k = 0; k < n; k++) dw[j * width + k] += part[j][k];
    }
}

void convolution(const stored *x, const stored *tail, const int64_t *pos, const float *w, const float *bias, stored *y,
                 int64_t rows, int64_t tokens, int64_t width, int64_t taps, int64_t threads)
{
    int64_t tiles = (width + TILE - 1) / TILE;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t piece = 0; piece < rows * tiles; piece++) {
        int64_t row = piece / tiles, low = piece % tiles * TILE, n = least(TILE, width - low);
        const stored *x_r = x + row * tokens * width + low, *tail_r = tail + row * (taps - 1) * width + low;
        stored *y_r = y + row * tokens * width + low;
        if (n == TILE && taps == 4) /* constant taps and n, so that the sum stays in registers */
            forward(x_r, tail_r, pos + row * tokens, w + low, bias + low, y_r, tokens, 4, width, TILE);
        else
            forward(x_r, tail_r, pos + row * tokens, w + low, bias + low, y_r, tokens, taps, width, n);
    }
}

void convolution_backward(const stored *dy, const stored *x, const stored *tail, const int64_t *pos, const float *w,
                          stored *dx, stored *dtail, double *dw, int64_t rows, int64_t tokens, int64_t width,
                          int64_t taps, int64_t threads)
{
    int64_t tiles = (width + TILE - 1) / TILE;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t piece = 0; piece < rows * tiles; piece++) {
        int64_t row = piece / tiles, low = piece % tiles * TILE, n = least(TILE, width - low);
        int64_t at = row * tokens * width + low, end = row * (taps - 1) * width + low;
        double *dw_r = dw + row * (taps + 1) * width + low;
        if (n == TILE && taps == 4)
            backward(dy + at, x + at, tail + end, pos + row * tokens, w + low, dx + at, dtail + end, dw_r, tokens, 4,
                     width, TILE);
        else
            backward(dy + at, x + at, tail + end, pos + row * tokens, w + low, dx + at, dtail + end, dw_r, tokens, taps,
                     width, n);
    }
}
