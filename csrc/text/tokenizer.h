/* BERT's WordPiece tokenizer over code points, equal in every id to ModelScope's FullTokenizer with
 * do_lower_case, followed by CLIPPreprocessor.tokenize. */
#ifndef CNCLIP_TOKENIZER_H
#define CNCLIP_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "text/vocab.h"

/* A text as Python stores it: `length` code points of `width` 1, 2 or 4 bytes each, aligned to
 * them, borrowed. Lone surrogates are allowed. */
typedef struct {
  const void *data;
  size_t length;
  int width;
} cnclip_text;

/* Writes [CLS], the text's ids cut to context_length - 2, [SEP], then zeros (ModelScope's filling,
 * whatever id [PAD] has) to the caller's `ids`, context_length of them.
 * *ret_length: the ids before the zeros, [CLS] and [SEP] counted, at most context_length.
 * ret_full_length, if not NULL: what that number would be without the cut; asking makes the
 * function read the whole of a text that is longer than the context. context_length is at least 2.
 * Takes time in proportion to the text and allocates nothing. Thread-safe. */
void cnclip_tokenizer_encode(const cnclip_vocab *vocab, cnclip_text text, size_t context_length,
                             int64_t *ids, size_t *ret_length, size_t *ret_full_length);

/* As cnclip_tokenizer_encode, for a vocabulary with capital letters: as FullTokenizer without
 * do_lower_case, which keeps case and accents. */
void cnclip_tokenizer_encode_cased(const cnclip_vocab *vocab, cnclip_text text,
                                   size_t context_length, int64_t *ids, size_t *ret_length,
                                   size_t *ret_full_length);

#endif
