#include "python/py_borrow.h"

#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <limits.h>
#include <numpy/arrayobject.h>
#include <string.h>

#include "base/alloc.h"

int cnclip_import_numpy(void) {
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

/* A new tuple of a sequence's items. A str is refused: "ab" is hardly meant as the texts "a", "b".
 */
static PyObject *tuple_of(const cnclip_state *state, PyObject *sequence, const char *expected) {
  PyObject *tuple = NULL;
  const int is_string = PyUnicode_Check(sequence) || PyBytes_Check(sequence);
  if (!is_string) tuple = PySequence_Tuple(sequence);
  if (is_string || (tuple == NULL && PyErr_ExceptionMatches(PyExc_TypeError))) {
    PyErr_Format(state->input_type_error, "expected a sequence of %s, got %.100s", expected,
                 Py_TYPE(sequence)->tp_name);
  }
  return tuple;
}

int cnclip_borrow_texts(const cnclip_state *state, PyObject *sequence,
                        cnclip_borrowed_texts *ret_texts) {
  *ret_texts = (cnclip_borrowed_texts){0};
  ret_texts->tuple = tuple_of(state, sequence, "str");
  if (ret_texts->tuple == NULL) return 0;
  ret_texts->count = PyTuple_GET_SIZE(ret_texts->tuple);
  ret_texts->texts = cnclip_alloc_array((size_t)ret_texts->count, sizeof(cnclip_text));
  if (ret_texts->texts == NULL) {
    PyErr_NoMemory();
    return 0;
  }
  for (Py_ssize_t i = 0; i < ret_texts->count; i++) {
    PyObject *text = PyTuple_GET_ITEM(ret_texts->tuple, i);
    if (!PyUnicode_Check(text)) {
      PyErr_Format(state->input_type_error, "text[%zd]: expected str, got %.100s", i,
                   Py_TYPE(text)->tp_name);
      return 0;
    }
    if (PyUnicode_READY(text) < 0) return 0;
    ret_texts->texts[i] = (cnclip_text){
        .data = PyUnicode_DATA(text),
        .length = (size_t)PyUnicode_GET_LENGTH(text),
        .width = PyUnicode_KIND(text),
    };
  }
  return 1;
}

void cnclip_release_texts(cnclip_borrowed_texts *texts) {
  free(texts->texts);
  Py_XDECREF(texts->tuple);
  *texts = (cnclip_borrowed_texts){0};
}

/* The Arrow C data interface's structs, https://arrow.apache.org/docs/format/CDataInterface.html.
 */
struct arrow_schema {
  const char *format, *name, *metadata;
  int64_t flags, n_children;
  struct arrow_schema **children, *dictionary;
  void (*release)(struct arrow_schema *);
  void *private_data;
};

struct arrow_array {
  int64_t length, null_count, offset, n_buffers, n_children;
  const void **buffers;
  struct arrow_array **children, *dictionary;
  void (*release)(struct arrow_array *);
  void *private_data;
};

/* The bytes of an image lent as fixed_size_list<uint8>[4], one list a pixel; NULL where the
 * capsules hold anything else. */
static const uint8_t *arrow_pixels(const struct arrow_schema *schema,
                                   const struct arrow_array *array, int64_t pixels) {
  if (strcmp(schema->format, "+w:4") != 0 || schema->n_children != 1 ||
      strcmp(schema->children[0]->format, "C") != 0) {
    return NULL;
  }
  if (array->length != pixels || array->n_children != 1) return NULL;
  const struct arrow_array *bytes = array->children[0];
  const int64_t first = array->offset * 4 + bytes->offset;
  if (bytes->n_buffers != 2 || bytes->buffers[1] == NULL ||
      bytes->length < array->offset * 4 + pixels * 4) {
    return NULL;
  }
  return (const uint8_t *)bytes->buffers[1] + first;
}

static int borrow_array(const cnclip_state *state, PyObject *item, Py_ssize_t index,
                        cnclip_image *ret_image) {
  PyArrayObject *array = (PyArrayObject *)item;
  if (PyArray_TYPE(array) != NPY_UINT8 || PyArray_NDIM(array) != 3 || PyArray_DIM(array, 2) != 3) {
    PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                 "img[%zd]: expected a uint8 array [height, width, 3], got %S with %d dimensions, "
                 "%zd elements",
                 index, PyArray_DESCR(array), PyArray_NDIM(array), (Py_ssize_t)PyArray_SIZE(array));
    return 0;
  }
  if (PyArray_DIM(array, 0) > INT_MAX || PyArray_DIM(array, 1) > INT_MAX) {
    PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT], "img[%zd]: too large", index);
    return 0;
  }
  *ret_image = (cnclip_image){
      .pixels = PyArray_DATA(array),
      .height = (int)PyArray_DIM(array, 0),
      .width = (int)PyArray_DIM(array, 1),
      .row_stride = PyArray_STRIDE(array, 0),
      .pixel_stride = PyArray_STRIDE(array, 1),
      .channel_stride = PyArray_STRIDE(array, 2),
  };
  return 1;
}

/* Copies an image that Pillow does not lend. The new array is the owner. */
static PyObject *copy_pixels(const cnclip_state *state, PyObject *item, Py_ssize_t index,
                             cnclip_image *ret_image) {
  PyObject *array = PyArray_FROM_O(item);
  if (array == NULL) return NULL;
  if (!borrow_array(state, array, index, ret_image)) Py_CLEAR(array);
  return array;
}

static int read_size(PyObject *item, int *ret_width, int *ret_height) {
  PyObject *size = PyObject_GetAttrString(item, "size");
  if (size == NULL) return 0;
  const int understood = PyTuple_Check(size) && PyArg_ParseTuple(size, "ii", ret_width, ret_height);
  if (!understood && !PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "size is not a tuple");
  Py_DECREF(size);
  return understood;
}

/* Borrows the pixels of a PIL.Image.Image of mode RGB. A new reference to what keeps them alive, or
 * NULL: with an exception set, or without one where Pillow does not lend them. */
static PyObject *lend_pillow(PyObject *item, cnclip_image *ret_image) {
  PyObject *capsules = PyObject_CallMethod(item, "__arrow_c_array__", NULL);
  PyObject *owner = NULL;
  int width, height;
  if (capsules == NULL) {
    /* In several blocks, or a Pillow without the interface. */
    if (PyErr_ExceptionMatches(PyExc_ValueError) || PyErr_ExceptionMatches(PyExc_AttributeError)) {
      PyErr_Clear();
    }
    return NULL;
  }
  if (!PyTuple_Check(capsules) || PyTuple_GET_SIZE(capsules) != 2) {
    PyErr_SetString(PyExc_TypeError, "__arrow_c_array__ did not answer a pair");
    goto done;
  }
  const struct arrow_schema *schema =
      PyCapsule_GetPointer(PyTuple_GET_ITEM(capsules, 0), "arrow_schema");
  if (schema == NULL) goto done;
  const struct arrow_array *array =
      PyCapsule_GetPointer(PyTuple_GET_ITEM(capsules, 1), "arrow_array");
  if (array == NULL || !read_size(item, &width, &height)) goto done;

  const uint8_t *pixels = arrow_pixels(schema, array, (int64_t)width * height);
  if (pixels == NULL) goto done;
  *ret_image = (cnclip_image){
      .pixels = pixels,
      .width = width,
      .height = height,
      .row_stride = (ptrdiff_t)width * 4,
      .pixel_stride = 4,
      .channel_stride = 1,
      .four_bytes = true,
  };
  owner = Py_NewRef(PyTuple_GET_ITEM(capsules, 1));

done:
  Py_DECREF(capsules);
  return owner;
}

/* An image that Pillow holds in several blocks, read by bands: each is cropped to an image of its
 * own, which is in one block. */
typedef struct {
  PyObject *image; /* new reference */
  PyObject *owner; /* of the band's pixels, a new reference; NULL: no band yet */
  cnclip_image band;
  int width, height;
  int first; /* the band's first row in the image */
} banded_image;

enum { BAND_BYTES = 1 << 20 }; /* stays in a core's cache between the cropping and the reading */

static const char banded_name[] = "cnclip.banded_image";

static void free_banded(PyObject *capsule) {
  banded_image *banded = PyCapsule_GetPointer(capsule, banded_name);
  Py_XDECREF(banded->owner);
  Py_DECREF(banded->image);
  PyMem_Free(banded);
}

/* Makes the band that begins at row y. False where Pillow does not lend it, perhaps with an
 * exception set. */
static int make_band(banded_image *banded, int y) {
  const int row_bytes = banded->width > BAND_BYTES / 4 ? BAND_BYTES : banded->width * 4;
  const int rows = BAND_BYTES / row_bytes;
  const int end = rows < banded->height - y ? y + rows : banded->height;
  Py_CLEAR(banded->owner);
  PyObject *band = PyObject_CallMethod(banded->image, "crop", "((iiii))", 0, y, banded->width, end);
  if (band == NULL) return 0;
  banded->owner = lend_pillow(band, &banded->band);
  banded->first = y;
  Py_DECREF(band);
  if (banded->owner == NULL) return 0;
  if (banded->band.width == banded->width && banded->band.height == end - y) return 1;
  Py_CLEAR(banded->owner);
  return 0;
}

/* A cnclip_image_read_row. Runs without the GIL and takes it for each band. An exception stays set
 * for the caller to see once it has the GIL again. */
static void read_banded_row(void *context, int y, uint8_t *output) {
  banded_image *banded = context;
  if (banded->owner == NULL || y >= banded->first + banded->band.height) {
    const PyGILState_STATE gil = PyGILState_Ensure();
    if (!PyErr_Occurred() && !make_band(banded, y) && !PyErr_Occurred()) {
      PyErr_SetString(PyExc_RuntimeError, "Pillow does not lend a part of an image");
    }
    PyGILState_Release(gil);
    if (banded->owner == NULL) return;
  }
  memcpy(output, banded->band.pixels + (y - banded->first) * banded->band.row_stride,
         (size_t)banded->width * 4);
}

/* An image in several blocks. A new capsule, or NULL: with an exception set, or without one where
 * it cannot be had by bands either. */
static PyObject *borrow_banded(PyObject *item, cnclip_image *ret_image) {
  int width, height;
  if (!read_size(item, &width, &height)) return NULL;
  banded_image *banded = PyMem_Calloc(1, sizeof *banded);
  if (banded == NULL) return PyErr_NoMemory();
  banded->image = Py_NewRef(item);
  banded->width = width;
  banded->height = height;
  PyObject *capsule = PyCapsule_New(banded, banded_name, free_banded);
  if (capsule == NULL) {
    Py_DECREF(banded->image);
    PyMem_Free(banded);
    return NULL;
  }
  if (!make_band(banded, 0)) Py_CLEAR(capsule);
  *ret_image = (cnclip_image){
      .width = width, .height = height, .read_row = read_banded_row, .context = banded};
  return capsule;
}

/* A PIL.Image.Image of mode RGB, in the best way there is; a new reference to what keeps its pixels
 * alive, or NULL with an exception set. */
static PyObject *borrow_pillow(const cnclip_state *state, PyObject *item, Py_ssize_t index,
                               cnclip_image *ret_image) {
  PyObject *owner = lend_pillow(item, ret_image);
  if (owner == NULL && !PyErr_Occurred() && PyObject_HasAttrString(item, "__arrow_c_array__")) {
    owner = borrow_banded(item, ret_image);
  }
  if (owner == NULL && !PyErr_Occurred()) owner = copy_pixels(state, item, index, ret_image);
  return owner;
}

static PyObject *borrow_image(const cnclip_state *state, PyObject *item, Py_ssize_t index,
                              cnclip_image *ret_image) {
  if (PyArray_Check(item)) {
    return borrow_array(state, item, index, ret_image) ? Py_NewRef(item) : NULL;
  }
  PyObject *mode = PyObject_GetAttrString(item, "mode");
  if (mode == NULL || !PyUnicode_Check(mode)) {
    Py_XDECREF(mode);
    PyErr_Clear();
    PyErr_Format(state->input_type_error,
                 "img[%zd]: expected PIL.Image.Image or a uint8 array, got %.100s", index,
                 Py_TYPE(item)->tp_name);
    return NULL;
  }
  const int is_rgb = PyUnicode_CompareWithASCIIString(mode, "RGB") == 0;
  if (!is_rgb) {
    PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                 "img[%zd]: expected an image of mode RGB, got %R", index, mode);
  }
  Py_DECREF(mode);
  return is_rgb ? borrow_pillow(state, item, index, ret_image) : NULL;
}

int cnclip_borrow_images(const cnclip_state *state, PyObject *sequence,
                         cnclip_borrowed_images *ret_images) {
  *ret_images = (cnclip_borrowed_images){0};
  int complete = 0;
  PyObject *tuple = tuple_of(state, sequence, "images");
  if (tuple == NULL) return 0;
  const Py_ssize_t count = PyTuple_GET_SIZE(tuple);
  ret_images->owners = cnclip_alloc_array((size_t)count, sizeof(PyObject *));
  ret_images->images = cnclip_alloc_array((size_t)count, sizeof(cnclip_image));
  if (ret_images->owners == NULL || ret_images->images == NULL) {
    PyErr_NoMemory();
    goto done;
  }
  /* ret_images->count is what cnclip_release_images has to release. */
  for (Py_ssize_t i = 0; i < count; i++) {
    PyObject *owner = borrow_image(state, PyTuple_GET_ITEM(tuple, i), i, &ret_images->images[i]);
    if (owner == NULL) goto done;
    ret_images->owners[i] = owner;
    ret_images->count = i + 1;
  }
  complete = 1;

done:
  Py_DECREF(tuple);
  return complete;
}

void cnclip_release_images(cnclip_borrowed_images *images) {
  for (Py_ssize_t i = 0; i < images->count; i++) Py_DECREF(images->owners[i]);
  free(images->owners);
  free(images->images);
  *images = (cnclip_borrowed_images){0};
}

static bool are_pixels(PyArrayObject *array) {
  return PyArray_TYPE(array) == NPY_FLOAT32 && PyArray_ISNOTSWAPPED(array) &&
         PyArray_NDIM(array) == 4 && PyArray_DIM(array, 1) == 3 &&
         PyArray_DIM(array, 2) == PyArray_DIM(array, 3);
}

int cnclip_borrow_pixels(const cnclip_state *state, PyObject *object,
                         cnclip_borrowed_pixels *ret_pixels) {
  *ret_pixels = (cnclip_borrowed_pixels){0};
  if (!PyArray_Check(object)) {
    PyErr_Format(state->input_type_error,
                 "pixels: expected a float32 array [n, 3, r, r], got %.100s",
                 Py_TYPE(object)->tp_name);
    return 0;
  }
  PyArrayObject *array = (PyArrayObject *)object;
  if (!are_pixels(array)) {
    PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                 "pixels: expected a float32 array [n, 3, r, r], got %S with %d dimensions, %zd "
                 "elements",
                 PyArray_DESCR(array), PyArray_NDIM(array), (Py_ssize_t)PyArray_SIZE(array));
    return 0;
  }
  PyArrayObject *contiguous = PyArray_GETCONTIGUOUS(array);
  if (contiguous == NULL) return 0;
  *ret_pixels = (cnclip_borrowed_pixels){
      .owner = (PyObject *)contiguous,
      .data = PyArray_DATA(contiguous),
      .count = PyArray_DIM(contiguous, 0),
      .resolution = PyArray_DIM(contiguous, 2),
  };
  return 1;
}

float *cnclip_borrow_output(const cnclip_state *state, PyObject *object, Py_ssize_t count,
                            Py_ssize_t resolution) {
  PyArrayObject *array = (PyArrayObject *)object;
  if (!PyArray_Check(object) || !are_pixels(array) || !PyArray_ISCARRAY(array) ||
      PyArray_DIM(array, 0) != count || PyArray_DIM(array, 2) != resolution) {
    PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                 "out: expected a contiguous float32 array [%zd, 3, %zd, %zd] to write to", count,
                 resolution, resolution);
    return NULL;
  }
  return PyArray_DATA(array);
}

int cnclip_read_three_floats(PyObject *sequence, const char *name, float values[3]) {
  PyObject *tuple = PySequence_Tuple(sequence);
  if (tuple == NULL) return 0;
  int complete = PyTuple_GET_SIZE(tuple) == 3;
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
