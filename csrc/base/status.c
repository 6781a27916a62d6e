#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Drops the incomplete UTF-8 character that a cut message may end with. */
static void trim_partial_character(char *text) {
  size_t length = strlen(text);
  size_t start = length;
  while (start > 0 && ((unsigned char)text[start - 1] & 0xC0) == 0x80) start--;
  if (start == 0) return;
  unsigned char lead = (unsigned char)text[start - 1];
  size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
  if (length - (start - 1) < need) text[start - 1] = '\0';
}

cnclip_status cnclip_error_set(cnclip_error *error, cnclip_status code, const char *format, ...) {
  if (error != NULL) {
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    if (written >= (int)sizeof error->message) trim_partial_character(error->message);
    error->code = code;
  }
  return code;
}

cnclip_status cnclip_error_memory(cnclip_error *error, const char *what) {
  return cnclip_error_set(error, CNCLIP_ERROR_MEMORY, "out of memory for %s", what);
}
