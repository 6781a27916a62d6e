/* Pillow's antialiased bicubic resampling of 8-bit pixels, one direction at a time.
 *
 * A filter holds, for each output position, the window of input positions and their coefficients in
 * 22-bit fixed point. A kernel applies a filter to pixels of four bytes; the fourth is ignored,
 * and undefined in the output. The arithmetic is exact in integers, so every instruction
 * set gives the same bytes. */
#ifndef CNCLIP_RESAMPLE_H
#define CNCLIP_RESAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
  CNCLIP_RESAMPLE_PRECISION_BITS = 32 - 8 - 2,
  CNCLIP_RESAMPLE_TAP_GROUP = 4, /* taps that a vector kernel takes in one step */
};

/* first[i] rises with i. `capacity` is a multiple of CNCLIP_RESAMPLE_TAP_GROUP and, where
 * capacity <= input_size, capacity positions from first[i] lie inside the input: windows near the
 * end start early, with coefficients of zero, so that a kernel may read whole groups. */
typedef struct {
  int input_size, output_size;
  size_t capacity;       /* coefficients stored for each output position, count[i] or more */
  int *first, *count;    /* [output_size]: window of output position i is first[i] .. + count[i] */
  int32_t *coefficients; /* [output_size][capacity], zero after a window's count */
} cnclip_resample_filter;

/* Computes the filter from `input_size` to `output_size` positions, both at least 1, the second at
 * most 2^24, up to which a float32 is exact.
 * *filter's arrays are new; free them with cnclip_resample_filter_free. CNCLIP_ERROR_MEMORY, which
 * leaves a filter without arrays. */
cnclip_status cnclip_resample_filter_init(cnclip_resample_filter *filter, int input_size,
                                          int output_size, cnclip_error *error);
void cnclip_resample_filter_free(cnclip_resample_filter *filter); /* zeroed is allowed */

/* Whether an image becomes resolution x resolution by the vertical pass first: Pillow 13's choice,
 * which changes the rounding. Where a size is right already, one pass alone changes anything, and
 * it is the first. */
bool cnclip_resample_is_vertical_first(int width, int height, int resolution);

/* `rows` input rows of input_size pixels to as many output rows of output_size pixels; 4 bytes
 * each. Reads nothing outside the input rows. Fastest with 4 rows at a time. */
typedef void cnclip_resample_horizontal(const cnclip_resample_filter *filter,
                                        const uint8_t *const *inputs, uint8_t *const *outputs,
                                        int rows);

/* Output row `position` from the rows of its window: rows[i] is input row first[position] + i, each
 * of `bytes` bytes, a multiple of 4. */
typedef void cnclip_resample_vertical(const cnclip_resample_filter *filter, int position,
                                      const uint8_t *const *rows, size_t bytes, uint8_t *output);

/* `count` pixels of three bytes to pixels of four; reads and writes nothing outside them. */
typedef void cnclip_resample_widen(const uint8_t *input, size_t count, uint8_t *output);

cnclip_resample_horizontal cnclip_resample_horizontal_u8_serial, cnclip_resample_horizontal_u8_avx2,
    cnclip_resample_horizontal_u8_neon;
cnclip_resample_vertical cnclip_resample_vertical_u8_serial, cnclip_resample_vertical_u8_avx2,
    cnclip_resample_vertical_u8_avx512, cnclip_resample_vertical_u8_neon;
cnclip_resample_widen cnclip_resample_widen_u8_serial, cnclip_resample_widen_u8_avx2,
    cnclip_resample_widen_u8_neon;

#ifdef __cplusplus
}
#endif

#endif
