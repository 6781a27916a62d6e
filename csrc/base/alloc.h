/* Allocation whose size arithmetic cannot overflow. All return NULL on overflow or lack of memory;
 * the caller frees what it gets with free(). */
#ifndef CNCLIP_ALLOC_H
#define CNCLIP_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

static inline bool cnclip_multiply_overflows(size_t a, size_t b, size_t *product) {
  *product = a * b;
  return b != 0 && a > SIZE_MAX / b;
}

/* `count` elements of `size` bytes, not initialised. A zero-sized request gets one byte, so that
 * NULL always means failure. */
static inline void *cnclip_alloc_array(size_t count, size_t size) {
  size_t bytes;
  if (cnclip_multiply_overflows(count, size, &bytes)) return NULL;
  return malloc(bytes != 0 ? bytes : 1);
}

static inline void *cnclip_alloc_zeroed(size_t count, size_t size) {
  return calloc(count != 0 ? count : 1, size != 0 ? size : 1);
}

/* As realloc: on failure `block` stays valid and stays the caller's. */
static inline void *cnclip_realloc_array(void *block, size_t count, size_t size) {
  size_t bytes;
  if (cnclip_multiply_overflows(count, size, &bytes)) return NULL;
  return realloc(block, bytes != 0 ? bytes : 1);
}

#endif
