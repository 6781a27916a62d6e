/* Results and error messages of the core.
 *
 * A function that can fail returns a cnclip_status and, unless that is CNCLIP_OK, has filled the
 * cnclip_error that its caller owns. The extension module (python/) turns both into a Python
 * exception. */
#ifndef CNCLIP_STATUS_H
#define CNCLIP_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  CNCLIP_OK = 0,
  CNCLIP_ERROR_MEMORY,      /* an allocation failed, or its size would overflow */
  CNCLIP_ERROR_ARGUMENT,    /* the caller's value is not usable: a size of 0, an image too large */
  CNCLIP_ERROR_VOCABULARY,  /* the vocabulary's text is not usable */
  CNCLIP_ERROR_ARCHIVE,     /* the model file is not an archive of ours, or is damaged */
  CNCLIP_ERROR_DEVICE,      /* the device does not exist here */
  CNCLIP_ERROR_ENGINE,      /* the engine's file cannot be used */
  CNCLIP_ERROR_MODEL,       /* the engine failed while it ran the model */
  CNCLIP_ERROR_FORKED,      /* called in a child of the process that started the engine's threads */
  CNCLIP_ERROR_INTERRUPTED, /* the caller's interrupt function asked to stop */
} cnclip_status;

enum { CNCLIP_ERROR_CAPACITY = 512 };

typedef struct {
  cnclip_status code;
  char message[CNCLIP_ERROR_CAPACITY]; /* UTF-8, NUL-terminated, cut on a character boundary */
} cnclip_error;

/* Fills `error` (may be NULL) as printf would and returns `code`, so that a function can end with
 * `return cnclip_error_set(...)`. Thread-safe: touches only `error`. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
cnclip_status
cnclip_error_set(cnclip_error *error, cnclip_status code, const char *format, ...);

/* cnclip_error_set for an allocation that failed; `what` names the thing, as in "the token ids". */
cnclip_status cnclip_error_memory(cnclip_error *error, const char *what);

#ifdef __cplusplus
}
#endif

#endif
