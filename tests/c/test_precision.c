/* Which precisions each processor and a GPU compute in, and what a refusal recommends. */
#include "kernels/precision.h"

#include <string.h>

#include "check.h"

/* Whether it is refused with a message that ends in `end`; "" if it is not refused. */
static bool gives(const char *precision, bool is_cpu, cnclip_isa isa, const char *end) {
  cnclip_error error = {0};
  const cnclip_status status = cnclip_precision_check(precision, is_cpu, isa, &error);
  CHECK(status == error.code);
  if (*end == '\0') return status == CNCLIP_OK;
  const size_t length = strlen(error.message), tail = strlen(end);
  return status == CNCLIP_ERROR_DEVICE && length >= tail &&
         strcmp(error.message + length - tail, end) == 0;
}

static void test_processors(void) {
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) CHECK(gives("fp32", true, (cnclip_isa)isa, ""));
  CHECK(gives("int8", true, CNCLIP_ISA_SERIAL, "this is a processor that runs serial; use fp32"));
  CHECK(gives("bf16", true, CNCLIP_ISA_SERIAL, "this is a processor that runs serial; use fp32"));
#if defined(__x86_64__)
  CHECK(gives("int8", true, CNCLIP_ISA_AVX2, ""));
  CHECK(
      gives("bf16", true, CNCLIP_ISA_AVX2, "this is a processor that runs avx2; use fp32 or int8"));
  CHECK(gives("bf16", true, CNCLIP_ISA_AVX512_BF16, ""));
  CHECK(gives("fp16", true, CNCLIP_ISA_AVX512_BF16,
              "this is a processor that runs avx512_bf16; use fp32, bf16 or int8"));
#elif defined(__aarch64__)
  CHECK(gives("int8", true, CNCLIP_ISA_NEON, "this is a processor that runs neon; use fp32"));
  CHECK(gives("int8", true, CNCLIP_ISA_NEON_DOTPROD, ""));
  CHECK(gives("bf16", true, CNCLIP_ISA_NEON_I8MM,
              "this is a processor that runs neon_i8mm; use fp32 or int8"));
  CHECK(gives("bf16", true, CNCLIP_ISA_NEON_BF16, ""));
#endif
}

static void test_gpus(void) {
  CHECK(gives("fp32", false, CNCLIP_ISA_SERIAL, ""));
  CHECK(gives("bf16", false, CNCLIP_ISA_SERIAL, ""));
  CHECK(gives("fp16", false, CNCLIP_ISA_SERIAL, ""));
  CHECK(gives("int8", false, CNCLIP_ISA_SERIAL, "this is a GPU; use fp32, bf16 or fp16"));
}

static void test_unknown_names(void) {
  cnclip_error error = {0};
  CHECK(cnclip_precision_check("fp8", true, CNCLIP_ISA_SERIAL, &error) == CNCLIP_ERROR_ARGUMENT);
  CHECK(strstr(error.message, "got fp8") != NULL);
  CHECK(cnclip_precision_check("", false, CNCLIP_ISA_SERIAL, NULL) == CNCLIP_ERROR_ARGUMENT);
}

int main(void) {
  test_processors();
  test_gpus();
  test_unknown_names();
  return check_summary("precision");
}
