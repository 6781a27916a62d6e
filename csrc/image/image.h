/* An image's pixels to the tensor that the vision tower takes: bicubic resampling to r x r, then
 * scaling and normalising. Equal to the bit to Pillow 13's Image.resize((r, r), BICUBIC) on an RGB
 * image, torchvision's ToTensor and Normalize. (Before 13 Pillow resampled rows before columns
 * always; now an image that loses twice as many rows as columns has its columns done first.) */
#ifndef CNCLIP_IMAGE_H
#define CNCLIP_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cpu.h"
#include "base/status.h"
#include "image/normalize.h"
#include "image/resample.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The kernels of one instruction set. */
typedef struct {
  cnclip_resample_widen *widen;
  cnclip_resample_horizontal *horizontal;
  cnclip_resample_vertical *vertical;
  cnclip_normalize *normalize;
} cnclip_image_kernels;

/* The kernels of `isa`, or of the best set below it that has some. Borrowed, static; NULL for a
 * number that is no set. The caller checks that the machine can run them (cnclip_isa_supported). */
const cnclip_image_kernels *cnclip_image_kernels_get(cnclip_isa isa);

/* The red, green and blue bytes of pixel (x, y) are at
 *   pixels + y * row_stride + x * pixel_stride + {0, 1, 2} * channel_stride
 * Borrowed; strides may be negative or 0. */
typedef struct {
  const uint8_t *pixels;
  int width, height;
  ptrdiff_t row_stride, pixel_stride, channel_stride;
  bool four_bytes; /* pixel_stride is 4, channel_stride 1, and the fourth byte of every pixel may be
                      read (its value does not matter): how Pillow stores RGB */
} cnclip_image;

/* CNCLIP_ERROR_ARGUMENT for an image without pixels. */
cnclip_status cnclip_image_check_size(int width, int height, cnclip_error *error);

/* What an engine needs to resample images of one size itself. A direction whose size is right
 * already has a filter too, of which one coefficient per position is 1 and all others are 0. */
typedef struct {
  int resolution;
  bool is_vertical_first;
  cnclip_resample_filter horizontal, vertical;
} cnclip_image_plan;

/* The plan for images of width x height. *plan's arrays are new; free them with
 * cnclip_image_plan_free.
 * CNCLIP_ERROR_ARGUMENT for an image without pixels; CNCLIP_ERROR_MEMORY; a plan without arrays
 * then. */
cnclip_status cnclip_image_plan_init(cnclip_image_plan *plan, int width, int height, int resolution,
                                     cnclip_error *error);
void cnclip_image_plan_free(cnclip_image_plan *plan); /* zeroed is allowed */

typedef struct cnclip_image_processor cnclip_image_processor;

enum { CNCLIP_IMAGE_MAX_RESOLUTION = 4096 };

/* resolution: 1 to CNCLIP_IMAGE_MAX_RESOLUTION pixels a side. mean, standard_deviation: per
 * channel, of pixels scaled to 0..1. isa: from cnclip_isa_choose. Immutable once made, so threads
 * may share it. New object in *ret_processor, freed with cnclip_image_processor_free.
 * CNCLIP_ERROR_ARGUMENT for a resolution out of range, a mean that is not finite, a standard
 * deviation that is not positive and finite, or an instruction set that this machine or this build
 * lacks; CNCLIP_ERROR_MEMORY. */
cnclip_status cnclip_image_processor_new(int resolution, const float mean[3],
                                         const float standard_deviation[3], cnclip_isa isa,
                                         cnclip_image_processor **ret_processor,
                                         cnclip_error *error);
void cnclip_image_processor_free(cnclip_image_processor *processor); /* NULL is allowed */

int cnclip_image_processor_resolution(const cnclip_image_processor *processor);

/* float32 [3][256]: the normalized value of each byte of each channel. Borrowed from the
 * processor. */
const float (*cnclip_image_processor_normalized(const cnclip_image_processor *processor))[256];

/* Writes float32 [3, r, r] to the caller's `tensor`. Working memory, for an image of h x w that is
 * larger than r: two filters, 16 bytes for each of h and w; the rows of one vertical window, at
 * most about 16 * h bytes or, where columns come first and the image is not stored in four bytes,
 * 16 * h * w / r; a few rows.
 * CNCLIP_ERROR_ARGUMENT for an image without pixels; CNCLIP_ERROR_MEMORY. */
cnclip_status cnclip_image_process(const cnclip_image_processor *processor,
                                   const cnclip_image *image, float *tensor, cnclip_error *error);

/* As cnclip_image_process, without the normalization: writes [r, r, 4] to the caller's `bytes`,
 * red, green, blue and 0 of each pixel. Their normalized values are those of the tensor. */
cnclip_status cnclip_image_resize(const cnclip_image_processor *processor,
                                  const cnclip_image *image, uint8_t *bytes, cnclip_error *error);

/* The first pass of cnclip_image_process alone (cnclip_resample_is_vertical_first: which one), for
 * an image that is not in one piece of memory: applied to its parts, whole rows or, where the pass
 * is vertical, whole columns, each to its place in a smaller image of r columns or r rows.
 * cnclip_image_process of that image gives the tensor of the whole one. part: in four bytes a
 * pixel. output: four bytes a pixel, rows output_stride bytes apart. CNCLIP_ERROR_MEMORY. */
cnclip_status cnclip_image_first_pass(const cnclip_image_processor *processor,
                                      const cnclip_image *part, bool vertical, uint8_t *output,
                                      size_t output_stride, cnclip_error *error);

#ifdef __cplusplus
}
#endif

#endif
