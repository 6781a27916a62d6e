/* Memory for kernels, every byte of it `fill`: what they read and did not write shows. */
#ifndef CNCLIP_TESTS_ALIGNED_H
#define CNCLIP_TESTS_ALIGNED_H

#include <stdlib.h>
#include <string.h>

#include "kernels/attention.h"
#include "kernels/linear.h"

_Static_assert((int)CNCLIP_ATTENTION_ALIGNMENT == (int)CNCLIP_LINEAR_ALIGNMENT, "one alignment");

/* New memory of more than `bytes`, freed with free(). */
static void *aligned_memory(size_t bytes, int fill) {
  const size_t unit = CNCLIP_LINEAR_ALIGNMENT, whole = (bytes + unit) / unit * unit;
  void *memory = aligned_alloc(unit, whole);
  if (memory == NULL) abort();
  return memset(memory, fill, whole);
}

#endif
