#include "kernels/linear.h"

#include "kernels/linear_layout.h"

/* The best kernels of a type come first. */
static const struct {
  cnclip_linear_type type;
  cnclip_isa isa; /* the lowest instruction set that runs them */
  cnclip_linear_kernels kernels;
} kernel_table[] = {
#if defined(__x86_64__)
    {CNCLIP_LINEAR_F32,
     CNCLIP_ISA_AVX512,
     {cnclip_linear_rows_f32_avx512, cnclip_linear_units_f32_avx512, cnclip_linear_pack_avx512}},
    {CNCLIP_LINEAR_F32,
     CNCLIP_ISA_AVX2,
     {cnclip_linear_rows_f32_avx2, cnclip_linear_units_f32_avx2, cnclip_linear_pack_avx2}},
    {CNCLIP_LINEAR_F16,
     CNCLIP_ISA_AVX512,
     {cnclip_linear_rows_f16_avx512, cnclip_linear_units_f16_avx512, cnclip_linear_pack_avx512}},
    {CNCLIP_LINEAR_F16,
     CNCLIP_ISA_AVX2,
     {cnclip_linear_rows_f16_avx2, cnclip_linear_units_f16_avx2, cnclip_linear_pack_avx2}},
    {CNCLIP_LINEAR_BF16,
     CNCLIP_ISA_AVX512_BF16,
     {cnclip_linear_rows_bf16_avx512_bf16, cnclip_linear_units_bf16_avx512_bf16,
      cnclip_linear_pack_avx512}},
    {CNCLIP_LINEAR_INT8,
     CNCLIP_ISA_AVX512_VNNI,
     {cnclip_linear_rows_int8_avx512_vnni, cnclip_linear_units_int8_avx512_vnni,
      cnclip_linear_pack_avx512}},
    {CNCLIP_LINEAR_INT8,
     CNCLIP_ISA_AVX_VNNI,
     {cnclip_linear_rows_int8_avx_vnni, cnclip_linear_units_int8_avx_vnni,
      cnclip_linear_pack_avx2}},
    {CNCLIP_LINEAR_INT8,
     CNCLIP_ISA_AVX2,
     {cnclip_linear_rows_int8_avx2, cnclip_linear_units_int8_avx2, cnclip_linear_pack_avx2}},
#elif defined(__aarch64__)
    {CNCLIP_LINEAR_F32,
     CNCLIP_ISA_NEON,
     {cnclip_linear_rows_f32_neon, cnclip_linear_units_f32_neon, cnclip_linear_pack_neon}},
    {CNCLIP_LINEAR_F16,
     CNCLIP_ISA_NEON,
     {cnclip_linear_rows_f16_neon, cnclip_linear_units_f16_neon, cnclip_linear_pack_neon}},
    {CNCLIP_LINEAR_BF16,
     CNCLIP_ISA_NEON_BF16,
     {cnclip_linear_rows_bf16_neon_bf16, cnclip_linear_units_bf16_neon_bf16,
      cnclip_linear_pack_neon}},
    {CNCLIP_LINEAR_INT8,
     CNCLIP_ISA_NEON_I8MM,
     {cnclip_linear_rows_int8_neon_i8mm, cnclip_linear_units_int8_neon_i8mm,
      cnclip_linear_pack_neon}},
    {CNCLIP_LINEAR_INT8,
     CNCLIP_ISA_NEON_DOTPROD,
     {cnclip_linear_rows_int8_neon_dotprod, cnclip_linear_units_int8_neon_dotprod,
      cnclip_linear_pack_neon}},
#endif
    {CNCLIP_LINEAR_F32, CNCLIP_ISA_COUNT, {NULL, NULL, NULL}},
};

const cnclip_linear_kernels *cnclip_linear_kernels_get(cnclip_linear_type type, cnclip_isa isa) {
  for (size_t i = 0; kernel_table[i].isa != CNCLIP_ISA_COUNT; i++) {
    if (kernel_table[i].type == type && cnclip_isa_includes(isa, kernel_table[i].isa)) {
      return &kernel_table[i].kernels;
    }
  }
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

size_t cnclip_linear_pack_scratch_bytes(cnclip_linear_type type, size_t input_width) {
  const size_t words =
      linear_panel_bytes(type, input_width) / CNCLIP_LINEAR_PANEL / sizeof(uint32_t);
  return CNCLIP_LINEAR_PANEL * linear_pack_stride(words) * sizeof(uint32_t);
}

bool cnclip_linear_packs_in_place(cnclip_linear_type type, bool weight_is_f16,
                                  size_t output_width) {
  const size_t element = weight_is_f16 ? sizeof(uint16_t) : sizeof(float);
  return output_width % CNCLIP_LINEAR_PANEL == 0 &&
         element * linear_per_word(type) == linear_step_bytes(type) / CNCLIP_LINEAR_PANEL;
}

/* Whether the input's rows are the words that the kernels multiply, and their stride is not a
 * multiple of 4 KiB: such rows would all map to the same cache sets. */
static bool reads_input(const cnclip_linear_job *job) {
  if (job->norm_weight != NULL || job->type == CNCLIP_LINEAR_INT8) return false;
  const bool wants_bf16 = job->type == CNCLIP_LINEAR_BF16;
  if (wants_bf16 != job->input_is_bf16) return false;
  const size_t stride_bytes = job->input_stride * (wants_bf16 ? sizeof(uint16_t) : sizeof(float));
  return stride_bytes % sizeof(uint32_t) == 0 && stride_bytes % 4096 != 0;
}

size_t cnclip_linear_operand_bytes(const cnclip_linear_job *job) {
  if (reads_input(job)) return 0;
  const size_t words = linear_row_room(job->type, job->input_width);
  return job->rows * (words + (job->type == CNCLIP_LINEAR_INT8 ? 2 : 0)) * sizeof(uint32_t);
}

size_t cnclip_linear_panel_count(size_t output_width) {
  return linear_panels(output_width);
}

size_t cnclip_linear_unit_count(const cnclip_linear_job *job) {
  return linear_blocks(job->rows) * linear_panels(job->columns);
}
