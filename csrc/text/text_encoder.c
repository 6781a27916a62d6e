#include "text/text_encoder.h"

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

/* What a call embeds: texts, or ids [count, columns]. The other pointer is NULL. */
typedef struct {
  const cnclip_text *texts;
  const int64_t *ids;
  size_t count, columns;
} inputs;

/* The token ids of some texts, their lengths, and their order from short to long. */
typedef struct {
  int64_t *tokenized; /* [count, columns] of texts; NULL for ids */
  const int64_t *ids; /* `tokenized`, or the caller's; [count, columns] */
  size_t columns;
  size_t *lengths; /* [count]: columns that a row needs */
  size_t *order;   /* [count] */
} token_rows;

static void token_rows_free(token_rows *rows) {
  free(rows->tokenized);
  free(rows->lengths);
  free(rows->order);
}

static cnclip_status token_rows_alloc(token_rows *rows, const inputs *from, size_t count,
                                      cnclip_error *error) {
  rows->columns = from->columns;
  if (from->texts != NULL) {
    rows->tokenized = cnclip_alloc_array(count, rows->columns * sizeof *rows->tokenized);
  }
  rows->lengths = cnclip_alloc_array(count, sizeof *rows->lengths);
  rows->order = cnclip_alloc_array(count, sizeof *rows->order);
  if ((from->texts != NULL && rows->tokenized == NULL) || rows->lengths == NULL ||
      rows->order == NULL) {
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

/* The columns of a row of ids up to its padding, see tokenize. The model uses the first always. */
static size_t used_columns(const cnclip_text_encoder *encoder, const int64_t *row, size_t columns) {
  if (cnclip_vocab_pad_id(encoder->vocab) != 0) return columns;
  while (columns > 1 && row[columns - 1] == 0) columns--;
  return columns;
}

/* Reads inputs [first, first + count): their ids and lengths. */
static void read_rows(const cnclip_text_encoder *encoder, const inputs *from, size_t first,
                      size_t count, token_rows *rows) {
  if (from->texts == NULL) {
    rows->ids = from->ids + first * rows->columns;
    for (size_t i = 0; i < count; i++) {
      rows->lengths[i] = used_columns(encoder, rows->ids + i * rows->columns, rows->columns);
    }
    return;
  }
  rows->ids = rows->tokenized;
  for (size_t i = 0; i < count; i++) {
    rows->lengths[i] =
        tokenize(encoder, from->texts[first + i], rows->tokenized + i * rows->columns);
  }
}

/* Counting sort by length: stable, and lengths are at most `columns`. */
static cnclip_status sort_by_length(token_rows *rows, size_t count, cnclip_error *error) {
  size_t *starts = cnclip_alloc_zeroed(rows->columns + 2, sizeof *starts);
  if (starts == NULL) return cnclip_error_memory(error, "sorting the texts");
  for (size_t i = 0; i < count; i++) starts[rows->lengths[i] + 1]++;
  for (size_t length = 1; length <= rows->columns; length++) starts[length] += starts[length - 1];
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

static cnclip_status batch_memory_alloc(batch_memory *memory, size_t most_rows, size_t most_ids,
                                        size_t width, cnclip_error *error) {
  memory->ids = cnclip_alloc_array(most_ids, sizeof *memory->ids);
  memory->rows = cnclip_alloc_array(most_rows, width * sizeof *memory->rows);
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
    memcpy(memory->ids + i * columns, tokens->ids + order[i] * tokens->columns,
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

/* An input on its own needs no order and no copies. */
static cnclip_status encode_one(const cnclip_text_encoder *encoder, const inputs *from,
                                float *embedding, cnclip_error *error) {
  const int64_t *ids = from->ids;
  int64_t *tokenized = NULL;
  size_t length;
  if (from->texts != NULL) {
    tokenized = cnclip_alloc_array(from->columns, sizeof *tokenized);
    if (tokenized == NULL) return cnclip_error_memory(error, "the token ids");
    length = tokenize(encoder, from->texts[0], tokenized);
    ids = tokenized;
  } else {
    length = used_columns(encoder, ids, from->columns);
  }
  const cnclip_status status = encoder->engine->encode_text(
      encoder->model, ids, 1, length, embedding, encoder->embedding_width, error);
  free(tokenized);
  return status;
}

static cnclip_status encode(const cnclip_text_encoder *encoder, const inputs *from,
                            size_t batch_size, float *embeddings, cnclip_interrupt *interrupt,
                            void *context, cnclip_error *error) {
  token_rows tokens = {0};
  batch_memory memory = {0};
  cnclip_status status = CNCLIP_OK;

  if (from->count == 1) return encode_one(encoder, from, embeddings, error);
  const size_t at_once = smaller(from->count, TEXTS_AT_ONCE);
  /* Every text has at least one id. */
  const size_t tokens_at_once = encoder->engine->tokens_at_once(encoder->model);
  size_t most_rows = smaller(at_once, tokens_at_once);
  if (batch_size != 0) most_rows = smaller(most_rows, batch_size);
  status = batch_memory_alloc(&memory, most_rows, larger(tokens_at_once, from->columns),
                              encoder->embedding_width, error);
  if (status == CNCLIP_OK) status = token_rows_alloc(&tokens, from, at_once, error);

  for (size_t first = 0; first < from->count && status == CNCLIP_OK; first += at_once) {
    const size_t some = smaller(at_once, from->count - first);
    read_rows(encoder, from, first, some, &tokens);
    status = sort_by_length(&tokens, some, error);
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

cnclip_status cnclip_text_encoder_encode(const cnclip_text_encoder *encoder,
                                         const cnclip_text *texts, size_t count, size_t batch_size,
                                         float *embeddings, cnclip_interrupt *interrupt,
                                         void *context, cnclip_error *error) {
  const inputs from = {.texts = texts, .count = count, .columns = encoder->context_length};
  return encode(encoder, &from, batch_size, embeddings, interrupt, context, error);
}

size_t cnclip_text_encoder_unknown_id(const cnclip_text_encoder *encoder, const int64_t *ids,
                                      size_t size) {
  const int64_t largest = cnclip_vocab_largest_id(encoder->vocab);
  size_t place = 0;
  while (place < size && ids[place] >= 0 && ids[place] <= largest) place++;
  return place;
}

cnclip_status cnclip_text_encoder_encode_ids(const cnclip_text_encoder *encoder, const int64_t *ids,
                                             size_t count, size_t columns, size_t batch_size,
                                             float *embeddings, cnclip_interrupt *interrupt,
                                             void *context, cnclip_error *error) {
  if (columns == 0 || columns > encoder->context_length) {
    return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT,
                            "ids: expected 1 to %zu columns, the context length, got %zu",
                            encoder->context_length, columns);
  }
  const inputs from = {.ids = ids, .count = count, .columns = columns};
  return encode(encoder, &from, batch_size, embeddings, interrupt, context, error);
}
