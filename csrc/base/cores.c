#define _GNU_SOURCE /* sched_getaffinity */

#include "base/cores.h"

#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of used and total time, in the order of /proc/stat; "guest" times are also in the first two. */
enum { USER, NICE, SYSTEM, IDLE, IO_WAIT, IRQ, SOFT_IRQ, STEAL, COLUMNS };

/* Parses "cpuN user nice system ...". False: another line, such as that of all cores, "cpu  ...".
 */
static bool parse_line(const char *line, unsigned long *ret_core, uint64_t times[COLUMNS]) {
  char *at;
  if (strspn(line + 3, "0123456789") == 0) return false;
  *ret_core = strtoul(line + 3, &at, 10);
  for (int i = 0; i < COLUMNS; i++) {
    int used = 0;
    if (sscanf(at, " %" SCNu64 "%n", &times[i], &used) != 1) return false;
    at += used;
  }
  return true;
}

bool cnclip_core_ticks_read(const char *path, const bool *is_counted, size_t count, bool with_nice,
                            cnclip_core_ticks *ret_ticks) {
  FILE *file = fopen(path, "re");
  if (file == NULL) return false;
  cnclip_core_ticks sum = {0};
  size_t missing = 0;
  for (size_t i = 0; i < count; i++) missing += is_counted[i];
  /* The lines of the cores come first. */
  char line[256];
  while (missing > 0 && fgets(line, sizeof line, file) != NULL && strncmp(line, "cpu", 3) == 0) {
    unsigned long core;
    uint64_t times[COLUMNS];
    if (!parse_line(line, &core, times) || core >= count || !is_counted[core]) continue;
    const uint64_t used = times[USER] + times[SYSTEM] + times[IRQ] + times[SOFT_IRQ];
    sum.used += used + (with_nice ? times[NICE] : 0);
    sum.total += used + times[NICE] + times[IDLE] + times[IO_WAIT] + times[STEAL];
    missing--;
  }
  fclose(file);
  if (missing > 0) return false;
  *ret_ticks = sum;
  return true;
}

static const double min_window = 0.1; /* seconds; the ticks are hundredths of one */

double cnclip_cores_average(double before, double window_before, double found, double window) {
  const bool was_pause = window_before > 5 * min_window;
  if (window_before <= 0 || was_pause) return found;
  return before + (found - before) * window / (window + min_window);
}

int cnclip_cores_choose(int cores, double others, int before) {
  const double free_cores = cores - others;
  /* Up to two fifths of a core of other work slow all threads down by less than a thread fewer
   * would. A thread comes back when nearly a whole core is free. */
  const int at_most = (int)(free_cores + 0.4), at_least = (int)(free_cores + 0.2);
  int chosen = before > at_most ? at_most : before < at_least ? at_least : before;
  /* Where others use all cores, each thread gets a share of one. */
  const int fair = (cores + 3) / 4;
  if (chosen < fair) chosen = fair;
  return chosen > cores ? cores : chosen;
}

#if defined(__linux__)
#include <sched.h>
#include <sys/resource.h>
#include <time.h>

typedef struct {
  cpu_set_t affinity;
  bool with_nice;
  double time, own; /* seconds of the clock, and of this process on all cores */
  cnclip_core_ticks ticks;
} observation;

static _Atomic int64_t next_look; /* nanoseconds of the clock; 0: at once */
static _Atomic int cores_free = INT_MAX;
static atomic_flag is_looking = ATOMIC_FLAG_INIT;
/* Of the thread that set the flag. */
static observation last;
static bool has_last;
static double others;        /* cores that other processes use, on average */
static double others_window; /* seconds of the last window in it; 0: others is unknown */

static int64_t nanoseconds(clockid_t clock) {
  struct timespec now = {0};
  clock_gettime(clock, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bool observe(observation *ret) {
  bool is_counted[CPU_SETSIZE];
  memset(ret, 0, sizeof *ret);
  if (sched_getaffinity(0, sizeof ret->affinity, &ret->affinity) != 0) return false;
  for (int i = 0; i < CPU_SETSIZE; i++) {
    is_counted[i] = CPU_ISSET(i, &ret->affinity); /* ALWAYS: i is in the set's range */
  }
  ret->with_nice = getpriority(PRIO_PROCESS, 0) > 0;
  ret->time = (double)nanoseconds(CLOCK_MONOTONIC) / 1e9;
  ret->own = (double)nanoseconds(CLOCK_PROCESS_CPUTIME_ID) / 1e9;
  return cnclip_core_ticks_read("/proc/stat", is_counted, CPU_SETSIZE, ret->with_nice, &ret->ticks);
}

/* The cores to use after an observation, which becomes the last one. */
static int update(const observation *now) {
  const int cores = CPU_COUNT(&now->affinity);
  const bool is_comparable = has_last && CPU_EQUAL(&now->affinity, &last.affinity) &&
                             now->with_nice == last.with_nice &&
                             now->ticks.total > last.ticks.total;
  int chosen = INT_MAX;
  if (is_comparable) {
    const double window = now->time - last.time;
    const double ticks = (double)(now->ticks.total - last.ticks.total);
    const double used = (double)(int64_t)(now->ticks.used - last.ticks.used) / ticks * cores;
    double found = used - (now->own - last.own) / window;
    if (found < 0) found = 0;
    others = cnclip_cores_average(others, others_window, found, window);
    others_window = window;
    chosen = cnclip_cores_choose(cores, others, atomic_load(&cores_free));
  } else {
    others_window = 0;
  }
  last = *now;
  has_last = true;
  return chosen;
}

/* Looks at the system. Returns how many nanoseconds to wait until the next look. */
static int64_t look(void) {
  const int64_t begin = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
  observation now;
  const bool is_known = observe(&now);
  if (!is_known) has_last = false;
  atomic_store(&cores_free, is_known ? update(&now) : INT_MAX);
  const int64_t cost = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - begin;
  const int64_t window = (int64_t)(min_window * 1e9);
  return 100 * cost > window ? 100 * cost : window;
}

int cnclip_cores_free(void) {
  const int64_t now = nanoseconds(CLOCK_MONOTONIC);
  if (now >= atomic_load(&next_look) && !atomic_flag_test_and_set(&is_looking)) {
    atomic_store(&next_look, now + look());
    atomic_flag_clear(&is_looking);
  }
  return atomic_load(&cores_free);
}
#else
int cnclip_cores_free(void) {
  return INT_MAX;
}
#endif
