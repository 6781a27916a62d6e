/* How many processor cores other processes leave to this one.
 *
 * Threads that share the work of a model's layer wait for each other at its end. Where one of them
 * waits for a core that another process has, all do: then fewer threads are faster. */
#ifndef CNCLIP_CORES_H
#define CNCLIP_CORES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Clock ticks since the system's start, summed over some cores. */
typedef struct {
  uint64_t used;  /* by processes and the system */
  uint64_t total; /* used or not */
} cnclip_core_ticks;

/* Reads a file in the format of /proc/stat. is_counted: [count], whether to count core i.
 * with_nice: whether the time of processes of low priority is used time.
 * False, with *ret_ticks unchanged: the file cannot be read, or lacks a counted core. */
bool cnclip_core_ticks_read(const char *path, const bool *is_counted, size_t count, bool with_nice,
                            cnclip_core_ticks *ret_ticks);

/* The cores that other processes use, by the mean until now and by what was found in the last
 * `window` seconds. The mean evens out the ticks and what lasts for a moment only. What was found
 * in a long window before, in which this process paused, says little about now and is forgotten.
 * window_before: seconds of the mean's last window; 0: there is no mean. */
double cnclip_cores_average(double before, double window_before, double found, double window);

/* The cores to use, 1 to `cores`, where other processes use `others` of them on average and
 * `before` were used until now. Small changes of `others` change nothing. */
int cnclip_cores_choose(int cores, double others, int before);

/* The cores that this process should use now: those of its affinity, less those that other
 * processes use. INT_MAX where this cannot be known, and until two calls are a tenth of a second
 * apart: call it when the program starts. The time of processes of low priority does not count,
 * unless this one has low priority, nor does the time that the host of a virtual machine takes.
 * Thread-safe, without waiting. Most calls only read a clock: the system is asked at most ten times
 * a second, and for at most a hundredth of the time. */
int cnclip_cores_free(void);

#ifdef __cplusplus
}
#endif

#endif
