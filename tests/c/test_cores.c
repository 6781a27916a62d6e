#define _DEFAULT_SOURCE /* mkstemp, usleep */

#include "base/cores.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"

static char path[] = "/tmp/cnclip-test-cores-XXXXXX";

static const char two_cores[] =
    "cpu  11 22 33 44 55 66 77 88 0 0\n"
    "cpu0 1 2 3 4 5 6 7 8 0 0\n"
    "cpu1 10 20 30 40 50 60 70 80 9 9\n"
    "intr 123 0 0\n"
    "cpu2 1 1 1 1 1 1 1 1 0 0\n";

static void write_file(const char *content) {
  FILE *file = fopen(path, "w");
  if (file == NULL) abort();
  fputs(content, file);
  fclose(file);
}

/* Used ticks of the cores that are counted; -1 where they cannot be read. */
static long used_of(const char *content, const bool is_counted[3], bool with_nice) {
  cnclip_core_ticks ticks = {7, 7};
  write_file(content);
  if (cnclip_core_ticks_read(path, is_counted, 3, with_nice, &ticks)) return (long)ticks.used;
  CHECK(ticks.used == 7 && ticks.total == 7);
  return -1;
}

static void test_counted_cores(void) {
  CHECK(used_of(two_cores, (bool[3]){true, false, false}, false) == 1 + 3 + 6 + 7);
  CHECK(used_of(two_cores, (bool[3]){false, true, false}, false) == 10 + 30 + 60 + 70);
  CHECK(used_of(two_cores, (bool[3]){true, true, false}, false) == 11 + 33 + 66 + 77);
  CHECK(used_of(two_cores, (bool[3]){true, true, false}, true) == 11 + 22 + 33 + 66 + 77);
  CHECK(used_of(two_cores, (bool[3]){false, false, false}, false) == 0);
  cnclip_core_ticks ticks;
  CHECK(cnclip_core_ticks_read(path, (bool[1]){true}, 1, false, &ticks));
  CHECK(ticks.total == 36);
}

static void test_unknown_formats(void) {
  const bool first[3] = {true, false, false}, third[3] = {false, false, true};
  CHECK(used_of(two_cores, third, false) == -1); /* its line is not among the first */
  CHECK(used_of("", first, false) == -1);
  CHECK(used_of("cpu  1 2 3 4 5 6 7 8\n", first, false) == -1);
  CHECK(used_of("cpu 0 1 2 3 4 5 6 7 8\n", first, false) == -1); /* the sum of all cores */
  CHECK(used_of("cpu0 1 2 3 4 5 6 7\n", first, false) == -1);
  CHECK(used_of("cpu0 1 2 x 4 5 6 7 8\n", first, false) == -1);
  CHECK(used_of("cpu99999999999 1 2 3 4 5 6 7 8\n", first, false) == -1);
  CHECK(used_of("cpu", first, false) == -1);
  cnclip_core_ticks ticks;
  CHECK(!cnclip_core_ticks_read("/nowhere/stat", first, 3, false, &ticks));
}

static void test_two_cores(void) {
  CHECK(cnclip_cores_choose(2, 0, INT_MAX) == 2);
  CHECK(cnclip_cores_choose(2, 0.3, 2) == 2);
  CHECK(cnclip_cores_choose(2, 0.5, 2) == 1);
  CHECK(cnclip_cores_choose(2, 0.5, 1) == 1);
  CHECK(cnclip_cores_choose(2, 0.3, 1) == 1); /* not yet */
  CHECK(cnclip_cores_choose(2, 0.1, 1) == 2);
  CHECK(cnclip_cores_choose(2, 1, 2) == 1);
  CHECK(cnclip_cores_choose(2, 2, 2) == 1);
  CHECK(cnclip_cores_choose(2, 5, 1) == 1);
}

static void test_other_numbers_of_cores(void) {
  CHECK(cnclip_cores_choose(1, 0, INT_MAX) == 1);
  CHECK(cnclip_cores_choose(1, 1, 1) == 1);
  CHECK(cnclip_cores_choose(8, 0.3, 8) == 8);
  CHECK(cnclip_cores_choose(8, 1, 8) == 7);
  CHECK(cnclip_cores_choose(8, 3.9, 7) == 4);
  CHECK(cnclip_cores_choose(8, 3.9, 2) == 4);
  CHECK(cnclip_cores_choose(8, 8, 8) == 2); /* a share of the cores that others want */
  CHECK(cnclip_cores_choose(8, 0, 2) == 8);
  CHECK(cnclip_cores_choose(4, 0, 64) == 4); /* the affinity has changed */
  for (int cores = 1; cores < 200; cores += 13) {
    for (double others = 0; others < 220; others += 0.37) {
      const int chosen = cnclip_cores_choose(cores, others, INT_MAX);
      CHECK(chosen >= 1 && chosen <= cores);
      CHECK(cnclip_cores_choose(cores, others, chosen) == chosen);
    }
  }
}

static void test_average(void) {
  CHECK(cnclip_cores_average(2, 0, 0.5, 0.1) == 0.5); /* the first */
  const double half = cnclip_cores_average(2, 0.1, 1, 0.1);
  CHECK(half > 1.49 && half < 1.51);
  const double most = cnclip_cores_average(2, 0.1, 1, 0.9);
  CHECK(most > 1.09 && most < 1.11);
  CHECK(cnclip_cores_average(2, 0.9, 1, 0.1) == 1); /* before, this process paused */
  CHECK(cnclip_cores_choose(2, cnclip_cores_average(2, 5, 0.1, 0.1), 1) == 2);
}

static void test_this_machine(void) {
  int last = cnclip_cores_free();
  for (int i = 0; i < 5; i++) {
    usleep(30000);
    last = cnclip_cores_free();
    CHECK(last >= 1);
  }
#if defined(__linux__)
  if (access("/proc/stat", R_OK) == 0) CHECK(last <= sysconf(_SC_NPROCESSORS_CONF));
#endif
}

int main(void) {
  const int file = mkstemp(path);
  if (file < 0) return 1;
  close(file);
  test_counted_cores();
  test_unknown_formats();
  test_two_cores();
  test_other_numbers_of_cores();
  test_average();
  test_this_machine();
  remove(path);
  return check_summary("cores");
}
