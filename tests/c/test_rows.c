#include "base/rows.h"

#include <math.h>
#include <stdbool.h>

#include "check.h"

enum { COUNT = 6, WIDTH = 3 };

static const float rows[COUNT][WIDTH] = {
    {1, 0, 0}, {0.6f, 0, -0.8f}, {NAN, 0, 0}, {0.6f, 0.8f, 0}, {INFINITY, 0, 0}, {1e30f, 0, 0},
};

static size_t next(size_t start, size_t count) {
  return cnclip_rows_next_unusable(rows[0], start, count, WIDTH, 0.01f);
}

static void test_values_that_are_not_finite(void) {
  CHECK(next(0, COUNT) == 2);
  CHECK(next(3, COUNT) == 4);
  CHECK(next(5, COUNT) == 5);
  CHECK(next(COUNT, COUNT) == COUNT);
  CHECK(next(0, 2) == 2);
  CHECK(next(0, 0) == 0);
}

static void test_length(void) {
  for (int i = 0; i < 40; i++) {
    const float length = 0.98f + 0.001f * (float)i;
    const float row[WIDTH] = {0, length, 0};
    const bool usable = fabsf(length * length - 1) < 0.01f;
    CHECK(cnclip_rows_next_unusable(row, 0, 1, WIDTH, 0.01f) == usable);
  }
  CHECK(cnclip_rows_next_unusable(rows[0], 0, 1, 0, 0.01f) == 0);
}

int main(void) {
  test_values_that_are_not_finite();
  test_length();
  return check_summary("rows");
}
