#include "kernels/linear.h"

#if defined(__x86_64__)

#include "kernels/tile_f32_avx512.h"

#define TILE_STEP_BYTES 64

/* Widened as they are read, which takes units that the multiplication leaves idle. */
static inline __m512i tile_load(const char *panel) {
  return _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)panel)));
}

#define LINEAR_NAME(part) cnclip_linear_##part##_f16_avx512
#include "kernels/linear_avx512.inc.h"

#endif
