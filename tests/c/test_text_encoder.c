/* The batches that texts go through the model in. The model here is a stand-in that notes them. */
#include "text/text_encoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { WIDTH = 2, CONTEXT_LENGTH = 52, MAX_IDS = 2048 };

static const char vocabulary[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n";
static size_t batches, largest_batch, shortest_row, ids_seen;
static bool fails, takes_padding;

static size_t tokens_at_once(const cnclip_model *model) {
  CHECK(model == NULL);
  return MAX_IDS;
}

/* A row's embedding is its number of ids that are not 0, and its last such id but [SEP]. */
static cnclip_status encode_text(cnclip_model *model, const int64_t *ids, size_t count,
                                 size_t length, float *embeddings, size_t width,
                                 cnclip_error *error) {
  CHECK(model == NULL && width == WIDTH && length >= 1 && length <= CONTEXT_LENGTH);
  CHECK(count * length <= MAX_IDS);
  CHECK(length >= shortest_row);
  shortest_row = length;
  batches++;
  if (count > largest_batch) largest_batch = count;
  ids_seen += count * length;
  size_t longest = 0;
  for (size_t i = 0; i < count; i++) {
    const int64_t *row = ids + i * length;
    size_t used = length;
    while (used > 0 && row[used - 1] == 0) used--;
    if (used > longest) longest = used;
    embeddings[i * WIDTH] = (float)used;
    embeddings[i * WIDTH + 1] = used < 2 ? 0 : (float)row[used - 2];
  }
  CHECK(longest == length || takes_padding); /* no column is padding in all rows */
  return fails ? cnclip_error_set(error, CNCLIP_ERROR_MODEL, "no") : CNCLIP_OK;
}

static bool interrupt_third(void *context) {
  int *asked = context;
  return ++*asked == 3;
}

/* Texts of one-letter words: "a" at odd positions, "b" at even ones. */
typedef struct {
  char *letters;
  cnclip_text *texts;
  size_t count;
} some_texts;

static some_texts make_texts(size_t count, size_t longest) {
  some_texts made = {malloc(2 * (count + 1) * 64), malloc(count * sizeof(cnclip_text)), count};
  for (size_t i = 0; i < count; i++) {
    char *text = made.letters + i * 128;
    const size_t words = 1 + (size_t)rand() % longest;
    for (size_t j = 0; j < words; j++) memcpy(text + 2 * j, i % 2 ? "a " : "b ", 2);
    made.texts[i] = (cnclip_text){.data = text, .length = 2 * words, .width = 1};
  }
  return made;
}

static void free_texts(some_texts *texts) {
  free(texts->letters);
  free(texts->texts);
}

static void reset(void) {
  batches = largest_batch = shortest_row = ids_seen = 0;
}

static void check_rows(const some_texts *texts, const float *embeddings) {
  bool right = true;
  for (size_t i = 0; i < texts->count; i++) {
    const size_t words = texts->texts[i].length / 2, ids = words + 2;
    right &= embeddings[i * WIDTH] == (float)(ids < CONTEXT_LENGTH ? ids : CONTEXT_LENGTH);
    right &= embeddings[i * WIDTH + 1] == (i % 2 ? 4.0f : 5.0f);
  }
  CHECK(right);
}

static void test_batches(const cnclip_text_encoder *encoder, size_t count, size_t longest,
                         size_t batch_size) {
  some_texts texts = make_texts(count, longest);
  float *embeddings = malloc((count * WIDTH + 1) * sizeof *embeddings);
  reset();
  CHECK(cnclip_text_encoder_encode(encoder, texts.texts, count, batch_size, embeddings, NULL, NULL,
                                   NULL) == CNCLIP_OK);
  check_rows(&texts, embeddings);
  CHECK(batch_size == 0 || largest_batch <= batch_size);
  free(embeddings);
  free_texts(&texts);
}

static void test_full_batches(const cnclip_text_encoder *encoder) {
  test_batches(encoder, 4096, 50, 0);
  CHECK(ids_seen / batches > MAX_IDS * 9 / 10);
  test_batches(encoder, 600, 1, 0); /* all alike, three ids each */
  CHECK(batches == 1 && largest_batch == 600);
  test_batches(encoder, 600, 1, 32);
  CHECK(batches == 19 && largest_batch == 32);
  test_batches(encoder, 0, 1, 0);
  CHECK(batches == 0);
  test_batches(encoder, 1, 60, 0);
  CHECK(batches == 1 && largest_batch == 1);
}

static void test_ends(const cnclip_text_encoder *encoder) {
  some_texts texts = make_texts(300, 60);
  float embeddings[300 * WIDTH];
  cnclip_error error;
  int asked = 0;
  reset();
  CHECK(cnclip_text_encoder_encode(encoder, texts.texts, 300, 8, embeddings, interrupt_third,
                                   &asked, &error) == CNCLIP_ERROR_INTERRUPTED);
  CHECK(batches == 2);
  fails = true;
  for (size_t count = 1; count <= 300; count += 299) {
    reset();
    CHECK(cnclip_text_encoder_encode(encoder, texts.texts, count, 0, embeddings, NULL, NULL,
                                     &error) == CNCLIP_ERROR_MODEL);
    CHECK(batches == 1 && strcmp(error.message, "no") == 0);
  }
  fails = false;
  free_texts(&texts);
}

/* The ids of texts give the rows of the texts, in the same batches. */
static void test_ids(const cnclip_text_encoder *encoder, size_t count, size_t longest) {
  some_texts texts = make_texts(count, longest);
  int64_t *ids = malloc((count * CONTEXT_LENGTH + 1) * sizeof *ids);
  float *embeddings = malloc((count * WIDTH + 1) * sizeof *embeddings);
  for (size_t i = 0; i < count; i++) {
    cnclip_tokenizer_encode(encoder->vocab, texts.texts[i], CONTEXT_LENGTH,
                            ids + i * CONTEXT_LENGTH, &(size_t){0}, NULL);
  }
  CHECK(cnclip_text_encoder_unknown_id(encoder, ids, count * CONTEXT_LENGTH) ==
        count * CONTEXT_LENGTH);
  reset();
  CHECK(cnclip_text_encoder_encode(encoder, texts.texts, count, 0, embeddings, NULL, NULL, NULL) ==
        CNCLIP_OK);
  const size_t expected_batches = batches, expected_ids = ids_seen;
  memset(embeddings, 0, count * WIDTH * sizeof *embeddings);
  reset();
  CHECK(cnclip_text_encoder_encode_ids(encoder, ids, count, CONTEXT_LENGTH, 0, embeddings, NULL,
                                       NULL, NULL) == CNCLIP_OK);
  CHECK(batches == expected_batches && ids_seen == expected_ids);
  check_rows(&texts, embeddings);
  free(embeddings);
  free(ids);
  free_texts(&texts);
}

static void test_bad_ids(const cnclip_text_encoder *encoder) {
  const int64_t ids[] = {2, 4, 3, 0, 2, 6, -1, INT64_MAX};
  float embeddings[WIDTH];
  cnclip_error error;
  CHECK(cnclip_text_encoder_unknown_id(encoder, ids, 8) == 5);
  CHECK(cnclip_text_encoder_unknown_id(encoder, ids, 5) == 5);
  CHECK(cnclip_text_encoder_unknown_id(encoder, ids + 6, 1) == 0);
  CHECK(cnclip_text_encoder_unknown_id(encoder, ids + 7, 1) == 0);
  CHECK(cnclip_text_encoder_unknown_id(encoder, ids, 0) == 0);
  reset();
  const size_t columns[] = {0, CONTEXT_LENGTH + 1};
  for (size_t i = 0; i < 2; i++) {
    CHECK(cnclip_text_encoder_encode_ids(encoder, ids, 1, columns[i], 0, embeddings, NULL, NULL,
                                         &error) == CNCLIP_ERROR_ARGUMENT);
    CHECK(strstr(error.message, "1 to 52 columns") != NULL);
  }
  CHECK(batches == 0);
}

/* In a vocabulary that has [PAD] elsewhere, 0 is a word: every row goes through the model whole. */
static void test_padding_that_is_a_word(const cnclip_text_encoder *encoder) {
  static const char words[] = "a\n[PAD]\n[UNK]\n[CLS]\n[SEP]\nb\n";
  const int64_t ids[] = {3, 5, 4, 0, 0, 3, 0, 4, 0, 0};
  some_texts texts = make_texts(5, 3);
  float embeddings[5 * WIDTH];
  cnclip_vocab *vocab = NULL;
  cnclip_text_encoder other = *encoder;
  CHECK(cnclip_vocab_new(words, sizeof words - 1, &vocab, NULL) == CNCLIP_OK);
  other.vocab = vocab;
  takes_padding = true;
  reset();
  CHECK(cnclip_text_encoder_encode(&other, texts.texts, 5, 0, embeddings, NULL, NULL, NULL) ==
        CNCLIP_OK);
  CHECK(ids_seen == 5 * CONTEXT_LENGTH);
  reset();
  CHECK(cnclip_text_encoder_encode_ids(&other, ids, 2, 5, 0, embeddings, NULL, NULL, NULL) ==
        CNCLIP_OK);
  CHECK(ids_seen == 2 * 5);
  takes_padding = false;
  cnclip_vocab_free(vocab);
  free_texts(&texts);
}

/* A row of nothing but padding has the one column that the model needs. */
static void test_rows_of_padding(const cnclip_text_encoder *encoder) {
  const int64_t ids[3] = {0};
  float embeddings[WIDTH];
  takes_padding = true;
  reset();
  CHECK(cnclip_text_encoder_encode_ids(encoder, ids, 1, 3, 0, embeddings, NULL, NULL, NULL) ==
        CNCLIP_OK);
  CHECK(ids_seen == 1);
  takes_padding = false;
}

int main(void) {
  cnclip_vocab *vocab = NULL;
  CHECK(cnclip_vocab_new(vocabulary, sizeof vocabulary - 1, &vocab, NULL) == CNCLIP_OK);
  const cnclip_engine engine = {.encode_text = encode_text, .tokens_at_once = tokens_at_once};
  const cnclip_text_encoder encoder = {.engine = &engine,
                                       .vocab = vocab,
                                       .context_length = CONTEXT_LENGTH,
                                       .embedding_width = WIDTH};
  test_full_batches(&encoder);
  test_ends(&encoder);
  for (int i = 0; i < 50; i++) {
    test_batches(&encoder, (size_t)rand() % 300, 1 + (size_t)rand() % 60, (size_t)rand() % 40);
  }
  test_bad_ids(&encoder);
  test_padding_that_is_a_word(&encoder);
  test_rows_of_padding(&encoder);
  for (size_t count = 0; count < 5000; count = count * 3 + 1) test_ids(&encoder, count, 60);
  cnclip_vocab_free(vocab);
  return check_summary("encoder");
}
