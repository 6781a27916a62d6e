/* Sums of products of bfloat16, for linear_float.inc.h and attention_float.inc.h on ARM64 with
 * BF16: BFDOT multiplies words of two. Where the processor does not extend it (FPCR.EBF), it rounds
 * each sum of two products to odd, and takes denormal numbers for 0. */
#ifndef CNCLIP_DOT_BF16_NEON_BF16_H
#define CNCLIP_DOT_BF16_NEON_BF16_H

#include "kernels/vector_neon.h"

static inline float32x4_t dot_half_step(float32x4_t row, float32x4_t columns, float32x4_t sums) {
  return vbfdotq_f32(sums, vreinterpretq_bf16_f32(row), vreinterpretq_bf16_f32(columns));
}

static inline vector dot_step(vector row, vector columns, vector sums) {
  return (vector){dot_half_step(row.low, columns.low, sums.low),
                  dot_half_step(row.high, columns.high, sums.high)};
}

#define TILE_STEP dot_step

#endif
