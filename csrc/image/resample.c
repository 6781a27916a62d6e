#include "image/resample.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"

/* The cubic convolution kernel with a = -0.5. Each step's rounding decides the result: the order of
 * the operations is Pillow's, and the build must not contract them. */
static inline double bicubic(double x) {
  x = fabs(x);
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0.0;
}

/* The position of windows, in the doubles that Pillow computes. */
typedef struct {
  double scale, filter_scale, support;
} geometry;

static geometry geometry_of(int input_size, int output_size) {
  geometry g;
  g.scale = (double)(float)input_size / output_size; /* Pillow's box is float32 */
  g.filter_scale = g.scale < 1.0 ? 1.0 : g.scale;
  g.support = 2.0 * g.filter_scale;
  return g;
}

static double center_of(const geometry *g, int position) {
  return (position + 0.5) * g->scale;
}

/* Truncates towards zero into 0..limit; the comparison comes first because the value may be
 * outside the range of int. */
static int clamp_to_int(double value, int limit) {
  if (value <= 0) return 0;
  return value >= limit ? limit : (int)value;
}

/* Fills first and count, tight; returns the largest count. No window is empty: each is wider than
 * the error of its centre. */
static int place_windows(cnclip_resample_filter *filter, const geometry *g) {
  int largest = 0;
  for (int i = 0; i < filter->output_size; i++) {
    double center = center_of(g, i);
    int first = clamp_to_int(center - g->support + 0.5, filter->input_size);
    int end = clamp_to_int(center + g->support + 0.5, filter->input_size);
    filter->first[i] = first;
    filter->count[i] = end - first;
    if (filter->count[i] > largest) largest = filter->count[i];
  }
  return largest;
}

/* The coefficients of one tight window, in fixed point. weights is scratch of `count`, rounded up
 * to whole groups: the divisions, which cost most, are vectorised where the length is constant. */
static void quantise_window(const geometry *g, int position, int first, int count, double *weights,
                            int32_t *coefficients) {
  enum { GROUP = CNCLIP_RESAMPLE_TAP_GROUP };
  const double one = 1 << CNCLIP_RESAMPLE_PRECISION_BITS;
  double center = center_of(g, position);
  double inverse_scale = 1.0 / g->filter_scale;
  double sum = 0.0;
  for (int j = 0; j < count; j++) {
    weights[j] = bicubic((j + first - center + 0.5) * inverse_scale);
    sum += weights[j];
  }
  for (size_t j = (size_t)count; j % GROUP != 0; j++) weights[j] = 0.0;
  for (size_t j = 0; j < (size_t)count; j += GROUP) {
    for (size_t t = 0; t < GROUP; t++) weights[j + t] = weights[j + t] / sum * one;
  }
  for (int j = 0; j < count; j++) {
    coefficients[j] = (int32_t)(weights[j] + (weights[j] < 0 ? -0.5 : 0.5));
  }
}

/* Quantises window `position` and moves its start left as far as a read of `capacity` needs. */
static void fill_window(cnclip_resample_filter *filter, const geometry *g, int position,
                        double *weights) {
  int32_t *row = filter->coefficients + (size_t)position * filter->capacity;
  int first = filter->first[position], count = filter->count[position];
  int shift = 0;
  if (filter->capacity <= (size_t)filter->input_size) {
    int last_start = filter->input_size - (int)filter->capacity;
    shift = first > last_start ? first - last_start : 0;
  }
  memset(row, 0, (size_t)shift * sizeof *row);
  quantise_window(g, position, first, count, weights, row + shift);
  filter->first[position] = first - shift;
  filter->count[position] = count + shift;
  memset(row + shift + count, 0, (filter->capacity - (size_t)(shift + count)) * sizeof *row);
}

cnclip_status cnclip_resample_filter_init(cnclip_resample_filter *filter, int input_size,
                                          int output_size, cnclip_error *error) {
  cnclip_status status = CNCLIP_OK;
  double *weights = NULL;
  geometry g = geometry_of(input_size, output_size);
  memset(filter, 0, sizeof *filter);
  filter->input_size = input_size;
  filter->output_size = output_size;
  filter->first = cnclip_alloc_array((size_t)output_size, sizeof *filter->first);
  filter->count = cnclip_alloc_array((size_t)output_size, sizeof *filter->count);
  if (filter->first == NULL || filter->count == NULL) goto out_of_memory;

  size_t group = CNCLIP_RESAMPLE_TAP_GROUP;
  filter->capacity = ((size_t)place_windows(filter, &g) + group - 1) / group * group;
  const size_t bytes = (size_t)output_size * sizeof *filter->coefficients;
  filter->coefficients = cnclip_alloc_array(filter->capacity, bytes);
  weights = cnclip_alloc_array(filter->capacity, sizeof *weights);
  if (filter->coefficients == NULL || weights == NULL) goto out_of_memory;
  for (int i = 0; i < output_size; i++) fill_window(filter, &g, i, weights);
  goto exit;

out_of_memory:
  cnclip_resample_filter_free(filter);
  status = cnclip_error_memory(error, "the resampling filter");
exit:
  free(weights);
  return status;
}

void cnclip_resample_filter_free(cnclip_resample_filter *filter) {
  free(filter->first);
  free(filter->count);
  free(filter->coefficients);
  filter->first = filter->count = NULL;
  filter->coefficients = NULL;
}

bool cnclip_resample_is_vertical_first(int width, int height, int resolution) {
  const int64_t rows_lost = (int64_t)height - resolution;
  const int64_t columns_lost = (int64_t)width - resolution;
  return width == resolution || (rows_lost > 0 && rows_lost > 2 * columns_lost);
}
