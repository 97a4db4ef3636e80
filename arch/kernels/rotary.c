/* Rotary positions: (x, y) -> (x cos - y sin, y cos + x sin) for pairs of channels, in one pass. x and y (rows, tokens,
   heads, channels), as in stored.h, cos (angle rows, tokens, channels) and sin (angle rows, tokens, pairs) are dense; there
   is one angle row, for all rows, or one per row. Channel i < pairs and channel pairs + i form a pair; further channels are
   multiplied by their cosine. sign: 1, or -1 to turn back. */

#include <stdint.h>

#include "real.h"
#include "stored.h"

#define FEW 16384 /* with fewer elements, one thread is faster */

void rotary(const stored *x, const float *cos, const float *sin, stored *y, int64_t rows, int64_t tokens, int64_t heads,
            int64_t channels, int64_t pairs, int64_t angle_rows, float sign, int64_t threads)
{
    int64_t width = heads * channels;
    #pragma omp parallel for schedule(static) num_threads(rows * tokens * width < FEW ? 1 : threads)
    for (int64_t at = 0; at < rows * tokens; at++) {
        int64_t angle = angle_rows == 1 ? at % tokens : at;
        const float *cos_t = cos + angle * channels, *sin_t = sin + angle * pairs;
        for (int64_t head = 0; head < heads; head++) {
            const stored *x_h = x + at * width + head * channels;
            stored *y_h = y + at * width + head * channels;
            #pragma omp simd
            for (int64_t k = 0; k < pairs; k++) {
                float low = wide(x_h[k]), high = wide(x_h[pairs + k]);
                y_h[k] = narrow(FMA(-sign * high, sin_t[k], low * cos_t[k]));
                y_h[pairs + k] = narrow(FMA(sign * low, sin_t[k], high * cos_t[pairs + k]));
            }
            for (int64_t k = 2 * pairs; k < channels; k++) y_h[k] = narrow(wide(x_h[k]) * cos_t[k]);
        }
    }
}
