/* The objects behind the three types. */
#ifndef CNCLIP_PY_TYPES_H
#define CNCLIP_PY_TYPES_H

#include "encoder.h"
#include "image.h"
#include "py_state.h"

typedef struct {
  PyObject_HEAD
  cnclip_vocab *vocab;
} cnclip_py_tokenizer;

typedef struct {
  PyObject_HEAD
  cnclip_isa isa;
  cnclip_image_processor *processor;
} cnclip_py_image_processor;

typedef struct {
  PyObject_HEAD
  cnclip_encoder encoder;
  PyObject *tokenizer; /* a new reference: owns what `encoder` borrows */
} cnclip_py_encoder;

#endif
