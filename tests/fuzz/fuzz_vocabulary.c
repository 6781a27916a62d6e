/* Any bytes as a vocabulary: refused with a message, or ids in bounds and matches that are tokens.
 *
 * Input: a byte that says whether the special tokens are put before the rest, then the file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/vocab.h"

static const char specials[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n";

static void require(int condition) {
  if (!condition) abort();
}

static void check_specials(const cnclip_vocab *vocab) {
  int32_t largest = cnclip_vocab_largest_id(vocab);
  require(largest < cnclip_vocab_size(vocab));
  require(cnclip_vocab_pad_id(vocab) >= 0 && cnclip_vocab_pad_id(vocab) <= largest);
  require(cnclip_vocab_unk_id(vocab) >= 0 && cnclip_vocab_unk_id(vocab) <= largest);
  require(cnclip_vocab_cls_id(vocab) >= 0 && cnclip_vocab_cls_id(vocab) <= largest);
  require(cnclip_vocab_sep_id(vocab) >= 0 && cnclip_vocab_sep_id(vocab) <= largest);
}

/* The match itself matches as a whole, and nothing longer does. With "##" before it, a match
 * inside a word is a token that the beginning of a word finds too. */
static void check_match(const cnclip_vocab *vocab, const uint32_t *characters, size_t length,
                        bool continues) {
  size_t matched, again;
  int32_t id = cnclip_vocab_longest_match(vocab, characters, length, continues, &matched);
  require(matched <= length && (id >= 0) == (matched > 0));
  require(id <= cnclip_vocab_largest_id(vocab));
  if (id < 0) return;
  require(cnclip_vocab_longest_match(vocab, characters, matched, continues, &again) == id);
  require(again == matched);
  for (size_t longer = matched + 1; longer <= length && longer < matched + 8; longer++) {
    cnclip_vocab_longest_match(vocab, characters, longer, continues, &again);
    require(again == matched);
  }
  if (!continues || matched > CNCLIP_VOCAB_WORD_LIMIT) return;
  uint32_t written[CNCLIP_VOCAB_TOKEN_LIMIT] = {'#', '#'};
  memcpy(written + 2, characters, matched * sizeof *characters);
  require(cnclip_vocab_longest_match(vocab, written, matched + 2, false, &again) == id);
  require(again == matched + 2);
}

/* Reads valid UTF-8. */
static size_t decode(const uint8_t *bytes, size_t size, uint32_t *characters) {
  size_t count = 0;
  for (size_t i = 0; i < size; i++) {
    if ((bytes[i] & 0xC0) == 0x80) {
      characters[count - 1] = characters[count - 1] << 6 | (bytes[i] & 0x3F);
    } else {
      uint32_t mask = bytes[i] < 0x80 ? 0x7F : bytes[i] < 0xE0 ? 0x1F : bytes[i] < 0xF0 ? 0xF : 7;
      characters[count++] = bytes[i] & mask;
    }
  }
  return count;
}

/* An ASCII line without white space around it is a token: found whole, with the last id it has. */
static void check_lines(const cnclip_vocab *vocab, const uint32_t *characters, size_t count) {
  size_t start = 0;
  for (size_t i = 0; i <= count; i++) {
    if (i < count && characters[i] != '\n' && characters[i] != '\r') continue;
    size_t length = i - start, matched;
    int plain = length > 0 && length <= CNCLIP_VOCAB_TOKEN_LIMIT;
    for (size_t k = start; k < i; k++) plain &= characters[k] > ' ' && characters[k] < 0x7F;
    if (plain) {
      require(cnclip_vocab_longest_match(vocab, characters + start, length, false, &matched) >= 0);
      require(matched == length);
    }
    start = i + 1;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  if (size == 0) return 0;
  size_t before = bytes[0] % 4 != 0 ? sizeof specials - 1 : 0;
  size_t total = before + size - 1;
  char *text = malloc(total + (total == 0));
  uint32_t *characters = malloc((total + 1) * sizeof *characters);
  cnclip_vocab *vocab = NULL;
  cnclip_error error = {0};
  if (text == NULL || characters == NULL) goto done;
  memcpy(text, specials, before);
  memcpy(text + before, bytes + 1, size - 1);
  if (cnclip_vocab_new(text, total, &vocab, &error) != CNCLIP_OK) {
    require(error.code == CNCLIP_ERROR_VOCABULARY && error.message[0] != '\0');
    goto done;
  }
  check_specials(vocab);
  size_t count = decode((const uint8_t *)text, total, characters);
  check_lines(vocab, characters, count);
  for (size_t i = 0; i < count; i++) {
    size_t length = count - i < 300 ? count - i : 300;
    check_match(vocab, characters + i, length, false);
    check_match(vocab, characters + i, length, true);
  }
done:
  cnclip_vocab_free(vocab);
  free(characters);
  free(text);
  return 0;
}
