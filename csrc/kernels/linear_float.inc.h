/* The kernels of linear.h that compute in float32, and those of BF16 and INT8 without AVX-512. A
 * file that includes this has included one of vector_<isa>.h, and defined LINEAR_NAME(part),
 * LINEAR_IS_F16 if the weights are float16, and LINEAR_IS_BF16 or LINEAR_IS_INT8 after one of
 * dot_bf16_<isa>.h or dot_int8_<isa>.h.
 *
 * A panel is stored as strips of TILE_COLUMNS columns, [strips, steps, TILE_COLUMNS]. */
#include <math.h>

#include "kernels/linear_layout.h"
#include "kernels/math_float.h"
#include "kernels/tile_float.h"

#ifndef WORDS_PER_STEP
enum { WORDS_PER_STEP = 1 }; /* of a row, for one step of a panel */
#endif

/* --- Rows: normalization and conversion to words -----------------------------------------------
 */

typedef struct {
  const cnclip_linear_job *job;
  const char *input;
  float mean, inverse_deviation;
} linear_row;

static inline vector load_input(const linear_row *row, size_t column) {
  const size_t left = row->job->input_width - column;
  return row->job->input_is_bf16
             ? vector_load_first_bf16((const uint16_t *)row->input + column, left)
             : vector_load_first((const float *)row->input + column, left);
}

/* Mean and variance in two passes, as torch.nn.LayerNorm defines them. */
static void measure_row(linear_row *row) {
  const size_t width = row->job->input_width;
  vector sum = vector_of(0), squares = vector_of(0);
  for (size_t i = 0; i < width; i += VECTOR_LANES) sum = vector_add(sum, load_input(row, i));
  row->mean = vector_sum(sum) / (float)width;
  for (size_t i = 0; i < width; i += VECTOR_LANES) {
    vector distance = vector_subtract(load_input(row, i), vector_of(row->mean));
    if (width - i < VECTOR_LANES) distance = vector_keep_first(distance, width - i);
    squares = vector_multiply_add(distance, distance, squares);
  }
  const float variance = vector_sum(squares) / (float)width;
  row->inverse_deviation = 1 / sqrtf(variance + row->job->norm_epsilon);
}

static inline vector load_normalised(const linear_row *row, size_t column) {
  const vector x = load_input(row, column);
  const cnclip_linear_job *job = row->job;
  if (job->norm_weight == NULL) return x;
  const size_t left = job->input_width - column;
  const vector standard =
      vector_multiply(vector_subtract(x, vector_of(row->mean)), vector_of(row->inverse_deviation));
  return vector_multiply_add(standard, vector_load_first(job->norm_weight + column, left),
                             vector_load_first(job->norm_bias + column, left));
}

static inline size_t row_words(const cnclip_linear_job *job) {
  return linear_row_stride(WORDS_PER_STEP * linear_steps(job->type, job->input_width));
}

#if defined(LINEAR_IS_INT8)

/* The row's own range becomes 0..255: value = minimum + scale * uint8. Where a number is not
 * finite, the scale becomes NaN, and with it the whole row of the product. */
static void convert_row(const linear_row *row, size_t index, tile_word *words) {
  const size_t width = row->job->input_width;
  vector least = vector_of(INFINITY), largest = vector_of(-INFINITY), check = vector_of(0);
  for (size_t i = 0; i < width; i += VECTOR_LANES) {
    const vector x = load_normalised(row, i);
    least = vector_min(vector_replace_rest(x, least, width - i), least);
    largest = vector_max(vector_replace_rest(x, largest, width - i), largest);
    check = vector_multiply_add(x, vector_of(0), check);
  }
  const float minimum = -vector_largest(vector_subtract(vector_of(0), least));
  const float range = vector_largest(largest) - minimum;
  const vector offset = vector_of(minimum), inverse = vector_of(range > 0 ? 255 / range : 0);
  for (size_t i = 0; i < width; i += VECTOR_LANES) {
    const vector x = vector_subtract(load_normalised(row, i), offset);
    dot_store_row(words, i, vector_multiply(x, inverse));
  }
  linear_row_scales(row->job)[index] = range / 255 + vector_sum(check);
  linear_row_minima(row->job)[index] = minimum;
}

#else

static void convert_row(const linear_row *row, size_t index, tile_word *words) {
  (void)index;
  for (size_t i = 0; i < row->job->input_width; i += VECTOR_LANES) {
    const vector x = load_normalised(row, i);
    /* Rows end in more than an unused vector. */
#if defined(LINEAR_IS_BF16)
    vector_store_first_bf16((uint16_t *)words + i, x, VECTOR_LANES);
#else
    vector_store(words + i, x);
#endif
  }
}

#endif

void LINEAR_NAME(rows)(const cnclip_linear_job *job, size_t first, size_t last) {
  const size_t stride = row_words(job);
  const size_t element = job->input_is_bf16 ? sizeof(uint16_t) : sizeof(float);
  for (size_t i = first; i < last; i++) {
    linear_row row = {job, (const char *)job->input + i * job->input_stride * element, 0, 0};
    if (job->norm_weight != NULL) measure_row(&row);
    convert_row(&row, i, (tile_word *)job->operand + i * stride);
  }
}

/* --- Units: the product, and what is done to its sums ------------------------------------------
 */

static inline vector activate(cnclip_activation activation, vector x) {
  switch (activation) {
    case CNCLIP_ACTIVATION_RELU:
      return vector_max(vector_of(0), x); /* NaN, the second operand, is kept */
    case CNCLIP_ACTIVATION_GELU:
      return gelu(x);
    case CNCLIP_ACTIVATION_GELU_TANH:
      return gelu_tanh(x);
    case CNCLIP_ACTIVATION_SWISH:
      return swish(x);
    case CNCLIP_ACTIVATION_QUICK_GELU:
      return quick_gelu(x);
    case CNCLIP_ACTIVATION_NONE:
    default:
      return x;
  }
}

#if defined(LINEAR_IS_INT8)

/* What turns the integer sums of one vector of columns into their product. */
typedef struct {
  const cnclip_linear_job *job;
  vector scales, sums, bias; /* sums: of the column's weights */
} column_terms;

static inline column_terms open_columns(const cnclip_linear_job *job, size_t column, vector bias) {
  const size_t of_layer = job->first_column + column;
  const size_t in = job->input_width, out = job->output_width;
  return (column_terms){job, vector_load(linear_column_scales(job->weight, in, out) + of_layer),
                        vector_load(linear_column_sums(job->weight, in, out) + of_layer), bias};
}

static inline vector finish_sums(const column_terms *terms, size_t row, const float *sums) {
  const vector scale = vector_of(linear_row_scales(terms->job)[row]);
  const vector minimum = vector_of(linear_row_minima(terms->job)[row]);
  const vector of_minimum = vector_multiply(terms->scales, terms->sums);
  const vector x = vector_multiply_add(minimum, of_minimum, terms->bias);
  const vector products = dot_load_sums(sums, terms->sums);
  return vector_multiply_add(products, vector_multiply(scale, terms->scales), x);
}

#else

typedef vector column_terms;

static inline column_terms open_columns(const cnclip_linear_job *job, size_t column, vector bias) {
  (void)job, (void)column;
  return bias;
}

static inline vector finish_sums(const column_terms *bias, size_t row, const float *sums) {
  (void)row;
  return vector_add(vector_load(sums), *bias);
}

#endif

/* Finishes one vector of columns, from `column` of the job's on, of rows first..last. */
static void finish_columns(const cnclip_linear_job *job, size_t first, size_t last, size_t column,
                           const float *sums) {
  const size_t left = job->columns - column;
  const vector bias =
      job->bias == NULL ? vector_of(0) : vector_load_first(job->bias + column, left);
  const column_terms terms = open_columns(job, column, bias);
  for (size_t row = first; row < last; row++, sums += TILE_COLUMNS) {
    vector x = activate(job->activation, finish_sums(&terms, row, sums));
    if (job->residual != NULL) {
      const float *residual = job->residual + row * job->residual_stride + column;
      x = vector_add(x, vector_load_first(residual, left));
    }
    const size_t at = row * job->output_stride + column;
    if (job->output_is_bf16) {
      vector_store_first_bf16((uint16_t *)job->output + at, x, left);
    } else {
      vector_store_first((float *)job->output + at, x, left);
    }
  }
}

/* The words of a row, and how far it is to the next one's. */
static inline const tile_word *operand_row(const cnclip_linear_job *job, size_t row,
                                           size_t *ret_stride) {
  if (job->operand != NULL) {
    *ret_stride = row_words(job);
    return (const tile_word *)job->operand + row * *ret_stride;
  }
  *ret_stride = job->input_stride / linear_per_word(job->type);
  return (const tile_word *)job->input + row * *ret_stride;
}

/* Steps at a time: as many of a strip and of a tile's rows stay in a level-1 cache of 32 KiB. */
enum { STRIP_STEPS = 256 / WORDS_PER_STEP };

#if defined(LINEAR_IS_F16)

typedef uint16_t weight_element;

/* Widens `steps` steps of a strip: once for all tiles that multiply by them. */
static inline const tile_word *load_strip(const weight_element *strip, size_t steps,
                                          float *memory) {
  for (size_t i = 0; i < steps * TILE_COLUMNS; i += VECTOR_LANES) {
    vector_store(memory + i, vector_load_f16(strip + i));
  }
  return memory;
}

#elif defined(LINEAR_IS_INT8)

typedef tile_word weight_element;

static inline const tile_word *load_strip(const weight_element *strip, size_t steps,
                                          float *memory) {
  return dot_load_strip(strip, steps, memory);
}

#else

typedef tile_word weight_element;

static inline const tile_word *load_strip(const weight_element *strip, size_t steps,
                                          float *memory) {
  (void)steps, (void)memory;
  return strip;
}

#endif

/* sums [rows, TILE_COLUMNS] of one block of rows and one strip. */
static void multiply_block(size_t rows, const tile_word *x, size_t x_stride,
                           const weight_element *strip, size_t steps, float *sums) {
  float memory[STRIP_STEPS * WORDS_PER_STEP * TILE_COLUMNS] __attribute__((aligned(64)));
  for (size_t step = 0; step < steps; step += STRIP_STEPS) {
    const size_t left = steps - step, now = left < STRIP_STEPS ? left : STRIP_STEPS;
    const weight_element *part = strip + step * TILE_COLUMNS;
    tile_factors factors = {.x_stride = x_stride,
                            .strip = load_strip(part, now, memory),
                            .steps = now * WORDS_PER_STEP,
                            .next = (const char *)(part + now * TILE_COLUMNS),
                            .next_bytes = TILE_COLUMNS * sizeof *part / WORDS_PER_STEP};
    for (size_t tile = 0; tile < tile_count(rows); tile++) {
      const size_t first = tile_first_row(rows, tile), last = tile_first_row(rows, tile + 1);
      factors.x = x + first * x_stride + step * WORDS_PER_STEP;
      tile_multiply_rows(last - first, &factors, step > 0, sums + first * TILE_COLUMNS,
                         TILE_COLUMNS);
    }
  }
}

void LINEAR_NAME(units)(const cnclip_linear_job *job, size_t first, size_t last) {
  const size_t blocks = linear_blocks(job->rows), panels = linear_panels(job->columns);
  const size_t steps = linear_steps(job->type, job->input_width);
  float sums[LINEAR_BLOCK_ROWS * TILE_COLUMNS] __attribute__((aligned(64)));
  for (size_t unit = first; unit < last; unit++) {
    const size_t block = unit / panels, panel = unit % panels;
    const size_t first_row = job->rows * block / blocks;
    const size_t last_row = job->rows * (block + 1) / blocks;
    size_t stride;
    const tile_word *x = operand_row(job, first_row, &stride);
    const size_t end = (panel + 1) * CNCLIP_LINEAR_PANEL;
    for (size_t column = panel * CNCLIP_LINEAR_PANEL; column < end && column < job->columns;
         column += TILE_COLUMNS) {
      const weight_element *strip =
          (const weight_element *)job->weight + (job->first_column + column) * steps;
      multiply_block(last_row - first_row, x, stride, strip, steps, sums);
      for (size_t i = 0; i < TILE_COLUMNS && column + i < job->columns; i += VECTOR_LANES) {
        finish_columns(job, first_row, last_row, column + i, sums + i);
      }
    }
  }
}
