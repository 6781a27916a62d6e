/* Texts or their token ids to embeddings: tokenizing, batching, the model, rows in the caller's
 * order. (Images come as batches of pixels and need none of it.) */
#ifndef CNCLIP_TEXT_ENCODER_H
#define CNCLIP_TEXT_ENCODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/engine.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

/* What an encoder is made of; all borrowed, and to outlive the calls that use them. Nothing in it
 * is written to, so threads may share one. */
typedef struct {
  const cnclip_engine *engine;
  cnclip_model *model; /* of the engine */
  const cnclip_vocab *vocab;
  size_t context_length;  /* columns of the ids, at least 2 */
  size_t embedding_width; /* columns of the embeddings */
} cnclip_text_encoder;

/* Asked before each batch: true ends the call with CNCLIP_ERROR_INTERRUPTED. May be NULL. */
typedef bool cnclip_interrupt(void *context);

/* One row of `embeddings` (the caller's float32 [count, embedding_width]) for each text. Texts of
 * like length run together, without the columns that are padding in all of them.
 * batch_size: texts that go through the model together at most; 0 sets no such bound, only that of
 * the ids in a batch. Memory is bounded whatever `count` and the texts' lengths are. */
cnclip_status cnclip_text_encoder_encode(const cnclip_text_encoder *encoder,
                                         const cnclip_text *texts, size_t count, size_t batch_size,
                                         float *embeddings, cnclip_interrupt *interrupt,
                                         void *context, cnclip_error *error);

/* The position of the first of `size` ids that no token of the vocabulary has; `size` if there is
 * none. */
size_t cnclip_text_encoder_unknown_id(const cnclip_text_encoder *encoder, const int64_t *ids,
                                      size_t size);

/* As cnclip_text_encoder_encode, for the caller's ids [count, columns], which are those of tokens
 * of the vocabulary. Where 0 is [PAD], columns that are 0 in a row from there on cost nothing.
 * CNCLIP_ERROR_ARGUMENT: `columns` is 0 or more than the context length. */
cnclip_status cnclip_text_encoder_encode_ids(const cnclip_text_encoder *encoder, const int64_t *ids,
                                             size_t count, size_t columns, size_t batch_size,
                                             float *embeddings, cnclip_interrupt *interrupt,
                                             void *context, cnclip_error *error);

#endif
