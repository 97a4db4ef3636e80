/* activation(gate) * up and its gradient, in one pass each. Arrays, as in stored.h, are dense, with `count` elements;
   threads share the elements. The activation is x sigmoid(slope (x + cubic x^3)): SiLU, or the tanh form of GELU. The backward
   pass recomputes it, which is cheaper than to store and load it. */

#include <stdint.h>

#include "real.h"
#include "stored.h"

#define GELU 1.5957691216057308f, 0.044715f /* slope 2 sqrt(2 / pi) */
#define SILU 1.0f, 0.0f
#define FEW 16384 /* with fewer elements, one thread is faster */

static inline __attribute__((always_inline)) float activation(float x, float slope, float cubic)
{
    return x * sigmoid(slope * FMA(cubic * x * x, x, x));
}

/* The activation, and its derivative s + x s (1 - s) slope (1 + 3 cubic x^2). 1 - s is computed without cancellation.
   In s and the derivative, x is clamped to +-100 so that its cube stays finite. */
static inline __attribute__((always_inline)) float both(float x, float slope, float cubic, float *derivative)
{
    float n = x < -100.0f ? -100.0f : x > 100.0f ? 100.0f : x;
    float square = cubic * n * n, scale, p = exp_parts(-slope * FMA(square, n, n), &scale);
    float e = FMA(scale, p, scale), s = 1.0f / (1.0f + e);
    *derivative = FMA(n * s * (e * s) * slope, FMA(3.0f, square, 1.0f), s);
    return x * s;
}

#define EACH \
    _Pragma("omp parallel for simd schedule(static) num_threads(count < FEW ? 1 : threads)") \
    for (int64_t k = 0; k < count; k++)

void glu(const stored *gate, const stored *up, stored *y, int64_t count, int64_t gelu, int64_t threads)
{
    if (gelu)
        EACH y[k] = narrow(activation(wide(gate[k]), GELU) * wide(up[k]));
    else
        EACH y[k] = narrow(activation(wide(gate[k]), SILU) * wide(up[k]));
}

static inline __attribute__((always_inline)) void back(const stored *dy, const stored *gate, const stored *up,
                                                       stored *dgate, stored *dup, int64_t k, float slope, float cubic)
{
    float derivative, a = both(wide(gate[k]), slope, cubic, &derivative), d = wide(dy[k]);
    dgate[k] = narrow(d * wide(up[k]) * derivative);
    dup[k] = narrow(d * a);
}

void glu_backward(const stored *dy, const stored *gate, const stored *up, stored *dgate, stored *dup, int64_t count,
                  int64_t gelu, int64_t threads)
{
    if (gelu)
        EACH back(dy, gate, up, dgate, dup, k, GELU);
    else
        EACH back(dy, gate, up, dgate, dup, k, SILU);
}
