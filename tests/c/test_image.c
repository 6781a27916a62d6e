#include "image/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static const float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
static const float deviation[3] = {0.26862954f, 0.26130258f, 0.27577711f};

static cnclip_image_processor *new_processor(int resolution, cnclip_isa isa) {
  cnclip_image_processor *processor = NULL;
  cnclip_error error = {0};
  CHECK(cnclip_image_processor_new(resolution, mean, deviation, isa, &processor, &error) ==
        CNCLIP_OK);
  CHECK(cnclip_image_processor_resolution(processor) == resolution);
  return processor;
}

static uint8_t *random_bytes(size_t count) {
  uint8_t *bytes = malloc(count);
  for (size_t i = 0; i < count; i++) bytes[i] = (uint8_t)rand();
  return bytes;
}

/* The order of the passes is Pillow 13's, written down a second time. */
static bool columns_first(int width, int height, int r) {
  return height > r && height - r > 2 * (width - r);
}

/* Both passes with a whole image between them, serial kernels, no ring. */
static uint8_t *resample_rows(const uint8_t *pixels, int width, int height, int r) {
  cnclip_resample_filter filter;
  uint8_t *result = malloc((size_t)height * (size_t)r * 4);
  CHECK(cnclip_resample_filter_init(&filter, width, r, NULL) == CNCLIP_OK);
  for (int y = 0; y < height; y++) {
    const uint8_t *input = pixels + (size_t)y * (size_t)width * 4;
    uint8_t *output = result + (size_t)y * (size_t)r * 4;
    if (width == r) {
      memcpy(output, input, (size_t)r * 4);
    } else {
      cnclip_resample_horizontal_u8_serial(&filter, &input, &output, 1);
    }
  }
  cnclip_resample_filter_free(&filter);
  return result;
}

static uint8_t *resample_columns(const uint8_t *pixels, int width, int height, int r) {
  const size_t bytes = (size_t)width * 4;
  cnclip_resample_filter filter;
  uint8_t *result = malloc((size_t)r * bytes);
  const uint8_t **window = malloc((size_t)height * sizeof *window);
  CHECK(cnclip_resample_filter_init(&filter, height, r, NULL) == CNCLIP_OK);
  for (int y = 0; y < r; y++) {
    for (int i = 0; i < filter.count[y]; i++) {
      window[i] = pixels + (size_t)(filter.first[y] + i) * bytes;
    }
    if (height == r) {
      memcpy(result + (size_t)y * bytes, pixels + (size_t)y * bytes, bytes);
    } else {
      cnclip_resample_vertical_u8_serial(&filter, y, window, bytes, result + (size_t)y * bytes);
    }
  }
  free(window);
  cnclip_resample_filter_free(&filter);
  return result;
}

static float *reference(const uint8_t *pixels, int width, int height, int r) {
  const size_t area = (size_t)r * (size_t)r;
  const bool first = columns_first(width, height, r);
  uint8_t *half =
      first ? resample_columns(pixels, width, height, r) : resample_rows(pixels, width, height, r);
  uint8_t *whole = first ? resample_rows(half, width, r, r) : resample_columns(half, r, height, r);
  float *tensor = malloc(3 * area * sizeof *tensor);
  cnclip_normalize_constants constants;
  cnclip_normalize_constants_init(&constants, mean, deviation);
  cnclip_normalize_u8_serial(&constants, whole, area, tensor, area);
  free(half);
  free(whole);
  return tensor;
}

/* Copies an image of four bytes a pixel into another layout, in a block of exactly its size. */
typedef struct {
  uint8_t *block;
  cnclip_image image;
} layout;

enum { PACKED, PLANAR, UPSIDE_DOWN, BGR, MIRRORED_BGR, TRANSPOSED, LAYOUTS };

static layout lay_out(const uint8_t *pixels, int width, int height, int kind) {
  const ptrdiff_t w = width, h = height;
  layout result = {malloc((size_t)(w * h * 3)), {.width = width, .height = height}};
  cnclip_image *image = &result.image;
  ptrdiff_t start = 0;
  image->row_stride = w * 3, image->pixel_stride = 3, image->channel_stride = 1;
  if (kind == PLANAR) {
    image->row_stride = w, image->pixel_stride = 1, image->channel_stride = w * h;
  } else if (kind == UPSIDE_DOWN) {
    image->row_stride = -w * 3, start = (h - 1) * w * 3;
  } else if (kind == BGR) {
    image->channel_stride = -1, start = 2;
  } else if (kind == MIRRORED_BGR) {
    image->pixel_stride = -3, image->channel_stride = -1, start = w * 3 - 1;
  } else if (kind == TRANSPOSED) {
    image->row_stride = 3, image->pixel_stride = h * 3;
  }
  uint8_t *origin = result.block + start;
  image->pixels = origin;
  for (ptrdiff_t y = 0; y < h; y++) {
    for (ptrdiff_t x = 0; x < w; x++) {
      for (ptrdiff_t c = 0; c < 3; c++) {
        origin[y * image->row_stride + x * image->pixel_stride + c * image->channel_stride] =
            pixels[(y * w + x) * 4 + c];
      }
    }
  }
  return result;
}

/* The bytes of an image: red, green, blue and 0 of each pixel, whose normalized values are `want`.
 */
static void check_bytes(const cnclip_image_processor *processor, const cnclip_image *image,
                        const float *want) {
  const int r = cnclip_image_processor_resolution(processor);
  const size_t area = (size_t)r * (size_t)r;
  const float(*normalized)[256] = cnclip_image_processor_normalized(processor);
  uint8_t *block = malloc(area * 4 + 2), *bytes = block + 1;
  memset(block, 99, area * 4 + 2);
  CHECK(cnclip_image_resize(processor, image, bytes, NULL) == CNCLIP_OK);
  bool same = true;
  for (size_t i = 0; i < area; i++) {
    for (size_t c = 0; c < 3; c++) {
      same = same && normalized[c][bytes[i * 4 + c]] == want[c * area + i];
    }
    same = same && bytes[i * 4 + 3] == 0;
  }
  CHECK(same);
  CHECK(block[0] == 99 && bytes[area * 4] == 99);
  free(block);
}

static void check_image(const cnclip_image_processor *processor, const cnclip_image *image,
                        const float *want) {
  const int r = cnclip_image_processor_resolution(processor);
  const size_t count = (size_t)r * (size_t)r * 3;
  float *tensor = malloc((count + 2) * sizeof *tensor);
  tensor[0] = tensor[count + 1] = 1e30f;
  CHECK(cnclip_image_process(processor, image, tensor + 1, NULL) == CNCLIP_OK);
  CHECK(memcmp(tensor + 1, want, count * sizeof *want) == 0);
  CHECK(tensor[0] == 1e30f && tensor[count + 1] == 1e30f);
  free(tensor);
  check_bytes(processor, image, want);
}

static cnclip_image four_bytes(const uint8_t *pixels, int width, int height) {
  return (cnclip_image){.pixels = pixels,
                        .width = width,
                        .height = height,
                        .row_stride = (ptrdiff_t)width * 4,
                        .pixel_stride = 4,
                        .channel_stride = 1,
                        .four_bytes = true};
}

/* An image whose first pass is computed in bands of 1 to 9 rows or columns. */
static void check_bands(const cnclip_image_processor *processor, const uint8_t *pixels, int width,
                        int height, const float *want) {
  const int r = cnclip_image_processor_resolution(processor);
  const bool vertical = cnclip_resample_is_vertical_first(width, height, r);
  if (vertical && height == r) return; /* has no first pass */
  const size_t row_bytes = (size_t)width * 4, small_bytes = (size_t)(vertical ? width : r) * 4;
  uint8_t *small = malloc((size_t)(vertical ? r : height) * small_bytes);
  for (int start = 0, count; start < (vertical ? width : height); start += count) {
    const int left = (vertical ? width : height) - start;
    count = 1 + rand() % 9;
    if (count > left) count = left;
    cnclip_image part = four_bytes(pixels + (size_t)start * 4, count, height);
    uint8_t *output = small + (size_t)start * 4;
    if (vertical) {
      part.row_stride = (ptrdiff_t)row_bytes;
    } else {
      part = four_bytes(pixels + (size_t)start * row_bytes, width, count);
      output = small + (size_t)start * small_bytes;
    }
    CHECK(cnclip_image_first_pass(processor, &part, vertical, output, small_bytes, NULL) ==
          CNCLIP_OK);
  }
  const cnclip_image image = four_bytes(small, vertical ? width : r, vertical ? r : height);
  check_image(processor, &image, want);
  free(small);
}

static void test_size(const cnclip_image_processor *processor, int width, int height) {
  uint8_t *pixels = random_bytes((size_t)width * (size_t)height * 4);
  float *want = reference(pixels, width, height, cnclip_image_processor_resolution(processor));
  const cnclip_image image = four_bytes(pixels, width, height);
  check_image(processor, &image, want);
  for (int kind = 0; kind < LAYOUTS; kind++) {
    layout other = lay_out(pixels, width, height, kind);
    check_image(processor, &other.image, want);
    free(other.block);
  }
  check_bands(processor, pixels, width, height, want);
  free(pixels);
  free(want);
}

static void test_sizes(cnclip_isa isa) {
  const int resolutions[] = {1, 2, 7, 32, 33};
  for (size_t i = 0; i < sizeof resolutions / sizeof *resolutions; i++) {
    cnclip_image_processor *processor = new_processor(resolutions[i], isa);
    for (int size = 1; size <= 64; size++) {
      test_size(processor, size, 1 + rand() % 64);
      test_size(processor, 1 + rand() % 64, size);
      test_size(processor, size, resolutions[i]);
      test_size(processor, resolutions[i], size);
    }
    test_size(processor, 1, 65535);
    test_size(processor, 65535, 1);
    test_size(processor, 3, 5000);
    cnclip_image_processor_free(processor);
  }
}

/* One pixel, seen everywhere: strides of 0. */
static void test_broadcast_pixel(cnclip_isa isa) {
  cnclip_image_processor *processor = new_processor(4, isa);
  cnclip_normalize_constants constants;
  const uint8_t pixel[3] = {0, 128, 255};
  const cnclip_image image = {.pixels = pixel, .width = 100, .height = 9, .channel_stride = 1};
  float want[3][16];
  cnclip_normalize_constants_init(&constants, mean, deviation);
  for (int i = 0; i < 48; i++) want[i / 16][i % 16] = constants.table[i / 16][pixel[i / 16]];
  check_image(processor, &image, want[0]);
  cnclip_image_processor_free(processor);
}

static void test_other_instruction_sets(void) {
  for (int isa = -1; isa <= CNCLIP_ISA_COUNT; isa++) {
    cnclip_image_processor *processor = NULL;
    const bool is_one = isa >= 0 && isa < CNCLIP_ISA_COUNT;
    CHECK((cnclip_image_kernels_get((cnclip_isa)isa) != NULL) == is_one);
    if (cnclip_isa_supported((cnclip_isa)isa)) continue;
    CHECK(cnclip_image_processor_new(8, mean, deviation, (cnclip_isa)isa, &processor, NULL) ==
          CNCLIP_ERROR_ARGUMENT);
    CHECK(processor == NULL);
  }
}

static void test_refusals(cnclip_isa isa) {
  cnclip_image_processor *processor = new_processor(2, isa);
  cnclip_error error = {0};
  const uint8_t pixel[4] = {1, 2, 3, 4};
  const int empty[][2] = {{0, 5}, {5, 0}, {0, 0}, {-1, 5}};
  float tensor[12];
  uint8_t bytes[16];
  for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
    const cnclip_image image = {
        .pixels = pixel, .width = empty[i][0], .height = empty[i][1], .channel_stride = 1};
    CHECK(cnclip_image_process(processor, &image, tensor, &error) == CNCLIP_ERROR_ARGUMENT);
    CHECK(strstr(error.message, "no pixels") != NULL);
    CHECK(cnclip_image_resize(processor, &image, bytes, &error) == CNCLIP_ERROR_ARGUMENT);
  }
  cnclip_image_processor_free(processor);

  const int resolutions[] = {0, -1, CNCLIP_IMAGE_MAX_RESOLUTION + 1};
  for (size_t i = 0; i < sizeof resolutions / sizeof *resolutions; i++) {
    CHECK(cnclip_image_processor_new(resolutions[i], mean, deviation, isa, &processor, &error) ==
          CNCLIP_ERROR_ARGUMENT);
    CHECK(processor == NULL);
  }
  const float bad[] = {0.0f, -1.0f, INFINITY, NAN};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const float bad_deviation[3] = {1.0f, 1.0f, bad[i]};
    CHECK(cnclip_image_processor_new(2, mean, bad_deviation, isa, &processor, &error) ==
          CNCLIP_ERROR_ARGUMENT);
    CHECK(strstr(error.message, "std[2]") != NULL);
  }
  const float bad_mean[3] = {NAN, 0.0f, 0.0f};
  CHECK(cnclip_image_processor_new(2, bad_mean, deviation, isa, &processor, &error) ==
        CNCLIP_ERROR_ARGUMENT);
  CHECK(cnclip_image_processor_new(2, mean, deviation, CNCLIP_ISA_COUNT, &processor, &error) ==
        CNCLIP_ERROR_ARGUMENT);
  cnclip_image_processor_free(NULL);
}

/* A plan's filters are those of resampling; that of a size that is right already changes nothing.
 */
static void test_plan(void) {
  const int sizes[] = {1, 2, 31, 32, 33, 500};
  cnclip_image_plan plan;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    CHECK(cnclip_image_plan_init(&plan, sizes[i], 65, 32, NULL) == CNCLIP_OK);
    CHECK(plan.is_vertical_first == (sizes[i] < 49));
    CHECK(plan.horizontal.input_size == sizes[i] && plan.vertical.input_size == 65);
    CHECK(plan.resolution == 32 && plan.vertical.output_size == 32);
    cnclip_image_plan_free(&plan);
    CHECK(cnclip_image_plan_init(&plan, sizes[i], 7, sizes[i], NULL) == CNCLIP_OK);
    for (int at = 0; at < sizes[i]; at++) {
      const int32_t *row = plan.horizontal.coefficients + (size_t)at * plan.horizontal.capacity;
      for (int tap = 0; tap < plan.horizontal.count[at]; tap++) {
        const bool is_itself = plan.horizontal.first[at] + tap == at;
        CHECK(row[tap] == (is_itself ? 1 << CNCLIP_RESAMPLE_PRECISION_BITS : 0));
      }
    }
    cnclip_image_plan_free(&plan);
  }
  cnclip_error error;
  CHECK(cnclip_image_plan_init(&plan, 5, 0, 32, &error) == CNCLIP_ERROR_ARGUMENT);
  CHECK(strcmp(error.message, "an image of 5 x 0 has no pixels") == 0);
  cnclip_image_plan_free(&plan);
}

int main(void) {
  test_plan();
  test_other_instruction_sets();
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    if (!cnclip_isa_supported((cnclip_isa)isa)) continue;
    test_sizes((cnclip_isa)isa);
    test_broadcast_pixel((cnclip_isa)isa);
    test_refusals((cnclip_isa)isa);
  }
  return check_summary("image");
}
