#include "kernels/attention.h"

#if defined(__x86_64__)

#include "kernels/tile_f32_avx512.h"

#define TILE_STEP_BYTES 128

static inline __m512i tile_load(const char *panel) {
  return _mm512_loadu_si512(panel);
}

#define ATTENTION_NAME cnclip_attention_f32_avx512
#include "kernels/attention_avx512.inc.h"

#endif
