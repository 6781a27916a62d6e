#define _POSIX_C_SOURCE 200112L /* setenv */

#include "base/cpu.h"

#include <stdlib.h>
#include <string.h>

#include "base/cpu_features.h"
#include "check.h"

static const char variable[] = "CNCLIP_FORCE_ISA";

static void test_names(void) {
  CHECK(strcmp(cnclip_isa_name(CNCLIP_ISA_SERIAL), "serial") == 0);
  CHECK(strcmp(cnclip_isa_name(CNCLIP_ISA_AVX2), "avx2") == 0);
  CHECK(strcmp(cnclip_isa_name(CNCLIP_ISA_AVX512_BF16), "avx512_bf16") == 0);
  CHECK(strcmp(cnclip_isa_name(CNCLIP_ISA_NEON_DOTPROD), "neon_dotprod") == 0);
  CHECK(strcmp(cnclip_isa_name(CNCLIP_ISA_NEON_BF16), "neon_bf16") == 0);
}

static void test_supported(void) {
  CHECK(cnclip_isa_supported(CNCLIP_ISA_SERIAL));
  CHECK(!cnclip_isa_supported(CNCLIP_ISA_COUNT));
  CHECK(!cnclip_isa_supported((cnclip_isa)-1));
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

/* The sets that a processor runs, as bits. */
static unsigned sets_of(cnclip_cpu cpu) {
  unsigned sets = 0;
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    if (cnclip_cpu_runs(&cpu, (cnclip_isa)isa)) sets |= 1u << isa;
  }
  return sets;
}

#if defined(__x86_64__)

/* All that the sets need, as CPUID and XGETBV report it. */
static const cnclip_cpu everything = {
    .leaf_1_ecx = 1u << 12 | 1u << 29,
    .leaf_7_ebx = 1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31,
    .leaf_7_ecx = 1u << 11,
    .leaf_7_1_eax = 1u << 4 | 1u << 5,
    .saved = 0xE6,
};

static void test_other_processors(void) {
  const unsigned serial = 1u << CNCLIP_ISA_SERIAL, avx2 = serial | 1u << CNCLIP_ISA_AVX2;
  const unsigned avx_vnni = 1u << CNCLIP_ISA_AVX_VNNI, avx512 = 1u << CNCLIP_ISA_AVX512;
  const unsigned vnni = 1u << CNCLIP_ISA_AVX512_VNNI, bf16 = 1u << CNCLIP_ISA_AVX512_BF16;
  cnclip_cpu cpu = everything;
  CHECK(sets_of(cpu) == (avx2 | avx_vnni | avx512 | vnni | bf16));
  CHECK(sets_of((cnclip_cpu){0}) == serial);
  for (unsigned bit = 0; bit < 32; bit++) { /* each of AVX2, FMA and F16C is needed */
    cpu = everything, cpu.leaf_1_ecx &= ~(1u << bit);
    CHECK(sets_of(cpu) == (cpu.leaf_1_ecx == everything.leaf_1_ecx ? sets_of(everything) : serial));
  }
  cpu = everything, cpu.leaf_7_ebx &= ~(1u << 5);
  CHECK(sets_of(cpu) == serial);
  for (unsigned bit = 16; bit < 32; bit++) { /* and each of F, DQ, BW and VL */
    cpu = everything, cpu.leaf_7_ebx &= ~(1u << bit);
    const bool is_whole = cpu.leaf_7_ebx == everything.leaf_7_ebx;
    CHECK(sets_of(cpu) == (is_whole ? sets_of(everything) : (avx2 | avx_vnni)));
  }
  cpu = everything, cpu.leaf_7_ecx = 0;
  CHECK(sets_of(cpu) == (avx2 | avx_vnni | avx512));
  cpu = everything, cpu.leaf_7_1_eax = 1u << 4;
  CHECK(sets_of(cpu) == (avx2 | avx_vnni | avx512 | vnni));
  cpu = everything, cpu.leaf_7_1_eax = 1u << 5;
  CHECK(sets_of(cpu) == (avx2 | avx512 | vnni | bf16));
  /* The system saves no registers, those of AVX, or those of AVX-512 without AVX's upper halves. */
  cpu = everything, cpu.saved = 0x2;
  CHECK(sets_of(cpu) == serial);
  cpu = everything, cpu.saved = 0x6;
  CHECK(sets_of(cpu) == (avx2 | avx_vnni));
  cpu = everything, cpu.saved = 0xE2;
  CHECK(sets_of(cpu) == serial);
}

#elif defined(__aarch64__)

static void test_other_processors(void) {
  const unsigned neon = 1u << CNCLIP_ISA_SERIAL | 1u << CNCLIP_ISA_NEON;
  const unsigned dotprod = neon | 1u << CNCLIP_ISA_NEON_DOTPROD;
  const unsigned i8mm = dotprod | 1u << CNCLIP_ISA_NEON_I8MM;
  CHECK(sets_of((cnclip_cpu){0}) == neon);
  CHECK(sets_of((cnclip_cpu){.has_dotprod = true}) == dotprod);
  CHECK(sets_of((cnclip_cpu){.has_dotprod = true, .has_i8mm = true}) == i8mm);
  CHECK(sets_of((cnclip_cpu){.has_dotprod = true, .has_i8mm = true, .has_bf16 = true}) ==
        (i8mm | 1u << CNCLIP_ISA_NEON_BF16));
  /* A set without what it extends. */
  CHECK(sets_of((cnclip_cpu){.has_i8mm = true, .has_bf16 = true}) == neon);
  CHECK(sets_of((cnclip_cpu){.has_dotprod = true, .has_bf16 = true}) == dotprod);
}

#else

static void test_other_processors(void) {
  CHECK(sets_of((cnclip_cpu){0}) == 1u << CNCLIP_ISA_SERIAL);
}

#endif

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
  CHECK(cnclip_isa_includes(CNCLIP_ISA_NEON_DOTPROD, CNCLIP_ISA_NEON));
  CHECK(cnclip_isa_includes(CNCLIP_ISA_NEON_I8MM, CNCLIP_ISA_NEON_DOTPROD));
  CHECK(cnclip_isa_includes(CNCLIP_ISA_NEON_BF16, CNCLIP_ISA_NEON_I8MM));
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

/* Sets that the emulated processors of `make test-arm64` have, where one is named. */
static void test_emulated_processors(void) {
  static const struct {
    const char *processor;
    cnclip_isa best;
  } known[] = {
      {"cortex-a72", CNCLIP_ISA_NEON},
      {"neoverse-n1", CNCLIP_ISA_NEON_DOTPROD},
      {"max", CNCLIP_ISA_NEON_BF16},
  };
  const char *processor = getenv("QEMU_CPU");
  cnclip_isa isa = CNCLIP_ISA_COUNT;
  unsetenv(variable);
  CHECK(cnclip_isa_choose(&isa, NULL) == CNCLIP_OK);
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (processor != NULL && strcmp(processor, known[i].processor) == 0) {
      CHECK(isa == known[i].best);
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
    CHECK(strstr(error.message, "known: serial, avx2, ") != NULL);
    CHECK(strstr(error.message, ", neon_i8mm") != NULL); /* the last */
    CHECK(isa == CNCLIP_ISA_COUNT);
  }
}

int main(void) {
  test_names();
  test_supported();
  test_other_processors();
  test_sets_include_others();
  test_best_is_chosen();
  test_forced();
  test_emulated_processors();
  test_unknown_names();
  return check_summary("cpu");
}
