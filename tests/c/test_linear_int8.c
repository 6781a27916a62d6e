#define _GNU_SOURCE /* registers in ucontext.h */

#include "kernels/linear.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "aligned.h"
#include "check.h"
#include "linear_int8_twin.h"
#include "vnni_emulator.h"

/* All kernels of INT8 that this machine runs, to the bit: those of all instruction sets compute the
 * same integers. */

cnclip_linear_rows cnclip_linear_rows_int8_evex;
cnclip_linear_units cnclip_linear_units_int8_evex;

typedef struct {
  size_t rows, input_width, output_width;
} shape;

static uint32_t random_state = 1;

static float random_float(void) { /* about -1 to 1 */
  random_state = random_state * 1664525u + 1013904223u;
  return (float)(int32_t)random_state / 2147483648.0f;
}

static void *aligned(size_t bytes) {
  return aligned_memory(bytes, 0x5A);
}

/* A layer, its weight and input, and the output that its kernels have to give. */
typedef struct {
  cnclip_linear_job job;
  float *input, *weight, *bias, *residual, *expected;
} layer;

static layer new_layer(const shape *s) {
  layer made = {.input = aligned(s->rows * s->input_width * sizeof(float)),
                .weight = aligned(s->output_width * s->input_width * sizeof(float)),
                .bias = aligned(s->output_width * sizeof(float)),
                .residual = aligned(s->rows * s->output_width * sizeof(float)),
                .expected = aligned(s->rows * s->output_width * sizeof(float))};
  for (size_t i = 0; i < s->rows * s->input_width; i++) made.input[i] = random_float();
  for (size_t i = 0; i < s->output_width * s->input_width; i++) made.weight[i] = random_float();
  for (size_t i = 0; i < s->output_width; i++) made.bias[i] = random_float();
  for (size_t i = 0; i < s->rows * s->output_width; i++) made.residual[i] = random_float();
  made.job = (cnclip_linear_job){.type = CNCLIP_LINEAR_INT8,
                                 .activation = CNCLIP_ACTIVATION_RELU,
                                 .rows = s->rows,
                                 .input_width = s->input_width,
                                 .output_width = s->output_width,
                                 .columns = s->output_width,
                                 .bias = made.bias,
                                 .input = made.input,
                                 .input_stride = s->input_width,
                                 .residual = made.residual,
                                 .residual_stride = s->output_width,
                                 .output_stride = s->output_width};
  return made;
}

static void free_layer(layer *made) {
  free(made->input), free(made->weight), free(made->bias), free(made->residual);
  free(made->expected);
}

static void expect(layer *made) {
  const cnclip_linear_job *job = &made->job;
  const size_t in = job->input_width, out = job->output_width;
  twin_row *rows = calloc(job->rows, sizeof *rows);
  if (rows == NULL) abort();
  for (size_t i = 0; i < job->rows; i++) rows[i] = twin_input(made->input + i * in, in);
  for (size_t column = 0; column < out; column++) {
    twin_row weight = twin_weight(made->weight + column * in, in);
    for (size_t i = 0; i < job->rows; i++) {
      const float x = twin_product(&rows[i], &weight, in, made->bias[column]);
      const bool is_kept = job->activation == CNCLIP_ACTIVATION_NONE || !(x < 0);
      made->expected[i * out + column] = (is_kept ? x : 0) + made->residual[i * out + column];
    }
    free(weight.levels);
  }
  for (size_t i = 0; i < job->rows; i++) free(rows[i].levels);
  free(rows);
}

static bool runs(const cnclip_linear_kernels *kernels, layer *made) {
  cnclip_linear_job *job = &made->job;
  const size_t in = job->input_width, out = job->output_width, count = job->rows * out;
  void *packed = aligned(cnclip_linear_packed_bytes(job->type, in, out));
  void *scratch = aligned(cnclip_linear_pack_scratch_bytes(job->type, in));
  const cnclip_linear_packing packing = {job->type, in, out, made->weight, false, packed};
  kernels->pack(&packing, 0, cnclip_linear_panel_count(out), scratch);
  float *output = aligned(count * sizeof *output);
  job->weight = packed, job->output = output;
  job->operand = aligned(cnclip_linear_operand_bytes(job));
  kernels->rows(job, 0, job->rows);
  kernels->units(job, 0, cnclip_linear_unit_count(job));
  bool same = true;
  for (size_t i = 0; i < count; i++) {
    const float found = output[i], wanted = made->expected[i];
    same = same && (isnan(wanted) ? isnan(found) : memcmp(&found, &wanted, sizeof found) == 0);
  }
  free(packed), free(scratch), free(output), free(job->operand);
  return same;
}

/* Those of the table, and AVX-VNNI's in the form of AVX-512. */
static void check_kernels(layer *made) {
  expect(made);
  const cnclip_linear_kernels *before = NULL;
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    if (!cnclip_isa_supported((cnclip_isa)isa)) continue;
    const cnclip_linear_kernels *kernels =
        cnclip_linear_kernels_get(CNCLIP_LINEAR_INT8, (cnclip_isa)isa);
    if (kernels == NULL || kernels == before) continue;
    const bool same = runs(kernels, made);
    CHECK(same);
    if (!same) {
      printf("%s: %zu x %zu x %zu\n", cnclip_isa_name((cnclip_isa)isa), made->job.rows,
             made->job.input_width, made->job.output_width);
    }
    before = kernels;
  }
#if defined(__x86_64__)
  if (cnclip_isa_supported(CNCLIP_ISA_AVX512_VNNI)) {
    const cnclip_linear_kernels evex = {cnclip_linear_rows_int8_evex, cnclip_linear_units_int8_evex,
                                        cnclip_linear_pack_avx2};
    CHECK(runs(&evex, made));
  }
#endif
}

/* The linear layers of the five published models: widths 768, 1024 and 1280, four times as much
 * within, patches of 16 and 14, and the projections. */
static const shape of_models[] = {
    {7, 768, 2304},  {5, 768, 768},   {5, 768, 3072},  {5, 3072, 768},  {3, 1024, 3072},
    {3, 1024, 4096}, {3, 4096, 1024}, {3, 1280, 3840}, {2, 1280, 5120}, {2, 5120, 1280},
    {3, 588, 1024},  {3, 588, 1280},  {3, 768, 512},   {3, 1024, 768},  {3, 1280, 1024},
    {3, 2048, 6144}, {3, 2048, 1024}, {225, 768, 64},
};

static const shape odd[] = {
    {1, 4, 4},    {1, 8, 4},    {2, 12, 36},  {3, 20, 36},   {6, 28, 100}, {7, 36, 68},
    {13, 44, 32}, {29, 64, 96}, {115, 60, 8}, {9, 1028, 44}, {2, 3076, 4},
};

static void test_shapes(void) {
  for (size_t i = 0; i < sizeof of_models / sizeof *of_models; i++) {
    layer made = new_layer(&of_models[i]);
    check_kernels(&made);
    free_layer(&made);
  }
  for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
    layer made = new_layer(&odd[i]);
    made.job.activation = CNCLIP_ACTIVATION_NONE;
    check_kernels(&made);
    free_layer(&made);
  }
}

/* Every product as large as it gets, 255 * 127 and 255 * -127: sums of two are beyond 16 bits, and
 * those of 65,536 near the end of 32 bits. One element of 0 keeps the rows' range. */
static void test_largest_sums(void) {
  const shape shapes[] = {{3, 64, 32}, {2, CNCLIP_LINEAR_MAX_INPUT, 4}};
  for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
    layer made = new_layer(&shapes[k]);
    made.job.activation = CNCLIP_ACTIVATION_NONE;
    const size_t in = shapes[k].input_width;
    for (size_t i = 0; i < shapes[k].rows * in; i++) made.input[i] = i % in == 0 ? 0.0f : 255.0f;
    for (size_t i = 0; i < shapes[k].output_width * in; i++) {
      const size_t column = i / in;
      made.weight[i] = column % 3 == 0 ? 127 : column % 3 == 1 ? -127 : i % 2 ? 127 : -127;
    }
    check_kernels(&made);
    const float sum = made.expected[0] - made.residual[0] - made.bias[0];
    CHECK(fabsf(sum / ((float)(in - 1) * 255 * 127) - 1) < 1e-5f);
    free_layer(&made);
  }
}

static void test_rows_of_one_value_and_of_tiny_range(void) {
  const shape s = {6, 40, 36};
  layer made = new_layer(&s);
  const float values[] = {0, -0.0f, 3.5f, -1e-40f, 1e30f, -7};
  for (size_t row = 0; row < s.rows; row++) {
    for (size_t i = 0; i < s.input_width; i++) made.input[row * s.input_width + i] = values[row];
  }
  made.input[2 * s.input_width] = nextafterf(3.5f, 4);
  made.input[3 * s.input_width + 7] = 1e-40f;
  memset(made.weight, 0, 2 * s.input_width * sizeof(float)); /* two columns of zeros */
  for (size_t i = 0; i < s.input_width; i++) made.weight[3 * s.input_width + i] *= 1e-39f;
  check_kernels(&made);
  free_layer(&made);
}

/* A number that is not finite makes its row of the output NaN, or its column, and no other. */
static void test_not_finite(void) {
  const float numbers[] = {NAN, INFINITY, -INFINITY};
  const shape s = {8, 44, 36};
  for (size_t k = 0; k < 3; k++) {
    for (size_t at = 0; at < s.input_width; at += 5) {
      layer made = new_layer(&s);
      made.input[3 * s.input_width + at] = numbers[k];
      made.weight[5 * s.input_width + at] = numbers[(k + at) % 3];
      check_kernels(&made);
      for (size_t i = 0; i < s.rows * s.output_width; i++) {
        const bool is_hit = i / s.output_width == 3 || i % s.output_width == 5;
        CHECK(isnan(made.expected[i]) == is_hit);
      }
      free_layer(&made);
    }
  }
}

/* Where the processor lacks AVX-VNNI, its kernels with the instruction emulated. */
static void test_emulated_vnni(void) {
#if defined(__x86_64__)
  const bool is_needed =
      cnclip_isa_supported(CNCLIP_ISA_AVX2) && !cnclip_isa_supported(CNCLIP_ISA_AVX_VNNI);
  if (!is_needed || !emulate_vnni()) return;
  const cnclip_linear_kernels *kernels =
      cnclip_linear_kernels_get(CNCLIP_LINEAR_INT8, CNCLIP_ISA_AVX_VNNI);
  for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
    layer made = new_layer(&odd[i]);
    expect(&made);
    CHECK(runs(kernels, &made));
    free_layer(&made);
  }
  const shape wide = {2, 768, 64};
  layer made = new_layer(&wide);
  for (size_t i = 0; i < wide.output_width * wide.input_width; i++) {
    made.weight[i] = i % 5 ? 127 : -127;
  }
  for (size_t i = 0; i < wide.rows * wide.input_width; i++) made.input[i] = i % 7 ? 255 : 0;
  expect(&made);
  CHECK(runs(kernels, &made));
  free_layer(&made);
#endif
}

int main(void) {
  test_shapes();
  test_largest_sums();
  test_rows_of_one_value_and_of_tiny_range();
  test_not_finite();
  test_emulated_vnni();
  return check_summary("linear_int8");
}
