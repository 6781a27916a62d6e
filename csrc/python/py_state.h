/* The module's state and the conversion of errors, shared by the files of this folder.
 *
 * One file per type (py_tokenizer.c, py_image.c, py_engine.c, py_encoder.c), each with a spec of
 * which py_module.c makes a heap type. Only this folder includes Python.h. */
#ifndef CNCLIP_PY_STATE_H
#define CNCLIP_PY_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base/status.h"

typedef struct {
  PyTypeObject *tokenizer_type;
  PyTypeObject *image_processor_type;
  PyTypeObject *engine_type;
  PyTypeObject *encoder_type;
  /* Classes of cnclip.errors by status; NULL where a built-in is raised. */
  PyObject *exceptions[CNCLIP_ERROR_INTERRUPTED + 1];
  PyObject *input_type_error; /* cnclip.errors.InputTypeError */
} cnclip_state;

extern PyType_Spec cnclip_tokenizer_spec;
extern PyType_Spec cnclip_image_processor_spec;
extern PyType_Spec cnclip_engine_spec;
extern PyType_Spec cnclip_encoder_spec;

/* The state of the module that `type`, one of the four, belongs to. Borrowed. */
cnclip_state *cnclip_state_of(PyTypeObject *type);

/* tp_traverse of an object that refers to its type and no other Python object. */
int cnclip_visit_type(PyObject *object, visitproc visit, void *arg);

/* The class of the exception for `status`. Borrowed. */
PyObject *cnclip_exception_of(const cnclip_state *state, cnclip_status status);

/* Raises the exception for `error`. CNCLIP_ERROR_INTERRUPTED keeps the exception that the interrupt
 * function has set. */
void cnclip_raise(const cnclip_state *state, const cnclip_error *error);

/* As cnclip_raise; the exception's `where` names the file at `path`. */
void cnclip_raise_file(const cnclip_state *state, const cnclip_error *error, const char *path);

/* Raises `exception`, a class of cnclip.errors or MemoryError, with a reason as of
 * PyUnicode_FromFormat; its `where` names the item "`name`[`index`]". */
void cnclip_raise_item(PyObject *exception, const char *name, Py_ssize_t index, const char *format,
                       ...);

#endif
