/* A BERT WordPiece vocabulary: tokens to ids, arranged for longest-match search.
 *
 * Immutable once made: any number of threads may search one vocabulary at once. */
#ifndef CNCLIP_VOCAB_H
#define CNCLIP_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
  CNCLIP_VOCAB_BYTES_LIMIT = INT32_MAX / 2, /* so that lines and nodes are numbers of 32 bits */

  /* WordPiece does not split longer words, so that no longer token (plus "##") can match. */
  CNCLIP_VOCAB_WORD_LIMIT = 200,
  CNCLIP_VOCAB_TOKEN_LIMIT = CNCLIP_VOCAB_WORD_LIMIT + 2, /* characters */
};

typedef struct cnclip_vocab cnclip_vocab;

/* Reads a vocabulary file's content: UTF-8, one token per line, the id of a token is its line's
 * number from 0. As Python's text mode and str.strip() read it: lines end at LF, CR or CRLF, white
 * space around a token is dropped, an empty line has a number, a repeated token keeps its
 * last number, a byte order mark stays part of the first token. A token longer than
 * CNCLIP_VOCAB_TOKEN_LIMIT has a number but never matches. `text` is the caller's and is not
 * kept. New object in *ret_vocab, freed with cnclip_vocab_free. CNCLIP_ERROR_VOCABULARY: not UTF-8
 * (names the line, counted from 1), longer than CNCLIP_VOCAB_BYTES_LIMIT, or without [PAD],
 * [UNK], [CLS] or [SEP]. CNCLIP_ERROR_MEMORY. Takes time and memory in proportion to `size`, but
 * for sorting. */
cnclip_status cnclip_vocab_new(const char *text, size_t size, cnclip_vocab **ret_vocab,
                               cnclip_error *error);
void cnclip_vocab_free(cnclip_vocab *vocab); /* NULL is allowed */

/* Ids of the special tokens, looked up by name. */
int32_t cnclip_vocab_pad_id(const cnclip_vocab *vocab);
int32_t cnclip_vocab_unk_id(const cnclip_vocab *vocab);
int32_t cnclip_vocab_cls_id(const cnclip_vocab *vocab);
int32_t cnclip_vocab_sep_id(const cnclip_vocab *vocab);

/* Number of lines: ids are below it. */
int32_t cnclip_vocab_size(const cnclip_vocab *vocab);

/* The largest id of a token that is not empty: an embedding table needs a row for it.
 */
int32_t cnclip_vocab_largest_id(const cnclip_vocab *vocab);

/* The longest token that `characters` begins with: the id, and its length in *ret_length; -1 and 0
 * where there is none. With `continues`, searches the tokens written with a leading "##", whose two
 * characters do not count; without, every token as it is written. `length` may be 0. */
int32_t cnclip_vocab_longest_match(const cnclip_vocab *vocab, const uint32_t *characters,
                                   size_t length, bool continues, size_t *ret_length);

#endif
