#include "image/resample.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "image/image.h"

static const int32_t one = 1 << CNCLIP_RESAMPLE_PRECISION_BITS;

static int random_below(int limit) {
  return rand() % limit;
}

static uint8_t *random_bytes(size_t count) {
  uint8_t *bytes = malloc(count); /* exactly: a sanitizer watches the end */
  for (size_t i = 0; i < count; i++)
    bytes[i] = (uint8_t)(random_below(4) == 0 ? 255 * random_below(2) : rand());
  return bytes;
}

static void test_one_input_is_copied(void) {
  cnclip_resample_filter filter;
  CHECK(cnclip_resample_filter_init(&filter, 1, 5, NULL) == CNCLIP_OK);
  for (int i = 0; i < 5; i++) {
    CHECK(filter.first[i] == 0 && filter.count[i] == 1);
    CHECK(filter.coefficients[(size_t)i * filter.capacity] == one);
  }
  cnclip_resample_filter_free(&filter);
}

static void test_two_inputs_are_averaged(void) {
  cnclip_resample_filter filter;
  CHECK(cnclip_resample_filter_init(&filter, 2, 1, NULL) == CNCLIP_OK);
  CHECK(filter.first[0] == 0 && filter.count[0] == 2);
  CHECK(filter.coefficients[0] == one / 2 && filter.coefficients[1] == one / 2);
  cnclip_resample_filter_free(&filter);
}

/* Position 0 of 2 -> 4: the centre is 0.25, the taps stand 0.25 and 1.25 away, their weights are
 * 0.8671875 and -0.0703125, which is 111/102 and -9/102 of the sum. */
static void test_overshoot(void) {
  cnclip_resample_filter filter;
  CHECK(cnclip_resample_filter_init(&filter, 2, 4, NULL) == CNCLIP_OK);
  CHECK(filter.first[0] == 0 && filter.count[0] == 2);
  CHECK(filter.coefficients[0] == 4564390 && filter.coefficients[1] == -370086);
  const uint8_t input[8] = {0, 255, 7, 9, 255, 0, 7, 9};
  const uint8_t want[4][3] = {{0, 255, 7}, {53, 202, 7}, {202, 53, 7}, {255, 0, 7}};
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    const cnclip_image_kernels *kernels = cnclip_image_kernels_get((cnclip_isa)isa);
    if (kernels == NULL || !cnclip_isa_supported((cnclip_isa)isa)) continue;
    uint8_t output[4][4];
    const uint8_t *inputs[1] = {input};
    uint8_t *outputs[1] = {output[0]};
    kernels->horizontal(&filter, inputs, outputs, 1);
    for (int i = 0; i < 4; i++) CHECK(memcmp(output[i], want[i], 3) == 0);
    const uint8_t *const rows[2] = {input, input + 4};
    for (int i = 0; i < 4; i++) {
      kernels->vertical(&filter, i, rows, 4, output[i]);
      CHECK(memcmp(output[i], want[i], 3) == 0);
    }
  }
  cnclip_resample_filter_free(&filter);
}

/* What the header promises of a filter. */
static void check_filter(const cnclip_resample_filter *filter) {
  bool bounded = true, rising = true, readable = true, whole = true;
  for (int i = 0; i < filter->output_size; i++) {
    const int32_t *row = filter->coefficients + (size_t)i * filter->capacity;
    int first = filter->first[i], count = filter->count[i];
    int64_t sum = 0;
    bounded &= first >= 0 && count >= 1 && first + count <= filter->input_size;
    bounded &= (size_t)count <= filter->capacity;
    rising &= i == 0 || first >= filter->first[i - 1];
    readable &= filter->capacity > (size_t)filter->input_size ||
                (size_t)first + filter->capacity <= (size_t)filter->input_size;
    for (int j = 0; j < (int)filter->capacity; j++) {
      sum += row[j];
      whole &= j < count || row[j] == 0;
    }
    whole &= llabs(sum - one) <= count; /* each coefficient is rounded by at most a half */
  }
  CHECK(filter->capacity % CNCLIP_RESAMPLE_TAP_GROUP == 0);
  CHECK(bounded);
  CHECK(rising);
  CHECK(readable);
  CHECK(whole);
}

static void test_filters(void) {
  for (int input = 1; input <= 64; input++) {
    for (int output = 1; output <= 64; output++) {
      cnclip_resample_filter filter;
      CHECK(cnclip_resample_filter_init(&filter, input, output, NULL) == CNCLIP_OK);
      check_filter(&filter);
      cnclip_resample_filter_free(&filter);
    }
  }
  /* The last size is one that float32 rounds up: windows must still end with the input. */
  const int sizes[][2] = {{65535, 1}, {65535, 224}, {1, 4096}, {16777219, 3}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    cnclip_resample_filter filter;
    CHECK(cnclip_resample_filter_init(&filter, sizes[i][0], sizes[i][1], NULL) == CNCLIP_OK);
    check_filter(&filter);
    cnclip_resample_filter_free(&filter);
  }
}

static bool same_pixels(const uint8_t *a, const uint8_t *b, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (memcmp(a + i * 4, b + i * 4, 3) != 0) return false;
  }
  return true;
}

/* `rows` rows of the same width, each in its own block. */
enum { MAX_ROWS = 7 };

static void test_horizontal(const cnclip_image_kernels *kernels, int input, int output, int rows) {
  cnclip_resample_filter filter;
  uint8_t *inputs[MAX_ROWS], *outputs[MAX_ROWS], *wanted[MAX_ROWS];
  const uint8_t *borrowed[MAX_ROWS];
  CHECK(cnclip_resample_filter_init(&filter, input, output, NULL) == CNCLIP_OK);
  for (int i = 0; i < rows; i++) {
    borrowed[i] = inputs[i] = random_bytes((size_t)input * 4);
    outputs[i] = random_bytes((size_t)output * 4);
    wanted[i] = random_bytes((size_t)output * 4);
  }
  cnclip_resample_horizontal_u8_serial(&filter, borrowed, wanted, rows);
  kernels->horizontal(&filter, borrowed, outputs, rows);
  for (int i = 0; i < rows; i++) {
    CHECK(same_pixels(outputs[i], wanted[i], (size_t)output));
    free(inputs[i]);
    free(outputs[i]);
    free(wanted[i]);
  }
  cnclip_resample_filter_free(&filter);
}

static void test_vertical(const cnclip_image_kernels *kernels, int input, int output, int width) {
  cnclip_resample_filter filter;
  const size_t bytes = (size_t)width * 4;
  uint8_t **rows = malloc((size_t)input * sizeof *rows);
  const uint8_t **window = malloc((size_t)input * sizeof *window);
  uint8_t *got = random_bytes(bytes), *want = random_bytes(bytes);
  CHECK(cnclip_resample_filter_init(&filter, input, output, NULL) == CNCLIP_OK);
  for (int i = 0; i < input; i++) rows[i] = random_bytes(bytes);
  for (int y = 0; y < output; y++) {
    for (int i = 0; i < filter.count[y]; i++) window[i] = rows[filter.first[y] + i];
    cnclip_resample_vertical_u8_serial(&filter, y, window, bytes, want);
    kernels->vertical(&filter, y, window, bytes, got);
    CHECK(memcmp(got, want, bytes) == 0);
  }
  for (int i = 0; i < input; i++) free(rows[i]);
  free(rows);
  free(window);
  free(got);
  free(want);
  cnclip_resample_filter_free(&filter);
}

static void test_widen(const cnclip_image_kernels *kernels) {
  for (size_t count = 0; count <= 64; count++) {
    uint8_t *input = random_bytes(count * 3 + (count == 0)), guard = 0xA5;
    uint8_t *output = malloc(count * 4 + 1);
    output[count * 4] = guard;
    kernels->widen(input, count, output);
    for (size_t i = 0; i < count; i++) CHECK(memcmp(output + i * 4, input + i * 3, 3) == 0);
    CHECK(output[count * 4] == guard);
    free(input);
    free(output);
  }
}

int main(void) {
  test_one_input_is_copied();
  test_two_inputs_are_averaged();
  test_overshoot();
  test_filters();
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    const cnclip_image_kernels *kernels = cnclip_image_kernels_get((cnclip_isa)isa);
    if (kernels == NULL || !cnclip_isa_supported((cnclip_isa)isa)) continue;
    test_widen(kernels);
    for (int input = 1; input <= 64; input++) {
      for (int output = 1; output <= 64; output++) {
        test_horizontal(kernels, input, output, 1 + random_below(MAX_ROWS));
      }
      test_vertical(kernels, input, 1 + random_below(64), 1 + random_below(64));
    }
    for (int i = 0; i < 50; i++) {
      test_horizontal(kernels, 1 + random_below(3000), 1 + random_below(300), 4);
      test_vertical(kernels, 1 + random_below(500), 1 + random_below(50), 1 + random_below(80));
    }
  }
  return check_summary("resample");
}
