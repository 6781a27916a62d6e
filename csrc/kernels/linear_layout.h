/* The layout of packed weights and prepared rows, shared by linear.c and its kernels.
 */
#ifndef CNCLIP_LINEAR_LAYOUT_H
#define CNCLIP_LINEAR_LAYOUT_H

#include <stdint.h>

#include "kernels/linear.h"

/* Rows of one unit: as float32, 768 columns of them and of a panel stay in a level-2 cache. */
enum { LINEAR_BLOCK_ROWS = 112 };

/* Steps that a unit does at a time, for the same reason. */
enum { LINEAR_BLOCK_STEPS = 768 };

/* Elements along the input in one 32-bit word. */
static inline size_t linear_per_word(cnclip_linear_type type) {
  return type == CNCLIP_LINEAR_BF16 ? 2 : type == CNCLIP_LINEAR_INT8 ? 4 : 1;
}

static inline size_t linear_steps(cnclip_linear_type type, size_t input_width) {
  return input_width / linear_per_word(type);
}

static inline size_t linear_panels(size_t output_width) {
  return (output_width + CNCLIP_LINEAR_PANEL - 1) / CNCLIP_LINEAR_PANEL;
}

static inline size_t linear_step_bytes(cnclip_linear_type type) {
  return CNCLIP_LINEAR_PANEL * (type == CNCLIP_LINEAR_F16 ? sizeof(uint16_t) : sizeof(uint32_t));
}

static inline size_t linear_panel_bytes(cnclip_linear_type type, size_t input_width) {
  return linear_steps(type, input_width) * linear_step_bytes(type);
}

/* After int8's panels: each column's scale, then the sum of its int8 weights, which float32 holds
 * exactly. */
static inline float *linear_column_scales(const void *packed, size_t input_width,
                                          size_t output_width) {
  const size_t bytes = linear_panel_bytes(CNCLIP_LINEAR_INT8, input_width);
  return (float *)((char *)packed + linear_panels(output_width) * bytes);
}

static inline float *linear_column_sums(const void *packed, size_t input_width,
                                        size_t output_width) {
  return linear_column_scales(packed, input_width, output_width) +
         linear_panels(output_width) * CNCLIP_LINEAR_PANEL;
}

/* Words from one row to the next of a panel that is being packed: whole groups of sixteen, and the
 * rows in different sets of a cache. */
static inline size_t linear_pack_stride(size_t words) {
  return (words + 15) / 16 * 16 + 16;
}

/* Words from one prepared row to the next for rows of `words`: aligned, and never a multiple of a
 * page, which would put the rows of a tile into the same sets of the cache. */
static inline size_t linear_row_stride(size_t words) {
  return (words + 15) / 16 * 16 + 16;
}

static inline size_t linear_row_words(cnclip_linear_type type, size_t input_width) {
  return linear_row_stride(linear_steps(type, input_width));
}

/* Words of `operand` that a row may take: some kernels multiply int8 as words of two. */
static inline size_t linear_row_room(cnclip_linear_type type, size_t input_width) {
  return linear_row_words(type == CNCLIP_LINEAR_INT8 ? CNCLIP_LINEAR_BF16 : type, input_width);
}

/* After int8's rows: each row's scale, then its least value, which is 0 in uint8. */
static inline float *linear_row_scales(const cnclip_linear_job *job) {
  return (float *)job->operand + job->rows * linear_row_room(job->type, job->input_width);
}

static inline float *linear_row_minima(const cnclip_linear_job *job) {
  return linear_row_scales(job) + job->rows;
}

static inline size_t linear_blocks(size_t rows) {
  return (rows + LINEAR_BLOCK_ROWS - 1) / LINEAR_BLOCK_ROWS;
}

#endif
