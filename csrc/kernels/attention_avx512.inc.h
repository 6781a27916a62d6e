/* The kernel of attention.h for AVX-512. A file that includes this has defined the macros that
 * tile_avx512.h needs, ATTENTION_NAME, and ATTENTION_IS_BF16 if that is its type. */
#include <math.h>

#include "kernels/attention_layout.h"
#include "kernels/math_avx512.h"
#include "kernels/tile_avx512.h"

_Static_assert((int)ATTENTION_TILE_ROWS == (int)TILE_ROWS, "scores of one tile");

#if defined(ATTENTION_IS_BF16)
enum { PER_WORD = 2 };
typedef uint16_t element;
#else
enum { PER_WORD = 1 };
typedef float element;
#endif

typedef tile_word panel_word;

#include "kernels/attention_unit.h"

/* --- Panels -------------------------------------------------------------------------------------
 */

/* Sixteen rows of sixteen words become sixteen columns. */
static inline void transpose(__m512i rows[16]) {
  __m512i pairs[16], quads[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int k = 0; k < 2; k++) {
      quads[i + 2 * k] = _mm512_unpacklo_epi64(pairs[i + k], pairs[i + k + 2]);
      quads[i + 2 * k + 1] = _mm512_unpackhi_epi64(pairs[i + k], pairs[i + k + 2]);
    }
  }
  /* quads[4 a + b]: rows 4 a to 4 a + 3 of the columns b, b + 4, b + 8, b + 12, a quarter each. */
  for (int b = 0; b < 4; b++) {
    const __m512i low01 = _mm512_shuffle_i32x4(quads[b], quads[4 + b], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(quads[b], quads[4 + b], 0xEE);
    const __m512i low23 = _mm512_shuffle_i32x4(quads[8 + b], quads[12 + b], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(quads[8 + b], quads[12 + b], 0xEE);
    rows[b] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    rows[b + 4] = _mm512_shuffle_i32x4(low01, low23, 0xDD);
    rows[b + 8] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    rows[b + 12] = _mm512_shuffle_i32x4(high01, high23, 0xDD);
  }
}

/* Keys side by side; columns without a key are 0. */
static void pack_keys(const attention_unit *unit, size_t key_stride) {
  const size_t steps = unit->width / PER_WORD, stride = key_stride / PER_WORD;
  const tile_word *keys = (const tile_word *)unit->key;
  for (size_t first = 0; first < attention_panels(unit->keys) * ATTENTION_PANEL; first += 16) {
    tile_word *panel = unit->key_panels + first / ATTENTION_PANEL * ATTENTION_PANEL * steps +
                       first % ATTENTION_PANEL;
    for (size_t step = 0; step < steps; step += 16) {
      const __mmask16 lanes = first_lanes(steps - step);
      __m512i rows[16];
      for (size_t i = 0; i < 16; i++) {
        rows[i] = first + i < unit->keys
                      ? _mm512_maskz_loadu_epi32(lanes, keys + (first + i) * stride + step)
                      : _mm512_setzero_si512();
      }
      transpose(rows);
      for (size_t i = 0; i < 16 && step + i < steps; i++) {
        _mm512_store_si512(panel + (step + i) * ATTENTION_PANEL, rows[i]);
      }
    }
  }
}

/* Sixteen columns of one step of the values: of bfloat16, two keys' in pairs. */
static inline __m512i load_values(const attention_unit *unit, size_t stride, size_t step,
                                  size_t column) {
  const element *value = unit->value + step * PER_WORD * stride + column;
#if defined(ATTENTION_IS_BF16)
  const __m512i even = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)value));
  if (2 * step + 1 == unit->keys) return even;
  const __m256i odd = _mm256_loadu_si256((const __m256i *)(value + stride));
  return _mm512_or_si512(even, _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
#else
  return _mm512_loadu_si512(value);
#endif
}

static void pack_values(const attention_unit *unit, size_t stride, size_t steps) {
  tile_word *to = unit->value_panels;
  for (size_t column = 0; column < unit->width; column += ATTENTION_PANEL) {
    const bool whole = column + 16 < unit->width;
    for (size_t step = 0; step < steps; step++, to += ATTENTION_PANEL) {
      _mm512_store_si512(to, load_values(unit, stride, step, column));
      _mm512_store_si512(
          to + 16, whole ? load_values(unit, stride, step, column + 16) : _mm512_setzero_si512());
    }
  }
}

/* --- Queries ------------------------------------------------------------------------------------
 */

#if defined(ATTENTION_IS_BF16)
static inline __m512 power(__m512 x) {
  return rough_power_of_two(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)));
}
#else
static inline __m512 power(__m512 x) {
  return exponential(x);
}
#endif

/* One query's scores become weights, e^(scale (score - greatest)), in place; returns their sum.
 * Weights without a key are 0. */
static float weigh(const attention_unit *unit, float *scores, float scale) {
  const size_t keys = unit->keys, end = attention_panels(keys) * ATTENTION_PANEL;
  __m512 greatest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
  for (size_t i = 0; i < keys; i += 16) {
    const __m512 score = _mm512_load_ps(scores + i);
    greatest = _mm512_mask_max_ps(greatest, first_lanes(keys - i), greatest, score);
  }
  const __m512 offset = _mm512_set1_ps(_mm512_reduce_max_ps(greatest));
  const __m512 factor = _mm512_set1_ps(scale);
  for (size_t i = 0; i < end; i += 16) {
    const __mmask16 lanes = i < keys ? first_lanes(keys - i) : 0;
    const __m512 distance = _mm512_sub_ps(_mm512_load_ps(scores + i), offset);
    const __m512 weight = _mm512_maskz_mov_ps(lanes, power(_mm512_mul_ps(distance, factor)));
    sum = _mm512_add_ps(sum, weight);
#if defined(ATTENTION_IS_BF16)
    /* Half as wide as the scores, which it therefore never overtakes. */
    _mm256_store_si256((__m256i *)((uint16_t *)scores + i), to_bf16(weight));
#else
    _mm512_store_ps(scores + i, weight);
#endif
  }
  return _mm512_reduce_add_ps(sum);
}

static inline void store_output(element *to, __m512 x) {
#if defined(ATTENTION_IS_BF16)
  _mm256_storeu_si256((__m256i *)to, to_bf16(x));
#else
  _mm512_storeu_ps(to, x);
#endif
}

/* Queries first..last of a unit, at most TILE_ROWS. */
static void attend(const cnclip_attention_job *job, const attention_unit *unit, size_t first,
                   size_t last) {
  const size_t rows = last - first, score_vectors = unit->score_stride / 16;
  const size_t steps = unit->width / PER_WORD, stride = job->query_stride / PER_WORD;
  const tile_word *queries = (const tile_word *)unit->query + first * stride;
  for (size_t panel = 0; panel < attention_panels(unit->keys); panel++) {
    tile_multiply_rows(rows, queries, stride,
                       (const char *)(unit->key_panels + panel * steps * ATTENTION_PANEL), steps,
                       false, (tile_sum *)(unit->scores + panel * ATTENTION_PANEL), score_vectors);
  }
  float inverses[TILE_ROWS];
  for (size_t row = 0; row < rows; row++) {
    const float scale = 1 / sqrtf((float)unit->width);
    inverses[row] = 1 / weigh(unit, unit->scores + row * unit->score_stride, scale);
  }
  const size_t value_steps = attention_value_steps(job, unit->keys);
  for (size_t column = 0; column < unit->width; column += ATTENTION_PANEL) {
    tile_sum sums[TILE_ROWS * 2];
    tile_multiply_rows(rows, (const tile_word *)unit->scores, unit->score_stride,
                       (const char *)(unit->value_panels + column * value_steps), value_steps,
                       false, sums, 2);
    for (size_t row = 0; row < rows; row++) {
      element *to = unit->output + (first + row) * job->output_stride + column;
      const __m512 inverse = _mm512_set1_ps(inverses[row]);
      store_output(to, _mm512_mul_ps(sums[2 * row], inverse));
      if (column + 16 < unit->width) {
        store_output(to + 16, _mm512_mul_ps(sums[2 * row + 1], inverse));
      }
    }
  }
}

void ATTENTION_NAME(const cnclip_attention_job *job, size_t first, size_t last, void *scratch) {
  for (size_t i = first; i < last; i++) {
    const attention_unit unit = open_unit(job, i, scratch);
    pack_keys(&unit, job->key_stride);
    pack_values(&unit, job->value_stride, attention_value_steps(job, unit.keys));
    for (size_t tile = 0; tile < tile_count(unit.queries); tile++) {
      attend(job, &unit, tile_first_row(unit.queries, tile),
             tile_first_row(unit.queries, tile + 1));
    }
  }
}
