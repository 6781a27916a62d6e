#include "python/py_borrow.h"

#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <limits.h>
#include <numpy/arrayobject.h>
#include <string.h>

#include "base/alloc.h"

bool cnclip_import_numpy(void) {
  return PyArray_ImportNumPyAPI() == 0;
}

static PyObject *new_array(int dimensions, const Py_ssize_t *shape, int type, void **ret_data) {
  npy_intp sizes[NPY_MAXDIMS];
  for (int i = 0; i < dimensions; i++) sizes[i] = shape[i];
  PyObject *array = PyArray_SimpleNew(dimensions, sizes, type);
  *ret_data = array != NULL ? PyArray_DATA((PyArrayObject *)array) : NULL;
  return array;
}

PyObject *cnclip_new_float_array(int dimensions, const Py_ssize_t *shape, float **ret_data) {
  void *data;
  PyObject *array = new_array(dimensions, shape, NPY_FLOAT32, &data);
  *ret_data = data;
  return array;
}

PyObject *cnclip_new_int64_array(int dimensions, const Py_ssize_t *shape, int64_t **ret_data) {
  void *data;
  PyObject *array = new_array(dimensions, shape, NPY_INT64, &data);
  *ret_data = data;
  return array;
}

bool cnclip_find_attribute(PyObject *object, const char *name, PyObject **ret_value) {
  *ret_value = PyObject_GetAttrString(object, name);
  if (*ret_value != NULL) return true;
  if (!PyErr_ExceptionMatches(PyExc_AttributeError)) return false;
  PyErr_Clear();
  return true;
}

/* A new tuple of a sequence's items. A str is an error: "ab" hardly means the texts "a" and "b". */
static PyObject *tuple_of(const cnclip_state *state, PyObject *sequence, const char *expected) {
  PyObject *items = NULL;
  const bool is_string = PyUnicode_Check(sequence) || PyBytes_Check(sequence);
  if (!is_string) items = PyObject_GetIter(sequence);
  if (is_string || (items == NULL && PyErr_ExceptionMatches(PyExc_TypeError))) {
    PyErr_Format(state->input_type_error, "expected a sequence of %s, got %.100s", expected,
                 Py_TYPE(sequence)->tp_name);
  }
  if (items == NULL) return NULL;
  PyObject *tuple = PySequence_Tuple(items);
  Py_DECREF(items);
  return tuple;
}

bool cnclip_borrow_texts(const cnclip_state *state, PyObject *sequence,
                         cnclip_borrowed_texts *ret_texts) {
  *ret_texts = (cnclip_borrowed_texts){0};
  ret_texts->tuple = tuple_of(state, sequence, "str");
  if (ret_texts->tuple == NULL) return false;
  ret_texts->count = PyTuple_GET_SIZE(ret_texts->tuple);
  ret_texts->texts = cnclip_alloc_array((size_t)ret_texts->count, sizeof(cnclip_text));
  if (ret_texts->texts == NULL) {
    PyErr_NoMemory();
    return false;
  }
  for (Py_ssize_t i = 0; i < ret_texts->count; i++) {
    PyObject *text = PyTuple_GET_ITEM(ret_texts->tuple, i);
    if (!PyUnicode_Check(text)) {
      cnclip_raise_item(state->input_type_error, "text", i, "expected str, got %.100s",
                        Py_TYPE(text)->tp_name);
      return false;
    }
    if (PyUnicode_READY(text) < 0) return false; /* NEVER: such strings are of before Python 3.3 */
    ret_texts->texts[i] = (cnclip_text){
        .data = PyUnicode_DATA(text),
        .length = (size_t)PyUnicode_GET_LENGTH(text),
        .width = PyUnicode_KIND(text),
    };
  }
  return true;
}

void cnclip_release_texts(cnclip_borrowed_texts *texts) {
  free(texts->texts);
  Py_XDECREF(texts->tuple);
  *texts = (cnclip_borrowed_texts){0};
}

static bool borrow_array(const cnclip_state *state, PyObject *item, Py_ssize_t index,
                         cnclip_image *ret_image) {
  PyArrayObject *array = (PyArrayObject *)item;
  if (PyArray_TYPE(array) != NPY_UINT8 || PyArray_NDIM(array) != 3 || PyArray_DIM(array, 2) != 3) {
    cnclip_raise_item(state->exceptions[CNCLIP_ERROR_ARGUMENT], "img", index,
                      "expected a uint8 array [height, width, 3], got %S with %d dimensions, "
                      "%zd elements",
                      PyArray_DESCR(array), PyArray_NDIM(array), (Py_ssize_t)PyArray_SIZE(array));
    return false;
  }
  if (PyArray_DIM(array, 0) > INT_MAX || PyArray_DIM(array, 1) > INT_MAX) {
    cnclip_raise_item(state->exceptions[CNCLIP_ERROR_ARGUMENT], "img", index, "too large");
    return false;
  }
  *ret_image = (cnclip_image){
      .pixels = PyArray_DATA(array),
      .height = (int)PyArray_DIM(array, 0),
      .width = (int)PyArray_DIM(array, 1),
      .row_stride = PyArray_STRIDE(array, 0),
      .pixel_stride = PyArray_STRIDE(array, 1),
      .channel_stride = PyArray_STRIDE(array, 2),
  };
  return true;
}

/* Copies an image whose pixels Pillow does not export. The new array is the owner. */
static PyObject *copy_pixels(const cnclip_state *state, PyObject *item, Py_ssize_t index,
                             cnclip_image *ret_image) {
  PyObject *array = PyArray_FROM_O(item);
  if (array == NULL) return NULL;
  if (!borrow_array(state, array, index, ret_image)) {
    Py_CLEAR(array);
  }
  return array;
}

/* A new reference to the object that keeps the pixels alive, or NULL with an exception set. */
static PyObject *borrow_image(const cnclip_state *state, const cnclip_image_processor *processor,
                              PyObject *item, Py_ssize_t index, cnclip_image *ret_image) {
  if (PyArray_Check(item)) {
    return borrow_array(state, item, index, ret_image) ? Py_NewRef(item) : NULL;
  }
  PyObject *mode;
  if (!cnclip_find_attribute(item, "mode", &mode)) return NULL;
  if (mode == NULL || !PyUnicode_Check(mode)) {
    Py_XDECREF(mode);
    cnclip_raise_item(state->input_type_error, "img", index,
                      "expected PIL.Image.Image or a uint8 array, got %.100s",
                      Py_TYPE(item)->tp_name);
    return NULL;
  }
  const bool is_rgb = PyUnicode_CompareWithASCIIString(mode, "RGB") == 0;
  if (!is_rgb) {
    cnclip_raise_item(state->exceptions[CNCLIP_ERROR_ARGUMENT], "img", index,
                      "expected an image of mode RGB, got %R", mode);
  }
  Py_DECREF(mode);
  if (!is_rgb) return NULL;
  PyObject *owner = cnclip_borrow_pillow(state, processor, item, index, ret_image);
  if (owner == NULL && !PyErr_Occurred()) owner = copy_pixels(state, item, index, ret_image);
  return owner;
}

bool cnclip_borrow_images(const cnclip_state *state, const cnclip_image_processor *processor,
                          PyObject *sequence, cnclip_borrowed_images *ret_images) {
  *ret_images = (cnclip_borrowed_images){0};
  bool complete = false;
  PyObject *tuple = tuple_of(state, sequence, "images");
  if (tuple == NULL) return false;
  const Py_ssize_t count = PyTuple_GET_SIZE(tuple);
  ret_images->owners = cnclip_alloc_array((size_t)count, sizeof(PyObject *));
  ret_images->images = cnclip_alloc_array((size_t)count, sizeof(cnclip_image));
  if (ret_images->owners == NULL || ret_images->images == NULL) {
    PyErr_NoMemory();
    goto exit;
  }
  /* cnclip_release_images releases the first ret_images->count. */
  for (Py_ssize_t i = 0; i < count; i++) {
    PyObject *item = PyTuple_GET_ITEM(tuple, i);
    PyObject *owner = borrow_image(state, processor, item, i, &ret_images->images[i]);
    if (owner == NULL) goto exit;
    ret_images->owners[i] = owner;
    ret_images->count = i + 1;
  }
  complete = true;

exit:
  Py_DECREF(tuple);
  return complete;
}

void cnclip_release_images(cnclip_borrowed_images *images) {
  for (Py_ssize_t i = 0; i < images->count; i++) Py_DECREF(images->owners[i]);
  free(images->owners);
  free(images->images);
  *images = (cnclip_borrowed_images){0};
}

/* Whether an array is float32 [n, 3, r, r], or with `is_bytes` uint8 [n, r, r, 4]. */
static bool are_pixels(PyArrayObject *array, bool is_bytes) {
  if (PyArray_TYPE(array) != (is_bytes ? NPY_UINT8 : NPY_FLOAT32)) return false;
  if (!PyArray_ISNOTSWAPPED(array) || PyArray_NDIM(array) != 4) return false;
  const npy_intp *shape = PyArray_DIMS(array);
  return is_bytes ? shape[1] == shape[2] && shape[3] == 4 : shape[2] == shape[3] && shape[1] == 3;
}

PyObject *cnclip_borrow_pixels(const cnclip_state *state, PyObject *object,
                               cnclip_pixels *ret_pixels) {
  if (!PyArray_Check(object)) {
    PyErr_Format(state->input_type_error,
                 "pixels: expected an array, float32 [n, 3, r, r] or uint8 [n, r, r, 4], got "
                 "%.100s",
                 Py_TYPE(object)->tp_name);
    return NULL;
  }
  PyArrayObject *array = (PyArrayObject *)object;
  const bool is_bytes = are_pixels(array, true);
  if (!is_bytes && !are_pixels(array, false)) {
    PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                 "pixels: expected a float32 array [n, 3, r, r] or a uint8 array [n, r, r, 4], got "
                 "%S with %d dimensions, %zd elements",
                 PyArray_DESCR(array), PyArray_NDIM(array), (Py_ssize_t)PyArray_SIZE(array));
    return NULL;
  }
  PyArrayObject *contiguous = PyArray_GETCONTIGUOUS(array);
  if (contiguous == NULL) return NULL;
  *ret_pixels = (cnclip_pixels){
      .count = (size_t)PyArray_DIM(contiguous, 0),
      .resolution = (size_t)PyArray_DIM(contiguous, 2),
      .floats = is_bytes ? NULL : PyArray_DATA(contiguous),
      .bytes = is_bytes ? PyArray_DATA(contiguous) : NULL,
  };
  return (PyObject *)contiguous;
}

PyObject *cnclip_borrow_ids(const cnclip_state *state, PyObject *object, const int64_t **ret_ids,
                            size_t *ret_count, size_t *ret_columns) {
  if (!PyArray_Check(object)) {
    PyErr_Format(state->input_type_error,
                 "ids: expected an array of integers [n, length], got %.100s",
                 Py_TYPE(object)->tp_name);
    return NULL;
  }
  PyArrayObject *array = (PyArrayObject *)object;
  if (PyArray_NDIM(array) != 2 || !PyArray_ISINTEGER(array) ||
      !PyArray_CanCastSafely(PyArray_TYPE(array), NPY_INT64)) {
    PyErr_Format(
        state->exceptions[CNCLIP_ERROR_ARGUMENT],
        "ids: expected an int64 array [n, length], got %S with %d dimensions, %zd elements",
        PyArray_DESCR(array), PyArray_NDIM(array), (Py_ssize_t)PyArray_SIZE(array));
    return NULL;
  }
  PyObject *ids = PyArray_FROM_OTF(object, NPY_INT64, NPY_ARRAY_CARRAY_RO);
  if (ids == NULL) return NULL;
  *ret_ids = PyArray_DATA((PyArrayObject *)ids);
  *ret_count = (size_t)PyArray_DIM((PyArrayObject *)ids, 0);
  *ret_columns = (size_t)PyArray_DIM((PyArrayObject *)ids, 1);
  return ids;
}

PyObject *cnclip_borrow_rows(PyObject *object, const float **ret_rows, size_t *ret_count,
                             size_t *ret_width) {
  PyObject *rows = PyArray_FROMANY(object, NPY_FLOAT32, 2, 2, NPY_ARRAY_CARRAY_RO);
  if (rows == NULL) return NULL;
  *ret_rows = PyArray_DATA((PyArrayObject *)rows);
  *ret_count = (size_t)PyArray_DIM((PyArrayObject *)rows, 0);
  *ret_width = (size_t)PyArray_DIM((PyArrayObject *)rows, 1);
  return rows;
}

PyObject *cnclip_pixels_output(const cnclip_state *state, PyObject *out, bool is_bytes,
                               Py_ssize_t count, Py_ssize_t resolution, void **ret_data) {
  const Py_ssize_t floats[] = {count, 3, resolution, resolution};
  const Py_ssize_t bytes[] = {count, resolution, resolution, 4};
  const Py_ssize_t *shape = is_bytes ? bytes : floats;
  if (out == Py_None) return new_array(4, shape, is_bytes ? NPY_UINT8 : NPY_FLOAT32, ret_data);
  PyArrayObject *array = (PyArrayObject *)out;
  if (!PyArray_Check(out) || !are_pixels(array, is_bytes) ||
      !PyArray_CHKFLAGS(array, NPY_ARRAY_CARRAY) || PyArray_DIM(array, 0) != count ||
      PyArray_DIM(array, 2) != resolution) {
    PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                 "out: expected a contiguous %s array [%zd, %zd, %zd, %zd] to write to",
                 is_bytes ? "uint8" : "float32", shape[0], shape[1], shape[2], shape[3]);
    return NULL;
  }
  *ret_data = PyArray_DATA(array);
  return Py_NewRef(out);
}

bool cnclip_read_three_floats(PyObject *sequence, const char *name, float values[3]) {
  PyObject *tuple = PySequence_Tuple(sequence);
  if (tuple == NULL) return false;
  bool complete = PyTuple_GET_SIZE(tuple) == 3;
  if (!complete) {
    PyErr_Format(PyExc_ValueError, "%s: expected 3 numbers, got %zd", name,
                 PyTuple_GET_SIZE(tuple));
  }
  for (int i = 0; complete && i < 3; i++) {
    values[i] = (float)PyFloat_AsDouble(PyTuple_GET_ITEM(tuple, i));
    complete = !PyErr_Occurred();
  }
  Py_DECREF(tuple);
  return complete;
}
