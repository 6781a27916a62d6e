/* Sums of products of uint8 by int8, for linear_float.inc.h on AVX-VNNI: as words of four bytes.
 * A file that includes this has defined VNNI_FORM, the instruction's form. */
#ifndef CNCLIP_DOT_INT8_AVX_VNNI_H
#define CNCLIP_DOT_INT8_AVX_VNNI_H

#include "kernels/vector_avx2.h"

/* Assembly for the reason in linear_int8_avx512_vnni.c. */
static inline vector dot_step(vector row, vector columns, vector sums) {
  __asm__(VNNI_FORM "vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(row), "v"(columns));
  return sums;
}

#define TILE_STEP dot_step

/* Rounds eight numbers of 0 to 255 from `column` of a row on. What has no such integer becomes
 * 255. */
static inline void dot_store_row(void *words, size_t column, vector x) {
  const __m256i whole = _mm256_min_epu32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(255));
  const __m128i halves =
      _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64((__m128i *)((uint8_t *)words + column), _mm_packus_epi16(halves, halves));
}

static inline const float *dot_load_strip(const float *strip, size_t steps, float *memory) {
  (void)steps, (void)memory;
  return strip;
}

static inline vector dot_load_sums(const float *sums, vector column_sums) {
  (void)column_sums;
  return _mm256_cvtepi32_ps(_mm256_castps_si256(vector_load(sums)));
}

#endif
