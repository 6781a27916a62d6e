/* INT8 of linear.h in plain C: what its kernels compute, to the bit, without normalization and
 * with no activation or ReLU. For files that have included kernels/linear.h. */
#ifndef CNCLIP_TESTS_LINEAR_INT8_TWIN_H
#define CNCLIP_TESTS_LINEAR_INT8_TWIN_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

/* Numbers as integers: number = minimum + scale * level. */
typedef struct {
  int16_t *levels;
  float scale, minimum;
} twin_row;

/* Of a weight: -127 to 127, and 0 for what has none. minimum: 0 */
static twin_row twin_weight(const float *weight, size_t width) {
  twin_row row = {malloc(width * sizeof(int16_t)), 0, 0};
  if (row.levels == NULL) abort();
  float largest = 0, check = 0;
  for (size_t i = 0; i < width; i++) {
    if (fabsf(weight[i]) > largest) largest = fabsf(weight[i]);
    check += weight[i] * 0;
  }
  const float inverse = largest > 0 ? 127 / largest : 0;
  for (size_t i = 0; i < width; i++) {
    const float x = weight[i] * inverse;
    row.levels[i] = fabsf(x) < 127.5f ? (int16_t)lrintf(x) : 0;
  }
  row.scale = largest / 127 + check;
  return row;
}

/* Of the input: 0 to 255. */
static twin_row twin_input(const float *x, size_t width) {
  twin_row row = {malloc(width * sizeof(int16_t)), 0, INFINITY};
  if (row.levels == NULL) abort();
  float largest = -INFINITY, check = 0;
  for (size_t i = 0; i < width; i++) {
    if (x[i] < row.minimum) row.minimum = x[i];
    if (x[i] > largest) largest = x[i];
    check += x[i] * 0;
  }
  const float range = largest - row.minimum, inverse = range > 0 ? 255 / range : 0;
  for (size_t i = 0; i < width; i++) {
    const float level = (x[i] - row.minimum) * inverse;
    row.levels[i] = level < 255.5f ? (int16_t)lrintf(level) : 255;
  }
  row.scale = range / 255 + check;
  return row;
}

/* One number of the layer's output before its activation. */
static float twin_product(const twin_row *x, const twin_row *weight, size_t width, float bias) {
  int32_t sum = 0, weights = 0;
  for (size_t i = 0; i < width; i++) {
    sum += x->levels[i] * weight->levels[i];
    weights += weight->levels[i];
  }
  const float offset = fmaf(x->minimum, weight->scale * (float)weights, bias);
  return fmaf((float)sum, x->scale * weight->scale, offset);
}

#endif
