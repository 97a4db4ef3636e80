/* Operations on a few rows of float32: products with a matrix, weighted sums, RMSNorm. Weights, keys and values are as in
   stored.h, which comes first; sums are float32. A function runs in one thread. Functions marked "Shared" are called by all threads of an
   OpenMP region, which split the work. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define LANES 16
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define LANES 8
#elif defined(__aarch64__)
#include <arm_neon.h>
#define LANES 4
#else
#define LANES 4
#endif
#define BLOCK 4 /* rows and columns of a product that stay in registers */
#define WIDE 32 /* columns per piece of work: whole cache lines, which no other thread writes */

typedef float vec __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *x)
{
    vec v;
    memcpy(&v, x, sizeof v);
    return v;
}

/* LANES weights, widened. */
static inline vec load_stored(const stored *x)
{
#ifdef BFLOAT16
    typedef uint16_t half_vec __attribute__((vector_size(2 * LANES)));
    typedef uint32_t bits_vec __attribute__((vector_size(4 * LANES)));
    half_vec v;
    memcpy(&v, x, sizeof v);
    return (vec)(__builtin_convertvector(v, bits_vec) << 16);
#else
    return load(x);
#endif
}

static inline vec fma_vec(vec x, vec y, vec z)
{
#if LANES == 16
    return _mm512_fmadd_ps(x, y, z);
#elif LANES == 8
    return _mm256_fmadd_ps(x, y, z);
#elif defined(__aarch64__)
    return vfmaq_f32(z, x, y);
#else
    return x * y + z;
#endif
}

static inline float total(vec v)
{
    float part[LANES];
    memcpy(part, &v, sizeof v);
    for (int64_t width = LANES / 2; width; width /= 2)
        for (int64_t k = 0; k < width; k++) part[k] += part[k + width];
    return part[0];
}

/* The totals of four vectors: with AVX-512, in a third of the steps of four separate totals. */
static inline void totals(const vec *v, float *sum)
{
#if LANES == 16
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    __m512 abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    _mm_storeu_ps(sum, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#else
    for (int n = 0; n < 4; n++) sum[n] = total(v[n]);
#endif
}

/* A linear map: weight (outputs, inputs), bias (outputs) or null. */
typedef struct {
    const stored *weight, *bias;
} Map;

/* The map of the outputs from number n on. */
static inline Map columns_from(Map map, int64_t n, int64_t inputs)
{
    return (Map){map.weight + n * inputs, map.bias ? map.bias + n : 0};
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* y[m, n] = x[m] . w[n] + bias[n] for M rows and N outputs of a map, both compile-time constants of at most BLOCK. */
static inline __attribute__((always_inline)) void block(const float *x, Map map, float *y, int64_t inputs, int64_t stride,
                                                        const int M, const int N)
{
    const stored *w = map.weight;
    vec sum[BLOCK][BLOCK];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) sum[m][n] = (vec){0};
    int64_t k = 0;
    for (; k + LANES <= inputs; k += LANES) {
        vec column[BLOCK];
        for (int n = 0; n < N; n++) {
            __builtin_prefetch(w + (N + n) * inputs + k); /* the next columns: w is read from memory once per token */
            column[n] = load_stored(w + n * inputs + k);
        }
        for (int m = 0; m < M; m++) {
            vec row = load(x + m * inputs + k);
            for (int n = 0; n < N; n++) sum[m][n] = fma_vec(row, column[n], sum[m][n]);
        }
    }
    for (int m = 0; m < M; m++) {
        float s[BLOCK];
        if (N == BLOCK)
            totals(sum[m], s);
        else
            for (int n = 0; n < N; n++) s[n] = total(sum[m][n]);
        for (int64_t j = k; j < inputs; j++)
            for (int n = 0; n < N; n++) s[n] += x[m * inputs + j] * wide(w[n * inputs + j]);
        for (int n = 0; n < N; n++) y[m * stride + n] = map.bias ? s[n] + wide(map.bias[n]) : s[n];
    }
}

/* y = map(x): y (rows, columns) with row stride `stride`, x (rows, inputs). */
static void product(const float *x, Map map, float *y, int64_t rows, int64_t inputs, int64_t columns, int64_t stride)
{
    int64_t n = 0;
    for (; n + BLOCK <= columns; n += BLOCK) {
        Map four = columns_from(map, n, inputs);
        int64_t m = 0;
        for (; m + 4 <= rows; m += 4) block(x + m * inputs, four, y + m * stride + n, inputs, stride, 4, BLOCK);
        if (rows - m == 3) block(x + m * inputs, four, y + m * stride + n, inputs, stride, 3, BLOCK);
        if (rows - m == 2) block(x + m * inputs, four, y + m * stride + n, inputs, stride, 2, BLOCK);
        if (rows - m == 1) block(x + m * inputs, four, y + m * stride + n, inputs, stride, 1, BLOCK);
    }
    for (; n < columns; n++)
        for (int64_t m = 0; m < rows; m++)
            block(x + m * inputs, columns_from(map, n, inputs), y + m * stride + n, inputs, stride, 1, 1);
}

/* Shared: y = map(x) + onto, y (rows, columns), without a barrier at the end. onto may be null. */
static void linear_shared(const float *x, Map map, const float *onto, float *y, int64_t rows, int64_t inputs,
                          int64_t columns)
{
    #pragma omp for schedule(static) nowait
    for (int64_t n = 0; n < columns; n += WIDE) {
        int64_t size = least(WIDE, columns - n);
        product(x, columns_from(map, n, inputs), y + n, rows, inputs, size, columns);
        for (int64_t m = 0; onto && m < rows; m++)
            for (int64_t k = m * columns + n; k < m * columns + n + size; k++) y[k] += onto[k];
    }
}

/* y[m] += sum over k of p[m, k] v[k] for a constant M <= BLOCK of rows; v (count, columns), row stride of p `each`. */
static inline __attribute__((always_inline)) void weights(const float *p, const stored *v, float *y, int64_t each,
                                                          int64_t stride, int64_t count, int64_t columns, const int M)
{
    int64_t c = 0;
    for (; c + 4 * LANES <= columns; c += 4 * LANES) {
        vec sum[BLOCK][4];
        for (int m = 0; m < M; m++)
            for (int j = 0; j < 4; j++) sum[m][j] = load(y + m * stride + c + j * LANES);
        for (int64_t k = 0; k < count; k++) {
            vec row[4];
            for (int j = 0; j < 4; j++) row[j] = load_stored(v + k * columns + c + j * LANES);
            for (int m = 0; m < M; m++) {
                vec weight = p[m * each + k] - (vec){0};
                for (int j = 0; j < 4; j++) sum[m][j] = fma_vec(weight, row[j], sum[m][j]);
            }
        }
        for (int m = 0; m < M; m++) memcpy(y + m * stride + c, sum[m], sizeof sum[m]);
    }
    for (int m = 0; m < M && c < columns; m++)
        for (int64_t k = 0; k < count; k++)
            for (int64_t r = c; r < columns; r++) y[m * stride + r] += p[m * each + k] * wide(v[k * columns + r]);
}

/* y += p v: y (rows, columns) with row stride `stride`, p (rows, count) with row stride `each`, v (count, columns). */
static void weighted(const float *p, const stored *v, float *y, int64_t rows, int64_t each, int64_t stride,
                     int64_t count, int64_t columns)
{
    int64_t m = 0;
    for (; m + 4 <= rows; m += 4) weights(p + m * each, v, y + m * stride, each, stride, count, columns, 4);
    if (rows - m == 3) weights(p + m * each, v, y + m * stride, each, stride, count, columns, 3);
    if (rows - m == 2) weights(p + m * each, v, y + m * stride, each, stride, count, columns, 2);
    if (rows - m == 1) weights(p + m * each, v, y + m * stride, each, stride, count, columns, 1);
}

/* y = x / sqrt(mean(x^2) + eps) (1 + w); y may be x. */
static void normalised(const float *x, const stored *w, float *y, int64_t width, float eps)
{
    vec sum = {0};
    int64_t k = 0;
    for (; k + LANES <= width; k += LANES) sum = fma_vec(load(x + k), load(x + k), sum);
    float squares = total(sum);
    for (; k < width; k++) squares += x[k] * x[k];
    float r = 1.0f / sqrtf(squares / (float)width + eps);
    for (k = 0; k < width; k++) y[k] = x[k] * r * (1.0f + wide(w[k]));
}

/* Shared: the input of a part from the residual stream x (rows, width): its norm, written to z, or x without a norm. */
static const float *entering(const float *x, const stored *w, float *z, int64_t rows, int64_t width, float eps)
{
    if (!w) return x;
    #pragma omp for schedule(static)
    for (int64_t b = 0; b < rows; b++) normalised(x + b * width, w, z + b * width, width, eps);
    return z;
}

/* Shared: y = x + norm(y), without a barrier at the end. Without a norm: nothing, because `linear_shared` added x. */
static void leaving(const float *x, const stored *w, float *y, int64_t rows, int64_t width, float eps)
{
    if (!w) return;
    #pragma omp barrier
    #pragma omp for schedule(static) nowait
    for (int64_t b = 0; b < rows * width; b += width) {
        normalised(y + b, w, y + b, width, eps);
        for (int64_t k = b; x && k < b + width; k++) y[k] += x[k];
    }
}
