/* What this processor can do, for benchmarks/limits.py: loops that do nothing else. Built with -O3 -march=native. */

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define CHAINS 12 /* independent sums, so that no product waits for another */

/* Read n bytes, a multiple of 256, once. */
int64_t read_bytes(const uint8_t *from, int64_t n)
{
    typedef uint64_t Wide __attribute__((vector_size(32)));
    Wide sum[8] = {{0}};
    for (int64_t i = 0; i < n; i += 256)
        for (int k = 0; k < 8; k++) sum[k] ^= *(const Wide *)(from + i + 32 * k);
    for (int k = 1; k < 8; k++) sum[0] ^= sum[k];
    return (int64_t)(sum[0][0] ^ sum[0][1] ^ sum[0][2] ^ sum[0][3]);
}

/* `rounds` times CHAINS products of registers of bytes, summed in 32 bits. Returns the multiplications and additions of
   one product (0: this processor has no such instruction that is known here). */
int64_t multiply_bytes(int64_t rounds, int32_t *out)
{
#if defined(__AVX512VNNI__)
    __m512i acc[CHAINS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    for (int k = 0; k < CHAINS; k++) acc[k] = _mm512_setzero_si512();
    for (int64_t i = 0; i < rounds; i++) {
        for (int k = 0; k < CHAINS; k++) acc[k] = _mm512_dpbusd_epi32(acc[k], a, b);
        __asm__ volatile("" : "+v"(a), "+v"(b));
    }
    for (int k = 0; k < CHAINS; k++) *out += _mm512_reduce_add_epi32(acc[k]);
    return 128;
#elif defined(__AVX2__)
    __m256i acc[CHAINS], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), one = _mm256_set1_epi16(1);
    for (int k = 0; k < CHAINS; k++) acc[k] = _mm256_setzero_si256();
    for (int64_t i = 0; i < rounds; i++)
        for (int k = 0; k < CHAINS; k++) {
            __asm__ volatile("" : "+x"(a)); /* or all chains are found to be one */
            acc[k] = _mm256_add_epi32(acc[k], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one));
        }
    for (int k = 0; k < CHAINS; k++) *out += _mm256_extract_epi32(acc[k], 0);
    return 64;
#elif defined(__ARM_FEATURE_DOTPROD)
    int32x4_t acc[CHAINS];
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);
    for (int k = 0; k < CHAINS; k++) acc[k] = vdupq_n_s32(0);
    for (int64_t i = 0; i < rounds; i++) {
        for (int k = 0; k < CHAINS; k++) acc[k] = vdotq_s32(acc[k], a, b);
        __asm__ volatile("" : "+w"(a), "+w"(b));
    }
    for (int k = 0; k < CHAINS; k++) *out += vgetq_lane_s32(acc[k], 0);
    return 32;
#else
    return 0;
#endif
}

/* The same for float32: multiplications and additions of one. */
int64_t multiply_floats(int64_t rounds, float *out)
{
#if defined(__AVX512F__)
    typedef float Wide __attribute__((vector_size(64)));
#else
    typedef float Wide __attribute__((vector_size(32)));
#endif
    Wide acc[CHAINS], a, b;
    for (int k = 0; k < CHAINS; k++) acc[k] = (Wide){0};
    a = (Wide){0} + 1.0001f, b = (Wide){0} + 0.5f;
    for (int64_t i = 0; i < rounds; i++)
        for (int k = 0; k < CHAINS; k++) {
            acc[k] += a * b;
#if defined(__x86_64__)
            __asm__ volatile("" : "+x"(a));
#endif
        }
    for (int k = 0; k < CHAINS; k++) *out += acc[k][0];
    return 2 * sizeof(Wide) / sizeof(float);
}
