#define _POSIX_C_SOURCE 200112L /* setenv */

#include "base/cpu.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

static const char variable[] = "CNCLIP_FORCE_ISA";

static void test_names(void) {
  CHECK(strcmp(cnclip_isa_name(CNCLIP_ISA_SERIAL), "serial") == 0);
  CHECK(strcmp(cnclip_isa_name(CNCLIP_ISA_AVX2), "avx2") == 0);
  CHECK(strcmp(cnclip_isa_name(CNCLIP_ISA_AVX512_BF16), "avx512_bf16") == 0);
}

static void test_supported(void) {
  CHECK(cnclip_isa_supported(CNCLIP_ISA_SERIAL));
  CHECK(!cnclip_isa_supported(CNCLIP_ISA_COUNT));
#if defined(__x86_64__)
  /* The compiler's own CPUID reading, without the operating system's part. */
  CHECK(!cnclip_isa_supported(CNCLIP_ISA_AVX2) || __builtin_cpu_supports("avx2"));
  CHECK(!cnclip_isa_supported(CNCLIP_ISA_AVX512) || __builtin_cpu_supports("avx512bw"));
  CHECK(!cnclip_isa_supported(CNCLIP_ISA_AVX512_VNNI) || __builtin_cpu_supports("avx512vnni"));
  CHECK(!cnclip_isa_supported(CNCLIP_ISA_AVX512_BF16) || __builtin_cpu_supports("avx512bf16"));
#else
  CHECK(!cnclip_isa_supported(CNCLIP_ISA_AVX2));
#endif
#if defined(__aarch64__)
  CHECK(cnclip_isa_supported(CNCLIP_ISA_NEON));
#else
  CHECK(!cnclip_isa_supported(CNCLIP_ISA_NEON));
#endif
}

static void test_sets_include_others(void) {
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    CHECK(cnclip_isa_includes((cnclip_isa)isa, (cnclip_isa)isa));
    CHECK(cnclip_isa_includes((cnclip_isa)isa, CNCLIP_ISA_SERIAL));
    for (int other = 0; other < CNCLIP_ISA_COUNT; other++) {
      const bool is_included = cnclip_isa_includes((cnclip_isa)isa, (cnclip_isa)other);
      CHECK(!is_included || other <= isa); /* a faster set comes later */
      CHECK(!is_included || !cnclip_isa_supported((cnclip_isa)isa) ||
            cnclip_isa_supported((cnclip_isa)other));
    }
  }
  CHECK(cnclip_isa_includes(CNCLIP_ISA_AVX512_BF16, CNCLIP_ISA_AVX512_VNNI));
  CHECK(cnclip_isa_includes(CNCLIP_ISA_AVX512, CNCLIP_ISA_AVX2));
  CHECK(cnclip_isa_includes(CNCLIP_ISA_AVX_VNNI, CNCLIP_ISA_AVX2));
  CHECK(cnclip_isa_includes(CNCLIP_ISA_NEON_I8MM, CNCLIP_ISA_NEON));
  CHECK(!cnclip_isa_includes(CNCLIP_ISA_NEON, CNCLIP_ISA_AVX2));
  /* AVX-512's processors without AVX-VNNI: Skylake to Ice Lake, Zen 4. */
  CHECK(!cnclip_isa_includes(CNCLIP_ISA_AVX512_BF16, CNCLIP_ISA_AVX_VNNI));
}

static void test_best_is_chosen(void) {
  cnclip_isa isa = CNCLIP_ISA_COUNT, again = CNCLIP_ISA_COUNT;
  unsetenv(variable);
  CHECK(cnclip_isa_choose(&isa, NULL) == CNCLIP_OK);
  CHECK(cnclip_isa_supported(isa));
  for (int better = (int)isa + 1; better < CNCLIP_ISA_COUNT; better++) {
    CHECK(!cnclip_isa_supported((cnclip_isa)better));
  }
  setenv(variable, "", 1);
  CHECK(cnclip_isa_choose(&again, NULL) == CNCLIP_OK);
  CHECK(again == isa);
}

static void test_forced(void) {
  for (int i = 0; i < CNCLIP_ISA_COUNT; i++) {
    cnclip_isa isa = CNCLIP_ISA_COUNT;
    cnclip_error error = {0};
    setenv(variable, cnclip_isa_name((cnclip_isa)i), 1);
    if (cnclip_isa_supported((cnclip_isa)i)) {
      CHECK(cnclip_isa_choose(&isa, &error) == CNCLIP_OK);
      CHECK((int)isa == i);
    } else {
      CHECK(cnclip_isa_choose(&isa, &error) == CNCLIP_ERROR_ARGUMENT);
      CHECK(strstr(error.message, cnclip_isa_name((cnclip_isa)i)) != NULL);
    }
  }
}

static void test_unknown_names(void) {
  const char *const unknown[] = {"AVX2", "avx", "avx22", " serial", "sve", "0"};
  for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
    cnclip_isa isa = CNCLIP_ISA_COUNT;
    cnclip_error error = {0};
    setenv(variable, unknown[i], 1);
    CHECK(cnclip_isa_choose(&isa, &error) == CNCLIP_ERROR_ARGUMENT);
    CHECK(error.code == CNCLIP_ERROR_ARGUMENT);
    CHECK(strstr(error.message, unknown[i]) != NULL);
    CHECK(isa == CNCLIP_ISA_COUNT);
  }
}

int main(void) {
  test_names();
  test_supported();
  test_sets_include_others();
  test_best_is_chosen();
  test_forced();
  test_unknown_names();
  return check_summary("cpu");
}
