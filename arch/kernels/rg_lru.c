/* The gated recurrence of the RG-LRU and its gradient, in one pass each, float32:

       h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t u_t,   a_t = exp(slope * r_t),   r, i = sigmoid(rho), sigmoid(iota);
       at the first token of a document (reset), a_t = 0 and the square root is 1.

   Arrays are dense: rho, iota, u, h, g and the gradients drho, diota, du (rows, tokens, width); slope (width), at most
   0; reset (rows, tokens); h0, dh0 and dslope (rows, width). dslope is in double, and the caller sums it over rows. The
   backward pass recomputes gates and decays, which is cheaper than to store and load them. Tiles, threads and bits are
   as in linear_scan.c. */

#include <math.h>
#include <stdint.h>

#include "real.h"

#define TILE 64

static inline void forward(const float *rho, const float *iota, const float *u, const float *slope,
                           const uint8_t *reset, const float *h0, float *h, int64_t tokens, int64_t width, int64_t n)
{
    float carry[TILE];
    for (int64_t k = 0; k < n; k++) carry[k] = h0[k];
    for (int64_t t = 0; t < tokens; t++, rho += width, iota += width, u += width, h += width) {
        if (reset[t]) {
            #pragma omp simd
            for (int64_t k = 0; k < n; k++) h[k] = carry[k] = sigmoid(iota[k]) * u[k];
        } else {
            #pragma omp simd
            for (int64_t k = 0; k < n; k++) {
                float rest, a = decay(slope[k] * sigmoid(rho[k]), &rest);
                h[k] = carry[k] = FMA(a, carry[k], sqrtf(rest) * (sigmoid(iota[k]) * u[k]));
            }
        }
    }
}

/* The gradients of all inputs from s_t = g_t + a_{t+1} s_{t+1}. The square root's derivative is capped at 1000. */
static inline void backward(const float *g, const float *rho, const float *iota, const float *u, const float *slope,
                            const uint8_t *reset, const float *h0, const float *h, float *drho, float *diota, float *du,
                            double *dslope, float *dh0, int64_t tokens, int64_t width, int64_t n)
{
    float carry[TILE];
    double total[TILE];
    for (int64_t k = 0; k < n; k++) carry[k] = 0, total[k] = 0;
    for (int64_t t = tokens - 1; t >= 0; t--) {
        int64_t at = t * width;
        const float *before = t ? h + at - width : h0;
        if (reset[t]) {
            #pragma omp simd
            for (int64_t k = 0; k < n; k++) {
                float s = g[at + k] + carry[k], i = sigmoid(iota[at + k]);
                drho[at + k] = carry[k] = 0;
                diota[at + k] = s * u[at + k] * i * (1.0f - i);
                du[at + k] = s * i;
            }
        } else {
            #pragma omp simd
            for (int64_t k = 0; k < n; k++) {
                float s = g[at + k] + carry[k], i = sigmoid(iota[at + k]), r = sigmoid(rho[at + k]);
                float rest, a = decay(slope[k] * r, &rest), gain = sqrtf(rest), steep = 0.5f / gain;
                steep = steep > 1000.0f ? 1000.0f : steep;
                float dlog_a = a * (s * before[k] - 2.0f * a * steep * s * i * u[at + k]);
                carry[k] = a * s;
                drho[at + k] = dlog_a * slope[k] * r * (1.0f - r);
                diota[at + k] = s * gain * u[at + k] * i * (1.0f - i);
                du[at + k] = s * gain * i;
                total[k] += dlog_a * r;
            }
        }
    }
    for (int64_t k = 0; k < n; k++) dh0[k] = carry[k], dslope[k] = total[k];
}

void rg_lru(const float *rho, const float *iota, const float *u, const float *slope, const uint8_t *reset,
            const float *h0, float *h, int64_t rows, int64_t tokens, int64_t width, int64_t threads)
{
    int64_t tiles = (width + TILE - 1) / TILE;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t piece = 0; piece < rows * tiles; piece++) {
        int64_t row = piece / tiles, low = piece % tiles * TILE, at = row * tokens * width + low, n = width - low;
        const uint8_t *begins = reset + row * tokens;
        const float *start = h0 + row * width + low;
        if (n >= TILE) /* a constant n, so that the compiler keeps the carry in registers */
            forward(rho + at, iota + at, u + at, slope + low, begins, start, h + at, tokens, width, TILE);
        else
            forward(rho + at, iota + at, u + at, slope + low, begins, start, h + at, tokens, width, n);
    }
}

void rg_lru_backward(const float *g, const float *rho, const float *iota, const float *u, const float *slope,
                     const uint8_t *reset, const float *h0, const float *h, float *drho, float *diota, float *du,
                     double *dslope, float *dh0, int64_t rows, int64_t tokens, int64_t width, int64_t threads)
{
    int64_t tiles = (width + TILE - 1) / TILE;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t piece = 0; piece < rows * tiles; piece++) {
        int64_t row = piece / tiles, low = piece % tiles * TILE, at = row * tokens * width + low, n = width - low;
        int64_t start = row * width + low;
        const uint8_t *begins = reset + row * tokens;
        if (n >= TILE)
            backward(g + at, rho + at, iota + at, u + at, slope + low, begins, h0 + start, h + at, drho + at,
                     diota + at, du + at, dslope + start, dh0 + start, tokens, width, TILE);
        else
            backward(g + at, rho + at, iota + at, u + at, slope + low, begins, h0 + start, h + at, drho + at,
                     diota + at, du + at, dslope + start, dh0 + start, tokens, width, n);
    }
}
