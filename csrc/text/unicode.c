#include "text/unicode.h"

#include "unicode_tables.h"

enum { LAST_CODE_POINT = 0x10FFFF, BLOCK_MASK = (1 << TABLE_BLOCK_SHIFT) - 1 };

/* The Hangul syllable composition of the Unicode standard, section 3.12. */
enum {
  SYLLABLE_BASE = 0xAC00,
  LEADING_BASE = 0x1100,
  VOWEL_BASE = 0x1161,
  TRAILING_BASE = 0x11A7, /* one before the first: a syllable may have no trailing consonant */
  VOWELS = 21,
  TRAILINGS = 28,
  SYLLABLES = 19 * VOWELS * TRAILINGS,
};

static size_t record_of(uint32_t code_point) {
  if (code_point > LAST_CODE_POINT) return 0;
  size_t block = record_block_of[code_point >> TABLE_BLOCK_SHIFT];
  return record_blocks[(block << TABLE_BLOCK_SHIFT) + (code_point & BLOCK_MASK)];
}

uint8_t cnclip_unicode_flags(uint32_t code_point) {
  return record_flags[record_of(code_point)];
}

uint8_t cnclip_unicode_combining_class(uint32_t code_point) {
  return record_combining_class[record_of(code_point)];
}

static size_t decompose_syllable(uint32_t index, uint32_t folded[CNCLIP_UNICODE_FOLD_CAPACITY]) {
  uint32_t trailing = index % TRAILINGS;
  folded[0] = LEADING_BASE + index / (VOWELS * TRAILINGS);
  folded[1] = VOWEL_BASE + index / TRAILINGS % VOWELS;
  if (trailing == 0) return 2;
  folded[2] = TRAILING_BASE + trailing;
  return 3;
}

size_t cnclip_unicode_fold(uint32_t code_point, uint32_t folded[CNCLIP_UNICODE_FOLD_CAPACITY]) {
  if (code_point - SYLLABLE_BASE < SYLLABLES) {
    return decompose_syllable(code_point - SYLLABLE_BASE, folded);
  }
  size_t start = 0;
  if (code_point <= LAST_CODE_POINT) {
    size_t block = fold_block_of[code_point >> TABLE_BLOCK_SHIFT];
    start = fold_blocks[(block << TABLE_BLOCK_SHIFT) + (code_point & BLOCK_MASK)];
  }
  if (start == 0) {
    folded[0] = code_point;
    return 1;
  }
  size_t length = fold_pool[start];
  for (size_t i = 0; i < length; i++) folded[i] = fold_pool[start + 1 + i];
  return length;
}
