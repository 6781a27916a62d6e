/* Only the vertical pass: the horizontal one gains nothing from wider registers.
 *
 * A coefficient has 23 bits and a sign, too many for the 16-bit multiply-add. It is split,
 * k = low + (high << 16), both signed, and the sums of the two halves' products are kept apart
 * until the end. A sum may wrap on the way; in the end it is right modulo 2^32, and fits. */
#include "image/resample.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

/* Coefficients, or the sums of their products. */
typedef struct {
  __m512i low, high;
} halves;

/* Two coefficients as adjacent int16 pairs, in all lanes. The high half is rounded, not cut,
 * which makes up for the low half's sign. */
static inline halves load_two_taps(const int32_t *coefficients) {
  int64_t bits;
  memcpy(&bits, coefficients, sizeof bits);
  __m512i two = _mm512_set1_epi64(bits);
  __m512i rounded = _mm512_add_epi32(two, _mm512_set1_epi32(1 << 15));
  halves result = {
      .low = _mm512_shuffle_epi8(two, _mm512_set1_epi32(0x05040100)),
      .high = _mm512_shuffle_epi8(rounded, _mm512_set1_epi32(0x07060302)),
  };
  return result;
}

/* sum + words * k, for each pair of words. */
static inline halves add_products(halves sum, __m512i words, halves k) {
  sum.low = _mm512_add_epi32(sum.low, _mm512_madd_epi16(words, k.low));
  sum.high = _mm512_add_epi32(sum.high, _mm512_madd_epi16(words, k.high));
  return sum;
}

static inline __m512i finish(halves sum) {
  __m512i joined = _mm512_add_epi32(sum.low, _mm512_slli_epi32(sum.high, 16));
  return _mm512_srai_epi32(joined, CNCLIP_RESAMPLE_PRECISION_BITS);
}

/* 64 output bytes, those at `at` that `mask` has. With an odd count the last row is paired with
 * itself: the coefficient after the window is zero. */
static inline void vertical_block(const int32_t *coefficients, size_t count,
                                  const uint8_t *const *rows, size_t at, __mmask64 mask,
                                  uint8_t *output) {
  const __m512i zero = _mm512_setzero_si512();
  const halves half = {_mm512_set1_epi32(1 << (CNCLIP_RESAMPLE_PRECISION_BITS - 1)), zero};
  halves s0 = half, s1 = half, s2 = half, s3 = half;
  for (size_t j = 0; j < count; j += 2) {
    const uint8_t *next = rows[j + 1 < count ? j + 1 : j];
    halves k = load_two_taps(coefficients + j);
    __m512i a = _mm512_maskz_loadu_epi8(mask, rows[j] + at);
    __m512i b = _mm512_maskz_loadu_epi8(mask, next + at);
    __m512i lower = _mm512_unpacklo_epi8(a, b), upper = _mm512_unpackhi_epi8(a, b);
    s0 = add_products(s0, _mm512_unpacklo_epi8(lower, zero), k);
    s1 = add_products(s1, _mm512_unpackhi_epi8(lower, zero), k);
    s2 = add_products(s2, _mm512_unpacklo_epi8(upper, zero), k);
    s3 = add_products(s3, _mm512_unpackhi_epi8(upper, zero), k);
  }
  __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(finish(s0), finish(s1)),
                                      _mm512_packs_epi32(finish(s2), finish(s3)));
  _mm512_mask_storeu_epi8(output + at, mask, bytes);
}

void cnclip_resample_vertical_u8_avx512(const cnclip_resample_filter *filter, int position,
                                        const uint8_t *const *rows, size_t bytes, uint8_t *output) {
  const int32_t *coefficients = filter->coefficients + (size_t)position * filter->capacity;
  size_t count = (size_t)filter->count[position], at = 0;
  for (; at + 64 <= bytes; at += 64) {
    vertical_block(coefficients, count, rows, at, UINT64_MAX, output);
  }
  if (at < bytes) {
    vertical_block(coefficients, count, rows, at, UINT64_MAX >> (64 - (bytes - at)), output);
  }
}

#else
typedef int cnclip_no_avx512_here; /* an empty translation unit is not C */
#endif
