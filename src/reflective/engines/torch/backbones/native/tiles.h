/* Products of a strip (16 rows) of a packed matrix with up to 16 columns. Included once for each instruction set, with

     TILES(f)   the name of f for this instruction set
     TARGET     the attribute that allows its instructions
     WIDE       1: AVX2, 2: AVX512 with VNNI, 3: ARM with dotprod, 4: ARM with i8mm, 0: portable C

   out (n, 16) = the sum over `blocks` blocks from `first` on, block after block; within one, products of codes are
   summed exactly, as integers. Neither the number of columns nor the threads change an order. */

/* what a block of weights is multiplied with: block b of column c of n */
#define COLUMN(type, c, b) ((const type *)x->codes + ((size_t)(c0 + (c)) * all + (b)) * size)

#if WIDE == 2

typedef int32_t TILES(wide) __attribute__((vector_size(64), aligned(1)));
typedef float TILES(wide_float) __attribute__((vector_size(64), aligned(1)));
typedef uint32_t TILES(wide_bits) __attribute__((vector_size(64), aligned(1)));
#define WORDS TILES(wide)
#define FLOATS TILES(wide_float)
#define BITS TILES(wide_bits)

/* acc + Σ of four products of unsigned bytes of a and signed bytes of b, in each lane */
static inline __attribute__((always_inline)) TARGET WORDS TILES(dot4)(WORDS acc, WORDS a, WORDS b)
{
#ifdef REFLECTIVE_EMULATE_VNNI
    const uint8_t *left = (const uint8_t *)&a;
    const int8_t *right = (const int8_t *)&b;
    for (int i = 0; i < 64; i++) acc[i / 4] += left[i] * right[i];
    return acc;
#else
    return (WORDS)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#endif
}

static inline __attribute__((always_inline)) TARGET FLOATS TILES(scales)(const uint16_t *scale)
{
    BITS bits;
    for (int r = 0; r < 16; r++) bits[r] = (uint32_t)scale[r] << 16;
    return (FLOATS)bits;
}

static inline __attribute__((always_inline)) TARGET WORDS TILES(quad)(const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, 4);
    return (WORDS){0} + four;
}

static inline __attribute__((always_inline)) TARGET void TILES(codes)(
    const int n, const Matrix *w, int strip, int first, int blocks, const Prepared *x, int c0, float *out)
{
    const int all = blocks_of(w), size = block_of(w->kind), four = w->kind == INT4;
    FLOATS total[16];
#pragma GCC unroll 16
    for (int c = 0; c < n; c++) total[c] = (FLOATS){0};
    for (int b = first; b < first + blocks; b++) {
        const size_t at = (size_t)strip * all + b;
        const uint8_t *codes = (const uint8_t *)w->data + at * block_bytes(w->kind);
        WORDS acc[16];
#pragma GCC unroll 16
        for (int c = 0; c < n; c++) acc[c] = (WORDS){0} + x->offset[(size_t)(c0 + c) * all + b];
        if (four)
            for (int i = 0; i < 4; i++) {
                const BITS both = *(const BITS *)(codes + i * 64);
                const WORDS low = (WORDS)(both & 0x0f0f0f0f), high = (WORDS)(both >> 4 & 0x0f0f0f0f);
                __builtin_prefetch(codes + i * 64 + 2048);
#pragma GCC unroll 16
                for (int c = 0; c < n; c++) {
                    acc[c] = TILES(dot4)(acc[c], low, TILES(quad)(COLUMN(int8_t, c, b) + i * 8));
                    acc[c] = TILES(dot4)(acc[c], high, TILES(quad)(COLUMN(int8_t, c, b) + i * 8 + 4));
                }
            }
        else
            for (int i = 0; i < 16; i++) {
                const WORDS four_each = *(const WORDS *)(codes + i * 64);
                __builtin_prefetch(codes + i * 64 + 4096);
#pragma GCC unroll 16
                for (int c = 0; c < n; c++)
                    acc[c] = TILES(dot4)(acc[c], four_each, TILES(quad)(COLUMN(int8_t, c, b) + i * 4));
            }
        const FLOATS scale = TILES(scales)(w->scale + at * STRIP);
#pragma GCC unroll 16
        for (int c = 0; c < n; c++)
            total[c] += __builtin_convertvector(acc[c], FLOATS) * (scale * x->scale[(size_t)(c0 + c) * all + b]);
    }
#pragma GCC unroll 16
    for (int c = 0; c < n; c++) *(FLOATS *)(out + c * STRIP) = total[c];
}

static inline __attribute__((always_inline)) TARGET void TILES(halves)(
    const int n, const Matrix *w, int strip, int first, int blocks, const Prepared *x, int c0, float *out)
{
    const int all = blocks_of(w), size = 2;
    FLOATS total[16];
#pragma GCC unroll 16
    for (int c = 0; c < n; c++) total[c] = (FLOATS){0};
    const BITS *pairs = (const BITS *)w->data + (size_t)strip * all;
    for (int b = first; b < first + blocks; b++) {
        const FLOATS even = (FLOATS)(pairs[b] << 16), odd = (FLOATS)(pairs[b] & 0xffff0000);
        __builtin_prefetch(pairs + b + 64);
#pragma GCC unroll 16
        for (int c = 0; c < n; c++) {
            total[c] += even * COLUMN(float, c, b)[0];
            total[c] += odd * COLUMN(float, c, b)[1];
        }
    }
#pragma GCC unroll 16
    for (int c = 0; c < n; c++) *(FLOATS *)(out + c * STRIP) = total[c];
}

#undef WORDS
#undef FLOATS
#undef BITS

#elif WIDE == 1

static inline __attribute__((always_inline)) TARGET __m256 TILES(scales)(const uint16_t *scale)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)scale)), 16));
}

static inline __attribute__((always_inline)) TARGET __m256i TILES(four)(const void *x)
{
    int32_t bits;
    memcpy(&bits, x, 4);
    return _mm256_set1_epi32(bits);
}

static inline __attribute__((always_inline)) TARGET void TILES(codes)(
    const int n, const Matrix *w, int strip, int first, int blocks, const Prepared *x, int c0, float *out)
{
    const int all = blocks_of(w), size = block_of(w->kind), four = w->kind == INT4;
    __m256 total[4][2];
#pragma GCC unroll 4
    for (int c = 0; c < n; c++) total[c][0] = total[c][1] = _mm256_setzero_ps();
    for (int b = first; b < first + blocks; b++) {
        const size_t at = (size_t)strip * all + b;
        const uint8_t *codes = (const uint8_t *)w->data + at * block_bytes(w->kind);
        __m256i acc[4][2];
        if (four) { /* at most 8 · 2 · 15 · 127 = 30,480: 16 bits are enough for a block */
            const __m256i low = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
#pragma GCC unroll 4
            for (int c = 0; c < n; c++) acc[c][0] = acc[c][1] = _mm256_setzero_si256();
#pragma GCC unroll 1
            for (int i = 0; i < 4; i++) {
                const __m256i both0 = _mm256_loadu_si256((const __m256i *)(codes + i * 64));
                const __m256i both1 = _mm256_loadu_si256((const __m256i *)(codes + i * 64 + 32));
                const __m256i low0 = _mm256_and_si256(both0, low), low1 = _mm256_and_si256(both1, low);
                const __m256i high0 = _mm256_and_si256(_mm256_srli_epi16(both0, 4), low);
                const __m256i high1 = _mm256_and_si256(_mm256_srli_epi16(both1, 4), low);
                __builtin_prefetch(codes + i * 64 + 2048);
#pragma GCC unroll 4
                for (int c = 0; c < n; c++) {
                    const __m256i left = TILES(four)(COLUMN(int8_t, c, b) + i * 8);
                    const __m256i right = TILES(four)(COLUMN(int8_t, c, b) + i * 8 + 4);
                    acc[c][0] = _mm256_add_epi16(acc[c][0], _mm256_maddubs_epi16(low0, left));
                    acc[c][1] = _mm256_add_epi16(acc[c][1], _mm256_maddubs_epi16(low1, left));
                    acc[c][0] = _mm256_add_epi16(acc[c][0], _mm256_maddubs_epi16(high0, right));
                    acc[c][1] = _mm256_add_epi16(acc[c][1], _mm256_maddubs_epi16(high1, right));
                    __asm__("" : "+x"(acc[c][0]), "+x"(acc[c][1])); /* or sums are reordered, and registers run out */
                }
            }
#pragma GCC unroll 4
            for (int c = 0; c < n; c++) {
                const __m256i offset = _mm256_set1_epi32(x->offset[(size_t)(c0 + c) * all + b]);
                acc[c][0] = _mm256_add_epi32(_mm256_madd_epi16(acc[c][0], one), offset);
                acc[c][1] = _mm256_add_epi32(_mm256_madd_epi16(acc[c][1], one), offset);
            }
        } else {
            const __m256i one = _mm256_set1_epi16(1);
#pragma GCC unroll 4
            for (int c = 0; c < n; c++) acc[c][0] = acc[c][1] = _mm256_set1_epi32(x->offset[(size_t)(c0 + c) * all + b]);
#pragma GCC unroll 1
            for (int i = 0; i < 16; i++) { /* a pair is at most 2 · 127 · 127: it fits into 16 bits */
                const __m256i w0 = _mm256_loadu_si256((const __m256i *)(codes + i * 64));
                const __m256i w1 = _mm256_loadu_si256((const __m256i *)(codes + i * 64 + 32));
                __builtin_prefetch(codes + i * 64 + 4096);
#pragma GCC unroll 4
                for (int c = 0; c < n; c++) {
                    const __m256i quad = TILES(four)(COLUMN(int8_t, c, b) + i * 4);
                    acc[c][0] = _mm256_add_epi32(acc[c][0], _mm256_madd_epi16(_mm256_maddubs_epi16(w0, quad), one));
                    acc[c][1] = _mm256_add_epi32(acc[c][1], _mm256_madd_epi16(_mm256_maddubs_epi16(w1, quad), one));
                }
            }
        }
        const __m256 scale0 = TILES(scales)(w->scale + at * STRIP), scale1 = TILES(scales)(w->scale + at * STRIP + 8);
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) {
            const __m256 own = _mm256_set1_ps(x->scale[(size_t)(c0 + c) * all + b]);
            total[c][0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[c][0]), _mm256_mul_ps(scale0, own), total[c][0]);
            total[c][1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[c][1]), _mm256_mul_ps(scale1, own), total[c][1]);
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < n; c++) {
        _mm256_storeu_ps(out + c * STRIP, total[c][0]);
        _mm256_storeu_ps(out + c * STRIP + 8, total[c][1]);
    }
}

static inline __attribute__((always_inline)) TARGET void TILES(halves)(
    const int n, const Matrix *w, int strip, int first, int blocks, const Prepared *x, int c0, float *out)
{
    const int all = blocks_of(w), size = 2;
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
    __m256 total[4][2];
#pragma GCC unroll 4
    for (int c = 0; c < n; c++) total[c][0] = total[c][1] = _mm256_setzero_ps();
    const __m256i *pairs = (const __m256i *)w->data + (size_t)strip * all * 2;
    for (int b = first; b < first + blocks; b++) {
        const __m256i w0 = _mm256_loadu_si256(pairs + 2 * b), w1 = _mm256_loadu_si256(pairs + 2 * b + 1);
        const __m256 even0 = _mm256_castsi256_ps(_mm256_slli_epi32(w0, 16)), odd0 = _mm256_castsi256_ps(_mm256_and_si256(w0, upper));
        const __m256 even1 = _mm256_castsi256_ps(_mm256_slli_epi32(w1, 16)), odd1 = _mm256_castsi256_ps(_mm256_and_si256(w1, upper));
        __builtin_prefetch(pairs + 2 * b + 128);
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) {
            const __m256 left = _mm256_set1_ps(COLUMN(float, c, b)[0]), right = _mm256_set1_ps(COLUMN(float, c, b)[1]);
            total[c][0] = _mm256_fmadd_ps(even0, left, total[c][0]);
            total[c][1] = _mm256_fmadd_ps(even1, left, total[c][1]);
            total[c][0] = _mm256_fmadd_ps(odd0, right, total[c][0]);
            total[c][1] = _mm256_fmadd_ps(odd1, right, total[c][1]);
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < n; c++) {
        _mm256_storeu_ps(out + c * STRIP, total[c][0]);
        _mm256_storeu_ps(out + c * STRIP + 8, total[c][1]);
    }
}

#elif WIDE == 3 || WIDE == 4

/* acc + Σ of four products of bytes in each lane. Codes are unsigned; where products are of signed bytes alone, those of
   int8 lose 128 first, which is their offset, and those of the other kinds are below 128. */
static inline __attribute__((always_inline)) TARGET int32x4_t TILES(dot4)(int32x4_t acc, uint8x16_t a, int8x16_t b)
{
#if WIDE == 3
    return vdotq_s32(acc, vreinterpretq_s8_u8(a), b);
#else
    return vusdotq_s32(acc, a, b);
#endif
}

static inline __attribute__((always_inline)) TARGET void TILES(codes)(
    const int n, const Matrix *w, int strip, int first, int blocks, const Prepared *x, int c0, float *out)
{
    const int all = blocks_of(w), size = block_of(w->kind), four = w->kind == INT4;
    const int shifted = WIDE == 3 && w->kind == INT8; /* whether the offset is taken from the codes themselves */
    const uint8x16_t sign = vdupq_n_u8(shifted ? 128 : 0), low = vdupq_n_u8(15);
    float32x4_t total[4][4];
    for (int c = 0; c < n; c++)
        for (int r = 0; r < 4; r++) total[c][r] = vdupq_n_f32(0.0f);
    for (int b = first; b < first + blocks; b++) {
        const size_t at = (size_t)strip * all + b;
        const uint8_t *codes = (const uint8_t *)w->data + at * block_bytes(w->kind);
        int32x4_t acc[4][4];
        for (int c = 0; c < n; c++)
            for (int r = 0; r < 4; r++)
                acc[c][r] = vdupq_n_s32(shifted ? 0 : x->offset[(size_t)(c0 + c) * all + b]);
        for (int i = 0; i < (four ? 4 : 16); i++)
            for (int r = 0; r < 4; r++) {
                const uint8x16_t each = vld1q_u8(codes + i * 64 + r * 16);
                for (int c = 0; c < n; c++) {
                    const int32_t *quads = (const int32_t *)(COLUMN(int8_t, c, b));
                    if (four) {
                        const int8x16_t left = vreinterpretq_s8_s32(vld1q_dup_s32(quads + i * 2));
                        const int8x16_t right = vreinterpretq_s8_s32(vld1q_dup_s32(quads + i * 2 + 1));
                        acc[c][r] = TILES(dot4)(acc[c][r], vandq_u8(each, low), left);
                        acc[c][r] = TILES(dot4)(acc[c][r], vshrq_n_u8(each, 4), right);
                    } else
                        acc[c][r] = TILES(dot4)(acc[c][r], veorq_u8(each, sign),
                                                vreinterpretq_s8_s32(vld1q_dup_s32(quads + i)));
                }
            }
        for (int r = 0; r < 4; r++) {
            const uint32x4_t bits = vshll_n_u16(vld1_u16(w->scale + at * STRIP + r * 4), 16);
            for (int c = 0; c < n; c++) {
                const float32x4_t scale = vmulq_n_f32(vreinterpretq_f32_u32(bits), x->scale[(size_t)(c0 + c) * all + b]);
                total[c][r] = vfmaq_f32(total[c][r], vcvtq_f32_s32(acc[c][r]), scale);
            }
        }
    }
    for (int c = 0; c < n; c++)
        for (int r = 0; r < 4; r++) vst1q_f32(out + c * STRIP + r * 4, total[c][r]);
}

static inline __attribute__((always_inline)) TARGET void TILES(halves)(
    const int n, const Matrix *w, int strip, int first, int blocks, const Prepared *x, int c0, float *out)
{
    const int all = blocks_of(w), size = 2;
    float32x4_t total[4][4];
    for (int c = 0; c < n; c++)
        for (int r = 0; r < 4; r++) total[c][r] = vdupq_n_f32(0.0f);
    const uint32_t *pairs = (const uint32_t *)w->data + (size_t)strip * all * STRIP;
    for (int b = first; b < first + blocks; b++)
        for (int r = 0; r < 4; r++) {
            const uint32x4_t both = vld1q_u32(pairs + (size_t)b * STRIP + r * 4);
            const float32x4_t even = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
            const float32x4_t odd = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000)));
            for (int c = 0; c < n; c++) {
                total[c][r] = vfmaq_n_f32(total[c][r], even, COLUMN(float, c, b)[0]);
                total[c][r] = vfmaq_n_f32(total[c][r], odd, COLUMN(float, c, b)[1]);
            }
        }
    for (int c = 0; c < n; c++)
        for (int r = 0; r < 4; r++) vst1q_f32(out + c * STRIP + r * 4, total[c][r]);
}

#else

static void TILES(codes)(const int n, const Matrix *w, int strip, int first, int blocks, const Prepared *x, int c0, float *out)
{
    const int all = blocks_of(w), size = block_of(w->kind);
    for (int c = 0; c < n; c++) {
        float total[STRIP] = {0};
        for (int b = first; b < first + blocks; b++) {
            const size_t at = (size_t)strip * all + b, own = (size_t)(c0 + c) * all + b;
            const uint8_t *codes = (const uint8_t *)w->data + at * block_bytes(w->kind);
            for (int r = 0; r < STRIP; r++) {
                int32_t acc = x->offset[own];
                for (int k = 0; k < size; k++) {
                    const int code = w->kind == INT4 ? codes[(k / 8 * STRIP + r) * 4 + k % 4] >> (k / 4 % 2 * 4) & 15
                                                     : codes[(k / 4 * STRIP + r) * 4 + k % 4];
                    acc += COLUMN(int8_t, c, b)[k] * code;
                }
                total[r] += (float)acc * (from_half(w->scale[at * STRIP + r]) * x->scale[own]);
            }
        }
        memcpy(out + c * STRIP, total, sizeof total);
    }
}

static void TILES(halves)(const int n, const Matrix *w, int strip, int first, int blocks, const Prepared *x, int c0, float *out)
{
    const int all = blocks_of(w), size = 2;
    for (int c = 0; c < n; c++) {
        float total[STRIP] = {0};
        for (int b = first; b < first + blocks; b++) {
            const uint16_t *pairs = (const uint16_t *)w->data + ((size_t)strip * all + b) * STRIP * 2;
            for (int i = 0; i < 2; i++)
                for (int r = 0; r < STRIP; r++) total[r] += from_half(pairs[r * 2 + i]) * COLUMN(float, c, b)[i];
        }
        memcpy(out + c * STRIP, total, sizeof total);
    }
}

#endif

/* The same for any number of columns up to 16. */
static TARGET void TILES(strip)(const Matrix *w, int strip, int first, int blocks, const Prepared *x, int c0, int n, float *out)
{
    for (int c = 0; c < n;) {
#define RUN(count) \
    (w->kind == BFLOAT16 ? TILES(halves)(count, w, strip, first, blocks, x, c0 + c, out + c * STRIP) \
                         : TILES(codes)(count, w, strip, first, blocks, x, c0 + c, out + c * STRIP))
#if WIDE == 2
        if (n - c >= 16) { RUN(16); c += 16; continue; }
        if (n - c >= 8) { RUN(8); c += 8; continue; }
#endif
        if (n - c >= 4) { RUN(4); c += 4; }
        else if (n - c >= 2) { RUN(2); c += 2; }
        else { RUN(1); c += 1; }
#undef RUN
    }
}

#undef COLUMN
