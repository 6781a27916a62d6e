/* How a vocabulary file is read, and what longest match finds in it. */
#include "text/vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define SPECIALS "[PAD]\n[UNK]\n[CLS]\n[SEP]\n"

/* A vocabulary made of a string literal, NULs in it included; NULL if it is refused. */
#define READ(literal) read_vocabulary(literal, sizeof(literal) - 1)

static cnclip_error error;

static cnclip_vocab *read_vocabulary(const char *text, size_t size) {
  cnclip_vocab *vocab = NULL;
  /* An allocation of the exact size lets the address sanitizer see a read beyond the text. */
  char *exact = malloc(size != 0 ? size : 1);
  if (exact == NULL) abort();
  memcpy(exact, text, size);
  error = (cnclip_error){0};
  cnclip_status status = cnclip_vocab_new(exact, size, &vocab, &error);
  CHECK(status == error.code && (status == CNCLIP_OK) == (vocab != NULL));
  free(exact);
  return vocab;
}

/* The id of the token that covers all of an ASCII word, or -1. */
static int32_t find(const cnclip_vocab *vocab, const char *word, bool continues) {
  uint32_t characters[256];
  size_t length = strlen(word), matched;
  for (size_t i = 0; i < length; i++) characters[i] = (unsigned char)word[i];
  int32_t id = cnclip_vocab_longest_match(vocab, characters, length, continues, &matched);
  return matched == length ? id : -1;
}

static bool refuses(const char *text, size_t size, const char *because) {
  cnclip_vocab *vocab = read_vocabulary(text, size);
  bool refused =
      vocab == NULL && error.code == CNCLIP_ERROR_VOCABULARY && strstr(error.message, because);
  cnclip_vocab_free(vocab);
  return refused;
}

static void test_specials(void) {
  cnclip_vocab *vocab = READ("a\n[SEP]\n[CLS]\n[UNK]\n[PAD]");
  CHECK(cnclip_vocab_pad_id(vocab) == 4);
  CHECK(cnclip_vocab_unk_id(vocab) == 3);
  CHECK(cnclip_vocab_cls_id(vocab) == 2);
  CHECK(cnclip_vocab_sep_id(vocab) == 1);
  CHECK(cnclip_vocab_size(vocab) == 5);
  CHECK(cnclip_vocab_largest_id(vocab) == 4);
  cnclip_vocab_free(vocab);
  CHECK(refuses("", 0, "[PAD]"));
  CHECK(refuses("[UNK]\n[CLS]\n[SEP]\n", 18, "[PAD]"));
  CHECK(refuses("[PAD]\n[CLS]\n[SEP]\n", 18, "[UNK]"));
  CHECK(refuses("[PAD]\n[UNK]\n[SEP]\n", 18, "[CLS]"));
  CHECK(refuses("[PAD]\n[UNK]\n[CLS]\n", 18, "[SEP]"));
  CHECK(refuses("\xEF\xBB\xBF" SPECIALS, 27, "[PAD]")); /* the mark belongs to the first token */
}

static void test_lines(void) {
  cnclip_vocab *vocab = READ(SPECIALS "lf\ncrlf\r\ncr\rtail");
  CHECK(find(vocab, "lf", false) == 4);
  CHECK(find(vocab, "crlf", false) == 5);
  CHECK(find(vocab, "cr", false) == 6);
  CHECK(find(vocab, "tail", false) == 7);
  CHECK(cnclip_vocab_size(vocab) == 8);
  cnclip_vocab_free(vocab);

  /* LF CR is two ends; blank lines take numbers, and none of them is a token. */
  vocab = READ(SPECIALS "\n\ra\n \t\n\n");
  CHECK(find(vocab, "a", false) == 6);
  CHECK(cnclip_vocab_size(vocab) == 9);
  CHECK(cnclip_vocab_largest_id(vocab) == 6);
  cnclip_vocab_free(vocab);

  vocab = READ(SPECIALS "a\r");
  CHECK(find(vocab, "a", false) == 4 && cnclip_vocab_size(vocab) == 5);
  cnclip_vocab_free(vocab);
}

static void test_white_space(void) {
  /* What str.strip drops: ASCII, the separators 0x1C to 0x1F, U+0085, U+2028, U+3000. */
  cnclip_vocab *vocab = READ(SPECIALS
                             " \t\v\fa\x1c\x1f \n\xc2\x85"
                             "b\xe2\x80\xa8\n\xe3\x80\x80"
                             "c d\xe3\x80\x80\n");
  CHECK(find(vocab, "a", false) == 4);
  CHECK(find(vocab, "b", false) == 5);
  CHECK(find(vocab, "c d", false) == 6); /* inside it stays */
  CHECK(cnclip_vocab_size(vocab) == 7);
  cnclip_vocab_free(vocab);
}

static void test_duplicates(void) {
  cnclip_vocab *vocab = READ(SPECIALS "a\nb\n a\n[PAD]\nb\nb\n");
  CHECK(find(vocab, "a", false) == 6);
  CHECK(find(vocab, "b", false) == 9);
  CHECK(cnclip_vocab_pad_id(vocab) == 7);
  cnclip_vocab_free(vocab);
}

/* More tokens than memory is first asked for, each twice: of equal ones the last counts. */
static void test_many_tokens(void) {
  enum { TOKENS = 3000 };
  static char text[sizeof SPECIALS + 2 * TOKENS * sizeof "t0000"] = SPECIALS;
  size_t size = sizeof SPECIALS - 1;
  for (int i = 0; i < 2 * TOKENS; i++) {
    size += (size_t)snprintf(text + size, sizeof text - size, "t%04d\n", i % TOKENS);
  }
  cnclip_vocab *vocab = read_vocabulary(text, size);
  CHECK(cnclip_vocab_size(vocab) == 4 + 2 * TOKENS);
  for (int i = 0; i < TOKENS; i++) {
    char token[16];
    snprintf(token, sizeof token, "t%04d", i);
    CHECK(find(vocab, token, false) == 4 + TOKENS + i);
  }
  cnclip_vocab_free(vocab);
}

static void test_too_many_bytes(void) {
  cnclip_vocab *vocab = NULL;
  error = (cnclip_error){0};
  /* Refused before anything is read. */
  CHECK(cnclip_vocab_new(SPECIALS, (size_t)CNCLIP_VOCAB_BYTES_LIMIT + 1, &vocab, &error) ==
        CNCLIP_ERROR_VOCABULARY);
  CHECK(vocab == NULL && strstr(error.message, "more than 1073741823 bytes") != NULL);
}

static void test_nul(void) {
  cnclip_vocab *vocab = READ(SPECIALS "a\0b\n\0\n");
  const uint32_t characters[] = {'a', 0, 'b'};
  size_t matched;
  CHECK(cnclip_vocab_longest_match(vocab, characters, 3, false, &matched) == 4 && matched == 3);
  CHECK(cnclip_vocab_longest_match(vocab, characters + 1, 2, false, &matched) == 5);
  CHECK(matched == 1);
  CHECK(find(vocab, "a", false) == -1);
  cnclip_vocab_free(vocab);
}

/* Strictly what Python's decoder takes. */
static void test_utf8(void) {
  static const struct {
    const char *bytes;
    bool valid;
  } cases[] = {
      {"\x7f", true},
      {"\xc2\x80", true},
      {"\xe0\xa0\x80", true},
      {"\xed\x9f\xbf", true},
      {"\xee\x80\x80", true},
      {"\xef\xbf\xbf", true},
      {"\xf0\x90\x80\x80", true},
      {"\xf4\x8f\xbf\xbf", true},
      {"\x80", false},             /* continuation byte alone */
      {"\xc3", false},             /* cut off by the end of the text */
      {"\xe4\xb8", false},         /* the same */
      {"\xf0\x9f\x98", false},     /* the same */
      {"\xc3\n", false},           /* cut off by the end of the line */
      {"\xc1\xbf", false},         /* overlong */
      {"\xe0\x9f\xbf", false},     /* overlong */
      {"\xf0\x8f\xbf\xbf", false}, /* overlong */
      {"\xed\xa0\x80", false},     /* surrogate */
      {"\xed\xbf\xbf", false},     /* surrogate */
      {"\xf4\x90\x80\x80", false}, /* above U+10FFFF */
      {"\xf5\x80\x80\x80", false},
      {"\xff", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[64] = SPECIALS;
    strcat(text, cases[i].bytes);
    if (cases[i].valid) {
      cnclip_vocab *vocab = read_vocabulary(text, strlen(text));
      CHECK(vocab != NULL && cnclip_vocab_size(vocab) == 5);
      cnclip_vocab_free(vocab);
    } else {
      CHECK(refuses(text, strlen(text), "line 5"));
    }
  }
  CHECK(refuses("a\r\nb\rc\n\xff\n", 9, "line 4"));
}

static void test_longest_match(void) {
  cnclip_vocab *vocab = READ(SPECIALS
                             "un\nunaffable\n##aff\n##able\n##a\nu\n##\n#\n"
                             "\xe4\xb8\xad\n\xe4\xb8\xad\xe6\x96\x87\n\xf0\x9f\x98\x80\n");
  const uint32_t word[] = {'u', 'n', 'a', 'f', 'f', 'a', 'b', 'l', 'e', 's'};
  size_t matched;
  CHECK(cnclip_vocab_longest_match(vocab, word, 10, false, &matched) == 5 && matched == 9);
  CHECK(cnclip_vocab_longest_match(vocab, word, 8, false, &matched) == 4 && matched == 2);
  CHECK(cnclip_vocab_longest_match(vocab, word, 1, false, &matched) == 9 && matched == 1);
  CHECK(cnclip_vocab_longest_match(vocab, word, 0, false, &matched) == -1 && matched == 0);
  CHECK(cnclip_vocab_longest_match(vocab, word + 2, 8, true, &matched) == 6 && matched == 3);
  CHECK(cnclip_vocab_longest_match(vocab, word + 2, 2, true, &matched) == 8 && matched == 1);
  CHECK(cnclip_vocab_longest_match(vocab, word, 10, true, &matched) == -1 && matched == 0);
  CHECK(cnclip_vocab_longest_match(vocab, word + 9, 1, false, &matched) == -1 && matched == 0);
  CHECK(find(vocab, "#", false) == 11);
  CHECK(find(vocab, "##", false) == 10); /* without `continues`, as it is written */
  CHECK(find(vocab, "#", true) == -1);
  const uint32_t chinese[] = {0x4E2D, 0x6587, 0x1F600};
  CHECK(cnclip_vocab_longest_match(vocab, chinese, 3, false, &matched) == 13 && matched == 2);
  CHECK(cnclip_vocab_longest_match(vocab, chinese + 1, 2, false, &matched) == -1);
  CHECK(cnclip_vocab_longest_match(vocab, chinese + 2, 1, false, &matched) == 14);
  const uint32_t beyond[] = {0xFFFFFFFF, 0x110000};
  CHECK(cnclip_vocab_longest_match(vocab, beyond, 2, false, &matched) == -1);
  CHECK(cnclip_vocab_longest_match(vocab, beyond + 1, 1, true, &matched) == -1);
  cnclip_vocab_free(vocab);
}

static void test_no_continuing_tokens(void) {
  cnclip_vocab *vocab = READ(SPECIALS "a\n");
  CHECK(find(vocab, "a", false) == 4);
  CHECK(find(vocab, "a", true) == -1);
  cnclip_vocab_free(vocab);
}

/* A token as long as a word may be is found; one that no word can hold is read and forgotten. */
static void test_long_tokens(void) {
  char text[1024] = SPECIALS "##", word[256];
  memset(word, 'x', sizeof word);
  strncat(text, word, CNCLIP_VOCAB_WORD_LIMIT);
  strcat(text, "\n");
  strncat(text, word, CNCLIP_VOCAB_TOKEN_LIMIT + 1);
  cnclip_vocab *vocab = read_vocabulary(text, strlen(text));
  word[CNCLIP_VOCAB_WORD_LIMIT] = '\0';
  CHECK(find(vocab, word, true) == 4);
  CHECK(find(vocab, word, false) == -1);
  CHECK(cnclip_vocab_size(vocab) == 6);
  CHECK(cnclip_vocab_largest_id(vocab) == 5);
  cnclip_vocab_free(vocab);
}

static void test_long_line(void) {
  size_t size = (size_t)10 << 20;
  char *text = malloc(size);
  if (text == NULL) abort();
  memset(text, 'x', size);
  memcpy(text, SPECIALS, strlen(SPECIALS));
  cnclip_vocab *vocab = read_vocabulary(text, size);
  CHECK(vocab != NULL && cnclip_vocab_size(vocab) == 5);
  cnclip_vocab_free(vocab);
  free(text);
}

static void test_free_nothing(void) {
  cnclip_vocab_free(NULL);
  CHECK(cnclip_vocab_new("", 0, &(cnclip_vocab *){NULL}, NULL) == CNCLIP_ERROR_VOCABULARY);
}

int main(void) {
  test_specials();
  test_lines();
  test_white_space();
  test_duplicates();
  test_many_tokens();
  test_too_many_bytes();
  test_nul();
  test_utf8();
  test_longest_match();
  test_no_continuing_tokens();
  test_long_tokens();
  test_long_line();
  test_free_nothing();
  return check_summary("vocab");
}
