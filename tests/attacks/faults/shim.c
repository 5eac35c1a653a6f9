// Counts the operations that change files below some folders, and makes one of them fail or end the process.
//
// It is loaded with LD_PRELOAD, and so stands between libc and everything in the process: Python, and native
// code that writes files itself. It does nothing until `faults_arm`. Each operation is logged as a line:
//
//   KIND NUMBER NAME BYTES PATH
//   fault
//
// KIND is c: changes a file, g: the same and needs room, r: reads, o: a change outside the folders. `fault`
// follows the operation at which the fault happened.
//
// A FILE* of libc writes past this file, because its calls of `write` are libc's own. fdopen therefore
// returns one that calls ours. fopen for writing returns libc's, of which C++ streams take the descriptor to
// write with: its path is logged as "unseen", and so it was if no write to that path follows.
//
// System calls that a library makes without libc are not seen. Rust's rustix is one: safetensors renames its
// temporary file with it, in the folder of a training checkpoint that is not called whole yet.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum Fault { NONE, KILL, FULL, EIO_ONCE, TORN, POWER, EIO_READ, INTERRUPT, TERMINATE, HANG_UP };
enum Kind { CHANGE = 'c', GROW = 'g', READ = 'r' };  // GROW: a change that needs room on the disk
enum { MAX_ROOTS = 8, MAX_DIRTY = 256, FIRST_DIRTY_FD = 600 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int armed, fault, log_fd = -1, roots_count;
static long at, changes, reads;
static char roots[MAX_ROOTS][PATH_MAX];
// Files with bytes that were not flushed: descriptors of our own, so that renames don't matter.
static struct {
  dev_t device;
  ino_t inode;
  int fd;
} dirty[MAX_DIRTY];
static int dirty_count;

static void say(const char* format, ...) {
  char line[PATH_MAX + 200];
  va_list arguments;
  va_start(arguments, format);
  int size = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (size >= (int)sizeof line) size = sizeof line - 1;
  syscall(SYS_write, log_fd, line, size);
}

static int below_roots(const char* path) {
  for (int i = 0; i < roots_count; i++) {
    size_t length = strlen(roots[i]);
    if (!strncmp(path, roots[i], length) && (path[length] == '/' || !path[length])) return 1;
  }
  return 0;
}

static void path_of_fd(int fd, char* path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = syscall(SYS_readlink, link, path, PATH_MAX - 1);
  path[size < 0 ? 0 : size] = 0;
}

static void path_at(int folder, const char* name, char* path) {
  if (!name || name[0] == '/') {
    snprintf(path, PATH_MAX, "%s", name ? name : "");
    return;
  }
  char base[PATH_MAX] = "";
  if (folder == AT_FDCWD) {
    if (syscall(SYS_getcwd, base, sizeof base) < 0) base[0] = 0;
  } else {
    path_of_fd(folder, base);
  }
  if (!name[0])
    snprintf(path, PATH_MAX, "%s", base);
  else if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX)
    path[0] = 0;
}

static void lose_what_was_not_flushed(void) {
  for (int i = 0; i < dirty_count; i++) {
    struct stat state;
    if (!fstat(dirty[i].fd, &state)) syscall(SYS_ftruncate, dirty[i].fd, state.st_size / 2);
  }
}

static void die(void) {
  if (fault == POWER) lose_what_was_not_flushed();
  syscall(SYS_kill, getpid(), SIGKILL);
  for (;;) pause();
}

static void note_written(int fd) {
  struct stat state;
  if (fault != POWER || fstat(fd, &state) || !S_ISREG(state.st_mode)) return;
  for (int i = 0; i < dirty_count; i++)
    if (dirty[i].inode == state.st_ino && dirty[i].device == state.st_dev) return;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  int own = syscall(SYS_openat, AT_FDCWD, link, O_WRONLY | O_CLOEXEC);
  int high = own < 0 ? -1 : fcntl(own, F_DUPFD_CLOEXEC, FIRST_DIRTY_FD);
  if (own >= 0) syscall(SYS_close, own);
  if (high < 0 || dirty_count == MAX_DIRTY) {
    say("unseen unflushed bytes\n");
    return;
  }
  dirty[dirty_count].device = state.st_dev, dirty[dirty_count].inode = state.st_ino;
  dirty[dirty_count++].fd = high;
}

static void note_flushed(int fd) {
  struct stat state;
  if (fault != POWER || fstat(fd, &state)) return;
  for (int i = 0; i < dirty_count; i++)
    if (dirty[i].inode == state.st_ino && dirty[i].device == state.st_dev) {
      syscall(SYS_close, dirty[i].fd);
      dirty[i] = dirty[--dirty_count];
      return;
    }
}

// Returns 0 if the operation may go on, -1 with errno if it fails, 1 if it is to be torn.
static int operation(enum Kind kind, const char* name, long bytes, const char* path) {
  if (!armed) return 0;
  int watched = below_roots(path);
  if (!watched) {
    if (kind != READ && path[0] == '/' && strncmp(path, "/dev/", 5) && strncmp(path, "/proc/", 6))
      say("o 0 %s %ld %s\n", name, bytes, path);
    return 0;
  }
  pthread_mutex_lock(&lock);
  long number = kind == READ ? ++reads : ++changes;
  say("%c %ld %s %ld %s\n", kind, number, name, bytes, path);
  int result = 0, mine = (fault == EIO_READ) == (kind == READ);
  if (fault != NONE && mine && (number == at || (fault == FULL && number > at && kind == GROW))) {
    if (fault != FULL || kind == GROW) say("fault\n");
    if (fault == KILL || fault == POWER) die();
    if (fault >= INTERRUPT) {  // the operation goes on, if the signal does not end the process
      int sent[] = {SIGINT, SIGTERM, SIGHUP};
      pthread_mutex_unlock(&lock);
      kill(getpid(), sent[fault - INTERRUPT]);
      return 0;
    }
    if (fault == TORN)
      result = 1;
    else if (fault != FULL || kind == GROW) {
      errno = fault == FULL ? ENOSPC : EIO;
      result = -1;
    }
  }
  pthread_mutex_unlock(&lock);
  return result;
}

void faults_arm(const char* folders, int chosen, long number, int log) {
  char all[MAX_ROOTS * PATH_MAX], *rest = all, *one;
  snprintf(all, sizeof all, "%s", folders);
  roots_count = 0;
  while ((one = strsep(&rest, ":")) && roots_count < MAX_ROOTS)
    snprintf(roots[roots_count++], PATH_MAX, "%s", one);
  fault = chosen, at = number, log_fd = log, changes = reads = 0, dirty_count = 0;
  armed = 1;
}

#define REAL(name)                                                \
  ({                                                              \
    static __typeof__(&name) real;                                \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
    real;                                                         \
  })
// A torn operation that is no write ends the process before it, as a kill does.
#define STOP(kind, name, bytes, path)                 \
  do {                                                \
    int verdict = operation(kind, name, bytes, path); \
    if (verdict < 0) return -1;                       \
    if (verdict > 0) die();                           \
  } while (0)

static int is_new(int folder, const char* name) {
  struct stat state;
  return fstatat(folder, name, &state, AT_SYMLINK_NOFOLLOW) != 0;
}

static int check_open(int folder, const char* name, int flags) {
  if (!armed) return 0;
  char path[PATH_MAX];
  path_at(folder, name, path);
  int changes_file = flags & (O_CREAT | O_TRUNC) || (flags & O_ACCMODE) != O_RDONLY;
  enum Kind kind = !changes_file ? READ : flags & O_CREAT && is_new(folder, name) ? GROW : CHANGE;
  STOP(kind, kind == READ ? "open-to-read" : "open", 0, path);
  return 0;
}

#define MODE                           \
  mode_t mode = 0;                     \
  if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list rest;                      \
    va_start(rest, flags);             \
    mode = va_arg(rest, mode_t);       \
    va_end(rest);                      \
  }
// Offsets have 64 bits on the machines of these tests: a function and its variant for them are the same.
#define SAME_64(name) extern __typeof__(name) name##64 __attribute__((alias(#name)));
int open(const char* path, int flags, ...) {
  MODE return check_open(AT_FDCWD, path, flags) ? -1 : REAL(open)(path, flags, mode);
}
int openat(int folder, const char* path, int flags, ...) {
  MODE return check_open(folder, path, flags) ? -1 : REAL(openat)(folder, path, flags, mode);
}
int creat(const char* path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
SAME_64(open)
SAME_64(openat)
SAME_64(creat)

static int check_fopen(const char* name, const char* mode) {
  if (!armed) return 0;
  char path[PATH_MAX];
  path_at(AT_FDCWD, name, path);
  int writes = strpbrk(mode, "wa+") != NULL;
  if (writes && below_roots(path)) say("unseen %s\n", path);
  STOP(writes ? GROW : READ, writes ? "fopen" : "open-to-read", 0, path);
  return 0;
}
FILE* fopen(const char* path, const char* mode) {
  return check_fopen(path, mode) ? NULL : REAL(fopen)(path, mode);
}
SAME_64(fopen)
// Writes through a descriptor. A torn one writes half of its (first) bytes and ends the process.
#define WRITE(fd, bytes, torn)                           \
  if (armed) {                                           \
    char path[PATH_MAX];                                 \
    path_of_fd(fd, path);                                \
    int verdict = operation(GROW, "write", bytes, path); \
    if (verdict < 0) return -1;                          \
    if (verdict > 0) {                                   \
      torn;                                              \
      die();                                             \
    }                                                    \
    if (below_roots(path)) note_written(fd);             \
  }
#define WRITEV(name, ...)                                                \
  WRITE(fd, (long)(count ? parts[0].iov_len : 0),                        \
        syscall(SYS_write, fd, parts[0].iov_base, parts[0].iov_len / 2)) \
  return REAL(name)(fd, parts, count, ##__VA_ARGS__)
ssize_t write(int fd, const void* data, size_t size) {
  WRITE(fd, (long)size, syscall(SYS_write, fd, data, size / 2))
  return REAL(write)(fd, data, size);
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  WRITE(fd, (long)size, syscall(SYS_pwrite64, fd, data, size / 2, offset))
  return REAL(pwrite)(fd, data, size, offset);
}
ssize_t writev(int fd, const struct iovec* parts, int count) { WRITEV(writev); }
ssize_t pwritev(int fd, const struct iovec* parts, int count, off_t offset) { WRITEV(pwritev, offset); }
ssize_t sendfile(int fd, int from, off_t* offset, size_t size) {
  WRITE(fd, (long)size, syscall(SYS_sendfile, fd, from, offset, size / 2))
  return REAL(sendfile)(fd, from, offset, size);
}
SAME_64(pwrite)
SAME_64(pwritev)
SAME_64(sendfile)
ssize_t copy_file_range(int from, off64_t* start, int fd, off64_t* offset, size_t size, unsigned flags) {
  WRITE(fd, (long)size, syscall(SYS_copy_file_range, from, start, fd, offset, size / 2, flags))
  return REAL(copy_file_range)(from, start, fd, offset, size, flags);
}

#define READING(fd, bytes)           \
  if (armed && fault == EIO_READ) {  \
    char path[PATH_MAX];             \
    path_of_fd(fd, path);            \
    STOP(READ, "read", bytes, path); \
  }
ssize_t read(int fd, void* data, size_t size) { READING(fd, (long)size) return REAL(read)(fd, data, size); }
ssize_t pread(int fd, void* data, size_t size, off_t offset) {
  READING(fd, (long)size) return REAL(pread)(fd, data, size, offset);
}
SAME_64(pread)
ssize_t readv(int fd, const struct iovec* parts, int count) {
  READING(fd, 0) return REAL(readv)(fd, parts, count);
}

static ssize_t stream_read(void* fd, char* data, size_t size) { return read((int)(long)fd, data, size); }
static ssize_t stream_write(void* fd, const char* data, size_t size) {
  ssize_t written = write((int)(long)fd, data, size);
  return written < 0 ? 0 : written;
}
static int stream_seek(void* fd, off64_t* offset, int from) {
  off64_t moved = lseek64((int)(long)fd, *offset, from);
  if (moved < 0) return -1;
  *offset = moved;
  return 0;
}
static int stream_close(void* fd) { return close((int)(long)fd); }
FILE* fdopen(int fd, const char* mode) {
  char path[PATH_MAX] = "";
  if (armed) path_of_fd(fd, path);
  if (!armed || !below_roots(path)) return REAL(fdopen)(fd, mode);
  cookie_io_functions_t calls = {stream_read, stream_write, stream_seek, stream_close};
  return fopencookie((void*)(long)fd, mode, calls);
}

#define ON_FD(kind, name, bytes)   \
  if (armed) {                     \
    char path[PATH_MAX];           \
    path_of_fd(fd, path);          \
    STOP(kind, name, bytes, path); \
  }
int fsync(int fd) {
  ON_FD(CHANGE, "fsync", 0) note_flushed(fd);
  return REAL(fsync)(fd);
}
int fdatasync(int fd) {
  ON_FD(CHANGE, "fdatasync", 0) note_flushed(fd);
  return REAL(fdatasync)(fd);
}
int ftruncate(int fd, off_t size) {
  ON_FD(size ? GROW : CHANGE, "ftruncate", size) return REAL(ftruncate)(fd, size);
}
SAME_64(ftruncate)
int fallocate(int fd, int mode, off_t start, off_t size) {
  ON_FD(GROW, "fallocate", size) return REAL(fallocate)(fd, mode, start, size);
}
SAME_64(fallocate)
int fchmod(int fd, mode_t mode) { ON_FD(CHANGE, "chmod", 0) return REAL(fchmod)(fd, mode); }
int futimens(int fd, const struct timespec times[2]) {
  ON_FD(CHANGE, "utime", 0) return REAL(futimens)(fd, times);
}
int posix_fallocate(int fd, off_t start, off_t size) {
  char path[PATH_MAX];
  path_of_fd(fd, path);
  int verdict = operation(GROW, "fallocate", size, path);
  if (verdict > 0) die();
  return verdict ? errno : REAL(posix_fallocate)(fd, start, size);
}

// Bytes that reach a file through memory are seen only at mmap and msync.
static int check_mmap(int protection, int flags, int fd, size_t size) {
  if (!armed || fd < 0 || !(flags & MAP_SHARED) || !(protection & PROT_WRITE)) return 0;
  char path[PATH_MAX];
  path_of_fd(fd, path);
  STOP(GROW, "mmap", (long)size, path);
  if (below_roots(path)) note_written(fd);
  return 0;
}
void* mmap(void* where, size_t size, int protection, int flags, int fd, off_t offset) {
  return check_mmap(protection, flags, fd, size) ? MAP_FAILED
                                                 : REAL(mmap)(where, size, protection, flags, fd, offset);
}
SAME_64(mmap)

#define ON_PATH(kind, name, folder, given) \
  if (armed) {                             \
    char path[PATH_MAX];                   \
    path_at(folder, given, path);          \
    STOP(kind, name, 0, path);             \
  }
// A rename changes two folders: it is counted once, at the first of the two that is watched.
#define ON_TWO(kind, name, folder, given, other_folder, other)                                    \
  if (armed) {                                                                                    \
    char path[PATH_MAX], second[PATH_MAX];                                                        \
    path_at(folder, given, path);                                                                 \
    path_at(other_folder, other, second);                                                         \
    STOP(kind, name, 0, below_roots(path) ? path : second);                                       \
    if (below_roots(path) != below_roots(second)) say("o 0 %s 0 %s -> %s\n", name, path, second); \
  }
int rename(const char* old, const char* new) {
  ON_TWO(CHANGE, "rename", AT_FDCWD, old, AT_FDCWD, new) return REAL(rename)(old, new);
}
int renameat(int a, const char* old, int b, const char* new) {
  ON_TWO(CHANGE, "rename", a, old, b, new) return REAL(renameat)(a, old, b, new);
}
int renameat2(int a, const char* old, int b, const char* new, unsigned flags) {
  ON_TWO(CHANGE, "rename", a, old, b, new) return REAL(renameat2)(a, old, b, new, flags);
}
int link(const char* old, const char* new) {
  ON_PATH(GROW, "link", AT_FDCWD, new) return REAL(link)(old, new);
}
int linkat(int a, const char* old, int b, const char* new, int flags) {
  ON_PATH(GROW, "link", b, new) return REAL(linkat)(a, old, b, new, flags);
}
int symlink(const char* to, const char* new) {
  ON_PATH(GROW, "symlink", AT_FDCWD, new) return REAL(symlink)(to, new);
}
int symlinkat(const char* to, int a, const char* new) {
  ON_PATH(GROW, "symlink", a, new) return REAL(symlinkat)(to, a, new);
}
int unlink(const char* name) { ON_PATH(CHANGE, "unlink", AT_FDCWD, name) return REAL(unlink)(name); }
int remove(const char* name) { ON_PATH(CHANGE, "unlink", AT_FDCWD, name) return REAL(remove)(name); }
int unlinkat(int a, const char* name, int flags) {
  ON_PATH(CHANGE, flags & AT_REMOVEDIR ? "rmdir" : "unlink", a, name) return REAL(unlinkat)(a, name, flags);
}
int rmdir(const char* name) { ON_PATH(CHANGE, "rmdir", AT_FDCWD, name) return REAL(rmdir)(name); }
int mkdir(const char* name, mode_t mode) {
  ON_PATH(GROW, "mkdir", AT_FDCWD, name) return REAL(mkdir)(name, mode);
}
int mkdirat(int a, const char* name, mode_t mode) {
  ON_PATH(GROW, "mkdir", a, name) return REAL(mkdirat)(a, name, mode);
}
int truncate(const char* name, off_t size) {
  ON_PATH(size ? GROW : CHANGE, "truncate", AT_FDCWD, name) return REAL(truncate)(name, size);
}
SAME_64(truncate)
int chmod(const char* name, mode_t mode) {
  ON_PATH(CHANGE, "chmod", AT_FDCWD, name) return REAL(chmod)(name, mode);
}
int fchmodat(int a, const char* name, mode_t mode, int flags) {
  ON_PATH(CHANGE, "chmod", a, name) return REAL(fchmodat)(a, name, mode, flags);
}
int utimensat(int a, const char* name, const struct timespec times[2], int flags) {
  ON_PATH(CHANGE, "utime", a, name) return REAL(utimensat)(a, name, times, flags);
}
