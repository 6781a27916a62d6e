/* The rim between the core and CPython: what its files share.
 *
 * One file a type (py_tokenizer.c, py_image.c, py_encoder.c), each with a spec that py_module.c
 * makes a heap type of. Only these files include Python.h. */
#ifndef CNCLIP_PY_STATE_H
#define CNCLIP_PY_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base/status.h"

typedef struct {
  PyTypeObject *tokenizer_type;
  PyTypeObject *image_processor_type;
  PyTypeObject *encoder_type;
  /* Classes of cnclip.errors by status; NULL where a built-in is raised. */
  PyObject *exceptions[CNCLIP_ERROR_INTERRUPTED + 1];
  PyObject *input_type_error; /* cnclip.errors.InputTypeError */
} cnclip_state;

extern PyType_Spec cnclip_tokenizer_spec;
extern PyType_Spec cnclip_image_processor_spec;
extern PyType_Spec cnclip_encoder_spec;

/* The state of the module that `type`, one of the three, belongs to. Borrowed. */
cnclip_state *cnclip_state_of(PyTypeObject *type);

/* Raises the exception for `error`, its message behind "`prefix`: " unless prefix is NULL.
 * CNCLIP_ERROR_INTERRUPTED leaves alone the exception that the interrupt function has set. */
void cnclip_raise(const cnclip_state *state, const cnclip_error *error, const char *prefix);

#endif
