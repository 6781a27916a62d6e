/* Bytes to normalized floats: (u / 255 - mean) / standard deviation, each step rounded to float32
 * as torchvision's ToTensor and Normalize round it. Every instruction set gives the same bits. */
#ifndef CNCLIP_NORMALIZE_H
#define CNCLIP_NORMALIZE_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  float mean[3], standard_deviation[3];
  float table[3][256]; /* the result for every byte of every channel */
} cnclip_normalize_constants;

/* Fills the table from the given means and deviations. */
void cnclip_normalize_constants_init(cnclip_normalize_constants *constants, const float mean[3],
                                     const float standard_deviation[3]);

/* `count` pixels of 4 bytes (the fourth ignored) to three rows of `count` floats, which start
 * `plane_stride` floats apart. */
typedef void cnclip_normalize(const cnclip_normalize_constants *constants, const uint8_t *pixels,
                              size_t count, float *planes, size_t plane_stride);

cnclip_normalize cnclip_normalize_u8_serial, cnclip_normalize_u8_avx2, cnclip_normalize_u8_neon;

#endif
