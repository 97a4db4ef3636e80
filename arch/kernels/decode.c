/* Decode one further token for each of a few rows. A `Part` is one part of a layer (gated ffn, attention, recurrent block)
   with its norms and residual sum, y = x + after(part(before(x))); `token` computes a whole model in one call.

   Weights, keys, values and a convolution's tail are as in stored.h: float32, or bfloat16 in its own build. Everything
   else is float32: what goes from part to part inside `token`, sums, statistics, the recurrence's state, logits.

   Arrays are dense. A map's weight is (outputs, inputs), and its bias may be null. The caller allocates the scratch
   memory `work`. No result depends on the number of threads. Shapes: B rows, D width, H query heads, K key/value heads,
   G = H / K, C channels per head, S slots, F hidden width, R recurrent width, J taps, V vocabulary. */

#include <float.h>

#include "real.h"
#include "stored.h"

#include "rows.h"

#define SLOTS 64    /* slots of the ring that are scored at once */
#define SHARES 16   /* most pieces into which a stream's slots are cut, so that threads can share one stream */
#define ALONE 65536 /* with fewer multiplications, one thread is faster */

/* How every part begins. before, after: RMSNorm weights, or null for no norm. residual: if 0, x is not added. */
typedef struct {
    enum { GATED, ATTENTION, RECURRENT } kind;
    int32_t residual;
    const stored *before, *after;
    float eps_before, eps_after;
} Part;

/* down(activation(gate(x)) up(x)) */
typedef struct {
    Part part;
    Map gate, up, down;
    int64_t hidden, gelu;
} Gated;

/* o(attention of each row's token over its ring); the token's key and value are written to the ring first. ring_k, ring_v
   (B, K, S, C): token n is in slot n mod S. seen: the number of tokens before this one. q_norm, k_norm (C), or null.
   cosine, sine (B or 1, half): one row for all if `alike`. softcap: 0 for none. */
typedef struct {
    Part part;
    Map q, k, v, o;
    const stored *q_norm, *k_norm;
    stored *ring_k, *ring_v;
    const float *cosine, *sine;
    int64_t heads, kv_heads, channels, slots, seen, half, alike;
    float eps, scale, softcap;
} Attention;

/* Griffin's recurrent block, o(rg_lru(conv(x-map)) gelu(y-map)); with N = 0 without the recurrence. taps (J, R), bias (R) of
   the convolution. r, i: the gates' N diagonal blocks, (N, R / N, R / N), with biases (R). slope (R), at most 0. tail
   (B, J - 1, R), the convolution's last inputs, and h (B, R) are updated in place. */
typedef struct {
    Part part;
    Map x, y, o, taps, r, i;
    stored *tail;
    float *h;
    const float *slope;
    int64_t width, count, blocks;
} Recurrent;

/* parts: in order, `count` of them. The head has no bias. scale: of the embedding. softcap: of the logits, 0 for none.
   unknown: is set to whether a token was outside the vocabulary. */
typedef struct {
    const stored *embedding, *norm, *head;
    const Part *const *parts;
    int64_t count, dim, vocabulary, unknown;
    float scale, eps, softcap;
} Model;

/* x in float32: x itself, or a copy in `room`. */
static const float *widened(const stored *x, float *room, int64_t count)
{
#ifdef BFLOAT16
    for (int64_t k = 0; k < count; k++) room[k] = wide(x[k]);
    return room;
#else
    return x;
#endif
}

/* y (rows, width): RMSNorm of x. work: 2 rows width numbers. */
void norm(const stored *x, const stored *w, stored *y, float *work, int64_t rows, int64_t width, float eps)
{
    const float *from = widened(x, work, rows * width);
    for (int64_t b = 0; b < rows * width; b += width) {
        float *z = work + rows * width;
        normalised(from + b, w, z, width, eps);
        for (int64_t k = 0; k < width; k++) y[b + k] = narrow(z[k]);
    }
}

/* Shared: y = softcap tanh(y / softcap) after a barrier, or nothing if softcap is 0; no barrier at the end. */
static void capped(float *y, int64_t count, float softcap)
{
    if (softcap <= 0) return;
    #pragma omp barrier
    #pragma omp for simd schedule(static) nowait
    for (int64_t k = 0; k < count; k++) y[k] = softcap * tanh_one(y[k] / softcap);
}

/* y = x w^T + bias, then softcap tanh(y / softcap) unless softcap is 0. work: rows inputs numbers. */
void linear(const stored *x, const stored *w, const stored *bias, float *y, float *work, int64_t rows, int64_t inputs,
            int64_t outputs, float softcap, int64_t threads)
{
    const float *from = widened(x, work, rows * inputs);
    #pragma omp parallel num_threads(rows * inputs * outputs < ALONE ? 1 : threads)
    {
        linear_shared(from, (Map){w, bias}, 0, y, rows, inputs, outputs);
        capped(y, rows * outputs, softcap);
    }
}

/* x sigmoid(slope (x + cubic x^3)): SiLU, or the tanh form of GELU. */
static inline float gate(float x, float slope, float cubic)
{
    return x * sigmoid(slope * FMA(cubic * x * x, x, x));
}

#define GELU 1.5957691216057308f, 0.044715f
#define SILU 1.0f, 0.0f

/* Shared: how every part ends, y = x + after(map(a)); no barrier at the end. */
static void out(const Part *around, Map map, const float *a, const float *x, float *y, int64_t rows, int64_t inputs,
                int64_t dim)
{
    const float *onto = around->residual ? x : 0;
    linear_shared(a, map, around->after ? 0 : onto, y, rows, inputs, dim);
    leaving(onto, around->after, y, rows, dim, around->eps_after);
}

/* Shared. work: 2 B F + B D numbers. */
static void gated(const Gated *part, const float *x, float *y, float *work, int64_t rows, int64_t dim)
{
    const Part *around = &part->part;
    int64_t hidden = part->hidden;
    float *a = work, *u = a + rows * hidden, *z = u + rows * hidden;
    const float *in = entering(x, around->before, z, rows, dim, around->eps_before);
    #pragma omp for schedule(static)
    for (int64_t n = 0; n < hidden; n += WIDE) {
        int64_t size = least(WIDE, hidden - n);
        product(in, columns_from(part->gate, n, dim), a + n, rows, dim, size, hidden);
        product(in, columns_from(part->up, n, dim), u + n, rows, dim, size, hidden);
        for (int64_t b = 0; b < rows; b++) {
            float *a_b = a + b * hidden + n, *u_b = u + b * hidden + n;
            if (part->gelu) {
                #pragma omp simd
                for (int64_t k = 0; k < size; k++) a_b[k] = gate(a_b[k], GELU) * u_b[k];
            } else {
                #pragma omp simd
                for (int64_t k = 0; k < size; k++) a_b[k] = gate(a_b[k], SILU) * u_b[k];
            }
        }
    }
    out(around, part->down, a, x, y, rows, hidden, dim);
}

/* Norm (w may be null for none) and rotation of one head, in place. cosine, sine: of the `half` pairs (c, half + c). */
static void turned(float *x, const stored *w, const float *cosine, const float *sine, int64_t channels, int64_t half,
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
static void gather(const float *q, const stored *k, const stored *v, float *found, int64_t group, int64_t channels,
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
            product(q + first * channels, (Map){k + at * channels, 0}, z, heads, channels, count, SLOTS);
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

/* Shared. pos (B): positions within the document. work: B (H + 2 K) C + B H SHARES (C + 2) + B D numbers. */
static void attention(const Attention *part, const float *x, const int64_t *pos, float *y, float *work, int64_t rows,
                      int64_t dim)
{
    const Part *around = &part->part;
    int64_t heads = part->heads, kv_heads = part->kv_heads, channels = part->channels, slots = part->slots;
    int64_t group = heads / kv_heads, width = heads * channels, narrow_width = kv_heads * channels, each = channels + 2;
    int64_t newest = part->seen % slots, used = least(part->seen + 1, slots), streams = rows * kv_heads;
    int64_t share = (used + SHARES - 1) / SHARES;
    share = (share + 2 * SLOTS - 1) / (2 * SLOTS) * (2 * SLOTS);
    int64_t shares = (used + share - 1) / share;
    float *q = work, *k = q + rows * width, *v = k + rows * narrow_width, *found = v + rows * narrow_width;
    float *z = found + rows * heads * SHARES * each;
    const float *in = entering(x, around->before, z, rows, dim, around->eps_before);
    linear_shared(in, part->q, 0, q, rows, dim, width);
    linear_shared(in, part->k, 0, k, rows, dim, narrow_width);
    linear_shared(in, part->v, 0, v, rows, dim, narrow_width);
    #pragma omp barrier
    #pragma omp for schedule(static)
    for (int64_t stream = 0; stream < streams; stream++) {
        int64_t b = stream / kv_heads, h = stream % kv_heads, angle = part->alike ? 0 : b * part->half;
        int64_t begin = stream * slots * channels;
        const float *cosine = part->cosine + angle, *sine = part->sine + angle;
        float *k_new = k + stream * channels, *v_new = v + stream * channels;
        stored *k_slot = part->ring_k + begin + newest * channels, *v_slot = part->ring_v + begin + newest * channels;
        for (int64_t g = 0; g < group; g++)
            turned(q + b * width + (h * group + g) * channels, part->q_norm, cosine, sine, channels, part->half, part->eps);
        turned(k_new, part->k_norm, cosine, sine, channels, part->half, part->eps);
        for (int64_t c = 0; c < channels; c++) {
            k_slot[c] = narrow(k_new[c]);
            v_slot[c] = narrow(v_new[c]);
        }
        if (shares == 1) { /* few slots, as in a window: no barrier is needed */
            float *q_new = q + stream * group * channels, *gathered = found + stream * group * each;
            gather(q_new, part->ring_k + begin, part->ring_v + begin, gathered, group, channels, used, newest, pos[b], 0,
                   used, part->scale, part->softcap);
            merge(gathered, q_new, group, channels, 1);
        }
    }
    if (shares > 1) {
        #pragma omp for schedule(static)
        for (int64_t piece = 0; piece < streams * shares; piece++) {
            int64_t stream = piece / shares, low = piece % shares * share, at = stream * slots * channels;
            gather(q + stream * group * channels, part->ring_k + at, part->ring_v + at, found + piece * group * each, group,
                   channels, used, newest, pos[stream / kv_heads], low, least(low + share, used), part->scale,
                   part->softcap);
        }
        #pragma omp for schedule(static)
        for (int64_t stream = 0; stream < streams; stream++)
            merge(found + stream * shares * group * each, q + stream * group * channels, group, channels, shares);
    }
    out(around, part->o, q, x, y, rows, width, dim);
}

/* Shared. pos (B): 0 at the first token of a document. work: 5 B R + B D numbers. */
static void recurrent(const Recurrent *part, const float *x, const int64_t *pos, float *y, float *work, int64_t rows,
                      int64_t dim)
{
    const Part *around = &part->part;
    const stored *taps = part->taps.weight;
    int64_t width = part->width, count = part->count, blocks = part->blocks;
    int64_t each = blocks ? width / blocks : 0, all = rows * width, groups = (rows + BLOCK - 1) / BLOCK;
    float *u = work, *gelu = u + all, *r = gelu + all, *i = r + all, *last = i + all, *z = last + all;
    const float *in = entering(x, around->before, z, rows, dim, around->eps_before);
    linear_shared(in, part->x, 0, last, rows, dim, width);
    linear_shared(in, part->y, 0, gelu, rows, dim, width);
    #pragma omp barrier
    #pragma omp for schedule(static) collapse(2)
    for (int64_t b = 0; b < rows; b++)
        for (int64_t low = 0; low < width; low += WIDE) {
            int64_t size = least(WIDE, width - low), at = b * width + low;
            stored *earlier = part->tail + b * (count - 1) * width + low;
            const stored *tap = taps + (count - 1) * width + low, *bias = part->taps.bias + low;
            float *u_b = u + at, *last_b = last + at;
            for (int64_t k = 0; k < size; k++) u_b[k] = FMA(wide(tap[k]), last_b[k], wide(bias[k]));
            for (int64_t back = 1; back < count && back <= pos[b]; back++) {
                const stored *then = earlier + (count - 1 - back) * width;
                tap = taps + (count - 1 - back) * width + low;
                for (int64_t k = 0; k < size; k++) u_b[k] = FMA(wide(tap[k]), wide(then[k]), u_b[k]);
            }
            for (int64_t j = 0; j + 2 < count; j++)
                memcpy(earlier + j * width, earlier + (j + 1) * width, size * sizeof(stored));
            for (int64_t k = 0; count > 1 && k < size; k++) earlier[(count - 2) * width + k] = narrow(last_b[k]);
            for (int64_t k = 0; blocks == 0 && k < size; k++) u_b[k] *= gate(gelu[at + k], GELU);
        }
    #pragma omp for schedule(static)
    for (int64_t item = 0; item < blocks * groups; item++) {
        int64_t n = item / groups, first = item % groups * BLOCK, some = least(BLOCK, rows - first);
        int64_t from = first * width + n * each;
        for (int64_t at = from; at < from + some * width; at += width)
            for (int64_t k = 0; k < each; k++) {
                r[at + k] = wide(part->r.bias[n * each + k]);
                i[at + k] = wide(part->i.bias[n * each + k]);
            }
        weighted(u + from, part->r.weight + n * each * each, r + from, some, width, width, each, each);
        weighted(u + from, part->i.weight + n * each * each, i + from, some, width, width, each, each);
        const float *slope_n = part->slope + n * each;
        for (int64_t b = first; b < first + some; b++) {
            int64_t at = b * width + n * each;
            float *r_n = r + at, *i_n = i + at, *h_n = part->h + at, *gelu_n = gelu + at, *u_n = u + at;
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
    out(around, part->o, u, x, y, rows, width, dim);
}

/* Shared: y, of x; without a barrier at the end. */
static void computed(const Part *part, const float *x, const int64_t *pos, float *y, float *work, int64_t rows, int64_t dim)
{
    switch (part->kind) {
    case GATED: gated((const Gated *)part, x, y, work, rows, dim); break;
    case ATTENTION: attention((const Attention *)part, x, pos, y, work, rows, dim); break;
    case RECURRENT: recurrent((const Recurrent *)part, x, pos, y, work, rows, dim); break;
    }
}

/* Whether a part of this inner width is so small that one thread is faster. */
static int64_t small(const Part *part, int64_t rows, int64_t dim)
{
    switch (part->kind) {
    case GATED: return rows * dim * ((const Gated *)part)->hidden < ALONE;
    case ATTENTION: return rows * dim * ((const Attention *)part)->heads * ((const Attention *)part)->channels < ALONE / 2;
    default: return rows * dim * ((const Recurrent *)part)->width < ALONE / 2;
    }
}

/* One part: y (B, D) of x. work: what the part needs, and 2 B D numbers in front of it. */
void part(const Part *part, const stored *x, const int64_t *pos, stored *y, float *work, int64_t rows, int64_t dim,
          int64_t threads)
{
    const float *from = widened(x, work, rows * dim);
#ifdef BFLOAT16
    float *to = work + rows * dim;
#else
    float *to = y;
#endif
    #pragma omp parallel num_threads(small(part, rows, dim) ? 1 : threads)
    computed(part, from, pos, to, work + 2 * rows * dim, rows, dim);
#ifdef BFLOAT16
    for (int64_t k = 0; k < rows * dim; k++) y[k] = narrow(to[k]);
#endif
}

/* The logits (B, V) of the token after `tokens` (B); nothing if one is unknown. pos (B): positions within the document. work: the most that a part needs, or B D for the last norm, and 2 B D numbers. */
void token(Model *model, const int64_t *tokens, const int64_t *pos, float *logits, float *work, int64_t rows,
           int64_t threads)
{
    int64_t dim = model->dim, alone = rows * dim * model->vocabulary < ALONE;
    model->unknown = 0;
    for (int64_t b = 0; b < rows; b++) model->unknown |= tokens[b] < 0 || tokens[b] >= model->vocabulary;
    if (model->unknown) return;
    for (int64_t n = 0; n < model->count; n++) alone &= small(model->parts[n], rows, dim);
    #pragma omp parallel num_threads(alone ? 1 : threads)
    {
        float *x = work, *y = x + rows * dim, *own = y + rows * dim;
        #pragma omp for schedule(static)
        for (int64_t b = 0; b < rows; b++)
            for (int64_t k = 0; k < dim; k++) x[b * dim + k] = wide(model->embedding[tokens[b] * dim + k]) * model->scale;
        for (int64_t n = 0; n < model->count; n++) {
            computed(model->parts[n], x, pos, y, own, rows, dim);
            #pragma omp barrier
            float *next = y;
            y = x;
            x = next;
        }
        const float *in = entering(x, model->norm, own, rows, dim, model->eps);
        linear_shared(in, (Map){model->head, 0}, 0, logits, rows, dim, model->vocabulary);
        capped(logits, rows * model->vocabulary, model->softcap);
    }
}
