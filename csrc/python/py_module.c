/* The extension module cnclip._core: state, errors, types. */
#include <math.h>

#include "base/cores.h"
#include "base/rows.h"
#include "engine/engine.h"
#include "kernels/peak.h"
#include "kernels/precision.h"
#include "python/py_borrow.h"

cnclip_state *cnclip_state_of(PyTypeObject *type) {
  return PyType_GetModuleState(type);
}

int cnclip_visit_type(PyObject *object, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(object));
  return 0;
}

PyObject *cnclip_exception_of(const cnclip_state *state, cnclip_status status) {
  PyObject *exception = state->exceptions[status];
  return exception != NULL ? exception : PyExc_MemoryError;
}

void cnclip_raise(const cnclip_state *state, const cnclip_error *error) {
  if (error->code == CNCLIP_ERROR_INTERRUPTED) return;
  /* PyErr_Format replaces the bytes of a quoted path that are not UTF-8. */
  PyErr_Format(cnclip_exception_of(state, error->code), "%s", error->message);
}

/* Raises `exception`; `part` is the argument of its constructor that names the place. Steals
 * `place` and `reason`, which are NULL where making them failed. */
static void raise_at(PyObject *exception, const char *part, PyObject *place, PyObject *reason) {
  PyObject *keywords = NULL, *error = NULL;
  if (reason == NULL || place == NULL) goto exit;
  if (exception == PyExc_MemoryError) {
    PyErr_Format(exception, "%U: %U", place, reason);
    goto exit;
  }
  keywords = Py_BuildValue("{sO}", part, place);
  if (keywords == NULL) goto exit;
  error = PyObject_VectorcallDict(exception, &reason, 1, keywords);
  if (error != NULL) PyErr_SetObject(exception, error);

exit:
  Py_XDECREF(error);
  Py_XDECREF(keywords);
  Py_XDECREF(reason);
  Py_XDECREF(place);
}

void cnclip_raise_file(const cnclip_state *state, const cnclip_error *error, const char *path) {
  raise_at(cnclip_exception_of(state, error->code), "file", PyUnicode_DecodeFSDefault(path),
           PyUnicode_FromFormat("%s", error->message));
}

void cnclip_raise_item(PyObject *exception, const char *name, Py_ssize_t index, const char *format,
                       ...) {
  va_list values;
  va_start(values, format);
  PyObject *reason = PyUnicode_FromFormatV(format, values);
  va_end(values);
  raise_at(exception, "item", PyUnicode_FromFormat("%s[%zd]", name, index), reason);
}

static bool load_exceptions(cnclip_state *state) {
  static const struct {
    cnclip_status status;
    const char *name;
  } classes[] = {
      {CNCLIP_ERROR_ARGUMENT, "InvalidInputError"}, {CNCLIP_ERROR_VOCABULARY, "VocabularyError"},
      {CNCLIP_ERROR_ARCHIVE, "ArchiveError"},       {CNCLIP_ERROR_DEVICE, "DeviceError"},
      {CNCLIP_ERROR_ENGINE, "EngineError"},         {CNCLIP_ERROR_MODEL, "ModelRunError"},
      {CNCLIP_ERROR_FORKED, "ForkedProcessError"},
  };
  PyObject *errors = PyImport_ImportModule("cnclip.errors");
  if (errors == NULL) return false;
  bool complete =
      (state->input_type_error = PyObject_GetAttrString(errors, "InputTypeError")) != NULL;
  for (size_t i = 0; complete && i < sizeof classes / sizeof classes[0]; i++) {
    PyObject *exception = PyObject_GetAttrString(errors, classes[i].name);
    state->exceptions[classes[i].status] = exception;
    complete = exception != NULL;
  }
  Py_DECREF(errors);
  return complete;
}

static bool add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **ret_type) {
  *ret_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
  return *ret_type != NULL && PyModule_AddType(module, *ret_type) == 0;
}

static int module_exec(PyObject *module) {
  cnclip_state *state = PyModule_GetState(module);
  cnclip_engine_note_process();
  cnclip_cores_free(); /* what others use is known when the first model runs */
  if (!cnclip_import_numpy() || !load_exceptions(state)) return -1;
  if (!add_type(module, &cnclip_tokenizer_spec, &state->tokenizer_type)) return -1;
  if (!add_type(module, &cnclip_image_processor_spec, &state->image_processor_type)) return -1;
  if (!add_type(module, &cnclip_engine_spec, &state->engine_type)) return -1;
  if (!add_type(module, &cnclip_encoder_spec, &state->encoder_type)) return -1;
  return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
  cnclip_state *state = PyModule_GetState(module);
  Py_VISIT(state->tokenizer_type);
  Py_VISIT(state->image_processor_type);
  Py_VISIT(state->engine_type);
  Py_VISIT(state->encoder_type);
  Py_VISIT(state->input_type_error);
  for (size_t i = 0; i < sizeof state->exceptions / sizeof state->exceptions[0]; i++) {
    Py_VISIT(state->exceptions[i]);
  }
  return 0;
}

static int module_clear(PyObject *module) {
  cnclip_state *state = PyModule_GetState(module);
  Py_CLEAR(state->tokenizer_type);
  Py_CLEAR(state->image_processor_type);
  Py_CLEAR(state->engine_type);
  Py_CLEAR(state->encoder_type);
  Py_CLEAR(state->input_type_error);
  for (size_t i = 0; i < sizeof state->exceptions / sizeof state->exceptions[0]; i++) {
    Py_CLEAR(state->exceptions[i]);
  }
  return 0;
}

static PyObject *check_precision(PyObject *module, PyObject *arguments) {
  const char *device, *precision;
  cnclip_error error;
  cnclip_isa isa;
  if (!PyArg_ParseTuple(arguments, "ss:check_precision", &device, &precision)) return NULL;
  const bool is_cpu = strncmp(device, "cpu", 3) == 0;
  if (cnclip_isa_choose(&isa, &error) == CNCLIP_OK &&
      cnclip_precision_check(precision, is_cpu, isa, &error) == CNCLIP_OK) {
    Py_RETURN_NONE;
  }
  cnclip_raise(PyModule_GetState(module), &error);
  return NULL;
}

static PyObject *measure_peak(PyObject *module, PyObject *arguments) {
  const cnclip_state *state = PyModule_GetState(module);
  const char *name;
  double seconds, rate;
  if (!PyArg_ParseTuple(arguments, "sd:measure_peak", &name, &seconds)) return NULL;
  int precision = 0;
  while (precision < CNCLIP_PEAK_COUNT && strcmp(name, cnclip_peak_name(precision)) != 0) {
    precision++;
  }
  if (precision == CNCLIP_PEAK_COUNT) {
    return PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                        "precision: expected 'fp32', 'bf16' or 'int8', got '%.100s'", name);
  }
  if (!isfinite(seconds) || seconds <= 0 || seconds > 60) {
    return PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                        "seconds: expected more than 0 and at most 60");
  }
  Py_BEGIN_ALLOW_THREADS
  rate = cnclip_peak_measure(precision, seconds);
  Py_END_ALLOW_THREADS
  if (rate == 0) Py_RETURN_NONE;
  return PyFloat_FromDouble(rate);
}

/* With the GIL: a row takes less than a microsecond. */
static PyObject *unusable_rows(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *object, *result;
  float max_deviation;
  const float *rows;
  size_t count, width;
  if (!PyArg_ParseTuple(arguments, "Of:unusable_rows", &object, &max_deviation)) return NULL;
  PyObject *owner = cnclip_borrow_rows(object, &rows, &count, &width);
  if (owner == NULL) return NULL;
  result = PyList_New(0);
  size_t row = result == NULL ? count : 0;
  while ((row = cnclip_rows_next_unusable(rows, row, count, width, max_deviation)) < count) {
    PyObject *number = PyLong_FromSize_t(row++);
    const bool added = number != NULL && PyList_Append(result, number) == 0;
    Py_XDECREF(number);
    if (!added) {
      Py_CLEAR(result);
      break;
    }
  }
  Py_DECREF(owner);
  return result;
}

static PyObject *cores_free(PyObject *module, PyObject *unused) {
  (void)module;
  (void)unused;
  return PyLong_FromLong(cnclip_cores_free());
}

static PyMethodDef module_methods[] = {
    {"check_precision", check_precision, METH_VARARGS,
     "check_precision(device, precision, /)\n--\n\nRaises DeviceError where the device does not "
     "compute in the precision."},
    {"measure_peak", measure_peak, METH_VARARGS,
     "measure_peak(precision, seconds, /)\n--\n\nOperations per second that one thread computes in "
     "registers, a multiply-add counted as two; None where the machine has no instruction for it."},
    {"cores_free", cores_free, METH_NOARGS,
     "cores_free()\n--\n\nThe cores that other processes leave to this one, by their use of the "
     "last tenths of a second; a large number where that is not known."},
    {"unusable_rows", unusable_rows, METH_VARARGS,
     "unusable_rows(rows, max_deviation, /)\n--\n\nThe numbers of the rows of float32 [n, d] whose "
     "squared length is not finite or differs from 1 by max_deviation or more."},
    {0},
};

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0}};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "cnclip._core",
    .m_doc = "The C core of cnclip. Not a public interface: use cnclip.pipelines.",
    .m_size = sizeof(cnclip_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC PyInit__core(void) {
  return PyModuleDef_Init(&module_definition);
}
