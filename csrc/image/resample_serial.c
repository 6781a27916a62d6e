#include <string.h>

#include "image/resample.h"

/* Sums are uint32_t: the true sum fits an int32_t, and what wraps on the way there is harmless. */
static const uint32_t half = UINT32_C(1) << (CNCLIP_RESAMPLE_PRECISION_BITS - 1);

enum { BLOCK = 32 }; /* output bytes whose sums are kept at once */

static inline uint8_t round_sum(uint32_t sum) {
  int32_t value = (int32_t)sum >> CNCLIP_RESAMPLE_PRECISION_BITS;
  return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void horizontal_row(const cnclip_resample_filter *filter, const uint8_t *input,
                           uint8_t *output) {
  for (int i = 0; i < filter->output_size; i++) {
    const uint8_t *pixel = input + (size_t)filter->first[i] * 4;
    const int32_t *coefficients = filter->coefficients + (size_t)i * filter->capacity;
    uint32_t red = half, green = half, blue = half;
    for (int j = 0; j < filter->count[i]; j++, pixel += 4) {
      uint32_t coefficient = (uint32_t)coefficients[j];
      red += pixel[0] * coefficient;
      green += pixel[1] * coefficient;
      blue += pixel[2] * coefficient;
    }
    uint8_t *result = output + (size_t)i * 4;
    result[0] = round_sum(red);
    result[1] = round_sum(green);
    result[2] = round_sum(blue);
    result[3] = 0;
  }
}

void cnclip_resample_horizontal_u8_serial(const cnclip_resample_filter *filter,
                                          const uint8_t *const *inputs, uint8_t *const *outputs,
                                          int rows) {
  for (int row = 0; row < rows; row++) horizontal_row(filter, inputs[row], outputs[row]);
}

/* `length` output bytes, those at `at`; inlined, so that a compiler sees a constant length. */
static inline void vertical_block(const int32_t *coefficients, int count,
                                  const uint8_t *const *rows, size_t at, size_t length,
                                  uint8_t *output) {
  uint32_t sums[BLOCK];
  for (size_t i = 0; i < length; i++) sums[i] = half;
  for (int j = 0; j < count; j++) {
    const uint8_t *row = rows[j] + at;
    uint32_t coefficient = (uint32_t)coefficients[j];
    for (size_t i = 0; i < length; i++) sums[i] += row[i] * coefficient;
  }
  for (size_t i = 0; i < length; i++) output[at + i] = round_sum(sums[i]);
}

void cnclip_resample_vertical_u8_serial(const cnclip_resample_filter *filter, int position,
                                        const uint8_t *const *rows, size_t bytes, uint8_t *output) {
  const int32_t *coefficients = filter->coefficients + (size_t)position * filter->capacity;
  int count = filter->count[position];
  size_t at = 0;
  for (; at + BLOCK <= bytes; at += BLOCK) {
    vertical_block(coefficients, count, rows, at, BLOCK, output);
  }
  if (at < bytes) vertical_block(coefficients, count, rows, at, bytes - at, output);
}

void cnclip_resample_widen_u8_serial(const uint8_t *input, size_t count, uint8_t *output) {
  /* Four bytes at once, as long as the fourth belongs to the next pixel. */
  for (size_t i = 0; i + 1 < count; i++) memcpy(output + i * 4, input + i * 3, 4);
  if (count == 0) return;
  memcpy(output + (count - 1) * 4, input + (count - 1) * 3, 3);
  output[count * 4 - 1] = 0;
}
