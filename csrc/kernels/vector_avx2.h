/* Eight floats, for the kernels whose file is compiled for AVX2, FMA and F16C. What computes with
 * them (math_float.h, tile_float.h and the *_float.inc.h) names no instruction set. */
#ifndef CNCLIP_VECTOR_AVX2_H
#define CNCLIP_VECTOR_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef __m256 vector;
enum { VECTOR_LANES = 8 };

static inline vector vector_of(float x) {
  return _mm256_set1_ps(x);
}

static inline vector vector_load(const float *from) {
  return _mm256_loadu_ps(from);
}

static inline void vector_store(float *to, vector x) {
  _mm256_storeu_ps(to, x);
}

/* All bits of the first `count` lanes. */
static inline __m256i vector_first_lanes(size_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lanes);
}

/* The first `count` lanes, all of them from eight on; the others are 0. */
static inline vector vector_load_first(const float *from, size_t count) {
  if (count >= VECTOR_LANES) return vector_load(from);
  return _mm256_maskload_ps(from, vector_first_lanes(count));
}

static inline void vector_store_first(float *to, vector x, size_t count) {
  if (count >= VECTOR_LANES) {
    vector_store(to, x);
  } else {
    _mm256_maskstore_ps(to, vector_first_lanes(count), x);
  }
}

/* The first `count` of eight lanes, and 0 in the others. */
static inline vector vector_keep_first(vector x, size_t count) {
  return _mm256_and_ps(x, _mm256_castsi256_ps(vector_first_lanes(count)));
}

/* The first `count` lanes of x, all of them from eight on, and the others of `rest`. */
static inline vector vector_replace_rest(vector x, vector rest, size_t count) {
  if (count >= VECTOR_LANES) return x;
  return _mm256_blendv_ps(rest, x, _mm256_castsi256_ps(vector_first_lanes(count)));
}

static inline vector vector_load_f16(const uint16_t *from) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

static inline vector vector_load_first_bf16(const uint16_t *from, size_t count) {
  uint16_t part[VECTOR_LANES] = {0};
  if (count < VECTOR_LANES) from = memcpy(part, from, count * sizeof *part);
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* To the nearest, ties to even. */
static inline void vector_store_first_bf16(uint16_t *to, vector x, size_t count) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const __m128i narrow =
      _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  memcpy(to, &narrow, (count < VECTOR_LANES ? count : VECTOR_LANES) * sizeof *to);
}

static inline vector vector_add(vector a, vector b) {
  return _mm256_add_ps(a, b);
}

static inline vector vector_subtract(vector a, vector b) {
  return _mm256_sub_ps(a, b);
}

static inline vector vector_multiply(vector a, vector b) {
  return _mm256_mul_ps(a, b);
}

static inline vector vector_divide(vector a, vector b) {
  return _mm256_div_ps(a, b);
}

/* a * b + c, rounded once. */
static inline vector vector_multiply_add(vector a, vector b, vector c) {
  return _mm256_fmadd_ps(a, b, c);
}

/* Where one is NaN, b. */
static inline vector vector_max(vector a, vector b) {
  return _mm256_max_ps(a, b);
}

static inline vector vector_min(vector a, vector b) {
  return _mm256_min_ps(a, b);
}

static inline vector vector_absolute(vector x) {
  return _mm256_andnot_ps(vector_of(-0.0f), x);
}

/* x > 0 ? a : b */
static inline vector vector_if_positive(vector x, vector a, vector b) {
  return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ));
}

/* To the nearest whole number. */
static inline vector vector_round(vector x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vector vector_power_of_two(__m256i whole) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(whole, _mm256_set1_epi32(127)), 23));
}

/* x * 2^whole for whole numbers of -252 to 254, rounded once: by two factors, since one float32 of
 * that size does not exist. */
static inline vector vector_scale(vector x, vector whole) {
  const __m256i all = _mm256_cvtps_epi32(whole), half = _mm256_srai_epi32(all, 1);
  return _mm256_mul_ps(_mm256_mul_ps(x, vector_power_of_two(half)),
                       vector_power_of_two(_mm256_sub_epi32(all, half)));
}

static inline float vector_sum(vector x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float vector_largest(vector x) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* The whole numbers nearest to x, of -127 to 127; 0 for what has none. */
static inline void vector_store_int8(int8_t *to, vector x) {
  const vector in_range = _mm256_cmp_ps(vector_absolute(x), vector_of(127.5f), _CMP_LT_OQ);
  const __m256i whole = _mm256_cvtps_epi32(_mm256_and_ps(x, in_range));
  const __m128i halves =
      _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64((__m128i *)to, _mm_packs_epi16(halves, halves));
}

/* Sixteen words of two numbers of 16 bits: the first of each to *ret_even, the second to *ret_odd.
 */
static inline void vector_split_words(vector a, vector b, vector *ret_even, vector *ret_odd) {
  const __m256i low = _mm256_castps_si256(a), high = _mm256_castps_si256(b);
  const __m256i first = _mm256_set1_epi32(0xFFFF);
  const __m256i even =
      _mm256_packus_epi32(_mm256_and_si256(low, first), _mm256_and_si256(high, first));
  const __m256i odd = _mm256_packus_epi32(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16));
  /* Packing mixes the halves. */
  *ret_even = _mm256_castsi256_ps(_mm256_permute4x64_epi64(even, 0xD8));
  *ret_odd = _mm256_castsi256_ps(_mm256_permute4x64_epi64(odd, 0xD8));
}

/* Eight rows of eight words become eight columns. */
static inline void vector_transpose(vector rows[8]) {
  vector pairs[8], fours[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int k = 0; k < 2; k++) {
      fours[i + 2 * k] = _mm256_shuffle_ps(pairs[i + k], pairs[i + k + 2], 0x44);
      fours[i + 2 * k + 1] = _mm256_shuffle_ps(pairs[i + k], pairs[i + k + 2], 0xEE);
    }
  }
  /* fours[4 a + b]: rows 4 a to 4 a + 3 of the columns b and b + 4, a half each. */
  for (int b = 0; b < 4; b++) {
    rows[b] = _mm256_permute2f128_ps(fours[b], fours[4 + b], 0x20);
    rows[b + 4] = _mm256_permute2f128_ps(fours[b], fours[4 + b], 0x31);
  }
}

#endif
