#include "text/vocab.h"

#include <string.h>

#include "base/alloc.h"
#include "text/unicode.h"

/* A trie in breadth-first order. The children of a node are adjacent, in the order of their
 * characters, and end where the children of the node after it begin; one node more than there are
 * ends the last. Sorted instead of hashed, so that no vocabulary can make it slow with collisions.
 */
typedef struct {
  uint32_t character;
  uint32_t first_child;
  int32_t token; /* the id, or -1 where no token ends */
} trie_node;

enum { LAST_CODE_POINT = 0x10FFFF, PAGE_SIZE = 256, PAGES = (LAST_CODE_POINT + 1) / PAGE_SIZE };

/* The children of one node by character, for nodes with thousands of them. Node 0, the root, is
 * nobody's child and stands for none. */
typedef struct {
  uint16_t page_of[PAGES]; /* page 0 is empty */
  uint32_t *pages;
} child_table;

struct cnclip_vocab {
  trie_node *nodes;
  child_table starts;      /* children of the root */
  child_table continuings; /* children of the node "##" */
  int32_t size, largest_id;
  int32_t pad_id, unk_id, cls_id, sep_id;
};

/* One line of the file without the white space around it. Points into the caller's text. */
typedef struct {
  const unsigned char *begin, *end;
  int32_t id;
} line_token;

typedef struct {
  line_token *tokens; /* neither the empty ones nor those too long to be matched */
  size_t count, capacity;
  int32_t lines, largest_id;
} token_list;

/* Room for one element more in a growing array: the new block, or NULL with the old one intact. */
static void *grow(void *block, size_t *capacity, size_t size) {
  size_t larger = *capacity < 1024 ? 1024 : *capacity + *capacity / 2;
  void *grown = cnclip_realloc_array(block, larger, size);
  if (grown != NULL) *capacity = larger;
  return grown;
}

/* Reads one UTF-8 character and returns how many bytes it has; 0 for what Python's decoder refuses:
 * overlong forms, surrogates, values above 0x10FFFF, stray and missing bytes. */
static size_t decode_utf8(const unsigned char *bytes, const unsigned char *end,
                          uint32_t *ret_character) {
  static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
  unsigned char lead = bytes[0];
  if (lead < 0x80) {
    *ret_character = lead;
    return 1;
  }
  size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || (size_t)(end - bytes) < length) return 0;
  uint32_t character = lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; i++) {
    if ((bytes[i] & 0xC0) != 0x80) return 0;
    character = character << 6 | (bytes[i] & 0x3F);
  }
  if (character < smallest[length] || character > LAST_CODE_POINT) return 0;
  if (character >= 0xD800 && character <= 0xDFFF) return 0;
  *ret_character = character;
  return length;
}

/* Reads the line at *cursor and moves the cursor after its end. *ret_length is the token's, in
 * characters. False if the line is not UTF-8. */
static bool read_line(const unsigned char **cursor, const unsigned char *end, line_token *token,
                      size_t *ret_length) {
  const unsigned char *at = *cursor;
  size_t length = 0; /* from the first character that is not white space to `at` */
  token->begin = token->end = at;
  *ret_length = 0;
  while (at < end) {
    uint32_t character;
    size_t bytes = decode_utf8(at, end, &character);
    if (bytes == 0) return false;
    at += bytes;
    if (character == '\n') break;
    if (character == '\r') {
      if (at < end && *at == '\n') at++;
      break;
    }
    bool space = (cnclip_unicode_flags(character) & CNCLIP_UNICODE_SPACE) != 0;
    if (space && length == 0) continue;
    if (length == 0) token->begin = at - bytes;
    length++;
    if (space) continue;
    token->end = at;
    *ret_length = length;
  }
  *cursor = at;
  return true;
}

static cnclip_status read_tokens(const char *text, size_t size, token_list *list,
                                 cnclip_error *error) {
  const unsigned char *cursor = (const unsigned char *)text;
  const unsigned char *end = cursor + size;
  if (size > CNCLIP_VOCAB_BYTES_LIMIT) {
    return cnclip_error_set(error, CNCLIP_ERROR_VOCABULARY, "the vocabulary has more than %d bytes",
                            CNCLIP_VOCAB_BYTES_LIMIT);
  }
  while (cursor < end) {
    line_token token = {.id = list->lines++};
    size_t length;
    if (!read_line(&cursor, end, &token, &length)) {
      return cnclip_error_set(error, CNCLIP_ERROR_VOCABULARY,
                              "line %d of the vocabulary is not UTF-8", (int)list->lines);
    }
    if (length == 0) continue;
    list->largest_id = token.id;
    if (length > CNCLIP_VOCAB_TOKEN_LIMIT) continue;
    if (list->count == list->capacity) {
      line_token *grown = grow(list->tokens, &list->capacity, sizeof *grown);
      if (grown == NULL) return cnclip_error_memory(error, "the vocabulary's tokens");
      list->tokens = grown;
    }
    list->tokens[list->count++] = token;
  }
  return CNCLIP_OK;
}

/* By characters, whose order UTF-8 keeps, and equal tokens by id. */
static int compare_tokens(const void *first, const void *second) {
  const line_token *a = first, *b = second;
  size_t a_size = (size_t)(a->end - a->begin), b_size = (size_t)(b->end - b->begin);
  int order = memcmp(a->begin, b->begin, a_size < b_size ? a_size : b_size);
  if (order != 0) return order;
  if (a_size != b_size) return a_size < b_size ? -1 : 1;
  return a->id - b->id; /* neither is negative */
}

typedef struct {
  trie_node *nodes;
  size_t count, capacity;
} node_list;

static cnclip_status add_node(node_list *list, trie_node node, cnclip_error *error) {
  if (list->count == list->capacity) {
    trie_node *grown = grow(list->nodes, &list->capacity, sizeof *grown);
    if (grown == NULL) return cnclip_error_memory(error, "the vocabulary's trie");
    list->nodes = grown;
  }
  list->nodes[list->count++] = node;
  return CNCLIP_OK;
}

/* Adds the children of one node. Until its turn comes, a node holds the range of the sorted tokens
 * below it: `token` is the first, `first_child` the one after the last. Each token's `begin` has
 * moved as many characters on as the node is deep. */
static cnclip_status expand_node(node_list *list, size_t index, line_token *tokens,
                                 cnclip_error *error) {
  uint32_t low = (uint32_t)list->nodes[index].token;
  uint32_t high = list->nodes[index].first_child;
  size_t first_child = list->count;
  list->nodes[index].token = -1;
  list->nodes[index].first_child = (uint32_t)first_child;
  for (uint32_t i = low; i < high; i++) {
    line_token *token = &tokens[i];
    if (token->begin == token->end) { /* of equal tokens the largest id comes last, and stays */
      list->nodes[index].token = token->id;
      continue;
    }
    uint32_t character = 0;
    token->begin += decode_utf8(token->begin, token->end, &character);
    if (list->count > first_child && list->nodes[list->count - 1].character == character) {
      list->nodes[list->count - 1].first_child = i + 1;
      continue;
    }
    trie_node child = {.character = character, .first_child = i + 1, .token = (int32_t)i};
    cnclip_status status = add_node(list, child, error);
    if (status != CNCLIP_OK) return status;
  }
  return CNCLIP_OK;
}

/* Sorts `tokens` and uses up their `begin`. *ret_nodes is new even on failure, or NULL. */
static cnclip_status build_trie(line_token *tokens, size_t count, trie_node **ret_nodes,
                                cnclip_error *error) {
  node_list list = {0};
  if (count != 0) qsort(tokens, count, sizeof *tokens, compare_tokens);
  trie_node root = {.first_child = (uint32_t)count, .token = 0};
  cnclip_status status = add_node(&list, root, error);
  for (size_t i = 0; status == CNCLIP_OK && i < list.count; i++) {
    status = expand_node(&list, i, tokens, error);
  }
  if (status == CNCLIP_OK) {
    trie_node end = {.first_child = (uint32_t)list.count, .token = -1};
    status = add_node(&list, end, error);
  }
  trie_node *fitted = cnclip_realloc_array(list.nodes, list.count, sizeof *fitted);
  *ret_nodes = fitted != NULL ? fitted : list.nodes;
  return status;
}

/* The child of `node` (not 0) for `character`, or 0. */
static uint32_t find_child(const trie_node *nodes, uint32_t node, uint32_t character) {
  uint32_t low = nodes[node].first_child, high = nodes[node + 1].first_child;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (nodes[middle].character == character) return middle;
    if (nodes[middle].character < character) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return 0;
}

static uint32_t find_in_table(const child_table *table, uint32_t character) {
  if (character > LAST_CODE_POINT) return 0;
  size_t page = table->page_of[character / PAGE_SIZE];
  return table->pages[page * PAGE_SIZE + character % PAGE_SIZE];
}

/* Fills `table`, which starts as zeros, with the nodes from `first` to before `end`. */
static cnclip_status build_table(const trie_node *nodes, uint32_t first, uint32_t end,
                                 child_table *table, cnclip_error *error) {
  uint16_t pages = 1;
  for (uint32_t node = first; node < end; node++) {
    uint16_t *page = &table->page_of[nodes[node].character / PAGE_SIZE];
    if (*page == 0) *page = pages++;
  }
  table->pages = cnclip_alloc_zeroed(pages, PAGE_SIZE * sizeof *table->pages);
  if (table->pages == NULL) return cnclip_error_memory(error, "the vocabulary's first characters");
  for (uint32_t node = first; node < end; node++) {
    size_t page = table->page_of[nodes[node].character / PAGE_SIZE];
    table->pages[page * PAGE_SIZE + nodes[node].character % PAGE_SIZE] = node;
  }
  return CNCLIP_OK;
}

static cnclip_status build_tables(cnclip_vocab *vocab, cnclip_error *error) {
  const trie_node *nodes = vocab->nodes;
  uint32_t first = nodes[0].first_child, end = nodes[1].first_child;
  cnclip_status status = build_table(nodes, first, end, &vocab->starts, error);
  if (status != CNCLIP_OK) return status;
  uint32_t node = find_in_table(&vocab->starts, '#');
  if (node != 0) node = find_child(nodes, node, '#');
  first = end = 0;
  if (node != 0) {
    first = nodes[node].first_child;
    end = nodes[node + 1].first_child;
  }
  return build_table(nodes, first, end, &vocab->continuings, error);
}

static cnclip_status find_special(const cnclip_vocab *vocab, const char *name, int32_t *ret_id,
                                  cnclip_error *error) {
  uint32_t node = find_in_table(&vocab->starts, (unsigned char)name[0]);
  for (const char *letter = name + 1; node != 0 && *letter != '\0'; letter++) {
    node = find_child(vocab->nodes, node, (unsigned char)*letter);
  }
  *ret_id = node != 0 ? vocab->nodes[node].token : -1;
  if (*ret_id >= 0) return CNCLIP_OK;
  return cnclip_error_set(error, CNCLIP_ERROR_VOCABULARY,
                          "the vocabulary has no token %s among its %d lines", name,
                          (int)vocab->size);
}

static cnclip_status find_specials(cnclip_vocab *vocab, cnclip_error *error) {
  cnclip_status status = find_special(vocab, "[PAD]", &vocab->pad_id, error);
  if (status == CNCLIP_OK) status = find_special(vocab, "[UNK]", &vocab->unk_id, error);
  if (status == CNCLIP_OK) status = find_special(vocab, "[CLS]", &vocab->cls_id, error);
  if (status == CNCLIP_OK) status = find_special(vocab, "[SEP]", &vocab->sep_id, error);
  return status;
}

cnclip_status cnclip_vocab_new(const char *text, size_t size, cnclip_vocab **ret_vocab,
                               cnclip_error *error) {
  token_list list = {.largest_id = -1};
  cnclip_status status;
  cnclip_vocab *vocab = cnclip_alloc_zeroed(1, sizeof *vocab);
  if (vocab == NULL) {
    status = cnclip_error_memory(error, "the vocabulary");
    goto done;
  }
  status = read_tokens(text, size, &list, error);
  if (status != CNCLIP_OK) goto done;
  vocab->size = list.lines;
  vocab->largest_id = list.largest_id;
  status = build_trie(list.tokens, list.count, &vocab->nodes, error);
  if (status != CNCLIP_OK) goto done;
  status = build_tables(vocab, error);
  if (status != CNCLIP_OK) goto done;
  status = find_specials(vocab, error);
  if (status != CNCLIP_OK) goto done;
  *ret_vocab = vocab;
  vocab = NULL;
done:
  free(list.tokens);
  cnclip_vocab_free(vocab);
  return status;
}

void cnclip_vocab_free(cnclip_vocab *vocab) {
  if (vocab == NULL) return;
  free(vocab->nodes);
  free(vocab->starts.pages);
  free(vocab->continuings.pages);
  free(vocab);
}

int32_t cnclip_vocab_pad_id(const cnclip_vocab *vocab) {
  return vocab->pad_id;
}

int32_t cnclip_vocab_unk_id(const cnclip_vocab *vocab) {
  return vocab->unk_id;
}

int32_t cnclip_vocab_cls_id(const cnclip_vocab *vocab) {
  return vocab->cls_id;
}

int32_t cnclip_vocab_sep_id(const cnclip_vocab *vocab) {
  return vocab->sep_id;
}

int32_t cnclip_vocab_size(const cnclip_vocab *vocab) {
  return vocab->size;
}

int32_t cnclip_vocab_largest_id(const cnclip_vocab *vocab) {
  return vocab->largest_id;
}

int32_t cnclip_vocab_longest_match(const cnclip_vocab *vocab, const uint32_t *characters,
                                   size_t length, bool continues, size_t *ret_length) {
  const trie_node *nodes = vocab->nodes;
  int32_t id = -1;
  *ret_length = 0;
  if (length == 0) return -1;
  uint32_t node = find_in_table(continues ? &vocab->continuings : &vocab->starts, characters[0]);
  for (size_t depth = 1; node != 0; depth++) {
    if (nodes[node].token >= 0) {
      id = nodes[node].token;
      *ret_length = depth;
    }
    if (depth == length) break;
    node = find_child(nodes, node, characters[depth]);
  }
  return id;
}
