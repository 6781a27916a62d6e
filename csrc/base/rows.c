#include "base/rows.h"

#include <math.h>

static float squared_length(const float *row, size_t width) {
  float sum = 0;
  for (size_t i = 0; i < width; i++) sum += row[i] * row[i];
  return sum;
}

size_t cnclip_rows_next_unusable(const float *rows, size_t start, size_t count, size_t width,
                                 float max_deviation) {
  size_t row = start;
  /* A comparison with NaN is false. */
  while (row < count && fabsf(squared_length(rows + row * width, width) - 1) < max_deviation) row++;
  return row;
}
