/* _core.ImageProcessor: images to the pixels that the vision tower takes. */
#include <stddef.h>

#include "python/py_borrow.h"
#include "python/py_types.h"

#include <structmember.h>

static PyObject *processor_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  static char *names[] = {"resolution", "mean", "std", NULL};
  const cnclip_state *state = cnclip_state_of(type);
  float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
  float deviation[3] = {0.26862954f, 0.26130258f, 0.27577711f};
  PyObject *mean_object = NULL, *deviation_object = NULL;
  int resolution;
  cnclip_isa isa;
  cnclip_error error;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "i|OO:ImageProcessor", names, &resolution,
                                   &mean_object, &deviation_object)) {
    return NULL;
  }
  if (mean_object != NULL && !cnclip_read_three_floats(mean_object, "mean", mean)) return NULL;
  if (deviation_object != NULL && !cnclip_read_three_floats(deviation_object, "std", deviation)) {
    return NULL;
  }
  cnclip_py_image_processor *self = (cnclip_py_image_processor *)type->tp_alloc(type, 0);
  if (self == NULL) return NULL;
  cnclip_status status = cnclip_isa_choose(&isa, &error);
  if (status == CNCLIP_OK) {
    self->resolution = resolution;
    self->isa = cnclip_isa_name(isa);
    status = cnclip_image_processor_new(resolution, mean, deviation, isa, &self->processor, &error);
  }
  if (status != CNCLIP_OK) {
    cnclip_raise(state, &error);
    Py_CLEAR(self);
  }
  return (PyObject *)self;
}

static void processor_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  cnclip_image_processor_free(((cnclip_py_image_processor *)object)->processor);
  type->tp_free(object);
  Py_DECREF(type);
}

PyObject *cnclip_convert_images(const cnclip_state *state, const cnclip_image_processor *processor,
                                cnclip_convert_image *convert, const void *context, bool is_bytes,
                                PyObject *arguments, PyObject *keywords, const char *format) {
  static char *names[] = {"", "out", NULL};
  const Py_ssize_t resolution = cnclip_image_processor_resolution(processor);
  const Py_ssize_t image_bytes = resolution * resolution * (is_bytes ? 4 : 3 * sizeof(float));
  PyObject *sequence, *out = Py_None, *result = NULL;
  cnclip_borrowed_images images = {0};
  cnclip_status status = CNCLIP_OK;
  cnclip_error error;
  Py_ssize_t i = 0;
  void *data;

  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, format, names, &sequence, &out)) {
    return NULL;
  }
  if (!cnclip_borrow_images(state, processor, sequence, &images)) goto exit;
  result = cnclip_pixels_output(state, out, is_bytes, images.count, resolution, &data);
  if (result == NULL) goto exit;

  Py_BEGIN_ALLOW_THREADS
  for (; i < images.count; i++) {
    status = convert(context, &images.images[i], (char *)data + i * image_bytes, &error);
    if (status != CNCLIP_OK) break;
  }
  Py_END_ALLOW_THREADS
  if (status != CNCLIP_OK) {
    cnclip_raise_item(cnclip_exception_of(state, status), "img", i, "%s", error.message);
    Py_CLEAR(result);
  }

exit:
  cnclip_release_images(&images);
  return result;
}

/* The functions for cnclip_convert_images; the context is the processor. */
static cnclip_status to_floats(const void *processor, const cnclip_image *image, void *output,
                               cnclip_error *error) {
  return cnclip_image_process(processor, image, output, error);
}

static cnclip_status to_bytes(const void *processor, const cnclip_image *image, void *output,
                              cnclip_error *error) {
  return cnclip_image_resize(processor, image, output, error);
}

PyDoc_STRVAR(process_doc,
             "process($self, images, /, out=None)\n--\n\n"
             "Images of mode RGB and uint8 arrays [h, w, 3] to float32 [n, 3, r, r], written to\n"
             "`out` if it is given.");

static PyObject *processor_process(PyObject *object, PyObject *arguments, PyObject *keywords) {
  const cnclip_image_processor *processor = ((cnclip_py_image_processor *)object)->processor;
  return cnclip_convert_images(cnclip_state_of(Py_TYPE(object)), processor, to_floats, processor,
                               false, arguments, keywords, "O|O:process");
}

PyDoc_STRVAR(
    resize_doc,
    "resize($self, images, /, out=None)\n--\n\n"
    "Images of mode RGB and uint8 arrays [h, w, 3] to uint8 [n, r, r, 4]: red, green, blue\n"
    "and 0, not normalized. Written to `out` if it is given.");

static PyObject *processor_resize(PyObject *object, PyObject *arguments, PyObject *keywords) {
  const cnclip_image_processor *processor = ((cnclip_py_image_processor *)object)->processor;
  return cnclip_convert_images(cnclip_state_of(Py_TYPE(object)), processor, to_bytes, processor,
                               true, arguments, keywords, "O|O:resize");
}

static PyMemberDef members[] = {
    {"resolution", T_INT, offsetof(cnclip_py_image_processor, resolution), READONLY,
     "Width and height of the result in pixels."},
    {"isa", T_STRING, offsetof(cnclip_py_image_processor, isa), READONLY,
     "Instruction set of the kernels, see CNCLIP_FORCE_ISA."},
    {0},
};

static PyMethodDef methods[] = {
    {"process", (PyCFunction)(void (*)(void))processor_process, METH_VARARGS | METH_KEYWORDS,
     process_doc},
    {"resize", (PyCFunction)(void (*)(void))processor_resize, METH_VARARGS | METH_KEYWORDS,
     resize_doc},
    {0},
};

static PyType_Slot slots[] = {
    {Py_tp_doc,
     "ImageProcessor(resolution, mean=..., std=...)\n--\n\n"
     "Pillow's bicubic resampling, scaling and normalizing; mean and std default to CLIP's."},
    {Py_tp_new, processor_new},
    {Py_tp_dealloc, processor_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_traverse, cnclip_visit_type},
    {0},
};

PyType_Spec cnclip_image_processor_spec = {
    .name = "cnclip._core.ImageProcessor",
    .basicsize = sizeof(cnclip_py_image_processor),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
