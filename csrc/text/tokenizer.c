#include "text/tokenizer.h"

#include <stdbool.h>
#include <string.h>

#include "text/unicode.h"

/* One pass over the text, a character at a time, keeping no more than the current word: what
 * ModelScope does in a dozen passes over lists of words comes to the same, because
 * - only a final sigma looks beyond its character when a word becomes lower case;
 * - canonical reordering moves only non-starters, and never over a character that splits words;
 * - a word of more than CNCLIP_VOCAB_WORD_LIMIT characters is unknown whatever they are. */

typedef struct {
  const cnclip_vocab *vocab;
  int64_t *ids;
  size_t capacity; /* of ids; more are counted and not written */
  size_t count;
  uint32_t *word; /* lower case, decomposed, in canonical order; CNCLIP_VOCAB_WORD_LIMIT of them */
  size_t word_length;
  size_t sorting_start; /* in the word: where the current run of non-starters begins */
  bool too_long;        /* the current word is, and has got its [UNK] */
} id_writer;

static void put_id(id_writer *writer, int32_t id) {
  if (writer->count < writer->capacity) writer->ids[writer->count] = id;
  writer->count++;
}

/* Ends the current word, if there is one: its pieces, or [UNK] if they do not cover it. */
static void end_word(id_writer *writer) {
  size_t length = writer->word_length;
  size_t first_piece = writer->count;
  for (size_t start = 0; start < length;) {
    size_t matched;
    int32_t id = cnclip_vocab_longest_match(writer->vocab, writer->word + start, length - start,
                                            start > 0, &matched);
    if (id < 0) {
      writer->count = first_piece;
      put_id(writer, cnclip_vocab_unk_id(writer->vocab));
      break;
    }
    put_id(writer, id);
    start += matched;
  }
  writer->word_length = 0;
  writer->sorting_start = 0;
  writer->too_long = false;
}

/* A word of this character alone, after the current word. */
static void put_single(id_writer *writer, uint32_t character) {
  size_t matched;
  end_word(writer);
  int32_t id = cnclip_vocab_longest_match(writer->vocab, &character, 1, false, &matched);
  put_id(writer, id >= 0 ? id : cnclip_vocab_unk_id(writer->vocab));
}

/* True if the word takes one character more. The [UNK] of a word that is too long is put at once,
 * so that a full context ends the reading before such a word ends. */
static bool make_room(id_writer *writer) {
  if (writer->too_long) return false;
  if (writer->word_length < CNCLIP_VOCAB_WORD_LIMIT) return true;
  put_id(writer, cnclip_vocab_unk_id(writer->vocab));
  writer->word_length = 0;
  writer->sorting_start = 0;
  writer->too_long = true;
  return false;
}

static void append_starter(id_writer *writer, uint32_t character) {
  if (!make_room(writer)) return;
  writer->word[writer->word_length++] = character;
  writer->sorting_start = writer->word_length;
}

/* Stable insertion, which the length of a word bounds. */
static void append_non_starter(id_writer *writer, uint32_t character, uint8_t combining_class) {
  if (!make_room(writer)) return;
  size_t at = writer->word_length++;
  while (at > writer->sorting_start &&
         cnclip_unicode_combining_class(writer->word[at - 1]) > combining_class) {
    writer->word[at] = writer->word[at - 1];
    at--;
  }
  writer->word[at] = character;
}

/* A character in lower case and decomposed. Not white space: read_character ends words there, and
 * nothing else folds to it, which generate_unicode_tables.py checks. */
static void put_folded(id_writer *writer, uint32_t character, uint8_t flags) {
  if (flags & CNCLIP_UNICODE_PUNCTUATION) {
    put_single(writer, character);
    return;
  }
  uint8_t combining_class = cnclip_unicode_combining_class(character);
  if (flags & CNCLIP_UNICODE_NONSPACING) {
    /* Stripped after reordering: as a starter it has kept the characters around it apart. */
    if (combining_class == 0) writer->sorting_start = writer->word_length;
  } else if (combining_class == 0) {
    append_starter(writer, character);
  } else {
    append_non_starter(writer, character, combining_class);
  }
}

static void put_character(id_writer *writer, uint32_t character, uint8_t flags) {
  if ((flags & CNCLIP_UNICODE_FOLDS) == 0) {
    put_folded(writer, character, flags);
    return;
  }
  uint32_t folded[CNCLIP_UNICODE_FOLD_CAPACITY];
  size_t length = cnclip_unicode_fold(character, folded);
  for (size_t i = 0; i < length; i++) {
    put_folded(writer, folded[i], cnclip_unicode_flags(folded[i]));
  }
}

static uint32_t character_at(cnclip_text text, size_t index) {
  switch (text.width) {
    case 1:
      return ((const uint8_t *)text.data)[index];
    case 2:
      return ((const uint16_t *)text.data)[index];
    default:
      return ((const uint32_t *)text.data)[index];
  }
}

/* Whether the first character beyond `index` that is not case-ignorable is cased. `step` is 1, or
 * SIZE_MAX to walk back. It does not leave the word: what ends one is neither cased nor ignorable.
 * Nor does it pass another sigma, so that all the walks of one text read it twice at most. */
static bool reaches_cased(cnclip_text text, size_t index, size_t step) {
  for (index += step; index < text.length; index += step) {
    uint8_t flags = cnclip_unicode_flags(character_at(text, index));
    if (flags & CNCLIP_UNICODE_REMOVED) continue;
    if ((flags & CNCLIP_UNICODE_CASE_IGNORABLE) == 0) return (flags & CNCLIP_UNICODE_CASED) != 0;
  }
  return false;
}

enum { CAPITAL_SIGMA = 0x3A3, SMALL_SIGMA = 0x3C3, FINAL_SIGMA = 0x3C2 };

static uint32_t lower_sigma(cnclip_text text, size_t index) {
  bool ends_word = reaches_cased(text, index, SIZE_MAX) && !reaches_cased(text, index, 1);
  return ends_word ? FINAL_SIGMA : SMALL_SIGMA;
}

static void read_character(id_writer *writer, cnclip_text text, size_t index) {
  uint32_t character = character_at(text, index);
  if (character - 'a' < 26 || character - '0' < 10) {
    append_starter(writer, character);
    return;
  }
  if (character - 'A' < 26) {
    append_starter(writer, character + ('a' - 'A'));
    return;
  }
  if (character - 0x4E00 < 0x5200) { /* CJK unified ideographs: they never fold */
    put_single(writer, character);
    return;
  }
  uint8_t flags = cnclip_unicode_flags(character);
  if (flags & CNCLIP_UNICODE_REMOVED) return;
  if (flags & CNCLIP_UNICODE_SPACE) {
    end_word(writer);
  } else if (flags & CNCLIP_UNICODE_CJK) {
    end_word(writer);
    put_character(writer, character, flags);
    end_word(writer);
  } else if (character == CAPITAL_SIGMA) {
    append_starter(writer, lower_sigma(text, index));
  } else {
    put_character(writer, character, flags);
  }
}

static void read_cased_character(id_writer *writer, cnclip_text text, size_t index) {
  const uint32_t character = character_at(text, index);
  const uint8_t flags = cnclip_unicode_flags(character);
  if (flags & CNCLIP_UNICODE_REMOVED) return;
  if (flags & CNCLIP_UNICODE_SPACE) {
    end_word(writer);
  } else if (flags & (CNCLIP_UNICODE_CJK | CNCLIP_UNICODE_PUNCTUATION)) {
    put_single(writer, character);
  } else {
    append_starter(writer, character);
  }
}

typedef void read_function(id_writer *writer, cnclip_text text, size_t index);

/* Compiled once for each `read`: calling it for every character takes longer than reading it. */
static inline __attribute__((always_inline)) void encode(const cnclip_vocab *vocab,
                                                         read_function *read, cnclip_text text,
                                                         size_t context_length, int64_t *ids,
                                                         size_t *ret_length,
                                                         size_t *ret_full_length) {
  uint32_t word[CNCLIP_VOCAB_WORD_LIMIT];
  id_writer writer = {.vocab = vocab, .ids = ids + 1, .capacity = context_length - 2, .word = word};
  size_t enough = ret_full_length != NULL ? SIZE_MAX : writer.capacity;
  for (size_t i = 0; i < text.length && writer.count < enough; i++) read(&writer, text, i);
  end_word(&writer);
  size_t written = writer.count < writer.capacity ? writer.count : writer.capacity;
  ids[0] = cnclip_vocab_cls_id(vocab);
  ids[written + 1] = cnclip_vocab_sep_id(vocab);
  memset(ids + written + 2, 0, (context_length - written - 2) * sizeof *ids);
  *ret_length = written + 2;
  if (ret_full_length != NULL) *ret_full_length = writer.count + 2;
}

void cnclip_tokenizer_encode(const cnclip_vocab *vocab, cnclip_text text, size_t context_length,
                             int64_t *ids, size_t *ret_length, size_t *ret_full_length) {
  encode(vocab, read_character, text, context_length, ids, ret_length, ret_full_length);
}

void cnclip_tokenizer_encode_cased(const cnclip_vocab *vocab, cnclip_text text,
                                   size_t context_length, int64_t *ids, size_t *ret_length,
                                   size_t *ret_full_length) {
  encode(vocab, read_cased_character, text, context_length, ids, ret_length, ret_full_length);
}
