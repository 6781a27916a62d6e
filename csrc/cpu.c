#include "cpu.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>

/* The XMM and YMM bits of XCR0: the operating system saves these registers on a context switch. */
static int os_saves_ymm(void) {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 0;
  const unsigned osxsave = 1u << 27;
  if ((ecx & osxsave) == 0) return 0;
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & 0x6) == 0x6;
}

static int has_avx2(void) {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return 0;
  return (ebx & (1u << 5)) != 0 && os_saves_ymm();
}
#else
static int has_avx2(void) {
  return 0;
}
#endif

static const char *const names[CNCLIP_ISA_COUNT] = {
    [CNCLIP_ISA_SERIAL] = "serial",
    [CNCLIP_ISA_AVX2] = "avx2",
};

const char *cnclip_isa_name(cnclip_isa isa) {
  return names[isa];
}

int cnclip_isa_supported(cnclip_isa isa) {
  switch (isa) {
    case CNCLIP_ISA_SERIAL:
      return 1;
    case CNCLIP_ISA_AVX2:
      return has_avx2();
    default:
      return 0;
  }
}

cnclip_status cnclip_isa_choose(cnclip_isa *ret_isa, cnclip_error *error) {
  const char *forced = getenv("CNCLIP_FORCE_ISA");
  if (forced == NULL || forced[0] == '\0') {
    int isa = CNCLIP_ISA_COUNT - 1;
    while (!cnclip_isa_supported((cnclip_isa)isa)) isa--;
    *ret_isa = (cnclip_isa)isa;
    return CNCLIP_OK;
  }
  for (int isa = 0; isa < CNCLIP_ISA_COUNT; isa++) {
    if (strcmp(forced, names[isa]) != 0) continue;
    if (!cnclip_isa_supported((cnclip_isa)isa)) {
      return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT,
                              "CNCLIP_FORCE_ISA=%s: this processor does not have it", forced);
    }
    *ret_isa = (cnclip_isa)isa;
    return CNCLIP_OK;
  }
  return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT,
                          "CNCLIP_FORCE_ISA=%.64s: no such instruction set; known: serial, avx2",
                          forced);
}
