#include "text/text_encoder.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum {
  /* Texts are tokenized and sorted by length this many at a time, which bounds the working memory:
   * MAX_TEXTS of cnclip/pipelines/stream.py. */
  TEXTS_AT_ONCE = 4096,
};

static size_t smaller(size_t a, size_t b) {
  return a < b ? a : b;
}

static size_t larger(size_t a, size_t b) {
  return a > b ? a : b;
}

static cnclip_status check_interrupt(cnclip_interrupt *interrupt, void *context,
                                     cnclip_error *error) {
  if (interrupt == NULL || !interrupt(context)) return CNCLIP_OK;
  return cnclip_error_set(error, CNCLIP_ERROR_INTERRUPTED, "interrupted");
}

/* The token ids of some texts, their lengths, and their order from short to long. */
typedef struct {
  int64_t *ids;    /* [count, context_length] */
  size_t *lengths; /* [count]: columns that a row needs */
  size_t *order;   /* [count] */
} token_rows;

static void token_rows_free(token_rows *rows) {
  free(rows->ids);
  free(rows->lengths);
  free(rows->order);
}

static cnclip_status token_rows_alloc(token_rows *rows, size_t count, size_t context_length,
                                      cnclip_error *error) {
  rows->ids = cnclip_alloc_array(count, context_length * sizeof *rows->ids);
  rows->lengths = cnclip_alloc_array(count, sizeof *rows->lengths);
  rows->order = cnclip_alloc_array(count, sizeof *rows->order);
  if (rows->ids == NULL || rows->lengths == NULL || rows->order == NULL) {
    return cnclip_error_memory(error, "the token ids");
  }
  return CNCLIP_OK;
}

/* Writes a text's ids and returns how many columns it needs. The ids after a text's end are
 * 0. Where that is [PAD] the model masks them and they may be left out; in a vocabulary that has
 * [PAD] elsewhere they are words like any other. */
static size_t tokenize(const cnclip_text_encoder *encoder, cnclip_text text, int64_t *ids) {
  size_t length;
  cnclip_tokenizer_encode(encoder->vocab, text, encoder->context_length, ids, &length, NULL);
  return cnclip_vocab_pad_id(encoder->vocab) == 0 ? length : encoder->context_length;
}

/* Counting sort by length: stable, and lengths are at most context_length. */
static cnclip_status sort_by_length(token_rows *rows, size_t count, size_t context_length,
                                    cnclip_error *error) {
  size_t *starts = cnclip_alloc_zeroed(context_length + 2, sizeof *starts);
  if (starts == NULL) return cnclip_error_memory(error, "sorting the texts");
  for (size_t i = 0; i < count; i++) starts[rows->lengths[i] + 1]++;
  for (size_t length = 1; length <= context_length; length++) starts[length] += starts[length - 1];
  for (size_t i = 0; i < count; i++) rows->order[starts[rows->lengths[i]]++] = i;
  free(starts);
  return CNCLIP_OK;
}

/* How many of order[0..count) go through the model together: the most texts, from short to long,
 * whose rows, padded to the longest, have at most tokens_at_once ids; at least 1. */
static size_t batch_rows(const token_rows *tokens, const size_t *order, size_t count,
                         size_t most_rows, size_t tokens_at_once) {
  size_t rows = 1;
  while (rows < smaller(count, most_rows) &&
         (rows + 1) * tokens->lengths[order[rows]] <= tokens_at_once) {
    rows++;
  }
  return rows;
}

/* Working memory for one batch. */
typedef struct {
  int64_t *ids; /* as many as any batch has */
  float *rows;  /* embeddings of as many rows as any batch has */
} batch_memory;

static void batch_memory_free(batch_memory *memory) {
  free(memory->ids);
  free(memory->rows);
}

static cnclip_status batch_memory_alloc(batch_memory *memory, const cnclip_text_encoder *encoder,
                                        size_t most_rows, size_t tokens_at_once,
                                        cnclip_error *error) {
  const size_t most_ids = larger(tokens_at_once, encoder->context_length);
  memory->ids = cnclip_alloc_array(most_ids, sizeof *memory->ids);
  memory->rows = cnclip_alloc_array(most_rows, encoder->embedding_width * sizeof *memory->rows);
  if (memory->ids == NULL || memory->rows == NULL) {
    return cnclip_error_memory(error, "a batch of texts");
  }
  return CNCLIP_OK;
}

/* Runs the texts of order[0..size) through the model and puts their rows where they belong. */
static cnclip_status encode_batch(const cnclip_text_encoder *encoder, const token_rows *tokens,
                                  const size_t *order, size_t size, const batch_memory *memory,
                                  float *embeddings, cnclip_error *error) {
  const size_t columns = tokens->lengths[order[size - 1]];
  const size_t width = encoder->embedding_width;
  for (size_t i = 0; i < size; i++) {
    memcpy(memory->ids + i * columns, tokens->ids + order[i] * encoder->context_length,
           columns * sizeof *memory->ids);
  }
  const cnclip_status status = encoder->engine->encode_text(encoder->model, memory->ids, size,
                                                            columns, memory->rows, width, error);
  if (status != CNCLIP_OK) return status;
  for (size_t i = 0; i < size; i++) {
    memcpy(embeddings + order[i] * width, memory->rows + i * width, width * sizeof(float));
  }
  return CNCLIP_OK;
}

/* A text on its own needs no order and no copies. */
static cnclip_status encode_one(const cnclip_text_encoder *encoder, cnclip_text text,
                                float *embedding, cnclip_error *error) {
  int64_t *ids = cnclip_alloc_array(encoder->context_length, sizeof *ids);
  if (ids == NULL) return cnclip_error_memory(error, "the token ids");
  const size_t length = tokenize(encoder, text, ids);
  const cnclip_status status = encoder->engine->encode_text(
      encoder->model, ids, 1, length, embedding, encoder->embedding_width, error);
  free(ids);
  return status;
}

cnclip_status cnclip_text_encoder_encode(const cnclip_text_encoder *encoder,
                                         const cnclip_text *texts, size_t count, size_t batch_size,
                                         float *embeddings, cnclip_interrupt *interrupt,
                                         void *context, cnclip_error *error) {
  token_rows tokens = {0};
  batch_memory memory = {0};
  cnclip_status status = CNCLIP_OK;

  if (count == 1) return encode_one(encoder, texts[0], embeddings, error);
  const size_t at_once = smaller(count, TEXTS_AT_ONCE);
  /* Every text has at least one id. */
  const size_t tokens_at_once = encoder->engine->tokens_at_once(encoder->model);
  size_t most_rows = smaller(at_once, tokens_at_once);
  if (batch_size != 0) most_rows = smaller(most_rows, batch_size);
  status = batch_memory_alloc(&memory, encoder, most_rows, tokens_at_once, error);
  if (status == CNCLIP_OK) {
    status = token_rows_alloc(&tokens, at_once, encoder->context_length, error);
  }

  for (size_t first = 0; first < count && status == CNCLIP_OK; first += at_once) {
    const size_t some = smaller(at_once, count - first);
    for (size_t i = 0; i < some; i++) {
      tokens.lengths[i] =
          tokenize(encoder, texts[first + i], tokens.ids + i * encoder->context_length);
    }
    status = sort_by_length(&tokens, some, encoder->context_length, error);
    for (size_t start = 0, rows; start < some && status == CNCLIP_OK; start += rows) {
      const size_t *order = tokens.order + start;
      rows = batch_rows(&tokens, order, some - start, most_rows, tokens_at_once);
      status = check_interrupt(interrupt, context, error);
      if (status != CNCLIP_OK) break;
      status = encode_batch(encoder, &tokens, order, rows, &memory,
                            embeddings + first * encoder->embedding_width, error);
    }
  }
  token_rows_free(&tokens);
  batch_memory_free(&memory);
  return status;
}
