/* An engine whose model takes up to 64 ids at once. A text's embedding is its ids after [CLS]. */
#ifndef CNCLIP_TESTS_MODEL_STAND_IN_H
#define CNCLIP_TESTS_MODEL_STAND_IN_H

#include "text/text_encoder.h"

enum { STAND_IN_WIDTH = 2 };

static size_t stand_in_tokens_at_once(const cnclip_model *model) {
  (void)model;
  return 64;
}

static cnclip_status stand_in_encode_text(cnclip_model *model, const int64_t *ids, size_t count,
                                          size_t length, float *embeddings, size_t width,
                                          cnclip_error *error) {
  (void)model, (void)error;
  for (size_t i = 0; i < count; i++) {
    embeddings[i * width] = (float)ids[i * length + 1];
    embeddings[i * width + 1] = (float)ids[i * length + (length > 2 ? 2 : 0)];
  }
  return CNCLIP_OK;
}

/* Texts of a few words and of none. */
static void stand_in_texts(cnclip_text *texts, size_t count) {
  static const char letters[] = "abc ab a b c abc";
  for (size_t i = 0; i < count; i++) texts[i] = (cnclip_text){letters + i % 5, i % 11, 1};
}

static const cnclip_engine stand_in = {.encode_text = stand_in_encode_text,
                                       .tokens_at_once = stand_in_tokens_at_once};

#endif
