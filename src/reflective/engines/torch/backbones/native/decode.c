/* A decoding step on a CPU as one call: embedding, decoder layers, logits, the draw of the next tokens.

   The model is the common one (pre-norm RMSNorm, rotary grouped-query attention, SwiGLU) in float32. Framework
   operators on a few rows cost more to start than to run; here the threads start once a step. No Python, no framework:
   `__init__.py` hands in pointers; pool.h says where the threads come from.

   A column's result depends on nothing else in the batch: every sum runs in an order that neither the other columns
   nor the number of threads change. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define PANEL 16           /* columns side by side */
#define LINE 16            /* numbers in a line of the cache */
#define DEPTH 1024         /* entries of a column that stay in the cache while the rows of a matrix pass by */
#define CHUNK 128          /* tokens of the vocabulary that are summed together */
#define MAX_HEAD_SIZE 256
#define HEADS_AT_ONCE 4    /* columns whose attention one thread computes before it looks for more */
#define PIECE 64           /* rows of a matrix that one thread computes before it looks for more */
#ifndef LEAST_OPEN
#define LEAST_OPEN 256     /* columns of a matrix from which on a result may be copied: what its sums cost is far more */
#endif

#include "pool.h"
#include "pack.h"
#include "team.h"

typedef struct {
    const float *input_norm; /* (H) */
    const float *qkv_bias;   /* ((Q + 2G)·D) or null */
    const float *qk_norm;    /* (Q + G, D) or null */
    const float *post_norm;  /* (H) */
    Matrix qkv;              /* ((Q + 2G)·D, H) */
    Matrix out;              /* (H, Q·D) */
    Matrix gate_up;          /* (2I, H) */
    Matrix down;             /* (H, I) */
} Layer;

typedef struct {
    const Layer *layer;
    const float *final_norm; /* (H) */
    Matrix embedding;        /* (V, H) */
    Matrix lm_head;          /* (V, H) */
    const int32_t *feature_layers; /* whose inputs are the features; `layers` for what leaves the final norm */
    int32_t layers, hidden, inner, queries, groups, size, vocabulary, features;
    float eps;
} Model;

typedef struct {
    void *data;            /* (L, 2, R, G, T, D), see kv.py; float32, or bfloat16 where `half` */
    const float *cosine;   /* (T, D) */
    const float *sine;     /* (T, D), the first half negated */
    int64_t rows, length;  /* R, T */
    int32_t half;
} Memory;

typedef struct {
    const int64_t *tokens;    /* (C) */
    const int64_t *rows;      /* (C), the row of the memory that a column belongs to */
    const int64_t *positions; /* (C), its place there */
    const int64_t *common_rows; /* (C) or null: a row with the same first positions, read in place of the own one */
    const int64_t *common;    /* (C), how many */
    int32_t count;            /* C */
    int32_t shared_rows;      /* whether several columns belong to one row: a prompt */
    int32_t logits_from;      /* the first panel whose logits are wanted; P for none */
} Columns;

typedef struct { /* memory for intermediate results; `__init__.py` says how large each is */
    float *x, *qkv, *attended, *inner, *logits, *features, *normed, *scores, *peaks, *weights, *plain, *scratch;
    Prepared prepared;
    int64_t normed_size, scratch_size; /* of one thread */
    int32_t threads;
} Work;

typedef struct { /* rows of a matrix's product, (P, rows, width), from row `first` on */
    float *data;
    int first, rows, width;
} Output;

typedef struct {
    const float *uniform;             /* (R, T), in [0, 1): the number at a token's place draws it */
    const float *inverse_temperature; /* (P·16) */
    const uint8_t *greedy;            /* (C) */
    int64_t *tokens;                  /* (C), out; -1 where the logits are NaN or infinite */
    double *logprobs;                 /* (C), out, at temperature 1 */
    const int64_t *places;            /* (C), into `uniform` */
    int32_t tempered;                 /* whether any temperature is not 1 */
} Draw;

typedef struct {
    const float *w1; /* (inner, hidden) */
    const float *b1; /* (inner) */
    const float *w2; /* (inner) */
    float b2;
    int32_t hidden, inner;
} Head;

typedef struct {
    const Model *model;
    const Memory *kv;
    const Columns *in;
    Work *work;
    const Draw *draw;
    Team team;
} Pass;

typedef struct {
    const Head *head;
    const float *features;
    const int64_t *rows;
    int count;
    float *parts;
} Scoring;

static inline float *output(const Output *y, int panel, int row)
{
    return y->data + ((size_t)panel * y->rows + row - y->first) * y->width;
}

static void copy_rows(const Output *to, const Output *from, int first, int rows, int panels)
{
    for (int p = 0; p < panels; p++)
        memcpy(output(to, p, first), output(from, p, first), (size_t)rows * to->width * sizeof(float));
}

static void draw_token(const Model *m, const Work *work, const Draw *draw, int c, int chunks, int width);

#ifdef __clang__
#define SHUFFLE(x, y, mask, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHUFFLE(x, y, mask, ...) __builtin_shuffle(x, y, (mask){__VA_ARGS__})
#endif

typedef void StripProduct(const Matrix *, int, int, int, const Prepared *, int, int, float *);

#define TILES(f) plain_##f
#define TARGET
#define WIDE 0
#include "tiles.h"
#undef TILES
#undef TARGET
#undef WIDE

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define TILES(f) avx2_##f
#define TARGET __attribute__((target("avx2,fma")))
#define WIDE 1
#include "tiles.h"
#undef TILES
#undef TARGET
#undef WIDE
#define HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#elif defined(__aarch64__) && defined(__GNUC__)
#include "arm.h"
#define TILES(f) avx2_##f /* the first level beyond plain C: dot products of signed bytes */
#define TARGET ARM_DOT
#define WIDE 3
#include "tiles.h"
#undef TILES
#undef TARGET
#undef WIDE
#define HAS_AVX2 has_dot()
#else
#define avx2_strip plain_strip
#define HAS_AVX2 0
#endif

#if defined(__x86_64__) && defined(__GNUC__) || defined(REFLECTIVE_EMULATE_VNNI)
#define TILES(f) vnni_##f
#ifdef REFLECTIVE_EMULATE_VNNI
#define TARGET
#define HAS_VNNI HAS_AVX2
#else
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")))
#define HAS_VNNI                                                                                                       \
    (HAS_AVX2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&                            \
     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
#endif
#define WIDE 2
#include "tiles.h"
#undef TILES
#undef TARGET
#undef WIDE
#elif defined(__aarch64__) && defined(__GNUC__)
#define TILES(f) vnni_##f /* the second level: dot products of unsigned and signed bytes */
#define TARGET ARM_I8MM
#define WIDE 4
#include "tiles.h"
#undef TILES
#undef TARGET
#undef WIDE
#define HAS_VNNI (has_dot() && has_i8mm())
#else
#define vnni_strip plain_strip
#define HAS_VNNI 0
#endif

#if defined(__aarch64__)
#define EIGHT_BITS AVX2
#else
#define EIGHT_BITS VNNI
#endif

enum { PLAIN, AVX2, VNNI }; /* on ARM: plain C, dotprod, i8mm */
static int level = -1; /* of the instructions that are used */

static int best_level(void) { return HAS_VNNI ? VNNI : HAS_AVX2 ? AVX2 : PLAIN; }

/* The widest product that knows the matrix's layout. */
static StripProduct *strip_product(const Matrix *w)
{
    if (w->kind == INT8 && level < EIGHT_BITS) return plain_strip; /* AVX2: pairs would not fit into 16 bits */
    return level == VNNI ? vnni_strip : level == AVX2 ? avx2_strip : plain_strip;
}

#define LANES 4
#define TILE 4
#define NAME(f) plain_##f
#include "kernel.h"
#undef LANES
#undef TILE
#undef NAME

#if defined(__x86_64__) && defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define LANES 8
#define TILE 6
#define NAME(f) avx2_##f
#include "kernel.h"
#undef LANES
#undef TILE
#undef NAME
#pragma GCC pop_options
#else
#define avx2_forward plain_forward
#define avx2_head plain_head
#define avx2_prepare plain_prepare
#define avx2_packed_product plain_packed_product
#endif

/* The first token whose cumulative weight exceeds u · total; the first of the likeliest where greedy. The logits of 16
   columns lie side by side, or of one where the width is 1. */
static void draw_token(const Model *m, const Work *work, const Draw *draw, int c, int chunks, int width)
{
    const size_t base = (size_t)(c / PANEL) * chunks * PANEL + c % PANEL;
    const float *logits = work->logits + (size_t)(c / PANEL) * m->vocabulary * width + c % PANEL;
    double total = 0.0, plain = 0.0, below = 0.0;
    float peak = -INFINITY;
    int chunk = 0, token = -1;
    for (int i = 0; i < chunks; i++) {
        total += work->weights[base + (size_t)i * PANEL];
        plain += work->plain[base + (size_t)i * PANEL];
        if (work->peaks[base + (size_t)i * PANEL] > peak) peak = work->peaks[base + (size_t)i * PANEL], chunk = i;
    }
    draw->tokens[c] = -1;
    if (!isfinite(total) || !isfinite(plain) || !(total > 0.0) || !isfinite(peak)) return;
    const double point = draw->uniform[draw->places[c]] * total;
    if (!draw->greedy[c])
        for (chunk = 0; chunk < chunks - 1; chunk++) {
            const double next = below + work->weights[base + (size_t)chunk * PANEL];
            if (next > point) break;
            below = next;
        }
    const int begin = chunk * CHUNK, end = begin + CHUNK < m->vocabulary ? begin + CHUNK : m->vocabulary;
    for (int i = begin; i < end; i++) {
        const float logit = logits[(size_t)i * width];
        if (draw->greedy[c]) {
            if (logit == peak) { token = i; break; }
            continue;
        }
        const float weight = plain_exp((plain_vector){(logit - peak) * draw->inverse_temperature[c]})[0];
        below += weight;
        if (weight > 0.0f) token = i; /* where rounding leaves the sum short: the last possible one */
        if (below > point && token == i) break;
    }
    draw->tokens[c] = token;
    if (token >= 0) draw->logprobs[c] = (double)logits[(size_t)token * width] - peak - log(plain);
}

/* What `binding.py` must agree on before it uses this library, ended by 0. */
const int32_t *reflective_layout(void)
{
    static const int32_t layout[] = {PANEL, CHUNK, MAX_HEAD_SIZE, sizeof(Matrix), sizeof(Layer), sizeof(Model),
                                     sizeof(Memory), sizeof(Columns), sizeof(Work), sizeof(Draw), sizeof(Head), 0};
    return layout;
}

/* Use no wider instructions than this level, to compare the ways; -1 for the widest there are. Returns the level. */
int reflective_set_level(int most)
{
    const int best = best_level();
    level = most < 0 || most > best ? best : most;
    return level;
}

static void set_level(void)
{
    if (level < 0) reflective_set_level(-1);
}

/* What int8 is on this processor: 8 bits, or 7 where it has no products of bytes that are summed in 32 bits. */
int reflective_int8_kind(void)
{
    set_level();
    return level >= EIGHT_BITS ? INT8 : INT7;
}

/* Bytes of a packed matrix's data, and numbers of its scales, for so many rows (whole strips) and columns. */
void reflective_packed_size(int32_t kind, int32_t rows, int32_t columns, int64_t *bytes, int64_t *scales)
{
    const Matrix w = {.kind = kind, .rows = rows, .columns = columns};
    const int64_t blocks = (int64_t)((rows + STRIP - 1) / STRIP) * blocks_of(&w);
    *bytes = blocks * block_bytes(kind);
    *scales = kind == BFLOAT16 ? 0 : blocks * STRIP;
}

/* See `pack_rows`. */
int reflective_pack(Matrix *w, const void *source, int32_t half, int32_t first, int32_t rows, int32_t threads)
{
    set_level();
    return pack_rows(w, source, half, first, rows, threads, level >= AVX2);
}

/* One row of a matrix as numbers (K). */
void reflective_row(const Matrix *w, int64_t row, float *out)
{
    for (int k = 0; k < w->columns; k++) out[k] = entry(w, row, k);
}

/* The pass over all columns; with `draw`, also the next token of each. */
void reflective_forward(const Model *model, const Memory *kv, const Columns *in, Work *work, const Draw *draw)
{
    set_level();
    (level >= AVX2 ? avx2_forward : plain_forward)(model, kv, in, work, draw);
}

/* y (P, M, 16) = w · x (P, K, 16) for C columns, as a pass computes it. */
void reflective_product(const Matrix *w, const float *x, int32_t C, const Prepared *to, float *y)
{
    const Output out = {y, 0, w->rows, PANEL};
    set_level();
    if (level >= AVX2 && HAS_AVX2)
        avx2_prepare(w, x, PANEL, C, to, 0, 1), avx2_packed_product(w, to, 0, 0, out, 0, (w->rows + STRIP - 1) / STRIP, C);
    else
        plain_prepare(w, x, PANEL, C, to, 0, 1), plain_packed_product(w, to, 0, 0, out, 0, (w->rows + STRIP - 1) / STRIP, C);
}

/* The scores of n rows of features, see `head` in kernel.h. */
void reflective_head(const Head *head, const float *features, const int64_t *rows, int32_t n, float *parts,
                     double *logits, int32_t threads)
{
    set_level();
    (level >= AVX2 ? avx2_head : plain_head)(head, features, rows, n, parts, logits, threads);
}
