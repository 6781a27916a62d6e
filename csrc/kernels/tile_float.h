/* The product of a few rows of words by one strip of TILE_COLUMNS columns, in registers: what
 * linear layers and attention spend their time in. For files that have included one of
 * vector_<isa>.h. Words and sums are floats, unless one of dot_int8_<isa>.h was included as well.
 */
#ifndef CNCLIP_TILE_FLOAT_H
#define CNCLIP_TILE_FLOAT_H

#include <stdbool.h>

/* Twelve sums, two vectors of the strip and one of a row's number: 15 of the 16 registers that x86
 * has. */
enum { TILE_ROWS = 6, TILE_COLUMNS = 2 * VECTOR_LANES };

#include "kernels/tile_rows.h"

#ifndef TILE_STEP /* (a row's word, columns' words, their sums): new sums */
#define TILE_STEP vector_multiply_add
#endif

/* 32 bits: a float, or several narrower numbers. */
typedef float __attribute__((may_alias)) tile_word;

/* What a tile multiplies. Strides count words. */
typedef struct {
  const tile_word *x; /* [rows, steps] */
  size_t x_stride;
  const tile_word *strip; /* [steps, TILE_COLUMNS] */
  size_t steps;
  const char *next; /* what the next tile or strip reads, next_bytes for each step: fetched into
                       the cache while this one is multiplied */
  size_t next_bytes;
} tile_factors;

/* sums [rows, TILE_COLUMNS] = (resume: sums +) x * strip. `rows` is known when this is compiled.
 * Each sum adds its products one by one in their order, so that a row's result does not depend on
 * the rows next to it. */
static inline __attribute__((always_inline)) void tile_multiply(const int rows,
                                                                const tile_factors *factors,
                                                                bool resume, float *sums,
                                                                size_t sums_stride) {
  const tile_word *x = factors->x, *strip = factors->strip;
  const char *next = factors->next;
  const size_t x_stride = factors->x_stride, next_bytes = factors->next_bytes;
  vector sum[TILE_ROWS][2];
#pragma GCC unroll 6
  for (int row = 0; row < rows; row++) {
    const float *from = sums + row * sums_stride;
    sum[row][0] = resume ? vector_load(from) : vector_of(0);
    sum[row][1] = resume ? vector_load(from + VECTOR_LANES) : vector_of(0);
  }
  for (size_t left = factors->steps; left > 0; left--, x++) {
    const vector first = vector_load(strip), second = vector_load(strip + VECTOR_LANES);
    __builtin_prefetch(next);
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
      const vector word = vector_of(x[row * x_stride]);
      sum[row][0] = TILE_STEP(word, first, sum[row][0]);
      sum[row][1] = TILE_STEP(word, second, sum[row][1]);
    }
    strip += TILE_COLUMNS;
    next += next_bytes;
  }
#pragma GCC unroll 6
  for (int row = 0; row < rows; row++) {
    vector_store(sums + row * sums_stride, sum[row][0]);
    vector_store(sums + row * sums_stride + VECTOR_LANES, sum[row][1]);
  }
}

/* tile_multiply for 1 to TILE_ROWS rows. */
static inline void tile_multiply_rows(size_t rows, const tile_factors *factors, bool resume,
                                      float *sums, size_t sums_stride) {
  switch (rows) {
#define TILE(count)                                           \
  case count:                                                 \
    tile_multiply(count, factors, resume, sums, sums_stride); \
    break
    TILE(1);
    TILE(2);
    TILE(3);
    TILE(4);
    TILE(5);
#undef TILE
    default:
      tile_multiply(6, factors, resume, sums, sums_stride);
  }
}

#endif
