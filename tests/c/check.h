/* A unit test without a framework: CHECK counts and prints failures, check_summary ends main. */
#ifndef CNCLIP_TESTS_CHECK_H
#define CNCLIP_TESTS_CHECK_H

#include <stdio.h>

static int check_passed, check_failed;

#define CHECK(condition)                                             \
  do {                                                               \
    if (condition) {                                                 \
      check_passed++;                                                \
    } else {                                                         \
      check_failed++;                                                \
      printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                \
  } while (0)

static int check_summary(const char *name) {
  printf("%s: %d passed, %d failed\n", name, check_passed, check_failed);
  return check_failed != 0 || check_passed == 0;
}

#endif
