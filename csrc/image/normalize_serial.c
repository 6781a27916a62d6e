#include "image/normalize.h"

void cnclip_normalize_u8_serial(const cnclip_normalize_constants *constants, const uint8_t *pixels,
                                size_t count, float *planes, size_t plane_stride) {
  float *red = planes, *green = planes + plane_stride, *blue = planes + 2 * plane_stride;
  for (size_t i = 0; i < count; i++) {
    red[i] = constants->table[0][pixels[i * 4]];
    green[i] = constants->table[1][pixels[i * 4 + 1]];
    blue[i] = constants->table[2][pixels[i * 4 + 2]];
  }
}
