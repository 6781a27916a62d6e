/* cnclip_cores_free on a machine that the test describes: the linker's --wrap replaces the
 * functions that ask the system (meson.build). */
#define _GNU_SOURCE /* cpu_set_t */

#include "base/cores.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

#include "check.h"

FILE *__wrap_fopen(const char *name, const char *mode);
FILE *__wrap_fopen64(const char *name, const char *mode);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret_time);
int __wrap_getpriority(int which, id_t who);
int __wrap_sched_getaffinity(pid_t process, size_t size, cpu_set_t *ret_set);

static struct {
  double time, own, look;   /* seconds: the clock, of this process, of each look at the system */
  unsigned long used, idle; /* ticks of core 0, and of core 1 */
  int cores;                /* of the affinity; 0: it is not known */
  int priority;
} machine;

FILE *__wrap_fopen(const char *name, const char *mode) {
  static char text[256];
  CHECK(strcmp(name, "/proc/stat") == 0);
  const int length =
      snprintf(text, sizeof text, "cpu0 %lu 0 0 %lu 0 0 0 0\ncpu1 %lu 0 0 %lu 0 0 0 0\n",
               machine.used, machine.idle, machine.used, machine.idle);
  return fmemopen(text, (size_t)length, mode);
}

FILE *__wrap_fopen64(const char *name, const char *mode) {
  return __wrap_fopen(name, mode);
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *ret_time) {
  static double looked;
  double seconds = clock == CLOCK_MONOTONIC ? machine.time : machine.own;
  if (clock == CLOCK_THREAD_CPUTIME_ID) seconds = looked += machine.look;
  ret_time->tv_sec = (time_t)seconds;
  ret_time->tv_nsec = (long)((seconds - (double)ret_time->tv_sec) * 1e9);
  return 0;
}

int __wrap_getpriority(int which, id_t who) {
  (void)which, (void)who;
  return machine.priority;
}

int __wrap_sched_getaffinity(pid_t process, size_t size, cpu_set_t *ret_set) {
  CHECK(process == 0);
  memset(ret_set, 0, size);
  for (int core = 0; core < machine.cores; core++) CPU_SET(core, ret_set);
  return machine.cores > 0 ? 0 : -1;
}

/* After some time in which each core had these ticks, and this process used `own` seconds. */
static int free_after(double seconds, unsigned long used, unsigned long idle, double own) {
  machine.time += seconds;
  machine.used += used;
  machine.idle += idle;
  machine.own += own;
  return cnclip_cores_free();
}

static int free_after_a_second(unsigned long used, double own) {
  return free_after(1, used, 100 - used, own);
}

static void test_other_processes(void) {
  CHECK(free_after_a_second(0, 0) == INT_MAX); /* nothing to compare with */
  CHECK(free_after_a_second(0, 0) == 2);
  CHECK(free_after_a_second(50, 0) == 1);
  CHECK(free_after_a_second(50, 1) == 2); /* this process used it */
  CHECK(free_after_a_second(100, 0.5) == 1);
  CHECK(free_after_a_second(10, 1) == 2); /* more than the ticks say: no less than nothing */
}

/* Clocks are finer than ticks. */
static void test_more_time_than_ticks(void) {
  CHECK(free_after(0.2, 0, 20, 0) == 2);
  CHECK(free_after(0.2, 0, 20, 1) == 2);
  CHECK(free_after(0.2, 20, 0, 0) == 1); /* no core was gained before */
}

static void test_changes(void) {
  machine.cores = 1;
  CHECK(free_after_a_second(0, 0) == INT_MAX);
  CHECK(free_after_a_second(0, 0) == 1);
  machine.cores = 2;
  CHECK(free_after_a_second(0, 0) == INT_MAX);
  CHECK(free_after_a_second(0, 0) == 2);
  machine.priority = 10; /* the time of other such processes counts from now on */
  CHECK(free_after_a_second(0, 0) == INT_MAX);
  CHECK(free_after_a_second(0, 0) == 2);
  machine.time += 1; /* without a tick */
  CHECK(cnclip_cores_free() == INT_MAX);
}

static void test_unknown_affinity(void) {
  CHECK(free_after_a_second(0, 0) == 2);
  machine.cores = 0; /* more cores than a set has bits for */
  CHECK(free_after_a_second(0, 0) == INT_MAX);
  machine.cores = 2;
  CHECK(free_after_a_second(0, 0) == INT_MAX);
  CHECK(free_after_a_second(0, 0) == 2);
}

static void test_few_looks(void) {
  CHECK(free_after_a_second(0, 0) == 2);
  machine.time += 0.05; /* too early */
  machine.used += 100;
  CHECK(cnclip_cores_free() == 2);
  machine.used -= 100;
  machine.look = 0.02; /* a hundredth of 2 seconds */
  CHECK(free_after_a_second(0, 0) == 2);
  CHECK(free_after_a_second(100, 0) == 2); /* too early */
  machine.look = 0;
  CHECK(free_after_a_second(100, 0) == 1);
}

int main(void) {
  machine.time = 100, machine.cores = 2;
  test_other_processes();
  test_more_time_than_ticks();
  test_changes();
  test_unknown_affinity();
  test_few_looks();
  return check_summary("busy_cores");
}
