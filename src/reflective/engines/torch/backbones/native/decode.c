/* A decoding step on a CPU as one call: embedding, decoder layers, logits, the draw of the next tokens.

   The model is the common one (pre-norm RMSNorm, rotary grouped-query attention, SwiGLU) in float32. Framework
   operators on a few rows cost more to start than to run; here the threads start once a step. No Python, no framework:
   `__init__.py` hands in pointers, and the OpenMP runtime that PyTorch has loaded already gives the threads.

   A column's result depends on nothing else in the batch: every sum runs in an order that neither the other columns
   nor the number of threads change. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define PANEL 16           /* columns side by side */
#define LINE 16            /* numbers in a line of the cache */
#define DEPTH 1024         /* entries of a column that stay in the cache while the rows of a matrix pass by */
#define CHUNK 128          /* tokens of the vocabulary that are summed together */
#define MAX_HEAD_SIZE 256

typedef struct { /* M rows (outputs), K columns (inputs); see matrix.py */
    const void *data;
    const float *scale;
    int32_t kind, rows, columns;
} Matrix;

enum { DENSE = 0 }; /* kinds: float32, (M, K) */

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
    int32_t layers, hidden, inner, queries, groups, size, vocabulary;
    int32_t feature_layer;   /* the layer whose input is the feature; `layers` for what leaves the final norm */
    float eps;
} Model;

typedef struct {
    float *data;           /* (L, 2, R, G, T, D), see kv.py */
    const float *cosine;   /* (T, D) */
    const float *sine;     /* (T, D), the first half negated */
    int64_t rows, length;  /* R, T */
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
    float *x, *qkv, *attended, *inner, *logits, *features, *normed, *scores, *peaks, *weights, *plain;
    int64_t normed_size; /* of one thread */
    int32_t threads;
} Work;

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

static void draw_token(const Model *m, const Work *work, const Draw *draw, int c, int chunks);

#ifdef __clang__
#define SHUFFLE(x, y, mask, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHUFFLE(x, y, mask, ...) __builtin_shuffle(x, y, (mask){__VA_ARGS__})
#endif

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
#define HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#else
#define HAS_AVX2 0
#define avx2_forward plain_forward
#define avx2_head plain_head
#endif

/* The first token whose cumulative weight exceeds u · total; the first of the likeliest where greedy. */
static void draw_token(const Model *m, const Work *work, const Draw *draw, int c, int chunks)
{
    const size_t base = (size_t)(c / PANEL) * chunks * PANEL + c % PANEL;
    const float *logits = work->logits + (size_t)(c / PANEL) * m->vocabulary * PANEL + c % PANEL;
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
        const float logit = logits[(size_t)i * PANEL];
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
    if (token >= 0) draw->logprobs[c] = (double)logits[(size_t)token * PANEL] - peak - log(plain);
}

static int narrow = 0;

/* What `__init__.py` must agree on before it uses this library, ended by 0. */
const int32_t *reflective_layout(void)
{
    static const int32_t layout[] = {PANEL, CHUNK, MAX_HEAD_SIZE, sizeof(Matrix), sizeof(Layer), sizeof(Model), sizeof(Memory),
                                     sizeof(Columns), sizeof(Work), sizeof(Draw), sizeof(Head), 0};
    return layout;
}

/* Whether the widest instructions of this CPU are left unused, to compare the ways. */
void reflective_set_narrow(int value) { narrow = value; }

/* The pass over all columns; with `draw`, also the next token of each. */
void reflective_forward(const Model *model, const Memory *kv, const Columns *in, Work *work, const Draw *draw)
{
    if (HAS_AVX2 && !narrow)
        avx2_forward(model, kv, in, work, draw);
    else
        plain_forward(model, kv, in, work, draw);
}

/* The scores of n rows of features, see `head` in kernel.h. */
void reflective_head(const Head *head, const float *features, const int64_t *rows, int32_t n, float *parts,
                     double *logits, int32_t threads)
{
    if (HAS_AVX2 && !narrow)
        avx2_head(head, features, rows, n, parts, logits, threads);
    else
        plain_head(head, features, rows, n, parts, logits, threads);
}
