/* Packing of weights for linear_float.inc.h: the panel's rows become words in `scratch`, and these
 * are transposed into the panel's strips, eight rows by eight words at a time. A file that includes
 * this has included one of vector_<isa>.h, and defined PACK_NAME, and PACKS_BF16 as 1 where there
 * are kernels for bf16, else 0. */
#include "kernels/linear_layout.h"

enum { STRIP = 2 * VECTOR_LANES }; /* columns */

/* Eight weights of a row from `column` on; after its end, 0. */
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
  for (size_t i = 0; i < in; i += VECTOR_LANES) {
    /* What has no integer becomes 0, which keeps its neighbours. */
    vector_store_int8(to + i, vector_multiply(load_weights(packing, row, i), inverse));
  }
  int32_t total = 0;
  for (size_t i = 0; i < in; i++) total += to[i];
  linear_column_scales(packing->packed, in, out)[row] = scale;
  linear_column_sums(packing->packed, in, out)[row] = (float)total;
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
  } else if (PACKS_BF16 && packing->type == CNCLIP_LINEAR_BF16) {
    for (size_t i = 0; i < width; i += VECTOR_LANES) {
      vector_store_first_bf16((uint16_t *)words + i, load_weights(packing, row, i), VECTOR_LANES);
    }
  } else if (packing->type == CNCLIP_LINEAR_F16) {
    const uint16_t *f16 = (const uint16_t *)packing->weight + row * width;
    memcpy(words, f16, width * sizeof *f16);
  } else {
    for (size_t i = 0; i < width; i += VECTOR_LANES) {
      vector_store((float *)words + i, load_weights(packing, row, i));
    }
  }
}

/* A word of each of a strip's columns, at *strip; of float16, that is two steps. */
static inline void store_words(cnclip_linear_type type, vector low, vector high, float *strip) {
  if (type == CNCLIP_LINEAR_F16) {
    vector_split_words(low, high, &low, &high);
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

void PACK_NAME(const cnclip_linear_packing *packing, size_t first, size_t last, void *scratch) {
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
