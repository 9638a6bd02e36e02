/* A disk that fails when it is told to: to be loaded before the C library (LD_PRELOAD).
 *
 * It counts what a process does to files below one directory (writes, truncations, syncs, and changes of names), and
 * at a chosen number kills the process or lets the call fail. It also writes down all that it counted, so that a
 * power cut can be made up afterwards (power_cut.py). What is outside of the directory is none of its business. While
 * it is armed, syncs are only counted: what a power cut leaves is decided by who reads the log, not by the real disk.
 *
 * faulty_disk_arm, _disarm, _count and _note are called by shim.py, in the same process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The kinds, as bits: shim.py has the same. */
enum {
    WRITE = 1, TRUNCATE = 2, ALLOCATE = 4, SYNC = 8, SYNC_DIRECTORY = 16,
    CREATE = 32, RENAME = 64, UNLINK = 128, LINK = 256, MAKE_DIRECTORY = 512, REMOVE_DIRECTORY = 1024, NOTE = 2048,
    FAILED_SYNC = 4096
};
/* What happens at the chosen number. A torn write is half a write, then the kill; a short one returns that it was half. */
enum { NOTHING, KILL, KILL_TORN, FAIL_ONCE, FAIL_ON, SHORT_THEN_FAIL_ON };

struct record {
    uint32_t kind, path_size, second_path_size, reserved;
    uint64_t inode, offset, size, data_size;
};

static char root[PATH_MAX];
static size_t root_size;
static int action, error_number, log_descriptor = -1;
static long chosen, counted;
static unsigned failing_kinds;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

void faulty_disk_arm(const char *directory, int what, long number, int error, unsigned kinds, int log) {
    snprintf(root, sizeof root, "%s", directory);
    root_size = strlen(root);
    action = what, chosen = number, error_number = error, failing_kinds = kinds, log_descriptor = log, counted = 0;
}

void faulty_disk_disarm(void) { root_size = 0; }

/* Let nothing fail any more, but go on counting and writing down. */
void faulty_disk_mend(void) { action = NOTHING; }

long faulty_disk_count(void) { return counted; }

static void *find(const char *name) { return dlsym(RTLD_NEXT, name); }

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))find(#name)

/* --- where --- */

static int is_below(const char *path) {
    return root_size && !strncmp(path, root, root_size) && (path[root_size] == '/' || !path[root_size]);
}

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return 1;
}

static int descriptor_is_below(int descriptor, char *path) {
    return root_size && path_of(descriptor, path) && is_below(path);
}

static int name_is_below(int directory, const char *name, char *path) {
    if (!root_size || !name) return 0;
    char base[PATH_MAX];
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        if (directory == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else if (!path_of(directory, base)) {
            return 0;
        }
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    }
    return is_below(path);
}

/* --- what is written down --- */

static void put(const void *data, size_t size) {
    const char *rest = data;
    while (size) {
        ssize_t done = syscall(SYS_write, log_descriptor, rest, size);
        if (done <= 0) abort();
        rest += done, size -= done;
    }
}

static void note(unsigned kind, const char *path, const char *second, uint64_t inode, uint64_t offset, uint64_t size,
                 const void *data, size_t data_size) {
    if (log_descriptor < 0) return;
    struct record record = {kind, strlen(path), second ? strlen(second) : 0, 0, inode, offset, size, data_size};
    put(&record, sizeof record);
    put(path, record.path_size);
    if (second) put(second, record.second_path_size);
    put(data, data_size);
}

void faulty_disk_note(const char *text) {
    if (!root_size) return;
    pthread_mutex_lock(&turn);
    note(NOTE, text, NULL, 0, 0, 0, NULL, 0);
    pthread_mutex_unlock(&turn);
}

static uint64_t inode_of(int descriptor, int *is_directory) {
    struct stat found;
    if (fstat(descriptor, &found)) return 0;
    if (is_directory) *is_directory = S_ISDIR(found.st_mode);
    return found.st_ino;
}

/* --- what happens --- */

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Count one operation; return what is to happen to it: 0 (do it), an errno, or -1: do half of it. */
static int judge(unsigned kind) {
    long number = ++counted;
    if (action == KILL && number == chosen) die();
    if (action == KILL_TORN && number == chosen) {
        if (kind == WRITE) return -1;
        die();
    }
    if (!(kind & failing_kinds)) return 0;
    if (action == FAIL_ONCE && number == chosen) return error_number;
    if (action == FAIL_ON && number >= chosen) return error_number;
    if (action == SHORT_THEN_FAIL_ON && number >= chosen) {
        if (kind == WRITE && number == chosen) return -1;
        return error_number;
    }
    return 0;
}

static ssize_t write_somewhere(int descriptor, const char *data, size_t size, off_t offset, const char *path) {
    pthread_mutex_lock(&turn);
    int verdict = judge(WRITE);
    ssize_t done = -1;
    if (verdict > 0) {
        errno = verdict;
    } else {
        size_t wanted = verdict ? size / 2 : size;
        off_t place = offset;
        if (place < 0) {
            int flags = fcntl(descriptor, F_GETFL);
            place = flags & O_APPEND ? lseek(descriptor, 0, SEEK_END) : lseek(descriptor, 0, SEEK_CUR);
        }
        done = offset < 0 ? syscall(SYS_write, descriptor, data, wanted)
                          : syscall(SYS_pwrite64, descriptor, data, wanted, offset);
        if (done >= 0) note(WRITE, path, NULL, inode_of(descriptor, NULL), place, done, data, done);
        if (verdict && action == KILL_TORN) die();
    }
    pthread_mutex_unlock(&turn);
    return done;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    char path[PATH_MAX];
    if (!descriptor_is_below(descriptor, path)) return syscall(SYS_write, descriptor, data, size);
    return write_somewhere(descriptor, data, size, -1, path);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off_t offset) {
    char path[PATH_MAX];
    if (!descriptor_is_below(descriptor, path)) return syscall(SYS_pwrite64, descriptor, data, size, offset);
    return write_somewhere(descriptor, data, size, offset, path);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return pwrite64(descriptor, data, size, offset);
}

static ssize_t write_vector(int descriptor, const struct iovec *parts, int count, off_t offset, const char *path) {
    size_t size = 0, filled = 0;
    for (int i = 0; i < count; i++) size += parts[i].iov_len;
    char *whole = malloc(size ? size : 1);
    for (int i = 0; i < count; i++) {
        memcpy(whole + filled, parts[i].iov_base, parts[i].iov_len);
        filled += parts[i].iov_len;
    }
    ssize_t done = write_somewhere(descriptor, whole, size, offset, path);
    int saved = errno;
    free(whole);
    errno = saved;
    return done;
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (!descriptor_is_below(descriptor, path)) return syscall(SYS_writev, descriptor, parts, count);
    return write_vector(descriptor, parts, count, -1, path);
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset) {
    char path[PATH_MAX];
    if (!descriptor_is_below(descriptor, path)) {
        REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t);
        return real(descriptor, parts, count, offset);
    }
    return write_vector(descriptor, parts, count, offset, path);
}

ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off_t offset) {
    return pwritev(descriptor, parts, count, offset);
}

/* Shared extents and copies in the kernel are not for faults: who asks for them falls back on reading and writing. */
ssize_t copy_file_range(int from, off_t *from_offset, int to, off_t *to_offset, size_t size, unsigned flags) {
    char path[PATH_MAX];
    if (!descriptor_is_below(to, path))
        return syscall(SYS_copy_file_range, from, from_offset, to, to_offset, size, flags);
    errno = ENOSYS;
    return -1;
}

ssize_t sendfile64(int to, int from, off_t *offset, size_t size) {
    char path[PATH_MAX];
    if (!descriptor_is_below(to, path)) return syscall(SYS_sendfile, to, from, offset, size);
    errno = EINVAL;
    return -1;
}

ssize_t sendfile(int to, int from, off_t *offset, size_t size) { return sendfile64(to, from, offset, size); }

/* --- sizes and syncs --- */

int ftruncate64(int descriptor, off_t size) {
    char path[PATH_MAX];
    if (!descriptor_is_below(descriptor, path)) return syscall(SYS_ftruncate, descriptor, size);
    pthread_mutex_lock(&turn);
    int verdict = judge(TRUNCATE), result = -1;
    if (verdict > 0) {
        errno = verdict;
    } else {
        result = syscall(SYS_ftruncate, descriptor, size);
        if (!result) note(TRUNCATE, path, NULL, inode_of(descriptor, NULL), 0, size, NULL, 0);
    }
    pthread_mutex_unlock(&turn);
    return result;
}

int ftruncate(int descriptor, off_t size) { return ftruncate64(descriptor, size); }

static int allocate(int descriptor, int mode, off_t offset, off_t size, const char *path) {
    pthread_mutex_lock(&turn);
    int verdict = judge(ALLOCATE), result = verdict;
    if (verdict <= 0) {
        result = syscall(SYS_fallocate, descriptor, mode, offset, size) ? errno : 0;
        struct stat found;
        if (!result && !fstat(descriptor, &found))
            note(ALLOCATE, path, NULL, found.st_ino, mode, found.st_size, NULL, 0);
    }
    pthread_mutex_unlock(&turn);
    return result;
}

int posix_fallocate64(int descriptor, off_t offset, off_t size) {
    char path[PATH_MAX];
    if (!descriptor_is_below(descriptor, path)) {
        REAL(int, posix_fallocate64, int, off_t, off_t);
        return real(descriptor, offset, size);
    }
    return allocate(descriptor, 0, offset, size, path);
}

int posix_fallocate(int descriptor, off_t offset, off_t size) { return posix_fallocate64(descriptor, offset, size); }

int fallocate64(int descriptor, int mode, off_t offset, off_t size) {
    char path[PATH_MAX];
    if (!descriptor_is_below(descriptor, path)) return syscall(SYS_fallocate, descriptor, mode, offset, size);
    int result = allocate(descriptor, mode, offset, size, path);
    if (!result) return 0;
    errno = result;
    return -1;
}

int fallocate(int descriptor, int mode, off_t offset, off_t size) {
    return fallocate64(descriptor, mode, offset, size);
}

static int sync_somewhere(int descriptor, long system_call) {
    char path[PATH_MAX];
    if (!descriptor_is_below(descriptor, path)) return syscall(system_call, descriptor);
    int is_directory = 0, result = 0;
    uint64_t inode = inode_of(descriptor, &is_directory);
    unsigned kind = is_directory ? SYNC_DIRECTORY : SYNC;
    pthread_mutex_lock(&turn);
    int verdict = judge(kind);
    if (verdict > 0) {
        if (!is_directory) note(FAILED_SYNC, path, NULL, inode, 0, 0, NULL, 0);
        errno = verdict;
        result = -1;
    } else {
        note(kind, path, NULL, inode, 0, 0, NULL, 0);
    }
    pthread_mutex_unlock(&turn);
    return result;
}

int fsync(int descriptor) { return sync_somewhere(descriptor, SYS_fsync); }
int fdatasync(int descriptor) { return sync_somewhere(descriptor, SYS_fdatasync); }

int sync_file_range(int descriptor, off_t offset, off_t size, unsigned flags) {
    char path[PATH_MAX];
    if (!descriptor_is_below(descriptor, path)) return syscall(SYS_sync_file_range, descriptor, offset, size, flags);
    return 0; /* it promises nothing */
}

/* --- names --- */

static int open_somewhere(int directory, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    struct stat found;
    int is_changing = flags & (O_CREAT | O_TRUNC);
    if (!is_changing || (flags & O_TMPFILE) == O_TMPFILE || !name_is_below(directory, name, path))
        return syscall(SYS_openat, directory, name, flags, mode);
    pthread_mutex_lock(&turn);
    int is_there = !fstatat(directory, name, &found, 0);
    int is_creating = !is_there && (flags & O_CREAT), is_cutting = is_there && (flags & O_TRUNC) && found.st_size;
    int verdict = is_creating ? judge(CREATE) : is_cutting ? judge(TRUNCATE) : 0, result = -1;
    if (verdict > 0) {
        errno = verdict;
    } else {
        result = syscall(SYS_openat, directory, name, flags, mode);
        if (result >= 0 && is_creating) note(CREATE, path, NULL, inode_of(result, NULL), 0, 0, NULL, 0);
        if (result >= 0 && is_cutting) note(TRUNCATE, path, NULL, inode_of(result, NULL), 0, 0, NULL, 0);
    }
    pthread_mutex_unlock(&turn);
    return result;
}

#define OPEN_MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *name, int flags, ...) {
    OPEN_MODE(flags)
    return open_somewhere(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...) {
    OPEN_MODE(flags)
    return open_somewhere(AT_FDCWD, name, flags, mode);
}

int openat(int directory, const char *name, int flags, ...) {
    OPEN_MODE(flags)
    return open_somewhere(directory, name, flags, mode);
}

int openat64(int directory, const char *name, int flags, ...) {
    OPEN_MODE(flags)
    return open_somewhere(directory, name, flags, mode);
}

/* Do something to names, of which one at least is below the directory. */
#define CHANGE_NAMES(kind, first, second, inode, call) \
    do { \
        pthread_mutex_lock(&turn); \
        int verdict = judge(kind), result = -1; \
        if (verdict > 0) { \
            errno = verdict; \
        } else { \
            result = (call); \
            if (!result) note(kind, first, second, inode, 0, 0, NULL, 0); \
        } \
        pthread_mutex_unlock(&turn); \
        return result; \
    } while (0)

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    char first[PATH_MAX], second[PATH_MAX];
    if (!name_is_below(from, old, first) || !name_is_below(to, new, second))
        return syscall(SYS_renameat2, from, old, to, new, flags);
    CHANGE_NAMES(RENAME, first, second, 0, syscall(SYS_renameat2, from, old, to, new, flags));
}

int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    char first[PATH_MAX], second[PATH_MAX];
    if (!name_is_below(from, old, first) || !name_is_below(to, new, second))
        return syscall(SYS_linkat, from, old, to, new, flags);
    CHANGE_NAMES(LINK, first, second, 0, syscall(SYS_linkat, from, old, to, new, flags));
}

int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int unlinkat(int directory, const char *name, int flags) {
    char path[PATH_MAX];
    struct stat found;
    if (!name_is_below(directory, name, path) || fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW))
        return syscall(SYS_unlinkat, directory, name, flags);
    if (flags & AT_REMOVEDIR)
        CHANGE_NAMES(REMOVE_DIRECTORY, path, NULL, 0, syscall(SYS_unlinkat, directory, name, flags));
    CHANGE_NAMES(UNLINK, path, NULL, 0, syscall(SYS_unlinkat, directory, name, flags));
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int directory, const char *name, mode_t mode) {
    char path[PATH_MAX];
    struct stat found;
    if (!name_is_below(directory, name, path) || !fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW))
        return syscall(SYS_mkdirat, directory, name, mode);
    CHANGE_NAMES(MAKE_DIRECTORY, path, NULL, 0, syscall(SYS_mkdirat, directory, name, mode));
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
