#include "kernels/attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "aligned.h"
#include "check.h"

/* Against loops in double precision, with all kernels that this machine runs. */

static uint32_t random_state = 7;

static float random_float(void) { /* about -2 to 2 */
  random_state = random_state * 1664525u + 1013904223u;
  return (float)(int32_t)random_state / 1073741824.0f;
}

static float from_bf16(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

static void *aligned(size_t bytes) {
  return aligned_memory(bytes, 0xFF /* NaN */);
}

static double get(const void *memory, cnclip_attention_type type, size_t at) {
  if (type == CNCLIP_ATTENTION_BF16) return from_bf16(((const uint16_t *)memory)[at]);
  return ((const float *)memory)[at];
}

static void put(void *memory, cnclip_attention_type type, size_t at, float value) {
  if (type == CNCLIP_ATTENTION_BF16) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)memory)[at] = (uint16_t)(bits >> 16);
  } else {
    ((float *)memory)[at] = value;
  }
}

static void check_kernel(cnclip_attention_kernel *kernel, cnclip_attention_type type, size_t heads,
                         size_t width, size_t items, const int64_t *query_starts,
                         const int64_t *key_starts) {
  const size_t queries = (size_t)query_starts[items], keys = (size_t)key_starts[items];
  const size_t query_stride = heads * width + 2, key_stride = 2 * heads * width,
               output_stride = heads * width;
  void *query = aligned(queries * query_stride * 4), *key = aligned(keys * key_stride * 4);
  void *output = aligned(queries * output_stride * 4);
  for (size_t row = 0; row < queries; row++) {
    for (size_t i = 0; i < heads * width; i++) {
      put(query, type, row * query_stride + i, random_float());
    }
  }
  for (size_t i = 0; i < keys * key_stride; i++) put(key, type, i, random_float());
  const size_t element = type == CNCLIP_ATTENTION_BF16 ? 2 : 4;
  const cnclip_attention_job job = {
      .type = type,
      .items = items,
      .heads = heads,
      .head_width = width,
      .query_starts = query_starts,
      .key_starts = key_starts,
      .query = query,
      .key = key,
      .value = (const char *)key + heads * width * element,
      .query_stride = query_stride,
      .key_stride = key_stride,
      .value_stride = key_stride,
      .output = output,
      .output_stride = output_stride,
  };
  CHECK(cnclip_attention_fits(&job));
  void *scratch = aligned(cnclip_attention_scratch_bytes(&job));
  kernel(&job, 1, items * heads, scratch);
  kernel(&job, 0, 1, scratch);

  double worst = 0, *weights = malloc((keys + 1) * sizeof(double));
  for (size_t item = 0; item < items; item++) {
    const size_t first = (size_t)key_starts[item], last = (size_t)key_starts[item + 1];
    for (size_t row = (size_t)query_starts[item]; row < (size_t)query_starts[item + 1]; row++) {
      for (size_t head = 0; head < heads; head++) {
        double sum = 0;
        for (size_t k = first; k < last; k++) {
          double score = 0;
          for (size_t i = head * width; i < (head + 1) * width; i++) {
            score += get(query, type, row * query_stride + i) * get(key, type, k * key_stride + i);
          }
          sum += weights[k] = exp(score / sqrt((double)width));
        }
        for (size_t i = head * width; i < (head + 1) * width; i++) {
          double wanted = 0;
          for (size_t k = first; k < last; k++) {
            wanted += weights[k] / sum * get(key, type, k * key_stride + heads * width + i);
          }
          const double error = fabs(get(output, type, row * output_stride + i) - wanted);
          if (!(error <= worst)) worst = error;
        }
      }
    }
  }
  const double allowed = type == CNCLIP_ATTENTION_BF16 ? 2e-2 : 2e-6;
  CHECK(worst <= allowed);
  if (!(worst <= allowed)) printf("heads of %zu: off by %g\n", width, worst);
  free(query), free(key), free(output), free(scratch), free(weights);
}

static void check_items(cnclip_attention_type type, size_t heads, size_t width, size_t items,
                        const int64_t *query_starts, const int64_t *key_starts) {
  cnclip_attention_kernel *before = NULL;
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    if (!cnclip_isa_supported((cnclip_isa)isa)) continue;
    cnclip_attention_kernel *kernel = cnclip_attention_kernel_get(type, (cnclip_isa)isa);
    if (kernel != NULL && kernel != before) {
      check_kernel(kernel, type, heads, width, items, query_starts, key_starts);
    }
    before = kernel;
  }
}

static void test_items(void) {
  const int64_t one[] = {0, 1}, three[] = {0, 1, 5, 38}, single[] = {0, 1, 2, 3},
                image[] = {0, 197}, edges[] = {0, 16, 48, 65, 194};
  const size_t widths[] = {16, 32, 48, 64, 80};
  for (int type = 0; type <= CNCLIP_ATTENTION_BF16; type++) {
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
      const cnclip_attention_type of = (cnclip_attention_type)type;
      check_items(of, 2, widths[i], 1, one, one);
      check_items(of, 3, widths[i], 3, three, three);
      check_items(of, 3, widths[i], 3, single, three);
      check_items(of, 1, widths[i], 4, edges, edges);
      check_items(of, 2, widths[i], 1, image, image);
    }
  }
}

static void test_limits(void) {
  cnclip_attention_job job = {.head_width = 64, .query_stride = 64, .key_stride = 64};
  CHECK(cnclip_attention_fits(&job));
  job.head_width = 72;
  CHECK(!cnclip_attention_fits(&job));
  job.head_width = 0;
  CHECK(!cnclip_attention_fits(&job));
  job.head_width = 64, job.key_stride = 65;
  CHECK(cnclip_attention_fits(&job));
  job.type = CNCLIP_ATTENTION_BF16;
  CHECK(!cnclip_attention_fits(&job));
  job.key_stride = 64;
  CHECK(cnclip_attention_fits(&job));
  job.query_stride = 65;
  CHECK(!cnclip_attention_fits(&job));
  CHECK(cnclip_attention_kernel_get(CNCLIP_ATTENTION_F32, CNCLIP_ISA_SERIAL) == NULL);
#if defined(__x86_64__)
  CHECK(cnclip_attention_kernel_get(CNCLIP_ATTENTION_F32, CNCLIP_ISA_AVX2) != NULL);
#elif defined(__aarch64__)
  CHECK(cnclip_attention_kernel_get(CNCLIP_ATTENTION_F32, CNCLIP_ISA_NEON) != NULL);
  CHECK(cnclip_attention_kernel_get(CNCLIP_ATTENTION_BF16, CNCLIP_ISA_NEON_BF16) != NULL);
  CHECK(cnclip_attention_kernel_get(CNCLIP_ATTENTION_BF16, CNCLIP_ISA_NEON_I8MM) == NULL);
#endif
  CHECK(cnclip_attention_kernel_get(CNCLIP_ATTENTION_BF16, CNCLIP_ISA_AVX2) == NULL);
  CHECK(cnclip_attention_kernel_get(CNCLIP_ATTENTION_BF16, CNCLIP_ISA_AVX512_VNNI) == NULL);
}

int main(void) {
  test_limits();
  test_items();
  return check_summary("attention");
}
