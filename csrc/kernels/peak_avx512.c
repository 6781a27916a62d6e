#include "kernels/peak.h"

#if defined(__x86_64__)

#include <immintrin.h>

/* Assembly, not intrinsics: gcc 12 spills an array of accumulators of vdpbf16ps and vpdpbusd, and
 * the volatile statements may neither be merged nor left out. Only the assembler needs to support
 * the instructions; peak.c checks that the processor does. */
#define DEFINE_KERNEL(name, instruction, pattern)                                   \
  void name(size_t rounds) {                                                        \
    __m512i sums[CNCLIP_PEAK_ACCUMULATORS] = {0};                                   \
    const __m512i factor = _mm512_set1_epi32(pattern);                              \
    for (size_t i = 0; i < rounds; i++) {                                           \
      _Pragma("GCC unroll 12") for (int k = 0; k < CNCLIP_PEAK_ACCUMULATORS; k++) { \
        __asm__ volatile(instruction " %1, %1, %0" : "+v"(sums[k]) : "v"(factor));  \
      }                                                                             \
    }                                                                               \
  }

/* Factors of 0.5, 0.5 and 1: no product is denormal, which some processors compute slowly. */
DEFINE_KERNEL(cnclip_peak_fp32_avx512, "vfmadd231ps", 0x3f000000)
DEFINE_KERNEL(cnclip_peak_bf16_avx512, "vdpbf16ps", 0x3f003f00)
DEFINE_KERNEL(cnclip_peak_int8_avx512, "vpdpbusd", 0x01010101)

#endif
