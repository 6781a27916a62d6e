/* A linear layer with the operations around it: output = activation(norm(input) W^T + bias) +
 * residual.
 *
 * Weights are packed once into panels of 32 output columns. A panel holds, step by step, one 32-bit
 * word for each of its columns: one float32, two bfloat16 or four int8 along the input. Rows of the
 * input are converted to the same words (`rows`), and then the product is computed in units of one
 * block of rows by one panel (`units`), which may run on any number of threads.
 *
 * There are kernels for AVX-512, for AVX2 except for BF16, and for ARM64, where BF16 needs BF16 and
 * INT8 needs DotProd; elsewhere the caller uses other functions. Kernels of INT8 of all instruction
 * sets have the same integer sums. The order of words within a panel depends on the instruction
 * set. */
#ifndef CNCLIP_LINEAR_H
#define CNCLIP_LINEAR_H

#include <stdbool.h>
#include <stddef.h>

#include "base/cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  CNCLIP_LINEAR_F32,
  CNCLIP_LINEAR_F16,  /* weights stored as float16, arithmetic in float32: half the memory, and the
                         same numbers where float16 holds the weights exactly */
  CNCLIP_LINEAR_BF16, /* products of bfloat16, sums in float32 */
  CNCLIP_LINEAR_INT8, /* weights int8 with one scale per column; rows uint8 with a scale and a zero
                         point each, taken from the row's own range; sums in int32 */
} cnclip_linear_type;

typedef enum {
  CNCLIP_ACTIVATION_NONE,
  CNCLIP_ACTIVATION_RELU,
  CNCLIP_ACTIVATION_GELU,       /* x * Phi(x) (Hendrycks and Gimpel 2016, arXiv:1606.08415) */
  CNCLIP_ACTIVATION_GELU_TANH,  /* its approximation by tanh, BERT's gelu_new */
  CNCLIP_ACTIVATION_SWISH,      /* x * sigmoid(x) */
  CNCLIP_ACTIVATION_QUICK_GELU, /* x * sigmoid(1.702 x), CLIP's */
} cnclip_activation;

enum { CNCLIP_LINEAR_PANEL = 32, CNCLIP_LINEAR_ALIGNMENT = 64 };

/* What one call computes: some columns of the layer's output, for all rows. All memory is the
 * caller's. */
typedef struct {
  cnclip_linear_type type;
  cnclip_activation activation;
  size_t rows, input_width, output_width;
  size_t first_column; /* a multiple of CNCLIP_LINEAR_PANEL */
  size_t columns;      /* first_column + columns <= output_width */
  const void *weight;  /* as `pack` made it */
  const float *bias;   /* [columns], or NULL */
  const void *input;   /* [rows, input_width], float32 or bfloat16 */
  size_t input_stride; /* elements from row to row, as all strides here */
  bool input_is_bf16;
  const float *norm_weight, *norm_bias; /* [input_width]: layer normalization before; or NULL */
  float norm_epsilon;
  const float *residual; /* [rows, columns], or NULL; may be `output` itself */
  size_t residual_stride;
  void *output; /* [rows, columns], float32 or bfloat16 */
  size_t output_stride;
  bool output_is_bf16;
  void *operand; /* cnclip_linear_operand_bytes, aligned to CNCLIP_LINEAR_ALIGNMENT; NULL where
                    that is 0 */
} cnclip_linear_job;

/* Prepares rows first..last of the input in `operand`: call it for all rows before the first unit,
 * unless the operand takes no bytes. */
typedef void cnclip_linear_rows(const cnclip_linear_job *job, size_t first, size_t last);

/* Computes units first..last of cnclip_linear_unit_count. */
typedef void cnclip_linear_units(const cnclip_linear_job *job, size_t first, size_t last);

/* A weight to be converted to the form that units read. */
typedef struct {
  cnclip_linear_type type;
  size_t input_width, output_width;
  const void *weight; /* [output_width, input_width], float16 or float32; for F16, float16 */
  bool weight_is_f16;
  void *packed; /* cnclip_linear_packed_bytes, aligned to CNCLIP_LINEAR_ALIGNMENT; it may be the
                   weight itself where cnclip_linear_packs_in_place says so */
} cnclip_linear_packing;

/* Packs panels first..last of cnclip_linear_panel_count; any number of threads may, each with
 * separate cnclip_linear_pack_scratch_bytes, aligned likewise. */
typedef void cnclip_linear_pack(const cnclip_linear_packing *packing, size_t first, size_t last,
                                void *scratch);

typedef struct {
  cnclip_linear_rows *rows;
  cnclip_linear_units *units;
  cnclip_linear_pack *pack;
} cnclip_linear_kernels;

/* Borrowed, static; NULL where neither `isa` nor a set below it has kernels for `type`. */
const cnclip_linear_kernels *cnclip_linear_kernels_get(cnclip_linear_type type, cnclip_isa isa);

/* The widest input that packs: sums of int8 products stay within int32. Widths are multiples of
 * four. */
enum { CNCLIP_LINEAR_MAX_INPUT = 65536 };
bool cnclip_linear_fits(size_t input_width, size_t output_width);

size_t cnclip_linear_packed_bytes(cnclip_linear_type type, size_t input_width, size_t output_width);
size_t cnclip_linear_panel_count(size_t output_width);
size_t cnclip_linear_pack_scratch_bytes(cnclip_linear_type type, size_t input_width);
bool cnclip_linear_packs_in_place(cnclip_linear_type type, bool weight_is_f16, size_t output_width);

/* 0 where the kernels can read the input directly. */
size_t cnclip_linear_operand_bytes(const cnclip_linear_job *job);
size_t cnclip_linear_unit_count(const cnclip_linear_job *job);

cnclip_linear_pack cnclip_linear_pack_avx2, cnclip_linear_pack_avx512, cnclip_linear_pack_neon;
cnclip_linear_rows cnclip_linear_rows_f32_avx2, cnclip_linear_rows_f16_avx2,
    cnclip_linear_rows_int8_avx2, cnclip_linear_rows_int8_avx_vnni, cnclip_linear_rows_f32_avx512,
    cnclip_linear_rows_f16_avx512, cnclip_linear_rows_bf16_avx512_bf16,
    cnclip_linear_rows_int8_avx512_vnni, cnclip_linear_rows_f32_neon, cnclip_linear_rows_f16_neon,
    cnclip_linear_rows_bf16_neon_bf16, cnclip_linear_rows_int8_neon_dotprod,
    cnclip_linear_rows_int8_neon_i8mm;
cnclip_linear_units cnclip_linear_units_f32_avx2, cnclip_linear_units_f16_avx2,
    cnclip_linear_units_int8_avx2, cnclip_linear_units_int8_avx_vnni,
    cnclip_linear_units_f32_avx512, cnclip_linear_units_f16_avx512,
    cnclip_linear_units_bf16_avx512_bf16, cnclip_linear_units_int8_avx512_vnni,
    cnclip_linear_units_f32_neon, cnclip_linear_units_f16_neon, cnclip_linear_units_bf16_neon_bf16,
    cnclip_linear_units_int8_neon_dotprod, cnclip_linear_units_int8_neon_i8mm;

#ifdef __cplusplus
}
#endif

#endif
