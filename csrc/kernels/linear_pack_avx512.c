/* Packing of weights, panel by panel: the panel's rows become words in `scratch`, and these are
 * transposed into the panel, sixteen rows by sixteen words at a time. */
#include "kernels/linear.h"

#if defined(__x86_64__)

#include <string.h>

#include "kernels/linear_layout.h"
#include "kernels/math_avx512.h"

static inline __m512 load_weights(const cnclip_linear_packing *packing, const void *row,
                                  size_t column, __mmask16 lanes) {
  if (packing->weight_is_f16) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, (const uint16_t *)row + column));
  }
  return _mm512_maskz_loadu_ps(lanes, (const float *)row + column);
}

/* *ret_check: 0, or NaN where a weight is not finite. */
static float largest_magnitude(const cnclip_linear_packing *packing, const void *row,
                               float *ret_check) {
  __m512 largest = _mm512_setzero_ps(), check = _mm512_setzero_ps();
  for (size_t i = 0; i < packing->input_width; i += 16) {
    const __m512 x = load_weights(packing, row, i, first_lanes(packing->input_width - i));
    largest = _mm512_max_ps(_mm512_abs_ps(x), largest); /* which returns that for a NaN */
    check = _mm512_fmadd_ps(x, _mm512_setzero_ps(), check);
  }
  *ret_check = _mm512_reduce_add_ps(check);
  return _mm512_reduce_max_ps(largest);
}

/* Where a weight is not finite, the column's scale becomes NaN. */
static void quantise_row(const cnclip_linear_packing *packing, const void *row, int8_t *to,
                         float *ret_scale, float *ret_sum) {
  float check;
  const float largest = largest_magnitude(packing, row, &check);
  const __m512 inverse = _mm512_set1_ps(largest > 0 ? 127 / largest : 0);
  __m512i sum = _mm512_setzero_si512();
  for (size_t i = 0; i < packing->input_width; i += 16) {
    const __mmask16 lanes = first_lanes(packing->input_width - i);
    const __m512 x = _mm512_mul_ps(load_weights(packing, row, i, lanes), inverse);
    /* What has no integer becomes 0, which keeps its neighbours. */
    const __mmask16 in_range =
        _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(127.5f), _CMP_LT_OQ);
    const __m512i whole = _mm512_maskz_cvtps_epi32(in_range, x);
    _mm512_mask_cvtepi32_storeu_epi8(to + i, lanes, whole);
    sum = _mm512_add_epi32(sum, whole);
  }
  *ret_scale = largest / 127 + check;
  *ret_sum = (float)_mm512_reduce_add_epi32(sum);
}

static void round_row(const cnclip_linear_packing *packing, const void *row, uint16_t *to) {
  for (size_t i = 0; i < packing->input_width; i += 16) {
    const __mmask16 lanes = first_lanes(packing->input_width - i);
    _mm256_mask_storeu_epi16(to + i, lanes, to_bf16(load_weights(packing, row, i, lanes)));
  }
}

static void widen_row(const cnclip_linear_packing *packing, const void *row, float *to) {
  for (size_t i = 0; i < packing->input_width; i += 16) {
    const __mmask16 lanes = first_lanes(packing->input_width - i);
    _mm512_mask_storeu_ps(to + i, lanes, load_weights(packing, row, i, lanes));
  }
}

/* x[i] becomes word i of all sixteen. */
static inline void transpose(__m512i x[16]) {
  __m512i y[16];
  for (size_t i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (size_t i = 0; i < 16; i += 4) {
    for (size_t k = 0; k < 2; k++) {
      x[i + 2 * k] = _mm512_unpacklo_epi64(y[i + k], y[i + k + 2]);
      x[i + 2 * k + 1] = _mm512_unpackhi_epi64(y[i + k], y[i + k + 2]);
    }
  }
  /* Now x[4 a + b] holds, in its four parts p, word 4 p + b of rows 4 a to 4 a + 3. */
  for (size_t b = 0; b < 4; b++) {
    y[b] = _mm512_shuffle_i32x4(x[b], x[4 + b], 0x88);
    y[4 + b] = _mm512_shuffle_i32x4(x[b], x[4 + b], 0xDD);
    y[8 + b] = _mm512_shuffle_i32x4(x[8 + b], x[12 + b], 0x88);
    y[12 + b] = _mm512_shuffle_i32x4(x[8 + b], x[12 + b], 0xDD);
  }
  for (size_t b = 0; b < 4; b++) {
    x[b] = _mm512_shuffle_i32x4(y[b], y[8 + b], 0x88);
    x[8 + b] = _mm512_shuffle_i32x4(y[b], y[8 + b], 0xDD);
    x[4 + b] = _mm512_shuffle_i32x4(y[4 + b], y[12 + b], 0x88);
    x[12 + b] = _mm512_shuffle_i32x4(y[4 + b], y[12 + b], 0xDD);
  }
}

/* One word of each of a panel's columns. Of float16, a word is two steps: even and odd elements. */
static inline void store_words(cnclip_linear_type type, __m512i low, __m512i high, uint32_t *to) {
  if (type == CNCLIP_LINEAR_F16) {
    const __m256i low_even = _mm512_cvtepi32_epi16(low), high_even = _mm512_cvtepi32_epi16(high);
    const __m256i low_odd = _mm512_cvtepi32_epi16(_mm512_srli_epi32(low, 16));
    const __m256i high_odd = _mm512_cvtepi32_epi16(_mm512_srli_epi32(high, 16));
    low = _mm512_inserti64x4(_mm512_castsi256_si512(low_even), high_even, 1);
    high = _mm512_inserti64x4(_mm512_castsi256_si512(low_odd), high_odd, 1);
  }
  _mm512_storeu_si512(to, low);
  _mm512_storeu_si512(to + 16, high);
}

static void transpose_panel(cnclip_linear_type type, const uint32_t *rows, size_t stride,
                            size_t words, uint32_t *panel) {
  for (size_t word = 0; word < words; word += 16) {
    __m512i low[16], high[16];
    for (size_t i = 0; i < 16; i++) {
      low[i] = _mm512_loadu_si512(rows + i * stride + word);
      high[i] = _mm512_loadu_si512(rows + (16 + i) * stride + word);
    }
    transpose(low);
    transpose(high);
    for (size_t i = 0; i < 16 && word + i < words; i++, panel += CNCLIP_LINEAR_PANEL) {
      store_words(type, low[i], high[i], panel);
    }
  }
}

static float *scales_of(const cnclip_linear_packing *packing) {
  return linear_column_scales(packing->packed, packing->input_width, packing->output_width);
}

static float *sums_of(const cnclip_linear_packing *packing) {
  return linear_column_sums(packing->packed, packing->input_width, packing->output_width);
}

/* Row `row` of the weight as words, and for int8 its scale and sum. */
static void fill_row(const cnclip_linear_packing *packing, size_t row, void *words) {
  const size_t element = packing->weight_is_f16 ? sizeof(uint16_t) : sizeof(float);
  const char *weight = (const char *)packing->weight + row * packing->input_width * element;
  switch (packing->type) {
    case CNCLIP_LINEAR_F32:
      widen_row(packing, weight, words);
      break;
    case CNCLIP_LINEAR_F16:
      memcpy(words, weight, packing->input_width * sizeof(uint16_t));
      break;
    case CNCLIP_LINEAR_BF16:
      round_row(packing, weight, words);
      break;
    case CNCLIP_LINEAR_INT8:
      quantise_row(packing, weight, words, scales_of(packing) + row, sums_of(packing) + row);
      break;
  }
}

/* In place of a row after the last. */
static void fill_nothing(const cnclip_linear_packing *packing, size_t row, void *words) {
  memset(words, 0, linear_panel_bytes(packing->type, packing->input_width) / CNCLIP_LINEAR_PANEL);
  if (packing->type != CNCLIP_LINEAR_INT8) return;
  scales_of(packing)[row] = 0;
  sums_of(packing)[row] = 0;
}

void cnclip_linear_pack_avx512(const cnclip_linear_packing *packing, size_t first, size_t last,
                               void *scratch) {
  const size_t panel_bytes = linear_panel_bytes(packing->type, packing->input_width);
  const size_t words = panel_bytes / CNCLIP_LINEAR_PANEL / sizeof(uint32_t);
  const size_t stride = linear_pack_stride(words);
  uint32_t *rows = scratch;
  for (size_t panel = first; panel < last; panel++) {
    for (size_t i = 0; i < CNCLIP_LINEAR_PANEL; i++) {
      const size_t row = panel * CNCLIP_LINEAR_PANEL + i;
      (row < packing->output_width ? fill_row : fill_nothing)(packing, row, rows + i * stride);
    }
    transpose_panel(packing->type, rows, stride, words,
                    (uint32_t *)((char *)packing->packed + panel * panel_bytes));
  }
}

#endif
