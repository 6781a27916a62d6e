/* The definitions that tile_avx512.h needs, for words of two bfloat16. */
#ifndef CNCLIP_TILE_BF16_AVX512_BF16_H
#define CNCLIP_TILE_BF16_AVX512_BF16_H

#include <immintrin.h>

typedef __m512 tile_sum;

/* Assembly, not the intrinsic: with that, gcc 12 keeps the sums in memory. */
static inline tile_sum tile_step(tile_sum sum, __m512i row, __m512i panel) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(panel), "v"(row));
  return sum;
}

#define TILE_STEP_BYTES 128

static inline __m512i tile_load(const char *panel) {
  return _mm512_loadu_si512(panel);
}

#endif
