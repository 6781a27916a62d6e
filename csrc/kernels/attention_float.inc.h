/* The kernel of attention.h for float32. A file that includes this has included one of
 * vector_<isa>.h, and defined ATTENTION_NAME.
 *
 * Panels of keys are stored as strips of TILE_COLUMNS columns, [strips of keys, width,
 * TILE_COLUMNS], and those of values as [strips of columns, keys, TILE_COLUMNS]: as
 * linear_float.inc.h's weights. */
#include <math.h>

#include "kernels/attention_layout.h"
#include "kernels/math_float.h"
#include "kernels/tile_float.h"

_Static_assert((int)ATTENTION_TILE_ROWS >= (int)TILE_ROWS, "scores of one tile");
_Static_assert(ATTENTION_PANEL % TILE_COLUMNS == 0, "strips of whole panels");

typedef float element, panel_word;

#include "kernels/attention_unit.h"

/* Keys side by side; columns without a key are 0. */
static void pack_keys(const attention_unit *unit, size_t stride) {
  for (size_t first = 0; first < unit->keys; first += TILE_COLUMNS) {
    for (size_t half = 0; half < TILE_COLUMNS; half += VECTOR_LANES) {
      float *to = unit->key_panels + first * unit->width + half;
      for (size_t step = 0; step < unit->width; step += VECTOR_LANES) {
        vector rows[VECTOR_LANES];
        for (size_t i = 0; i < VECTOR_LANES; i++) {
          const size_t key = first + half + i;
          rows[i] = key < unit->keys ? vector_load(unit->key + key * stride + step) : vector_of(0);
        }
        vector_transpose(rows);
        for (size_t i = 0; i < VECTOR_LANES; i++, to += TILE_COLUMNS) vector_store(to, rows[i]);
      }
    }
  }
}

static void pack_values(const attention_unit *unit, size_t stride) {
  float *to = unit->value_panels;
  for (size_t column = 0; column < unit->width; column += TILE_COLUMNS) {
    const float *from = unit->value + column;
    for (size_t key = 0; key < unit->keys; key++, from += stride, to += TILE_COLUMNS) {
      vector_store(to, vector_load(from));
      vector_store(to + VECTOR_LANES, vector_load(from + VECTOR_LANES));
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
    vector_store(scores + i, weight);
  }
  return vector_sum(sum);
}

/* The next strip follows this one. */
static inline tile_factors open_factors(const float *x, size_t x_stride, const float *strip,
                                        size_t steps) {
  return (tile_factors){x,
                        x_stride,
                        strip,
                        steps,
                        (const char *)(strip + steps * TILE_COLUMNS),
                        TILE_COLUMNS * sizeof *strip};
}

/* Queries first..last of a unit, at most TILE_ROWS. */
static void attend(const cnclip_attention_job *job, const attention_unit *unit, size_t first,
                   size_t last) {
  const size_t rows = last - first;
  const float scale = 1 / sqrtf((float)unit->width);
  for (size_t key = 0; key < unit->keys; key += TILE_COLUMNS) {
    const tile_factors factors =
        open_factors(unit->query + first * job->query_stride, job->query_stride,
                     unit->key_panels + key * unit->width, unit->width);
    tile_multiply_rows(rows, &factors, false, unit->scores + key, unit->score_stride);
  }
  float inverses[TILE_ROWS];
  for (size_t row = 0; row < rows; row++) {
    inverses[row] = 1 / weigh(unit->keys, unit->scores + row * unit->score_stride, scale);
  }
  for (size_t column = 0; column < unit->width; column += TILE_COLUMNS) {
    float sums[TILE_ROWS * TILE_COLUMNS];
    const tile_factors factors = open_factors(unit->scores, unit->score_stride,
                                              unit->value_panels + column * unit->keys, unit->keys);
    tile_multiply_rows(rows, &factors, false, sums, TILE_COLUMNS);
    for (size_t row = 0; row < rows; row++) {
      float *to = unit->output + (first + row) * job->output_stride + column;
      for (size_t i = 0; i < TILE_COLUMNS; i += VECTOR_LANES) {
        const vector mixed = vector_load(sums + row * TILE_COLUMNS + i);
        vector_store(to + i, vector_multiply(mixed, vector_of(inverses[row])));
      }
    }
  }
}

/* Fetches a part of the rows that a unit reads into the cache. Its columns are a small part of each
 * row, which the processor does not foresee. */
static void fetch_rows(const cnclip_attention_job *job, const attention_unit *unit, size_t part,
                       size_t parts) {
  enum { LINE = 64 / sizeof(float) };
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
