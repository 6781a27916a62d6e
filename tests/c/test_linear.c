#include "kernels/linear.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "aligned.h"
#include "check.h"

/* Against loops in double precision, with all kernels that this machine runs. */

typedef struct {
  size_t rows, input_width, output_width, first_column, columns;
  cnclip_activation activation;
  bool norm, bias, residual, bf16_input, bf16_output;
  bool f16_weight;  /* for types that take either */
  size_t input_pad; /* elements between rows beyond the width */
} shape;

static uint32_t random_state = 1;

static float random_float(void) { /* about -1 to 1 */
  random_state = random_state * 1664525u + 1013904223u;
  return (float)(int32_t)random_state / 2147483648.0f;
}

static float from_bf16(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

static uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* Of a number that float16 holds exactly: a multiple of 2^-10 in (-1, 1), or a small whole one. */
static uint16_t to_f16(float value) {
  if (value == 0) return 0;
  int exponent;
  const double mantissa = frexp(fabs((double)value), &exponent);
  const int bits = (int)(mantissa * 2048) - 1024;
  return (uint16_t)((value < 0 ? 0x8000 : 0) | (exponent + 14) << 10 | bits);
}

static void *aligned(size_t bytes) {
  return aligned_memory(bytes, 0x5A);
}

static double activate(cnclip_activation activation, double x) {
  switch (activation) {
    case CNCLIP_ACTIVATION_NONE:
      break;
    case CNCLIP_ACTIVATION_RELU:
      return x > 0 ? x : 0;
    case CNCLIP_ACTIVATION_GELU:
      return 0.5 * x * erfc(-x / sqrt(2));
    case CNCLIP_ACTIVATION_GELU_TANH:
      return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case CNCLIP_ACTIVATION_SWISH:
      return x / (1 + exp(-x));
    case CNCLIP_ACTIVATION_QUICK_GELU:
      return x / (1 + exp(-1.702 * x));
  }
  return x;
}

/* The largest difference allowed: sums are about 0.6 sqrt(width), rounding errors a part of that.
 */
static double tolerance(cnclip_linear_type type, const shape *s) {
  const double size = sqrt((double)s->input_width) + 1;
  const double of_type = type == CNCLIP_LINEAR_BF16   ? 8e-3
                         : type == CNCLIP_LINEAR_INT8 ? 2e-2
                                                      : 2e-6;
  return size * of_type + (s->bf16_output ? size * 8e-3 : 0);
}

static void expect(const shape *s, const float *input, const float *weight, const float *bias,
                   const float *norm, const float *residual, size_t row, size_t column,
                   double *ret) {
  const size_t width = s->input_width;
  const float *x = input + row * width, *w = weight + (s->first_column + column) * width;
  double mean = 0, variance = 0, sum = 0;
  for (size_t i = 0; i < width; i++) mean += x[i] / (double)width;
  for (size_t i = 0; i < width; i++) variance += (x[i] - mean) * (x[i] - mean) / (double)width;
  for (size_t i = 0; i < width; i++) {
    const double value =
        s->norm ? (x[i] - mean) / sqrt(variance + 1e-5) * norm[i] + norm[width + i] : x[i];
    sum += value * w[i];
  }
  if (s->bias) sum += bias[column];
  sum = activate(s->activation, sum);
  if (s->residual) sum += residual[row * s->columns + column];
  *ret = sum;
}

/* The same panels where the weight gives its memory to them. */
static void check_packing_in_place(const cnclip_linear_kernels *kernels,
                                   cnclip_linear_packing packing, void *scratch) {
  if (!cnclip_linear_packs_in_place(packing.type, packing.weight_is_f16, packing.output_width)) {
    return;
  }
  const size_t bytes =
      cnclip_linear_packed_bytes(packing.type, packing.input_width, packing.output_width);
  const size_t panels = cnclip_linear_panel_count(packing.output_width);
  const void *apart = packing.packed;
  void *same = aligned(bytes);
  memcpy(same, packing.weight, bytes);
  packing.weight = packing.packed = same;
  kernels->pack(&packing, panels / 2, panels, scratch);
  kernels->pack(&packing, 0, panels / 2, scratch);
  CHECK(memcmp(same, apart, bytes) == 0);
  free(same);
}

/* The kernels of a type that `isa` has and no set before it; NULL: none that this machine runs. */
static const cnclip_linear_kernels *kernels_of(cnclip_linear_type type, int isa) {
  if (!cnclip_isa_supported((cnclip_isa)isa)) return NULL;
  const cnclip_linear_kernels *kernels = cnclip_linear_kernels_get(type, (cnclip_isa)isa);
  for (int other = 0; other < isa; other++) {
    if (cnclip_linear_kernels_get(type, (cnclip_isa)other) == kernels) return NULL;
  }
  return kernels;
}

static void check_shape(cnclip_linear_type type, const cnclip_linear_kernels *kernels,
                        const shape *s) {
  const size_t rows = s->rows, width = s->input_width, stride = width + s->input_pad;
  float *input = aligned(rows * width * sizeof(float));
  float *weight = aligned(s->output_width * width * sizeof(float));
  float *bias = aligned(s->columns * sizeof(float)), *norm = aligned(2 * width * sizeof(float));
  float *residual = aligned(rows * s->columns * sizeof(float));
  float *laid_out = aligned(rows * stride * sizeof(float));
  uint16_t *half = aligned(s->output_width * width * sizeof(uint16_t));
  for (size_t i = 0; i < rows * width; i++) {
    input[i] = random_float();
    if (s->bf16_input) input[i] = from_bf16(to_bf16(input[i]));
    const size_t at = i / width * stride + i % width;
    if (s->bf16_input) {
      ((uint16_t *)laid_out)[at] = to_bf16(input[i]);
    } else {
      laid_out[at] = input[i];
    }
  }
  for (size_t i = 0; i < s->output_width * width; i++) {
    weight[i] = truncf(random_float() * 1024) / 1024;
    half[i] = to_f16(weight[i]);
  }
  for (size_t i = 0; i < s->columns; i++) bias[i] = random_float();
  for (size_t i = 0; i < 2 * width; i++) norm[i] = random_float();
  for (size_t i = 0; i < rows * s->columns; i++) residual[i] = random_float();

  void *packed = aligned(cnclip_linear_packed_bytes(type, width, s->output_width));
  const size_t panels = cnclip_linear_panel_count(s->output_width);
  const bool from_f16 = s->f16_weight || type == CNCLIP_LINEAR_F16;
  const void *source = from_f16 ? (const void *)half : (const void *)weight;
  cnclip_linear_packing packing = {type, width, s->output_width, source, from_f16, packed};
  void *scratch = aligned(cnclip_linear_pack_scratch_bytes(type, width));
  kernels->pack(&packing, 0, panels / 2, scratch);
  kernels->pack(&packing, panels / 2, panels, scratch);
  check_packing_in_place(kernels, packing, scratch);
  free(scratch);

  const size_t element = s->bf16_output ? sizeof(uint16_t) : sizeof(float);
  unsigned char *output = aligned((rows * (s->columns + 3) + 64) * element);
  cnclip_linear_job job = {
      .type = type,
      .activation = s->activation,
      .rows = rows,
      .input_width = width,
      .output_width = s->output_width,
      .first_column = s->first_column,
      .columns = s->columns,
      .weight = packed,
      .bias = s->bias ? bias : NULL,
      .input = laid_out,
      .input_stride = stride,
      .input_is_bf16 = s->bf16_input,
      .norm_weight = s->norm ? norm : NULL,
      .norm_bias = s->norm ? norm + width : NULL,
      .norm_epsilon = 1e-5f,
      .residual = s->residual ? residual : NULL,
      .residual_stride = s->columns,
      .output = output,
      .output_stride = s->columns + 3,
      .output_is_bf16 = s->bf16_output,
  };
  const size_t operand_bytes = cnclip_linear_operand_bytes(&job);
  if (operand_bytes > 0) {
    job.operand = aligned(operand_bytes);
    kernels->rows(&job, rows / 3, rows);
    kernels->rows(&job, 0, rows / 3);
  }
  const size_t units = cnclip_linear_unit_count(&job);
  kernels->units(&job, units / 2, units);
  kernels->units(&job, 0, units / 2);

  double worst = 0;
  bool untouched = true;
  for (size_t row = 0; row < rows; row++) {
    for (size_t column = 0; column < s->columns + 3; column++) {
      const unsigned char *at = output + (row * (s->columns + 3) + column) * element;
      if (column >= s->columns) {
        untouched = untouched && at[0] == 0x5A && at[1] == 0x5A;
        continue;
      }
      double wanted, found;
      expect(s, input, weight, bias, norm, residual, row, column, &wanted);
      if (s->bf16_output) {
        uint16_t bits;
        memcpy(&bits, at, sizeof bits);
        found = from_bf16(bits);
      } else {
        float value;
        memcpy(&value, at, sizeof value);
        found = value;
      }
      const double error = fabs(found - wanted);
      if (!(error <= worst)) worst = error;
    }
  }
  CHECK(untouched);
  CHECK(worst <= tolerance(type, s));
  if (!(worst <= tolerance(type, s))) {
    printf("type %d, %zu x %zu x %zu: off by %g, allowed %g\n", type, rows, width, s->output_width,
           worst, tolerance(type, s));
  }
  free(input), free(weight), free(bias), free(norm), free(residual), free(laid_out), free(half);
  free(packed), free(output), free(job.operand);
}

static void test_shapes(void) {
  const shape shapes[] = {
      {.rows = 1, .input_width = 4, .output_width = 4, .columns = 4},
      {.rows = 1, .input_width = 768, .output_width = 64, .columns = 64, .bias = true},
      {.rows = 3, .input_width = 20, .output_width = 36, .columns = 36, .norm = true},
      {.rows = 13,
       .input_width = 64,
       .output_width = 96,
       .columns = 96,
       .bias = true,
       .norm = true},
      {.rows = 15, .input_width = 588, .output_width = 40, .columns = 40, .input_pad = 5},
      {.rows = 29, .input_width = 1024, .output_width = 32, .columns = 32, .residual = true},
      {.rows = 225,
       .input_width = 32,
       .output_width = 80,
       .columns = 80,
       .bias = true,
       .residual = true,
       .activation = CNCLIP_ACTIVATION_QUICK_GELU},
      {.rows = 500,
       .input_width = 16,
       .output_width = 32,
       .columns = 32,
       .activation = CNCLIP_ACTIVATION_GELU},
      {.rows = 9,
       .input_width = 3076,
       .output_width = 44,
       .columns = 44,
       .f16_weight = true,
       .norm = true,
       .activation = CNCLIP_ACTIVATION_RELU},
      {.rows = 5,
       .input_width = 96,
       .output_width = 160,
       .f16_weight = true,
       .first_column = 64,
       .columns = 96,
       .bias = true},
      {.rows = 5, .input_width = 96, .output_width = 160, .first_column = 32, .columns = 40},
      {.rows = 17,
       .input_width = 64,
       .output_width = 48,
       .columns = 48,
       .bf16_input = true,
       .activation = CNCLIP_ACTIVATION_SWISH},
      {.rows = 17,
       .input_width = 64,
       .output_width = 48,
       .columns = 48,
       .bf16_input = true,
       .input_pad = 2,
       .bf16_output = true,
       .activation = CNCLIP_ACTIVATION_GELU_TANH},
      {.rows = 17,
       .input_width = 2048,
       .output_width = 48,
       .columns = 48,
       .bf16_input = true,
       .norm = true,
       .bf16_output = true},
  };
  for (int type = CNCLIP_LINEAR_F32; type <= CNCLIP_LINEAR_INT8; type++) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
      for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
        const cnclip_linear_kernels *kernels = kernels_of((cnclip_linear_type)type, isa);
        if (kernels != NULL) check_shape((cnclip_linear_type)type, kernels, &shapes[i]);
      }
    }
  }
}

/* The panels of a whole weight: new memory. */
static void *packed_panels(const cnclip_linear_kernels *kernels, cnclip_linear_type type,
                           size_t width, size_t columns, const void *weight, bool is_f16) {
  void *packed = aligned(cnclip_linear_packed_bytes(type, width, columns));
  void *scratch = aligned(cnclip_linear_pack_scratch_bytes(type, width));
  const cnclip_linear_packing packing = {type, width, columns, weight, is_f16, packed};
  kernels->pack(&packing, 0, cnclip_linear_panel_count(columns), scratch);
  free(scratch);
  return packed;
}

/* A layer of all columns, of rows and into rows without space between them, and nothing else. */
static cnclip_linear_job plain_job(cnclip_linear_type type, size_t rows, size_t width,
                                   size_t columns, const void *packed, const float *input,
                                   float *output) {
  return (cnclip_linear_job){.type = type,
                             .rows = rows,
                             .input_width = width,
                             .output_width = columns,
                             .columns = columns,
                             .weight = packed,
                             .input = input,
                             .input_stride = width,
                             .output = output,
                             .output_stride = columns};
}

/* A row's result has the same bits whatever rows are computed with it. */
static void check_rows_apart(const cnclip_linear_kernels *kernels) {
  enum { ROWS = 230, WIDTH = 520, COLUMNS = 52 };
  float *input = aligned(ROWS * WIDTH * sizeof(float));
  float *weight = aligned(COLUMNS * WIDTH * sizeof(float));
  float *all = aligned(ROWS * COLUMNS * sizeof(float)), apart[5 * COLUMNS];
  for (size_t i = 0; i < ROWS * WIDTH; i++) input[i] = random_float();
  for (size_t i = 0; i < COLUMNS * WIDTH; i++) weight[i] = random_float();
  void *packed = packed_panels(kernels, CNCLIP_LINEAR_F32, WIDTH, COLUMNS, weight, false);
  cnclip_linear_job job = plain_job(CNCLIP_LINEAR_F32, ROWS, WIDTH, COLUMNS, packed, input, all);
  job.activation = CNCLIP_ACTIVATION_QUICK_GELU;
  kernels->units(&job, 0, cnclip_linear_unit_count(&job));
  job.output = apart;
  for (size_t row = 0; row + 5 < ROWS; row++) {
    job.rows = 1 + row % 5;
    job.input = input + row * WIDTH;
    kernels->units(&job, 0, cnclip_linear_unit_count(&job));
    CHECK(memcmp(apart, all + row * COLUMNS, job.rows * COLUMNS * sizeof(float)) == 0);
  }
  free(input), free(weight), free(all), free(packed);
}

static void test_rows_apart(void) {
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    const cnclip_linear_kernels *kernels = kernels_of(CNCLIP_LINEAR_F32, isa);
    if (kernels != NULL) check_rows_apart(kernels);
  }
}

static float small_whole_number(void) { /* -8 to 8 */
  return roundf(random_float() * 8);
}

/* Whole numbers, whose sums are exact, with `special` in one row and in one column of the output:
 * what is not finite there reaches no other. */
static void check_whole_numbers(cnclip_linear_type type, const cnclip_linear_kernels *kernels,
                                float special) {
  enum { ROWS = 15, WIDTH = 1036, COLUMNS = 44, ROW = 7, COLUMN = 37 };
  float *input = aligned(ROWS * WIDTH * sizeof(float));
  float *weight = aligned(COLUMNS * WIDTH * sizeof(float));
  uint16_t *half = aligned(COLUMNS * WIDTH * sizeof(uint16_t));
  float *output = aligned(ROWS * COLUMNS * sizeof(float));
  for (size_t i = 0; i < ROWS * WIDTH; i++) input[i] = small_whole_number();
  for (size_t i = 0; i < COLUMNS * WIDTH; i++) {
    weight[i] = small_whole_number();
    half[i] = to_f16(weight[i]);
  }
  const size_t at = COLUMN * WIDTH + 5;
  input[ROW * WIDTH + 10] = special;
  weight[at] = special;
  half[at] = isfinite(special) ? to_f16(special)
             : isnan(special)  ? 0x7E00
             : special > 0     ? 0x7C00
                               : 0xFC00;

  const bool is_f16 = type == CNCLIP_LINEAR_F16;
  const void *source = is_f16 ? (const void *)half : (const void *)weight;
  void *packed = packed_panels(kernels, type, WIDTH, COLUMNS, source, is_f16);
  cnclip_linear_job job = plain_job(type, ROWS, WIDTH, COLUMNS, packed, input, output);
  const size_t operand_bytes = cnclip_linear_operand_bytes(&job);
  if (operand_bytes > 0) {
    job.operand = aligned(operand_bytes);
    kernels->rows(&job, 0, ROWS);
  }
  kernels->units(&job, 0, cnclip_linear_unit_count(&job));
  for (size_t row = 0; row < ROWS; row++) {
    for (size_t column = 0; column < COLUMNS; column++) {
      const float found = output[row * COLUMNS + column];
      if (!isfinite(special) && (row == ROW || column == COLUMN)) {
        CHECK(!isfinite(found));
        continue;
      }
      float wanted = 0;
      for (size_t i = 0; i < WIDTH; i++)
        wanted += input[row * WIDTH + i] * weight[column * WIDTH + i];
      CHECK(found == wanted);
    }
  }
  free(input), free(weight), free(half), free(output), free(packed), free(job.operand);
}

static void test_whole_numbers(void) {
  const float special[] = {8, NAN, INFINITY, -INFINITY};
  for (int type = CNCLIP_LINEAR_F32; type <= CNCLIP_LINEAR_BF16; type++) {
    for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
      const cnclip_linear_kernels *kernels = kernels_of((cnclip_linear_type)type, isa);
      for (size_t i = 0; kernels != NULL && i < sizeof special / sizeof *special; i++) {
        check_whole_numbers((cnclip_linear_type)type, kernels, special[i]);
      }
    }
  }
}

/* Activations alone, through a layer whose weight is 1: far values, and those that are not finite.
 */
static void check_activations(const cnclip_linear_kernels *kernels) {
  enum { COUNT = 4096 };
  float *input = aligned(COUNT * 5 * sizeof(float)), *output = aligned(COUNT * 4 * sizeof(float));
  float weight[4 * 4] = {1};
  void *packed = packed_panels(kernels, CNCLIP_LINEAR_F32, 4, 4, weight, false);
  memset(input, 0, COUNT * 5 * sizeof(float));
  for (int i = 0; i < COUNT; i++) input[5 * i] = ldexpf((float)(i - COUNT / 2) / 128, i % 5);
  input[0] = 1e30f, input[5] = -1e30f, input[10] = NAN;
  for (int activation = 0; activation <= CNCLIP_ACTIVATION_QUICK_GELU; activation++) {
    cnclip_linear_job job = plain_job(CNCLIP_LINEAR_F32, COUNT, 4, 4, packed, input, output);
    job.activation = (cnclip_activation)activation;
    job.input_stride = 5;
    CHECK(cnclip_linear_operand_bytes(&job) == 0);
    kernels->units(&job, 0, cnclip_linear_unit_count(&job));
    CHECK(isnan(output[4 * 2]));
    double worst = 0;
    for (int i = 3; i < COUNT; i++) {
      const double x = input[5 * i], wanted = activate((cnclip_activation)activation, x);
      /* Of the size of x, where it is large: the factor that it takes has an error of 1e-7. */
      const double error = fabs(output[4 * i] - wanted) / fmax(fabs(x), 1);
      if (!(error <= worst)) worst = error;
    }
    CHECK(worst < 3e-7);
    if (worst >= 3e-7) printf("activation %d: off by %g\n", activation, worst);
    CHECK(output[0] == 1e30f);
    CHECK(output[4] == (activation == CNCLIP_ACTIVATION_NONE ? -1e30f : 0));
  }
  free(input), free(output), free(packed);
}

static void test_activations(void) {
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    const cnclip_linear_kernels *kernels = kernels_of(CNCLIP_LINEAR_F32, isa);
    if (kernels != NULL) check_activations(kernels);
  }
}

static void test_table(void) {
  for (int type = CNCLIP_LINEAR_F32; type <= CNCLIP_LINEAR_INT8; type++) {
    CHECK(cnclip_linear_kernels_get((cnclip_linear_type)type, CNCLIP_ISA_SERIAL) == NULL);
  }
#if defined(__x86_64__)
  const cnclip_linear_kernels *avx2 = cnclip_linear_kernels_get(CNCLIP_LINEAR_F32, CNCLIP_ISA_AVX2);
  CHECK(avx2 != NULL && cnclip_linear_kernels_get(CNCLIP_LINEAR_F16, CNCLIP_ISA_AVX2) != NULL);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_BF16, CNCLIP_ISA_AVX2) == NULL);
  const cnclip_linear_kernels *int8 =
      cnclip_linear_kernels_get(CNCLIP_LINEAR_INT8, CNCLIP_ISA_AVX2);
  CHECK(int8 != NULL);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_INT8, CNCLIP_ISA_AVX_VNNI) != int8);
  const cnclip_linear_kernels *avx512 =
      cnclip_linear_kernels_get(CNCLIP_LINEAR_F32, CNCLIP_ISA_AVX512);
  CHECK(avx512 != NULL && avx512 != avx2);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_F32, CNCLIP_ISA_AVX512_BF16) == avx512);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_BF16, CNCLIP_ISA_AVX512_VNNI) == NULL);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_BF16, CNCLIP_ISA_AVX512_BF16) != NULL);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_INT8, CNCLIP_ISA_AVX512) == int8);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_INT8, CNCLIP_ISA_AVX512_BF16) != int8);
#elif defined(__aarch64__)
  const cnclip_linear_kernels *neon = cnclip_linear_kernels_get(CNCLIP_LINEAR_F32, CNCLIP_ISA_NEON);
  CHECK(neon != NULL && cnclip_linear_kernels_get(CNCLIP_LINEAR_F16, CNCLIP_ISA_NEON) != NULL);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_F32, CNCLIP_ISA_NEON_I8MM) == neon);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_INT8, CNCLIP_ISA_NEON) == NULL);
  const cnclip_linear_kernels *dotprod =
      cnclip_linear_kernels_get(CNCLIP_LINEAR_INT8, CNCLIP_ISA_NEON_DOTPROD);
  const cnclip_linear_kernels *i8mm =
      cnclip_linear_kernels_get(CNCLIP_LINEAR_INT8, CNCLIP_ISA_NEON_I8MM);
  CHECK(dotprod != NULL && i8mm != NULL && dotprod != i8mm);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_INT8, CNCLIP_ISA_NEON_BF16) == i8mm);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_BF16, CNCLIP_ISA_NEON_I8MM) == NULL);
  CHECK(cnclip_linear_kernels_get(CNCLIP_LINEAR_BF16, CNCLIP_ISA_NEON_BF16) != NULL);
#endif
  CHECK(cnclip_linear_fits(4, 4) && !cnclip_linear_fits(6, 4) && !cnclip_linear_fits(4, 6));
  CHECK(!cnclip_linear_fits(0, 4) && !cnclip_linear_fits(4, 0));
  CHECK(cnclip_linear_packs_in_place(CNCLIP_LINEAR_F16, true, 32));
  CHECK(cnclip_linear_packs_in_place(CNCLIP_LINEAR_F32, false, 32));
  CHECK(cnclip_linear_packs_in_place(CNCLIP_LINEAR_BF16, true, 32));
  CHECK(!cnclip_linear_packs_in_place(CNCLIP_LINEAR_BF16, true, 36));
  CHECK(!cnclip_linear_packs_in_place(CNCLIP_LINEAR_BF16, false, 32));
  CHECK(!cnclip_linear_packs_in_place(CNCLIP_LINEAR_INT8, true, 32));
  CHECK(!cnclip_linear_fits(CNCLIP_LINEAR_MAX_INPUT + 4, 4));
}

static void test_bf16_rows_of_partial_vectors(void) {
  const shape s = {.rows = 6,
                   .input_width = 44,
                   .output_width = 36,
                   .columns = 36,
                   .bf16_input = true,
                   .norm = true};
  for (int type = CNCLIP_LINEAR_F32; type <= CNCLIP_LINEAR_INT8; type++) {
    for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
      const cnclip_linear_kernels *kernels = kernels_of((cnclip_linear_type)type, isa);
      if (kernels != NULL) check_shape((cnclip_linear_type)type, kernels, &s);
    }
  }
}

/* Rows are multiplied where they are if they are words whose stride spares the cache. */
static void test_rows_in_place(void) {
  cnclip_linear_job job = {.type = CNCLIP_LINEAR_BF16,
                           .rows = 1,
                           .input_width = 64,
                           .input_stride = 64,
                           .input_is_bf16 = true};
  CHECK(cnclip_linear_operand_bytes(&job) == 0);
  job.input_stride = 65; /* half a word */
  CHECK(cnclip_linear_operand_bytes(&job) > 0);
  job.input_stride = 2048; /* 4 KiB */
  CHECK(cnclip_linear_operand_bytes(&job) > 0);
  job.input_stride = 1024, job.input_is_bf16 = false;
  CHECK(cnclip_linear_operand_bytes(&job) > 0);
  job.type = CNCLIP_LINEAR_F32; /* 4 KiB, too */
  CHECK(cnclip_linear_operand_bytes(&job) > 0);
  job.input_stride = 1028;
  CHECK(cnclip_linear_operand_bytes(&job) == 0);
}

int main(void) {
  test_table();
  test_rows_in_place();
  test_shapes();
  test_whole_numbers();
  test_activations();
  test_rows_apart();
  test_bf16_rows_of_partial_vectors();
  return check_summary("linear");
}
