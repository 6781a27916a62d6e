#include "kernels/linear.h"

#if defined(__x86_64__)

#include "kernels/tile_f32_avx512.h"

#define TILE_STEP_BYTES 128

static inline __m512i tile_load(const char *panel) {
  return _mm512_loadu_si512(panel);
}

#define LINEAR_NAME(part) cnclip_linear_##part##_f32_avx512
#include "kernels/linear_avx512.inc.h"

#endif
