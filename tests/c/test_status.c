#include "base/status.h"

#include <string.h>

#include "check.h"

static void test_message_and_code(void) {
  cnclip_error error = {0};
  CHECK(cnclip_error_set(&error, CNCLIP_ERROR_ARGUMENT, "%s %d", "image", 7) ==
        CNCLIP_ERROR_ARGUMENT);
  CHECK(error.code == CNCLIP_ERROR_ARGUMENT);
  CHECK(strcmp(error.message, "image 7") == 0);
  CHECK(cnclip_error_memory(&error, "the token ids") == CNCLIP_ERROR_MEMORY);
  CHECK(error.code == CNCLIP_ERROR_MEMORY);
  CHECK(strcmp(error.message, "out of memory for the token ids") == 0);
}

static void test_null_error(void) {
  CHECK(cnclip_error_set(NULL, CNCLIP_ERROR_DEVICE, "%s", "lost") == CNCLIP_ERROR_DEVICE);
  CHECK(cnclip_error_memory(NULL, "x") == CNCLIP_ERROR_MEMORY);
}

/* A message of `ascii` letters and then `character`s without end. */
static size_t length_after_cut(size_t ascii, const char *character) {
  char text[2 * CNCLIP_ERROR_CAPACITY] = "";
  cnclip_error error;
  size_t step = strlen(character);
  memset(text, 'a', ascii);
  for (size_t at = ascii; at + step < sizeof text; at += step) memcpy(text + at, character, step);
  cnclip_error_set(&error, CNCLIP_ERROR_MODEL, "%s", text);
  CHECK(memcmp(error.message, text, strlen(error.message)) == 0);
  return strlen(error.message);
}

static void test_cut_on_a_character(void) {
  const size_t most = CNCLIP_ERROR_CAPACITY - 1;
  CHECK(length_after_cut(most - 1, "b") == most);
  for (size_t ascii = 0; ascii < 12; ascii++) {
    CHECK(length_after_cut(ascii, "\xC3\xA9") == ascii + (most - ascii) / 2 * 2);
    CHECK(length_after_cut(ascii, "\xE4\xB8\xAD") == ascii + (most - ascii) / 3 * 3);
    CHECK(length_after_cut(ascii, "\xF0\x9F\x98\x80") == ascii + (most - ascii) / 4 * 4);
  }
}

static void test_bytes_that_are_no_characters(void) {
  char text[2 * CNCLIP_ERROR_CAPACITY] = "";
  cnclip_error error;
  memset(text, 0x80, sizeof text - 1);
  cnclip_error_set(&error, CNCLIP_ERROR_MODEL, "%s", text);
  CHECK(strlen(error.message) == CNCLIP_ERROR_CAPACITY - 1);
}

static void test_a_message_that_just_fits(void) {
  char text[CNCLIP_ERROR_CAPACITY];
  cnclip_error error;
  memset(text, 'a', sizeof text);
  memcpy(text + sizeof text - 4, "\xE4\xB8\xAD", 4);
  cnclip_error_set(&error, CNCLIP_ERROR_MODEL, "%s", text);
  CHECK(strcmp(error.message, text) == 0);
}

int main(void) {
  test_message_and_code();
  test_null_error();
  test_cut_on_a_character();
  test_bytes_that_are_no_characters();
  test_a_message_that_just_fits();
  return check_summary("status");
}
