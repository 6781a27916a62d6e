/* libFuzzer: an image of fuzzed size, strides, offset and pixels. Every instruction set that this
 * machine has must give the serial answer, whole and in parts, and read nothing outside the image.
 * Images are small, and so fast: tests/core/test_image.py has the large ones. Built with clang
 * -fsanitize=fuzzer,address,undefined from this file and csrc/image. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz_input.h"
#include "image/image.h"

/* Rows of more than 64 bytes, and a few more than four groups of columns or rows. */
enum { MAX_RESOLUTION = 22, MAX_SIDE = 40, MAX_LENGTH = 300, NOISE = 1 << 12 };

static uint8_t noise[NOISE];

/* How far a stride of `stride` and `count` positions reaches below and above its start. */
static void reach(ptrdiff_t stride, int count, size_t *below, size_t *above) {
  ptrdiff_t last = stride * (count - 1);
  *(last < 0 ? below : above) += (size_t)(last < 0 ? -last : last);
}

/* Fills a block with what is left of the input, and then with noise. */
static void fill(uint8_t *block, size_t size, const input *in) {
  const size_t given = in->left < size ? in->left : size;
  memcpy(block, in->bytes, given);
  for (size_t i = given; i < size; i += NOISE) {
    memcpy(block + i, noise, size - i < NOISE ? size - i : NOISE);
  }
}

/* An image in a block of exactly the bytes that its strides reach. New block, or NULL. */
static uint8_t *take_image(input *in, cnclip_image *image) {
  size_t below = 0, above = 0;
  const bool slim = take(in, 4) == 0;
  memset(image, 0, sizeof *image);
  image->width = 1 + (int)take(in, slim ? 4 : MAX_SIDE);
  image->height = 1 + (int)take(in, slim ? MAX_LENGTH : MAX_SIDE);
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
  fill(block, offset + below + above + 1, in);
  image->pixels = block + offset + below;
  return block;
}

/* The sets of this machine with separate kernels, the serial one first. */
static cnclip_isa sets[CNCLIP_ISA_COUNT];
static size_t set_count;

/* Finds the sets once: to ask the processor takes longer than a small image. */
static void find_sets(void) {
  for (int isa = CNCLIP_ISA_SERIAL; isa < CNCLIP_ISA_COUNT; isa++) {
    if (!cnclip_isa_supported((cnclip_isa)isa)) continue;
    const cnclip_image_kernels *kernels = cnclip_image_kernels_get((cnclip_isa)isa);
    if (set_count > 0 && kernels == cnclip_image_kernels_get(sets[set_count - 1])) continue;
    sets[set_count++] = (cnclip_isa)isa;
  }
}

/* One for each set and resolution, made when it is first needed. */
static const cnclip_image_processor *processor_of(int resolution, cnclip_isa isa) {
  static const float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
  static const float deviation[3] = {0.26862954f, 0.26130258f, 0.27577711f};
  static cnclip_image_processor *made[CNCLIP_ISA_COUNT][MAX_RESOLUTION + 1];
  cnclip_image_processor **found = &made[isa][resolution];
  if (*found == NULL) {
    cnclip_status status =
        cnclip_image_processor_new(resolution, mean, deviation, isa, found, NULL);
    if (status != CNCLIP_OK) abort();
  }
  return *found;
}

/* The bytes of an image must have the values of its tensor. */
static void check_bytes(const cnclip_image_processor *processor, const cnclip_image *image,
                        const float *tensor) {
  static uint8_t bytes[4 * MAX_RESOLUTION * MAX_RESOLUTION];
  if (cnclip_image_resize(processor, image, bytes, NULL) != CNCLIP_OK) abort();
  const float(*normalized)[256] = cnclip_image_processor_normalized(processor);
  const size_t side = (size_t)cnclip_image_processor_resolution(processor), area = side * side;
  for (size_t i = 0; i < area; i++) {
    for (size_t channel = 0; channel < 3; channel++) {
      if (normalized[channel][bytes[4 * i + channel]] != tensor[channel * area + i]) abort();
    }
    if (bytes[4 * i + 3] != 0) abort();
  }
}

static void process(const cnclip_image_processor *processor, const cnclip_image *image,
                    const float *want, size_t bytes) {
  static float tensor[3 * MAX_RESOLUTION * MAX_RESOLUTION];
  memset(tensor, 0xFF, bytes);
  if (cnclip_image_process(processor, image, tensor, NULL) != CNCLIP_OK) abort();
  if (memcmp(tensor, want, bytes) != 0) abort();
}

/* The first pass of each half of an image, and then the rest of the work, give the same tensor. */
static void process_halves(const cnclip_image_processor *processor, const cnclip_image *image,
                           const float *want, size_t bytes) {
  const int resolution = cnclip_image_processor_resolution(processor);
  const bool vertical = cnclip_resample_is_vertical_first(image->width, image->height, resolution);
  const int width = vertical ? image->width : resolution;
  const int height = vertical ? resolution : image->height;
  const int end = vertical ? image->width : image->height;
  const size_t row_bytes = (size_t)width * 4;
  uint8_t *small = malloc(row_bytes * (size_t)height);
  if (small == NULL) return;
  for (int start = 0, half = end / 2; start < end; start = half, half = end) {
    if (half == start) continue;
    cnclip_image part = *image;
    *(vertical ? &part.width : &part.height) = half - start;
    part.pixels += start * (vertical ? image->pixel_stride : image->row_stride);
    uint8_t *output = small + (size_t)start * (vertical ? 4 : row_bytes);
    if (cnclip_image_first_pass(processor, &part, vertical, output, row_bytes, NULL) != CNCLIP_OK) {
      abort();
    }
  }
  const cnclip_image rest = {.pixels = small,
                             .width = width,
                             .height = height,
                             .row_stride = (ptrdiff_t)row_bytes,
                             .pixel_stride = 4,
                             .channel_stride = 1,
                             .four_bytes = true};
  process(processor, &rest, want, bytes);
  free(small);
}

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerInitialize(int *count, char ***arguments) {
  uint32_t state = 1;
  (void)count;
  (void)arguments;
  for (size_t i = 0; i < NOISE; i++) {
    state = state * 1103515245u + 12345u;
    noise[i] = (uint8_t)(state >> 16);
  }
  find_sets();
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static float want[3 * MAX_RESOLUTION * MAX_RESOLUTION];
  input in = {data, size};
  const int resolution = 1 + (int)take(&in, MAX_RESOLUTION);
  const bool in_halves = take(&in, 2);
  const size_t bytes = (size_t)(3 * resolution * resolution) * sizeof *want;
  cnclip_image image;
  uint8_t *block = take_image(&in, &image);
  if (block == NULL) return 0;
  const cnclip_image_processor *serial = processor_of(resolution, CNCLIP_ISA_SERIAL);
  if (cnclip_image_process(serial, &image, want, NULL) != CNCLIP_OK) abort();
  check_bytes(serial, &image, want);
  for (size_t i = 0; i < set_count; i++) {
    const cnclip_image_processor *processor = processor_of(resolution, sets[i]);
    if (processor != serial) process(processor, &image, want, bytes);
    if (in_halves && image.four_bytes) process_halves(processor, &image, want, bytes);
  }
  free(block);
  return 0;
}
