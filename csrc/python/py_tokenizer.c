/* _core.Tokenizer: a vocabulary, and texts to token ids. */
#include <limits.h>
#include <stddef.h>

#include "python/py_borrow.h"
#include "python/py_types.h"

#include <structmember.h>

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
    cnclip_raise(cnclip_state_of(type), &error);
    Py_DECREF(self);
    return NULL;
  }
  self->size = cnclip_vocab_size(self->vocab);
  self->largest_id = cnclip_vocab_largest_id(self->vocab);
  self->pad_id = cnclip_vocab_pad_id(self->vocab);
  self->unk_id = cnclip_vocab_unk_id(self->vocab);
  self->cls_id = cnclip_vocab_cls_id(self->vocab);
  self->sep_id = cnclip_vocab_sep_id(self->vocab);
  return (PyObject *)self;
}

static void tokenizer_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  cnclip_vocab_free(((cnclip_py_tokenizer *)object)->vocab);
  type->tp_free(object);
  Py_DECREF(type);
}

/* Fills ids [count, context_length] and lengths [count]; touches no Python object. */
static void encode_all(const cnclip_vocab *vocab, const cnclip_borrowed_texts *texts, bool lowers,
                       size_t context_length, int64_t *ids, int64_t *lengths) {
  for (Py_ssize_t i = 0; i < texts->count; i++) {
    size_t length, full_length;
    (lowers ? cnclip_tokenizer_encode : cnclip_tokenizer_encode_cased)(
        vocab, texts->texts[i], context_length, ids + (size_t)i * context_length, &length,
        &full_length);
    lengths[i] = (int64_t)full_length;
  }
}

PyDoc_STRVAR(
    encode_doc,
    "encode($self, texts, context_length=52, lower_case=True)\n--\n\n"
    "Token ids int64 [n, context_length], filled with 0, and int64 [n]: how many ids each "
    "text had before the cut, including [CLS] and [SEP]. Without lower_case, case and accents "
    "are kept, for other vocabularies than Chinese-CLIP's.");

static PyObject *tokenizer_encode(PyObject *object, PyObject *arguments, PyObject *keywords) {
  static char *names[] = {"texts", "context_length", "lower_case", NULL};
  const cnclip_state *state = cnclip_state_of(Py_TYPE(object));
  const cnclip_vocab *vocab = ((cnclip_py_tokenizer *)object)->vocab;
  PyObject *sequence, *ids_array = NULL, *lengths_array = NULL, *result = NULL;
  Py_ssize_t context_length = 52;
  cnclip_borrowed_texts texts = {0};
  int64_t *ids, *lengths;
  int lowers = 1;

  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|np:encode", names, &sequence,
                                   &context_length, &lowers)) {
    return NULL;
  }
  if (context_length < 2 || context_length > INT_MAX) {
    return PyErr_Format(state->exceptions[CNCLIP_ERROR_ARGUMENT],
                        "context_length: expected at least 2, for [CLS] and [SEP], got %zd",
                        context_length);
  }
  if (!cnclip_borrow_texts(state, sequence, &texts)) goto exit;
  ids_array = cnclip_new_int64_array(2, (const Py_ssize_t[]){texts.count, context_length}, &ids);
  lengths_array = cnclip_new_int64_array(1, &texts.count, &lengths);
  if (ids_array == NULL || lengths_array == NULL) goto exit;

  Py_BEGIN_ALLOW_THREADS
  encode_all(vocab, &texts, lowers != 0, (size_t)context_length, ids, lengths);
  Py_END_ALLOW_THREADS
  result = PyTuple_Pack(2, ids_array, lengths_array);

exit:
  cnclip_release_texts(&texts);
  Py_XDECREF(ids_array);
  Py_XDECREF(lengths_array);
  return result;
}

static PyMemberDef members[] = {
    {"size", T_INT, offsetof(cnclip_py_tokenizer, size), READONLY, "Lines of the vocabulary."},
    {"largest_id", T_INT, offsetof(cnclip_py_tokenizer, largest_id), READONLY,
     "Largest id of a token that is not empty."},
    {"pad_id", T_INT, offsetof(cnclip_py_tokenizer, pad_id), READONLY, "Id of [PAD]."},
    {"unk_id", T_INT, offsetof(cnclip_py_tokenizer, unk_id), READONLY, "Id of [UNK]."},
    {"cls_id", T_INT, offsetof(cnclip_py_tokenizer, cls_id), READONLY, "Id of [CLS]."},
    {"sep_id", T_INT, offsetof(cnclip_py_tokenizer, sep_id), READONLY, "Id of [SEP]."},
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
    {Py_tp_members, members},
    {Py_tp_traverse, cnclip_visit_type},
    {0},
};

PyType_Spec cnclip_tokenizer_spec = {
    .name = "cnclip._core.Tokenizer",
    .basicsize = sizeof(cnclip_py_tokenizer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
