/* Sums of products of uint8 by int8, for linear_float.inc.h on ARM64 with DotProd: SDOT multiplies
 * words of four signed bytes. Rows are therefore stored less 128, which takes 128 times the
 * column's weights from each sum. That is added again: the results are exact. */
#ifndef CNCLIP_DOT_INT8_NEON_DOTPROD_H
#define CNCLIP_DOT_INT8_NEON_DOTPROD_H

#include "kernels/dot_int8_neon.h"

static inline float32x4_t dot_half_step(float32x4_t row, float32x4_t columns, float32x4_t sums) {
  return vreinterpretq_f32_s32(vdotq_s32(vreinterpretq_s32_f32(sums), vreinterpretq_s8_f32(row),
                                         vreinterpretq_s8_f32(columns)));
}

/* Stores eight levels less 128 from `column` of a row on. */
static inline void dot_store_row(void *words, size_t column, vector x) {
  vst1_u8((uint8_t *)words + column, veor_u8(dot_levels(x), vdup_n_u8(0x80)));
}

static inline float32x4_t dot_half_sums(float32x4_t sums, float32x4_t column_sums) {
  const int32x4_t missing = vshlq_n_s32(vcvtq_s32_f32(column_sums), 7);
  return vcvtq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(sums), missing));
}

static inline vector dot_load_sums(const float *sums, vector column_sums) {
  const vector words = vector_load(sums);
  return (vector){dot_half_sums(words.low, column_sums.low),
                  dot_half_sums(words.high, column_sums.high)};
}

#endif
