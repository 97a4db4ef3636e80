/* The type in which a kernel's activations and their gradients are stored: float32 or, in the build with -DBFLOAT16,
   bfloat16, the upper half of a float32. Small weights, statistics and all arithmetic are float32 in both builds. */

#include <stdint.h>
#include <string.h>

#ifdef BFLOAT16
typedef uint16_t stored;

static inline float wide(stored x)
{
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

/* To the nearest, and to the even one of two that are equally near. Integers round denormals too, whether or not the CPU
   takes them for zero. NaN, whose upper half says so after any arithmetic, is cut off: rounded up, it could become a number. */
static inline stored narrow(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t up = x != x ? 0 : 0x7fffu + (bits >> 16 & 1u);
    return (stored)((bits + up) >> 16);
}

/* n numbers as floats, in `room`. */
static inline const float *floats(const stored *x, float *room, int64_t n)
{
    #pragma omp simd
    for (int64_t k = 0; k < n; k++) room[k] = wide(x[k]);
    return room;
}
#else
typedef float stored;

static inline float wide(stored x) { return x; }

static inline stored narrow(float x) { return x; }

static inline const float *floats(const stored *x, float *room, int64_t n)
{
    (void)room, (void)n;
    return x;
}
#endif
