/* The product of a few rows of words by one panel of 32 columns, in registers: what linear layers
 * and attention spend their time in.
 *
 * A file that includes this has defined what differs between types:
 *   tile_sum                                     __m512 or __m512i, sixteen sums
 *   tile_sum tile_step(tile_sum, __m512i, __m512i)   sum + words of the row * words of the panel
 *   TILE_STEP_BYTES                              of a panel: one step of all 32 columns
 *   __m512i tile_load(const char *)              words of sixteen columns */
#ifndef CNCLIP_TILE_AVX512_H
#define CNCLIP_TILE_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 28 sums, two columns' words and one row's word: 31 of the 32 registers. */
enum { TILE_ROWS = 14, TILE_COLUMNS = 32 };

#include "kernels/tile_rows.h"

/* Words are floats, or several narrower numbers. */
typedef int32_t __attribute__((may_alias)) tile_word;

/* sums [rows, 32] = (resume: sums +) words [rows, steps] * panel [steps, 32]. `rows` is known when
 * this is compiled. sums_stride: vectors from row to row. */
static inline __attribute__((always_inline)) void tile_multiply(
    const int rows, const tile_word *words, size_t words_stride, const char *panel, size_t steps,
    bool resume, tile_sum *sums, size_t sums_stride) {
  tile_sum sum[TILE_ROWS][2];
#pragma GCC unroll 14
  for (int row = 0; row < rows; row++) {
    sum[row][0] = resume ? sums[row * sums_stride] : (tile_sum){0};
    sum[row][1] = resume ? sums[row * sums_stride + 1] : (tile_sum){0};
  }
  for (size_t step = 0; step < steps; step++, panel += TILE_STEP_BYTES) {
    const __m512i left = tile_load(panel), right = tile_load(panel + TILE_STEP_BYTES / 2);
#pragma GCC unroll 14
    for (int row = 0; row < rows; row++) {
      const __m512i word = _mm512_set1_epi32(words[row * words_stride + step]);
      sum[row][0] = tile_step(sum[row][0], word, left);
      sum[row][1] = tile_step(sum[row][1], word, right);
    }
  }
#pragma GCC unroll 14
  for (int row = 0; row < rows; row++) {
    sums[row * sums_stride] = sum[row][0];
    sums[row * sums_stride + 1] = sum[row][1];
  }
}

/* tile_multiply for 1 to TILE_ROWS rows. */
static inline void tile_multiply_rows(size_t rows, const tile_word *words, size_t words_stride,
                                      const char *panel, size_t steps, bool resume, tile_sum *sums,
                                      size_t sums_stride) {
  switch (rows) {
#define TILE(count)                                                                     \
  case count:                                                                           \
    tile_multiply(count, words, words_stride, panel, steps, resume, sums, sums_stride); \
    break
    TILE(1);
    TILE(2);
    TILE(3);
    TILE(4);
    TILE(5);
    TILE(6);
    TILE(7);
    TILE(8);
    TILE(9);
    TILE(10);
    TILE(11);
    TILE(12);
    TILE(13);
#undef TILE
    default:
      tile_multiply(14, words, words_stride, panel, steps, resume, sums, sums_stride);
  }
}

#endif
