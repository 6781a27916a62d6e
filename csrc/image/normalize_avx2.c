#include "image/normalize.h"

#if defined(__x86_64__)

#include <immintrin.h>

/* u / 255 to the same bits, without the slow division: 1 / 255 is high + low, u * high is exact
 * (8 by 9 bits), and what u * low lacks is below 2^-39 of the sum. The binary digits of u / 255
 * repeat every 8 bits, so that it is never that close to the middle between two floats. */
static inline __m256 divide_by_255(__m256i bytes) {
  const __m256 high = _mm256_set1_ps(0x1.01p-8f), low = _mm256_set1_ps(0x1.010102p-24f);
  __m256 u = _mm256_cvtepi32_ps(bytes);
  return _mm256_add_ps(_mm256_mul_ps(u, high), _mm256_mul_ps(u, low));
}

static inline __m256 normalize(__m256i bytes, __m256 mean, __m256 standard_deviation) {
  return _mm256_div_ps(_mm256_sub_ps(divide_by_255(bytes), mean), standard_deviation);
}

void cnclip_normalize_u8_avx2(const cnclip_normalize_constants *constants, const uint8_t *pixels,
                              size_t count, float *planes, size_t plane_stride) {
  const __m256i byte = _mm256_set1_epi32(0xFF);
  __m256 mean[3], standard_deviation[3];
  for (int channel = 0; channel < 3; channel++) {
    mean[channel] = _mm256_set1_ps(constants->mean[channel]);
    standard_deviation[channel] = _mm256_set1_ps(constants->standard_deviation[channel]);
  }
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    __m256i eight = _mm256_loadu_si256((const __m256i *)(pixels + i * 4));
    __m256i red = _mm256_and_si256(eight, byte);
    __m256i green = _mm256_and_si256(_mm256_srli_epi32(eight, 8), byte);
    __m256i blue = _mm256_and_si256(_mm256_srli_epi32(eight, 16), byte);
    float *at = planes + i;
    _mm256_storeu_ps(at, normalize(red, mean[0], standard_deviation[0]));
    _mm256_storeu_ps(at + plane_stride, normalize(green, mean[1], standard_deviation[1]));
    _mm256_storeu_ps(at + 2 * plane_stride, normalize(blue, mean[2], standard_deviation[2]));
  }
  cnclip_normalize_u8_serial(constants, pixels + i * 4, count - i, planes + i, plane_stride);
}

#else
typedef int cnclip_no_avx2_here; /* an empty translation unit is not C */
#endif
