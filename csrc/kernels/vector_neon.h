/* Eight floats on ARM64, as two registers of four: what uses them keeps the layout of AVX2's
 * panels, and twelve sums of eight are 24 of the 32 registers. See vector_avx2.h. */
#ifndef CNCLIP_VECTOR_NEON_H
#define CNCLIP_VECTOR_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
  float32x4_t low, high;
} vector;
enum { VECTOR_LANES = 8 };

static inline vector vector_of(float x) {
  return (vector){vdupq_n_f32(x), vdupq_n_f32(x)};
}

static inline vector vector_load(const float *from) {
  return (vector){vld1q_f32(from), vld1q_f32(from + 4)};
}

static inline void vector_store(float *to, vector x) {
  vst1q_f32(to, x.low);
  vst1q_f32(to + 4, x.high);
}

/* The first `count` lanes, all of them from eight on; the others are 0. */
static inline vector vector_load_first(const float *from, size_t count) {
  if (count >= VECTOR_LANES) return vector_load(from);
  float part[VECTOR_LANES] = {0};
  memcpy(part, from, count * sizeof *part);
  return vector_load(part);
}

static inline void vector_store_first(float *to, vector x, size_t count) {
  if (count >= VECTOR_LANES) {
    vector_store(to, x);
  } else {
    float part[VECTOR_LANES];
    vector_store(part, x);
    memcpy(to, part, count * sizeof *part);
  }
}

/* a in the first `count` lanes, b in the others. */
static inline vector vector_first_of(vector a, vector b, size_t count) {
  static const uint32_t lanes[VECTOR_LANES] = {0, 1, 2, 3, 4, 5, 6, 7};
  const uint32x4_t end = vdupq_n_u32(count < VECTOR_LANES ? (uint32_t)count : VECTOR_LANES);
  return (vector){vbslq_f32(vcltq_u32(vld1q_u32(lanes), end), a.low, b.low),
                  vbslq_f32(vcltq_u32(vld1q_u32(lanes + 4), end), a.high, b.high)};
}

/* The first `count` of eight lanes, and 0 in the others. */
static inline vector vector_keep_first(vector x, size_t count) {
  return vector_first_of(x, vector_of(0), count);
}

/* The first `count` lanes of x, all of them from eight on, and the others of `rest`. */
static inline vector vector_replace_rest(vector x, vector rest, size_t count) {
  return count >= VECTOR_LANES ? x : vector_first_of(x, rest, count);
}

static inline vector vector_load_f16(const uint16_t *from) {
  const float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(from));
  return (vector){vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
}

static inline vector vector_load_first_bf16(const uint16_t *from, size_t count) {
  uint16_t part[VECTOR_LANES] = {0};
  if (count < VECTOR_LANES) from = memcpy(part, from, count * sizeof *part);
  const uint16x8_t words = vld1q_u16(from);
  return (vector){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(words), 16)),
                  vreinterpretq_f32_u32(vshll_high_n_u16(words, 16))};
}

/* To the nearest, ties to even. */
static inline uint16x4_t vector_half_to_bf16(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
}

static inline void vector_store_first_bf16(uint16_t *to, vector x, size_t count) {
  uint16_t narrow[VECTOR_LANES];
  vst1_u16(narrow, vector_half_to_bf16(x.low));
  vst1_u16(narrow + 4, vector_half_to_bf16(x.high));
  memcpy(to, narrow, (count < VECTOR_LANES ? count : VECTOR_LANES) * sizeof *to);
}

static inline vector vector_add(vector a, vector b) {
  return (vector){vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)};
}

static inline vector vector_subtract(vector a, vector b) {
  return (vector){vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)};
}

static inline vector vector_multiply(vector a, vector b) {
  return (vector){vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)};
}

static inline vector vector_divide(vector a, vector b) {
  return (vector){vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)};
}

/* a * b + c, rounded once. */
static inline vector vector_multiply_add(vector a, vector b, vector c) {
  return (vector){vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}

/* a where it is greater, else b: where one is NaN, b, unlike vmaxq_f32. */
static inline vector vector_max(vector a, vector b) {
  return (vector){vbslq_f32(vcgtq_f32(a.low, b.low), a.low, b.low),
                  vbslq_f32(vcgtq_f32(a.high, b.high), a.high, b.high)};
}

static inline vector vector_min(vector a, vector b) {
  return (vector){vbslq_f32(vcltq_f32(a.low, b.low), a.low, b.low),
                  vbslq_f32(vcltq_f32(a.high, b.high), a.high, b.high)};
}

static inline vector vector_absolute(vector x) {
  return (vector){vabsq_f32(x.low), vabsq_f32(x.high)};
}

/* x > 0 ? a : b */
static inline vector vector_if_positive(vector x, vector a, vector b) {
  return (vector){vbslq_f32(vcgtzq_f32(x.low), a.low, b.low),
                  vbslq_f32(vcgtzq_f32(x.high), a.high, b.high)};
}

/* To the nearest whole number. */
static inline vector vector_round(vector x) {
  return (vector){vrndnq_f32(x.low), vrndnq_f32(x.high)};
}

static inline float32x4_t vector_half_scale(float32x4_t x, float32x4_t whole) {
  const int32x4_t all = vcvtnq_s32_f32(whole), half = vshrq_n_s32(all, 1), bias = vdupq_n_s32(127);
  const int32x4_t a = vshlq_n_s32(vaddq_s32(half, bias), 23);
  const int32x4_t b = vshlq_n_s32(vaddq_s32(vsubq_s32(all, half), bias), 23);
  return vmulq_f32(vmulq_f32(x, vreinterpretq_f32_s32(a)), vreinterpretq_f32_s32(b));
}

/* x * 2^whole for whole numbers of -252 to 254, rounded once: by two factors, since one float32 of
 * that size does not exist. */
static inline vector vector_scale(vector x, vector whole) {
  return (vector){vector_half_scale(x.low, whole.low), vector_half_scale(x.high, whole.high)};
}

/* In the order of vector_avx2.h. */
static inline float vector_sum(vector x) {
  const float32x4_t four = vaddq_f32(x.low, x.high);
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

static inline float vector_largest(vector x) {
  float lanes[VECTOR_LANES];
  vector_store(lanes, x);
  for (int i = 1; i < VECTOR_LANES; i++) {
    if (!(lanes[0] > lanes[i])) lanes[0] = lanes[i];
  }
  return lanes[0];
}

/* The whole numbers nearest to x, of -127 to 127; 0 for what has none. */
static inline void vector_store_int8(int8_t *to, vector x) {
  const float32x4_t limit = vdupq_n_f32(127.5f);
  const int32x4_t low =
      vandq_s32(vreinterpretq_s32_u32(vcltq_f32(vabsq_f32(x.low), limit)), vcvtnq_s32_f32(x.low));
  const int32x4_t high =
      vandq_s32(vreinterpretq_s32_u32(vcltq_f32(vabsq_f32(x.high), limit)), vcvtnq_s32_f32(x.high));
  vst1_s8(to, vmovn_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high))));
}

/* Sixteen words of two numbers of 16 bits: the first of each to *ret_even, the second to *ret_odd.
 */
static inline void vector_split_words(vector a, vector b, vector *ret_even, vector *ret_odd) {
  const uint16x8_t words[4] = {vreinterpretq_u16_f32(a.low), vreinterpretq_u16_f32(a.high),
                               vreinterpretq_u16_f32(b.low), vreinterpretq_u16_f32(b.high)};
  ret_even->low = vreinterpretq_f32_u16(vuzp1q_u16(words[0], words[1]));
  ret_even->high = vreinterpretq_f32_u16(vuzp1q_u16(words[2], words[3]));
  ret_odd->low = vreinterpretq_f32_u16(vuzp2q_u16(words[0], words[1]));
  ret_odd->high = vreinterpretq_f32_u16(vuzp2q_u16(words[2], words[3]));
}

/* Words of two numbers of 16 bits: the first of each from `even`, the second from `odd`. */
static inline vector vector_join_words(const uint16_t *even, const uint16_t *odd) {
  const uint16x8_t first = vld1q_u16(even), second = vld1q_u16(odd);
  return (vector){vreinterpretq_f32_u16(vzip1q_u16(first, second)),
                  vreinterpretq_f32_u16(vzip2q_u16(first, second))};
}

/* Four rows of four words become four columns. */
static inline void vector_transpose_four(float32x4_t rows[4]) {
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(rows[0], rows[1]));
  const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(rows[0], rows[1]));
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(rows[2], rows[3]));
  const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(rows[2], rows[3]));
  rows[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
  rows[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  rows[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
  rows[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

/* Eight rows of eight words become eight columns. */
static inline void vector_transpose(vector rows[8]) {
  float32x4_t quarters[2][2][4]; /* [rows / 4][columns / 4] */
  for (int i = 0; i < 8; i++) {
    quarters[i / 4][0][i % 4] = rows[i].low;
    quarters[i / 4][1][i % 4] = rows[i].high;
  }
  for (int i = 0; i < 4; i++) vector_transpose_four(quarters[i / 2][i % 2]);
  for (int i = 0; i < 8; i++) {
    rows[i] = (vector){quarters[0][i / 4][i % 4], quarters[1][i / 4][i % 4]};
  }
}

#endif
