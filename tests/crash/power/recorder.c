/* Records what a process does to the files of one directory, and what it sends.
 *
 * Loaded with LD_PRELOAD.  Each call that changes a file, a name or what is
 * known to be on the disk becomes a record in the trace, in the order in which
 * the kernel saw them: a call and its record are made under one lock.  Only a
 * sync is two records, since others go on while it lasts: where it begins (what
 * was written before is covered by it) and where it ends (from here on it counts).
 *
 * What cannot be recorded (a shared mapping, say) leaves a record that says so,
 * and the test refuses the trace.
 *
 *   POWER_TRACE   the trace, appended to
 *   POWER_ROOT    the directory, without a slash at its end
 *   POWER_DIE_AT  kill the process behind so many records of files
 *   POWER_NO_DIRECTORY_SYNC  have syncs of directories do nothing, and say yes
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FDS = 65536, NOTHING = 0, A_FILE = 1, A_DIRECTORY = 2, A_PEER = 3 };

struct __attribute__((packed)) record {
    uint32_t size; /* of all that follows the header */
    uint32_t pid;
    uint32_t tid;
    int32_t fd;
    int64_t offset;
    uint32_t names; /* of what follows, so much is names */
    uint8_t kind;
    uint8_t flags;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char kinds[FDS];
static int trace = -1;
static char root[PATH_MAX];
static size_t root_length;
static long die_at, done;
static int ignores_directories;


__attribute__((constructor)) static void begin(void);

static int kind_of(int fd) { return fd >= 0 && fd < FDS ? kinds[fd] : NOTHING; }

/* The lock is held. */
static void put(int kind, int flags, int fd, int64_t offset, const char *names, size_t names_size,
                const struct iovec *data, int count, size_t size) {
    struct record head = {names_size + size, getpid(), syscall(SYS_gettid), fd, offset,
                          names_size, kind, flags};
    struct iovec out[1026];
    int n = 0;
    size_t left = size;
    out[n++] = (struct iovec){&head, sizeof head};
    if (names_size) out[n++] = (struct iovec){(void *)names, names_size};
    for (int i = 0; i < count && left; i++) {
        size_t some = data[i].iov_len < left ? data[i].iov_len : left;
        if (!some) continue;
        out[n++] = (struct iovec){data[i].iov_base, some};
        left -= some;
    }
    size_t wanted = sizeof head + names_size + size;
    if (syscall(SYS_writev, trace, out, n) != (long)wanted) {
        static const char words[] = "power recorder: the trace cannot be written\n";
        syscall(SYS_write, 2, words, sizeof words - 1);
        kill(getpid(), SIGKILL);
    }
    if (die_at && kind != 'S' && kind != 'A' && kind != 'C' && ++done == die_at)
        kill(getpid(), SIGKILL);
}

static void put_one(int kind, int flags, int fd, int64_t offset, const void *data, size_t size) {
    struct iovec one = {(void *)data, size};
    put(kind, flags, fd, offset, NULL, 0, &one, 1, size);
}

static void put_names(int kind, int flags, int fd, int64_t offset, const char *a, const char *b) {
    char names[2 * PATH_MAX];
    int size = b ? snprintf(names, sizeof names, "%s%c%s", a, 0, b)
                 : snprintf(names, sizeof names, "%s", a);
    put(kind, flags, fd, offset, names, size, NULL, 0, 0);
}

static void unmodelled(const char *what) {
    int error = errno;
    pthread_mutex_lock(&lock);
    put_names('X', 0, -1, 0, what, NULL);
    pthread_mutex_unlock(&lock);
    errno = error;
}

static void begin(void) {
    const char *path = getenv("POWER_TRACE"), *where = getenv("POWER_ROOT");
    const char *when = getenv("POWER_DIE_AT");
    if (!path || !where) return;
    snprintf(root, sizeof root, "%s", where);
    root_length = strlen(root);
    die_at = when ? atol(when) : 0;
    ignores_directories = getenv("POWER_NO_DIRECTORY_SYNC") != NULL;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    trace = fd < 0 ? fd : (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 60000);
    if (trace < 0) trace = fd; else syscall(SYS_close, fd);
    if (trace < 0) return;
    pthread_mutex_lock(&lock);
    put_names('B', 0, -1, 0, root, NULL);
    pthread_mutex_unlock(&lock);
}

static int is_ours(const char *path) {
    return trace >= 0 && path && !strncmp(path, root, root_length) &&
           (path[root_length] == '/' || !path[root_length]);
}

/* Names and descriptors */

static int opened(int dir, const char *path, int flags, mode_t mode) {
    if (!is_ours(path)) {
        int fd = syscall(SYS_openat, dir, path, flags, mode);
        if (fd >= 0 && fd < FDS) kinds[fd] = NOTHING;
        if (fd >= 0 && trace >= 0 && path[0] != '/' && (flags & O_ACCMODE) != O_RDONLY) {
            char link[64], where[PATH_MAX];
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            ssize_t size = readlink(link, where, sizeof where - 1);
            if (size > 0) {
                where[size] = 0;
                if (is_ours(where)) unmodelled("a file opened by a relative name");
            }
        }
        return fd;
    }
    pthread_mutex_lock(&lock);
    struct stat found;
    int was = fstatat(dir, path, &found, 0) == 0;
    int fd = syscall(SYS_openat, dir, path, flags, mode);
    int error = errno;
    if (fd >= 0 && fd < FDS) {
        int is_directory = fstat(fd, &found) == 0 && S_ISDIR(found.st_mode);
        kinds[fd] = is_directory ? A_DIRECTORY : A_FILE;
        int made = (was ? 0 : 1) | (is_directory ? 2 : 0) | (flags & O_TRUNC ? 4 : 0) |
                   (flags & O_APPEND ? 8 : 0);
        put_names('O', made, fd, 0, path, NULL);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define OPENING(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return opened(AT_FDCWD, path, flags, mode); \
    }
#define OPENING_AT(name) \
    int name(int dir, const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return opened(dir, path, flags, mode); \
    }
OPENING(open)
OPENING(open64)
OPENING_AT(openat)
OPENING_AT(openat64)
int creat(const char *path, mode_t mode) {
    return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int close(int fd) {
    if (!kind_of(fd)) return syscall(SYS_close, fd);
    pthread_mutex_lock(&lock);
    kinds[fd] = NOTHING;
    put_one('C', 0, fd, 0, NULL, 0);
    int result = syscall(SYS_close, fd), error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

static int copied(int fd, int to) {
    int error = errno;
    if (to >= 0 && to < FDS) {
        kinds[to] = NOTHING;
        if (kind_of(fd) == A_FILE || kind_of(fd) == A_DIRECTORY) {
            pthread_mutex_lock(&lock);
            kinds[to] = kinds[fd];
            put_one('d', 0, fd, to, NULL, 0);
            pthread_mutex_unlock(&lock);
        }
    }
    errno = error;
    return to;
}
int dup(int fd) { return copied(fd, syscall(SYS_dup, fd)); }
int dup2(int fd, int to) { return fd == to ? to : copied(fd, syscall(SYS_dup3, fd, to, 0)); }
int dup3(int fd, int to, int flags) { return copied(fd, syscall(SYS_dup3, fd, to, flags)); }

/* A call on one name or two: made and recorded if it went well. */
#define NAMES(call, ours, kind, flags, a, b) \
    if (!(ours)) return call; \
    pthread_mutex_lock(&lock); \
    int result = call, error = errno; \
    if (result == 0) put_names(kind, flags, -1, 0, a, b); \
    pthread_mutex_unlock(&lock); \
    errno = error; \
    return result

int unlink(const char *path) {
    NAMES(syscall(SYS_unlinkat, AT_FDCWD, path, 0), is_ours(path), 'U', 0, path, NULL);
}
int unlinkat(int dir, const char *path, int flags) {
    NAMES(syscall(SYS_unlinkat, dir, path, flags), is_ours(path), 'U', 0, path, NULL);
}
int rmdir(const char *path) {
    NAMES(syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR), is_ours(path), 'U', 0, path, NULL);
}
int remove(const char *path) { return unlink(path); }
int mkdir(const char *path, mode_t mode) {
    NAMES(syscall(SYS_mkdirat, AT_FDCWD, path, mode), is_ours(path), 'M', 0, path, NULL);
}
int mkdirat(int dir, const char *path, mode_t mode) {
    NAMES(syscall(SYS_mkdirat, dir, path, mode), is_ours(path), 'M', 0, path, NULL);
}
int rename(const char *a, const char *b) {
    NAMES(syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 0), is_ours(a) || is_ours(b), 'R', 0, a,
          b);
}
int renameat(int from, const char *a, int to, const char *b) {
    NAMES(syscall(SYS_renameat2, from, a, to, b, 0), is_ours(a) || is_ours(b), 'R', 0, a, b);
}
int link(const char *a, const char *b) {
    NAMES(syscall(SYS_linkat, AT_FDCWD, a, AT_FDCWD, b, 0), is_ours(a) || is_ours(b), 'L', 0, a, b);
}
int linkat(int from, const char *a, int to, const char *b, int flags) {
    NAMES(syscall(SYS_linkat, from, a, to, b, flags), is_ours(a) || is_ours(b), 'L', 0, a, b);
}
int renameat2(int from, const char *a, int to, const char *b, unsigned flags) {
    if (is_ours(a) && flags & RENAME_EXCHANGE) unmodelled("two names exchanged");
    NAMES(syscall(SYS_renameat2, from, a, to, b, flags), is_ours(a) || is_ours(b), 'R', 0, a, b);
}
int symlink(const char *a, const char *b) {
    if (is_ours(b)) unmodelled("symlink");
    return syscall(SYS_symlinkat, a, AT_FDCWD, b);
}

/* Contents */

static ssize_t written(int fd, const struct iovec *data, int count, off_t at, int is_at) {
    int kind = kind_of(fd);
    pthread_mutex_lock(&lock);
    off_t where = is_at ? at : kind == A_FILE ? syscall(SYS_lseek, fd, 0, SEEK_CUR) : 0;
    if (kind == A_FILE && !is_at && fcntl(fd, F_GETFL) & O_APPEND)
        where = syscall(SYS_lseek, fd, 0, SEEK_END);
    ssize_t size = is_at ? syscall(SYS_pwritev, fd, data, count, (long)at, (long)(at >> 32 >> 32))
                         : syscall(SYS_writev, fd, data, count);
    int error = errno;
    if (size > 0) put(kind == A_PEER ? 'S' : 'W', 0, fd, where, NULL, 0, data, count, size);
    pthread_mutex_unlock(&lock);
    errno = error;
    return size;
}

ssize_t write(int fd, const void *data, size_t size) {
    if (!kind_of(fd)) return syscall(SYS_write, fd, data, size);
    struct iovec one = {(void *)data, size};
    return written(fd, &one, 1, 0, 0);
}
ssize_t writev(int fd, const struct iovec *data, int count) {
    if (!kind_of(fd)) return syscall(SYS_writev, fd, data, count);
    return written(fd, data, count, 0, 0);
}
#define PWRITING(name, offset) \
    ssize_t name(int fd, const void *data, size_t size, offset at) { \
        struct iovec one = {(void *)data, size}; \
        if (!kind_of(fd)) return syscall(SYS_pwrite64, fd, data, size, at); \
        return written(fd, &one, 1, at, 1); \
    }
PWRITING(pwrite, off_t)
PWRITING(pwrite64, off64_t)
#define PWRITEVING(name, offset) \
    ssize_t name(int fd, const struct iovec *data, int count, offset at) { \
        if (!kind_of(fd)) return syscall(SYS_pwritev, fd, data, count, (long)at, 0L); \
        return written(fd, data, count, at, 1); \
    }
PWRITEVING(pwritev, off_t)
PWRITEVING(pwritev64, off64_t)

ssize_t send(int fd, const void *data, size_t size, int flags) {
    if (!kind_of(fd)) return syscall(SYS_sendto, fd, data, size, flags, NULL, 0);
    struct iovec one = {(void *)data, size};
    return written(fd, &one, 1, 0, 0);
}
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to,
               socklen_t length) {
    if (!kind_of(fd)) return syscall(SYS_sendto, fd, data, size, flags, to, length);
    return send(fd, data, size, flags);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    if (!kind_of(fd)) return syscall(SYS_sendmsg, fd, message, flags);
    return written(fd, message->msg_iov, message->msg_iovlen, 0, 0);
}

static int sized(int fd, off_t size) {
    if (!kind_of(fd)) return syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    int result = syscall(SYS_ftruncate, fd, size), error = errno;
    if (result == 0) put_one('T', 0, fd, size, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int ftruncate(int fd, off_t size) { return sized(fd, size); }
int ftruncate64(int fd, off64_t size) { return sized(fd, size); }
int truncate(const char *path, off_t size) {
    if (is_ours(path)) unmodelled("truncate");
    return syscall(SYS_truncate, path, size);
}

static int reserved(int fd, int mode, off_t at, off_t size) {
    if (!kind_of(fd)) return syscall(SYS_fallocate, fd, mode, at, size);
    if (mode & ~FALLOC_FL_KEEP_SIZE) unmodelled("fallocate that changes contents");
    pthread_mutex_lock(&lock);
    int result = syscall(SYS_fallocate, fd, mode, at, size), error = errno;
    if (result == 0 && !mode) put_one('P', 0, fd, at + size, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int fallocate(int fd, int mode, off_t at, off_t size) { return reserved(fd, mode, at, size); }
int fallocate64(int fd, int mode, off64_t at, off64_t size) { return reserved(fd, mode, at, size); }
int posix_fallocate(int fd, off_t at, off_t size) { return reserved(fd, 0, at, size) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t size) {
    return reserved(fd, 0, at, size) ? errno : 0;
}

/* Syncs */

static int synced(int fd, long number) {
    int kind = kind_of(fd);
    if (!kind) return syscall(number, fd);
    if (kind == A_DIRECTORY && ignores_directories) return 0;
    pthread_mutex_lock(&lock);
    put_one('F', 0, fd, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    int result = syscall(number, fd), error = errno;
    pthread_mutex_lock(&lock);
    put_one('f', result == 0, fd, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

/* Peers */

static int accepted(int fd) {
    int error = errno;
    if (trace >= 0 && fd >= 0 && fd < FDS) {
        pthread_mutex_lock(&lock);
        kinds[fd] = A_PEER;
        put_one('A', 0, fd, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return fd;
}
int accept(int fd, struct sockaddr *from, socklen_t *length) {
    return accepted(syscall(SYS_accept, fd, from, length));
}
int accept4(int fd, struct sockaddr *from, socklen_t *length, int flags) {
    return accepted(syscall(SYS_accept4, fd, from, length, flags));
}

/* What would pass unseen */

#define MAPPING(name, offset) \
    void *name(void *at, size_t size, int prot, int flags, int fd, offset where) { \
        if (kind_of(fd) && flags & MAP_SHARED && prot & PROT_WRITE) unmodelled("a shared mapping"); \
        return (void *)syscall(SYS_mmap, at, size, prot, flags, fd, where); \
    }
MAPPING(mmap, off_t)
MAPPING(mmap64, off64_t)
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    if (kind_of(out) == A_FILE) unmodelled("copy_file_range");
    return syscall(SYS_copy_file_range, in, from, out, to, size, flags);
}
ssize_t sendfile(int out, int in, off_t *from, size_t size) {
    if (kind_of(out)) unmodelled("sendfile");
    return syscall(SYS_sendfile, out, in, from, size);
}
ssize_t sendfile64(int out, int in, off64_t *from, size_t size) {
    if (kind_of(out)) unmodelled("sendfile");
    return syscall(SYS_sendfile, out, in, from, size);
}
