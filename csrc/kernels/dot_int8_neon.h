/* What dot_int8_neon_dotprod.h and dot_int8_neon_i8mm.h have in common. They define dot_half_step,
 * which adds the products of words of four bytes to four sums. */
#ifndef CNCLIP_DOT_INT8_NEON_H
#define CNCLIP_DOT_INT8_NEON_H

#include "kernels/vector_neon.h"

static inline float32x4_t dot_half_step(float32x4_t row, float32x4_t columns, float32x4_t sums);

static inline vector dot_step(vector row, vector columns, vector sums) {
  return (vector){dot_half_step(row.low, columns.low, sums.low),
                  dot_half_step(row.high, columns.high, sums.high)};
}

#define TILE_STEP dot_step

static inline uint16x4_t dot_half_levels(float32x4_t x) {
  return vmovn_u32(vminq_u32(vcvtnq_u32_f32(x), vdupq_n_u32(255)));
}

/* Eight numbers of 0 to 255, rounded. What has no such integer becomes 0 or 255. */
static inline uint8x8_t dot_levels(vector x) {
  return vmovn_u16(vcombine_u16(dot_half_levels(x.low), dot_half_levels(x.high)));
}

static inline const float *dot_load_strip(const float *strip, size_t steps, float *memory) {
  (void)steps, (void)memory;
  return strip;
}

#endif
