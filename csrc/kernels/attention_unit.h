/* One head of one item, for kernels that have defined `element`, the type of a row's numbers, and
 * `panel_word`, that of a word of panels. */
#ifndef CNCLIP_ATTENTION_UNIT_H
#define CNCLIP_ATTENTION_UNIT_H

#include "kernels/attention_layout.h"

typedef struct {
  size_t queries, keys, width;
  const element *query, *key, *value;
  element *output;
  panel_word *key_panels, *value_panels;
  float *scores; /* [rows of a tile, score_stride]; the weights take their place */
  size_t score_stride;
} attention_unit;

static attention_unit open_unit(const cnclip_attention_job *job, size_t index, void *scratch) {
  const size_t item = index / job->heads, column = index % job->heads * job->head_width;
  const size_t first_query = (size_t)job->query_starts[item];
  const size_t first_key = (size_t)job->key_starts[item];
  attention_unit unit = {
      .queries = (size_t)job->query_starts[item + 1] - first_query,
      .keys = (size_t)job->key_starts[item + 1] - first_key,
      .width = job->head_width,
      .query = (const element *)job->query + first_query * job->query_stride + column,
      .key = (const element *)job->key + first_key * job->key_stride + column,
      .value = (const element *)job->value + first_key * job->value_stride + column,
      .output = (element *)job->output + first_query * job->output_stride + column,
  };
  unit.key_panels = scratch;
  unit.value_panels = unit.key_panels + attention_key_words(job, unit.keys);
  unit.scores = (float *)(unit.value_panels + attention_value_words(job, unit.keys));
  unit.score_stride = attention_score_words(unit.keys);
  return unit;
}

#endif
