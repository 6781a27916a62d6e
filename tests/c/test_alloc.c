/* Sizes that overflow, and those of nothing. */
#include "base/alloc.h"

#include <string.h>

#include "check.h"

static void test_overflow(void) {
  size_t product;
  CHECK(!cnclip_multiply_overflows(SIZE_MAX, 1, &product) && product == SIZE_MAX);
  CHECK(!cnclip_multiply_overflows(SIZE_MAX, 0, &product) && product == 0);
  CHECK(!cnclip_multiply_overflows(0, SIZE_MAX, &product) && product == 0);
  CHECK(cnclip_multiply_overflows(SIZE_MAX / 2 + 1, 2, &product));
  CHECK(cnclip_alloc_array(SIZE_MAX / 8 + 1, 8) == NULL);
  char *block = cnclip_alloc_array(3, 2);
  memcpy(block, "abcde", 6);
  CHECK(cnclip_realloc_array(block, SIZE_MAX / 8 + 1, 8) == NULL);
  CHECK(strcmp(block, "abcde") == 0); /* still the caller's */
  free(block);
}

static void test_nothing(void) {
  void *blocks[] = {cnclip_alloc_array(0, 8), cnclip_alloc_array(8, 0), cnclip_alloc_zeroed(0, 8),
                    cnclip_alloc_zeroed(8, 0), cnclip_realloc_array(NULL, 0, 8)};
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
    CHECK(blocks[i] != NULL);
    free(blocks[i]);
  }
}

static void test_zeroed(void) {
  int *numbers = cnclip_alloc_zeroed(1000, sizeof *numbers);
  int sum = 0;
  for (int i = 0; i < 1000; i++) sum |= numbers[i];
  CHECK(sum == 0);
  free(numbers);
}

int main(void) {
  test_overflow();
  test_nothing();
  test_zeroed();
  return check_summary("alloc");
}
