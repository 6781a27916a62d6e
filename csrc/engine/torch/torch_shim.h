/* A C interface to libtorch: load a TorchScript archive, run its two towers, free it.
 *
 * Compiles as C11. No C++ exception crosses it: each function catches everything and returns a
 * status. Another engine may implement this header later. */
#ifndef CNCLIP_TORCH_SHIM_H
#define CNCLIP_TORCH_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cnclip_torch_model cnclip_torch_model;

/* Loads the archive at `path` (UTF-8, or the file system's bytes) onto `device` ("cpu", "cuda:0"),
 * checks that it has the methods encode_image, encode_text and prepare, and calls
 * prepare(`precision`).
 * num_threads: for this model's runs; 0: libtorch's own default in each thread.
 * New object in *ret_model, freed with cnclip_torch_model_free.
 * CNCLIP_ERROR_ARCHIVE: unreadable, truncated, not TorchScript, or a method is missing.
 * CNCLIP_ERROR_DEVICE: no such device, or see cnclip_torch_check_precision.
 * CNCLIP_ERROR_MODEL: prepare failed. CNCLIP_ERROR_FORKED. */
cnclip_status cnclip_torch_model_load(const char *path, const char *device, const char *precision,
                                      int num_threads, cnclip_torch_model **ret_model,
                                      cnclip_error *error);

/* The check of `precision` in cnclip_torch_model_load, without a model.
 * CNCLIP_ERROR_DEVICE: `device` does not compute in it; the message suggests fp32.
 * CNCLIP_ERROR_ARGUMENT: no device or precision of this name, or of $CNCLIP_FORCE_ISA. */
cnclip_status cnclip_torch_check_precision(const char *device, const char *precision,
                                           cnclip_error *error);
void cnclip_torch_model_free(cnclip_torch_model *model); /* NULL is allowed */

/* pixels: the caller's float32 [count, 3, resolution, resolution]; embeddings: the caller's memory
 * for float32 [count, width], filled with rows of unit length.
 * Thread-safe: threads may run one model at once.
 * CNCLIP_ERROR_MODEL: libtorch failed, or the tower's result has another shape or type.
 * CNCLIP_ERROR_FORKED: libtorch's threads belong to the parent process. */
cnclip_status cnclip_torch_model_encode_image(cnclip_torch_model *model, const float *pixels,
                                              size_t count, size_t resolution, float *embeddings,
                                              size_t width, cnclip_error *error);

/* ids: the caller's int64 [count, length]. Otherwise as cnclip_torch_model_encode_image. */
cnclip_status cnclip_torch_model_encode_text(cnclip_torch_model *model, const int64_t *ids,
                                             size_t count, size_t length, float *embeddings,
                                             size_t width, cnclip_error *error);

/* The number of threads that a run of `model` on this thread uses. */
int cnclip_torch_model_num_threads(const cnclip_torch_model *model);

/* How many CUDA devices libtorch sees; 0 where it has no CUDA. */
int cnclip_torch_cuda_count(void);

#ifdef __cplusplus
}
#endif

#endif
