/* The bytes of a fuzzer's input, taken as numbers. */
#ifndef CNCLIP_FUZZ_INPUT_H
#define CNCLIP_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  const uint8_t *bytes;
  size_t left;
} input;

/* A number below `limit` of the next two bytes; 0 after the end. */
static unsigned take(input *in, unsigned limit) {
  unsigned value = 0;
  for (int i = 0; i < 2 && in->left > 0; i++, in->bytes++, in->left--) {
    value = value << 8 | *in->bytes;
  }
  return value % limit;
}

#endif
