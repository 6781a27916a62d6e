#include "kernels/peak.h"

#if defined(__x86_64__)

#include <immintrin.h>

/* Assembly for the reason in peak_avx512.c. */
void cnclip_peak_fp32_avx2(size_t rounds) {
  __m256 sums[CNCLIP_PEAK_ACCUMULATORS] = {0};
  const __m256 half = _mm256_set1_ps(0.5f);
  for (size_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
    for (int k = 0; k < CNCLIP_PEAK_ACCUMULATORS; k++) {
      __asm__ volatile("vfmadd231ps %1, %1, %0" : "+x"(sums[k]) : "x"(half));
    }
  }
}

/* As in dot_int8_avx2.h, which needs two instructions. */
void cnclip_peak_int8_avx2(size_t rounds) {
  __m256i sums[CNCLIP_PEAK_ACCUMULATORS] = {0}, products;
  const __m256i ones = _mm256_set1_epi16(1);
  for (size_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
    for (int k = 0; k < CNCLIP_PEAK_ACCUMULATORS; k++) {
      __asm__ volatile("vpmaddwd %2, %2, %1\n\tvpaddd %1, %0, %0"
                       : "+x"(sums[k]), "=&x"(products)
                       : "x"(ones));
    }
  }
}

#endif
