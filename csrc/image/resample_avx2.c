/* A coefficient has 23 bits and a sign, too many for the 16-bit multiply-add. It is split,
 * k = low + (high << 15), low in 0..32767 and high within a few hundred of zero. A sum may wrap on
 * the way; in the end it is right modulo 2^32, and fits. */
#include "image/resample_groups.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

typedef struct {
  __m256i low, high; /* int16 pairs, in the order of the pixels' */
} taps;

static inline __m256i broadcast128(const void *source) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)source));
}

/* Four coefficients: taps 0 and 1 in pairs in the lower lane, 2 and 3 in the upper. */
static inline taps load_four_taps(const int32_t *coefficients) {
  const __m256i words = _mm256_setr_epi8(0, 1, 4, 5, 0, 1, 4, 5, 0, 1, 4, 5, 0, 1, 4, 5, 8, 9, 12,
                                         13, 8, 9, 12, 13, 8, 9, 12, 13, 8, 9, 12, 13);
  __m256i four = broadcast128(coefficients);
  taps result = {
      .low = _mm256_and_si256(_mm256_shuffle_epi8(four, words), _mm256_set1_epi16(0x7FFF)),
      .high = _mm256_shuffle_epi8(_mm256_srai_epi32(four, 15), words),
  };
  return result;
}

/* Four pixels as 16-bit words, the same channel of taps 0 and 1 (2 and 3) in pairs. */
static inline __m256i load_four_pixels(const uint8_t *pixels) {
  const __m256i pairs = _mm256_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1, 8,
                                         -1, 12, -1, 9, -1, 13, -1, 10, -1, 14, -1, 11, -1, 15, -1);
  return _mm256_shuffle_epi8(broadcast128(pixels), pairs);
}

/* sum + words * k, for each pair of words. */
static inline __m256i add_products(__m256i sum, __m256i words, taps k) {
  __m256i high = _mm256_slli_epi32(_mm256_madd_epi16(words, k.high), 15);
  return _mm256_add_epi32(_mm256_add_epi32(sum, _mm256_madd_epi16(words, k.low)), high);
}

/* Two rows' sums, their lanes added: the first row in the lower lane, the second in the upper. */
static inline __m256i finish_two_rows(__m256i a, __m256i b) {
  const __m256i half = _mm256_set1_epi32(1 << (CNCLIP_RESAMPLE_PRECISION_BITS - 1));
  __m256i sum = _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                                 _mm256_permute2x128_si256(a, b, 0x31));
  return _mm256_srai_epi32(_mm256_add_epi32(sum, half), CNCLIP_RESAMPLE_PRECISION_BITS);
}

static inline void store_pixel(uint8_t *output, int32_t pixel) {
  memcpy(output, &pixel, 4);
}

static inline void store_four(__m256i a, __m256i b, __m256i c, __m256i d,
                              uint8_t *const outputs[ROWS], size_t at) {
  __m256i words = _mm256_packs_epi32(finish_two_rows(a, b), finish_two_rows(c, d));
  __m256i bytes = _mm256_packus_epi16(words, words);
  __m128i ac = _mm256_castsi256_si128(bytes), bd = _mm256_extracti128_si256(bytes, 1);
  store_pixel(outputs[0] + at, _mm_cvtsi128_si32(ac));
  store_pixel(outputs[1] + at, _mm_cvtsi128_si32(bd));
  store_pixel(outputs[2] + at, _mm_extract_epi32(ac, 1));
  store_pixel(outputs[3] + at, _mm_extract_epi32(bd, 1));
}

/* Hints that bytes at this distance are read soon; they may be outside of the image. */
static inline void prefetch(const uint8_t *from, uintptr_t distance) {
  __builtin_prefetch((const void *)((uintptr_t)from + distance));
}

static void horizontal_four(const cnclip_resample_filter *filter, const uint8_t *const inputs[ROWS],
                            uint8_t *const outputs[ROWS]) {
  const uint8_t *in0 = inputs[0], *in1 = inputs[1], *in2 = inputs[2], *in3 = inputs[3];
  const __m256i zero = _mm256_setzero_si256();
  /* From rows of an image to the next four. The processor follows a stream of reads by itself only
   * after its first lines, and the rows are too short for that. */
  const uintptr_t next_rows = ROWS * ((uintptr_t)in1 - (uintptr_t)in0);
  for (int i = 0; i < filter->output_size; i++) {
    const int32_t *coefficients = filter->coefficients + (size_t)i * filter->capacity;
    size_t offset = (size_t)filter->first[i] * 4;
    size_t end = offset + (size_t)filter->count[i] * 4;
    prefetch(in0 + end, next_rows);
    prefetch(in1 + end, next_rows);
    prefetch(in2 + end, next_rows);
    prefetch(in3 + end, next_rows);
    __m256i a = zero, b = zero, c = zero, d = zero;
    for (; offset < end; offset += 16, coefficients += 4) {
      taps k = load_four_taps(coefficients);
      a = add_products(a, load_four_pixels(in0 + offset), k);
      b = add_products(b, load_four_pixels(in1 + offset), k);
      c = add_products(c, load_four_pixels(in2 + offset), k);
      d = add_products(d, load_four_pixels(in3 + offset), k);
    }
    store_four(a, b, c, d, outputs, (size_t)i * 4);
  }
}

void cnclip_resample_horizontal_u8_avx2(const cnclip_resample_filter *filter,
                                        const uint8_t *const *inputs, uint8_t *const *outputs,
                                        int rows) {
  resample_in_groups(filter, inputs, outputs, rows, horizontal_four);
}

/* Two coefficients in pairs, in all lanes. */
static inline taps load_two_taps(const int32_t *coefficients) {
  const __m256i words = _mm256_set1_epi32(0x05040100);
  int64_t bits;
  memcpy(&bits, coefficients, sizeof bits);
  __m256i two = _mm256_set1_epi64x(bits);
  taps result = {
      .low = _mm256_and_si256(_mm256_shuffle_epi8(two, words), _mm256_set1_epi16(0x7FFF)),
      .high = _mm256_shuffle_epi8(_mm256_srai_epi32(two, 15), words),
  };
  return result;
}

static inline __m256i finish(__m256i sum) {
  return _mm256_srai_epi32(sum, CNCLIP_RESAMPLE_PRECISION_BITS);
}

/* 32 output bytes, those at `at`. With an odd count the last row is paired with itself: the
 * coefficient after the window is zero. */
static inline void vertical_block(const int32_t *coefficients, size_t count,
                                  const uint8_t *const *rows, size_t at, uint8_t *output) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i half = _mm256_set1_epi32(1 << (CNCLIP_RESAMPLE_PRECISION_BITS - 1));
  __m256i s0 = half, s1 = half, s2 = half, s3 = half;
  for (size_t j = 0; j < count; j += 2) {
    const uint8_t *next = rows[j + 1 < count ? j + 1 : j];
    taps k = load_two_taps(coefficients + j);
    __m256i a = _mm256_loadu_si256((const __m256i *)(rows[j] + at));
    __m256i b = _mm256_loadu_si256((const __m256i *)(next + at));
    __m256i lower = _mm256_unpacklo_epi8(a, b), upper = _mm256_unpackhi_epi8(a, b);
    s0 = add_products(s0, _mm256_unpacklo_epi8(lower, zero), k);
    s1 = add_products(s1, _mm256_unpackhi_epi8(lower, zero), k);
    s2 = add_products(s2, _mm256_unpacklo_epi8(upper, zero), k);
    s3 = add_products(s3, _mm256_unpackhi_epi8(upper, zero), k);
  }
  __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(finish(s0), finish(s1)),
                                      _mm256_packs_epi32(finish(s2), finish(s3)));
  _mm256_storeu_si256((__m256i *)(output + at), bytes);
}

void cnclip_resample_vertical_u8_avx2(const cnclip_resample_filter *filter, int position,
                                      const uint8_t *const *rows, size_t bytes, uint8_t *output) {
  const int32_t *coefficients = filter->coefficients + (size_t)position * filter->capacity;
  size_t count = (size_t)filter->count[position];
  if (bytes < 32) {
    cnclip_resample_vertical_u8_serial(filter, position, rows, bytes, output);
    return;
  }
  for (size_t at = 0; at + 32 <= bytes; at += 32) {
    vertical_block(coefficients, count, rows, at, output);
  }
  /* The rest, with some bytes done twice. */
  if (bytes % 32 != 0) vertical_block(coefficients, count, rows, bytes - 32, output);
}

void cnclip_resample_widen_u8_avx2(const uint8_t *input, size_t count, uint8_t *output) {
  const __m128i spread = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
  size_t i = 0;
  for (; i + 6 <= count; i += 4) { /* reads 16 bytes: 4 pixels, and 4 bytes of the next two */
    __m128i pixels = _mm_loadu_si128((const __m128i *)(input + i * 3));
    _mm_storeu_si128((__m128i *)(output + i * 4), _mm_shuffle_epi8(pixels, spread));
  }
  cnclip_resample_widen_u8_serial(input + i * 3, count - i, output + i * 4);
}

#else
typedef int cnclip_no_avx2_here; /* an empty translation unit is not C */
#endif
