/* libFuzzer: an image of fuzzed size, strides, offset and pixels. Every instruction set that this
 * machine has must give the serial answer, and read nothing outside the image. Built with clang
 * -fsanitize=fuzzer,address,undefined from this file and csrc/image. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz_input.h"
#include "image/image.h"

enum { MAX_RESOLUTION = 40 };

/* How far a stride of `stride` and `count` positions reaches below and above its start. */
static void reach(ptrdiff_t stride, int count, size_t *below, size_t *above) {
  ptrdiff_t last = stride * (count - 1);
  *(last < 0 ? below : above) += (size_t)(last < 0 ? -last : last);
}

/* An image in a block of exactly the bytes that its strides reach. New block, or NULL. */
static uint8_t *take_image(input *in, cnclip_image *image) {
  size_t below = 0, above = 0;
  const bool slim = take(in, 2);
  memset(image, 0, sizeof *image);
  image->width = 1 + (int)take(in, slim ? 8 : 300);
  image->height = 1 + (int)take(in, slim ? 4000 : 100);
  if (take(in, 4) == 0) {
    int height = image->height;
    image->height = image->width;
    image->width = height;
  }
  image->four_bytes = take(in, 2);
  image->channel_stride = image->four_bytes ? 1 : (ptrdiff_t)take(in, 9) - 4;
  image->pixel_stride = image->four_bytes ? 4 : (ptrdiff_t)take(in, 17) - 8;
  image->row_stride = (ptrdiff_t)take(in, 65535) % (8 * image->width + 1) - 4 * image->width;
  reach(image->row_stride, image->height, &below, &above);
  reach(image->pixel_stride, image->width, &below, &above);
  reach(image->channel_stride, image->four_bytes ? 4 : 3, &below, &above);

  size_t offset = take(in, 32); /* every alignment */
  uint8_t *block = malloc(offset + below + above + 1);
  if (block == NULL) return NULL;
  unsigned state = 1 + take(in, 65535);
  for (size_t i = 0; i < offset + below + above + 1; i++) {
    state = state * 1103515245u + 12345u; /* where the input ends, noise goes on */
    block[i] = i < in->left ? in->bytes[i] : (uint8_t)(state >> 16);
  }
  image->pixels = block + offset + below;
  return block;
}

/* The tensor of an image; its bytes must have the values of the tensor. */
static void process(int resolution, cnclip_isa isa, const cnclip_image *image, float *tensor) {
  static const float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
  static const float deviation[3] = {0.26862954f, 0.26130258f, 0.27577711f};
  static uint8_t bytes[4 * MAX_RESOLUTION * MAX_RESOLUTION];
  cnclip_image_processor *processor;
  if (cnclip_image_processor_new(resolution, mean, deviation, isa, &processor, NULL) != CNCLIP_OK) {
    abort();
  }
  if (cnclip_image_process(processor, image, tensor, NULL) != CNCLIP_OK) abort();
  if (cnclip_image_resize(processor, image, bytes, NULL) != CNCLIP_OK) abort();
  const float(*normalized)[256] = cnclip_image_processor_normalized(processor);
  const size_t area = (size_t)resolution * (size_t)resolution;
  for (size_t i = 0; i < 4 * area; i++) {
    const size_t pixel = i / 4, channel = i % 4;
    const bool same = channel == 3
                          ? bytes[i] == 0
                          : normalized[channel][bytes[i]] == tensor[channel * area + pixel];
    if (!same) abort();
  }
  cnclip_image_processor_free(processor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static float want[3 * MAX_RESOLUTION * MAX_RESOLUTION];
  static float got[3 * MAX_RESOLUTION * MAX_RESOLUTION];
  input in = {data, size};
  const int resolution = 1 + (int)take(&in, MAX_RESOLUTION);
  const size_t bytes = (size_t)(3 * resolution * resolution) * sizeof *want;
  cnclip_image image;
  uint8_t *block = take_image(&in, &image);
  if (block == NULL) return 0;
  process(resolution, CNCLIP_ISA_SERIAL, &image, want);
  for (int isa = CNCLIP_ISA_SERIAL + 1; isa < CNCLIP_ISA_COUNT; isa++) {
    if (!cnclip_isa_supported((cnclip_isa)isa)) continue;
    memset(got, 0xFF, bytes);
    process(resolution, (cnclip_isa)isa, &image, got);
    if (memcmp(got, want, bytes) != 0) abort();
  }
  free(block);
  return 0;
}
