/* The definitions that tile_avx512.h needs, for float32 words. */
#ifndef CNCLIP_TILE_F32_AVX512_H
#define CNCLIP_TILE_F32_AVX512_H

#include <immintrin.h>

typedef __m512 tile_sum;

static inline tile_sum tile_step(tile_sum sum, __m512i row, __m512i panel) {
  return _mm512_fmadd_ps(_mm512_castsi512_ps(row), _mm512_castsi512_ps(panel), sum);
}

#endif
