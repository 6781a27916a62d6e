/* _core.Engine: a shared object that runs models. */
#include "python/py_types.h"

#include <structmember.h>

static PyObject *engine_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  static char *names[] = {"path", NULL};
  const cnclip_state *state = cnclip_state_of(type);
  cnclip_py_engine *self = NULL;
  PyObject *path = NULL;
  const cnclip_engine *engine;
  cnclip_status status;
  cnclip_error error;

  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O&:Engine", names, PyUnicode_FSConverter,
                                   &path)) {
    return NULL;
  }
  Py_BEGIN_ALLOW_THREADS
  status = cnclip_engine_open(PyBytes_AS_STRING(path), &engine, &error);
  Py_END_ALLOW_THREADS
  if (status != CNCLIP_OK) {
    cnclip_raise_file(state, &error, PyBytes_AS_STRING(path));
  } else if ((self = (cnclip_py_engine *)type->tp_alloc(type, 0)) != NULL) {
    self->engine = engine;
    self->name = engine->name;
    self->path = PyUnicode_DecodeFSDefault(PyBytes_AS_STRING(path));
    if (self->path == NULL) {
      Py_CLEAR(self);
    }
  }
  Py_DECREF(path);
  return (PyObject *)self;
}

static void engine_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  Py_XDECREF(((cnclip_py_engine *)object)->path);
  type->tp_free(object);
  Py_DECREF(type);
}

static PyObject *device_count(PyObject *object, PyObject *argument) {
  const char *type = PyUnicode_AsUTF8(argument);
  if (type == NULL) return NULL;
  return PyLong_FromLong(((cnclip_py_engine *)object)->engine->device_count(type));
}

static PyMethodDef methods[] = {
    {"device_count", device_count, METH_O,
     "device_count($self, type, /)\n--\n\nNumber of devices of a type, 'cuda', that the engine can "
     "use now."},
    {0},
};

static PyMemberDef members[] = {
    {"name", T_STRING, offsetof(cnclip_py_engine, name), READONLY,
     "The software that runs models, and its version."},
    {"path", T_OBJECT_EX, offsetof(cnclip_py_engine, path), READONLY, "The shared object."},
    {0},
};

static PyType_Slot slots[] = {
    {Py_tp_doc,
     "Engine(path)\n--\n\n"
     "The engine in a shared object, which stays loaded until the process ends. The libraries "
     "that\n"
     "it needs must be loaded before."},
    {Py_tp_new, engine_new},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_traverse, cnclip_visit_type},
    {0},
};

PyType_Spec cnclip_engine_spec = {
    .name = "cnclip._core.Engine",
    .basicsize = sizeof(cnclip_py_engine),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
