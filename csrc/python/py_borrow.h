/* Conversion between Python's objects and the core's plain arguments: arrays to fill, texts and
 * images to read. All functions need the GIL. */
#ifndef CNCLIP_PY_BORROW_H
#define CNCLIP_PY_BORROW_H

#include <stdbool.h>

#include "engine/engine.h"
#include "image/image.h"
#include "python/py_state.h"
#include "text/tokenizer.h"

/* A new, uninitialised array, or NULL with an exception set; *ret_data: its memory, borrowed. */
PyObject *cnclip_new_float_array(int dimensions, const Py_ssize_t *shape, float **ret_data);
PyObject *cnclip_new_int64_array(int dimensions, const Py_ssize_t *shape, int64_t **ret_data);

/* As PyObject_GetOptionalAttr of Python 3.13. *ret_value: a new reference, or NULL where the object
 * lacks the attribute. False with an exception set for any other error, such as MemoryError. */
bool cnclip_find_attribute(PyObject *object, const char *name, PyObject **ret_value);

/* Texts borrowed from a sequence of str. The tuple keeps them alive if other threads change the
 * sequence while the GIL is dropped. */
typedef struct {
  PyObject *tuple;
  cnclip_text *texts;
  Py_ssize_t count;
} cnclip_borrowed_texts;

/* False, with an exception set that names the index, where `sequence` is a str or no sequence
 * (TypeError) or an item is not a str. Release with cnclip_release_texts in either case. */
bool cnclip_borrow_texts(const cnclip_state *state, PyObject *sequence,
                         cnclip_borrowed_texts *ret_texts);
void cnclip_release_texts(cnclip_borrowed_texts *texts);

/* Images borrowed from a sequence of RGB PIL.Image.Image and uint8 arrays [h, w, 3]. */
typedef struct {
  PyObject **owners; /* new references to the objects that keep the images' pixels alive */
  cnclip_image *images;
  Py_ssize_t count;
} cnclip_borrowed_images;

/* As cnclip_borrow_texts, for `processor` only: of an image that Pillow holds in several blocks
 * (over 16 MiB), the result of the processor's first pass takes the image's place. */
bool cnclip_borrow_images(const cnclip_state *state, const cnclip_image_processor *processor,
                          PyObject *sequence, cnclip_borrowed_images *ret_images);
void cnclip_release_images(cnclip_borrowed_images *images);

/* One PIL.Image.Image of mode RGB, item `index` of its sequence, through the Arrow C interface: for
 * cnclip_borrow_images. A new reference to the object that keeps the pixels alive, or NULL: with an
 * exception set, or without one where Pillow does not export them. */
PyObject *cnclip_borrow_pillow(const cnclip_state *state, const cnclip_image_processor *processor,
                               PyObject *item, Py_ssize_t index, cnclip_image *ret_image);

/* Borrows float32 [n, 3, r, r] or uint8 [n, r, r, 4]; an array that is not contiguous is copied. A
 * new reference to the object that keeps the pixels alive, or NULL with an exception set for any
 * other object (not an array: TypeError; another array: ValueError). */
PyObject *cnclip_borrow_pixels(const cnclip_state *state, PyObject *object,
                               cnclip_pixels *ret_pixels);

/* Borrows token ids, integers [count, columns]; an array that is not contiguous or not int64 is
 * copied. A new reference to the object that keeps the ids alive, or NULL with an exception set for
 * any other object (not an array: TypeError; another array: ValueError). */
PyObject *cnclip_borrow_ids(const cnclip_state *state, PyObject *object, const int64_t **ret_ids,
                            size_t *ret_count, size_t *ret_columns);

/* Borrows float32 [count, width]; an array that is not contiguous is copied. A new reference to the
 * object that keeps the rows alive, or NULL with an exception set for any other object. */
PyObject *cnclip_borrow_rows(PyObject *object, const float **ret_rows, size_t *ret_count,
                             size_t *ret_width);

/* The array for the pixels of `count` images, and its memory, borrowed: `out`, which must be such
 * an array, contiguous, or a new one if that is None. float32 [count, 3, r, r], or with `is_bytes`
 * uint8 [count, r, r, 4]. A new reference, or NULL with an exception set. */
PyObject *cnclip_pixels_output(const cnclip_state *state, PyObject *out, bool is_bytes,
                               Py_ssize_t count, Py_ssize_t resolution, void **ret_data);

/* Reads a sequence of three floats. False with an exception set. */
bool cnclip_read_three_floats(PyObject *sequence, const char *name, float values[3]);

/* Creates the NumPy API table. False with an exception set. Called once, by py_module.c. */
bool cnclip_import_numpy(void);

#endif
