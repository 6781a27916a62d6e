#include "kernels/peak.h"

#if defined(__aarch64__)

#include <arm_neon.h>

/* As in dot_bf16_neon_bf16.h. */
void cnclip_peak_bf16_neon_bf16(size_t rounds) {
  float32x4_t sums[CNCLIP_PEAK_ACCUMULATORS] = {0};
  const uint16x8_t half = vdupq_n_u16(0x3F00);
  for (size_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
    for (int k = 0; k < CNCLIP_PEAK_ACCUMULATORS; k++) {
      __asm__ volatile("bfdot %0.4s, %1.8h, %1.8h" : "+w"(sums[k]) : "w"(half));
    }
  }
}

#endif
