/* Properties of single code points, in the Unicode version of the Python that built this extension.
 *
 * The tables of this header are generated at build time by generate_unicode_tables.py out of
 * that Python's `unicodedata` and `str` methods. Pure functions, thread-safe. Every uint32_t is a
 * valid argument; values above 0x10FFFF have no property and fold to themselves. */
#ifndef CNCLIP_UNICODE_H
#define CNCLIP_UNICODE_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
  CNCLIP_UNICODE_REMOVED =
      1 << 0, /* BERT's clean_text drops it: NUL, U+FFFD, Cc, Cf but not TAB LF CR */
  CNCLIP_UNICODE_SPACE = 1 << 1, /* str.split() splits at it, or clean_text makes it a space */
  CNCLIP_UNICODE_CJK = 1 << 2,   /* BERT's CJK blocks: a separate word */
  CNCLIP_UNICODE_PUNCTUATION = 1 << 3,    /* BERT's punctuation: ASCII symbols, and categories P* */
  CNCLIP_UNICODE_NONSPACING = 1 << 4,     /* category Mn, stripped as an accent */
  CNCLIP_UNICODE_CASED = 1 << 5,          /* has the Cased property and is not case-ignorable */
  CNCLIP_UNICODE_CASE_IGNORABLE = 1 << 6, /* has the Case_Ignorable property */
  CNCLIP_UNICODE_FOLDS = 1 << 7,          /* cnclip_unicode_fold returns other characters */
} cnclip_unicode_flag;

/* The flags of `code_point`, or-ed together. */
uint8_t cnclip_unicode_flags(uint32_t code_point);

/* Canonical combining class, 0 for starters. */
uint8_t cnclip_unicode_combining_class(uint32_t code_point);

enum { CNCLIP_UNICODE_FOLD_CAPACITY = 8 };

/* The canonical decomposition (NFD) of the lower case of one code point, Hangul included; U+03A3
 * gives U+03C3 (the caller decides about its final form). Writes 1 to CNCLIP_UNICODE_FOLD_CAPACITY
 * code points to `folded` and returns how many. */
size_t cnclip_unicode_fold(uint32_t code_point, uint32_t folded[CNCLIP_UNICODE_FOLD_CAPACITY]);

#endif
