#include "engine/engine.h"

#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

static cnclip_engine_core core = {
    .error_set = cnclip_error_set,
    .isa_choose = cnclip_isa_choose,
    .cores_free = cnclip_cores_free,
    .linear_kernels_get = cnclip_linear_kernels_get,
    .linear_fits = cnclip_linear_fits,
    .linear_packed_bytes = cnclip_linear_packed_bytes,
    .linear_panel_count = cnclip_linear_panel_count,
    .linear_pack_scratch_bytes = cnclip_linear_pack_scratch_bytes,
    .linear_packs_in_place = cnclip_linear_packs_in_place,
    .linear_operand_bytes = cnclip_linear_operand_bytes,
    .linear_unit_count = cnclip_linear_unit_count,
    .attention_kernel_get = cnclip_attention_kernel_get,
    .attention_fits = cnclip_attention_fits,
    .attention_scratch_bytes = cnclip_attention_scratch_bytes,
};

void cnclip_engine_note_process(void) {
  if (core.process == 0) core.process = (long)getpid();
}

/* NULL where the library does not export the function. */
static cnclip_engine_get_function *find_function(void *library) {
  void *symbol = dlsym(library, CNCLIP_ENGINE_SYMBOL);
  cnclip_engine_get_function *function;
  _Static_assert(sizeof function == sizeof symbol, "dlsym returns functions as objects");
  memcpy(&function, &symbol, sizeof function);
  return function;
}

cnclip_status cnclip_engine_open(const char *path, const cnclip_engine **ret_engine,
                                 cnclip_error *error) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    return cnclip_error_set(error, CNCLIP_ERROR_ENGINE, "cannot be loaded: %s", dlerror());
  }
  cnclip_engine_get_function *get = find_function(library);
  if (get == NULL) {
    dlclose(library);
    return cnclip_error_set(error, CNCLIP_ERROR_ENGINE,
                            "not an engine of cnclip: it exports no " CNCLIP_ENGINE_SYMBOL);
  }
  /* From here on the library stays loaded: libtorch keeps pointers into it. */
  const cnclip_engine *engine = get();
  if (engine->api != CNCLIP_ENGINE_API) {
    return cnclip_error_set(error, CNCLIP_ERROR_ENGINE,
                            "an engine of interface version %d, and this cnclip uses version %d",
                            engine->api, CNCLIP_ENGINE_API);
  }
  const cnclip_status status = engine->start(&core, error);
  if (status == CNCLIP_OK) *ret_engine = engine;
  return status;
}
