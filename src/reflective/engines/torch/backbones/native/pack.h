/* Packed matrices: 16 rows (a strip) side by side, so that one register holds a number of each. Portable C.

   bfloat16     strips of (K/2 pairs, 16 rows, 2), each number the upper half of a float32
   int8, int7   strips of blocks of 64 columns; a block is (16 groups, 16 rows, 4) codes and 16 scales:
                w = scale · (code - offset), the offset 128 or 64
   int4         strips of blocks of 32 columns; a block is (4, 16 rows, 4) bytes of two codes 0..15 and 16 scales:
                w = scale · (code - 8); the low half of byte (i, row, j) is column 8i + j, the high half column 8i + 4 + j

   int8 needs VNNI. Without it, products of two bytes are added in pairs of 16 bits, where codes of 7 bits are as large as
   can be: int7, in the place of int8. Scales are bfloat16 (the upper half of a float32): 8 bits of precision are enough
   for a factor that the codes are chosen for. Rows and columns beyond the matrix are 0. */

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

/* One row's block, `count` numbers of it, into a strip. Returns the scale. */
static uint16_t pack_block(int kind, const float *w, int count, int lane, uint8_t *codes)
{
    float most = 0.0f, signed_most = 0.0f;
    for (int k = 0; k < count; k++) {
        const float size = fabsf(w[k]);
        if (size > most) most = size, signed_most = w[k];
    }
    if (kind == INT4) { /* the largest becomes -8, so that all 16 codes are used */
        const uint16_t half = to_half(signed_most / -8.0f);
        const float scale = from_half(half), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
        for (int k = 0; k < 32; k++) {
            int code = k < count ? nearest(w[k] * inverse) + 8 : 8;
            code = code < 0 ? 0 : code > 15 ? 15 : code;
            codes[(k / 8 * STRIP + lane) * 4 + k % 4] |= code << (k / 4 % 2 * 4);
        }
        return half;
    }
    const int offset = offset_of(kind), largest = offset - 1;
    const uint16_t half = to_half(most / (float)largest);
    const float scale = from_half(half), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (int k = 0; k < 64; k++) {
        int code = k < count ? nearest(w[k] * inverse) : 0;
        code = code < -largest ? -largest : code > largest ? largest : code;
        codes[(k / 4 * STRIP + lane) * 4 + k % 4] = code + offset;
    }
    return half;
}

/* Pack `rows` rows of `source` (row after row, K columns; float32, or 16 bits of bfloat16 where `half`) from row `first`
   of the matrix on, a whole number of strips from its beginning. Returns 0, or 1 where a number is NaN or infinite. */
static int pack_rows(Matrix *w, const void *source, int half, int first, int rows, int threads)
{
    const int K = w->columns, blocks = blocks_of(w), size = block_of(w->kind), bytes = block_bytes(w->kind);
    int broken = 0;
#pragma omp parallel for num_threads(threads) reduction(| : broken) schedule(dynamic, 4)
    for (int strip = 0; strip < (rows + STRIP - 1) / STRIP; strip++) {
        const size_t base = ((size_t)(first / STRIP) + strip) * blocks;
        for (int lane = 0; lane < STRIP && strip * STRIP + lane < rows; lane++) {
            const size_t row = (size_t)(strip * STRIP + lane) * K;
            for (int b = 0; b < blocks; b++) {
                const int count = K - b * size < size ? K - b * size : size;
                uint8_t *codes = (uint8_t *)w->data + (base + b) * bytes;
                float values[64];
                for (int k = 0; k < count; k++)
                    values[k] = half ? from_half(((const uint16_t *)source)[row + b * size + k])
                                     : ((const float *)source)[row + b * size + k];
                float total = 0.0f; /* not finite where any of them is not */
                for (int k = 0; k < count; k++) total += values[k] * 0.0f;
                if (total != 0.0f) broken = 1;
                if (w->kind == BFLOAT16)
                    for (int k = 0; k < count; k++) ((uint16_t *)codes)[lane * 2 + k] = to_half(values[k]);
                else
                    ((uint16_t *)w->scale)[(base + b) * STRIP + lane] = pack_block(w->kind, values, count, lane, codes);
            }
        }
    }
    return broken;
}

/* Columns as a packed product reads them: one after the other, each padded to whole blocks. */
typedef struct {
    void *codes;     /* (C, blocks · size): float32 for bfloat16, int8 else */
    float *scale;    /* (C, blocks) */
    int32_t *offset; /* (C, blocks), what the weights' offset adds to the sum of products, negated */
} Prepared;

/* Block `b` of the columns of a panel x (K, 16), of which `count` are there, from column `first` of `to` on. Codes are
   in -127..127: x = scale · code. A column depends on nothing but itself. */
static inline __attribute__((always_inline)) void prepare_block(const Matrix *w, const float *x, int count, int b, int first,
                                                                const Prepared *to)
{
    const int kind = w->kind, size = block_of(kind), blocks = blocks_of(w), K = w->columns;
    const int columns = K - b * size < size ? K - b * size : size;
    x += (size_t)b * size * 16;
    if (kind == BFLOAT16) {
        for (int c = 0; c < count; c++)
            for (int k = 0; k < 2; k++)
                ((float *)to->codes)[((size_t)(first + c) * blocks + b) * 2 + k] = k < columns ? x[k * 16 + c] : 0.0f;
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
