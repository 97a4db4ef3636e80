/* The gated recurrence of the RG-LRU and its gradient, in one pass each:

       h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t u_t,   a_t = exp(slope * r_t),   r, i = sigmoid(rho), sigmoid(iota);
       at the first token of a document (reset), a_t = 0 and the square root is 1.

   Arrays are dense: rho, iota, u, h, g and the gradients drho, diota, du (rows, tokens, width), as in stored.h; slope
   (width), at most 0; reset (rows, tokens); h0, last (the state after the last token), their gradients dh0 and g_last, and
   dslope (rows, width). States and gates are float32 from token to token, and only what is written is narrowed. dslope is
   in double, and the caller sums it over rows. The backward pass recomputes gates and decays, which is cheaper than to
   store and load them. Tiles, threads and bits are as in linear_scan.c. */

#include <math.h>
#include <stdint.h>

#include "real.h"
#include "stored.h"

#define TILE 64

static inline void forward(const stored *rho, const stored *iota, const stored *u, const float *slope,
                           const uint8_t *reset, const float *h0, stored *h, float *last, int64_t tokens, int64_t width,
                           int64_t n)
{
    float carry[TILE];
    for (int64_t k = 0; k < n; k++) carry[k] = h0[k];
    for (int64_t t = 0; t < tokens; t++, rho += width, iota += width, u += width, h += width) {
        if (reset[t]) {
            #pragma omp simd
            for (int64_t k = 0; k < n; k++) h[k] = narrow(carry[k] = sigmoid(wide(iota[k])) * wide(u[k]));
        } else {
            #pragma omp simd
            for (int64_t k = 0; k < n; k++) {
                float rest, a = decay(slope[k] * sigmoid(wide(rho[k])), &rest);
                carry[k] = FMA(a, carry[k], sqrtf(rest) * (sigmoid(wide(iota[k])) * wide(u[k])));
                h[k] = narrow(carry[k]);
            }
        }
    }
    for (int64_t k = 0; k < n; k++) last[k] = carry[k];
}

/* The gradients of all inputs from s_t = g_t + a_{t+1} s_{t+1}. The square root's derivative is capped at 1000. */
static inline void backward(const stored *g, const float *g_last, const stored *rho, const stored *iota, const stored *u,
                            const float *slope, const uint8_t *reset, const float *h0, const stored *h, stored *drho,
                            stored *diota, stored *du, double *dslope, float *dh0, int64_t tokens, int64_t width,
                            int64_t n)
{
    float carry[TILE], room[TILE];
    double total[TILE];
    for (int64_t k = 0; k < n; k++) carry[k] = g_last[k], total[k] = 0;
    for (int64_t t = tokens - 1; t >= 0; t--) {
        int64_t at = t * width;
        const float *before = t ? floats(h + at - width, room, n) : h0;
        if (reset[t]) {
            #pragma omp simd
            for (int64_t k = 0; k < n; k++) {
                float s = wide(g[at + k]) + carry[k], i = sigmoid(wide(iota[at + k]));
                drho[at + k] = 0;
                carry[k] = 0;
                diota[at + k] = narrow(s * wide(u[at + k]) * i * (1.0f - i));
                du[at + k] = narrow(s * i);
            }
        } else {
            #pragma omp simd
            for (int64_t k = 0; k < n; k++) {
                float s = wide(g[at + k]) + carry[k], i = sigmoid(wide(iota[at + k])), r = sigmoid(wide(rho[at + k]));
                float u_k = wide(u[at + k]);
                float rest, a = decay(slope[k] * r, &rest), gain = sqrtf(rest);
                float steep = rest > 0.0f ? 0.5f / gain : 1000.0f; /* a = 1 makes rest -0, and the quotient -infinity */
                steep = steep > 1000.0f ? 1000.0f : steep;
                float dlog_a = a * (s * before[k] - 2.0f * a * steep * s * i * u_k);
                carry[k] = a * s;
                drho[at + k] = narrow(dlog_a * slope[k] * r * (1.0f - r));
                diota[at + k] = narrow(s * gain * u_k * i * (1.0f - i));
                du[at + k] = narrow(s * gain * i);
                total[k] += dlog_a * r;
            }
        }
    }
    for (int64_t k = 0; k < n; k++) dh0[k] = carry[k], dslope[k] = total[k];
}

void rg_lru(const stored *rho, const stored *iota, const stored *u, const float *slope, const uint8_t *reset,
            const float *h0, stored *h, float *last, int64_t rows, int64_t tokens, int64_t width, int64_t threads)
{
    int64_t tiles = (width + TILE - 1) / TILE;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t piece = 0; piece < rows * tiles; piece++) {
        int64_t row = piece / tiles, low = piece % tiles * TILE, at = row * tokens * width + low, n = width - low;
        const uint8_t *begins = reset + row * tokens;
        int64_t start = row * width + low;
        if (n >= TILE) /* a constant n, so that the compiler keeps the carry in registers */
            forward(rho + at, iota + at, u + at, slope + low, begins, h0 + start, h + at, last + start, tokens, width, TILE);
        else
            forward(rho + at, iota + at, u + at, slope + low, begins, h0 + start, h + at, last + start, tokens, width, n);
    }
}

void rg_lru_backward(const stored *g, const float *g_last, const stored *rho, const stored *iota, const stored *u,
                     const float *slope, const uint8_t *reset, const float *h0, const stored *h, stored *drho,
                     stored *diota, stored *du, double *dslope, float *dh0, int64_t rows, int64_t tokens, int64_t width,
                     int64_t threads)
{
    int64_t tiles = (width + TILE - 1) / TILE;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t piece = 0; piece < rows * tiles; piece++) {
        int64_t row = piece / tiles, low = piece % tiles * TILE, at = row * tokens * width + low, n = width - low;
        int64_t start = row * width + low;
        const uint8_t *begins = reset + row * tokens;
        if (n >= TILE)
            backward(g + at, g_last + start, rho + at, iota + at, u + at, slope + low, begins, h0 + start, h + at,
                     drho + at, diota + at, du + at, dslope + start, dh0 + start, tokens, width, TILE);
        else
            backward(g + at, g_last + start, rho + at, iota + at, u + at, slope + low, begins, h0 + start, h + at,
                     drho + at, diota + at, du + at, dslope + start, dh0 + start, tokens, width, n);
    }
}
