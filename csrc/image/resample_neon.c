/* Sums are uint32_t, as in resample_serial.c: what wraps on the way is harmless. */
#include "image/resample_groups.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>

static inline uint32x4_t half_of_rounding(void) {
  return vdupq_n_u32(UINT32_C(1) << (CNCLIP_RESAMPLE_PRECISION_BITS - 1));
}

/* Four sums as numbers of 0 to 255. */
static inline uint16x4_t finish(uint32x4_t sum) {
  return vqmovun_s32(vshrq_n_s32(vreinterpretq_s32_u32(sum), CNCLIP_RESAMPLE_PRECISION_BITS));
}

/* sum + four pixels of four bytes, each times its coefficient. */
static inline uint32x4_t add_four_pixels(uint32x4_t sum, const uint8_t *pixels, uint32x4_t k) {
  const uint8x16_t bytes = vld1q_u8(pixels);
  const uint16x8_t lower = vmovl_u8(vget_low_u8(bytes)), upper = vmovl_high_u8(bytes);
  sum = vmlaq_laneq_u32(sum, vmovl_u16(vget_low_u16(lower)), k, 0);
  sum = vmlaq_laneq_u32(sum, vmovl_high_u16(lower), k, 1);
  sum = vmlaq_laneq_u32(sum, vmovl_u16(vget_low_u16(upper)), k, 2);
  return vmlaq_laneq_u32(sum, vmovl_high_u16(upper), k, 3);
}

static inline void store_pixel(uint8_t *output, uint32x4_t sum) {
  const uint16x4_t words = finish(sum);
  const uint32x2_t bytes = vreinterpret_u32_u8(vqmovn_u16(vcombine_u16(words, words)));
  const uint32_t pixel = vget_lane_u32(bytes, 0);
  memcpy(output, &pixel, sizeof pixel);
}

static void horizontal_four(const cnclip_resample_filter *filter, const uint8_t *const inputs[ROWS],
                            uint8_t *const outputs[ROWS]) {
  for (int i = 0; i < filter->output_size; i++) {
    const int32_t *coefficients = filter->coefficients + (size_t)i * filter->capacity;
    size_t offset = (size_t)filter->first[i] * 4;
    const size_t end = offset + (size_t)filter->count[i] * 4;
    uint32x4_t a = half_of_rounding(), b = a, c = a, d = a;
    for (; offset < end; offset += 16, coefficients += 4) {
      const uint32x4_t k = vreinterpretq_u32_s32(vld1q_s32(coefficients));
      a = add_four_pixels(a, inputs[0] + offset, k);
      b = add_four_pixels(b, inputs[1] + offset, k);
      c = add_four_pixels(c, inputs[2] + offset, k);
      d = add_four_pixels(d, inputs[3] + offset, k);
    }
    store_pixel(outputs[0] + (size_t)i * 4, a);
    store_pixel(outputs[1] + (size_t)i * 4, b);
    store_pixel(outputs[2] + (size_t)i * 4, c);
    store_pixel(outputs[3] + (size_t)i * 4, d);
  }
}

void cnclip_resample_horizontal_u8_neon(const cnclip_resample_filter *filter,
                                        const uint8_t *const *inputs, uint8_t *const *outputs,
                                        int rows) {
  resample_in_groups(filter, inputs, outputs, rows, horizontal_four);
}

/* 16 output bytes, those at `at`. */
static inline void vertical_block(const int32_t *coefficients, int count,
                                  const uint8_t *const *rows, size_t at, uint8_t *output) {
  uint32x4_t a = half_of_rounding(), b = a, c = a, d = a;
  for (int j = 0; j < count; j++) {
    const uint32_t k = (uint32_t)coefficients[j];
    const uint8x16_t bytes = vld1q_u8(rows[j] + at);
    const uint16x8_t lower = vmovl_u8(vget_low_u8(bytes)), upper = vmovl_high_u8(bytes);
    a = vmlaq_n_u32(a, vmovl_u16(vget_low_u16(lower)), k);
    b = vmlaq_n_u32(b, vmovl_high_u16(lower), k);
    c = vmlaq_n_u32(c, vmovl_u16(vget_low_u16(upper)), k);
    d = vmlaq_n_u32(d, vmovl_high_u16(upper), k);
  }
  const uint8x8_t lower = vqmovn_u16(vcombine_u16(finish(a), finish(b)));
  const uint8x8_t upper = vqmovn_u16(vcombine_u16(finish(c), finish(d)));
  vst1q_u8(output + at, vcombine_u8(lower, upper));
}

void cnclip_resample_vertical_u8_neon(const cnclip_resample_filter *filter, int position,
                                      const uint8_t *const *rows, size_t bytes, uint8_t *output) {
  const int32_t *coefficients = filter->coefficients + (size_t)position * filter->capacity;
  const int count = filter->count[position];
  if (bytes < 16) {
    cnclip_resample_vertical_u8_serial(filter, position, rows, bytes, output);
    return;
  }
  for (size_t at = 0; at + 16 <= bytes; at += 16) {
    vertical_block(coefficients, count, rows, at, output);
  }
  /* The rest, with some bytes done twice. */
  if (bytes % 16 != 0) vertical_block(coefficients, count, rows, bytes - 16, output);
}

void cnclip_resample_widen_u8_neon(const uint8_t *input, size_t count, uint8_t *output) {
  static const uint8_t spread[16] = {0, 1, 2, 255, 3, 4, 5, 255, 6, 7, 8, 255, 9, 10, 11, 255};
  const uint8x16_t places = vld1q_u8(spread);
  size_t i = 0;
  for (; i + 6 <= count; i += 4) { /* reads 16 bytes: 4 pixels, and 4 bytes of the next two */
    vst1q_u8(output + i * 4, vqtbl1q_u8(vld1q_u8(input + i * 3), places));
  }
  cnclip_resample_widen_u8_serial(input + i * 3, count - i, output + i * 4);
}

#else
typedef int cnclip_no_neon_here; /* an empty translation unit is not C */
#endif
