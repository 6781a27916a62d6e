/* Packing of weights for linear_float.inc.h: the panel's rows become words in `scratch`, and these
 * are transposed into the panel's strips, eight rows by eight words at a time. */
#include "kernels/linear.h"

#if defined(__x86_64__)

#include "kernels/linear_layout.h"
#include "kernels/vector_avx2.h"

enum { STRIP = 2 * VECTOR_LANES }; /* columns */

/* Eight weights of a row from `column` on; behind its end, 0. */
static inline vector load_weights(const cnclip_linear_packing *packing, size_t row, size_t column) {
  const size_t at = row * packing->input_width + column, left = packing->input_width - column;
  if (!packing->weight_is_f16) return vector_load_first((const float *)packing->weight + at, left);
  const uint16_t *f16 = (const uint16_t *)packing->weight + at;
  uint16_t part[VECTOR_LANES] = {0};
  if (left < VECTOR_LANES) f16 = memcpy(part, f16, left * sizeof *part);
  return vector_load_f16(f16);
}

/* As linear_pack_avx512.c does it, to the bit. Where a weight is not finite, the column's scale
 * becomes NaN. */
static void quantise_row(const cnclip_linear_packing *packing, size_t row, int8_t *to) {
  const size_t in = packing->input_width, out = packing->output_width;
  vector magnitudes = vector_of(0), check = vector_of(0);
  for (size_t i = 0; i < in; i += VECTOR_LANES) {
    const vector x = load_weights(packing, row, i);
    magnitudes = vector_max(vector_absolute(x), magnitudes);
    check = vector_multiply_add(x, vector_of(0), check);
  }
  const float largest = vector_largest(magnitudes), scale = largest / 127 + vector_sum(check);
  const vector inverse = vector_of(largest > 0 ? 127 / largest : 0);
  __m256i sum = _mm256_setzero_si256();
  for (size_t i = 0; i < in; i += VECTOR_LANES) {
    const vector x = vector_multiply(load_weights(packing, row, i), inverse);
    /* What has no integer becomes 0, which keeps its neighbours. */
    const vector in_range = _mm256_cmp_ps(vector_absolute(x), vector_of(127.5f), _CMP_LT_OQ);
    const __m256i whole = _mm256_cvtps_epi32(_mm256_and_ps(x, in_range));
    const __m128i halves =
        _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64((__m128i *)(to + i), _mm_packs_epi16(halves, halves));
    sum = _mm256_add_epi32(sum, whole);
  }
  int32_t parts[VECTOR_LANES], total = 0;
  _mm256_storeu_si256((__m256i *)parts, sum);
  for (size_t i = 0; i < VECTOR_LANES; i++) total += parts[i];
  linear_column_scales(packing->packed, in, out)[row] = scale;
  linear_column_sums(packing->packed, in, out)[row] = scale * (float)total;
}

/* In place of a row after the last. */
static void fill_nothing(const cnclip_linear_packing *packing, size_t row, void *words) {
  const size_t in = packing->input_width, out = packing->output_width;
  memset(words, 0, linear_panel_bytes(packing->type, in) / CNCLIP_LINEAR_PANEL);
  if (packing->type != CNCLIP_LINEAR_INT8) return;
  linear_column_scales(packing->packed, in, out)[row] = 0;
  linear_column_sums(packing->packed, in, out)[row] = 0;
}

/* Row `row` of the weight as words, and for int8 its scale and sum. */
static void fill_row(const cnclip_linear_packing *packing, size_t row, void *words) {
  const size_t width = packing->input_width;
  if (packing->type == CNCLIP_LINEAR_INT8) {
    quantise_row(packing, row, words);
  } else if (packing->type == CNCLIP_LINEAR_F16) {
    const uint16_t *f16 = (const uint16_t *)packing->weight + row * width;
    memcpy(words, f16, width * sizeof *f16);
  } else {
    for (size_t i = 0; i < width; i += VECTOR_LANES) {
      vector_store((float *)words + i, load_weights(packing, row, i));
    }
  }
}

/* Elements of 16 bits of two vectors of words: those at even places, then those at odd ones. */
static inline void split_words(vector low, vector high, __m256i *ret_even, __m256i *ret_odd) {
  const __m256i a = _mm256_castps_si256(low), b = _mm256_castps_si256(high);
  const __m256i first = _mm256_set1_epi32(0xFFFF);
  *ret_even = _mm256_packus_epi32(_mm256_and_si256(a, first), _mm256_and_si256(b, first));
  *ret_odd = _mm256_packus_epi32(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16));
  *ret_even = _mm256_permute4x64_epi64(*ret_even, 0xD8); /* packing mixes the halves */
  *ret_odd = _mm256_permute4x64_epi64(*ret_odd, 0xD8);
}

/* A word of each of a strip's columns, at *strip; of float16, that is two steps. */
static inline void store_words(cnclip_linear_type type, vector low, vector high, float *strip) {
  if (type == CNCLIP_LINEAR_F16) {
    __m256i even, odd;
    split_words(low, high, &even, &odd);
    low = _mm256_castsi256_ps(even);
    high = _mm256_castsi256_ps(odd);
  }
  vector_store(strip, low);
  vector_store(strip + VECTOR_LANES, high);
}

static void transpose_strip(cnclip_linear_type type, const float *rows, size_t stride, size_t words,
                            float *strip) {
  for (size_t word = 0; word < words; word += VECTOR_LANES) {
    vector low[VECTOR_LANES], high[VECTOR_LANES];
    for (size_t i = 0; i < VECTOR_LANES; i++) {
      low[i] = vector_load(rows + i * stride + word);
      high[i] = vector_load(rows + (VECTOR_LANES + i) * stride + word);
    }
    vector_transpose(low);
    vector_transpose(high);
    for (size_t i = 0; i < VECTOR_LANES && word + i < words; i++, strip += STRIP) {
      store_words(type, low[i], high[i], strip);
    }
  }
}

void cnclip_linear_pack_avx2(const cnclip_linear_packing *packing, size_t first, size_t last,
                             void *scratch) {
  const size_t panel_bytes = linear_panel_bytes(packing->type, packing->input_width);
  const size_t words = panel_bytes / CNCLIP_LINEAR_PANEL / sizeof(float);
  const size_t stride = linear_pack_stride(words);
  float *rows = scratch;
  for (size_t panel = first; panel < last; panel++) {
    for (size_t i = 0; i < CNCLIP_LINEAR_PANEL; i++) {
      const size_t row = panel * CNCLIP_LINEAR_PANEL + i;
      (row < packing->output_width ? fill_row : fill_nothing)(packing, row, rows + i * stride);
    }
    float *to = (float *)((char *)packing->packed + panel * panel_bytes);
    for (size_t i = 0; i < CNCLIP_LINEAR_PANEL; i += STRIP) {
      transpose_strip(packing->type, rows + i * stride, stride, words, to + i * words);
    }
  }
}

#endif
