/* Decode one further token for each of a few rows, float32. `gated`, `attention` and `recurrent` each compute one part
   of a layer with its norms and residual sum, y = x + after(part(before(x))), so a token costs two calls per layer.
   `before` and `after` are RMSNorm weights, or null for no norm; if `residual` is 0, x is not added.

   Arrays are dense. A map's weight is (outputs, inputs), and its bias may be null. The caller allocates the scratch
   memory `work`. No result depends on the number of threads. Shapes: B rows, D width, H query heads, K key/value heads,
   G = H / K, C channels per head, S slots, F hidden width, R recurrent width, J taps. */

#include <float.h>

#include "real.h"
#include "rows.h"

#define SLOTS 64    /* slots of the ring that are scored at once */
#define SHARES 16   /* most pieces into which a stream's slots are cut, so that threads can share one stream */
#define ALONE 65536 /* with fewer multiplications, one thread is faster */

void norm(const float *x, const float *w, float *y, int64_t rows, int64_t width, float eps)
{
    for (int64_t b = 0; b < rows * width; b += width) normalised(x + b, w, y + b, width, eps);
}

/* y = x w^T + bias, then softcap tanh(y / softcap) unless softcap is 0. */
void linear(const float *x, const float *w, const float *bias, float *y, int64_t rows, int64_t inputs, int64_t outputs,
            float softcap, int64_t threads)
{
    #pragma omp parallel num_threads(rows * inputs * outputs < ALONE ? 1 : threads)
    {
        linear_shared(x, w, bias, 0, y, rows, inputs, outputs);
        if (softcap > 0) {
            #pragma omp barrier
            #pragma omp for simd schedule(static) nowait
            for (int64_t k = 0; k < rows * outputs; k++) y[k] = softcap * tanh_one(y[k] / softcap);
        }
    }
}

/* x sigmoid(slope (x + cubic x^3)): SiLU, or the tanh form of GELU. */
static inline float gate(float x, float slope, float cubic)
{
    return x * sigmoid(slope * FMA(cubic * x * x, x, x));
}

#define GELU 1.5957691216057308f, 0.044715f
#define SILU 1.0f, 0.0f

/* The part is down(activation(gate(x)) up(x)). work: 2 B F + B D numbers. */
void gated(const float *x, const float *before, const float *after, const float *w_gate, const float *b_gate,
           const float *w_up, const float *b_up, const float *w_down, const float *b_down, float *y, float *work,
           float eps_before, float eps_after, int64_t residual, int64_t rows, int64_t dim, int64_t hidden, int64_t gelu,
           int64_t threads)
{
    float *a = work, *u = a + rows * hidden, *z = u + rows * hidden;
    const float *onto = residual ? x : 0;
    #pragma omp parallel num_threads(rows * dim * hidden < ALONE ? 1 : threads)
    {
        const float *in = entering(x, before, z, rows, dim, eps_before);
        #pragma omp for schedule(static)
        for (int64_t n = 0; n < hidden; n += WIDE) {
            int64_t size = least(WIDE, hidden - n);
            product(in, w_gate + n * dim, b_gate ? b_gate + n : 0, a + n, rows, dim, size, hidden);
            product(in, w_up + n * dim, b_up ? b_up + n : 0, u + n, rows, dim, size, hidden);
            for (int64_t b = 0; b < rows; b++) {
                float *a_b = a + b * hidden + n, *u_b = u + b * hidden + n;
                if (gelu) {
                    #pragma omp simd
                    for (int64_t k = 0; k < size; k++) a_b[k] = gate(a_b[k], GELU) * u_b[k];
                } else {
                    #pragma omp simd
                    for (int64_t k = 0; k < size; k++) a_b[k] = gate(a_b[k], SILU) * u_b[k];
                }
            }
        }
        linear_shared(a, w_down, b_down, after ? 0 : onto, y, rows, hidden, dim);
        leaving(onto, after, y, rows, dim, eps_after);
    }
}

/* Norm (w may be null for none) and rotation of one head, in place. cosine, sine: of the `half` pairs (c, half + c). */
static void turned(float *x, const float *w, const float *cosine, const float *sine, int64_t channels, int64_t half,
                   float eps)
{
    if (w) normalised(x, w, x, channels, eps);
    #pragma omp simd
    for (int64_t c = 0; c < half; c++) {
        float left = x[c], right = x[half + c];
        x[c] = left * cosine[c] - right * sine[c];
        x[half + c] = right * cosine[c] + left * sine[c];
    }
}

/* Attention of G queries over the slots [low, high), without the final division. found: C + 2 numbers per query, which
   are the sum of p v (C), the sum of p, and the largest score. Of the `used` slots, a query sees those whose age,
   counted back from the newest, is at most `pos`. */
static void gather(const float *q, const float *k, const float *v, float *found, int64_t group, int64_t channels,
                   int64_t used, int64_t newest, int64_t pos, int64_t low, int64_t high, float scale, float softcap)
{
    float z[BLOCK * SLOTS];
    int64_t part = channels + 2, hides = pos + 1 < used;
    for (int64_t g = 0; g < group * part; g++) found[g] = 0;
    for (int64_t g = 0; g < group; g++) found[g * part + channels + 1] = -FLT_MAX;
    for (int64_t at = low; at < high; at += SLOTS) {
        int64_t count = least(SLOTS, high - at);
        for (int64_t first = 0; first < group; first += BLOCK) {
            int64_t heads = least(BLOCK, group - first);
            product(q + first * channels, k + at * channels, 0, z, heads, channels, count, SLOTS);
            for (int64_t g = 0; g < heads; g++) {
                float *z_g = z + g * SLOTS, *sum = found + (first + g) * part;
                float *mass = sum + channels, *top = mass + 1, most = *top, added = 0;
                if (softcap > 0) /* cap tanh(z / cap) plus a constant, which the softmax cancels */
                    #pragma omp simd
                    for (int64_t s = 0; s < count; s++) z_g[s] = 2 * softcap * sigmoid(2 * scale / softcap * z_g[s]);
                else
                    for (int64_t s = 0; s < count; s++) z_g[s] *= scale;
                for (int64_t s = 0; hides && s < count; s++) {
                    int64_t age = newest - at - s;
                    if ((age < 0 ? age + used : age) > pos) z_g[s] = -INFINITY;
                }
                #pragma omp simd reduction(max : most)
                for (int64_t s = 0; s < count; s++) most = z_g[s] > most ? z_g[s] : most;
                #pragma omp simd reduction(+ : added)
                for (int64_t s = 0; s < count; s++) {
                    float unit, p = exp_parts(z_g[s] - most, &unit);
                    z_g[s] = z_g[s] == -INFINITY ? 0 : FMA(unit, p, unit);
                    added += z_g[s];
                }
                if (most > *top) {
                    float fade = expf(*top - most);
                    for (int64_t c = 0; c <= channels; c++) sum[c] *= fade;
                    *top = most;
                }
                *mass += added;
            }
            weighted(z, v + at * channels, found + first * part, heads, SLOTS, part, count, channels);
        }
    }
}

/* out (G, C): the softmax attention of one stream, merged from what `gather` found in its shares of slots. */
static void merge(const float *found, float *out, int64_t group, int64_t channels, int64_t shares)
{
    int64_t part = channels + 2;
    for (int64_t g = 0; g < group; g++, found += part, out += channels) {
        float most = -FLT_MAX, mass = 0;
        for (int64_t s = 0; s < shares; s++) most = fmaxf(most, found[s * group * part + channels + 1]);
        for (int64_t c = 0; c < channels; c++) out[c] = 0;
        for (int64_t s = 0; s < shares; s++) {
            const float *each = found + s * group * part;
            float weight = expf(each[channels + 1] - most);
            mass += weight * each[channels];
            for (int64_t c = 0; c < channels; c++) out[c] += weight * each[c];
        }
        for (int64_t c = 0; c < channels; c++) out[c] /= mass;
    }
}

/* The part is o(attention of each row's token over its ring); the token's key and value are written to the ring first.
   ring_k, ring_v (B, K, S, C): token n is in slot n mod S. seen: the number of tokens before this one. pos (B):
   positions within the document. q_norm, k_norm (C), or null. cosine, sine (B or 1, half): one row for all if `alike`.
   softcap: 0 for none. work: B (H + 2 K) C + B H SHARES (C + 2) + B D numbers. */
void attention(const float *x, const float *before, const float *after, const float *w_q, const float *b_q,
               const float *w_k, const float *b_k, const float *w_v, const float *b_v, const float *w_o,
               const float *b_o, const float *q_norm, const float *k_norm, const float *cosine, const float *sine,
               float *ring_k, float *ring_v, const int64_t *pos, float *y, float *work, float eps_before,
               float eps_after, int64_t residual, int64_t rows, int64_t dim, int64_t heads, int64_t kv_heads,
               int64_t channels, int64_t half, int64_t alike, int64_t slots, int64_t seen, float eps, float scale,
               float softcap, int64_t threads)
{
    int64_t group = heads / kv_heads, width = heads * channels, narrow = kv_heads * channels, part = channels + 2;
    int64_t newest = seen % slots, used = least(seen + 1, slots), streams = rows * kv_heads;
    int64_t share = (used + SHARES - 1) / SHARES;
    share = (share + 2 * SLOTS - 1) / (2 * SLOTS) * (2 * SLOTS);
    int64_t shares = (used + share - 1) / share;
    float *q = work, *k = q + rows * width, *v = k + rows * narrow, *found = v + rows * narrow;
    float *z = found + rows * heads * SHARES * part;
    const float *onto = residual ? x : 0;
    #pragma omp parallel num_threads(rows * dim * width < ALONE / 2 ? 1 : threads)
    {
        const float *in = entering(x, before, z, rows, dim, eps_before);
        linear_shared(in, w_q, b_q, 0, q, rows, dim, width);
        linear_shared(in, w_k, b_k, 0, k, rows, dim, narrow);
        linear_shared(in, w_v, b_v, 0, v, rows, dim, narrow);
        #pragma omp barrier
        #pragma omp for schedule(static)
        for (int64_t stream = 0; stream < streams; stream++) {
            int64_t b = stream / kv_heads, h = stream % kv_heads, angle = alike ? 0 : b;
            int64_t at = (stream * slots + newest) * channels;
            float *k_new = k + stream * channels;
            for (int64_t g = 0; g < group; g++)
                turned(q + b * width + (h * group + g) * channels, q_norm, cosine + angle * half,
                       sine + angle * half, channels, half, eps);
            turned(k_new, k_norm, cosine + angle * half, sine + angle * half, channels, half, eps);
            memcpy(ring_k + at, k_new, channels * sizeof(float));
            memcpy(ring_v + at, v + stream * channels, channels * sizeof(float));
            if (shares == 1) { /* few slots, as in a window: no barrier is needed */
                float *q_new = q + stream * group * channels, *gathered = found + stream * group * part;
                int64_t begin = stream * slots * channels;
                gather(q_new, ring_k + begin, ring_v + begin, gathered, group, channels, used, newest, pos[b], 0, used,
                       scale, softcap);
                merge(gathered, q_new, group, channels, 1);
            }
        }
        if (shares > 1) {
            #pragma omp for schedule(static)
            for (int64_t piece = 0; piece < streams * shares; piece++) {
                int64_t stream = piece / shares, low = piece % shares * share, at = stream * slots * channels;
                gather(q + stream * group * channels, ring_k + at, ring_v + at, found + piece * group * part, group,
                       channels, used, newest, pos[stream / kv_heads], low, least(low + share, used), scale, softcap);
            }
            #pragma omp for schedule(static)
            for (int64_t stream = 0; stream < streams; stream++)
                merge(found + stream * shares * group * part, q + stream * group * channels, group, channels, shares);
        }
        linear_shared(q, w_o, b_o, after ? 0 : onto, y, rows, width, dim);
        leaving(onto, after, y, rows, dim, eps_after);
    }
}

/* The part is Griffin's recurrent block, o(rg_lru(conv(x-map)) gelu(y-map)). taps (J, R), bias_taps (R). tail
   (B, J - 1, R), the convolution's last inputs, and h (B, R) are updated in place. w_r, w_i: the gates' N diagonal
   blocks, (N, R / N, R / N), with biases (R). slope (R), at most 0. pos (B): 0 at the first token of a document.
   work: 5 B R + B D numbers. */
void recurrent(const float *x, const float *before, const float *after, const float *w_x, const float *b_x,
               const float *w_y, const float *b_y, const float *w_o, const float *b_o, const float *taps,
               const float *bias_taps, const float *w_r, const float *b_r, const float *w_i, const float *b_i,
               const float *slope, float *tail, float *h, const int64_t *pos, float *y, float *work, float eps_before,
               float eps_after, int64_t residual, int64_t rows, int64_t dim, int64_t width, int64_t count,
               int64_t blocks, int64_t threads)
{
    int64_t each = width / blocks, all = rows * width, groups = (rows + BLOCK - 1) / BLOCK;
    float *u = work, *gelu = u + all, *r = gelu + all, *i = r + all, *last = i + all, *z = last + all;
    const float *onto = residual ? x : 0;
    #pragma omp parallel num_threads(all * dim < ALONE / 2 ? 1 : threads)
    {
        const float *in = entering(x, before, z, rows, dim, eps_before);
        linear_shared(in, w_x, b_x, 0, last, rows, dim, width);
        linear_shared(in, w_y, b_y, 0, gelu, rows, dim, width);
        #pragma omp barrier
        #pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < rows; b++)
            for (int64_t low = 0; low < width; low += WIDE) {
                int64_t size = least(WIDE, width - low), at = b * width + low;
                float *earlier = tail + b * (count - 1) * width + low, *u_b = u + at, *last_b = last + at;
                for (int64_t k = 0; k < size; k++)
                    u_b[k] = FMA(taps[(count - 1) * width + low + k], last_b[k], bias_taps[low + k]);
                for (int64_t back = 1; back < count && back <= pos[b]; back++) {
                    const float *tap = taps + (count - 1 - back) * width + low;
                    const float *then = earlier + (count - 1 - back) * width;
                    for (int64_t k = 0; k < size; k++) u_b[k] = FMA(tap[k], then[k], u_b[k]);
                }
                for (int64_t j = 0; j + 2 < count; j++)
                    memcpy(earlier + j * width, earlier + (j + 1) * width, size * sizeof(float));
                memcpy(earlier + (count - 2) * width, last_b, size * sizeof(float));
            }
        #pragma omp for schedule(static)
        for (int64_t item = 0; item < blocks * groups; item++) {
            int64_t n = item / groups, first = item % groups * BLOCK, some = least(BLOCK, rows - first);
            int64_t from = first * width + n * each;
            for (int64_t at = from; at < from + some * width; at += width) {
                memcpy(r + at, b_r + n * each, each * sizeof(float));
                memcpy(i + at, b_i + n * each, each * sizeof(float));
            }
            weighted(u + from, w_r + n * each * each, r + from, some, width, width, each, each);
            weighted(u + from, w_i + n * each * each, i + from, some, width, width, each, each);
            const float *slope_n = slope + n * each;
            for (int64_t b = first; b < first + some; b++) {
                int64_t at = b * width + n * each;
                float *r_n = r + at, *i_n = i + at, *h_n = h + at, *gelu_n = gelu + at, *u_n = u + at;
                float keep = pos[b] == 0 ? 0 : 1;
                #pragma omp simd
                for (int64_t k = 0; k < each; k++) {
                    float rest, a = decay(slope_n[k] * sigmoid(r_n[k]), &rest);
                    float gain = keep == 0 ? 1 : sqrtf(rest), kept = keep == 0 ? 0 : a * h_n[k];
                    h_n[k] = FMA(gain, sigmoid(i_n[k]) * u_n[k], kept);
                    u_n[k] = h_n[k] * gate(gelu_n[k], GELU);
                }
            }
        }
        linear_shared(u, w_o, b_o, after ? 0 : onto, y, rows, width, dim);
        leaving(onto, after, y, rows, dim, eps_after);
    }
}
