#include "kernels/linear.h"

#if defined(__x86_64__)

#include <immintrin.h>

typedef __m512i tile_sum;

/* Assembly, not the intrinsic: with that, gcc 12 keeps the sums in memory. */
static inline tile_sum tile_step(tile_sum sum, __m512i row, __m512i panel) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(panel));
  return sum;
}

#define TILE_STEP_BYTES 128

static inline __m512i tile_load(const char *panel) {
  return _mm512_loadu_si512(panel);
}

#define LINEAR_IS_INT8
#define LINEAR_NAME(part) cnclip_linear_##part##_int8_avx512_vnni
#include "kernels/linear_avx512.inc.h"

#endif
