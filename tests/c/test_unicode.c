/* Properties of code points, by examples that hold in every version of Unicode since 9. */
#include "text/unicode.h"

#include <stdbool.h>

#include "check.h"

static bool has(uint32_t code_point, cnclip_unicode_flag flag) {
  return (cnclip_unicode_flags(code_point) & flag) != 0;
}

static void test_removed(void) {
  CHECK(has(0, CNCLIP_UNICODE_REMOVED));
  CHECK(has(0x0B, CNCLIP_UNICODE_REMOVED));   /* vertical tab: Cc */
  CHECK(has(0x85, CNCLIP_UNICODE_REMOVED));   /* next line: Cc, and white space to str.strip */
  CHECK(has(0xAD, CNCLIP_UNICODE_REMOVED));   /* soft hyphen: Cf */
  CHECK(has(0x200D, CNCLIP_UNICODE_REMOVED)); /* zero width joiner */
  CHECK(has(0xFEFF, CNCLIP_UNICODE_REMOVED)); /* byte order mark */
  CHECK(has(0xFFFD, CNCLIP_UNICODE_REMOVED));
  CHECK(has(0xE0001, CNCLIP_UNICODE_REMOVED)); /* language tag */
  CHECK(!has('\t', CNCLIP_UNICODE_REMOVED));
  CHECK(!has('\n', CNCLIP_UNICODE_REMOVED));
  CHECK(!has('\r', CNCLIP_UNICODE_REMOVED));
  CHECK(!has(0xD800, CNCLIP_UNICODE_REMOVED)); /* Cs stays */
  CHECK(!has(0xE000, CNCLIP_UNICODE_REMOVED)); /* Co stays */
  CHECK(!has(0x378, CNCLIP_UNICODE_REMOVED));  /* Cn stays */
}

static void test_space(void) {
  static const uint32_t spaces[] = {' ',    '\t',   '\n',   '\v',   '\f',   '\r',
                                    0x1C,   0x1F,   0x85,   0xA0,   0x1680, 0x2000,
                                    0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000};
  for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
    CHECK(has(spaces[i], CNCLIP_UNICODE_SPACE));
  }
  CHECK(!has(0x200B, CNCLIP_UNICODE_SPACE)); /* zero width space is Cf */
  CHECK(!has(0x180E, CNCLIP_UNICODE_SPACE)); /* Mongolian vowel separator is Cf */
  CHECK(!has(0xFEFF, CNCLIP_UNICODE_SPACE));
  CHECK(!has('_', CNCLIP_UNICODE_SPACE));
}

static void test_cjk(void) {
  static const uint32_t bounds[][2] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},
                                       {0x20000, 0x2A6DF}, {0x2A700, 0x2CEAF}, {0x2F800, 0x2FA1F}};
  for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
    CHECK(!has(bounds[i][0] - 1, CNCLIP_UNICODE_CJK));
    CHECK(has(bounds[i][0], CNCLIP_UNICODE_CJK));
    CHECK(has(bounds[i][1], CNCLIP_UNICODE_CJK));
    CHECK(!has(bounds[i][1] + 1, CNCLIP_UNICODE_CJK));
  }
  CHECK(!has(0x3042, CNCLIP_UNICODE_CJK));  /* hiragana */
  CHECK(!has(0xAC00, CNCLIP_UNICODE_CJK));  /* hangul */
  CHECK(!has(0x30000, CNCLIP_UNICODE_CJK)); /* extension G came after BERT */
}

static void test_punctuation(void) {
  for (uint32_t c = 0; c < 0x80; c++) {
    bool expected = (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
                    (c >= 123 && c <= 126);
    CHECK(has(c, CNCLIP_UNICODE_PUNCTUATION) == expected);
  }
  CHECK(has(0x3001, CNCLIP_UNICODE_PUNCTUATION));  /* ideographic comma */
  CHECK(has(0xFF08, CNCLIP_UNICODE_PUNCTUATION));  /* fullwidth parenthesis */
  CHECK(!has(0xFF0B, CNCLIP_UNICODE_PUNCTUATION)); /* fullwidth plus is Sm, and not ASCII */
  CHECK(!has(0xA3, CNCLIP_UNICODE_PUNCTUATION));   /* pound sign is Sc */
}

static void test_marks(void) {
  CHECK(has(0x301, CNCLIP_UNICODE_NONSPACING));
  CHECK(!has(0x302E, CNCLIP_UNICODE_NONSPACING)); /* Hangul tone mark: Mc, yet it combines */
  CHECK(cnclip_unicode_combining_class('a') == 0);
  CHECK(cnclip_unicode_combining_class(0x301) == 230);
  CHECK(cnclip_unicode_combining_class(0x323) == 220);
  CHECK(cnclip_unicode_combining_class(0x302E) == 224);
  CHECK(cnclip_unicode_combining_class(0x1D165) == 216);
  CHECK(has(0x34F, CNCLIP_UNICODE_NONSPACING)); /* grapheme joiner: Mn of class 0 */
  CHECK(cnclip_unicode_combining_class(0x34F) == 0);
}

static void test_case(void) {
  CHECK(has('a', CNCLIP_UNICODE_CASED));
  CHECK(has('Z', CNCLIP_UNICODE_CASED));
  CHECK(has(0x3A3, CNCLIP_UNICODE_CASED));
  CHECK(!has('1', CNCLIP_UNICODE_CASED));
  CHECK(!has(0x4E2D, CNCLIP_UNICODE_CASED));
  CHECK(has('\'', CNCLIP_UNICODE_CASE_IGNORABLE));
  CHECK(has('.', CNCLIP_UNICODE_CASE_IGNORABLE));
  CHECK(has(0x301, CNCLIP_UNICODE_CASE_IGNORABLE));
  CHECK(!has('a', CNCLIP_UNICODE_CASE_IGNORABLE));
  CHECK(!has('-', CNCLIP_UNICODE_CASE_IGNORABLE));
  /* U+02B0, a modifier letter, is cased and ignorable: the walk passes it. */
  CHECK(has(0x2B0, CNCLIP_UNICODE_CASE_IGNORABLE) && !has(0x2B0, CNCLIP_UNICODE_CASED));
}

static bool folds_to(uint32_t code_point, uint32_t first, uint32_t second, uint32_t third) {
  const uint32_t expected[3] = {first, second, third};
  uint32_t folded[CNCLIP_UNICODE_FOLD_CAPACITY];
  size_t length = cnclip_unicode_fold(code_point, folded);
  size_t expected_length = third != 0 ? 3 : second != 0 ? 2 : 1;
  bool folds = expected_length != 1 || first != code_point;
  if (length != expected_length || has(code_point, CNCLIP_UNICODE_FOLDS) != folds) return false;
  for (size_t i = 0; i < length; i++) {
    if (folded[i] != expected[i]) return false;
  }
  return true;
}

static void test_fold(void) {
  CHECK(folds_to('a', 'a', 0, 0));
  CHECK(folds_to('A', 'a', 0, 0));
  CHECK(folds_to(0xC9, 'e', 0x301, 0));            /* E with acute */
  CHECK(folds_to(0x130, 'i', 0x307, 0));           /* I with dot: two characters in lower case */
  CHECK(folds_to(0x1E68, 's', 0x323, 0x307));      /* decomposes twice, in canonical order */
  CHECK(folds_to(0x3A3, 0x3C3, 0, 0));             /* sigma, alone not final */
  CHECK(folds_to(0x37E, ';', 0, 0));               /* Greek question mark */
  CHECK(folds_to(0x212A, 'k', 0, 0));              /* kelvin sign */
  CHECK(folds_to(0xF900, 0x8C48, 0, 0));           /* compatibility ideograph */
  CHECK(folds_to(0xFF21, 0xFF41, 0, 0));           /* fullwidth stays fullwidth: not NFKD */
  CHECK(folds_to(0xAC00, 0x1100, 0x1161, 0));      /* first syllable: no trailing consonant */
  CHECK(folds_to(0xD55C, 0x1112, 0x1161, 0x11AB)); /* han */
  CHECK(folds_to(0xD7A3, 0x1112, 0x1175, 0x11C2)); /* last syllable */
  CHECK(folds_to(0xABFF, 0xABFF, 0, 0) && folds_to(0xD7A4, 0xD7A4, 0, 0));
  CHECK(folds_to(0x10400, 0x10428, 0, 0)); /* Deseret, above the BMP */
  CHECK(folds_to(0xD800, 0xD800, 0, 0));
}

/* Every folding fits its capacity and is a fixed point: what is lower case and decomposed stays. */
static void test_fold_everywhere(void) {
  size_t unstable = 0;
  for (uint32_t c = 0; c <= 0x10FFFF; c++) {
    uint32_t folded[CNCLIP_UNICODE_FOLD_CAPACITY];
    size_t length = cnclip_unicode_fold(c, folded);
    if (length < 1 || length > CNCLIP_UNICODE_FOLD_CAPACITY) unstable++;
    if ((length != 1 || folded[0] != c) != has(c, CNCLIP_UNICODE_FOLDS)) unstable++;
    for (size_t i = 0; i < length; i++) unstable += has(folded[i], CNCLIP_UNICODE_FOLDS);
  }
  CHECK(unstable == 0);
}

static void test_beyond_unicode(void) {
  static const uint32_t beyond[] = {0x110000, 0x7FFFFFFF, 0xFFFFFFFF};
  for (size_t i = 0; i < 3; i++) {
    uint32_t folded[CNCLIP_UNICODE_FOLD_CAPACITY];
    CHECK(cnclip_unicode_flags(beyond[i]) == 0);
    CHECK(cnclip_unicode_combining_class(beyond[i]) == 0);
    CHECK(cnclip_unicode_fold(beyond[i], folded) == 1 && folded[0] == beyond[i]);
  }
}

int main(void) {
  test_removed();
  test_space();
  test_cjk();
  test_punctuation();
  test_marks();
  test_case();
  test_fold();
  test_fold_everywhere();
  test_beyond_unicode();
  return check_summary("unicode");
}
