/* The kernels of linear.h for AVX-512. A file that includes this has defined the macros that
 * tile_avx512.h needs, LINEAR_NAME(part), and LINEAR_IS_BF16 or LINEAR_IS_INT8 if that is its type.
 */
#include <math.h>

#include "kernels/linear_layout.h"
#include "kernels/math_avx512.h"
#include "kernels/tile_avx512.h"

/* --- Rows: normalization and conversion to words -----------------------------------------------
 */

typedef struct {
  const cnclip_linear_job *job;
  const char *input;
  __m512 mean, inverse_deviation;
} linear_row;

static inline __m512 load_input(const linear_row *row, size_t column, __mmask16 lanes) {
  if (row->job->input_is_bf16) {
    return from_bf16(_mm256_maskz_loadu_epi16(lanes, (const uint16_t *)row->input + column));
  }
  return _mm512_maskz_loadu_ps(lanes, (const float *)row->input + column);
}

/* Mean and variance in two passes, as torch.nn.LayerNorm defines them. */
static void measure_row(linear_row *row) {
  const size_t width = row->job->input_width;
  __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
  for (size_t i = 0; i < width; i += 16) {
    sum = _mm512_add_ps(sum, load_input(row, i, first_lanes(width - i)));
  }
  row->mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)width);
  for (size_t i = 0; i < width; i += 16) {
    const __mmask16 lanes = first_lanes(width - i);
    const __m512 distance = _mm512_maskz_sub_ps(lanes, load_input(row, i, lanes), row->mean);
    squares = _mm512_fmadd_ps(distance, distance, squares);
  }
  const float variance = _mm512_reduce_add_ps(squares) / (float)width;
  row->inverse_deviation = _mm512_set1_ps(1 / sqrtf(variance + row->job->norm_epsilon));
}

static inline linear_row open_row(const cnclip_linear_job *job, size_t index) {
  const size_t element = job->input_is_bf16 ? sizeof(uint16_t) : sizeof(float);
  linear_row row = {job, (const char *)job->input + index * job->input_stride * element,
                    _mm512_setzero_ps(), _mm512_setzero_ps()};
  if (job->norm_weight != NULL) measure_row(&row);
  return row;
}

static inline __m512 load_normalised(const linear_row *row, size_t column, __mmask16 lanes) {
  const __m512 x = load_input(row, column, lanes);
  const cnclip_linear_job *job = row->job;
  if (job->norm_weight == NULL) return x;
  const __m512 standard = _mm512_mul_ps(_mm512_sub_ps(x, row->mean), row->inverse_deviation);
  return _mm512_fmadd_ps(standard, _mm512_maskz_loadu_ps(lanes, job->norm_weight + column),
                         _mm512_maskz_loadu_ps(lanes, job->norm_bias + column));
}

#if defined(LINEAR_IS_INT8)

/* The row's own range becomes 0..255: value = minimum + scale * uint8. Where a number is not
 * finite, the scale becomes NaN, and with it the whole row of the product. */
static void convert_row(const linear_row *row, size_t index, tile_word *words) {
  const cnclip_linear_job *job = row->job;
  const size_t width = job->input_width;
  __m512 least = _mm512_set1_ps(INFINITY), greatest = _mm512_set1_ps(-INFINITY);
  __m512 check = _mm512_setzero_ps();
  for (size_t i = 0; i < width; i += 16) {
    const __mmask16 lanes = first_lanes(width - i);
    const __m512 x = load_normalised(row, i, lanes);
    least = _mm512_mask_min_ps(least, lanes, least, x);
    greatest = _mm512_mask_max_ps(greatest, lanes, greatest, x);
    check = _mm512_fmadd_ps(x, _mm512_setzero_ps(), check);
  }
  const float minimum = _mm512_reduce_min_ps(least);
  const float range = _mm512_reduce_max_ps(greatest) - minimum;
  const __m512 offset = _mm512_set1_ps(minimum);
  const __m512 inverse = _mm512_set1_ps(range > 0 ? 255 / range : 0);
  for (size_t i = 0; i < width; i += 16) {
    const __mmask16 lanes = first_lanes(width - i);
    const __m512 x = _mm512_sub_ps(load_normalised(row, i, lanes), offset);
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
    _mm512_mask_cvtusepi32_storeu_epi8((uint8_t *)words + i, lanes, whole);
  }
  linear_row_scales(job)[index] = range / 255 + _mm512_reduce_add_ps(check);
  linear_row_minima(job)[index] = minimum;
}

#else

static void convert_row(const linear_row *row, size_t index, tile_word *words) {
  const size_t width = row->job->input_width;
  (void)index;
  for (size_t i = 0; i < width; i += 16) {
    const __mmask16 lanes = first_lanes(width - i);
    const __m512 x = load_normalised(row, i, lanes);
#if defined(LINEAR_IS_BF16)
    _mm256_mask_storeu_epi16((uint16_t *)words + i, lanes, to_bf16(x));
#else
    _mm512_mask_storeu_ps((float *)words + i, lanes, x);
#endif
  }
}

#endif

void LINEAR_NAME(rows)(const cnclip_linear_job *job, size_t first, size_t last) {
  const size_t words = linear_row_words(job->type, job->input_width);
  for (size_t i = first; i < last; i++) {
    const linear_row row = open_row(job, i);
    convert_row(&row, i, (tile_word *)job->operand + i * words);
  }
}

/* --- Units: the product, and what is done to its sums ------------------------------------------
 */

static inline __m512 activate(cnclip_activation activation, __m512 x) {
  switch (activation) {
    case CNCLIP_ACTIVATION_RELU:
      return _mm512_max_ps(_mm512_setzero_ps(), x); /* NaN, the second operand, is kept */
#if defined(LINEAR_IS_BF16) || defined(LINEAR_IS_INT8)
    case CNCLIP_ACTIVATION_GELU:
    case CNCLIP_ACTIVATION_GELU_TANH:
      return rough_gelu(x);
    case CNCLIP_ACTIVATION_SWISH:
      return rough_swish(x, 1);
    case CNCLIP_ACTIVATION_QUICK_GELU:
      return rough_swish(x, 1.702f);
#else
    case CNCLIP_ACTIVATION_GELU:
      return gelu(x);
    case CNCLIP_ACTIVATION_GELU_TANH:
      return gelu_tanh(x);
    case CNCLIP_ACTIVATION_SWISH:
      return swish(x);
    case CNCLIP_ACTIVATION_QUICK_GELU:
      return quick_gelu(x);
#endif
    case CNCLIP_ACTIVATION_NONE:
    default:
      return x;
  }
}

/* Finishes sixteen columns, from `column` of the job's on, of rows first..last. */
static void finish_columns(const cnclip_linear_job *job, size_t first, size_t last, size_t column,
                           const tile_sum *sums) {
  const __mmask16 lanes = first_lanes(job->columns - column);
  const __m512 bias =
      job->bias == NULL ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, job->bias + column);
#if defined(LINEAR_IS_INT8)
  const size_t of_layer = job->first_column + column;
  const __m512 scales = _mm512_loadu_ps(
      linear_column_scales(job->weight, job->input_width, job->output_width) + of_layer);
  const __m512 column_sums = _mm512_mul_ps(
      scales, _mm512_loadu_ps(linear_column_sums(job->weight, job->input_width, job->output_width) +
                              of_layer));
#endif
  for (size_t row = first; row < last; row++, sums += 2) {
#if defined(LINEAR_IS_INT8)
    const __m512 scale = _mm512_set1_ps(linear_row_scales(job)[row]);
    const __m512 minimum = _mm512_set1_ps(linear_row_minima(job)[row]);
    __m512 x = _mm512_fmadd_ps(minimum, column_sums, bias);
    x = _mm512_fmadd_ps(_mm512_cvtepi32_ps(*sums), _mm512_mul_ps(scale, scales), x);
#else
    __m512 x = _mm512_add_ps(*sums, bias);
#endif
    x = activate(job->activation, x);
    if (job->residual != NULL) {
      const float *residual = job->residual + row * job->residual_stride + column;
      x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(lanes, residual));
    }
    const size_t at = row * job->output_stride + column;
    if (job->output_is_bf16) {
      _mm256_mask_storeu_epi16((uint16_t *)job->output + at, lanes, to_bf16(x));
    } else {
      _mm512_mask_storeu_ps((float *)job->output + at, lanes, x);
    }
  }
}

/* The words of a row, and how far it is to the next one's. */
static inline const tile_word *operand_words(const cnclip_linear_job *job, size_t row,
                                             size_t *ret_stride) {
  if (job->operand != NULL) {
    *ret_stride = linear_row_words(job->type, job->input_width);
    return (const tile_word *)job->operand + row * *ret_stride;
  }
  *ret_stride = job->input_stride / (job->input_is_bf16 ? 2 : 1);
  return (const tile_word *)job->input + row * *ret_stride;
}

/* sums [rows, 32] of one block of rows and one panel. Steps are taken so many at a time that a
 * part of the panel stays near while the rows pass. */
static void multiply_block(size_t rows, const tile_word *words, size_t words_stride,
                           const char *panel, size_t steps, tile_sum *sums) {
  for (size_t step = 0; step < steps; step += LINEAR_BLOCK_STEPS) {
    const size_t left = steps - step, now = left < LINEAR_BLOCK_STEPS ? left : LINEAR_BLOCK_STEPS;
    for (size_t tile = 0; tile < tile_count(rows); tile++) {
      const size_t first = tile_first_row(rows, tile), last = tile_first_row(rows, tile + 1);
      tile_multiply_rows(last - first, words + first * words_stride + step, words_stride,
                         panel + step * TILE_STEP_BYTES, now, step > 0, sums + 2 * first, 2);
    }
  }
}

void LINEAR_NAME(units)(const cnclip_linear_job *job, size_t first, size_t last) {
  const size_t blocks = linear_blocks(job->rows), panels = linear_panels(job->columns);
  const size_t steps = linear_steps(job->type, job->input_width);
  const size_t first_panel = job->first_column / CNCLIP_LINEAR_PANEL;
  tile_sum sums[LINEAR_BLOCK_ROWS * 2];
  for (size_t unit = first; unit < last; unit++) {
    const size_t block = unit / panels, panel = unit % panels, column = panel * TILE_COLUMNS;
    const size_t first_row = job->rows * block / blocks;
    const size_t last_row = job->rows * (block + 1) / blocks;
    size_t stride;
    const tile_word *words = operand_words(job, first_row, &stride);
    multiply_block(last_row - first_row, words, stride,
                   (const char *)job->weight + (first_panel + panel) * steps * TILE_STEP_BYTES,
                   steps, sums);
    finish_columns(job, first_row, last_row, column, sums);
    if (column + 16 < job->columns) finish_columns(job, first_row, last_row, column + 16, sums + 1);
  }
}
