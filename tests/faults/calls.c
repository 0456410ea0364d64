/* Stands between a process and its files, and makes system calls fail on purpose.
 *
 * Preloaded, it does nothing until faults_begin() is called.  From then on it counts the
 * calls that the process makes on files below one directory, over all its threads, and
 * does to the one that is asked for (and to those behind it) what the control block says,
 * which is a file that the test has mapped, too, and may change at any time.
 *
 * Only this process: what it starts gets neither this library nor its counting.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum action { NOTHING, FAIL, SHORTEN, KILL_BEFORE, KILL_AFTER, KILL_WITHIN, HANG };

enum call { OPEN, OPEN_TO_WRITE, CREATE, READ, WRITE, SYNC, TRUNCATE, ALLOCATE, UNLINK, RENAME, MKDIR, STAT, STATVFS, LOCK, CHMOD };

static const char *const names[] = {"open", "openw", "create", "read", "write", "sync", "truncate", "allocate", "unlink",
                                    "rename", "mkdir", "stat", "statvfs", "lock", "chmod"};

struct control {
    _Atomic int64_t count;    /* calls so far */
    _Atomic int64_t first;    /* the calls that something is done to; 0: none */
    _Atomic int64_t last;
    _Atomic int64_t step;     /* of each so many of them, to one */
    _Atomic int32_t action;
    _Atomic int32_t error;    /* errno */
    _Atomic int32_t calls;    /* a bit for each kind of call that is done something to */
    _Atomic int32_t delay_us; /* how long a sync takes */
    _Atomic int32_t waiting;  /* threads that hang now */
    _Atomic int32_t injected; /* how often something was done */
    _Atomic int64_t wall_us;  /* by how much the wall clock is wrong */
};

#define DESCRIPTORS_MAX 65536

static struct control *control;
static char under[PATH_MAX];
static size_t under_length;
static pid_t owner;
static int trace = -1;
static char *_Atomic paths[DESCRIPTORS_MAX]; /* of what is open below the directory */

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        abort();
    return found;
}

__attribute__((constructor)) static void leave_no_trace(void) { unsetenv("LD_PRELOAD"); }

/* Begin; 0, or -1 where the control block cannot be mapped. */
int faults_begin(const char *control_path, const char *directory, const char *trace_path) {
    int descriptor = (int)syscall(SYS_openat, AT_FDCWD, control_path, O_RDWR | O_CLOEXEC, 0);
    if (descriptor < 0)
        return -1;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    syscall(SYS_close, descriptor);
    if (mapped == MAP_FAILED)
        return -1;
    if (trace_path != NULL && *trace_path)
        trace = (int)syscall(SYS_openat, AT_FDCWD, trace_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    under_length = strlen(directory);
    memcpy(under, directory, under_length + 1);
    owner = getpid();
    control = mapped;
    return 0;
}

static const char *below(const char *path) {
    if (control == NULL || path == NULL || strncmp(path, under, under_length) != 0)
        return NULL;
    if (path[under_length] == '\0')
        return ".";
    return path[under_length] == '/' ? path + under_length + 1 : NULL;
}

static const char *opened(int descriptor) {
    if (control == NULL || descriptor < 0 || descriptor >= DESCRIPTORS_MAX)
        return NULL;
    return atomic_load(&paths[descriptor]);
}

static void note(int64_t number, enum call call, const char *path, const char *done) {
    char line[PATH_MAX + 64];
    if (trace < 0)
        return;
    int length = snprintf(line, sizeof line, "%lld %s %s %s\n", (long long)number, names[call], path, done);
    syscall(SYS_write, trace, line, (size_t)length);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Count a call; return what is to be done to it. */
static enum action meet(enum call call, const char *path) {
    if (path == NULL || getpid() != owner)
        return NOTHING;
    int64_t number = atomic_fetch_add(&control->count, 1) + 1;
    int64_t first = atomic_load(&control->first);
    enum action action = NOTHING;
    if (first && number >= first && number <= atomic_load(&control->last) &&
        (number - first) % atomic_load(&control->step) == 0 && (atomic_load(&control->calls) >> call & 1)) {
        action = atomic_load(&control->action);
        atomic_fetch_add(&control->injected, 1);
    }
    note(number, call, path, action == NOTHING ? "" : "INJECTED");
    if (call == SYNC && atomic_load(&control->delay_us))
        usleep((useconds_t)atomic_load(&control->delay_us));
    if (action == HANG) {
        atomic_fetch_add(&control->waiting, 1);
        while (atomic_load(&control->action) == HANG)
            usleep(1000);
        atomic_fetch_sub(&control->waiting, 1);
        action = atomic_load(&control->action); /* a hung call may end in an error */
    }
    if (action == KILL_BEFORE)
        die();
    if (action == FAIL)
        errno = atomic_load(&control->error);
    return action;
}

#define DONE(action)                                                                                                   \
    if ((action) == KILL_AFTER || (action) == KILL_WITHIN)                                                             \
        die()

#define INT_CALL(call, path, expression)                                                                               \
    enum action action = meet(call, path);                                                                             \
    if (action == FAIL)                                                                                                \
        return -1;                                                                                                     \
    int result = (expression);                                                                                         \
    int kept = errno;                                                                                                  \
    DONE(action);                                                                                                      \
    errno = kept;                                                                                                      \
    return result

static int remember(int descriptor, const char *name) {
    if (name != NULL && descriptor >= 0 && descriptor < DESCRIPTORS_MAX) {
        int kept = errno;
        free(atomic_exchange(&paths[descriptor], strdup(name)));
        errno = kept;
    }
    return descriptor;
}

static enum call opening(const char *path, int flags) {
    if (flags & O_CREAT && syscall(SYS_faccessat, AT_FDCWD, path, F_OK) != 0)
        return CREATE;
    return (flags & O_ACCMODE) == O_RDONLY ? OPEN : OPEN_TO_WRITE;
}

#define OPENING(path, expression)                                                                                      \
    va_list rest;                                                                                                      \
    va_start(rest, flags);                                                                                             \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                          \
    va_end(rest);                                                                                                      \
    const char *name = below(path);                                                                                    \
    enum action action = name == NULL ? NOTHING : meet(opening(path, flags), name);                                    \
    if (action == FAIL)                                                                                                \
        return -1;                                                                                                     \
    int descriptor = remember(expression, name);                                                                       \
    DONE(action);                                                                                                      \
    return descriptor

int open(const char *path, int flags, ...) { OPENING(path, REAL(open)(path, flags, mode)); }
int open64(const char *path, int flags, ...) { OPENING(path, REAL(open64)(path, flags, mode)); }
int openat(int at, const char *path, int flags, ...) { OPENING(path, REAL(openat)(at, path, flags, mode)); }
int openat64(int at, const char *path, int flags, ...) { OPENING(path, REAL(openat64)(at, path, flags, mode)); }

int close(int descriptor) {
    if (opened(descriptor) != NULL)
        free(atomic_exchange(&paths[descriptor], NULL));
    return REAL(close)(descriptor);
}

/* Half of a write, up to where a sector ends: a sector is written whole or not at all. */
static size_t whole_sectors(size_t size, int64_t begin) {
    int64_t end = (begin + (int64_t)size / 2) / 512 * 512;
    return end > begin ? (size_t)(end - begin) : size;
}

#define MOVING(call, begin, expression)                                                                                \
    enum action action = meet(call, opened(descriptor));                                                               \
    if (action == FAIL)                                                                                                \
        return -1;                                                                                                     \
    if (call == WRITE && action == SHORTEN && size > 1)                                                                \
        size /= 2;                                                                                                     \
    if (call == WRITE && action == KILL_WITHIN)                                                                        \
        size = whole_sectors(size, begin);                                                                             \
    ssize_t result = (expression);                                                                                     \
    DONE(action);                                                                                                      \
    return result

ssize_t read(int descriptor, void *data, size_t size) { MOVING(READ, 0, REAL(read)(descriptor, data, size)); }
ssize_t pread(int descriptor, void *data, size_t size, off_t at) {
    MOVING(READ, 0, REAL(pread)(descriptor, data, size, at));
}
ssize_t pread64(int descriptor, void *data, size_t size, off64_t at) {
    MOVING(READ, 0, REAL(pread64)(descriptor, data, size, at));
}
ssize_t write(int descriptor, const void *data, size_t size) {
    MOVING(WRITE, lseek(descriptor, 0, SEEK_CUR), REAL(write)(descriptor, data, size));
}
ssize_t pwrite(int descriptor, const void *data, size_t size, off_t at) {
    MOVING(WRITE, at, REAL(pwrite)(descriptor, data, size, at));
}
ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t at) {
    MOVING(WRITE, at, REAL(pwrite64)(descriptor, data, size, at));
}

int fsync(int descriptor) { INT_CALL(SYNC, opened(descriptor), REAL(fsync)(descriptor)); }
int fdatasync(int descriptor) { INT_CALL(SYNC, opened(descriptor), REAL(fdatasync)(descriptor)); }
int ftruncate(int descriptor, off_t size) {
    INT_CALL(TRUNCATE, opened(descriptor), REAL(ftruncate)(descriptor, size));
}
int ftruncate64(int descriptor, off64_t size) {
    INT_CALL(TRUNCATE, opened(descriptor), REAL(ftruncate64)(descriptor, size));
}
int fallocate(int descriptor, int mode, off_t at, off_t size) {
    INT_CALL(ALLOCATE, opened(descriptor), REAL(fallocate)(descriptor, mode, at, size));
}
int fallocate64(int descriptor, int mode, off64_t at, off64_t size) {
    INT_CALL(ALLOCATE, opened(descriptor), REAL(fallocate64)(descriptor, mode, at, size));
}
int posix_fallocate(int descriptor, off_t at, off_t size) { /* returns the error itself */
    enum action action = meet(ALLOCATE, opened(descriptor));
    if (action == FAIL)
        return errno;
    int result = REAL(posix_fallocate)(descriptor, at, size);
    DONE(action);
    return result;
}
int posix_fallocate64(int descriptor, off64_t at, off64_t size) {
    return posix_fallocate(descriptor, at, size);
}
int unlink(const char *path) { INT_CALL(UNLINK, below(path), REAL(unlink)(path)); }
int unlinkat(int at, const char *path, int flags) { INT_CALL(UNLINK, below(path), REAL(unlinkat)(at, path, flags)); }
int rmdir(const char *path) { INT_CALL(UNLINK, below(path), REAL(rmdir)(path)); }
int rename(const char *path, const char *to) { INT_CALL(RENAME, below(path), REAL(rename)(path, to)); }
int renameat(int at, const char *path, int to_at, const char *to) {
    INT_CALL(RENAME, below(path), REAL(renameat)(at, path, to_at, to));
}
int mkdir(const char *path, mode_t mode) { INT_CALL(MKDIR, below(path), REAL(mkdir)(path, mode)); }
int mkdirat(int at, const char *path, mode_t mode) { INT_CALL(MKDIR, below(path), REAL(mkdirat)(at, path, mode)); }
int stat(const char *path, struct stat *found) { INT_CALL(STAT, below(path), REAL(stat)(path, found)); }
int stat64(const char *path, struct stat64 *found) { INT_CALL(STAT, below(path), REAL(stat64)(path, found)); }
int lstat(const char *path, struct stat *found) { INT_CALL(STAT, below(path), REAL(lstat)(path, found)); }
int lstat64(const char *path, struct stat64 *found) { INT_CALL(STAT, below(path), REAL(lstat64)(path, found)); }
int fstat(int descriptor, struct stat *found) { INT_CALL(STAT, opened(descriptor), REAL(fstat)(descriptor, found)); }
int fstat64(int descriptor, struct stat64 *found) {
    INT_CALL(STAT, opened(descriptor), REAL(fstat64)(descriptor, found));
}
int fstatat(int at, const char *path, struct stat *found, int flags) {
    INT_CALL(STAT, below(path), REAL(fstatat)(at, path, found, flags));
}
int fstatat64(int at, const char *path, struct stat64 *found, int flags) {
    INT_CALL(STAT, below(path), REAL(fstatat64)(at, path, found, flags));
}
int statvfs(const char *path, struct statvfs *found) { INT_CALL(STATVFS, below(path), REAL(statvfs)(path, found)); }
int statvfs64(const char *path, struct statvfs64 *found) {
    INT_CALL(STATVFS, below(path), REAL(statvfs64)(path, found));
}
int flock(int descriptor, int operation) { INT_CALL(LOCK, opened(descriptor), REAL(flock)(descriptor, operation)); }
int chmod(const char *path, mode_t mode) { INT_CALL(CHMOD, below(path), REAL(chmod)(path, mode)); }

static int64_t wall_us(void) { return control == NULL ? 0 : atomic_load(&control->wall_us); }

int clock_gettime(clockid_t clock, struct timespec *found) {
    int result = REAL(clock_gettime)(clock, found);
    int64_t us = wall_us();
    if (result == 0 && us && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        us += found->tv_nsec / 1000;
        found->tv_sec += us / 1000000 - (us % 1000000 < 0);
        found->tv_nsec = (us % 1000000 + (us % 1000000 < 0 ? 1000000 : 0)) * 1000;
    }
    return result;
}
int gettimeofday(struct timeval *found, void *zone) {
    int result = REAL(gettimeofday)(found, zone);
    found->tv_sec += wall_us() / 1000000;
    return result;
}
time_t time(time_t *found) {
    time_t now = REAL(time)(NULL) + wall_us() / 1000000;
    if (found != NULL)
        *found = now;
    return now;
}

static int control_file(int descriptor, int command, void *argument, const char *symbol) {
    int is_lock = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
    int (*next)(int, int, ...) = (int (*)(int, int, ...))real(symbol);
    INT_CALL(LOCK, is_lock ? opened(descriptor) : NULL, next(descriptor, command, argument));
}
int fcntl(int descriptor, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return control_file(descriptor, command, argument, "fcntl");
}
int fcntl64(int descriptor, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return control_file(descriptor, command, argument, "fcntl64");
}
