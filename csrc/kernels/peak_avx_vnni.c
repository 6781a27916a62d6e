#include "kernels/peak.h"

#if defined(__x86_64__)

#include <immintrin.h>

/* Assembly for the reason in peak_avx512.c. */
void cnclip_peak_int8_avx_vnni(size_t rounds) {
  __m256i sums[CNCLIP_PEAK_ACCUMULATORS] = {0};
  const __m256i ones = _mm256_set1_epi8(1);
  for (size_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
    for (int k = 0; k < CNCLIP_PEAK_ACCUMULATORS; k++) {
      __asm__ volatile("%{vex%} vpdpbusd %1, %1, %0" : "+x"(sums[k]) : "x"(ones));
    }
  }
}

#endif
