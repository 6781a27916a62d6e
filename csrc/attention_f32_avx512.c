#include "attention.h"

#if defined(__x86_64__)

#include "tile_f32_avx512.h"

#define TILE_STEP_BYTES 128

static inline __m512i tile_load(const char *panel) {
  return _mm512_loadu_si512(panel);
}

#define ATTENTION_NAME cnclip_attention_f32_avx512
#include "attention_avx512.h"

#endif
