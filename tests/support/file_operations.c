/* Preloaded into a process: records what it does to the files of one folder, or lets one of these
 * operations fail. tests/reliability/operations.py drives it and reads the records.
 *
 * Calls inside of libc are not seen, which are those of stdio. So streams of the folder have no
 * buffer, and fwrite calls write here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The kinds of calls that can fail, in the order of KINDS in operations.py. */
enum kind { OPENING, WRITING, FLUSHING, RENAMING, MAPPING, READING, REMOVING, KINDS };

static char folder[PATH_MAX]; /* empty: nothing is watched */
static size_t folder_length;
static int records = -1; /* the descriptor that records are written to */
static enum kind failing_kind = KINDS;
static long failing, calls[KINDS];
static int failing_error; /* 0: a write of half of the bytes */
static int failing_lasts; /* all later calls of the kind fail too, as on a full disk */
static long failed;
static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

/* path: without symbolic links. */
void files_watch(const char *path) {
  folder_length = strlen(path);
  memcpy(folder, path, folder_length + 1);
}

void files_record(int descriptor) {
  records = descriptor;
}

void files_fail(int kind, long number, int error, int lasts) {
  failing_kind = (enum kind)kind, failing = number, failing_error = error, failing_lasts = lasts;
  failed = 0;
  memset(calls, 0, sizeof calls);
}

long files_calls(int kind) {
  return calls[kind];
}

long files_failed(void) {
  return failed;
}

/* --- What is called --- */

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_inside(const char *path) {
  return folder_length != 0 && strncmp(path, folder, folder_length) == 0 &&
         (path[folder_length] == '\0' || path[folder_length] == '/');
}

/* The path of an open file in the folder; false for others. */
static int path_of_file(int descriptor, char *path) {
  char link[64];
  if (folder_length == 0 || descriptor < 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length <= 0) return 0;
  path[length] = '\0';
  return is_inside(path);
}

/* The path of a name in the folder, without symbolic links; false for others. The last part may be
 * a link that is followed if `follow` is set, and need not exist. */
static int path_of_name(int directory, const char *name, int follow, char *path) {
  char joined[2 * PATH_MAX], parent[PATH_MAX];
  if (folder_length == 0 || name == NULL || *name == '\0' || strlen(name) >= PATH_MAX) return 0;
  if (name[0] == '/') {
    strcpy(joined, name);
  } else {
    char link[64] = "/proc/self/cwd";
    if (directory != AT_FDCWD) snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, joined, PATH_MAX - 1);
    if (length <= 0) return 0;
    joined[length] = '/';
    strcpy(joined + length + 1, name);
  }
  if (follow && realpath(joined, path) != NULL) return is_inside(path);
  for (size_t end = strlen(joined); end > 1 && joined[end - 1] == '/'; end--) joined[end - 1] = 0;
  char *last = strrchr(joined, '/');
  *last = '\0';
  if (realpath(*joined != '\0' ? joined : "/", parent) == NULL) return 0;
  if (strlen(parent) + strlen(last + 1) + 2 > PATH_MAX) return 0;
  sprintf(path, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, last + 1);
  return is_inside(path);
}

/* Whether this call fails; errno is set unless it is a short write. */
static int fails(enum kind kind) {
  long number = __atomic_add_fetch(&calls[kind], 1, __ATOMIC_SEQ_CST);
  if (kind != failing_kind || number < failing || (number > failing && !failing_lasts)) return 0;
  failed++;
  errno = failing_error;
  return 1;
}

/* --- Records: a letter, two numbers, the lengths of two paths and of the data, and these --- */

static void put(const void *data, size_t bytes) {
  int error = errno;
  while (bytes > 0) {
    ssize_t done = syscall(SYS_write, records, data, bytes);
    if (done <= 0) abort();
    data = (const char *)data + done, bytes -= (size_t)done;
  }
  errno = error;
}

static void record(
  char letter, const char *path, const char *second, int64_t number, const void *data, size_t bytes
) {
  if (records < 0) return;
  struct {
    int64_t letter, number, path, second, bytes;
  } header = {letter, number, (int64_t)strlen(path), (int64_t)strlen(second), (int64_t)bytes};
  put(&header, sizeof header);
  put(path, (size_t)header.path);
  put(second, (size_t)header.second);
  put(data, bytes);
}

static void lock(void) {
  pthread_mutex_lock(&mutex);
}

static void unlock(void) {
  int error = errno;
  pthread_mutex_unlock(&mutex);
  errno = error;
}

/* --- Renames that are not seen --- */

/* Libraries in Rust rename without a function of libc: the file that was written last, which they
 * do this with. The rename is recorded when the file is opened by its new name. */
static struct {
  char path[PATH_MAX]; /* empty: none */
  dev_t device;
  ino_t number;
} last_written;

static void remember_written(int descriptor, const char *path) {
  struct stat state;
  if (fstat(descriptor, &state) != 0) return;
  strcpy(last_written.path, path);
  last_written.device = state.st_dev, last_written.number = state.st_ino;
}

static void record_unseen_rename(const char *path, const struct stat *state) {
  struct stat old;
  if (*last_written.path == '\0' || strcmp(last_written.path, path) == 0) return;
  if (state->st_dev != last_written.device || state->st_ino != last_written.number) return;
  if (lstat(last_written.path, &old) == 0) return; /* a link */
  record('N', last_written.path, path, 0, "", 0);
  strcpy(last_written.path, path);
}

/* --- Files that are opened --- */

/* A name before it is opened. */
struct opening {
  char path[PATH_MAX];
  int is_inside, existed;
};

static int opening_starts(struct opening *opening, int directory, const char *name, int follow) {
  struct stat state;
  opening->is_inside = path_of_name(directory, name, follow, opening->path);
  if (!opening->is_inside) return 1;
  lock();
  opening->existed = lstat(opening->path, &state) == 0;
  if (opening->existed) record_unseen_rename(opening->path, &state);
  if (!fails(OPENING)) return 1;
  unlock();
  return 0;
}

static void opening_ends(const struct opening *opening, int is_open, int flags) {
  if (!opening->is_inside) return;
  if (is_open && (flags & O_CREAT) && !opening->existed) record('C', opening->path, "", 0, "", 0);
  if (is_open && (flags & O_TRUNC) && opening->existed) record('T', opening->path, "", 0, "", 0);
  unlock();
}

#define MODE_OF_ARGUMENTS                     \
  mode_t mode = 0;                            \
  if (flags & (O_CREAT | __O_TMPFILE)) {      \
    va_list arguments;                        \
    va_start(arguments, flags);               \
    mode = (mode_t)va_arg(arguments, int);    \
    va_end(arguments);                        \
  }

static int open_at(int directory, const char *name, int flags, mode_t mode) {
  struct opening opening;
  if (!opening_starts(&opening, directory, name, !(flags & O_NOFOLLOW))) return -1;
  int descriptor = NEXT(openat)(directory, name, flags, mode);
  opening_ends(&opening, descriptor >= 0, flags);
  return descriptor;
}

int open(const char *name, int flags, ...) {
  MODE_OF_ARGUMENTS
  return open_at(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...) {
  MODE_OF_ARGUMENTS
  return open_at(AT_FDCWD, name, flags | O_LARGEFILE, mode);
}

int openat(int directory, const char *name, int flags, ...) {
  MODE_OF_ARGUMENTS
  return open_at(directory, name, flags, mode);
}

int openat64(int directory, const char *name, int flags, ...) {
  MODE_OF_ARGUMENTS
  return open_at(directory, name, flags | O_LARGEFILE, mode);
}

int creat(const char *name, mode_t mode) {
  return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

static FILE *open_stream(const char *name, const char *mode, FILE *(*next)(const char *, const char *)) {
  struct opening opening;
  if (!opening_starts(&opening, AT_FDCWD, name, 1)) return NULL;
  FILE *stream = next(name, mode);
  int flags = *mode == 'w' ? O_CREAT | O_TRUNC : *mode == 'a' ? O_CREAT : 0;
  opening_ends(&opening, stream != NULL, flags);
  if (stream == NULL || !opening.is_inside) return stream;
  if (*mode == 'r') record('R', opening.path, "", 0, "", 0); /* reads are not seen */
  setvbuf(stream, NULL, _IONBF, 0);
  return stream;
}

FILE *fopen(const char *name, const char *mode) {
  return open_stream(name, mode, NEXT(fopen));
}

FILE *fopen64(const char *name, const char *mode) {
  return open_stream(name, mode, NEXT(fopen64));
}

/* --- Content --- */

static void record_written(int descriptor, const char *path, ssize_t written, int64_t end) {
  if (written <= 0 || records < 0) return;
  remember_written(descriptor, path);
  /* What was written, whichever call wrote it. */
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  int error = errno, copy = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
  char *data = malloc((size_t)written);
  if (end < 0) end = lseek(descriptor, 0, SEEK_CUR);
  if (copy < 0 || data == NULL) abort();
  if (syscall(SYS_pread64, copy, data, written, end - written) != written) abort();
  record('W', path, "", end - written, data, (size_t)written);
  free(data);
  syscall(SYS_close, copy);
  errno = error;
}

/* Runs `all`, or `half` where the call is to write only half of `bytes`. */
#define WRITES(descriptor, bytes, end, all, half)                       \
  char path[PATH_MAX];                                                  \
  if (!path_of_file(descriptor, path)) return all;                      \
  lock();                                                               \
  ssize_t done = -1;                                                    \
  if (!fails(WRITING)) {                                                \
    done = all;                                                         \
  } else if (failing_error == 0) {                                      \
    done = (bytes) > 1 ? half : all;                                    \
  }                                                                     \
  record_written(descriptor, path, done, (end) < 0 ? -1 : (end) + done); \
  unlock();                                                             \
  return done;

ssize_t write(int descriptor, const void *data, size_t bytes) {
  WRITES(descriptor, bytes, (int64_t)-1, NEXT(write)(descriptor, data, bytes),
         NEXT(write)(descriptor, data, bytes / 2))
}

ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t at) {
  WRITES(descriptor, bytes, (int64_t)at, NEXT(pwrite)(descriptor, data, bytes, at),
         NEXT(pwrite)(descriptor, data, bytes / 2, at))
}

ssize_t pwrite64(int descriptor, const void *data, size_t bytes, off64_t at) {
  return pwrite(descriptor, data, bytes, at);
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
  WRITES(descriptor, count, (int64_t)-1, NEXT(writev)(descriptor, parts, count),
         NEXT(writev)(descriptor, parts, count / 2))
}

static void record_source(int descriptor) {
  char path[PATH_MAX];
  if (path_of_file(descriptor, path)) record('R', path, "", 0, "", 0);
}

ssize_t sendfile(int descriptor, int source, off_t *at, size_t bytes) {
  record_source(source);
  WRITES(descriptor, bytes, (int64_t)-1, NEXT(sendfile)(descriptor, source, at, bytes),
         NEXT(sendfile)(descriptor, source, at, bytes / 2))
}

ssize_t sendfile64(int descriptor, int source, off64_t *at, size_t bytes) {
  return sendfile(descriptor, source, at, bytes);
}

ssize_t copy_file_range(
  int source, off64_t *from, int descriptor, off64_t *to, size_t bytes, unsigned flags
) {
  int64_t start = to != NULL ? *to : -1;
  record_source(source);
  WRITES(descriptor, bytes, start,
         NEXT(copy_file_range)(source, from, descriptor, to, bytes, flags),
         NEXT(copy_file_range)(source, from, descriptor, to, bytes / 2, flags))
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
  char path[PATH_MAX];
  if (!path_of_file(fileno(stream), path)) return NEXT(fwrite)(data, size, count, stream);
  size_t bytes = size * count, written = 0;
  while (written < bytes) {
    ssize_t done = write(fileno(stream), (const char *)data + written, bytes - written);
    if (done <= 0) break;
    written += (size_t)done;
  }
  return size == 0 ? 0 : written / size;
}

static int resized(int descriptor, int (*resize)(int, off_t, off_t, int), off_t at, off_t bytes,
                   int mode) {
  char path[PATH_MAX];
  struct stat state;
  if (!path_of_file(descriptor, path)) return resize(descriptor, at, bytes, mode);
  lock();
  int status = -1;
  if (!fails(WRITING) || failing_error == 0) {
    status = resize(descriptor, at, bytes, mode);
    if (status == 0 && fstat(descriptor, &state) == 0) {
      record('T', path, "", state.st_size, "", 0);
    }
  }
  unlock();
  return status;
}

static int truncated(int descriptor, off_t at, off_t bytes, int mode) {
  (void)at, (void)mode;
  return NEXT(ftruncate)(descriptor, bytes);
}

static int allocated(int descriptor, off_t at, off_t bytes, int mode) {
  return NEXT(fallocate)(descriptor, mode, at, bytes);
}

int ftruncate(int descriptor, off_t bytes) {
  return resized(descriptor, truncated, 0, bytes, 0);
}

int ftruncate64(int descriptor, off64_t bytes) {
  return ftruncate(descriptor, bytes);
}

int fallocate(int descriptor, int mode, off_t at, off_t bytes) {
  return resized(descriptor, allocated, at, bytes, mode);
}

int posix_fallocate(int descriptor, off_t at, off_t bytes) {
  return fallocate(descriptor, 0, at, bytes) == 0 ? 0 : errno;
}

int posix_fallocate64(int descriptor, off64_t at, off64_t bytes) {
  return posix_fallocate(descriptor, at, bytes);
}

static int flushed(int descriptor, int (*next)(int)) {
  char path[PATH_MAX];
  if (!path_of_file(descriptor, path)) return next(descriptor);
  lock();
  int status = fails(FLUSHING) ? -1 : next(descriptor);
  if (status == 0) record('F', path, "", 0, "", 0);
  unlock();
  return status;
}

int fsync(int descriptor) {
  return flushed(descriptor, NEXT(fsync));
}

int fdatasync(int descriptor) {
  return flushed(descriptor, NEXT(fdatasync));
}

/* --- Names --- */

/* Runs `call` and records it. A record of other letters than operations.py has is an error there. */
#define CHANGES(kind, letter, first, second, number, call) \
  lock();                                                  \
  int status = fails(kind) ? -1 : call;                    \
  if (status == 0) record(letter, first, second, number, "", 0); \
  unlock();                                                \
  return status;

static int rename_at(int from, const char *old, int to, const char *name, unsigned flags) {
  char first[PATH_MAX], second[PATH_MAX];
  int is_watched = path_of_name(from, old, 0, first);
  if (!path_of_name(to, name, 0, second) && !is_watched) {
    return (int)syscall(SYS_renameat2, from, old, to, name, flags);
  }
  *last_written.path = '\0';
  CHANGES(RENAMING, 'N', first, second, flags,
          (int)syscall(SYS_renameat2, from, old, to, name, flags))
}

int rename(const char *old, const char *name) {
  return rename_at(AT_FDCWD, old, AT_FDCWD, name, 0);
}

int renameat(int from, const char *old, int to, const char *name) {
  return rename_at(from, old, to, name, 0);
}

int renameat2(int from, const char *old, int to, const char *name, unsigned flags) {
  return rename_at(from, old, to, name, flags);
}

int linkat(int from, const char *old, int to, const char *name, int flags) {
  char first[PATH_MAX], second[PATH_MAX];
  int is_watched = path_of_name(from, old, 0, first);
  if (!path_of_name(to, name, 0, second) && !is_watched) {
    return NEXT(linkat)(from, old, to, name, flags);
  }
  CHANGES(RENAMING, 'L', first, second, 0, NEXT(linkat)(from, old, to, name, flags))
}

int link(const char *old, const char *name) {
  return linkat(AT_FDCWD, old, AT_FDCWD, name, 0);
}

int symlinkat(const char *target, int directory, const char *name) {
  char path[PATH_MAX];
  if (!path_of_name(directory, name, 0, path)) return NEXT(symlinkat)(target, directory, name);
  CHANGES(RENAMING, 'S', path, target, 0, NEXT(symlinkat)(target, directory, name))
}

int symlink(const char *target, const char *name) {
  return symlinkat(target, AT_FDCWD, name);
}

int unlinkat(int directory, const char *name, int flags) {
  char path[PATH_MAX];
  if (!path_of_name(directory, name, 0, path)) return NEXT(unlinkat)(directory, name, flags);
  CHANGES(REMOVING, flags & AT_REMOVEDIR ? 'E' : 'U', path, "", 0,
          NEXT(unlinkat)(directory, name, flags))
}

int unlink(const char *name) {
  return unlinkat(AT_FDCWD, name, 0);
}

int rmdir(const char *name) {
  return unlinkat(AT_FDCWD, name, AT_REMOVEDIR);
}

int remove(const char *name) {
  struct stat state;
  int is_directory = lstat(name, &state) == 0 && S_ISDIR(state.st_mode);
  return unlinkat(AT_FDCWD, name, is_directory ? AT_REMOVEDIR : 0);
}

int mkdirat(int directory, const char *name, mode_t mode) {
  char path[PATH_MAX];
  if (!path_of_name(directory, name, 0, path)) return NEXT(mkdirat)(directory, name, mode);
  CHANGES(OPENING, 'D', path, "", 0, NEXT(mkdirat)(directory, name, mode))
}

int mkdir(const char *name, mode_t mode) {
  return mkdirat(AT_FDCWD, name, mode);
}

/* --- What is read --- */

#define READS(descriptor, call)                          \
  char path[PATH_MAX];                                   \
  if (!path_of_file(descriptor, path)) return call;      \
  lock();                                                \
  ssize_t done = fails(READING) ? -1 : call;             \
  if (done >= 0) record('R', path, "", 0, "", 0);        \
  unlock();                                              \
  return done;

ssize_t read(int descriptor, void *data, size_t bytes) {
  READS(descriptor, NEXT(read)(descriptor, data, bytes))
}

ssize_t readv(int descriptor, const struct iovec *parts, int count) {
  READS(descriptor, NEXT(readv)(descriptor, parts, count))
}

ssize_t pread(int descriptor, void *data, size_t bytes, off_t at) {
  READS(descriptor, NEXT(pread)(descriptor, data, bytes, at))
}

ssize_t pread64(int descriptor, void *data, size_t bytes, off64_t at) {
  return pread(descriptor, data, bytes, at);
}

void *mmap(void *address, size_t bytes, int protection, int flags, int descriptor, off_t at) {
  char path[PATH_MAX];
  if ((flags & MAP_ANONYMOUS) || !path_of_file(descriptor, path)) {
    return NEXT(mmap)(address, bytes, protection, flags, descriptor, at);
  }
  lock();
  void *mapped = MAP_FAILED;
  if (!fails(MAPPING)) mapped = NEXT(mmap)(address, bytes, protection, flags, descriptor, at);
  int is_written = (flags & MAP_SHARED) && (protection & PROT_WRITE);
  if (mapped != MAP_FAILED) record(is_written ? 'M' : 'R', path, "", 0, "", 0);
  unlock();
  return mapped;
}

void *mmap64(void *address, size_t bytes, int protection, int flags, int descriptor, off64_t at) {
  return mmap(address, bytes, protection, flags, descriptor, at);
}
