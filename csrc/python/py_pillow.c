/* The pixels of Pillow's images. */
#include <string.h>

#include "python/py_borrow.h"

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

/* The bytes of an image whose type is fixed_size_list<uint8>[4], one list per pixel; NULL for any
 * other type, and for none. The interface defines how many children and buffers each type has. */
static const uint8_t *arrow_pixels(const struct arrow_schema *schema,
                                   const struct arrow_array *array, int64_t pixels) {
  if (strcmp(schema->format, "+w:4") != 0 || strcmp(schema->children[0]->format, "C") != 0) {
    return NULL;
  }
  const struct arrow_array *bytes = array->children[0];
  const int64_t first = array->offset * 4;
  if (pixels == 0 || array->length != pixels || bytes->length < first + pixels * 4) return NULL;
  return (const uint8_t *)bytes->buffers[1] + bytes->offset + first;
}

static cnclip_image four_byte_image(const uint8_t *pixels, int width, int height) {
  return (cnclip_image){
      .pixels = pixels,
      .width = width,
      .height = height,
      .row_stride = (ptrdiff_t)width * 4,
      .pixel_stride = 4,
      .channel_stride = 1,
      .four_bytes = true,
  };
}

static bool read_size(PyObject *item, int *ret_width, int *ret_height) {
  PyObject *size = PyObject_GetAttrString(item, "size");
  if (size == NULL) return false;
  const bool is_pair = PyTuple_Check(size) && PyArg_ParseTuple(size, "ii", ret_width, ret_height);
  if (!is_pair && !PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "size is not a tuple");
  Py_DECREF(size);
  return is_pair;
}

/* Borrows the pixels of an image in one block. A new reference to the object that keeps them alive,
 * or NULL: with an exception set, or without one where Pillow does not export them. */
static PyObject *borrow_block(PyObject *item, cnclip_image *ret_image) {
  PyObject *capsules = PyObject_CallMethod(item, "__arrow_c_array__", NULL);
  PyObject *owner = NULL;
  int width, height;
  if (capsules == NULL) {
    if (PyErr_ExceptionMatches(PyExc_ValueError)) PyErr_Clear(); /* in several blocks */
    goto exit;
  }
  if (!PyTuple_Check(capsules) || PyTuple_GET_SIZE(capsules) != 2) {
    PyErr_SetString(PyExc_TypeError, "__arrow_c_array__ did not return a pair");
    goto exit;
  }
  const struct arrow_schema *schema =
      PyCapsule_GetPointer(PyTuple_GET_ITEM(capsules, 0), "arrow_schema");
  if (schema == NULL) goto exit;
  const struct arrow_array *array =
      PyCapsule_GetPointer(PyTuple_GET_ITEM(capsules, 1), "arrow_array");
  if (array == NULL || !read_size(item, &width, &height)) goto exit;

  const uint8_t *pixels = arrow_pixels(schema, array, (int64_t)width * height);
  if (pixels == NULL) goto exit;
  *ret_image = four_byte_image(pixels, width, height);
  owner = Py_NewRef(PyTuple_GET_ITEM(capsules, 1));

exit:
  Py_XDECREF(capsules);
  return owner;
}

/* A rectangle of an image. */
typedef struct {
  int x, y, width, height;
} box;

/* The part of an image from row or column `start` on that is cropped in one piece. */
static box part_at(const box *whole, bool vertical, int start) {
  enum { PART_PIXELS = 1 << 21 }; /* 8 MiB: narrower columns take longer to crop */
  const int length = vertical ? whole->height : whole->width;
  const int end = vertical ? whole->width : whole->height;
  int count = length < PART_PIXELS ? PART_PIXELS / length : 1;
  if (count > end - start) count = end - start;
  return vertical ? (box){start, 0, count, length} : (box){0, start, length, count};
}

/* As borrow_block, of a part of an image: cropped to a new image, which is in one block. */
static PyObject *borrow_part(PyObject *item, const box *part, cnclip_image *ret_image) {
  PyObject *crop = PyObject_CallMethod(item, "crop", "((iiii))", part->x, part->y,
                                       part->x + part->width, part->y + part->height);
  if (crop == NULL) return NULL;
  PyObject *owner = borrow_block(crop, ret_image);
  Py_DECREF(crop);
  if (owner != NULL && (ret_image->width != part->width || ret_image->height != part->height)) {
    Py_CLEAR(owner);
  }
  return owner;
}

/* An image in several blocks, after the first pass of its processing, which is computed part by
 * part. Returns as borrow_block. */
static PyObject *first_pass_by_parts(const cnclip_state *state,
                                     const cnclip_image_processor *processor, PyObject *item,
                                     Py_ssize_t index, cnclip_image *ret_image) {
  box whole = {0};
  if (!read_size(item, &whole.width, &whole.height)) return NULL;
  if (whole.width < 1 || whole.height < 1) return NULL;
  const int resolution = cnclip_image_processor_resolution(processor);
  const bool vertical = cnclip_resample_is_vertical_first(whole.width, whole.height, resolution);
  const int width = vertical ? whole.width : resolution;
  const int height = vertical ? resolution : whole.height;
  const Py_ssize_t row_bytes = (Py_ssize_t)width * 4;
  PyObject *result = NULL, *small = PyBytes_FromStringAndSize(NULL, row_bytes * height);
  if (small == NULL) return NULL;
  uint8_t *pixels = (uint8_t *)PyBytes_AS_STRING(small);

  const int end = vertical ? whole.width : whole.height;
  int start = 0;
  while (start < end) {
    const box part = part_at(&whole, vertical, start);
    uint8_t *output = pixels + part.y * row_bytes + (Py_ssize_t)part.x * 4;
    cnclip_status status;
    cnclip_error error;
    cnclip_image image;
    PyObject *owner = borrow_part(item, &part, &image);
    if (owner == NULL) goto exit;
    Py_BEGIN_ALLOW_THREADS
    status =
        cnclip_image_first_pass(processor, &image, vertical, output, (size_t)row_bytes, &error);
    Py_END_ALLOW_THREADS
    Py_DECREF(owner);
    if (status != CNCLIP_OK) {
      cnclip_raise_item(cnclip_exception_of(state, status), "img", index, "%s", error.message);
      goto exit;
    }
    start += vertical ? part.width : part.height;
  }
  *ret_image = four_byte_image(pixels, width, height);
  result = Py_NewRef(small);

exit:
  Py_DECREF(small);
  return result;
}

PyObject *cnclip_borrow_pillow(const cnclip_state *state, const cnclip_image_processor *processor,
                               PyObject *item, Py_ssize_t index, cnclip_image *ret_image) {
  PyObject *method; /* an older Pillow lacks it */
  if (!cnclip_find_attribute(item, "__arrow_c_array__", &method) || method == NULL) return NULL;
  Py_DECREF(method);
  PyObject *owner = borrow_block(item, ret_image);
  if (owner == NULL && !PyErr_Occurred()) {
    owner = first_pass_by_parts(state, processor, item, index, ret_image);
  }
  return owner;
}
