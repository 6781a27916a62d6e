#include "base/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu_features.h"

static const struct {
  const char *name;
  cnclip_isa extends; /* the set that this one adds instructions to */
} sets[CNCLIP_ISA_COUNT] = {
    [CNCLIP_ISA_SERIAL] = {"serial", CNCLIP_ISA_SERIAL},
    [CNCLIP_ISA_AVX2] = {"avx2", CNCLIP_ISA_SERIAL},
    [CNCLIP_ISA_AVX_VNNI] = {"avx_vnni", CNCLIP_ISA_AVX2},
    [CNCLIP_ISA_AVX512] = {"avx512", CNCLIP_ISA_AVX2},
    [CNCLIP_ISA_AVX512_VNNI] = {"avx512_vnni", CNCLIP_ISA_AVX512},
    [CNCLIP_ISA_AVX512_BF16] = {"avx512_bf16", CNCLIP_ISA_AVX512_VNNI},
    [CNCLIP_ISA_NEON] = {"neon", CNCLIP_ISA_SERIAL},
    [CNCLIP_ISA_NEON_DOTPROD] = {"neon_dotprod", CNCLIP_ISA_NEON},
    [CNCLIP_ISA_NEON_I8MM] = {"neon_i8mm", CNCLIP_ISA_NEON_DOTPROD},
    [CNCLIP_ISA_NEON_BF16] = {"neon_bf16", CNCLIP_ISA_NEON_I8MM},
};

#if defined(__x86_64__)
#include <cpuid.h>

static bool has_bits(unsigned value, unsigned wanted) {
  return (value & wanted) == wanted;
}

/* A leaf that the processor lacks stays 0. */
static cnclip_cpu read_cpu(void) {
  const unsigned osxsave = 1u << 27;
  unsigned eax, ebx, edx;
  cnclip_cpu cpu = {0};
  __get_cpuid_count(1, 0, &eax, &ebx, &cpu.leaf_1_ecx, &edx);
  __get_cpuid_count(7, 0, &eax, &cpu.leaf_7_ebx, &cpu.leaf_7_ecx, &edx);
  __get_cpuid_count(7, 1, &cpu.leaf_7_1_eax, &ebx, &eax, &edx);
  if (has_bits(cpu.leaf_1_ecx, osxsave)) { /* ALWAYS: processors without it are from before 2011 */
    __asm__ volatile("xgetbv" : "=a"(cpu.saved), "=d"(edx) : "c"(0));
  }
  return cpu;
}

/* Whether the processor has what `isa` adds to the set that it extends. */
static bool has_instructions(const cnclip_cpu *cpu, cnclip_isa isa) {
  const unsigned ymm = 0x6, zmm = 0xe6;
  const unsigned avx2 = 1u << 5, fma = 1u << 12, f16c = 1u << 29;
  const unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
  const unsigned avx_vnni = 1u << 4, avx512_vnni = 1u << 11, avx512_bf16 = 1u << 5;
  switch (isa) {
    case CNCLIP_ISA_SERIAL:
      return true;
    case CNCLIP_ISA_AVX2:
      return has_bits(cpu->leaf_7_ebx, avx2) && has_bits(cpu->leaf_1_ecx, fma | f16c) &&
             has_bits(cpu->saved, ymm);
    case CNCLIP_ISA_AVX_VNNI:
      return has_bits(cpu->leaf_7_1_eax, avx_vnni);
    case CNCLIP_ISA_AVX512:
      return has_bits(cpu->leaf_7_ebx, f | dq | bw | vl) && has_bits(cpu->saved, zmm);
    case CNCLIP_ISA_AVX512_VNNI:
      return has_bits(cpu->leaf_7_ecx, avx512_vnni);
    case CNCLIP_ISA_AVX512_BF16:
      return has_bits(cpu->leaf_7_1_eax, avx512_bf16);
    default:
      return false;
  }
}
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>

/* Bits of Linux's HWCAP and HWCAP2, some of which older headers lack. */
static bool has_dotprod(void) {
  return (getauxval(AT_HWCAP) & 1ul << 20) != 0;
}

static bool has_i8mm(void) {
  return (getauxval(AT_HWCAP2) & 1ul << 13) != 0;
}

static bool has_bf16(void) {
  return (getauxval(AT_HWCAP2) & 1ul << 14) != 0;
}
#elif defined(__APPLE__)
#include <sys/sysctl.h>

static bool has_feature(const char *name) {
  int found = 0;
  size_t bytes = sizeof found;
  return sysctlbyname(name, &found, &bytes, NULL, 0) == 0 && found != 0;
}

static bool has_dotprod(void) {
  return has_feature("hw.optional.arm.FEAT_DotProd");
}

static bool has_i8mm(void) {
  return has_feature("hw.optional.arm.FEAT_I8MM");
}

static bool has_bf16(void) {
  return has_feature("hw.optional.arm.FEAT_BF16");
}
#else
static bool has_dotprod(void) {
  return false;
}

static bool has_i8mm(void) {
  return false;
}

static bool has_bf16(void) {
  return false;
}
#endif

static cnclip_cpu read_cpu(void) {
  return (cnclip_cpu){.has_dotprod = has_dotprod(), .has_i8mm = has_i8mm(), .has_bf16 = has_bf16()};
}

static bool has_instructions(const cnclip_cpu *cpu, cnclip_isa isa) {
  return isa == CNCLIP_ISA_SERIAL || isa == CNCLIP_ISA_NEON ||
         (isa == CNCLIP_ISA_NEON_DOTPROD && cpu->has_dotprod) ||
         (isa == CNCLIP_ISA_NEON_I8MM && cpu->has_i8mm) ||
         (isa == CNCLIP_ISA_NEON_BF16 && cpu->has_bf16);
}
#else
static cnclip_cpu read_cpu(void) {
  return (cnclip_cpu){0};
}

static bool has_instructions(const cnclip_cpu *cpu, cnclip_isa isa) {
  (void)cpu;
  return isa == CNCLIP_ISA_SERIAL;
}
#endif

const char *cnclip_isa_name(cnclip_isa isa) {
  return sets[isa].name;
}

bool cnclip_isa_includes(cnclip_isa isa, cnclip_isa other) {
  while (isa != other && isa != CNCLIP_ISA_SERIAL) isa = sets[isa].extends;
  return isa == other;
}

bool cnclip_cpu_runs(const cnclip_cpu *cpu, cnclip_isa isa) {
  return has_instructions(cpu, isa) &&
         (isa == CNCLIP_ISA_SERIAL || cnclip_cpu_runs(cpu, sets[isa].extends));
}

bool cnclip_isa_supported(cnclip_isa isa) {
  if ((unsigned)isa >= CNCLIP_ISA_COUNT) return false;
  const cnclip_cpu cpu = read_cpu();
  return cnclip_cpu_runs(&cpu, isa);
}

static cnclip_isa best_supported(void) {
  int isa = CNCLIP_ISA_COUNT - 1;
  while (!cnclip_isa_supported((cnclip_isa)isa)) isa--;
  return (cnclip_isa)isa;
}

static cnclip_status unknown_name(const char *name, cnclip_error *error) {
  char known[128] = "";
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    const size_t length = strlen(known);
    snprintf(known + length, sizeof known - length, "%s%s", isa ? ", " : "", sets[isa].name);
  }
  return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT,
                          "CNCLIP_FORCE_ISA=%.64s: no such instruction set; known: %s", name,
                          known);
}

cnclip_status cnclip_isa_choose(cnclip_isa *ret_isa, cnclip_error *error) {
  const char *forced = getenv("CNCLIP_FORCE_ISA");
  if (forced == NULL || forced[0] == '\0') {
    *ret_isa = best_supported();
    return CNCLIP_OK;
  }
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    if (strcmp(forced, sets[isa].name) != 0) continue;
    if (!cnclip_isa_supported((cnclip_isa)isa)) {
      return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT,
                              "CNCLIP_FORCE_ISA=%s: this processor does not have it", forced);
    }
    *ret_isa = (cnclip_isa)isa;
    return CNCLIP_OK;
  }
  return unknown_name(forced, error);
}
