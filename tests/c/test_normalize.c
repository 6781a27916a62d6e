#include "image/normalize.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "image/image.h"

static const float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
static const float deviation[3] = {0.26862954f, 0.26130258f, 0.27577711f};

static void test_table(void) {
  cnclip_normalize_constants constants;
  const float halves[3] = {0.5f, 0.0f, 0.25f}, scales[3] = {0.5f, 1.0f, 0.25f};
  cnclip_normalize_constants_init(&constants, halves, scales);
  CHECK(constants.table[0][0] == -1.0f && constants.table[0][255] == 1.0f);
  CHECK(constants.table[1][0] == 0.0f && constants.table[1][51] == 0.2f);
  CHECK(constants.table[2][255] == 3.0f);
  cnclip_normalize_constants_init(&constants, mean, deviation);
  CHECK(constants.table[0][0] == (0.0f - 0.48145466f) / 0.26862954f);
  CHECK(constants.table[1][255] == (1.0f - 0.4578275f) / 0.26130258f);
}

/* Every byte in every channel, by every instruction set, against the table. */
static void test_all_bytes(const cnclip_normalize_constants *constants,
                           const cnclip_image_kernels *kernels) {
  uint8_t pixels[256][4];
  float planes[3][256];
  for (int i = 0; i < 256; i++) {
    const uint8_t pixel[4] = {(uint8_t)i, (uint8_t)(255 - i), (uint8_t)(i ^ 0x5A),
                              (uint8_t)(i * 7)};
    memcpy(pixels[i], pixel, 4);
  }
  kernels->normalize(constants, pixels[0], 256, planes[0], 256);
  for (int channel = 0; channel < 3; channel++) {
    for (int i = 0; i < 256; i++) {
      const float *want = &constants->table[channel][pixels[i][channel]];
      CHECK(memcmp(&planes[channel][i], want, sizeof *want) == 0);
    }
  }
}

/* Lengths around the vector width; nothing outside the rows is read or written. */
static void test_lengths(const cnclip_normalize_constants *constants,
                         const cnclip_image_kernels *kernels) {
  for (size_t count = 0; count <= 64; count++) {
    const size_t stride = count + 3;
    uint8_t *pixels = malloc(count * 4 + 1); /* a sanitizer watches its end */
    float *planes = malloc((3 * stride + 1) * sizeof *planes);
    for (size_t i = 0; i < count * 4; i++) pixels[i] = (uint8_t)rand();
    for (size_t i = 0; i < 3 * stride + 1; i++) planes[i] = 1e30f;
    kernels->normalize(constants, pixels, count, planes + 1, stride);
    CHECK(planes[0] == 1e30f);
    for (size_t i = 0; i < 3 * stride; i++) {
      size_t channel = i / stride, x = i % stride;
      float want = x < count ? constants->table[channel][pixels[x * 4 + channel]] : 1e30f;
      CHECK(planes[1 + i] == want);
    }
    free(planes);
    free(pixels);
  }
}

int main(void) {
  const float other_mean[3] = {0.0f, 0.485f, 1e-20f}, other_deviation[3] = {1e-30f, 0.225f, 3e20f};
  cnclip_normalize_constants constants[2];
  cnclip_normalize_constants_init(&constants[0], mean, deviation);
  cnclip_normalize_constants_init(&constants[1], other_mean, other_deviation);
  test_table();
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    const cnclip_image_kernels *kernels = cnclip_image_kernels_get((cnclip_isa)isa);
    if (kernels == NULL || !cnclip_isa_supported((cnclip_isa)isa)) continue;
    for (int i = 0; i < 2; i++) test_all_bytes(&constants[i], kernels);
    test_lengths(&constants[0], kernels);
  }
  return check_summary("normalize");
}
