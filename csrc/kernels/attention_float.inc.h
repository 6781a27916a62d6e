/* The kernel of attention.h for float32, and for BF16 without AVX-512. A file that includes this
 * has included one of vector_<isa>.h, and defined ATTENTION_NAME, and ATTENTION_IS_BF16 after one
 * of dot_bf16_<isa>.h if that is its type.
 *
 * Panels of keys are stored as strips of TILE_COLUMNS columns, [strips of keys, width in words,
 * TILE_COLUMNS], and those of values as [strips of columns, steps of keys, TILE_COLUMNS]: as
 * linear_float.inc.h's weights. */
#include <math.h>

#include "kernels/attention_layout.h"
#include "kernels/math_float.h"
#include "kernels/tile_float.h"

_Static_assert((int)ATTENTION_TILE_ROWS >= (int)TILE_ROWS, "scores of one tile");
_Static_assert(ATTENTION_PANEL % TILE_COLUMNS == 0, "strips of whole panels");

#if defined(ATTENTION_IS_BF16)
enum { PER_WORD = 2 }; /* elements */
typedef uint16_t element;
#else
enum { PER_WORD = 1 };
typedef float element;
#endif

typedef tile_word panel_word;

#include "kernels/attention_unit.h"

/* Keys side by side; columns without a key are 0. */
static void pack_keys(const attention_unit *unit, size_t key_stride) {
  const size_t steps = unit->width / PER_WORD, stride = key_stride / PER_WORD;
  const tile_word *keys = (const tile_word *)unit->key;
  for (size_t first = 0; first < unit->keys; first += TILE_COLUMNS) {
    for (size_t half = 0; half < TILE_COLUMNS; half += VECTOR_LANES) {
      tile_word *to = unit->key_panels + first * steps + half;
      for (size_t step = 0; step < steps; step += VECTOR_LANES) {
        vector rows[VECTOR_LANES];
        for (size_t i = 0; i < VECTOR_LANES; i++) {
          const size_t key = first + half + i;
          rows[i] = key < unit->keys ? vector_load(keys + key * stride + step) : vector_of(0);
        }
        vector_transpose(rows);
        for (size_t i = 0; i < VECTOR_LANES; i++, to += TILE_COLUMNS) vector_store(to, rows[i]);
      }
    }
  }
}

/* One step of eight columns; `keys` keys are left. Of bfloat16, the values of two keys in pairs. */
static inline vector load_values(const element *value, size_t stride, size_t keys) {
#if defined(ATTENTION_IS_BF16)
  static const element none[VECTOR_LANES] = {0};
  return vector_join_words(value, keys > 1 ? value + stride : none);
#else
  (void)stride, (void)keys;
  return vector_load(value);
#endif
}

static void pack_values(const attention_unit *unit, size_t stride) {
  tile_word *to = unit->value_panels;
  for (size_t column = 0; column < unit->width; column += TILE_COLUMNS) {
    for (size_t key = 0; key < unit->keys; key += PER_WORD, to += TILE_COLUMNS) {
      const element *from = unit->value + key * stride + column;
      vector_store(to, load_values(from, stride, unit->keys - key));
      vector_store(to + VECTOR_LANES, load_values(from + VECTOR_LANES, stride, unit->keys - key));
    }
  }
}

/* One query's scores become weights, e^(scale (score - greatest)), in place; returns their sum. */
static float weigh(size_t keys, float *scores, float scale) {
  vector greatest = vector_of(-INFINITY), sum = vector_of(0);
  vector_store(scores + keys, greatest); /* the rest of the last vector has weights of 0 */
  for (size_t i = 0; i < keys; i += VECTOR_LANES) {
    greatest = vector_max(greatest, vector_load(scores + i));
  }
  const vector offset = vector_of(vector_largest(greatest)), factor = vector_of(scale);
  for (size_t i = 0; i < keys; i += VECTOR_LANES) {
    const vector distance = vector_subtract(vector_load(scores + i), offset);
    const vector weight = exponential(vector_multiply(distance, factor));
    sum = vector_add(sum, weight);
#if defined(ATTENTION_IS_BF16)
    /* Half as wide as the scores, which it therefore never overtakes. */
    vector_store_first_bf16((uint16_t *)scores + i, weight, VECTOR_LANES);
#else
    vector_store(scores + i, weight);
#endif
  }
  return vector_sum(sum);
}

/* The next strip follows this one. */
static inline tile_factors open_factors(const tile_word *x, size_t x_stride, const tile_word *strip,
                                        size_t steps) {
  return (tile_factors){x,
                        x_stride,
                        strip,
                        steps,
                        (const char *)(strip + steps * TILE_COLUMNS),
                        TILE_COLUMNS * sizeof *strip};
}

static inline void store_output(element *to, vector x) {
#if defined(ATTENTION_IS_BF16)
  vector_store_first_bf16(to, x, VECTOR_LANES);
#else
  vector_store(to, x);
#endif
}

/* Queries first..last of a unit, at most TILE_ROWS. */
static void attend(const cnclip_attention_job *job, const attention_unit *unit, size_t first,
                   size_t last) {
  const size_t rows = last - first, query_stride = job->query_stride / PER_WORD;
  const size_t key_steps = unit->width / PER_WORD;
  const size_t value_steps = attention_value_steps(job, unit->keys);
  const tile_word *queries = (const tile_word *)unit->query + first * query_stride;
  const float scale = 1 / sqrtf((float)unit->width);
  for (size_t key = 0; key < unit->keys; key += TILE_COLUMNS) {
    const tile_factors factors =
        open_factors(queries, query_stride, unit->key_panels + key * key_steps, key_steps);
    tile_multiply_rows(rows, &factors, false, unit->scores + key, unit->score_stride);
  }
  float inverses[TILE_ROWS];
  for (size_t row = 0; row < rows; row++) {
    inverses[row] = 1 / weigh(unit->keys, unit->scores + row * unit->score_stride, scale);
  }
  for (size_t column = 0; column < unit->width; column += TILE_COLUMNS) {
    float sums[TILE_ROWS * TILE_COLUMNS];
    const tile_factors factors = open_factors(
        unit->scores, unit->score_stride, unit->value_panels + column * value_steps, value_steps);
    tile_multiply_rows(rows, &factors, false, sums, TILE_COLUMNS);
    for (size_t row = 0; row < rows; row++) {
      element *to = unit->output + (first + row) * job->output_stride + column;
      for (size_t i = 0; i < TILE_COLUMNS; i += VECTOR_LANES) {
        const vector mixed = vector_load(sums + row * TILE_COLUMNS + i);
        store_output(to + i, vector_multiply(mixed, vector_of(inverses[row])));
      }
    }
  }
}

/* Fetches a part of the rows that a unit reads into the cache. Its columns are a small part of each
 * row, which the processor does not foresee. */
static void fetch_rows(const cnclip_attention_job *job, const attention_unit *unit, size_t part,
                       size_t parts) {
  enum { LINE = 64 / sizeof(element) };
  for (size_t row = unit->keys * part / parts; row < unit->keys * (part + 1) / parts; row++) {
    for (size_t i = 0; i < unit->width; i += LINE) {
      __builtin_prefetch(unit->key + row * job->key_stride + i);
      __builtin_prefetch(unit->value + row * job->value_stride + i);
    }
  }
  for (size_t row = unit->queries * part / parts; row < unit->queries * (part + 1) / parts; row++) {
    for (size_t i = 0; i < unit->width; i += LINE) {
      __builtin_prefetch(unit->query + row * job->query_stride + i);
    }
  }
}

void ATTENTION_NAME(const cnclip_attention_job *job, size_t first, size_t last, void *scratch) {
  for (size_t i = first; i < last; i++) {
    const attention_unit unit = open_unit(job, i, scratch);
    const attention_unit next = open_unit(job, i + 1 < last ? i + 1 : i, scratch);
    pack_keys(&unit, job->key_stride);
    pack_values(&unit, job->value_stride);
    const size_t tiles = tile_count(unit.queries);
    for (size_t tile = 0; tile < tiles; tile++) {
      attend(job, &unit, tile_first_row(unit.queries, tile),
             tile_first_row(unit.queries, tile + 1));
      fetch_rows(job, &next, tile, tiles);
    }
  }
}
