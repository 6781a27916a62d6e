/* Each allocation of the core fails once, and once with all that follow it: the call must end with
 * CNCLIP_ERROR_MEMORY, or give the right answer, and keep no memory; the next call must be right.
 *
 * The linker's --wrap replaces malloc, calloc, realloc and free in the core (meson.build). */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "image/image.h"
#include "model_stand_in.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __wrap_free(void *block);

static long calls, failing_call, blocks; /* failing_call: 0 for none */
static bool all_later_fail;

static bool fails_now(void) {
  calls++;
  return failing_call != 0 && (all_later_fail ? calls >= failing_call : calls == failing_call);
}

static void *counted(void *block) {
  if (block != NULL) blocks++;
  return block;
}

void *__wrap_malloc(size_t size) {
  return fails_now() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size) {
  return fails_now() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *block, size_t size) {
  if (fails_now()) return NULL;
  return block == NULL ? counted(__real_malloc(size)) : __real_realloc(block, size);
}

void __wrap_free(void *block) {
  if (block != NULL) blocks--;
  __real_free(block);
}

/* --- What is called: each frees what it made, and adds its answer up ------------------------- */

typedef cnclip_status entry(double *answer, cnclip_error *error);

static const char vocabulary[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\nab\nabc\n##a\n##b\n##c\n\xe7\x8c\xab\n\xe4\xb8\xad\n";
static const float mean[3] = {0.4f, 0.5f, 0.6f}, deviation[3] = {0.2f, 0.3f, 0.4f};
enum { RESOLUTION = 16, CONTEXT_LENGTH = 12 };

static cnclip_vocab *vocab;
static cnclip_image_processor *processor;
static uint8_t pixels[300 * 300 * 4];

static cnclip_status make_vocabulary(double *answer, cnclip_error *error) {
  cnclip_vocab *made = NULL;
  const cnclip_status status = cnclip_vocab_new(vocabulary, sizeof vocabulary - 1, &made, error);
  if (status == CNCLIP_OK) *answer = cnclip_vocab_size(made) + cnclip_vocab_sep_id(made);
  cnclip_vocab_free(made);
  return status;
}

static cnclip_status make_processor(double *answer, cnclip_error *error) {
  cnclip_image_processor *made = NULL;
  const cnclip_status status =
      cnclip_image_processor_new(RESOLUTION, mean, deviation, CNCLIP_ISA_SERIAL, &made, error);
  if (status == CNCLIP_OK) *answer = cnclip_image_processor_normalized(made)[1][7];
  cnclip_image_processor_free(made);
  return status;
}

static cnclip_status process(int width, int height, bool four_bytes, double *answer,
                             cnclip_error *error) {
  static float tensor[3 * RESOLUTION * RESOLUTION];
  const int pixel = four_bytes ? 4 : 3;
  const cnclip_image image = {pixels, width, height,    (ptrdiff_t)width * pixel,
                              pixel,  1,     four_bytes};
  const cnclip_status status = cnclip_image_process(processor, &image, tensor, error);
  for (size_t i = 0; status == CNCLIP_OK && i < sizeof tensor / sizeof *tensor; i++) {
    *answer += tensor[i] * (double)(i + 1);
  }
  return status;
}

static cnclip_status process_small(double *answer, cnclip_error *error) {
  return process(10, 12, true, answer, error);
}

static cnclip_status process_large(double *answer, cnclip_error *error) {
  return process(300, 280, true, answer, error);
}

static cnclip_status process_three_bytes(double *answer, cnclip_error *error) {
  return process(290, 300, false, answer, error);
}

static cnclip_status process_tall(double *answer, cnclip_error *error) {
  return process(20, 300, false, answer, error);
}

static cnclip_status process_same_height(double *answer, cnclip_error *error) {
  return process(100, RESOLUTION, false, answer, error);
}

static cnclip_status resize(double *answer, cnclip_error *error) {
  static uint8_t bytes[RESOLUTION * RESOLUTION * 4];
  const cnclip_image image = {pixels, 200, 300, 800, 4, 1, true};
  const cnclip_status status = cnclip_image_resize(processor, &image, bytes, error);
  for (size_t i = 0; status == CNCLIP_OK && i < sizeof bytes; i++) {
    *answer += bytes[i] * (double)(i + 1);
  }
  return status;
}

static cnclip_status first_pass(bool vertical, double *answer, cnclip_error *error) {
  static uint8_t output[300 * 300 * 4];
  const cnclip_image part = {pixels, 200, 250, 800, 4, 1, true};
  const cnclip_status status =
      cnclip_image_first_pass(processor, &part, vertical, output, 800, error);
  for (size_t i = 0; status == CNCLIP_OK && i < sizeof output; i++) *answer += output[i];
  return status;
}

static cnclip_status first_pass_of_rows(double *answer, cnclip_error *error) {
  return first_pass(false, answer, error);
}

static cnclip_status first_pass_of_columns(double *answer, cnclip_error *error) {
  return first_pass(true, answer, error);
}

static cnclip_status make_filter(double *answer, cnclip_error *error) {
  cnclip_resample_filter filter;
  const cnclip_status status = cnclip_resample_filter_init(&filter, 100, 7, error);
  if (status == CNCLIP_OK) *answer = filter.coefficients[3] + filter.first[6];
  cnclip_resample_filter_free(&filter);
  return status;
}

static cnclip_status make_plan(double *answer, cnclip_error *error) {
  cnclip_image_plan plan;
  const cnclip_status status = cnclip_image_plan_init(&plan, 100, 30, RESOLUTION, error);
  if (status == CNCLIP_OK) *answer = plan.horizontal.coefficients[3] + plan.vertical.first[6];
  if (status != CNCLIP_OK) CHECK(plan.horizontal.first == NULL && plan.vertical.first == NULL);
  cnclip_image_plan_free(&plan);
  return status;
}

/* A token of more characters than the trie has nodes at first. */
static cnclip_status make_long_vocabulary(double *answer, cnclip_error *error) {
  enum { TOKENS = 20 };
  static char text[sizeof vocabulary + TOKENS * CNCLIP_VOCAB_WORD_LIMIT];
  char *end = text + sizeof vocabulary - 1;
  memcpy(text, vocabulary, sizeof vocabulary - 1);
  for (int i = 0; i < TOKENS; i++) { /* which have no node in common but the root */
    memset(end, '!' + i, CNCLIP_VOCAB_WORD_LIMIT - 1);
    end += CNCLIP_VOCAB_WORD_LIMIT;
    end[-1] = '\n';
  }
  cnclip_vocab *made = NULL;
  const cnclip_status status = cnclip_vocab_new(text, (size_t)(end - text), &made, error);
  for (uint32_t i = 0; status == CNCLIP_OK && i < TOKENS; i++) {
    uint32_t word[CNCLIP_VOCAB_WORD_LIMIT];
    size_t length;
    for (size_t k = 0; k < CNCLIP_VOCAB_WORD_LIMIT; k++) word[k] = '!' + i;
    *answer += cnclip_vocab_longest_match(made, word, CNCLIP_VOCAB_WORD_LIMIT, false, &length);
    *answer += (double)length;
  }
  cnclip_vocab_free(made);
  return status;
}

enum { TEXTS = 40 };

static double sum_of(const float *embeddings) {
  double sum = 0;
  for (size_t i = 0; i < TEXTS; i++) sum += embeddings[i * STAND_IN_WIDTH] * (double)(i + 1);
  return sum;
}

static cnclip_status encode(bool from_ids, double *answer, cnclip_error *error) {
  const cnclip_text_encoder encoder = {&stand_in, NULL, vocab, CONTEXT_LENGTH, STAND_IN_WIDTH};
  static int64_t ids[TEXTS * CONTEXT_LENGTH];
  float embeddings[TEXTS * STAND_IN_WIDTH];
  cnclip_text texts[TEXTS];
  stand_in_texts(texts, TEXTS);
  for (size_t i = 0; i < TEXTS; i++) {
    cnclip_tokenizer_encode(vocab, texts[i], CONTEXT_LENGTH, ids + i * CONTEXT_LENGTH, &(size_t){0},
                            NULL);
  }
  const cnclip_status status =
      from_ids
          ? cnclip_text_encoder_encode_ids(&encoder, ids, TEXTS, CONTEXT_LENGTH, 4, embeddings,
                                           NULL, NULL, error)
          : cnclip_text_encoder_encode(&encoder, texts, TEXTS, 4, embeddings, NULL, NULL, error);
  if (status == CNCLIP_OK) *answer = sum_of(embeddings);
  return status;
}

static cnclip_status encode_texts(double *answer, cnclip_error *error) {
  return encode(false, answer, error);
}

static cnclip_status encode_one_text(double *answer, cnclip_error *error) {
  const cnclip_text_encoder encoder = {&stand_in, NULL, vocab, CONTEXT_LENGTH, STAND_IN_WIDTH};
  float embedding[STAND_IN_WIDTH];
  const cnclip_status status = cnclip_text_encoder_encode(&encoder, &(cnclip_text){"abc", 3, 1}, 1,
                                                          0, embedding, NULL, NULL, error);
  if (status == CNCLIP_OK) *answer = embedding[0];
  return status;
}

static cnclip_status encode_ids(double *answer, cnclip_error *error) {
  return encode(true, answer, error);
}

static const struct {
  const char *name;
  entry *call;
} entries[] = {
    {"cnclip_vocab_new", make_vocabulary},
    {"cnclip_vocab_new, of long tokens", make_long_vocabulary},
    {"cnclip_image_processor_new", make_processor},
    {"cnclip_resample_filter_init", make_filter},
    {"cnclip_image_plan_init", make_plan},
    {"cnclip_image_process, enlarged", process_small},
    {"cnclip_image_process", process_large},
    {"cnclip_image_process, of three bytes", process_three_bytes},
    {"cnclip_image_process, columns first", process_tall},
    {"cnclip_image_process, of the same height", process_same_height},
    {"cnclip_image_resize", resize},
    {"cnclip_image_first_pass, of rows", first_pass_of_rows},
    {"cnclip_image_first_pass, of columns", first_pass_of_columns},
    {"cnclip_text_encoder_encode", encode_texts},
    {"cnclip_text_encoder_encode, of one text", encode_one_text},
    {"cnclip_text_encoder_encode_ids", encode_ids},
};

/* --- The failures --------------------------------------------------------------------------------
 */

static cnclip_status call_once(entry *call, long failing, double *ret_answer,
                               cnclip_error *ret_error) {
  *ret_answer = 0;
  *ret_error = (cnclip_error){CNCLIP_OK, ""};
  calls = 0, failing_call = failing;
  const cnclip_status status = call(ret_answer, ret_error);
  failing_call = 0;
  return status;
}

/* Returns the number of allocations that failed. */
static long fail_each(const char *name, entry *call) {
  double wanted, answer;
  cnclip_error error;
  const long before = blocks;
  CHECK(call_once(call, 0, &wanted, &error) == CNCLIP_OK && wanted != 0);
  const long count = calls;
  const int failed_before = check_failed;
  CHECK(count > 0 && blocks == before);
  for (long i = 1; i <= count; i++) {
    const cnclip_status status = call_once(call, i, &answer, &error);
    const bool is_reported =
        status == CNCLIP_ERROR_MEMORY && error.code == status && error.message[0] != '\0';
    CHECK(is_reported || (status == CNCLIP_OK && answer == wanted));
    CHECK(blocks == before);
    CHECK(call_once(call, 0, &answer, &error) == CNCLIP_OK && answer == wanted);
  }
  if (check_failed != failed_before) printf("%s: of %ld allocations\n", name, count);
  return count;
}

int main(void) {
  CHECK(cnclip_vocab_new(vocabulary, sizeof vocabulary - 1, &vocab, NULL) == CNCLIP_OK);
  CHECK(cnclip_image_processor_new(RESOLUTION, mean, deviation, CNCLIP_ISA_SERIAL, &processor,
                                   NULL) == CNCLIP_OK);
  for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 7 + i / 1000);
  long failures = 0;
  const size_t count = sizeof entries / sizeof *entries;
  for (int k = 0; k < 2; k++) {
    all_later_fail = k == 1;
    for (size_t i = 0; i < count; i++) failures += fail_each(entries[i].name, entries[i].call);
  }
  cnclip_image_processor_free(processor);
  cnclip_vocab_free(vocab);
  CHECK(blocks == 0);
  printf("%ld allocations failed in %zu entry points\n", failures, count);
  return check_summary("out_of_memory");
}
