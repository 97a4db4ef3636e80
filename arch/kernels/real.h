/* Functions of one float32, in forms that a compiler can vectorise. */

#include <stdint.h>
#include <string.h>

#if defined(__FMA__) || defined(__aarch64__)
#define FMA(x, y, z) __builtin_fmaf(x, y, z)
#else
#define FMA(x, y, z) ((x) * (y) + (z))
#endif

/* exp(x) = scale (1 + p), with p accurate to its last bits (Cephes' expf: x = n log 2 + f). x is clamped to +-87. */
static inline float exp_parts(float x, float *scale)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 87.0f ? 87.0f : x;
    float shifted = FMA(x, 1.44269504088896341f, 12582912.0f), n = shifted - 12582912.0f; /* n is in the low bits */
    float f = FMA(n, 2.12194440e-4f, FMA(n, -0.693359375f, x));
    float p = FMA(f, 1.9875691500e-4f, 1.3981999507e-3f);
    p = FMA(f, p, 8.3334519073e-3f);
    p = FMA(f, p, 4.1665795894e-2f);
    p = FMA(f, p, 1.6666665459e-1f);
    p = FMA(f, p, 5.0000001201e-1f);
    uint32_t bits;
    memcpy(&bits, &shifted, 4);
    bits = (bits + 127u) << 23;
    memcpy(scale, &bits, 4);
    return FMA(f * f, p, f);
}

static inline float sigmoid(float x)
{
    float scale, p = exp_parts(-x, &scale);
    return 1.0f / (1.0f + FMA(scale, p, scale));
}

/* tanh(x) = (e - 1) / (e + 1) with e = exp(2 x). e - 1 is computed without cancellation, which matters for x near 0.
   Beyond +-43.5 the result is +-1. */
static inline float tanh_one(float x)
{
    float scale, p = exp_parts(2.0f * x, &scale), less = FMA(scale, p, scale - 1.0f);
    return less / (less + 2.0f);
}

/* a = exp(log_a). rest = 1 - a^2 = -(a - 1)(a + 1), where a - 1 is computed without cancellation, for a near 1. */
static inline float decay(float log_a, float *rest)
{
    float scale, p = exp_parts(log_a, &scale), less = FMA(scale, p, scale - 1.0f);
    *rest = -less * (2.0f + less);
    return FMA(scale, p, scale);
}
