/* Sums of products of uint8 by int8, for linear_float.inc.h on AVX2: as words of two 16-bit
 * numbers, whose products vpmaddwd adds in 32 bits. That is exact; vpmaddubsw, which multiplies
 * bytes, would saturate at 16 bits.
 *
 * Of four numbers along the input, one word has the first and the third, the next word the
 * others: that is how 16-bit lanes are split into bytes. */
#ifndef CNCLIP_DOT_INT8_AVX2_H
#define CNCLIP_DOT_INT8_AVX2_H

#include "kernels/vector_avx2.h"

#define WORDS_PER_STEP 2

/* Assembly, not intrinsics: with those, gcc 12 computes many products before their sums, and has
 * too few registers. */
static inline vector dot_step(vector row, vector columns, vector sums) {
  vector products;
  __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
          : "+x"(sums), "=&x"(products)
          : "x"(row), "x"(columns));
  return sums;
}

#define TILE_STEP dot_step

/* Rounds eight numbers of 0 to 255 from `column` of a row on. What has no such integer becomes
 * 255. */
static inline void dot_store_row(void *words, size_t column, vector x) {
  const __m256i whole = _mm256_min_epu32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(255));
  const __m256i later = _mm256_slli_epi32(_mm256_srli_si256(whole, 8), 16);
  const __m256i pairs = _mm256_permute4x64_epi64(_mm256_or_si256(whole, later), 0x08);
  _mm_storeu_si128((__m128i *)((uint16_t *)words + column), _mm256_castsi256_si128(pairs));
}

/* Widens `steps` steps of a strip of sixteen columns: once for all tiles that multiply by them. */
static inline const float *dot_load_strip(const float *strip, size_t steps, float *memory) {
  for (size_t i = 0; i < 2 * steps; i++, strip += VECTOR_LANES) {
    const __m256i bytes = _mm256_castps_si256(vector_load(strip));
    float *to = memory + (i / 2 * 4 + i % 2) * VECTOR_LANES;
    const __m256i low = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
    vector_store(to, _mm256_castsi256_ps(low));
    vector_store(to + 2 * VECTOR_LANES, _mm256_castsi256_ps(_mm256_srai_epi16(bytes, 8)));
  }
  return memory;
}

static inline vector dot_load_sums(const float *sums, vector column_sums) {
  (void)column_sums;
  return _mm256_cvtepi32_ps(_mm256_castps_si256(vector_load(sums)));
}

#endif
