/* libFuzzer: a linear layer of fuzzed size, parts and numbers, with every kernel for float32 and
 * int8 that this machine has. Those of float32 must give the answer of loops in double precision,
 * and NaN where they do; those of int8, their twin's bits; the memory has exactly the bytes that
 * the job describes. Built with clang -fsanitize=fuzzer,address,undefined from this file and
 * csrc/kernels. */
#define _POSIX_C_SOURCE 200112L /* posix_memalign */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz_input.h"
#include "kernels/linear.h"
#include "linear_int8_twin.h"

/* Noise of -1 to 1 in a new block of exactly its size; rarely a number that is not finite. */
static float *take_floats(input *in, size_t count) {
  float *floats = malloc(count * sizeof *floats);
  if (floats == NULL) abort();
  uint32_t state = 1 + take(in, 65535);
  for (size_t i = 0; i < count; i++) {
    state = state * 1664525u + 1013904223u;
    floats[i] = (float)(int32_t)state / 2147483648.0f;
  }
  if (take(in, 8) == 0) floats[take(in, 65535) % count] = take(in, 2) ? INFINITY : NAN;
  return floats;
}

static void *take_aligned(size_t bytes) {
  void *memory = NULL;
  if (posix_memalign(&memory, CNCLIP_LINEAR_ALIGNMENT, bytes) != 0) abort();
  return memory;
}

typedef struct {
  cnclip_linear_job job;
  float *weight, *packed;
} layer;

/* What the number has to be: about that in float32, exactly that in int8. */
static bool is_right(const layer *made, double wanted, float found) {
  const double allowed =
      made->job.type == CNCLIP_LINEAR_INT8 ? 0 : 1e-6 * (double)(made->job.input_width + 4);
  return isfinite(wanted) ? fabs((double)found - wanted) <= allowed
         : isnan(wanted)  ? isnan(found)
                          : (double)found == wanted;
}

static double expected(const layer *made, size_t row, size_t column) {
  const cnclip_linear_job *job = &made->job;
  const float *x = (const float *)job->input + row * job->input_stride;
  const float *weight = made->weight + (job->first_column + column) * job->input_width;
  double sum = job->bias == NULL ? 0 : (double)job->bias[column];
  for (size_t i = 0; i < job->input_width; i++) sum += (double)x[i] * (double)weight[i];
  return job->residual == NULL ? sum : sum + (double)job->residual[row * job->columns + column];
}

static void check(const layer *made) {
  const cnclip_linear_job *job = &made->job;
  const float *output = job->output;
  for (size_t row = 0; row < job->rows; row++) {
    for (size_t column = 0; column < job->columns; column++) {
      const double wanted = expected(made, row, column);
      if (!is_right(made, wanted, output[row * job->output_stride + column])) abort();
    }
  }
}

static void check_int8(const layer *made) {
  const cnclip_linear_job *job = &made->job;
  const float *output = job->output;
  const size_t width = job->input_width;
  for (size_t row = 0; row < job->rows; row++) {
    twin_row x = twin_input((const float *)job->input + row * job->input_stride, width);
    for (size_t column = 0; column < job->columns; column++) {
      twin_row weight = twin_weight(made->weight + (job->first_column + column) * width, width);
      const float bias = job->bias == NULL ? 0 : job->bias[column];
      float wanted = twin_product(&x, &weight, width, bias);
      if (job->residual != NULL) wanted += job->residual[row * job->columns + column];
      if (!is_right(made, (double)wanted, output[row * job->output_stride + column])) abort();
      free(weight.levels);
    }
    free(x.levels);
  }
}

/* Packs the weight and computes the layer in two parts, in any order. */
static void run(const cnclip_linear_kernels *kernels, layer *made) {
  cnclip_linear_job *job = &made->job;
  const size_t panels = cnclip_linear_panel_count(job->output_width);
  const cnclip_linear_packing packing = {
      job->type, job->input_width, job->output_width, made->weight, false, made->packed};
  void *scratch = take_aligned(cnclip_linear_pack_scratch_bytes(job->type, job->input_width));
  kernels->pack(&packing, panels / 2, panels, scratch);
  kernels->pack(&packing, 0, panels / 2, scratch);
  free(scratch);
  const size_t bytes = cnclip_linear_operand_bytes(job), units = cnclip_linear_unit_count(job);
  if (bytes > 0) {
    job->operand = take_aligned(bytes);
    kernels->rows(job, 0, job->rows);
  }
  kernels->units(job, units / 2, units);
  kernels->units(job, 0, units / 2);
  free(job->operand);
  job->operand = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input in = {data, size};
  /* One size of three may be large, so that an input takes little time: more rows than a unit has,
   * a long sum, several panels. */
  const unsigned large = take(&in, 4);
  const size_t rows = 1 + take(&in, large == 0 ? 130 : 9);
  const size_t width = 4 * (1 + take(&in, large == 1 ? 160 : 12));
  const size_t output_width = 4 * (1 + take(&in, large == 2 ? 30 : 10)), pad = take(&in, 6);
  const size_t first =
      take(&in, (unsigned)cnclip_linear_panel_count(output_width)) * CNCLIP_LINEAR_PANEL;
  const size_t columns = 1 + take(&in, (unsigned)(output_width - first));
  float *x = take_floats(&in, (rows - 1) * (width + pad) + width);
  float *bias = take_floats(&in, columns), *residual = take_floats(&in, rows * columns);
  float *output = malloc(((rows - 1) * (columns + pad) + columns) * sizeof *output);
  const cnclip_linear_type type = take(&in, 3) ? CNCLIP_LINEAR_F32 : CNCLIP_LINEAR_INT8;
  layer made = {.job = {.type = type,
                        .rows = rows,
                        .input_width = width,
                        .output_width = output_width,
                        .first_column = first,
                        .columns = columns,
                        .bias = take(&in, 2) ? bias : NULL,
                        .input = x,
                        .input_stride = width + pad,
                        .residual = take(&in, 2) ? residual : NULL,
                        .residual_stride = columns,
                        .output = output,
                        .output_stride = columns + pad},
                .weight = take_floats(&in, output_width * width),
                .packed = take_aligned(cnclip_linear_packed_bytes(type, width, output_width))};
  if (output == NULL) abort();
  made.job.weight = made.packed;
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    if (!cnclip_isa_supported((cnclip_isa)isa)) continue;
    const cnclip_linear_kernels *kernels = cnclip_linear_kernels_get(type, (cnclip_isa)isa);
    if (kernels == NULL) continue;
    memset(output, 0xFF, ((rows - 1) * (columns + pad) + columns) * sizeof *output);
    run(kernels, &made);
    (type == CNCLIP_LINEAR_INT8 ? check_int8 : check)(&made);
  }
  free(x), free(bias), free(residual), free(output), free(made.weight), free(made.packed);
  return 0;
}
