/* _core.Tokenizer: a vocabulary, and texts to token ids. */
#include <limits.h>

#include "python/py_borrow.h"
#include "python/py_types.h"

static PyObject *tokenizer_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  static char *names[] = {"vocabulary", NULL};
  const char *text;
  Py_ssize_t size;
  cnclip_error error;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "y#:Tokenizer", names, &text, &size)) {
    return NULL;
  }
  cnclip_py_tokenizer *self = (cnclip_py_tokenizer *)type->tp_alloc(type, 0);
  if (self == NULL) return NULL;
  if (cnclip_vocab_new(text, (size_t)size, &self->vocab, &error) != CNCLIP_OK) {
    cnclip_raise(cnclip_state_of(type), &error, NULL);
    Py_CLEAR(self);
  }
  return (PyObject *)self;
}

static void tokenizer_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  cnclip_vocab_free(((cnclip_py_tokenizer *)object)->vocab);
  type->tp_free(object);
  Py_DECREF(type);
}

/* Fills ids [count, context_length] and lengths [count]; touches no Python object. */
static void encode_all(const cnclip_vocab *vocab, const cnclip_borrowed_texts *texts,
                       size_t context_length, int64_t *ids, int64_t *lengths) {
  for (Py_ssize_t i = 0; i < texts->count; i++) {
    size_t length, full_length;
    cnclip_tokenizer_encode(vocab, texts->texts[i], context_length,
                            ids + (size_t)i * context_length, &length, &full_length);
    lengths[i] = (int64_t)full_length;
  }
}

PyDoc_STRVAR(encode_doc,
             "encode($self, texts, context_length=52)\n--\n\n"
             "Token ids int64 [n, context_length], filled with 0, and int64 [n]: how many ids each "
             "text had before the cut, [CLS] and [SEP] counted.");

static PyObject *tokenizer_encode(PyObject *object, PyObject *arguments, PyObject *keywords) {
  static char *names[] = {"texts", "context_length", NULL};
  const cnclip_state *state = cnclip_state_of(Py_TYPE(object));
  const cnclip_vocab *vocab = ((cnclip_py_tokenizer *)object)->vocab;
  PyObject *sequence, *ids_array = NULL, *lengths_array = NULL, *result = NULL;
  Py_ssize_t context_length = 52;
  cnclip_borrowed_texts texts = {0};
  int64_t *ids, *lengths;

  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|n:encode", names, &sequence,
                                   &context_length)) {
    return NULL;
  }
  if (context_length < 2 || context_length > INT_MAX) {
    return PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                        "context_length: expected 2 or more, room for [CLS] and [SEP], got %zd",
                        context_length);
  }
  if (!cnclip_borrow_texts(state, sequence, &texts)) goto done;
  ids_array = cnclip_new_int64_array(2, (const Py_ssize_t[]){texts.count, context_length}, &ids);
  lengths_array = cnclip_new_int64_array(1, &texts.count, &lengths);
  if (ids_array == NULL || lengths_array == NULL) goto done;

  Py_BEGIN_ALLOW_THREADS
  encode_all(vocab, &texts, (size_t)context_length, ids, lengths);
  Py_END_ALLOW_THREADS
  result = PyTuple_Pack(2, ids_array, lengths_array);

done:
  cnclip_release_texts(&texts);
  Py_XDECREF(ids_array);
  Py_XDECREF(lengths_array);
  return result;
}

static PyObject *get_number(PyObject *object, void *closure) {
  int32_t (*const read)(const cnclip_vocab *) = *(int32_t(**)(const cnclip_vocab *))closure;
  return PyLong_FromLong(read(((cnclip_py_tokenizer *)object)->vocab));
}

/* A getter's closure is a data pointer, which may not hold a function's address. */
static int32_t (*const read_size)(const cnclip_vocab *) = cnclip_vocab_size;
static int32_t (*const read_largest_id)(const cnclip_vocab *) = cnclip_vocab_largest_id;
static int32_t (*const read_pad)(const cnclip_vocab *) = cnclip_vocab_pad_id;
static int32_t (*const read_unknown)(const cnclip_vocab *) = cnclip_vocab_unk_id;
static int32_t (*const read_classify)(const cnclip_vocab *) = cnclip_vocab_cls_id;
static int32_t (*const read_separate)(const cnclip_vocab *) = cnclip_vocab_sep_id;

static PyGetSetDef getters[] = {
    {"size", get_number, NULL, "Lines of the vocabulary.", (void *)&read_size},
    {"largest_id", get_number, NULL, "Largest id of a token that is not empty.",
     (void *)&read_largest_id},
    {"pad_id", get_number, NULL, "Id of [PAD].", (void *)&read_pad},
    {"unk_id", get_number, NULL, "Id of [UNK].", (void *)&read_unknown},
    {"cls_id", get_number, NULL, "Id of [CLS].", (void *)&read_classify},
    {"sep_id", get_number, NULL, "Id of [SEP].", (void *)&read_separate},
    {0},
};

static PyMethodDef methods[] = {
    {"encode", (PyCFunction)(void (*)(void))tokenizer_encode, METH_VARARGS | METH_KEYWORDS,
     encode_doc},
    {0},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Tokenizer(vocabulary)\n--\n\nBERT WordPiece over a vocab.txt's bytes."},
    {Py_tp_new, tokenizer_new},
    {Py_tp_dealloc, tokenizer_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0},
};

PyType_Spec cnclip_tokenizer_spec = {
    .name = "cnclip._core.Tokenizer",
    .basicsize = sizeof(cnclip_py_tokenizer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
