/* Packing of float32 and float16 weights for linear_float.inc.h: the panel's rows become words in
 * `scratch`, and these are transposed into the panel's strips, eight rows by eight words at a
 * time. */
#include "kernels/linear.h"

#if defined(__x86_64__)

#include "kernels/linear_layout.h"
#include "kernels/vector_avx2.h"

enum { STRIP = 2 * VECTOR_LANES }; /* columns */

/* Row `row` of the weight as words; one after the last is 0. */
static void fill_row(const cnclip_linear_packing *packing, size_t row, void *words) {
  const size_t width = packing->input_width;
  const uint16_t *f16 = (const uint16_t *)packing->weight + row * width;
  if (row >= packing->output_width) {
    memset(words, 0, linear_panel_bytes(packing->type, width) / CNCLIP_LINEAR_PANEL);
  } else if (!packing->weight_is_f16) {
    memcpy(words, (const float *)packing->weight + row * width, width * sizeof(float));
  } else if (packing->type == CNCLIP_LINEAR_F16) {
    memcpy(words, f16, width * sizeof *f16);
  } else {
    for (size_t i = 0; i < width; i += VECTOR_LANES) {
      uint16_t part[VECTOR_LANES] = {0};
      const bool whole = width - i >= VECTOR_LANES;
      if (!whole) memcpy(part, f16 + i, (width - i) * sizeof *part);
      vector_store((float *)words + i, vector_load_f16(whole ? f16 + i : part));
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
      fill_row(packing, panel * CNCLIP_LINEAR_PANEL + i, rows + i * stride);
    }
    float *to = (float *)((char *)packing->packed + panel * panel_bytes);
    for (size_t i = 0; i < CNCLIP_LINEAR_PANEL; i += STRIP) {
      transpose_strip(packing->type, rows + i * stride, stride, words, to + i * words);
    }
  }
}

#endif
