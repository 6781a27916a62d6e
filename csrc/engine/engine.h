/* The C interface to an engine: whatever loads a model and runs its two towers.
 *
 * An engine is a shared object that exports one function, cnclip_engine_get. It is opened at run
 * time by its path, so the core links to no engine. engine/torch/ is the only one so far. */
#ifndef CNCLIP_ENGINE_H
#define CNCLIP_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cores.h"
#include "base/cpu.h"
#include "base/status.h"
#include "image/image.h"
#include "kernels/attention.h"
#include "kernels/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The version of everything that this header declares or includes. Raise it with each change: an
 * engine of another version is refused. */
enum { CNCLIP_ENGINE_API = 7 };

/* What the core lends to an engine: functions of the headers above, under the names they have
 * there without the prefix cnclip_. Static memory. */
typedef struct {
  long process; /* id of the process that loaded the core; another one was forked from it */
  cnclip_status (*error_set)(cnclip_error *error, cnclip_status code, const char *format, ...);
  cnclip_status (*isa_choose)(cnclip_isa *ret_isa, cnclip_error *error);
  int (*cores_free)(void);

  const cnclip_linear_kernels *(*linear_kernels_get)(cnclip_linear_type type, cnclip_isa isa);
  bool (*linear_fits)(size_t input_width, size_t output_width);
  size_t (*linear_packed_bytes)(cnclip_linear_type type, size_t input_width, size_t output_width);
  size_t (*linear_panel_count)(size_t output_width);
  size_t (*linear_pack_scratch_bytes)(cnclip_linear_type type, size_t input_width);
  bool (*linear_packs_in_place)(cnclip_linear_type type, bool weight_is_f16, size_t output_width);
  size_t (*linear_operand_bytes)(const cnclip_linear_job *job);
  size_t (*linear_unit_count)(const cnclip_linear_job *job);

  cnclip_attention_kernel *(*attention_kernel_get)(cnclip_attention_type type, cnclip_isa isa);
  bool (*attention_fits)(const cnclip_attention_job *job);
  size_t (*attention_scratch_bytes)(const cnclip_attention_job *job);
} cnclip_engine_core;

typedef struct cnclip_model cnclip_model; /* the engine's; opaque */

typedef struct {
  const char *path;               /* of the archive: UTF-8, or the file system's bytes */
  bool is_prepared;               /* it is a file of save_prepared; the device is "cpu" */
  const char *device;             /* "cpu", "cuda:0" */
  int num_threads;                /* for this model's runs; 0: the engine's default */
  bool spares_busy_cores;         /* on a CPU, fewer where cores_free returns fewer */
  cnclip_isa isa;                 /* of the kernels that the model uses */
  const float (*normalized)[256]; /* [3]: the normalized value of each byte of each channel.
                                     Borrowed for the call. */
  bool resizes;                   /* `resize` will be called; the device is a GPU */
} cnclip_model_options;

/* Images of one size. One of the pointers is NULL. The caller's. */
typedef struct {
  size_t count, resolution;
  const float *floats;  /* normalized, float32 [count, 3, resolution, resolution] */
  const uint8_t *bytes; /* [count, resolution, resolution, 4]: red, green, blue, and one ignored */
} cnclip_pixels;

/* No C++ exception leaves a function; each returns a status and fills `error` as status.h says. */
typedef struct {
  int api; /* CNCLIP_ENGINE_API of the headers that the engine was compiled with; stays first */

  const char *name; /* "torch 2.13.0": the software that runs models. Static. */

  /* Called before any other function; calling it again changes nothing.
   * CNCLIP_ERROR_ENGINE: it cannot start, for example because another engine has. */
  cnclip_status (*start)(const cnclip_engine_core *core, cnclip_error *error);

  /* Number of devices of a type, "cuda"; 0 for an unknown type. */
  int (*device_count)(const char *type);

  /* Loads the archive onto the device and checks that it has the two towers. New object in
   * *ret_model, freed with `free`; NULL after an error. A prepared model's weights are the file's
   * memory, mapped read-only until `free`, which processes share.
   * CNCLIP_ERROR_ARCHIVE: unreadable, truncated, of another kind, or without a tower.
   * CNCLIP_ERROR_DEVICE: no such device, or it cannot resize. CNCLIP_ERROR_FORKED. */
  cnclip_status (*load)(const cnclip_model_options *options, cnclip_model **ret_model,
                        cnclip_error *error);

  /* Brings the weights into the form that runs in `precision` need. Called once per model, unless
   * it was loaded prepared. CNCLIP_ERROR_MODEL. */
  cnclip_status (*prepare)(cnclip_model *model, const char *precision, cnclip_error *error);

  /* Writes a model that is prepared for a CPU to a file, which is created or overwritten. `load`
   * reads it on processors of the same instruction set, and checks only that it stays inside the
   * file: the caller sees to it that the file is intact. Thread-safe.
   * CNCLIP_ERROR_MODEL: it cannot be written, or the model is of another device. */
  cnclip_status (*save_prepared)(const cnclip_model *model, const char *path, cnclip_error *error);

  /* embeddings: the caller's memory for float32 [count, width], filled with rows of unit length.
   * Thread-safe: threads may run one model at once.
   * CNCLIP_ERROR_MODEL: the run failed, or the tower's result has another shape or type.
   * CNCLIP_ERROR_FORKED: the engine's threads belong to the parent process. */
  cnclip_status (*encode_image)(cnclip_model *model, const cnclip_pixels *pixels, float *embeddings,
                                size_t width, cnclip_error *error);

  /* ids: the caller's int64 [count, length]. Otherwise as encode_image. */
  cnclip_status (*encode_text)(cnclip_model *model, const int64_t *ids, size_t count, size_t length,
                               float *embeddings, size_t width, cnclip_error *error);

  /* Resamples an image on the GPU, as cnclip_image_resize does and equal to it to the bit, for a
   * model that was loaded with `resizes`. plan: for the image's size. bytes: the caller's memory
   * for [r, r, 4]. Thread-safe: images of several threads are resampled at once.
   * CNCLIP_ERROR_MEMORY, of this machine or of the GPU. CNCLIP_ERROR_MODEL: the run failed.
   * CNCLIP_ERROR_FORKED. */
  cnclip_status (*resize)(cnclip_model *model, const cnclip_image *image,
                          const cnclip_image_plan *plan, uint8_t *bytes, cnclip_error *error);

  /* Ids that one run of encode_text should have, padding counted. */
  size_t (*tokens_at_once)(const cnclip_model *model);

  /* Number of threads that a run of `model` on this thread uses at most. */
  int (*num_threads)(const cnclip_model *model);

  void (*free)(cnclip_model *model); /* NULL is allowed */
} cnclip_engine;

/* The function that an engine exports. Borrowed, static. */
typedef const cnclip_engine *cnclip_engine_get_function(void);
#define CNCLIP_ENGINE_SYMBOL "cnclip_engine_get"

/* Notes the id of this process, at the first call. To be called when the core is loaded. */
void cnclip_engine_note_process(void);

/* Opens the engine at `path` (the file system's bytes), checks its version and starts it. The
 * libraries that it needs must be loaded already. It stays loaded until the process ends.
 * *ret_engine: borrowed, static.
 * CNCLIP_ERROR_ENGINE: not an engine, of another version, or a library or symbol is missing. */
cnclip_status cnclip_engine_open(const char *path, const cnclip_engine **ret_engine,
                                 cnclip_error *error);

#ifdef __cplusplus
}
#endif

#endif
