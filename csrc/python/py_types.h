/* The objects of the four types. A type with a fixed attribute stores it in the object. */
#ifndef CNCLIP_PY_TYPES_H
#define CNCLIP_PY_TYPES_H

#include "image/image.h"
#include "python/py_state.h"
#include "text/text_encoder.h"

typedef struct {
  PyObject_HEAD
  cnclip_vocab *vocab;
  int size, largest_id, pad_id, unk_id, cls_id, sep_id;
} cnclip_py_tokenizer;

typedef struct {
  PyObject_HEAD
  cnclip_image_processor *processor;
  int resolution;
  const char *isa;
} cnclip_py_image_processor;

typedef struct {
  PyObject_HEAD
  const cnclip_engine *engine; /* stays loaded, so an encoder holds no reference to this object */
  const char *name;
  PyObject *path; /* str */
} cnclip_py_engine;

typedef struct {
  PyObject_HEAD
  cnclip_text_encoder encoder;
  PyObject *tokenizer; /* a new reference: owns the vocabulary that `encoder` borrows */
  bool takes_bytes;    /* the model knows the normalized values of bytes */
} cnclip_py_encoder;

#endif
