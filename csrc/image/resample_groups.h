/* Rows in groups, for the files that resample several rows at once in registers. */
#ifndef CNCLIP_RESAMPLE_GROUPS_H
#define CNCLIP_RESAMPLE_GROUPS_H

#include "image/resample.h"

enum { ROWS = 4 }; /* rows that share the loading of the coefficients */

typedef void resample_group(const cnclip_resample_filter *filter, const uint8_t *const inputs[ROWS],
                            uint8_t *const outputs[ROWS]);

/* cnclip_resample_horizontal by `resample`, which reads whole groups of taps. */
static inline void resample_in_groups(const cnclip_resample_filter *filter,
                                      const uint8_t *const *inputs, uint8_t *const *outputs,
                                      int rows, resample_group *resample) {
  if (filter->capacity > (size_t)filter->input_size) { /* a group of taps would leave the row */
    cnclip_resample_horizontal_u8_serial(filter, inputs, outputs, rows);
    return;
  }
  for (int row = 0; row < rows; row += ROWS) {
    const uint8_t *group_inputs[ROWS];
    uint8_t *group_outputs[ROWS];
    for (int i = 0; i < ROWS; i++) { /* a short group does its last row again */
      const int index = row + i < rows ? row + i : rows - 1;
      group_inputs[i] = inputs[index];
      group_outputs[i] = outputs[index];
    }
    resample(filter, group_inputs, group_outputs);
  }
}

#endif
