#include "linear.h"

#if defined(__x86_64__)

#include "tile_f32_avx512.h"

#define TILE_STEP_BYTES 128

static inline __m512i tile_load(const char *panel) {
  return _mm512_loadu_si512(panel);
}

#define LINEAR_NAME(part) cnclip_linear_##part##_f32_avx512
#include "linear_avx512.h"

#endif
