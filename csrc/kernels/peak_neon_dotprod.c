#include "kernels/peak.h"

#if defined(__aarch64__)

#include <arm_neon.h>

/* As in dot_int8_neon_dotprod.h. */
void cnclip_peak_int8_neon_dotprod(size_t rounds) {
  int32x4_t sums[CNCLIP_PEAK_ACCUMULATORS] = {0};
  const int32x4_t ones = vdupq_n_s32(1);
  for (size_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
    for (int k = 0; k < CNCLIP_PEAK_ACCUMULATORS; k++) {
      __asm__ volatile("sdot %0.4s, %1.16b, %1.16b" : "+w"(sums[k]) : "w"(ones));
    }
  }
}

#endif
