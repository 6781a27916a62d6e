/* Texts to ids, each rule by itself. The vocabulary gives every id a name, so that a case reads as
 * the words it should come to. */
#include "text/tokenizer.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { PAD, UNK, CLS, SEP, A, B, AB, DIGIT, HAN, WEN, BANG, COMMA, SIGMA, FINAL, TONE, STEM };
enum {
  A_ = 16,
  B_,
  SIGMA_,
  FINAL_,
  TONE_,
  STEM_,
  HAN_,
  SEMICOLON,
  I_,
  JAMO,
  JAMO_,
  COMPATIBLE,
  OTHER_TONE_
};

static const char vocabulary[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\nab\n1\n"
    "\xe4\xb8\xad\n\xe6\x96\x87\n!\n\xef\xbc\x8c\n" /* U+4E2D U+6587 U+FF0C */
    "\xcf\x83\n\xcf\x82\n"                          /* sigma, final sigma */
    "\xe3\x80\xae\n\xf0\x9d\x85\xa5\n"              /* U+302E class 224, U+1D165 class 216 */
    "##a\n##b\n##\xcf\x83\n##\xcf\x82\n##\xe3\x80\xae\n##\xf0\x9d\x85\xa5\n"
    "##\xe4\xb8\xad\n;\n##i\n\xe1\x84\x80\n##\xe1\x85\xa1\n\xe8\xb1\x88\n"
    "##\xe3\x80\xaf\n"; /* U+302F, class 224 too */

static cnclip_vocab *vocab;

/* Encodes at every width that holds the text; true if each gives `expected`, closed by -1. */
static bool gives(const uint32_t *characters, size_t length, const int *expected) {
  uint8_t narrow[512];
  uint16_t wide[512];
  uint32_t largest = 0;
  if (length > 512) abort();
  for (size_t i = 0; i < length; i++) {
    narrow[i] = (uint8_t)characters[i];
    wide[i] = (uint16_t)characters[i];
    if (characters[i] > largest) largest = characters[i];
  }
  size_t count = 0;
  while (expected[count] >= 0) count++;
  const void *const data[] = {narrow, wide, characters};
  for (int i = largest < 0x100 ? 0 : largest < 0x10000 ? 1 : 2; i < 3; i++) {
    int64_t ids[32];
    size_t written, full;
    cnclip_text text = {data[i], length, 1 << i};
    cnclip_tokenizer_encode(vocab, text, 32, ids, &written, &full);
    if (written != count + 2 || full != written) return false;
    if (ids[0] != CLS || ids[count + 1] != SEP) return false;
    for (size_t k = 0; k < count; k++) {
      if (ids[k + 1] != expected[k]) return false;
    }
    for (size_t k = written; k < 32; k++) {
      if (ids[k] != 0) return false;
    }
  }
  return true;
}

#define TEXT(...) ((const uint32_t[]){__VA_ARGS__}), sizeof((uint32_t[]){__VA_ARGS__}) / 4
#define IDS(...) ((const int[]){__VA_ARGS__, -1})
static const int nothing[] = {-1};

static void test_empty(void) {
  static const uint32_t none[1];
  CHECK(gives(none, 0, nothing));
  CHECK(gives(TEXT(' ', '\t', 0x3000, 0x2028), nothing));
  CHECK(gives(TEXT(0, 0xFFFD, 0x200B), nothing));
  CHECK(gives(TEXT(0x301, ' ', 0x301), nothing)); /* accents alone leave an empty word */
}

static void test_words(void) {
  CHECK(gives(TEXT('a'), IDS(A)));
  CHECK(gives(TEXT('a', 'b'), IDS(AB)));
  CHECK(gives(TEXT('A', 'B', ' ', 'b', 'A'), IDS(AB, B, A_)));
  CHECK(gives(TEXT('b', 'a', 'x'), IDS(UNK))); /* no part of a word that does not fit wholly */
  CHECK(gives(TEXT('x', ' ', 'a'), IDS(UNK, A)));
  CHECK(gives(TEXT('a', 0xA0, 'b', 0x2029, 'a', '\n', 'b'), IDS(A, B, A, B)));
  CHECK(gives(TEXT('a', 0, 'b', 0xAD), IDS(AB)));  /* dropped, not a border */
  CHECK(gives(TEXT('a', '\v', 'b'), IDS(AB)));     /* white space to str.split, but dropped first */
  CHECK(gives(TEXT('a', 0x85, 'b'), IDS(AB)));     /* the same */
  CHECK(gives(TEXT('a', 0xD800, 'b'), IDS(UNK)));  /* a lone surrogate is a letter like others */
  CHECK(gives(TEXT('a', 0x1F600, 'b'), IDS(UNK))); /* so is an emoji */
}

static void test_chinese(void) {
  CHECK(gives(TEXT(0x4E2D, 0x6587), IDS(HAN, WEN)));
  CHECK(gives(TEXT('a', 0x4E2D, 'b'), IDS(A, HAN, B)));
  CHECK(gives(TEXT(0x4E2D, 0x301, 0x6587), IDS(HAN, WEN)));
  CHECK(gives(TEXT(0x4E01, 'a'), IDS(UNK, A)));
  CHECK(gives(TEXT(0xF900, 'a'), IDS(COMPATIBLE, A))); /* decomposes to U+8C48 */
  CHECK(gives(TEXT(0x20000), IDS(UNK)));
}

static void test_punctuation(void) {
  CHECK(gives(TEXT('a', '!', '!', 'b'), IDS(A, BANG, BANG, B)));
  CHECK(gives(TEXT('a', 0xFF0C, 'b'), IDS(A, COMMA, B)));
  CHECK(gives(TEXT('a', '?', 'b'), IDS(A, UNK, B)));
  CHECK(gives(TEXT('a', 0x37E, 'b'), IDS(A, SEMICOLON, B))); /* only after NFD */
  CHECK(gives(TEXT('[', 'a', ']'), IDS(UNK, A, UNK)));
  CHECK(gives(TEXT('[', 'P', 'A', 'D', ']'), IDS(UNK, UNK, UNK))); /* no way in for [PAD] */
  CHECK(gives(TEXT('#', '#', 'a'), IDS(UNK, UNK, A)));
}

static void test_accents(void) {
  CHECK(gives(TEXT(0xC1, 'b', 0x323), IDS(AB)));
  CHECK(gives(TEXT('a', 0x130), IDS(A, I_))); /* i and a dot above, which goes */
  CHECK(gives(TEXT(0xAC00), IDS(JAMO, JAMO_)));
}

/* U+302E and U+1D165 combine but are not Mn: they stay, in the order of their classes. */
static void test_canonical_order(void) {
  CHECK(gives(TEXT('a', 0x302E, 0x1D165), IDS(A, STEM_, TONE_)));
  CHECK(gives(TEXT('a', 0x1D165, 0x302E), IDS(A, STEM_, TONE_)));
  CHECK(gives(TEXT(0x302E, 0x1D165), IDS(STEM, TONE_)));
  CHECK(gives(TEXT(0x302E, 'a', 0x1D165), IDS(TONE, A_, STEM_)));  /* over no starter */
  CHECK(gives(TEXT(0x302E, '!', 0x1D165), IDS(TONE, BANG, STEM))); /* over no border */
  CHECK(gives(TEXT(0x302E, 0x301, 0x1D165), IDS(STEM, TONE_)));    /* over a stripped mark */
  CHECK(gives(TEXT(0x302E, 0x34F, 0x1D165), IDS(TONE, STEM_)));    /* not if its class is 0 */
  CHECK(gives(TEXT(0x302E, 0x200D, 0x1D165), IDS(STEM, TONE_)));   /* dropped before it all */
  CHECK(gives(TEXT(0x302E, ' ', 0x1D165), IDS(TONE, STEM)));
  CHECK(gives(TEXT('a', 0x302E, 0x302F), IDS(A, TONE_, OTHER_TONE_))); /* one class: as written */
  CHECK(gives(TEXT('a', 0x302F, 0x302E), IDS(A, OTHER_TONE_, TONE_)));
}

static void test_final_sigma(void) {
  enum { S = 0x3A3 };
  CHECK(gives(TEXT(S), IDS(SIGMA))); /* nothing cased before it */
  CHECK(gives(TEXT('a', S), IDS(A, FINAL_)));
  CHECK(gives(TEXT('a', S, 'b'), IDS(A, SIGMA_, B_)));
  CHECK(gives(TEXT('a', S, S), IDS(A, SIGMA_, FINAL_)));
  CHECK(gives(TEXT('a', S, ' ', 'b'), IDS(A, FINAL_, B)));
  CHECK(gives(TEXT('a', ' ', S), IDS(A, SIGMA)));
  CHECK(gives(TEXT('a', 0x301, S, 0x301), IDS(A, FINAL_))); /* accents are passed */
  CHECK(gives(TEXT('a', 0, S), IDS(A, FINAL_)));            /* as if it were not there */
  CHECK(gives(TEXT('a', S, 0, 'b'), IDS(A, SIGMA_, B_)));   /* the same */
  CHECK(gives(TEXT('a', S, 0x4E2D, 'b'), IDS(A, FINAL_, HAN, B)));
  CHECK(gives(TEXT('a', 0x4E2D, S), IDS(A, HAN, SIGMA)));
  CHECK(gives(TEXT('1', S), IDS(DIGIT, SIGMA_)));       /* a digit is not cased */
  CHECK(gives(TEXT('a', '!', S), IDS(A, BANG, SIGMA))); /* not ignorable, not cased */
  CHECK(gives(TEXT('a', '.', S), IDS(A, UNK, FINAL)));  /* words are not split yet */
  CHECK(gives(TEXT('a', S, '.', 'b'), IDS(A, SIGMA_, UNK, B)));
  CHECK(gives(TEXT('a', 0x3C3), IDS(A, SIGMA_))); /* a small one stays as it is */
}

static size_t encode_repeated(uint32_t character, size_t length, size_t context_length,
                              int64_t *ids, size_t *ret_full_length) {
  uint32_t *characters = malloc(length * sizeof *characters);
  size_t written = 0;
  if (characters == NULL) abort();
  for (size_t i = 0; i < length; i++) characters[i] = character;
  cnclip_text text = {characters, length, 4};
  cnclip_tokenizer_encode(vocab, text, context_length, ids, &written, ret_full_length);
  free(characters);
  return written;
}

static void test_long_words(void) {
  int64_t ids[256];
  size_t full;
  CHECK(encode_repeated('a', 200, 256, ids, &full) == 202 && full == 202);
  CHECK(ids[1] == A && ids[200] == A_ && ids[201] == SEP);
  CHECK(encode_repeated('a', 201, 256, ids, &full) == 3 && full == 3 && ids[1] == UNK);
  CHECK(encode_repeated('a', 1000000, 256, ids, &full) == 3 && full == 3);
  CHECK(encode_repeated(0x302E, 200, 256, ids, &full) == 202);
  CHECK(encode_repeated(0x302E, 201, 256, ids, &full) == 3 && ids[1] == UNK);
  CHECK(encode_repeated(0xAC00, 100, 256, ids, &full) == 3); /* 200, but JAMO is no ##JAMO */
  CHECK(encode_repeated(0x301, 1000000, 256, ids, &full) == 2);
  CHECK(encode_repeated('!', 1000, 256, ids, &full) == 256 && full == 1002);
}

/* After a word that is too long, the next one starts afresh. */
static void test_after_long_word(void) {
  uint32_t characters[300];
  for (size_t i = 0; i < 300; i++) characters[i] = 'b';
  characters[250] = '!';
  characters[251] = 'a';
  characters[252] = ' ';
  CHECK(gives(characters, 254, IDS(UNK, BANG, A, B)));
  characters[250] = 0x4E2D;
  CHECK(gives(characters, 252, IDS(UNK, HAN, A)));
}

static void test_context(void) {
  int64_t ids[8];
  size_t full;
  for (size_t context_length = 2; context_length <= 8; context_length++) {
    memset(ids, -1, sizeof ids);
    size_t written = encode_repeated(0x4E2D, 4, context_length, ids, &full);
    size_t kept = context_length - 2 < 4 ? context_length - 2 : 4;
    CHECK(written == kept + 2 && full == 6);
    CHECK(ids[0] == CLS && ids[kept + 1] == SEP && (kept == 0 || ids[kept] == HAN));
    for (size_t i = written; i < 8; i++) CHECK(ids[i] == (i < context_length ? 0 : -1));
    CHECK(encode_repeated(0x4E2D, 4, context_length, ids, NULL) == written);
  }
  /* The pieces of the last word are cut too, unless the word does not fit its tokens at all. */
  static const uint32_t pieces[] = {'b', 'a', 'a', 'a'}, unknown[] = {'b', 'a', 'a', 'x'};
  size_t written;
  cnclip_text text = {pieces, 4, 4};
  cnclip_tokenizer_encode(vocab, text, 4, ids, &written, NULL);
  CHECK(written == 4 && ids[1] == B && ids[2] == A_ && ids[3] == SEP);
  text.data = unknown;
  cnclip_tokenizer_encode(vocab, text, 4, ids, &written, NULL);
  CHECK(written == 3 && ids[1] == UNK && ids[2] == SEP && ids[3] == 0);
}

/* Without lower-casing: capitals and accents stay, so that this vocabulary has no such word. */
static void test_cased(void) {
  static const uint32_t characters[] = {'a', 'b', ' ', 'A', 'B', 0x4E2D, '!', 'a', 0x301, 0xFFFD};
  int64_t ids[32];
  size_t written, full;
  cnclip_text text = {characters, 10, 4};
  cnclip_tokenizer_encode_cased(vocab, text, 32, ids, &written, &full);
  const int64_t expected[] = {CLS, AB, UNK, HAN, BANG, UNK, SEP};
  CHECK(written == 7 && full == 7 && memcmp(ids, expected, sizeof expected) == 0);
  cnclip_tokenizer_encode_cased(vocab, text, 4, ids, &written, NULL);
  CHECK(written == 4 && memcmp(ids, expected, 3 * sizeof *ids) == 0 && ids[3] == SEP);
  cnclip_tokenizer_encode(vocab, text, 32, ids, &written, &full);
  CHECK(ids[2] == AB && ids[5] == A);
}

int main(void) {
  if (cnclip_vocab_new(vocabulary, sizeof vocabulary - 1, &vocab, NULL) != CNCLIP_OK) return 1;
  CHECK(cnclip_vocab_size(vocab) == OTHER_TONE_ + 1);
  test_empty();
  test_words();
  test_chinese();
  test_punctuation();
  test_accents();
  test_canonical_order();
  test_final_sigma();
  test_long_words();
  test_after_long_word();
  test_context();
  test_cased();
  cnclip_vocab_free(vocab);
  return check_summary("tokenizer");
}
