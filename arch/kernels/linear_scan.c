/* h_t = a_t h_{t-1} + b_t and its gradient, in one pass over memory each.

   Arrays are dense: a, b, h, g, da, db (rows, tokens, width), as in stored.h; h0, dh0 (rows, width), float32, as is what
   is carried from token to token. A thread walks through a row's
   tokens for TILE channels, whose carry stays in registers. Tiles do not depend on the number of threads, and a
   channel's arithmetic does not depend on its tile, so the bits of the result depend on neither. The build disables
   contraction; only FMA fuses a product with a sum. */

#include <stdint.h>

#include "real.h"
#include "stored.h"

#define TILE 64 /* channels per piece: four cache lines, which no other thread writes */
#define LINE (64 / (int64_t)sizeof(stored)) /* elements per cache line */
#define AHEAD 8 /* tokens to prefetch: hardware prefetchers do not follow a stride of a whole row */

static inline void forward(const stored *a, const stored *b, const float *h0, stored *h, int64_t tokens, int64_t width,
                           int64_t n)
{
    float carry[TILE];
    for (int64_t r = 0; r < n; r++) carry[r] = h0[r];
    for (int64_t t = 0; t < tokens; t++, a += width, b += width, h += width) {
        for (int64_t r = 0; r < n; r += LINE) {
            __builtin_prefetch(a + r + AHEAD * width);
            __builtin_prefetch(b + r + AHEAD * width);
            __builtin_prefetch(h + r + AHEAD * width, 1);
        }
        #pragma omp simd
        for (int64_t r = 0; r < n; r++) h[r] = narrow(carry[r] = FMA(wide(a[r]), carry[r], wide(b[r])));
    }
}

/* s_t = g_t + a_{t+1} s_{t+1} from the last token to the first; db = s, da_t = s_t h_{t-1}, dh0 = a_0 s_0. */
static inline void backward(const stored *g, const stored *a, const float *h0, const stored *h, stored *da, stored *db,
                            float *dh0, int64_t tokens, int64_t width, int64_t n)
{
    float carry[TILE], room[TILE];
    for (int64_t r = 0; r < n; r++) carry[r] = 0;
    for (int64_t t = tokens - 1; t >= 0; t--) {
        int64_t at = t * width;
        const stored *g_t = g + at, *a_t = a + at;
        const float *before = t ? floats(h + at - width, room, n) : h0;
        stored *da_t = da + at, *db_t = db + at;
        for (int64_t r = 0; r < n; r += LINE) {
            __builtin_prefetch(g_t + r - AHEAD * width);
            __builtin_prefetch(a_t + r - AHEAD * width);
            __builtin_prefetch(h + at + r - (AHEAD + 1) * width);
            __builtin_prefetch(da_t + r - AHEAD * width, 1);
            __builtin_prefetch(db_t + r - AHEAD * width, 1);
        }
        #pragma omp simd
        for (int64_t r = 0; r < n; r++) {
            float s = wide(g_t[r]) + carry[r];
            carry[r] = wide(a_t[r]) * s;
            db_t[r] = narrow(s);
            da_t[r] = narrow(s * before[r]);
        }
    }
    for (int64_t r = 0; r < n; r++) dh0[r] = carry[r];
}

void linear_scan(const stored *a, const stored *b, const float *h0, stored *h,
                 int64_t rows, int64_t tokens, int64_t width, int64_t threads)
{
    int64_t tiles = (width + TILE - 1) / TILE;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t piece = 0; piece < rows * tiles; piece++) {
        int64_t row = piece / tiles, low = piece % tiles * TILE, at = row * tokens * width + low, n = width - low;
        const float *start = h0 + row * width + low;
        if (n >= TILE) /* a constant n, so that the compiler keeps the carry in registers */
            forward(a + at, b + at, start, h + at, tokens, width, TILE);
        else
            forward(a + at, b + at, start, h + at, tokens, width, n);
    }
}

void linear_scan_backward(const stored *g, const stored *a, const float *h0, const stored *h, stored *da, stored *db,
                          float *dh0, int64_t rows, int64_t tokens, int64_t width, int64_t threads)
{
    int64_t tiles = (width + TILE - 1) / TILE;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t piece = 0; piece < rows * tiles; piece++) {
        int64_t row = piece / tiles, low = piece % tiles * TILE, at = row * tokens * width + low, n = width - low;
        int64_t start = row * width + low;
        if (n >= TILE)
            backward(g + at, a + at, h0 + start, h + at, da + at, db + at, dh0 + start, tokens, width, TILE);
        else
            backward(g + at, a + at, h0 + start, h + at, da + at, db + at, dh0 + start, tokens, width, n);
    }
}
