/* _core.Encoder: pixels and texts to embeddings. */
#include "python/py_types.h"

#include <limits.h>

#include "python/py_borrow.h"

/* What the constructor was given. `path` is a new reference to bytes. */
typedef struct {
  PyObject *path, *tokenizer;
  const char *device, *precision;
  Py_ssize_t embedding_width, context_length;
  int num_threads;
} encoder_arguments;

static int parse_arguments(const cnclip_state *state, PyObject *arguments, PyObject *keywords,
                           encoder_arguments *parsed) {
  static char *names[] = {"path",   "tokenizer", "embedding_width", "context_length",
                          "device", "precision", "num_threads",     NULL};
  *parsed = (encoder_arguments){.device = "cpu", .precision = "fp32"};
  if (!PyArg_ParseTupleAndKeywords(
          arguments, keywords, "O&O!nn|ssi:Encoder", names, PyUnicode_FSConverter, &parsed->path,
          state->tokenizer_type, &parsed->tokenizer, &parsed->embedding_width,
          &parsed->context_length, &parsed->device, &parsed->precision, &parsed->num_threads)) {
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
  self->encoder = (cnclip_text_encoder){
      .model = model,
      .vocab = ((cnclip_py_tokenizer *)parsed.tokenizer)->vocab,
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

PyDoc_STRVAR(encode_pixels_doc,
             "encode_pixels($self, pixels, /)\n--\n\n"
             "What ImageProcessor makes of images, float32 [n, 3, r, r], to unit rows float32 "
             "[n, d].\nAll of it goes through the model together.");

static PyObject *encode_pixels(PyObject *object, PyObject *argument) {
  const cnclip_state *state = cnclip_state_of(Py_TYPE(object));
  const cnclip_text_encoder *encoder = &((cnclip_py_encoder *)object)->encoder;
  const Py_ssize_t width = (Py_ssize_t)encoder->embedding_width;
  cnclip_borrowed_pixels pixels = {0};
  PyObject *result = NULL;
  cnclip_status status = CNCLIP_OK;
  cnclip_error error;
  float *embeddings;

  if (!cnclip_borrow_pixels(state, argument, &pixels)) return NULL;
  result = cnclip_new_float_array(2, (const Py_ssize_t[]){pixels.count, width}, &embeddings);
  if (result == NULL || pixels.count == 0) goto done;

  Py_BEGIN_ALLOW_THREADS
  status = cnclip_torch_model_encode_image(encoder->model, pixels.data, (size_t)pixels.count,
                                           (size_t)pixels.resolution, embeddings,
                                           encoder->embedding_width, &error);
  Py_END_ALLOW_THREADS
  if (status != CNCLIP_OK) {
    cnclip_raise(state, &error, NULL);
    Py_CLEAR(result);
  }

done:
  Py_DECREF(pixels.owner);
  return result;
}

/* Parses (texts, batch_size). */
static int parse_texts_call(const cnclip_state *state, PyObject *arguments, PyObject *keywords,
                            PyObject **ret_texts, Py_ssize_t *ret_batch_size) {
  static char *names[] = {"items", "batch_size", NULL};
  *ret_batch_size = 0;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|n:encode_texts", names, ret_texts,
                                   ret_batch_size)) {
    return 0;
  }
  if (*ret_batch_size >= 0) return 1;
  PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT], "batch_size: expected 0 or more, got %zd",
               *ret_batch_size);
  return 0;
}

PyDoc_STRVAR(encode_texts_doc,
             "encode_texts($self, items, batch_size=0)\n--\n\n"
             "Texts to unit rows float32 [n, d], in the order of the texts. At most batch_size go\n"
             "through the model together; 0 leaves their number to the encoder.");

static PyObject *encode_texts(PyObject *object, PyObject *arguments, PyObject *keywords) {
  const cnclip_state *state = cnclip_state_of(Py_TYPE(object));
  const cnclip_text_encoder *encoder = &((cnclip_py_encoder *)object)->encoder;
  PyObject *sequence, *result = NULL;
  Py_ssize_t batch_size;
  cnclip_borrowed_texts texts = {0};
  cnclip_error error;
  float *embeddings;

  if (!parse_texts_call(state, arguments, keywords, &sequence, &batch_size)) return NULL;
  if (!cnclip_borrow_texts(state, sequence, &texts)) goto done;
  result = cnclip_new_float_array(
      2, (const Py_ssize_t[]){texts.count, (Py_ssize_t)encoder->embedding_width}, &embeddings);
  if (result == NULL) goto done;

  PyThreadState *suspended = PyEval_SaveThread();
  const cnclip_status status =
      cnclip_text_encoder_encode(encoder, texts.texts, (size_t)texts.count, (size_t)batch_size,
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
    {"encode_pixels", encode_pixels, METH_O, encode_pixels_doc},
    {"encode_texts", (PyCFunction)(void (*)(void))encode_texts, METH_VARARGS | METH_KEYWORDS,
     encode_texts_doc},
    {0},
};

static PyType_Slot slots[] = {
    {Py_tp_doc,
     "Encoder(path, tokenizer, embedding_width, context_length, device='cpu', precision='fp32', "
     "num_threads=0)\n--\n\n"
     "A TorchScript archive's two towers, and the tokenizer before that of texts."},
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
