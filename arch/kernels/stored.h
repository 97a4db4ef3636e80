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
   takes them for zero. NaN stays NaN: without a case of its own, rounding up could make it an infinity. */
static inline stored narrow(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t up = bits + 0x7fffu + (bits >> 16 & 1u);
    return (stored)(((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : up) >> 16);
}
#else
typedef float stored;

static inline float wide(stored x) { return x; }

static inline stored narrow(float x) { return x; }
#endif
