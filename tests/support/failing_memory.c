/* Preloaded into a process: fails allocations that the code between two addresses asks for, by
 * malloc or by C++'s new. tests/core/test_failing_memory.py arms it. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);

enum { RANGES = 32 };
static struct { uintptr_t first, last; } ranges[RANGES];
static int range_count;
static long failing, seen; /* failing: the number of the call that fails, 0 for none */

void memory_add_range(uintptr_t first, uintptr_t last) {
  if (range_count == RANGES) return;
  ranges[range_count].first = first, ranges[range_count].last = last;
  range_count++;
}

void memory_fail(long number) {
  failing = number;
  __atomic_store_n(&seen, 0, __ATOMIC_SEQ_CST);
}

/* The calls since memory_fail. */
long memory_calls(void) {
  return __atomic_load_n(&seen, __ATOMIC_SEQ_CST);
}

static int fails(const void *caller) {
  for (int i = 0; i < range_count; i++) {
    if ((uintptr_t)caller < ranges[i].first || (uintptr_t)caller >= ranges[i].last) continue;
    return __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST) == failing;
  }
  return 0;
}

#define CALLER __builtin_extract_return_addr(__builtin_return_address(0))

void *malloc(size_t size) {
  if (!fails(CALLER)) return __libc_malloc(size);
  errno = ENOMEM;
  return NULL;
}

void *calloc(size_t count, size_t size) {
  if (!fails(CALLER)) return __libc_calloc(count, size);
  errno = ENOMEM;
  return NULL;
}

void *realloc(void *block, size_t size) {
  if (!fails(CALLER)) return __libc_realloc(block, size);
  errno = ENOMEM;
  return NULL;
}

void throw_bad_alloc(void) __asm__("_ZSt17__throw_bad_allocv"); /* of libstdc++ */

static void *new_block(size_t size, const void *caller) {
  void *block = fails(caller) ? NULL : __libc_malloc(size != 0 ? size : 1);
  if (block == NULL) throw_bad_alloc();
  return block;
}

void *new_one(size_t size) __asm__("_Znwm"); /* operator new(size_t) */
void *new_one(size_t size) {
  return new_block(size, CALLER);
}

void *new_array(size_t size) __asm__("_Znam"); /* operator new[](size_t) */
void *new_array(size_t size) {
  return new_block(size, CALLER);
}
