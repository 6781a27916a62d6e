/* What the headers call thread-safe, called by eight threads at once on shared objects: each must
 * get the answers that one thread gets. `make tsan` runs this under ThreadSanitizer. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "aligned.h"
#include "base/cores.h"
#include "check.h"
#include "image/image.h"
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/peak.h"
#include "model_stand_in.h"

enum { THREADS = 8, ROUNDS = 100, TEXTS = 60, CONTEXT_LENGTH = 16, RESOLUTION = 24 };
enum { ROWS = 20, COLUMNS = 64 }; /* of the linear layer; heads of attention are as wide */

static const char vocabulary[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\nab\nabc\n##a\n##b\n##c\n\xe7\x8c\xab\n";
static const float mean[3] = {0.4f, 0.5f, 0.6f}, deviation[3] = {0.2f, 0.3f, 0.4f};

static cnclip_isa isa;
static cnclip_vocab *vocab;
static cnclip_image_processor *processor;
static uint8_t pixels[90 * 70 * 4];
static float numbers[ROWS * COLUMNS], weight[COLUMNS * COLUMNS];

/* What one thread computes. */
typedef struct {
  float embeddings[TEXTS * STAND_IN_WIDTH];
  float tensor[3 * RESOLUTION * RESOLUTION];
  float product[ROWS * COLUMNS], mixed[ROWS * COLUMNS];
} answers;

static void encode(answers *found) {
  const cnclip_text_encoder encoder = {&stand_in, NULL, vocab, CONTEXT_LENGTH, STAND_IN_WIDTH};
  cnclip_text texts[TEXTS];
  stand_in_texts(texts, TEXTS);
  if (cnclip_text_encoder_encode(&encoder, texts, TEXTS, 4, found->embeddings, NULL, NULL, NULL) !=
      CNCLIP_OK) {
    abort(); /* CHECK is for one thread */
  }
}

static void process(answers *found) {
  const cnclip_image image = {pixels, 90, 70, 90 * 4, 4, 1, true};
  if (cnclip_image_process(processor, &image, found->tensor, NULL) != CNCLIP_OK) abort();
}

static void *aligned(size_t bytes) {
  return aligned_memory(bytes, 0x5A);
}

static void multiply(answers *found) {
  const cnclip_linear_kernels *kernels = cnclip_linear_kernels_get(CNCLIP_LINEAR_F32, isa);
  if (kernels == NULL) return;
  void *packed = aligned(cnclip_linear_packed_bytes(CNCLIP_LINEAR_F32, COLUMNS, COLUMNS));
  void *scratch = aligned(cnclip_linear_pack_scratch_bytes(CNCLIP_LINEAR_F32, COLUMNS));
  const cnclip_linear_packing packing = {
      CNCLIP_LINEAR_F32, COLUMNS, COLUMNS, weight, false, packed};
  kernels->pack(&packing, 0, cnclip_linear_panel_count(COLUMNS), scratch);
  cnclip_linear_job job = {.type = CNCLIP_LINEAR_F32,
                           .activation = CNCLIP_ACTIVATION_GELU,
                           .rows = ROWS,
                           .input_width = COLUMNS,
                           .output_width = COLUMNS,
                           .columns = COLUMNS,
                           .weight = packed,
                           .input = numbers,
                           .input_stride = COLUMNS,
                           .output = found->product,
                           .output_stride = COLUMNS};
  const size_t bytes = cnclip_linear_operand_bytes(&job);
  if (bytes > 0) {
    job.operand = aligned(bytes);
    kernels->rows(&job, 0, ROWS);
  }
  kernels->units(&job, 0, cnclip_linear_unit_count(&job));
  free(packed), free(scratch), free(job.operand);
}

static void attend(answers *found) {
  cnclip_attention_kernel *kernel = cnclip_attention_kernel_get(CNCLIP_ATTENTION_F32, isa);
  if (kernel == NULL) return;
  static const int64_t starts[] = {0, 7, ROWS};
  const cnclip_attention_job job = {.type = CNCLIP_ATTENTION_F32,
                                    .items = 2,
                                    .heads = 2,
                                    .head_width = COLUMNS / 2,
                                    .query_starts = starts,
                                    .key_starts = starts,
                                    .query = numbers,
                                    .key = numbers,
                                    .value = numbers,
                                    .query_stride = COLUMNS,
                                    .key_stride = COLUMNS,
                                    .value_stride = COLUMNS,
                                    .output = found->mixed,
                                    .output_stride = COLUMNS};
  void *scratch = aligned(cnclip_attention_scratch_bytes(&job));
  kernel(&job, 0, job.items * job.heads, scratch);
  free(scratch);
}

static void compute(answers *found) {
  memset(found, 0, sizeof *found);
  encode(found);
  process(found);
  multiply(found);
  attend(found);
}

/* Objects of one thread, made and freed while others use theirs. */
static void make_objects(void) {
  cnclip_error error;
  cnclip_isa chosen;
  cnclip_vocab *made = NULL;
  cnclip_image_processor *other = NULL;
  if (cnclip_isa_choose(&chosen, &error) != CNCLIP_OK) abort();
  if (cnclip_vocab_new(vocabulary, sizeof vocabulary - 1, &made, &error) != CNCLIP_OK) abort();
  if (cnclip_image_processor_new(0, mean, deviation, chosen, &other, &error) == CNCLIP_OK) abort();
  cnclip_vocab_free(made);
  if (cnclip_cores_free() < 1) abort();
  cnclip_peak_measure(CNCLIP_PEAK_FP32, 1e-5);
}

static void *run(void *context) {
  const answers *wanted = context;
  answers *found = malloc(sizeof *found);
  size_t wrong = found == NULL;
  for (int i = 0; i < ROUNDS && found != NULL; i++) {
    compute(found);
    wrong += memcmp(found, wanted, sizeof *found) != 0;
    make_objects();
  }
  free(found);
  return wrong == 0 ? NULL : context;
}

int main(void) {
  static answers wanted;
  pthread_t threads[THREADS];
  CHECK(cnclip_isa_choose(&isa, NULL) == CNCLIP_OK);
  CHECK(cnclip_vocab_new(vocabulary, sizeof vocabulary - 1, &vocab, NULL) == CNCLIP_OK);
  CHECK(cnclip_image_processor_new(RESOLUTION, mean, deviation, isa, &processor, NULL) ==
        CNCLIP_OK);
  for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 7 + i / 1000);
  for (size_t i = 0; i < ROWS * COLUMNS; i++) numbers[i] = (float)(i * 37 % 101) / 50 - 1;
  for (size_t i = 0; i < COLUMNS * COLUMNS; i++) weight[i] = (float)(i * 29 % 97) / 97 - 0.5f;
  compute(&wanted);
  for (size_t i = 0; i < THREADS; i++) {
    if (pthread_create(&threads[i], NULL, run, &wanted) != 0) abort();
  }
  for (size_t i = 0; i < THREADS; i++) {
    void *wrong = NULL;
    pthread_join(threads[i], &wrong);
    CHECK(wrong == NULL);
  }
  cnclip_image_processor_free(processor);
  cnclip_vocab_free(vocab);
  printf("%d threads, %d rounds of six kinds of calls\n", THREADS, ROUNDS);
  return check_summary("threads");
}
