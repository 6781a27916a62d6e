/* Any text: ids in bounds, one answer whatever the text's width, a cut answer begins the whole one.
 *
 * Input: a byte for the context length, one for the width, then the text. A byte of the text below
 * 0x80 is a choice from `letters`; three bytes from 0x80 on are a code point (or a value beyond
 * them all). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"
#include "text/vocab.h"

/* Characters of a text: more than the longest word. A character folds to four at most, so that
 * WHOLE ids are all ids of a text. */
enum { LENGTH_LIMIT = 512, WHOLE = 4 * LENGTH_LIMIT + 2 };

/* Code points that the rules turn on: cases, sigmas, marks of class 0, Mn and not Mn, Hangul,
 * borders of words, dropped ones, foldings that grow or become punctuation. */
static const uint32_t letters[] = {
    'a',    'b',     'A',     'x',     ' ',     '!',      '\'',    '#',    0,      '\n',   0x1C,
    0x85,   0xA0,    0xAD,    0xC9,    0x130,   0x300,    0x301,   0x323,  0x344,  0x345,  0x34F,
    0x37E,  0x3A3,   0x3C2,   0x3C3,   0x3B1,   0x1D165,  0x1D16D, 0x302E, 0x302F, 0x3099, 0x94D,
    0x1100, 0x1161,  0x11A8,  0xAC00,  0xAC01,  0xD7A3,   0x1F88,  0x2126, 0x212B, 0x200B, 0x2028,
    0x3000, 0x4E2D,  0x6587,  0x20000, 0xF900,  0xFB1D,   0xFF0C,  0xFF21, 0xFFFD, 0xD800, 0xDFFF,
    0x2B0,  0x1F600, 0x10400, 0x1B44,  0x16FF0, 0x10FFFF,
};

static const char vocabulary[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\nab\n##a\n##b\n##ba\n!\n'\ni\n##i\ne\n##e\nk\n##k\n"
    "\xcf\x83\n##\xcf\x83\n\xcf\x82\n##\xcf\x82\n\xce\xb1\n##\xce\xb1\n"
    "\xe3\x80\xae\n##\xe3\x80\xae\n\xf0\x9d\x85\xa5\n##\xf0\x9d\x85\xa5\n"
    "\xe4\xb8\xad\n\xe6\x96\x87\n##\xe4\xb8\xad\n\xe8\xb1\x88\n\xe1\x84\x80\n##\xe1\x85\xa1\n;\n";

static cnclip_vocab *vocab;

static void require(int condition) {
  if (!condition) abort();
}

static size_t read_text(const uint8_t *bytes, size_t size, uint32_t *characters) {
  size_t length = 0;
  for (size_t i = 0; i < size && length < LENGTH_LIMIT; i++) {
    uint32_t character = letters[bytes[i] % (sizeof letters / sizeof *letters)];
    if (bytes[i] >= 0x80 && i + 2 < size) {
      character = (uint32_t)(bytes[i] & 0x7F) << 16 | (uint32_t)bytes[i + 1] << 8 | bytes[i + 2];
      i += 2;
    }
    characters[length++] = character;
  }
  return length;
}

/* `cnclip_tokenizer_encode` or `cnclip_tokenizer_encode_cased`. */
typedef void encoder(const cnclip_vocab *vocabulary, cnclip_text text, size_t context_length,
                     int64_t *ids, size_t *written, size_t *full);

/* Encodes a text, checks the answer, and returns the number of ids of the whole text. `ids` has
 * room for one more than the context. */
static size_t encode(encoder *encode_text, cnclip_text text, size_t context_length, int64_t *ids) {
  size_t written, full;
  memset(ids, -1, (context_length + 1) * sizeof *ids);
  encode_text(vocab, text, context_length, ids, &written, &full);
  require(written == (full < context_length ? full : context_length) && written >= 2);
  require(ids[0] == cnclip_vocab_cls_id(vocab));
  require(ids[written - 1] == cnclip_vocab_sep_id(vocab));
  for (size_t i = 1; i + 1 < written; i++) {
    require(ids[i] >= 0 && ids[i] <= cnclip_vocab_largest_id(vocab));
    require(ids[i] != cnclip_vocab_cls_id(vocab) && ids[i] != cnclip_vocab_sep_id(vocab));
  }
  for (size_t i = written; i < context_length; i++) require(ids[i] == 0);
  require(ids[context_length] == -1);
  return full;
}

static void check_cut(cnclip_text text, size_t context_length, const int64_t *whole, size_t full) {
  int64_t ids[258], hasty[258];
  size_t written;
  require(encode(cnclip_tokenizer_encode, text, context_length, ids) == full);
  require(memcmp(ids, whole, (context_length < full ? context_length - 1 : full) * sizeof *ids) ==
          0);
  /* Without the full length, the end of the text is not read. */
  cnclip_tokenizer_encode(vocab, text, context_length, hasty, &written, NULL);
  require(memcmp(ids, hasty, context_length * sizeof *ids) == 0);
  require(written == (full < context_length ? full : context_length));
}

/* Two forms of one text have the same ids. */
static void check_same(cnclip_text text, cnclip_text other, const int64_t *whole, size_t full) {
  int64_t ids[WHOLE + 1], cased[WHOLE + 1];
  const size_t context_length = 4 * text.length + 2;
  require(encode(cnclip_tokenizer_encode, other, context_length, ids) == full);
  require(memcmp(whole, ids, context_length * sizeof *ids) == 0);
  const size_t cased_full = encode(cnclip_tokenizer_encode_cased, text, context_length, cased);
  require(encode(cnclip_tokenizer_encode_cased, other, context_length, ids) == cased_full);
  require(memcmp(cased, ids, context_length * sizeof *ids) == 0);
}

/* The text in a block of exactly its bytes, for the address sanitizer. New block, or NULL. The
 * characters lose the bits that the width lacks. */
static void *narrowed(uint32_t *characters, size_t length, int width) {
  void *block = malloc(length * (size_t)width + (length == 0));
  if (block == NULL) return NULL;
  for (size_t i = 0; i < length; i++) {
    if (width == 4) ((uint32_t *)block)[i] = characters[i];
    if (width == 2) ((uint16_t *)block)[i] = (uint16_t)(characters[i] &= 0xFFFF);
    if (width == 1) ((uint8_t *)block)[i] = (uint8_t)(characters[i] &= 0xFF);
  }
  return block;
}

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerInitialize(int *count, char ***arguments) {
  (void)count;
  (void)arguments;
  return cnclip_vocab_new(vocabulary, sizeof vocabulary - 1, &vocab, NULL) != CNCLIP_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  static const int widths[] = {4, 2, 1};
  static uint32_t characters[LENGTH_LIMIT];
  static int64_t whole[WHOLE + 1];
  const size_t context_length = 2 + (size > 0 ? bytes[0] : 0);
  const int width = widths[size > 1 ? bytes[1] % 3 : 0];
  const size_t length = size > 2 ? read_text(bytes + 2, size - 2, characters) : 0;
  void *block = narrowed(characters, length, width);
  if (block == NULL) return 0;
  const cnclip_text text = {block, length, width};
  const size_t full = encode(cnclip_tokenizer_encode, text, 4 * length + 2, whole);
  require(full <= 4 * length + 2);
  check_same(text, (cnclip_text){characters, length, 4}, whole, full);
  check_cut(text, context_length, whole, full);
  free(block);
  return 0;
}
