/* Multi-head scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762) of items of any
 * lengths, whose rows follow each other without padding.
 *
 * Item i has the queries query_starts[i] to query_starts[i + 1] and likewise keys and values. All
 * queries of an item see all of its keys.
 *
 * A unit is one head of one item: its keys are transposed and its values gathered into panels of 32
 * columns, which stay in a level-2 cache; then a few queries at a time have their scores, the
 * softmax and the mix of values computed. There are kernels for AVX-512, for AVX2 in F32, and for
 * NEON, where BF16 needs its instructions. */
#ifndef CNCLIP_ATTENTION_H
#define CNCLIP_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  CNCLIP_ATTENTION_F32,
  CNCLIP_ATTENTION_BF16, /* queries, keys, values, weights and output bfloat16, sums float32 */
} cnclip_attention_type;

/* All memory is the caller's. Rows are [heads, head_width] of the type; strides count elements. */
typedef struct {
  cnclip_attention_type type;
  size_t items, heads, head_width;
  const int64_t *query_starts, *key_starts; /* [items + 1], rising */
  const void *query, *key, *value;
  size_t query_stride, key_stride, value_stride;
  void *output; /* as many rows as queries */
  size_t output_stride;
} cnclip_attention_job;

/* Computes units first..last of items * heads. `scratch`: cnclip_attention_scratch_bytes, aligned
 * to CNCLIP_ATTENTION_ALIGNMENT, one for each running thread. */
typedef void cnclip_attention_kernel(const cnclip_attention_job *job, size_t first, size_t last,
                                     void *scratch);

enum { CNCLIP_ATTENTION_ALIGNMENT = 64 };

/* NULL where neither `isa` nor a set below it has a kernel for `type`. */
cnclip_attention_kernel *cnclip_attention_kernel_get(cnclip_attention_type type, cnclip_isa isa);

/* Whether the kernels can compute the job: heads of a multiple of 16 columns, and rows whose
 * distance is a whole number of 32-bit words. */
bool cnclip_attention_fits(const cnclip_attention_job *job);

/* Depends on the longest item. */
size_t cnclip_attention_scratch_bytes(const cnclip_attention_job *job);

cnclip_attention_kernel cnclip_attention_f32_avx2, cnclip_attention_f32_avx512,
    cnclip_attention_bf16_avx512_bf16, cnclip_attention_f32_neon, cnclip_attention_bf16_neon_bf16;

#ifdef __cplusplus
}
#endif

#endif
