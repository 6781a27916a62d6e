/* Rows of embeddings: whether each has unit length. */
#ifndef CNCLIP_ROWS_H
#define CNCLIP_ROWS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The number of the first row from `start` on whose squared length is not finite or differs from 1
 * by max_deviation or more; `count` if there is none. rows: float32 [count, width], borrowed. */
size_t cnclip_rows_next_unusable(const float *rows, size_t start, size_t count, size_t width,
                                 float max_deviation);

#ifdef __cplusplus
}
#endif

#endif
