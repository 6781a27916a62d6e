/* The objects behind the three types. */
#ifndef CNCLIP_PY_TYPES_H
#define CNCLIP_PY_TYPES_H

#include "image/image.h"
#include "python/py_state.h"
#include "text/text_encoder.h"

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
  cnclip_text_encoder encoder;
  PyObject *tokenizer; /* a new reference: owns what `encoder` borrows */
} cnclip_py_encoder;

#endif
