#include "linear.h"

#include <math.h>
#include <string.h>

#include "linear_layout.h"

const cnclip_linear_kernels *cnclip_linear_kernels_get(cnclip_linear_type type, cnclip_isa isa) {
#if defined(__x86_64__)
  static const cnclip_linear_kernels f32 = {cnclip_linear_rows_f32_avx512,
                                            cnclip_linear_units_f32_avx512},
                                     f16 = {cnclip_linear_rows_f16_avx512,
                                            cnclip_linear_units_f16_avx512},
                                     bf16 = {cnclip_linear_rows_bf16_avx512_bf16,
                                             cnclip_linear_units_bf16_avx512_bf16},
                                     int8 = {cnclip_linear_rows_int8_avx512_vnni,
                                             cnclip_linear_units_int8_avx512_vnni};
  switch (type) {
    case CNCLIP_LINEAR_F32:
      return isa >= CNCLIP_ISA_AVX512 ? &f32 : NULL;
    case CNCLIP_LINEAR_F16:
      return isa >= CNCLIP_ISA_AVX512 ? &f16 : NULL;
    case CNCLIP_LINEAR_BF16:
      return isa >= CNCLIP_ISA_AVX512_BF16 ? &bf16 : NULL;
    case CNCLIP_LINEAR_INT8:
      return isa >= CNCLIP_ISA_AVX512_VNNI ? &int8 : NULL;
  }
#else
  (void)type;
  (void)isa;
#endif
  return NULL;
}

bool cnclip_linear_fits(size_t input_width, size_t output_width) {
  return input_width > 0 && output_width > 0 && input_width <= CNCLIP_LINEAR_MAX_INPUT &&
         input_width % 4 == 0 && output_width % 4 == 0;
}

size_t cnclip_linear_packed_bytes(cnclip_linear_type type, size_t input_width,
                                  size_t output_width) {
  const size_t panels = linear_panels(output_width);
  const size_t columns = type == CNCLIP_LINEAR_INT8 ? 2 * panels * CNCLIP_LINEAR_PANEL : 0;
  return panels * linear_panel_bytes(type, input_width) + columns * sizeof(float);
}

/* Whether the input's rows are the words that the kernels multiply, and lie well in a cache: a
 * distance of whole pages would put a tile's rows into one set of it. */
static bool reads_input(const cnclip_linear_job *job) {
  if (job->norm_weight != NULL || job->type == CNCLIP_LINEAR_INT8) return false;
  const bool wants_bf16 = job->type == CNCLIP_LINEAR_BF16;
  if (wants_bf16 != job->input_is_bf16) return false;
  const size_t stride_bytes = job->input_stride * (wants_bf16 ? sizeof(uint16_t) : sizeof(float));
  return stride_bytes % sizeof(uint32_t) == 0 && stride_bytes % 4096 != 0;
}

size_t cnclip_linear_operand_bytes(const cnclip_linear_job *job) {
  if (reads_input(job)) return 0;
  const size_t words = linear_row_words(job->type, job->input_width);
  return job->rows * (words + (job->type == CNCLIP_LINEAR_INT8 ? 2 : 0)) * sizeof(uint32_t);
}

size_t cnclip_linear_panel_count(size_t output_width) {
  return linear_panels(output_width);
}

size_t cnclip_linear_unit_count(const cnclip_linear_job *job) {
  return linear_blocks(job->rows) * linear_panels(job->columns);
}

/* To the nearest, ties to even; a NaN stays one. */
static uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (isnan(value)) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static void pack_f32(const float *const rows[], size_t columns, size_t steps, float *panel) {
  for (size_t i = 0; i < steps; i++, panel += CNCLIP_LINEAR_PANEL) {
    for (size_t column = 0; column < columns; column++) panel[column] = rows[column][i];
  }
}

static void pack_f16(const uint16_t *const rows[], size_t columns, size_t steps, uint16_t *panel) {
  for (size_t i = 0; i < steps; i++, panel += CNCLIP_LINEAR_PANEL) {
    for (size_t column = 0; column < columns; column++) panel[column] = rows[column][i];
  }
}

static void pack_bf16(const float *const rows[], size_t columns, size_t steps, uint16_t *panel) {
  for (size_t i = 0; i < steps; i++, panel += CNCLIP_LINEAR_PANEL * 2) {
    for (size_t column = 0; column < columns; column++) {
      panel[2 * column] = to_bf16(rows[column][2 * i]);
      panel[2 * column + 1] = to_bf16(rows[column][2 * i + 1]);
    }
  }
}

static float largest_magnitude(const float *values, size_t count) {
  float largest = 0;
  for (size_t i = 0; i < count; i++) {
    const float magnitude = fabsf(values[i]);
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

static int8_t to_int8(float value) {
  /* Weights that are not finite have no integer; 0 keeps their neighbours. */
  return isfinite(value) ? (int8_t)lrintf(value) : 0;
}

static void pack_int8(const float *const rows[], size_t columns, size_t steps, int8_t *panel,
                      float *scales, float *sums) {
  for (size_t column = 0; column < columns; column++) {
    const float *row = rows[column];
    const float largest = largest_magnitude(row, steps * 4);
    const float inverse = largest > 0 ? 127 / largest : 0;
    int8_t *at = panel + column * 4;
    int32_t sum = 0;
    for (size_t i = 0; i < steps; i++, at += CNCLIP_LINEAR_PANEL * 4) {
      for (size_t k = 0; k < 4; k++) {
        at[k] = to_int8(row[4 * i + k] * inverse);
        sum += at[k];
      }
    }
    scales[column] = largest / 127;
    sums[column] = scales[column] * (float)sum;
  }
}

void cnclip_linear_pack(cnclip_linear_type type, const void *weight, size_t input_width,
                        size_t output_width, size_t first, size_t last, void *packed) {
  const cnclip_linear_job job = {
      .type = type, .weight = packed, .input_width = input_width, .output_width = output_width};
  const size_t panel_bytes = linear_panel_bytes(type, input_width);
  const size_t row_bytes =
      input_width * (type == CNCLIP_LINEAR_F16 ? sizeof(uint16_t) : sizeof(float));
  const size_t steps = linear_steps(type, input_width);
  for (size_t panel = first; panel < last; panel++) {
    const size_t row = panel * CNCLIP_LINEAR_PANEL, left = output_width - row;
    const size_t columns = left < CNCLIP_LINEAR_PANEL ? left : CNCLIP_LINEAR_PANEL;
    char *to = (char *)packed + panel * panel_bytes;
    const void *rows[CNCLIP_LINEAR_PANEL];
    for (size_t i = 0; i < columns; i++) rows[i] = (const char *)weight + (row + i) * row_bytes;
    if (columns < CNCLIP_LINEAR_PANEL) memset(to, 0, panel_bytes);
    switch (type) {
      case CNCLIP_LINEAR_F32:
        pack_f32((const float *const *)rows, columns, steps, (float *)to);
        break;
      case CNCLIP_LINEAR_F16:
        pack_f16((const uint16_t *const *)rows, columns, steps, (uint16_t *)to);
        break;
      case CNCLIP_LINEAR_BF16:
        pack_bf16((const float *const *)rows, columns, steps, (uint16_t *)to);
        break;
      case CNCLIP_LINEAR_INT8:
        memset(linear_column_scales(&job) + row, 0, CNCLIP_LINEAR_PANEL * sizeof(float));
        memset(linear_column_sums(&job) + row, 0, CNCLIP_LINEAR_PANEL * sizeof(float));
        pack_int8((const float *const *)rows, columns, steps, (int8_t *)to,
                  linear_column_scales(&job) + row, linear_column_sums(&job) + row);
        break;
    }
  }
}
