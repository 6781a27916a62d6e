#include "kernels/attention.h"

#include "kernels/attention_layout.h"

/* The best kernel of a type comes first. */
static const struct {
  cnclip_attention_type type;
  cnclip_isa isa; /* the lowest instruction set that runs it */
  cnclip_attention_kernel *kernel;
} kernel_table[] = {
#if defined(__x86_64__)
    {CNCLIP_ATTENTION_F32, CNCLIP_ISA_AVX512, cnclip_attention_f32_avx512},
    {CNCLIP_ATTENTION_F32, CNCLIP_ISA_AVX2, cnclip_attention_f32_avx2},
    {CNCLIP_ATTENTION_BF16, CNCLIP_ISA_AVX512_BF16, cnclip_attention_bf16_avx512_bf16},
#elif defined(__aarch64__)
    {CNCLIP_ATTENTION_F32, CNCLIP_ISA_NEON, cnclip_attention_f32_neon},
    {CNCLIP_ATTENTION_BF16, CNCLIP_ISA_NEON_BF16, cnclip_attention_bf16_neon_bf16},
#endif
    {CNCLIP_ATTENTION_F32, CNCLIP_ISA_COUNT, NULL},
};

cnclip_attention_kernel *cnclip_attention_kernel_get(cnclip_attention_type type, cnclip_isa isa) {
  for (size_t i = 0; kernel_table[i].isa != CNCLIP_ISA_COUNT; i++) {
    if (kernel_table[i].type == type && cnclip_isa_includes(isa, kernel_table[i].isa))
      return kernel_table[i].kernel;
  }
  return NULL;
}

bool cnclip_attention_fits(const cnclip_attention_job *job) {
  const size_t per_word = attention_per_word(job->type);
  return job->head_width > 0 && job->head_width % 16 == 0 && job->query_stride % per_word == 0 &&
         job->key_stride % per_word == 0;
}

size_t cnclip_attention_scratch_bytes(const cnclip_attention_job *job) {
  size_t keys = 0;
  for (size_t i = 0; i < job->items; i++) {
    const size_t count = (size_t)(job->key_starts[i + 1] - job->key_starts[i]);
    if (count > keys) keys = count;
  }
  return (attention_key_words(job, keys) + attention_value_words(job, keys) +
          ATTENTION_TILE_ROWS * attention_score_words(keys)) *
         sizeof(uint32_t);
}
