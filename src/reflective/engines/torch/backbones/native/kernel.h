/* One forward over C columns, and the draw of the next tokens. Included once for each instruction set, with

     NAME(f)   the name of f for this instruction set
     LANES     floats in a vector register
     TILE      rows of a weight matrix that are multiplied together

   Letters: C columns, P panels of 16 columns, H hidden size, Q query heads, G KV heads, D head size, I intermediate
   size, T positions of the memory, V vocabulary. Activations lie in panels, (P, size, 16): every operation between two
   products runs over 16 columns side by side, and no sum ever runs across a register. */

typedef float NAME(vector) __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t NAME(mask) __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t NAME(bits) __attribute__((vector_size(4 * LANES)));
typedef uint16_t NAME(upper_halves) __attribute__((vector_size(2 * LANES), aligned(2)));
#define VECTOR NAME(vector)
#define MASK NAME(mask)
#define PARTS (PANEL / LANES)
#define AT(pointer) (*(VECTOR *)(pointer))
#define FROM(pointer) (*(const VECTOR *)(pointer))

static inline __attribute__((always_inline)) VECTOR NAME(choose)(MASK where, VECTOR yes, VECTOR no)
{
    return (VECTOR)((where & (MASK)yes) | (~where & (MASK)no));
}

static inline __attribute__((always_inline)) VECTOR NAME(larger)(VECTOR a, VECTOR b) { return NAME(choose)(a > b, a, b); }

/* e^x, within 2 units in the last place, 0 below e^-87: 2^n · e^r with |r| <= ln(2)/2, a polynomial for e^r (Cephes, expf.c). */
static inline __attribute__((always_inline)) VECTOR NAME(exp)(VECTOR x)
{
    const VECTOR least = (VECTOR){0} - 87.0f, most = (VECTOR){0} + 88.0f;
    const MASK none = x < least;
    x = NAME(choose)(x > most, most, x); /* a NaN stays one */
    const VECTOR shifted = x * 1.44269504088896341f + 12582912.0f; /* 1.5 · 2^23: rounds to the nearest integer */
    const VECTOR n = shifted - 12582912.0f;
    const VECTOR r = x - n * 0.693359375f + n * 2.12194440e-4f;
    VECTOR y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    y *= (VECTOR)(((MASK)shifted + 127) << 23); /* the low bits of `shifted` hold n */
    return (VECTOR)(~none & (MASK)y);
}

/* The sum of a register: halves folded onto each other. */
static inline __attribute__((always_inline)) float NAME(sum)(VECTOR x)
{
#if LANES == 8
    x += SHUFFLE(x, x, MASK, 4, 5, 6, 7, 0, 1, 2, 3);
    x += SHUFFLE(x, x, MASK, 2, 3, 0, 1, 6, 7, 4, 5);
    x += SHUFFLE(x, x, MASK, 1, 0, 3, 2, 5, 4, 7, 6);
#else
    x += SHUFFLE(x, x, MASK, 2, 3, 0, 1);
    x += SHUFFLE(x, x, MASK, 1, 0, 3, 2);
#endif
    return x[0];
}

/* The sums of as many registers as each has lanes, side by side: pairs of lanes are added where two registers meet. */
static inline __attribute__((always_inline)) VECTOR NAME(sums)(const VECTOR *x)
{
#if LANES == 8
    VECTOR pair[4], half[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        pair[i] = SHUFFLE(x[2 * i], x[2 * i + 1], MASK, 0, 8, 2, 10, 4, 12, 6, 14) +
                  SHUFFLE(x[2 * i], x[2 * i + 1], MASK, 1, 9, 3, 11, 5, 13, 7, 15);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        half[i] = SHUFFLE(pair[2 * i], pair[2 * i + 1], MASK, 0, 1, 8, 9, 4, 5, 12, 13) +
                  SHUFFLE(pair[2 * i], pair[2 * i + 1], MASK, 2, 3, 10, 11, 6, 7, 14, 15);
    return SHUFFLE(half[0], half[1], MASK, 0, 1, 2, 3, 8, 9, 10, 11) +
           SHUFFLE(half[0], half[1], MASK, 4, 5, 6, 7, 12, 13, 14, 15);
#else
    VECTOR pair[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        pair[i] = SHUFFLE(x[2 * i], x[2 * i + 1], MASK, 0, 4, 2, 6) + SHUFFLE(x[2 * i], x[2 * i + 1], MASK, 1, 5, 3, 7);
    return SHUFFLE(pair[0], pair[1], MASK, 0, 1, 4, 5) + SHUFFLE(pair[0], pair[1], MASK, 2, 3, 6, 7);
#endif
}

/* acc (rows, 16) += w (rows, size) · x (size, 16). The loops over rows and parts unroll: acc stays in registers. Where
   `ahead` is given, what lies so many weights further on is fetched meanwhile. */
static inline __attribute__((always_inline)) void NAME(tile)(
    const int rows, const float *const *w, const float *x, int size, size_t ahead, float *restrict acc)
{
    VECTOR sum[TILE][PARTS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < PARTS; v++) sum[r][v] = (VECTOR){0};
    for (int k = 0; k < size;) {
        const int stop = size - k > LINE ? k + LINE : size;
        if (ahead)
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) __builtin_prefetch(w[r] + k + ahead);
        for (; k < stop; k++) {
            VECTOR column[PARTS];
#pragma GCC unroll 4
            for (int v = 0; v < PARTS; v++) column[v] = FROM(x + (size_t)k * PANEL + v * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const float weight = w[r][k];
#pragma GCC unroll 4
                for (int v = 0; v < PARTS; v++) sum[r][v] += weight * column[v];
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < PARTS; v++) AT(acc + r * PANEL + v * LANES) += sum[r][v];
}

/* y (P, M, 16) = w (M, K) · x (P, K, 16) for the rows first..last of w; added to y where `add`, else to the bias (M). */
static __attribute__((noinline)) void NAME(product)(
    const float *w, const float *x, const float *bias, int add, Output y, int first, int last, int K, int P)
{
    for (int begin = 0; begin < K; begin += DEPTH) {
        const int size = K - begin < DEPTH ? K - begin : DEPTH;
        for (int m = first; m < last;) {
            const int rows = last - m >= TILE ? TILE : 1;
            const float *row[TILE] = {0}; /* gcc does not see that no tile reads behind `rows` */
            for (int r = 0; r < rows; r++) row[r] = w + (size_t)(m + r) * K + begin;
            for (int p = 0; p < P; p++) {
                float *out = output(&y, p, m);
                const float *in = x + ((size_t)p * K + begin) * PANEL;
                if (begin == 0 && !add)
                    for (int r = 0; r < rows; r++)
                        for (int c = 0; c < PANEL; c++) out[r * PANEL + c] = bias ? bias[m + r] : 0.0f;
                if (rows == TILE)
                    NAME(tile)(TILE, row, in, size, p ? 0 : (size_t)TILE * K, out);
                else
                    NAME(tile)(1, row, in, size, 0, out);
            }
            m += rows;
        }
    }
}

/* y (P, I, 16) = silu(gate · x) · (up · x), w (2I, K) holds gate, then up; for the rows first..last of y. */
static __attribute__((noinline)) void NAME(gated_product)(const float *w, const float *x, Output y, int first, int last, int I, int K, int P)
{
    enum { PAIRS = TILE / 2 };
    for (int m = first; m < last;) {
        const int pairs = last - m >= PAIRS ? PAIRS : 1;
        const float *row[TILE];
        for (int r = 0; r < pairs; r++) {
            row[r] = w + (size_t)(m + r) * K;
            row[pairs + r] = w + (size_t)(I + m + r) * K;
        }
        for (int p = 0; p < P; p++) {
            float acc[TILE * PANEL] = {0};
            if (pairs == PAIRS)
                NAME(tile)(2 * PAIRS, row, x + (size_t)p * K * PANEL, K, p ? 0 : (size_t)PAIRS * K, acc);
            else
                NAME(tile)(2, row, x + (size_t)p * K * PANEL, K, 0, acc);
            float *out = output(&y, p, m);
            for (int i = 0; i < pairs * PANEL; i += LANES) /* silu(g) · u = g / (1 + e^-g) · u */
                AT(out + i) = FROM(acc + i) / (1.0f + NAME(exp)(-FROM(acc + i))) * FROM(acc + pairs * PANEL + i);
        }
        m += pairs;
    }
}

#include "packed.h"

/* y = x / sqrt(mean(x²) + eps) · weight over the size of each column (Zhang and Sennrich 2019, eq. 4). */
static void NAME(norm)(const float *x, const float *weight, float eps, float *y, int size, int P)
{
    for (int p = 0; p < P; p++, x += (size_t)size * PANEL, y += (size_t)size * PANEL) {
        VECTOR scale[PARTS];
#pragma GCC unroll 4
        for (int v = 0; v < PARTS; v++) scale[v] = (VECTOR){0};
        for (int i = 0; i < size; i++)
#pragma GCC unroll 4
            for (int v = 0; v < PARTS; v++)
                scale[v] += FROM(x + i * PANEL + v * LANES) * FROM(x + i * PANEL + v * LANES);
#pragma GCC unroll 4
        for (int v = 0; v < PARTS; v++)
            for (int c = 0; c < LANES; c++) scale[v][c] = 1.0f / sqrtf(scale[v][c] / size + eps);
        for (int i = 0; i < size; i++)
#pragma GCC unroll 4
            for (int v = 0; v < PARTS; v++)
                AT(y + i * PANEL + v * LANES) = FROM(x + i * PANEL + v * LANES) * scale[v] * weight[i];
    }
}

/* As many numbers of one column as a register holds. Written one by one to memory, a load of all would wait for it. */
static inline __attribute__((always_inline)) VECTOR NAME(gathered)(const float *from)
{
#if LANES == 8
    return (VECTOR){from[0], from[PANEL], from[2 * PANEL], from[3 * PANEL],
                    from[4 * PANEL], from[5 * PANEL], from[6 * PANEL], from[7 * PANEL]};
#else
    return (VECTOR){from[0], from[PANEL], from[2 * PANEL], from[3 * PANEL]};
#endif
}

/* One head of one column, gathered from its panel, normed where the model does, and rotated to its position. */
static void NAME(rotated_head)(
    const float *from, const float *weight, float eps, const float *cosine, const float *sine, float *to, int D)
{
    float head[MAX_HEAD_SIZE];
    VECTOR square = {0};
    for (int d = 0; d < D; d += LANES) {
        const VECTOR part = AT(head + d) = NAME(gathered)(from + d * PANEL);
        square += part * part;
    }
    if (weight) {
        const float scale = 1.0f / sqrtf(NAME(sum)(square) / D + eps);
        for (int d = 0; d < D; d += LANES) AT(head + d) = FROM(head + d) * scale * FROM(weight + d);
    }
    for (int d = 0; d < D / 2; d += LANES) { /* the sine's first half carries the minus of rotate_half */
        const VECTOR first = FROM(head + d), second = FROM(head + d + D / 2);
        AT(to + d) = first * FROM(cosine + d) + second * FROM(sine + d);
        AT(to + d + D / 2) = second * FROM(cosine + d + D / 2) + first * FROM(sine + d + D / 2);
    }
}

/* Where the keys (kind 0) or values (1) of a row lie: floats, or the upper halves of floats. */
static inline char *NAME(place)(const Model *m, const Memory *kv, int layer, int kind, int64_t row, int group)
{
    const size_t at = ((((size_t)layer * 2 + kind) * kv->rows + row) * m->groups + group) * kv->length * m->size;
    return (char *)kv->data + at * (kv->half ? 2 : 4);
}

/* A register of numbers from number `at` on. */
static inline __attribute__((always_inline)) VECTOR NAME(remembered)(const char *from, int64_t at, const int half)
{
    if (!half) return FROM((const float *)from + at);
    const NAME(upper_halves) upper = *(const NAME(upper_halves) *)((const uint16_t *)from + at);
    return (VECTOR)(__builtin_convertvector(upper, NAME(bits)) << 16);
}

/* Store the keys and values of column c, group g, where attention will read them. */
static void NAME(remember)(const Model *m, const Memory *kv, const Columns *in, const float *qkv, int layer, int c, int g)
{
    const int D = m->size, Q = m->queries, heads = Q + 2 * m->groups;
    const float *column = qkv + (size_t)(c / PANEL) * heads * D * PANEL + c % PANEL;
    const int64_t position = in->positions[c], row = in->rows[c];
    const float *weight = m->layer[layer].qk_norm ? m->layer[layer].qk_norm + (size_t)(Q + g) * D : 0;
    const float *values = column + (size_t)(Q + m->groups + g) * D * PANEL;
    char *key_place = NAME(place)(m, kv, layer, 0, row, g), *value_place = NAME(place)(m, kv, layer, 1, row, g);
    float key[MAX_HEAD_SIZE];
    NAME(rotated_head)(column + (size_t)(Q + g) * D * PANEL, weight, m->eps, kv->cosine + position * D,
                       kv->sine + position * D, key, D);
    if (kv->half)
        for (int d = 0; d < D; d++) {
            ((uint16_t *)key_place)[position * D + d] = to_half(key[d]);
            ((uint16_t *)value_place)[position * D + d] = to_half(values[d * PANEL]);
        }
    else
        for (int d = 0; d < D; d += LANES) {
            AT((float *)key_place + position * D + d) = FROM(key + d);
            AT((float *)value_place + position * D + d) = NAME(gathered)(values + d * PANEL);
        }
}

/* q·k, spread over a register. */
static inline __attribute__((always_inline)) VECTOR NAME(dot)(const float *query, const char *keys, int64_t at, int D, const int half)
{
    VECTOR even = {0}, odd = {0};
    for (int d = 0; d < D; d += 2 * LANES) {
        even += FROM(query + d) * NAME(remembered)(keys, at + d, half);
        odd += FROM(query + d + LANES) * NAME(remembered)(keys, at + d + LANES, half);
    }
    return even + odd;
}

/* softmax(q·kᵀ / √D) of one head: the unnormalised weights into `scores` (seen), and their sum. The first `common` of
   the keys are read where other columns have read them. */
static inline __attribute__((always_inline)) float NAME(weigh)(
    const float *query, const char *common_keys, int64_t common, const char *keys, float *scores, int64_t seen, int D,
    const int half)
{
    VECTOR peaks = (VECTOR){0} - INFINITY, sums = {0};
    int64_t t = 0;
    for (; t + LANES <= seen; t += LANES) {
        VECTOR dot[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES; i++) dot[i] = NAME(dot)(query, t < common ? common_keys : keys, (t + i) * D, D, half);
        const VECTOR score = NAME(sums)(dot);
        AT(scores + t) = score;
        peaks = NAME(larger)(score, peaks);
    }
    float peak = -INFINITY, total = 0.0f;
    for (; t < seen; t++) {
        scores[t] = NAME(sum)(NAME(dot)(query, keys, t * D, D, half));
        peak = scores[t] > peak ? scores[t] : peak;
    }
    for (int v = 0; v < LANES; v++) peak = peaks[v] > peak ? peaks[v] : peak;
    for (t = 0; t + LANES <= seen; t += LANES) sums += AT(scores + t) = NAME(exp)(FROM(scores + t) - peak);
    for (; t < seen; t++) total += scores[t] = NAME(exp)((VECTOR){0} + scores[t] - peak)[0];
    return total + NAME(sum)(sums);
}

/* even, odd (parts registers of a head each, from its number `from` on) += Σ_t scores[t] · values[t] for t from `first`
   (even) up to `last`. */
static inline __attribute__((always_inline)) void NAME(mix)(
    const int parts, const float *scores, const char *values, int64_t first, int64_t last, int from, int D, VECTOR *even,
    VECTOR *odd, const int half)
{
    int64_t t = first;
    for (; t + 1 < last; t += 2)
#pragma GCC unroll 4
        for (int v = 0; v < parts; v++) {
            even[v] += scores[t] * NAME(remembered)(values, t * D + from + v * LANES, half);
            odd[v] += scores[t + 1] * NAME(remembered)(values, (t + 1) * D + from + v * LANES, half);
        }
    if (t < last)
#pragma GCC unroll 4
        for (int v = 0; v < parts; v++) even[v] += scores[t] * NAME(remembered)(values, t * D + from + v * LANES, half);
}

/* Σ_t scores[t] · values[t] for `parts` registers of a head, times `scale`, into `to`. */
static inline __attribute__((always_inline)) void NAME(mix_all)(
    const int parts, const float *scores, const char *common_values, int64_t common, const char *values, int64_t seen,
    int from, int D, float scale, float *to, const int half)
{
    VECTOR even[4], odd[4];
#pragma GCC unroll 4
    for (int v = 0; v < parts; v++) even[v] = odd[v] = (VECTOR){0};
    NAME(mix)(parts, scores, common_values, 0, common, from, D, even, odd, half);
    NAME(mix)(parts, scores, values, common, seen, from, D, even, odd, half);
#pragma GCC unroll 4
    for (int v = 0; v < parts; v++) AT(to + v * LANES) = (even[v] + odd[v]) * scale;
}

/* softmax(q·kᵀ / √D) · v of column c for the query heads of group g, into out (Q/G, D). */
static inline __attribute__((always_inline)) void NAME(attend)(
    const Model *m, const Memory *kv, const Columns *in, const float *qkv, float *out, float *scores, int layer, int c, int g,
    const int half)
{
    const int D = m->size, Q = m->queries, shared = Q / m->groups, heads = Q + 2 * m->groups;
    const int64_t position = in->positions[c], row = in->rows[c], seen = position + 1;
    const char *keys = NAME(place)(m, kv, layer, 0, row, g), *values = NAME(place)(m, kv, layer, 1, row, g);
    const int64_t other = in->common_rows ? in->common_rows[c] : row;
    /* whole registers of it, so that sums run in the same order whether it is shared or not */
    const int64_t common = in->common_rows ? in->common[c] / PANEL * PANEL : 0;
    const char *common_keys = NAME(place)(m, kv, layer, 0, other, g);
    const char *common_values = NAME(place)(m, kv, layer, 1, other, g);
    const float scaling = 1.0f / sqrtf((float)D);
    for (int head = g * shared; head < (g + 1) * shared; head++) {
        const float *column = qkv + ((size_t)(c / PANEL) * heads + head) * D * PANEL + c % PANEL;
        const float *weight = m->layer[layer].qk_norm ? m->layer[layer].qk_norm + (size_t)head * D : 0;
        float query[MAX_HEAD_SIZE];
        NAME(rotated_head)(column, weight, m->eps, kv->cosine + position * D, kv->sine + position * D, query, D);
        for (int d = 0; d < D; d += LANES) AT(query + d) *= scaling;
        const float scale = 1.0f / NAME(weigh)(query, common_keys, common, keys, scores, seen, D, half);
        float *to = out + (head - g * shared) * D;
        for (int first = 0; first < D;) {
            const int parts = D - first >= 4 * LANES ? 4 : 2;
            if (parts == 4)
                NAME(mix_all)(4, scores, common_values, common, values, seen, first, D, scale, to + first, half);
            else
                NAME(mix_all)(2, scores, common_values, common, values, seen, first, D, scale, to + first, half);
            first += parts * LANES;
        }
    }
}

/* The largest logit of each of n columns in a chunk of the vocabulary; of width 1, the logits of one lie side by side. */
static void NAME(chunk_max)(const float *logits, int count, int n, int width, float *peak)
{
    if (width == 1) {
        VECTOR most = (VECTOR){0} - INFINITY;
        int i = 0;
        for (; i + LANES <= count; i += LANES) most = NAME(larger)(FROM(logits + i), most);
        peak[0] = -INFINITY;
        for (int v = 0; v < LANES; v++) peak[0] = most[v] > peak[0] ? most[v] : peak[0];
        for (; i < count; i++) peak[0] = logits[i] > peak[0] ? logits[i] : peak[0];
        return;
    }
    for (int v = 0; v < n; v += LANES) {
        VECTOR most = (VECTOR){0} - INFINITY;
        for (int i = 0; i < count; i++) most = NAME(larger)(FROM(logits + i * PANEL + v), most);
        AT(peak + v) = most;
    }
}

/* Σ exp((x - max) / temperature) and Σ exp(x - max) of each of n columns in a chunk of the vocabulary; token after token,
   also where the logits of one column lie side by side, so that the sums are the same. */
static void NAME(chunk_sums)(const float *logits, int count, int n, int width, const float *peak, const float *inverse,
                             int tempered, float *weights, float *plain)
{
    if (width == 1) {
        float each[CHUNK + LANES], warm[CHUNK + LANES], sum = 0.0f, weight = 0.0f;
        for (int i = 0; i < count; i += LANES) { /* `logits` is longer than the vocabulary by a register */
            AT(each + i) = NAME(exp)(FROM(logits + i) - *peak);
            if (tempered) AT(warm + i) = NAME(exp)((FROM(logits + i) - *peak) * *inverse);
        }
        for (int i = 0; i < count; i++) sum += each[i];
        if (tempered)
            for (int i = 0; i < count; i++) weight += warm[i];
        *plain = sum;
        *weights = tempered ? weight : sum;
        return;
    }
    for (int v = 0; v < n; v += LANES) {
        VECTOR sum = {0}, weight = {0};
        for (int i = 0; i < count; i++) sum += NAME(exp)(FROM(logits + i * PANEL + v) - FROM(peak + v));
        if (tempered)
            for (int i = 0; i < count; i++)
                weight += NAME(exp)((FROM(logits + i * PANEL + v) - FROM(peak + v)) * FROM(inverse + v));
        AT(plain + v) = sum;
        AT(weights + v) = tempered ? weight : sum;
    }
}

/* Into how many pieces so many tiles of rows are cut: as many for each thread, of alike length, a few of them, so that
   one that was kept busy elsewhere leaves its own to the others. */
static inline int NAME(pieces)(int tiles, int tile, int threads)
{
    const int usual = PIECE / tile, least = (tiles * 2 + MOST_PIECES - 1) / MOST_PIECES, most = usual > least ? usual : least;
    const int each = (tiles + most * threads - 1) / (most * threads);
    return threads * (each < 4 ? 4 : each);
}

/* y (P, M, y_width) = w · x for all rows, every thread its pieces: see `product`, and where `gated`, `gated_product`, for
   which M is I. Of x and y, 16 columns lie side by side, or where a width is 1, one. */
static void NAME(multiply)(const Matrix *w, const float *x, int x_width, const float *bias, int add, int gated, float *y,
                           int y_width, int M, int C, const Work *work, Member *me, float *scratch)
{
    const int K = w->columns, P = (C + PANEL - 1) / PANEL, packed = w->kind != DENSE, threads = me->team->threads;
    const int tile = packed ? STRIP : gated ? TILE / 2 : TILE, tiles = (M + tile - 1) / tile;
    const int pieces = NAME(pieces)(tiles, tile, threads), opens = threads > 1 && K >= LEAST_OPEN;
    if (packed)
        for (int i, all = 2 * threads; (i = claim(me, all)) >= 0; finish(me, i, all))
            NAME(prepare)(w, x, x_width, C, &work->prepared, i, all);
    for (int i; (i = claim(me, pieces)) >= 0;) {
        const int first = tiles * i / pieces, last = tiles * (i + 1) / pieces, end = last * tile < M ? last * tile : M;
        const Output place = {y, 0, M, y_width}, own = {scratch, first * tile, end - first * tile, y_width};
        const Output out = opens ? own : place;
        if (opens) open_piece(me, i);
        if (opens && add) copy_rows(&own, &place, own.first, own.rows, P);
        if (packed && gated)
            NAME(packed_gated_product)(w, &work->prepared, out, first, last, M, C);
        else if (packed)
            NAME(packed_product)(w, &work->prepared, bias, add, out, first, last, C);
        else if (gated)
            NAME(gated_product)(w->data, x, out, first * tile, end, M, K, P);
        else
            NAME(product)(w->data, x, bias, add, out, first * tile, end, K, P);
        if (opens && !first_ready(me, i)) continue;
        if (opens) copy_rows(&place, &own, own.first, own.rows, P);
        finish(me, i, pieces);
    }
}

/* The whole pass: every thread runs it. */
static void NAME(share)(void *context, int thread, int threads)
{
    Pass *pass = context;
    const Model *m = pass->model;
    const Memory *kv = pass->kv;
    const Columns *in = pass->in;
    const Draw *draw = pass->draw;
    Work *work = pass->work;
    const int H = m->hidden, I = m->inner, G = m->groups, D = m->size, Q = m->queries, F = m->features;
    const int C = in->count, P = (C + PANEL - 1) / PANEL, V = m->vocabulary, from = in->logits_from;
    const int chunks = (V + CHUNK - 1) / CHUNK, shared = Q / G;
    const int narrow = C == 1 && m->layer->down.kind != DENSE ? 1 : PANEL; /* the width of `inner` */
    const int width = draw && C == 1 && m->lm_head.kind != DENSE ? 1 : PANEL; /* of the logits */
    pass->team.threads = threads; /* every thread writes the same */
    Member me = {.team = &pass->team};
    float *normed = work->normed + (size_t)thread * work->normed_size;
    float *scores = work->scores + (size_t)thread * kv->length;
    float *scratch = work->scratch + (size_t)thread * work->scratch_size;
#define FIRST(n, piece, pieces) ((int)((int64_t)(n) * (piece) / (pieces)))
/* i = 0..n-1, cut into pieces that are too short to be open */
#define EACH(i, n)                                                                                                     \
    for (int piece; (piece = claim(&me, 2 * threads)) >= 0; finish(&me, piece, 2 * threads))                           \
        for (int i = FIRST(n, piece, 2 * threads); i < FIRST(n, piece + 1, 2 * threads); i++)
#define COLUMNS(panel) (C - (panel) * PANEL < PANEL ? C - (panel) * PANEL : PANEL)
#define MULTIPLY(w, x, x_width, bias, add, gated, y, y_width, M, C)                                                    \
    NAME(multiply)(w, x, x_width, bias, add, gated, y, y_width, M, C, work, &me, scratch)
    EACH(i, H)
        for (int c = 0; c < P * PANEL; c++)
            work->x[((size_t)(c / PANEL) * H + i) * PANEL + c % PANEL] = c < C ? entry(&m->embedding, in->tokens[c], i) : 0.0f;
    for (int l = 0; l < m->layers; l++) {
        const Layer *w = &m->layer[l];
        for (int f = 0; f < F; f++) /* features (C, F, H) */
            if (l == m->feature_layers[f])
                EACH(i, H)
                    for (int c = 0; c < C; c++)
                        work->features[((size_t)c * F + f) * H + i] =
                            work->x[((size_t)(c / PANEL) * H + i) * PANEL + c % PANEL];
        if (!late(&me)) NAME(norm)(work->x, w->input_norm, m->eps, normed, H, P);
        MULTIPLY(&w->qkv, normed, PANEL, w->qkv_bias, 0, 0, work->qkv, PANEL, w->qkv.rows, C);
        if (in->shared_rows) /* columns of one row see each other's keys */
            EACH(i, C * G) NAME(remember)(m, kv, in, work->qkv, l, i % C, i / C);
        /* columns side by side, so that what they have in common is read once */
        const int heads = C * G > HEADS_AT_ONCE * MOST_PIECES ? (C * G + MOST_PIECES - 1) / MOST_PIECES : HEADS_AT_ONCE;
        const int parts = (C * G + heads - 1) / heads;
        for (int part; (part = claim(&me, parts)) >= 0;) {
            const int first = part * heads, last = C * G - first < heads ? C * G : first + heads;
            if (!in->shared_rows && !me.helps)
                for (int i = first; i < last; i++) NAME(remember)(m, kv, in, work->qkv, l, i % C, i / C);
            open_piece(&me, part);
            for (int i = first; i < last; i++)
                if (kv->half)
                    NAME(attend)(m, kv, in, work->qkv, scratch + (i - first) * shared * D, scores, l, i % C, i / C, 1);
                else
                    NAME(attend)(m, kv, in, work->qkv, scratch + (i - first) * shared * D, scores, l, i % C, i / C, 0);
            if (!first_ready(&me, part)) continue;
            for (int i = first; i < last; i++) {
                const int c = i % C, g = i / C;
                float *to = work->attended + ((size_t)(c / PANEL) * Q + g * shared) * D * PANEL + c % PANEL;
                for (int d = 0; d < shared * D; d++) to[d * PANEL] = scratch[(i - first) * shared * D + d];
            }
            finish(&me, part, parts);
        }
        MULTIPLY(&w->out, work->attended, PANEL, 0, 1, 0, work->x, PANEL, H, C);
        if (!late(&me)) NAME(norm)(work->x, w->post_norm, m->eps, normed, H, P);
        MULTIPLY(&w->gate_up, normed, PANEL, 0, 0, 1, work->inner, narrow, I, C);
        MULTIPLY(&w->down, work->inner, narrow, 0, 1, 0, work->x, PANEL, H, C);
    }
    if (from < P) {
        const int last = P - from;
        const float *x = work->x + (size_t)from * H * PANEL;
        for (int f = 0; f < F; f++)
            if (m->feature_layers[f] == m->layers)
                EACH(p, last) {
                    NAME(norm)(x + (size_t)p * H * PANEL, m->final_norm, m->eps, normed, H, 1);
                    for (int c = 0; c < COLUMNS(from + p); c++)
                        for (int i = 0; i < H; i++)
                            work->features[((size_t)((from + p) * PANEL + c) * F + f) * H + i] = normed[i * PANEL + c];
                }
        if (!late(&me)) NAME(norm)(x, m->final_norm, m->eps, normed, H, last);
        MULTIPLY(&m->lm_head, normed, PANEL, 0, 0, 0, work->logits, width, V, C - from * PANEL);
    }
    if (draw) {
        EACH(i, P * chunks) {
            const int begin = i % chunks * CHUNK, count = V - begin < CHUNK ? V - begin : CHUNK;
            NAME(chunk_max)(work->logits + ((size_t)(i / chunks) * V + begin) * width, count, COLUMNS(i / chunks), width,
                            work->peaks + (size_t)i * PANEL);
        }
        float *peak = scratch; /* of each column */
        if (!late(&me))
            for (int p = 0; p < P; p++) {
                for (int c = 0; c < PANEL; c++) peak[p * PANEL + c] = -INFINITY;
                for (int i = 0; i < chunks; i++)
                    for (int c = 0; c < COLUMNS(p); c++) {
                        const float other = work->peaks[((size_t)p * chunks + i) * PANEL + c];
                        peak[p * PANEL + c] = other > peak[p * PANEL + c] ? other : peak[p * PANEL + c];
                    }
            }
        EACH(i, P * chunks) {
            const int p = i / chunks, begin = i % chunks * CHUNK, count = V - begin < CHUNK ? V - begin : CHUNK;
            NAME(chunk_sums)(work->logits + ((size_t)p * V + begin) * width, count, COLUMNS(p), width, peak + p * PANEL,
                             draw->inverse_temperature + p * PANEL, draw->tempered, work->weights + (size_t)i * PANEL,
                             work->plain + (size_t)i * PANEL);
        }
        EACH(c, C) draw_token(m, work, draw, c, chunks, width);
    }
    meet(&me); /* or the runtime's own barrier would spin */
}

static void NAME(forward)(const Model *model, const Memory *kv, const Columns *in, Work *work, const Draw *draw)
{
    Pass pass = {.model = model, .kv = kv, .in = in, .work = work, .draw = draw};
    together(NAME(share), &pass, work->threads < MOST_PIECES / 8 ? work->threads : MOST_PIECES / 8);
}

/* What W2 sums, for a thread's rows of W1; see `head`. */
static void NAME(head_share)(void *context, int thread, int threads)
{
    const Scoring *scoring = context;
    const Head *head = scoring->head;
    const int hidden = head->hidden, inner = head->inner, n = scoring->count;
    const float *features = scoring->features;
    const int64_t *rows = scoring->rows;
    float *parts = scoring->parts;
    for (int k = FIRST(inner, thread, threads); k < FIRST(inner, thread + 1, threads); k++) {
        const float *w = head->w1 + (size_t)k * hidden;
        for (int i = 0; i < n; i++) {
            const float *h = features + rows[i] * hidden;
            VECTOR part[4] = {{0}};
            int j = 0;
            for (; j + 4 * LANES <= hidden; j += 4 * LANES)
#pragma GCC unroll 4
                for (int v = 0; v < 4; v++) part[v] += FROM(w + j + v * LANES) * FROM(h + j + v * LANES);
            float sum = head->b1[k] + NAME(sum)((part[0] + part[1]) + (part[2] + part[3]));
            for (; j < hidden; j++) sum += w[j] * h[j];
            parts[(size_t)i * inner + k] = sum > 0.0f ? head->w2[k] * sum : 0.0f * sum; /* a NaN stays one */
        }
    }
}

/* s = W2 · relu(W1 · h + b1) + b2 for n rows of the features (design, section 1; dropout is for training). A row of W1
   is read once for all of them; what W2 sums lies in `parts` (n, inner) first, so that threads change no order. */
static void NAME(head)(const Head *head, const float *features, const int64_t *rows, int n, float *parts, double *logits,
                       int threads)
{
    const int inner = head->inner;
    Scoring scoring = {head, features, rows, n, parts};
    together(NAME(head_share), &scoring, threads);
    for (int i = 0; i < n; i++) {
        logits[i] = head->b2;
        for (int k = 0; k < inner; k++) logits[i] += parts[(size_t)i * inner + k];
    }
}

#undef VECTOR
#undef MASK
#undef AT
#undef FROM
#undef PARTS
#undef FIRST
#undef EACH
#undef COLUMNS
#undef MULTIPLY
