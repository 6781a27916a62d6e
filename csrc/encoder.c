#include "encoder.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"

/* Texts are tokenized and sorted by length this many at a time, which bounds the working memory. */
enum { TEXTS_AT_ONCE = 4096 };

static size_t smaller(size_t a, size_t b) {
  return a < b ? a : b;
}

static cnclip_status check_interrupt(cnclip_interrupt *interrupt, void *context,
                                     cnclip_error *error) {
  if (interrupt == NULL || !interrupt(context)) return CNCLIP_OK;
  return cnclip_error_set(error, CNCLIP_ERROR_INTERRUPTED, "interrupted");
}

cnclip_status cnclip_encoder_encode_images(const cnclip_encoder *encoder,
                                           const cnclip_image *images, size_t count,
                                           size_t batch_size, float *embeddings,
                                           cnclip_interrupt *interrupt, void *context,
                                           size_t *ret_failed, cnclip_error *error) {
  const size_t resolution = (size_t)cnclip_image_processor_resolution(encoder->processor);
  const size_t tensor_size = 3 * resolution * resolution;
  cnclip_status status = CNCLIP_OK;
  *ret_failed = count;

  batch_size = smaller(batch_size, count);
  float *pixels = cnclip_alloc_array(batch_size, tensor_size * sizeof *pixels);
  if (pixels == NULL) return cnclip_error_memory(error, "a batch of pictures");

  for (size_t first = 0; first < count && status == CNCLIP_OK; first += batch_size) {
    const size_t size = smaller(batch_size, count - first);
    status = check_interrupt(interrupt, context, error);
    for (size_t i = 0; i < size && status == CNCLIP_OK; i++) {
      status = cnclip_image_process(encoder->processor, &images[first + i],
                                    pixels + i * tensor_size, error);
      if (status != CNCLIP_OK) *ret_failed = first + i;
    }
    if (status != CNCLIP_OK) break;
    status = cnclip_torch_model_encode_image(encoder->model, pixels, size, resolution,
                                             embeddings + first * encoder->embedding_width,
                                             encoder->embedding_width, error);
  }
  free(pixels);
  return status;
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

static void tokenize(const cnclip_encoder *encoder, const cnclip_text *texts, size_t count,
                     token_rows *rows) {
  /* The ids behind a text's end are 0. Where that is [PAD] the model masks them and they may be
   * left out; in a vocabulary that has [PAD] elsewhere they are words like any other. */
  const int padding_is_masked = cnclip_vocab_pad(encoder->vocab) == 0;
  for (size_t i = 0; i < count; i++) {
    cnclip_tokenizer_encode(encoder->vocab, texts[i], encoder->context_length,
                            rows->ids + i * encoder->context_length, &rows->lengths[i], NULL);
    if (!padding_is_masked) rows->lengths[i] = encoder->context_length;
  }
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

/* Runs the texts of order[0..size) through the model and puts their rows where they belong.
 * ids and rows are working memory for one batch. */
static cnclip_status encode_batch(const cnclip_encoder *encoder, const token_rows *tokens,
                                  const size_t *order, size_t size, int64_t *ids, float *rows,
                                  float *embeddings, cnclip_error *error) {
  const size_t columns = tokens->lengths[order[size - 1]];
  const size_t width = encoder->embedding_width;
  for (size_t i = 0; i < size; i++) {
    memcpy(ids + i * columns, tokens->ids + order[i] * encoder->context_length,
           columns * sizeof *ids);
  }
  const cnclip_status status =
      cnclip_torch_model_encode_text(encoder->model, ids, size, columns, rows, width, error);
  if (status != CNCLIP_OK) return status;
  for (size_t i = 0; i < size; i++) {
    memcpy(embeddings + order[i] * width, rows + i * width, width * sizeof *rows);
  }
  return CNCLIP_OK;
}

cnclip_status cnclip_encoder_encode_texts(const cnclip_encoder *encoder, const cnclip_text *texts,
                                          size_t count, size_t batch_size, float *embeddings,
                                          cnclip_interrupt *interrupt, void *context,
                                          cnclip_error *error) {
  const size_t width = encoder->embedding_width;
  token_rows tokens = {0};
  cnclip_status status;

  batch_size = smaller(batch_size, count);
  const size_t at_once = smaller(count, batch_size > TEXTS_AT_ONCE ? batch_size : TEXTS_AT_ONCE);
  int64_t *ids = cnclip_alloc_array(batch_size, encoder->context_length * sizeof *ids);
  float *rows = cnclip_alloc_array(batch_size, width * sizeof *rows);
  if (ids == NULL || rows == NULL) {
    status = cnclip_error_memory(error, "a batch of texts");
    goto done;
  }
  status = token_rows_alloc(&tokens, at_once, encoder->context_length, error);

  for (size_t first = 0; first < count && status == CNCLIP_OK; first += at_once) {
    const size_t some = smaller(at_once, count - first);
    tokenize(encoder, texts + first, some, &tokens);
    status = sort_by_length(&tokens, some, encoder->context_length, error);
    for (size_t start = 0; start < some && status == CNCLIP_OK; start += batch_size) {
      status = check_interrupt(interrupt, context, error);
      if (status != CNCLIP_OK) break;
      status =
          encode_batch(encoder, &tokens, tokens.order + start, smaller(batch_size, some - start),
                       ids, rows, embeddings + first * width, error);
    }
  }

done:
  token_rows_free(&tokens);
  free(ids);
  free(rows);
  return status;
}
