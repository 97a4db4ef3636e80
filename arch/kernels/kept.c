/* What is kept of softmax(z), float32: draws, or the largest entries. Arrays (rows, width) are dense; threads share the rows. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "real.h"

#define BLOCK 64    /* tokens whose sum is found by bisection; a draw then goes through one block */
#define SHIFT 19    /* a float's upper 13 bits, its size without a sign to 1/16, choose its bin */
#define BINS 4096
enum { TOP_K, COUNTS, SAMPLED };

static inline uint64_t mixed(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* Sort k ids below `width`, ascending, byte by byte. */
static void sort(int64_t *ids, int64_t *other, int64_t k, int64_t width)
{
    for (int shift = 0; shift < 64 && (width - 1) >> shift; shift += 8) {
        int64_t places[257] = {0};
        for (int64_t j = 0; j < k; j++) places[((ids[j] >> shift) & 255) + 1]++;
        for (int byte = 0; byte < 256; byte++) places[byte + 1] += places[byte];
        for (int64_t j = 0; j < k; j++) other[places[(ids[j] >> shift) & 255]++] = ids[j];
        memcpy(ids, other, (size_t)k * sizeof *ids);
    }
}

/* Bring the `wanted` smallest of x to its front (Hoare's quickselect); the values differ from each other. */
static void select_smallest(int64_t *x, int64_t count, int64_t wanted)
{
    for (int64_t low = 0, high = count - 1; low < high;) {
        int64_t pivot = x[(low + high) / 2], i = low, j = high;
        while (i <= j) {
            while (x[i] < pivot) i++;
            while (x[j] > pivot) j--;
            if (i <= j) {
                int64_t swapped = x[i];
                x[i++] = x[j], x[j--] = swapped;
            }
        }
        if (wanted - 1 <= j) high = j;
        else if (wanted - 1 >= i) low = i;
        else return;
    }
}

static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

/* ids[0..k) become k draws with replacement from the weights e, whose running sums at the end of each block are `sums`. */
static void draw(const float *e, const double *sums, int64_t width, uint64_t state, int64_t *ids, int64_t k)
{
    int64_t blocks = (width + BLOCK - 1) / BLOCK;
    for (int64_t j = 0; j < k; j++) {
        double wanted = (double)(mixed(state + (uint64_t)j) >> 11) * 0x1p-53 * sums[blocks - 1];
        int64_t low = 0, high = blocks - 1;
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (sums[middle] > wanted) high = middle; else low = middle + 1;
        }
        double reached = low ? sums[low - 1] : 0;
        int64_t end = (low + 1) * BLOCK < width ? (low + 1) * BLOCK : width, chosen = low * BLOCK;
        for (int64_t v = low * BLOCK; v < end; v++) { /* where rounding ends a block early, its last possible token */
            if (e[v] > 0) chosen = v;
            reached += e[v];
            if (reached > wanted) break;
        }
        ids[j] = chosen;
    }
}

/* ids[0..k) become the k largest of e (k <= width), ascending; of equals, those with the smaller ids. Every e is from 0 to 1. */
static void largest(const float *e, int64_t width, int64_t *ids, int64_t k, int32_t *bins, int64_t *spare)
{
    for (int64_t i = 0; i < BINS; i++) bins[i] = 0;
    for (int64_t v = 0; v < width; v++) bins[bits_of(e[v]) >> SHIFT]++;
    int64_t above = 0, last = BINS - 1;
    while (above + bins[last] < k) above += bins[last--];
    /* All of the bins above the last one, and of that one the largest: by value, then by id. */
    int64_t count = 0, found = 0;
    for (int64_t v = 0; v < width; v++) {
        int64_t bin = bits_of(e[v]) >> SHIFT;
        if (bin > last) ids[found++] = v;
        else if (bin == last) spare[count++] = (int64_t)(((uint64_t)(0x3FFFFFFFu - bits_of(e[v])) << 32) | (uint64_t)v);
    }
    select_smallest(spare, count, k - found);
    for (int64_t i = 0; found < k; i++) ids[found++] = spare[i] & 0xFFFFFFFF;
    sort(ids, spare, k, width);
}

/* z is overwritten. Of each row: k ids, ascending, and values (probabilities, or how often each was drawn), 0 and 0 where there
   are fewer; the probability of all other tokens; the entropy. state: where each row's draws begin. */
void kept(float *z, const int64_t *state, int64_t *ids, float *values, float *tail, float *entropy, int64_t rows, int64_t width,
          int64_t k, int64_t mode, int64_t threads)
{
    int64_t blocks = (width + BLOCK - 1) / BLOCK;
    #pragma omp parallel num_threads(threads)
    {
        double *sums = malloc((size_t)blocks * sizeof *sums);
        int32_t *bins = malloc(BINS * sizeof *bins);
        int64_t *spare = malloc((size_t)(width > k ? width : k) * sizeof *spare);
        #pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            float *e = z + row * width, *values_r = values + row * k, most = -INFINITY;
            int64_t *ids_r = ids + row * k, found = k;
            #pragma omp simd reduction(max : most)
            for (int64_t v = 0; v < width; v++) most = e[v] > most ? e[v] : most;
            double total = 0, mean = 0;
            for (int64_t block = 0; block < blocks; block++) {
                int64_t end = (block + 1) * BLOCK < width ? (block + 1) * BLOCK : width;
                float part = 0, part_mean = 0;
                #pragma omp simd reduction(+ : part, part_mean)
                for (int64_t v = block * BLOCK; v < end; v++) {
                    float x = e[v] - most, scale, p = exp_parts(x, &scale);
                    p = x < -87.0f ? 0.0f : FMA(scale, p, scale);
                    part_mean += p > 0 ? p * x : 0.0f;
                    part += p;
                    e[v] = p;
                }
                total += part, mean += part_mean;
                sums[block] = total;
            }
            entropy[row] = (float)(log(total) - mean / total);
            float share = (float)(1 / total);
            if (mode == TOP_K) {
                largest(e, width, ids_r, k, bins, spare);
                for (int64_t j = 0; j < k; j++) values_r[j] = e[ids_r[j]] * share;
            } else {
                draw(e, sums, width, (uint64_t)state[row], ids_r, k);
                sort(ids_r, spare, k, width);
                found = 0;
                for (int64_t j = 0, end; j < k; j = end) {
                    int64_t id = ids_r[j];
                    for (end = j + 1; end < k && ids_r[end] == id; end++);
                    values_r[found] = mode == COUNTS ? (float)(end - j) : e[id] * share;
                    ids_r[found++] = id;
                }
                for (int64_t j = found; j < k; j++) ids_r[j] = 0, values_r[j] = 0;
            }
            for (int64_t j = 0; j < found; j++) e[ids_r[j]] = 0;
            double others = 0;
            for (int64_t first = 0; first < width; first += 4096) {
                int64_t end = first + 4096 < width ? first + 4096 : width;
                float part = 0;
                #pragma omp simd reduction(+ : part)
                for (int64_t v = first; v < end; v++) part += e[v];
                others += part;
            }
            tail[row] = (float)(others / total);
        }
        free(sums), free(bins), free(spare);
    }
}
