/* Packed matrices: 16 rows (a strip) side by side, so that one register holds a number of each. Portable C.

   bfloat16     strips of (K/2 pairs, 16 rows, 2), each number the upper half of a float32
   int8, int7   strips of blocks of 64 columns; a block is (16 groups, 16 rows, 4) codes and 16 scales:
                w = scale · (code - offset), the offset 128 or 64
   int4         strips of blocks of 32 columns; a block is (4, 16 rows, 4) bytes of two codes 0..15 and 16 scales:
                w = scale · (code - 8); the low half of byte (i, row, j) is column 8i + j, the high half column 8i + 4 + j

   int8 needs VNNI (ARM: dotprod). Without it, products of two bytes are added in pairs of 16 bits, where codes of 7 bits are as large as
   can be: int7, in the place of int8. Scales are bfloat16 (the upper half of a float32): 8 bits of precision are enough
   for a factor that the codes are chosen for. Rows and columns beyond the matrix are 0. */

#include <stdatomic.h>

#define STRIP 16

enum { DENSE = 0, BFLOAT16 = 1, INT8 = 2, INT7 = 3, INT4 = 4 };

typedef struct { /* M rows (outputs), K columns (inputs); see matrix.py */
    const void *data;
    const uint16_t *scale;
    int32_t kind, rows, columns;
} Matrix;

static inline int block_of(int kind) { return kind == INT4 ? 32 : kind == BFLOAT16 ? 2 : 64; } /* columns */
static inline int block_bytes(int kind) { return kind == INT4 ? 256 : kind == BFLOAT16 ? 64 : 1024; }
static inline int blocks_of(const Matrix *w) { return (w->columns + block_of(w->kind) - 1) / block_of(w->kind); }

static inline int offset_of(int kind) { return kind == INT4 ? 8 : kind == INT7 ? 64 : 128; } /* of a code */

static inline float from_half(uint16_t upper)
{
    const uint32_t bits = (uint32_t)upper << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t to_half(float value) /* to the nearest, ties to even */
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline int nearest(float x) { return (int)(x + 12582912.0f - 12582912.0f); } /* |x| < 2^22; ties to even */

/* The number at (row, column). */
static float entry(const Matrix *w, int64_t row, int column)
{
    if (w->kind == DENSE) return ((const float *)w->data)[row * w->columns + column];
    const int size = block_of(w->kind), at = column % size, lane = row % STRIP;
    const size_t block = row / STRIP * blocks_of(w) + column / size;
    const uint8_t *codes = (const uint8_t *)w->data + block * block_bytes(w->kind);
    if (w->kind == BFLOAT16) return from_half(((const uint16_t *)codes)[lane * 2 + at]);
    const float scale = from_half(w->scale[block * STRIP + lane]);
    if (w->kind == INT4) {
        const int code = codes[(at / 8 * STRIP + lane) * 4 + at % 4] >> (at / 4 % 2 * 4) & 15;
        return scale * (float)(code - 8);
    }
    return scale * (float)(codes[(at / 4 * STRIP + lane) * 4 + at % 4] - offset_of(w->kind));
}

/* One row's block into a strip: 64 numbers (int4: 32), those beyond the matrix 0. `most` are the bits of the largest
   magnitude. Returns the scale. */
static inline __attribute__((always_inline)) uint16_t pack_block(int kind, const float *w, int32_t most, int lane, uint8_t *codes)
{
    const int size = block_of(kind), offset = offset_of(kind), largest = offset - 1, least = kind == INT4 ? -offset : -largest;
    float peak, code[64];
    uint8_t bytes[64];
    memcpy(&peak, &most, 4);
    if (kind == INT4) { /* the largest becomes -8, so that all 16 codes are used */
        int k = 0;
        while (k < 31 && fabsf(w[k]) != peak) k++;
        peak = -w[k];
    }
    const uint16_t half = to_half(peak / (float)(kind == INT4 ? offset : largest));
    const float scale = from_half(half), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (int k = 0; k < size; k++) code[k] = w[k] * inverse + 12582912.0f - 12582912.0f; /* as `nearest` */
    for (int k = 0; k < size; k++) {
        const int whole = (int)code[k];
        bytes[k] = (uint8_t)((whole < least ? least : whole > largest ? largest : whole) + offset);
    }
    if (kind == INT4)
        for (int k = 0; k < 32; k += 8) {
            uint32_t low, high;
            memcpy(&low, bytes + k, 4), memcpy(&high, bytes + k + 4, 4);
            low |= high << 4; /* four bytes at once: none is above 15 */
            memcpy(codes + (k / 8 * STRIP + lane) * 4, &low, 4);
        }
    else
        for (int k = 0; k < 64; k += 4) memcpy(codes + (k / 4 * STRIP + lane) * 4, bytes + k, 4);
    return half;
}

/* A strip of `rows` rows, at most 16, of `source`. Returns 1 where a number is NaN or infinite. */
static inline __attribute__((always_inline)) int pack_strip(Matrix *w, const void *source, int half, size_t strip, int rows)
{
    const int K = w->columns, blocks = blocks_of(w), size = block_of(w->kind), bytes = block_bytes(w->kind);
    int broken = 0;
    if (w->kind == BFLOAT16) {
        uint16_t *to = (uint16_t *)w->data + strip * blocks * STRIP * 2;
        for (int lane = 0; lane < rows; lane++)
            for (int k = 0; k < K; k++) {
                const size_t at = (size_t)lane * K + k;
                const uint16_t upper = half ? ((const uint16_t *)source)[at] : to_half(((const float *)source)[at]);
                to[(k / 2 * STRIP + lane) * 2 + k % 2] = upper;
                broken |= (upper & 0x7f80) == 0x7f80;
            }
        return broken;
    }
    for (int lane = 0; lane < rows; lane++)
        for (int b = 0; b < blocks; b++) {
            const int count = K - b * size < size ? K - b * size : size;
            const size_t at = (size_t)lane * K + b * size;
            uint8_t *codes = (uint8_t *)w->data + (strip * blocks + b) * bytes;
            float values[64] = {0};
            int32_t bits[64], most = 0;
            if (half)
                for (int k = 0; k < count; k++) values[k] = from_half(((const uint16_t *)source)[at + k]);
            else
                memcpy(values, (const float *)source + at, count * sizeof(float));
            memcpy(bits, values, size * sizeof(float));
            for (int k = 0; k < size; k++) { /* magnitudes are ordered as their bits are */
                const int32_t magnitude = bits[k] & 0x7fffffff;
                most = magnitude > most ? magnitude : most;
            }
            if (most >= 0x7f800000) broken = 1;
            ((uint16_t *)w->scale)[(strip * blocks + b) * STRIP + lane] =
                w->kind == INT4   ? pack_block(INT4, values, most, lane, codes)
                : w->kind == INT7 ? pack_block(INT7, values, most, lane, codes)
                                  : pack_block(INT8, values, most, lane, codes);
        }
    return broken;
}

static int plain_pack(Matrix *w, const void *source, int half, size_t strip, int rows)
{
    return pack_strip(w, source, half, strip, rows);
}

#if defined(__x86_64__) && defined(__GNUC__)
static __attribute__((target("avx2"))) int avx2_pack(Matrix *w, const void *source, int half, size_t strip, int rows)
{
    return pack_strip(w, source, half, strip, rows);
}
#else
#define avx2_pack plain_pack
#endif

typedef struct {
    Matrix *w;
    const void *source;
    int half, first, rows, avx2;
    _Atomic int next, broken;
} Packing;

/* Strips, four at a time, until there are no more. */
static void pack_share(void *context, int thread, int threads)
{
    (void)thread, (void)threads;
    Packing *p = context;
    const int strips = (p->rows + STRIP - 1) / STRIP;
    for (int begin; (begin = atomic_fetch_add(&p->next, 4)) < strips;)
        for (int strip = begin; strip < strips && strip < begin + 4; strip++) {
            const int here = p->rows - strip * STRIP < STRIP ? p->rows - strip * STRIP : STRIP;
            const char *from = (const char *)p->source + (size_t)strip * STRIP * p->w->columns * (p->half ? 2 : 4);
            if ((p->avx2 ? avx2_pack : plain_pack)(p->w, from, p->half, (size_t)(p->first / STRIP) + strip, here))
                atomic_store(&p->broken, 1);
        }
}

/* Pack `rows` rows of `source` (row after row, K columns; float32, or 16 bits of bfloat16 where `half`) from row `first`
   of the matrix on, a whole number of strips from its beginning. Returns 0, or 1 where a number is NaN or infinite. */
static int pack_rows(Matrix *w, const void *source, int half, int first, int rows, int threads, int avx2)
{
    Packing packing = {.w = w, .source = source, .half = half, .first = first, .rows = rows, .avx2 = avx2};
    together(pack_share, &packing, threads);
    return packing.broken;
}

/* Columns as a packed product reads them: one after the other, each padded to whole blocks. */
typedef struct {
    void *codes;     /* (C, blocks · size): float32 for bfloat16, int8 else */
    float *scale;    /* (C, blocks) */
    int32_t *offset; /* (C, blocks), what the weights' offset adds to the sum of products, negated */
} Prepared;

/* `prepare_block` of one column of codes, whose entries lie `width` apart: 16 of them side by side, as there 16 columns. */
static inline __attribute__((always_inline)) void prepare_column(const float *x, int width, int columns, int size, int offset,
                                                                 size_t at, const Prepared *to)
{
    float value[64] = {0}, most[16] = {0}, broken[16] = {0};
    int8_t *codes = (int8_t *)to->codes + at * size;
    int32_t sum = 0;
    for (int k = 0; k < columns; k++) value[k] = x[(size_t)k * width];
    for (int k = 0; k < size; k += 16)
        for (int c = 0; c < 16; c++) {
            const float magnitude = fabsf(value[k + c]);
            most[c] = magnitude > most[c] ? magnitude : most[c];
            broken[c] += magnitude * 0.0f;
        }
    for (int c = 1; c < 16; c++) {
        most[0] = most[c] > most[0] ? most[c] : most[0];
        broken[0] += broken[c];
    }
    const float inverse = most[0] > 0.0f ? 127.0f / most[0] : 0.0f;
    for (int k = 0; k < size; k++) {
        const int32_t code = (int32_t)(value[k] * inverse + 12582912.0f - 12582912.0f);
        sum += code;
        codes[k] = (int8_t)code;
    }
    to->scale[at] = most[0] / 127.0f + broken[0];
    to->offset[at] = -sum * offset;
}

/* Block `b` of the columns of a panel x (K, width), of which `count` are there, from column `first` of `to` on; the width
   is 16, or 1 for a single column. Codes are in -127..127: x = scale · code. A column depends on nothing but itself. */
static inline __attribute__((always_inline)) void prepare_block(const Matrix *w, const float *x, int width, int count, int b,
                                                                int first, const Prepared *to)
{
    const int kind = w->kind, size = block_of(kind), blocks = blocks_of(w), K = w->columns;
    const int columns = K - b * size < size ? K - b * size : size;
    x += (size_t)b * size * width;
    if (kind == BFLOAT16) {
        for (int c = 0; c < count; c++)
            for (int k = 0; k < 2; k++)
                ((float *)to->codes)[((size_t)(first + c) * blocks + b) * 2 + k] = k < columns ? x[k * width + c] : 0.0f;
        return;
    }
    if (count == 1) {
        prepare_column(x, width, columns, size, offset_of(kind), (size_t)first * blocks + b, to);
        return;
    }
    float most[16] = {0}, broken[16] = {0}, inverse[16];
    int32_t sum[16] = {0}, code[64][16];
    for (int k = 0; k < columns; k++)
        for (int c = 0; c < 16; c++) {
            const float value = fabsf(x[k * 16 + c]);
            most[c] = value > most[c] ? value : most[c];
            broken[c] += value * 0.0f; /* an infinite or NaN input must not come out as a number */
        }
    for (int c = 0; c < 16; c++) inverse[c] = most[c] > 0.0f ? 127.0f / most[c] : 0.0f;
    for (int k = 0; k < columns; k++)
        for (int c = 0; c < 16; c++) {
            code[k][c] = (int32_t)(x[k * 16 + c] * inverse[c] + 12582912.0f - 12582912.0f);
            sum[c] += code[k][c];
        }
    for (int c = 0; c < count; c++) {
        const size_t at = (size_t)(first + c) * blocks + b;
        to->scale[at] = most[c] / 127.0f + broken[c];
        to->offset[at] = -sum[c] * offset_of(kind);
        for (int k = 0; k < size; k++) ((int8_t *)to->codes)[at * size + k] = k < columns ? code[k][c] : 0;
    }
}
