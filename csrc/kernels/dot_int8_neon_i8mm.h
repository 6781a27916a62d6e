/* Sums of products of uint8 by int8, for linear_float.inc.h on ARM64 with I8MM: USDOT multiplies
 * words of four bytes. */
#ifndef CNCLIP_DOT_INT8_NEON_I8MM_H
#define CNCLIP_DOT_INT8_NEON_I8MM_H

#include "kernels/dot_int8_neon.h"

static inline float32x4_t dot_half_step(float32x4_t row, float32x4_t columns, float32x4_t sums) {
  return vreinterpretq_f32_s32(vusdotq_s32(vreinterpretq_s32_f32(sums), vreinterpretq_u8_f32(row),
                                           vreinterpretq_s8_f32(columns)));
}

/* Stores eight levels from `column` of a row on. */
static inline void dot_store_row(void *words, size_t column, vector x) {
  vst1_u8((uint8_t *)words + column, dot_levels(x));
}

static inline vector dot_load_sums(const float *sums, vector column_sums) {
  (void)column_sums;
  const vector words = vector_load(sums);
  return (vector){vcvtq_f32_s32(vreinterpretq_s32_f32(words.low)),
                  vcvtq_f32_s32(vreinterpretq_s32_f32(words.high))};
}

#endif
