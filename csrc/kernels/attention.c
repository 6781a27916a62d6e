#include "kernels/attention.h"

#include "kernels/attention_layout.h"

cnclip_attention_kernel *cnclip_attention_kernel_get(cnclip_attention_type type, cnclip_isa isa) {
#if defined(__x86_64__)
  if (type == CNCLIP_ATTENTION_F32 && isa >= CNCLIP_ISA_AVX512) return cnclip_attention_f32_avx512;
  if (type == CNCLIP_ATTENTION_BF16 && isa >= CNCLIP_ISA_AVX512_BF16) {
    return cnclip_attention_bf16_avx512_bf16;
  }
#else
  (void)type;
  (void)isa;
#endif
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
