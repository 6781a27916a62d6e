/* The objects of the four types. A type with a fixed attribute stores it in the object. */
#ifndef CNCLIP_PY_TYPES_H
#define CNCLIP_PY_TYPES_H

#include <stdbool.h>

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
  PyObject *tokenizer;       /* a new reference: owns the vocabulary that `encoder` borrows */
  PyObject *image_processor; /* a new reference, or NULL: the model knows no normalized values */
  bool resizes;              /* on the model's GPU */
} cnclip_py_encoder;

/* One image to its pixels, on a thread without the GIL. */
typedef cnclip_status cnclip_convert_image(const void *context, const cnclip_image *image,
                                           void *output, cnclip_error *error);

/* A method with the arguments (images, /, out=None), which `format` describes: the pixels of all
 * images, float32 [n, 3, r, r] or with `is_bytes` uint8 [n, r, r, 4]. NULL with an exception set
 * that names the image. */
PyObject *cnclip_convert_images(const cnclip_state *state, const cnclip_image_processor *processor,
                                cnclip_convert_image *convert, const void *context, bool is_bytes,
                                PyObject *arguments, PyObject *keywords, const char *format);

#endif
