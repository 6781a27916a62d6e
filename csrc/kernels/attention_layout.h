/* The layout of attention's scratch memory, shared by attention.c and its kernels. */
#ifndef CNCLIP_ATTENTION_LAYOUT_H
#define CNCLIP_ATTENTION_LAYOUT_H

#include "kernels/attention.h"

enum { ATTENTION_PANEL = 32, ATTENTION_TILE_ROWS = 14 };

static inline size_t attention_panels(size_t columns) {
  return (columns + ATTENTION_PANEL - 1) / ATTENTION_PANEL;
}

/* Elements in one 32-bit word. */
static inline size_t attention_per_word(cnclip_attention_type type) {
  return type == CNCLIP_ATTENTION_BF16 ? 2 : 1;
}

/* Words of the keys' panels, [panels of keys, head_width in words, 32]. */
static inline size_t attention_key_words(const cnclip_attention_job *job, size_t keys) {
  return attention_panels(keys) * (job->head_width / attention_per_word(job->type)) *
         ATTENTION_PANEL;
}

/* Steps that the weights of `keys` keys are summed in. */
static inline size_t attention_value_steps(const cnclip_attention_job *job, size_t keys) {
  const size_t per_word = attention_per_word(job->type);
  return (keys + per_word - 1) / per_word;
}

/* Words of the values' panels, [panels of columns, steps, 32]. */
static inline size_t attention_value_words(const cnclip_attention_job *job, size_t keys) {
  return attention_panels(job->head_width) * attention_value_steps(job, keys) * ATTENTION_PANEL;
}

/* Words from one query's scores to the next one's: never a multiple of a page. */
static inline size_t attention_score_words(size_t keys) {
  return attention_panels(keys) * ATTENTION_PANEL + 16;
}

#endif
