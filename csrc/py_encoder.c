/* _core.Encoder: pictures and texts to embeddings. */
#include "py_types.h"

#include <limits.h>
#include <stdio.h>

#include "py_array.h"

/* What the constructor was given. `path` is a new reference to bytes. */
typedef struct {
  PyObject *path, *tokenizer, *image_processor;
  const char *device, *precision;
  Py_ssize_t embedding_width, context_length;
  int num_threads;
} encoder_arguments;

static int parse_arguments(const cnclip_state *state, PyObject *arguments, PyObject *keywords,
                           encoder_arguments *parsed) {
  static char *names[] = {"path",
                          "tokenizer",
                          "image_processor",
                          "embedding_width",
                          "context_length",
                          "device",
                          "precision",
                          "num_threads",
                          NULL};
  *parsed = (encoder_arguments){.device = "cpu", .precision = "fp32"};
  if (!PyArg_ParseTupleAndKeywords(
          arguments, keywords, "O&O!O!nn|ssi:Encoder", names, PyUnicode_FSConverter, &parsed->path,
          state->tokenizer_type, &parsed->tokenizer, state->image_processor_type,
          &parsed->image_processor, &parsed->embedding_width, &parsed->context_length,
          &parsed->device, &parsed->precision, &parsed->num_threads)) {
    return 0;
  }
  if (parsed->embedding_width < 1 || parsed->context_length < 2 ||
      parsed->embedding_width > INT_MAX || parsed->context_length > INT_MAX ||
      parsed->num_threads < 0) {
    PyErr_SetString(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                    "embedding_width must be at least 1, context_length at least 2, num_threads "
                    "at least 0");
    return 0;
  }
  return 1;
}

static PyObject *encoder_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  const cnclip_state *state = cnclip_state_of(type);
  cnclip_py_encoder *self = NULL;
  cnclip_torch_model *model = NULL;
  encoder_arguments parsed;
  cnclip_status status;
  cnclip_error error;

  if (!parse_arguments(state, arguments, keywords, &parsed)) goto done;
  self = (cnclip_py_encoder *)type->tp_alloc(type, 0);
  if (self == NULL) goto done;
  self->tokenizer = Py_NewRef(parsed.tokenizer);
  self->image_processor = Py_NewRef(parsed.image_processor);

  Py_BEGIN_ALLOW_THREADS
  status = cnclip_torch_model_load(PyBytes_AS_STRING(parsed.path), parsed.device, parsed.precision,
                                   parsed.num_threads, &model, &error);
  Py_END_ALLOW_THREADS
  if (status != CNCLIP_OK) {
    const bool of_process = status == CNCLIP_ERROR_FORKED || status == CNCLIP_ERROR_DEVICE;
    cnclip_raise(state, &error, of_process ? NULL : PyBytes_AS_STRING(parsed.path));
    Py_CLEAR(self);
    goto done;
  }
  self->encoder = (cnclip_encoder){
      .model = model,
      .vocab = ((cnclip_py_tokenizer *)parsed.tokenizer)->vocab,
      .processor = ((cnclip_py_image_processor *)parsed.image_processor)->processor,
      .context_length = (size_t)parsed.context_length,
      .embedding_width = (size_t)parsed.embedding_width,
  };

done:
  Py_XDECREF(parsed.path);
  return (PyObject *)self;
}

static void encoder_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  cnclip_py_encoder *self = (cnclip_py_encoder *)object;
  cnclip_torch_model_free(self->encoder.model);
  Py_XDECREF(self->tokenizer);
  Py_XDECREF(self->image_processor);
  type->tp_free(object);
  Py_DECREF(type);
}

/* Takes the GIL back for a moment, so that Ctrl-C is seen between batches. `context` is the address
 * of the suspended thread's state. */
static bool signal_pending(void *context) {
  PyThreadState **suspended = context;
  PyEval_RestoreThread(*suspended);
  const bool pending = PyErr_CheckSignals() != 0;
  *suspended = PyEval_SaveThread();
  return pending;
}

/* Parses (sequence, batch_size). */
static int parse_call(const cnclip_state *state, PyObject *arguments, PyObject *keywords,
                      const char *format, PyObject **ret_sequence, Py_ssize_t *ret_batch_size) {
  static char *names[] = {"items", "batch_size", NULL};
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, format, names, ret_sequence,
                                   ret_batch_size)) {
    return 0;
  }
  if (*ret_batch_size >= 1) return 1;
  PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT], "batch_size: expected 1 or more, got %zd",
               *ret_batch_size);
  return 0;
}

PyDoc_STRVAR(encode_images_doc,
             "encode_images($self, items, batch_size)\n--\n\n"
             "Pictures of mode RGB and uint8 arrays [h, w, 3] to unit rows float32 [n, d].");

static PyObject *encode_images(PyObject *object, PyObject *arguments, PyObject *keywords) {
  const cnclip_state *state = cnclip_state_of(Py_TYPE(object));
  const cnclip_encoder *encoder = &((cnclip_py_encoder *)object)->encoder;
  PyObject *sequence, *result = NULL;
  Py_ssize_t batch_size;
  cnclip_borrowed_images images = {0};
  cnclip_error error;
  size_t failed;
  float *embeddings;

  if (!parse_call(state, arguments, keywords, "On:encode_images", &sequence, &batch_size)) {
    return NULL;
  }
  if (!cnclip_borrow_images(state, sequence, &images)) goto done;
  result = cnclip_new_float_array(
      2, (const Py_ssize_t[]){images.count, (Py_ssize_t)encoder->embedding_width}, &embeddings);
  if (result == NULL) goto done;

  PyThreadState *suspended = PyEval_SaveThread();
  const cnclip_status status =
      cnclip_encoder_encode_images(encoder, images.images, (size_t)images.count, (size_t)batch_size,
                                   embeddings, signal_pending, &suspended, &failed, &error);
  PyEval_RestoreThread(suspended);
  if (status != CNCLIP_OK) {
    char prefix[40];
    snprintf(prefix, sizeof prefix, "img[%zu]", failed);
    cnclip_raise(state, &error, failed < (size_t)images.count ? prefix : NULL);
    Py_CLEAR(result);
  }

done:
  cnclip_release_images(&images);
  return result;
}

PyDoc_STRVAR(encode_texts_doc,
             "encode_texts($self, items, batch_size)\n--\n\n"
             "Texts to unit rows float32 [n, d], in the order of the texts.");

static PyObject *encode_texts(PyObject *object, PyObject *arguments, PyObject *keywords) {
  const cnclip_state *state = cnclip_state_of(Py_TYPE(object));
  const cnclip_encoder *encoder = &((cnclip_py_encoder *)object)->encoder;
  PyObject *sequence, *result = NULL;
  Py_ssize_t batch_size;
  cnclip_borrowed_texts texts = {0};
  cnclip_error error;
  float *embeddings;

  if (!parse_call(state, arguments, keywords, "On:encode_texts", &sequence, &batch_size)) {
    return NULL;
  }
  if (!cnclip_borrow_texts(state, sequence, &texts)) goto done;
  result = cnclip_new_float_array(
      2, (const Py_ssize_t[]){texts.count, (Py_ssize_t)encoder->embedding_width}, &embeddings);
  if (result == NULL) goto done;

  PyThreadState *suspended = PyEval_SaveThread();
  const cnclip_status status =
      cnclip_encoder_encode_texts(encoder, texts.texts, (size_t)texts.count, (size_t)batch_size,
                                  embeddings, signal_pending, &suspended, &error);
  PyEval_RestoreThread(suspended);
  if (status != CNCLIP_OK) {
    cnclip_raise(state, &error, NULL);
    Py_CLEAR(result);
  }

done:
  cnclip_release_texts(&texts);
  return result;
}

static PyObject *get_num_threads(PyObject *object, void *closure) {
  (void)closure;
  return PyLong_FromLong(
      cnclip_torch_model_num_threads(((cnclip_py_encoder *)object)->encoder.model));
}

static PyGetSetDef getters[] = {
    {"num_threads", get_num_threads, NULL, "Threads that a run of the model uses.", NULL},
    {0},
};

static PyMethodDef methods[] = {
    {"encode_images", (PyCFunction)(void (*)(void))encode_images, METH_VARARGS | METH_KEYWORDS,
     encode_images_doc},
    {"encode_texts", (PyCFunction)(void (*)(void))encode_texts, METH_VARARGS | METH_KEYWORDS,
     encode_texts_doc},
    {0},
};

static PyType_Slot slots[] = {
    {Py_tp_doc,
     "Encoder(path, tokenizer, image_processor, embedding_width, context_length, device='cpu', "
     "precision='fp32', num_threads=0)\n--\n\n"
     "A TorchScript archive's two towers with what stands before them."},
    {Py_tp_new, encoder_new},
    {Py_tp_dealloc, encoder_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0},
};

PyType_Spec cnclip_encoder_spec = {
    .name = "cnclip._core.Encoder",
    .basicsize = sizeof(cnclip_py_encoder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
