/* Sums of products of uint8 by int8, for linear_float.inc.h on ARM64 with I8MM: USDOT multiplies
 * words of four bytes. */
#ifndef CNCLIP_DOT_INT8_NEON_I8MM_H
#define CNCLIP_DOT_INT8_NEON_I8MM_H

#include "kernels/vector_neon.h"

static inline float32x4_t dot_half_step(float32x4_t row, float32x4_t columns, float32x4_t sums) {
  return vreinterpretq_f32_s32(vusdotq_s32(vreinterpretq_s32_f32(sums), vreinterpretq_u8_f32(row),
                                           vreinterpretq_s8_f32(columns)));
}

static inline vector dot_step(vector row, vector columns, vector sums) {
  return (vector){dot_half_step(row.low, columns.low, sums.low),
                  dot_half_step(row.high, columns.high, sums.high)};
}

#define TILE_STEP dot_step

static inline uint16x4_t dot_half_levels(float32x4_t x) {
  return vmovn_u32(vminq_u32(vcvtnq_u32_f32(x), vdupq_n_u32(255)));
}

/* Rounds eight numbers of 0 to 255 from `column` of a row on. What has no such integer becomes 0 or
 * 255. */
static inline void dot_store_row(void *words, size_t column, vector x) {
  const uint16x8_t levels = vcombine_u16(dot_half_levels(x.low), dot_half_levels(x.high));
  vst1_u8((uint8_t *)words + column, vmovn_u16(levels));
}

static inline const float *dot_load_strip(const float *strip, size_t steps, float *memory) {
  (void)steps, (void)memory;
  return strip;
}

static inline vector dot_load_sums(const float *sums, vector column_sums) {
  (void)column_sums;
  const vector words = vector_load(sums);
  return (vector){vcvtq_f32_s32(vreinterpretq_s32_f32(words.low)),
                  vcvtq_f32_s32(vreinterpretq_s32_f32(words.high))};
}

#endif
