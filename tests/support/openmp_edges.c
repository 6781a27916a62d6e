/* Preloaded into a process under ThreadSanitizer, which does not see how libgomp's threads wait for
 * each other, since libgomp is not compiled with it: what happens before a parallel region happens
 * before all of the region, and all of that before what comes after it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);

typedef void parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags);

typedef struct {
  void (*body)(void *);
  void *data;
} region;

static void run(void *data) {
  const region *one = data;
  __tsan_acquire(data);
  one->body(one->data);
  __tsan_release(data);
}

__attribute__((no_sanitize("thread"))) void GOMP_parallel(void (*body)(void *), void *data,
                                                          unsigned threads, unsigned flags) {
  static parallel *next;
  if (next == NULL) { /* the caller has loaded libgomp */
    void *library = dlopen("libgomp.so.1", RTLD_NOW | RTLD_NOLOAD);
    next = library == NULL ? NULL : (parallel *)dlsym(library, "GOMP_parallel");
    if (next == NULL) abort();
  }
  region one = {body, data};
  __tsan_release(&one);
  next(run, &one, threads, flags);
  __tsan_acquire(&one);
}
