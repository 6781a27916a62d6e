/* _core.Encoder: pixels and texts to embeddings. */
#include "python/py_types.h"

#include <limits.h>

#include "kernels/precision.h"
#include "python/py_borrow.h"

/* The constructor's arguments. `path` is a new reference to bytes. */
typedef struct {
  PyObject *path, *engine, *tokenizer;
  PyObject *image_processor; /* borrowed; NULL: none */
  const char *device, *precision;
  Py_ssize_t embedding_width, context_length;
  int num_threads, spares_busy_cores, is_prepared, resizes;
} encoder_arguments;

static bool parse_arguments(const cnclip_state *state, PyObject *arguments, PyObject *keywords,
                            encoder_arguments *parsed) {
  static char *names[] = {
      "engine",      "path",      "tokenizer",   "embedding_width", "context_length",
      "device",      "precision", "num_threads", "image_processor", "spares_busy_cores",
      "is_prepared", "resizes",   NULL};
  PyObject *image_processor = Py_None;
  *parsed = (encoder_arguments){.device = "cpu", .precision = "fp32"};
  if (!PyArg_ParseTupleAndKeywords(
          arguments, keywords, "O!O&O!nn|ssiOppp:Encoder", names, state->engine_type,
          &parsed->engine, PyUnicode_FSConverter, &parsed->path, state->tokenizer_type,
          &parsed->tokenizer, &parsed->embedding_width, &parsed->context_length, &parsed->device,
          &parsed->precision, &parsed->num_threads, &image_processor, &parsed->spares_busy_cores,
          &parsed->is_prepared, &parsed->resizes)) {
    return false;
  }
  if (image_processor != Py_None) {
    if (!PyObject_TypeCheck(image_processor, state->image_processor_type)) {
      PyErr_Format(state->input_type_error,
                   "image_processor: expected an ImageProcessor, got %.100s",
                   Py_TYPE(image_processor)->tp_name);
      return false;
    }
    parsed->image_processor = image_processor;
  }
  if (parsed->embedding_width < 1 || parsed->context_length < 2 ||
      parsed->embedding_width > INT_MAX || parsed->context_length > INT_MAX ||
      parsed->num_threads < 0) {
    PyErr_SetString(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                    "embedding_width must be at least 1, context_length at least 2, num_threads "
                    "at least 0");
    return false;
  }
  return true;
}

/* A model that is ready to run; NULL after an error. */
static cnclip_status open_model(const cnclip_engine *engine, const encoder_arguments *parsed,
                                cnclip_model **ret_model, cnclip_error *error) {
  cnclip_model_options options = {
      .path = PyBytes_AS_STRING(parsed->path),
      .is_prepared = parsed->is_prepared != 0,
      .device = parsed->device,
      .num_threads = parsed->num_threads,
      .spares_busy_cores = parsed->spares_busy_cores != 0,
      .resizes = parsed->resizes != 0,
  };
  if (parsed->image_processor != NULL) {
    options.normalized = cnclip_image_processor_normalized(
        ((cnclip_py_image_processor *)parsed->image_processor)->processor);
  }
  const bool is_cpu = strncmp(parsed->device, "cpu", 3) == 0;
  cnclip_model *model = NULL;
  cnclip_status status = CNCLIP_OK;
  if (options.is_prepared && !is_cpu) {
    status = cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT,
                              "is_prepared: expected the device cpu, got %s", parsed->device);
  }
  if (status == CNCLIP_OK && options.resizes && (is_cpu || parsed->image_processor == NULL)) {
    status = cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT,
                              "resizes: requires a GPU and an image_processor");
  }
  if (status == CNCLIP_OK) status = cnclip_isa_choose(&options.isa, error);
  if (status == CNCLIP_OK) {
    status = cnclip_precision_check(parsed->precision, is_cpu, options.isa, error);
  }
  if (status == CNCLIP_OK) status = engine->load(&options, &model, error);
  if (status == CNCLIP_OK && !options.is_prepared) {
    status = engine->prepare(model, parsed->precision, error);
  }
  if (status != CNCLIP_OK) {
    engine->free(model);
    model = NULL;
  }
  *ret_model = model;
  return status;
}

static PyObject *encoder_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  const cnclip_state *state = cnclip_state_of(type);
  const cnclip_engine *engine;
  cnclip_py_encoder *self = NULL;
  cnclip_model *model = NULL;
  encoder_arguments parsed;
  cnclip_status status;
  cnclip_error error;

  if (!parse_arguments(state, arguments, keywords, &parsed)) goto exit;
  engine = ((cnclip_py_engine *)parsed.engine)->engine;
  self = (cnclip_py_encoder *)type->tp_alloc(type, 0);
  if (self == NULL) goto exit;
  self->tokenizer = Py_NewRef(parsed.tokenizer);
  self->image_processor = Py_XNewRef(parsed.image_processor);
  self->resizes = parsed.resizes != 0;

  Py_BEGIN_ALLOW_THREADS
  status = open_model(engine, &parsed, &model, &error);
  Py_END_ALLOW_THREADS
  if (status != CNCLIP_OK) {
    if (status == CNCLIP_ERROR_ARCHIVE || status == CNCLIP_ERROR_MODEL) {
      cnclip_raise_file(state, &error, PyBytes_AS_STRING(parsed.path));
    } else {
      cnclip_raise(state, &error);
    }
    Py_CLEAR(self);
    goto exit;
  }
  self->encoder = (cnclip_text_encoder){
      .engine = engine,
      .model = model,
      .vocab = ((cnclip_py_tokenizer *)parsed.tokenizer)->vocab,
      .context_length = (size_t)parsed.context_length,
      .embedding_width = (size_t)parsed.embedding_width,
  };

exit:
  Py_XDECREF(parsed.path);
  return (PyObject *)self;
}

/* There is no tp_clear: neither object refers to one that may refer to its encoder. */
static int encoder_traverse(PyObject *object, visitproc visit, void *arg) {
  Py_VISIT(((cnclip_py_encoder *)object)->tokenizer);
  Py_VISIT(((cnclip_py_encoder *)object)->image_processor);
  return cnclip_visit_type(object, visit, arg);
}

static void encoder_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  cnclip_py_encoder *self = (cnclip_py_encoder *)object;
  if (self->encoder.model != NULL) self->encoder.engine->free(self->encoder.model);
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

PyDoc_STRVAR(encode_pixels_doc,
             "encode_pixels($self, pixels, /)\n--\n\n"
             "The result of ImageProcessor.process, float32 [n, 3, r, r], or of resize, uint8\n"
             "[n, r, r, 4], to unit rows float32 [n, d]. Of bytes, the fourth of each pixel is\n"
             "ignored, and the image_processor of the encoder normalizes the others. All images\n"
             "go through the model in one batch.");

static PyObject *encode_pixels(PyObject *object, PyObject *argument) {
  const cnclip_state *state = cnclip_state_of(Py_TYPE(object));
  const cnclip_py_encoder *self = (cnclip_py_encoder *)object;
  const cnclip_text_encoder *encoder = &self->encoder;
  const Py_ssize_t width = (Py_ssize_t)encoder->embedding_width;
  cnclip_pixels pixels;
  PyObject *owner = NULL, *result = NULL;
  cnclip_status status = CNCLIP_OK;
  cnclip_error error;
  float *embeddings;

  owner = cnclip_borrow_pixels(state, argument, &pixels);
  if (owner == NULL) goto exit;
  if (pixels.bytes != NULL && self->image_processor == NULL) {
    PyErr_SetString(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                    "pixels: uint8 requires an encoder with an image_processor");
    goto exit;
  }
  result =
      cnclip_new_float_array(2, (const Py_ssize_t[]){(Py_ssize_t)pixels.count, width}, &embeddings);
  if (result == NULL || pixels.count == 0) goto exit;

  Py_BEGIN_ALLOW_THREADS
  status = encoder->engine->encode_image(encoder->model, &pixels, embeddings,
                                         encoder->embedding_width, &error);
  Py_END_ALLOW_THREADS
  if (status != CNCLIP_OK) {
    cnclip_raise(state, &error);
    Py_CLEAR(result);
  }

exit:
  Py_XDECREF(owner);
  return result;
}

/* For cnclip_convert_images. */
static cnclip_status resize_image(const void *context, const cnclip_image *image, void *output,
                                  cnclip_error *error) {
  const cnclip_py_encoder *self = context;
  const cnclip_image_processor *processor =
      ((cnclip_py_image_processor *)self->image_processor)->processor;
  cnclip_image_plan plan;
  cnclip_status status = cnclip_image_plan_init(
      &plan, image->width, image->height, cnclip_image_processor_resolution(processor), error);
  if (status != CNCLIP_OK) return status;
  status = self->encoder.engine->resize(self->encoder.model, image, &plan, output, error);
  cnclip_image_plan_free(&plan);
  return status;
}

PyDoc_STRVAR(resize_doc,
             "resize($self, images, /, out=None)\n--\n\n"
             "The result of ImageProcessor.resize to the bit, computed on the model's GPU: uint8\n"
             "[n, r, r, 4]. For an encoder with resizes. Threads may call it at once.");

static PyObject *resize(PyObject *object, PyObject *arguments, PyObject *keywords) {
  const cnclip_state *state = cnclip_state_of(Py_TYPE(object));
  const cnclip_py_encoder *self = (cnclip_py_encoder *)object;
  if (!self->resizes) {
    PyErr_SetString(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                    "resize: requires an encoder with resizes");
    return NULL;
  }
  const cnclip_image_processor *processor =
      ((cnclip_py_image_processor *)self->image_processor)->processor;
  return cnclip_convert_images(state, processor, resize_image, self, true, arguments, keywords,
                               "O|O:resize");
}

/* Parses (items, batch_size). `format` is "O|n:" and the method's name. */
static bool parse_texts_call(const cnclip_state *state, const char *format, PyObject *arguments,
                             PyObject *keywords, PyObject **ret_items, Py_ssize_t *ret_batch_size) {
  static char *names[] = {"items", "batch_size", NULL};
  *ret_batch_size = 0;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, format, names, ret_items, ret_batch_size)) {
    return false;
  }
  if (*ret_batch_size >= 0) return true;
  PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT], "batch_size: expected 0 or more, got %zd",
               *ret_batch_size);
  return false;
}

PyDoc_STRVAR(encode_texts_doc,
             "encode_texts($self, items, batch_size=0)\n--\n\n"
             "Texts to unit rows float32 [n, d], in the order of the texts. At most batch_size go\n"
             "through the model in one batch; with 0 the encoder chooses their number.");

static PyObject *encode_texts(PyObject *object, PyObject *arguments, PyObject *keywords) {
  const cnclip_state *state = cnclip_state_of(Py_TYPE(object));
  const cnclip_text_encoder *encoder = &((cnclip_py_encoder *)object)->encoder;
  PyObject *sequence, *result = NULL;
  Py_ssize_t batch_size;
  cnclip_borrowed_texts texts = {0};
  cnclip_error error;
  float *embeddings;

  if (!parse_texts_call(state, "O|n:encode_texts", arguments, keywords, &sequence, &batch_size)) {
    return NULL;
  }
  if (!cnclip_borrow_texts(state, sequence, &texts)) goto exit;
  result = cnclip_new_float_array(
      2, (const Py_ssize_t[]){texts.count, (Py_ssize_t)encoder->embedding_width}, &embeddings);
  if (result == NULL) goto exit;

  PyThreadState *suspended = PyEval_SaveThread();
  const cnclip_status status =
      cnclip_text_encoder_encode(encoder, texts.texts, (size_t)texts.count, (size_t)batch_size,
                                 embeddings, signal_pending, &suspended, &error);
  PyEval_RestoreThread(suspended);
  if (status != CNCLIP_OK) {
    cnclip_raise(state, &error);
    Py_CLEAR(result);
  }

exit:
  cnclip_release_texts(&texts);
  return result;
}

PyDoc_STRVAR(encode_ids_doc,
             "encode_ids($self, items, batch_size=0)\n--\n\n"
             "Token ids of texts, integers [n, length] as Tokenizer.encode returns them, to unit\n"
             "rows float32 [n, d]: those of encode_texts. The ids after a text's end are 0.");

static PyObject *encode_ids(PyObject *object, PyObject *arguments, PyObject *keywords) {
  const cnclip_state *state = cnclip_state_of(Py_TYPE(object));
  const cnclip_text_encoder *encoder = &((cnclip_py_encoder *)object)->encoder;
  PyObject *array, *owner = NULL, *result = NULL;
  Py_ssize_t batch_size;
  const int64_t *ids;
  size_t count, columns, unknown;
  cnclip_status status = CNCLIP_OK;
  cnclip_error error;
  float *embeddings;

  if (!parse_texts_call(state, "O|n:encode_ids", arguments, keywords, &array, &batch_size)) {
    return NULL;
  }
  owner = cnclip_borrow_ids(state, array, &ids, &count, &columns);
  if (owner == NULL) goto exit;
  result = cnclip_new_float_array(
      2, (const Py_ssize_t[]){(Py_ssize_t)count, (Py_ssize_t)encoder->embedding_width},
      &embeddings);
  if (result == NULL) goto exit;

  PyThreadState *suspended = PyEval_SaveThread();
  unknown = cnclip_text_encoder_unknown_id(encoder, ids, count * columns);
  if (unknown == count * columns) {
    status = cnclip_text_encoder_encode_ids(encoder, ids, count, columns, (size_t)batch_size,
                                            embeddings, signal_pending, &suspended, &error);
  }
  PyEval_RestoreThread(suspended);
  if (unknown < count * columns) {
    cnclip_raise_item(state->exceptions[CNCLIP_ERROR_ARGUMENT], "text",
                      (Py_ssize_t)(unknown / columns),
                      "column %zu: expected an id from 0 to %d, got %lld", unknown % columns,
                      (int)cnclip_vocab_largest_id(encoder->vocab), (long long)ids[unknown]);
    Py_CLEAR(result);
  } else if (status != CNCLIP_OK) {
    cnclip_raise(state, &error);
    Py_CLEAR(result);
  }

exit:
  Py_XDECREF(owner);
  return result;
}

PyDoc_STRVAR(
    save_prepared_doc,
    "save_prepared($self, path, /)\n--\n\n"
    "Writes the model as it runs, on the CPU, to a file that an Encoder with is_prepared\n"
    "maps into memory. The file is for the same versions of cnclip and torch, instruction\n"
    "set and precision; what is appended to it is ignored.");

static PyObject *save_prepared(PyObject *object, PyObject *argument) {
  const cnclip_text_encoder *encoder = &((cnclip_py_encoder *)object)->encoder;
  PyObject *path = NULL;
  cnclip_status status;
  cnclip_error error;

  if (!PyUnicode_FSConverter(argument, &path)) return NULL;
  Py_BEGIN_ALLOW_THREADS
  status = encoder->engine->save_prepared(encoder->model, PyBytes_AS_STRING(path), &error);
  Py_END_ALLOW_THREADS
  if (status != CNCLIP_OK) {
    cnclip_raise_file(cnclip_state_of(Py_TYPE(object)), &error, PyBytes_AS_STRING(path));
  }
  Py_DECREF(path);
  if (status != CNCLIP_OK) return NULL;
  Py_RETURN_NONE;
}

static PyObject *get_num_threads(PyObject *object, void *closure) {
  (void)closure;
  const cnclip_text_encoder *encoder = &((cnclip_py_encoder *)object)->encoder;
  return PyLong_FromLong(encoder->engine->num_threads(encoder->model));
}

static PyGetSetDef getters[] = {
    {"num_threads", get_num_threads, NULL, "Threads that a run of the model uses at most.", NULL},
    {0},
};

static PyMethodDef methods[] = {
    {"encode_pixels", encode_pixels, METH_O, encode_pixels_doc},
    {"encode_texts", (PyCFunction)(void (*)(void))encode_texts, METH_VARARGS | METH_KEYWORDS,
     encode_texts_doc},
    {"encode_ids", (PyCFunction)(void (*)(void))encode_ids, METH_VARARGS | METH_KEYWORDS,
     encode_ids_doc},
    {"resize", (PyCFunction)(void (*)(void))resize, METH_VARARGS | METH_KEYWORDS, resize_doc},
    {"save_prepared", save_prepared, METH_O, save_prepared_doc},
    {0},
};

static PyType_Slot slots[] = {
    {Py_tp_doc,
     "Encoder(engine, path, tokenizer, embedding_width, context_length, device='cpu', "
     "precision='fp32', num_threads=0, image_processor=None, spares_busy_cores=False, "
     "is_prepared=False, resizes=False)\n--\n\n"
     "The two towers of an archive, and the tokenizer of the text tower. With an image_processor,\n"
     "images may be bytes, which are normalized as it does. With spares_busy_cores, runs on a CPU\n"
     "use fewer threads while other processes use cores. With is_prepared, the path is that of a\n"
     "file of save_prepared. With resizes, the GPU of the model also resamples images."},
    {Py_tp_new, encoder_new},
    {Py_tp_dealloc, encoder_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {Py_tp_traverse, encoder_traverse},
    {0},
};

PyType_Spec cnclip_encoder_spec = {
    .name = "cnclip._core.Encoder",
    .basicsize = sizeof(cnclip_py_encoder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
