#include "kernels/peak.h"

#if defined(__aarch64__)

#include <arm_neon.h>

/* Assembly for the reason in peak_avx512.c. */
void cnclip_peak_fp32_neon(size_t rounds) {
  float32x4_t sums[CNCLIP_PEAK_ACCUMULATORS] = {0};
  const float32x4_t half = vdupq_n_f32(0.5f);
  for (size_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
    for (int k = 0; k < CNCLIP_PEAK_ACCUMULATORS; k++) {
      __asm__ volatile("fmla %0.4s, %1.4s, %1.4s" : "+w"(sums[k]) : "w"(half));
    }
  }
}

#endif
