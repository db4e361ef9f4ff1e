// Records what a process does to the files below one folder, in the order in which it happens, and fails some of it on demand.
//
// Laid over libc by LD_PRELOAD. Each call that changes a file or a name is made and written down under one lock, so the order of the
// record is the order of the disk's cache. Whoever ends the process takes that lock and keeps it, so that nothing ends between being
// made and being written down. A sync is written down when it is asked for and when it has returned; nothing is really synced, as the
// disk is simulated by whoever reads the record (disk.rs).
//
//   RECORD_FOLDER    absolute, without a slash at its end; what lies outside isn't recorded
//   RECORD_TO        the record is appended here: its layout is `struct entry`, then `length` bytes
//   RECORD_SYNC_US   how long a sync takes, so that others come between
//   RECORD_FAULT     "CLASS NUMBER COUNT ERRNO": from the NUMBER-th call of the class on (from 1), COUNT calls fail with ERRNO.
//                    Classes: s(ync), w(rite), t(runcate), n(ames: create, rename, unlink, mkdir). A write that fails for want of
//                    room writes a half first.
//   RECORD_SPARED    the file whose calls never fail
//
// What is not seen: files that are changed through a map (SQLite's -shm alone, which is made anew after a power cut), and system
// calls made without libc. The reader compares the record with the folder at the end, so nothing can be missed in silence.

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

// From <fcntl.h>, which would declare what is defined here in its own way.
#define AT_FDCWD -100
#define AT_REMOVEDIR 0x200
extern int fcntl(int, int, ...);
#ifndef O_CREAT
#include <asm/fcntl.h>
#endif
#define O_TMPFILE_BIT 020000000

enum kind { CREATE = 1, MKDIR, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, SYNC_FAILED, RENAME, UNLINK, FAULT };

struct entry {
    uint32_t kind;
    uint32_t length;
    uint64_t inode;
    uint64_t at; // Offset, length or number of the sync.
};

// Recursive for the thread that ends the process, which may still write.
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static const char *folder;
static size_t folder_length;
static int record = -1;
static const char *spared_path;
static uint64_t spared;
static long sync_us;
static uint64_t syncs;
// Inodes seen below the folder, by open addressing. One that was freed and given to a file elsewhere is recorded and has no name.
static uint64_t watched[1 << 16];
static char fault_class;
static long fault_in, fault_count;
static int fault_errno;

__attribute__((constructor)) static void start(void) {
    const char *to = getenv("RECORD_TO"), *delay = getenv("RECORD_SYNC_US"), *fault = getenv("RECORD_FAULT");
    folder = getenv("RECORD_FOLDER");
    if (!folder || !to) return;
    folder_length = strlen(folder);
    int low = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    record = fcntl(low, F_DUPFD, 500);
    fcntl(record, F_SETFD, FD_CLOEXEC);
    close(low);
    spared_path = getenv("RECORD_SPARED");
    sync_us = delay ? atol(delay) : 0;
    if (fault && sscanf(fault, "%c %ld %ld %d", &fault_class, &fault_in, &fault_count, &fault_errno) != 4) abort();
}

// The other threads are in the middle of something. From here on they wait before it or have recorded it, until the process is gone.
__attribute__((destructor)) static void finish(void) { pthread_mutex_lock(&lock); }

static int inside(const char *path) {
    return record >= 0 && strncmp(path, folder, folder_length) == 0 && (path[folder_length] == '/' || !path[folder_length]);
}

static int is_watched(uint64_t inode) {
    for (uint64_t at = inode * 0x9E3779B97F4A7C15u >> 48; watched[at]; at = (at + 1) & 0xffff)
        if (watched[at] == inode) return 1;
    return 0;
}

static void watch(uint64_t inode) {
    uint64_t at = inode * 0x9E3779B97F4A7C15u >> 48;
    while (watched[at] && watched[at] != inode) at = (at + 1) & 0xffff;
    watched[at] = inode;
}

// The inode of a file below the folder, else 0.
static uint64_t inode_of(int fd) {
    struct stat status;
    if (record < 0 || fd == record || fstat(fd, &status) != 0) return 0;
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) return 0;
    pthread_mutex_lock(&lock);
    int is = is_watched(status.st_ino);
    pthread_mutex_unlock(&lock);
    return is ? status.st_ino : 0;
}

static void put(enum kind kind, uint64_t inode, uint64_t at, const struct iovec *parts, int count, size_t length) {
    struct entry entry = {kind, (uint32_t)length, inode, at};
    struct iovec all[65] = {{&entry, sizeof entry}};
    size_t left = length;
    int used = 1;
    for (int i = 0; i < count && left; i++, used++) {
        if (used == 65) abort();
        all[used] = parts[i];
        if (all[used].iov_len > left) all[used].iov_len = left;
        left -= all[used].iov_len;
    }
    if (syscall(SYS_writev, record, all, used) != (long)(sizeof entry + length)) abort();
}

static void put_text(enum kind kind, uint64_t inode, const char *text, size_t length) {
    struct iovec part = {(void *)text, length};
    put(kind, inode, 0, &part, 1, length);
}

// Whether this call is to fail, which is recorded, too. Asked under the lock, once for each call.
static int fails(char class) {
    if (class != fault_class) return 0;
    if (fault_in > 1) return fault_in--, 0;
    if (fault_count <= 0) return 0;
    fault_count--;
    put(FAULT, 0, 0, 0, 0, 0);
    return 1;
}

static long fail(int number) {
    errno = number;
    return -1;
}

// Files: names

static int open_file(const char *path, int flags, int mode) {
    if (!inside(path) || (flags & O_TMPFILE_BIT)) return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    pthread_mutex_lock(&lock);
    int missing = syscall(SYS_faccessat, AT_FDCWD, path, 0) != 0;
    int fd = missing && (flags & O_CREAT) && fails('n') ? fail(fault_errno) : syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    int error = errno;
    struct stat status;
    if (fd >= 0 && fstat(fd, &status) == 0) {
        watch(status.st_ino);
        if (spared_path && strcmp(path, spared_path) == 0) spared = status.st_ino;
        if (missing) put_text(CREATE, status.st_ino, path, strlen(path));
        else if ((flags & O_TRUNC) && status.st_size == 0) put(TRUNCATE, status.st_ino, 0, 0, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define OPEN(name)                                        \
    int name(const char *path, int flags, ...) {          \
        va_list rest;                                     \
        va_start(rest, flags);                            \
        int mode = flags & O_CREAT ? va_arg(rest, int) : 0; \
        va_end(rest);                                     \
        return open_file(path, flags, mode);              \
    }
OPEN(open)
OPEN(open64)

int mkdir(const char *path, mode_t mode) {
    if (!inside(path)) return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    pthread_mutex_lock(&lock);
    int made = fails('n') ? fail(fault_errno) : syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    int error = errno;
    struct stat status;
    if (made == 0 && stat(path, &status) == 0) {
        watch(status.st_ino);
        put_text(MKDIR, status.st_ino, path, strlen(path));
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return made;
}

int unlink(const char *path) {
    if (!inside(path)) return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&lock);
    int gone = fails('n') ? fail(fault_errno) : syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    int error = errno;
    if (gone == 0) put_text(UNLINK, 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    errno = error;
    return gone;
}

int rename(const char *from, const char *to) {
    if (!inside(from)) return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!inside(to)) abort();
    pthread_mutex_lock(&lock);
    int renamed = fails('n') ? fail(fault_errno) : syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    int error = errno;
    if (renamed == 0) {
        struct iovec parts[2] = {{(void *)from, strlen(from) + 1}, {(void *)to, strlen(to)}};
        put(RENAME, 0, 0, parts, 2, parts[0].iov_len + parts[1].iov_len);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return renamed;
}

// Files: contents

static ssize_t write_parts(int fd, const struct iovec *parts, int count, int64_t offset) {
    uint64_t inode = inode_of(fd);
    if (!inode)
        return offset < 0 ? syscall(SYS_writev, fd, parts, count) : syscall(SYS_pwrite64, fd, parts->iov_base, parts->iov_len, offset);
    pthread_mutex_lock(&lock);
    struct iovec half;
    if (inode != spared && fails('w')) {
        size_t length = parts->iov_len / 2;
        if (fault_errno != ENOSPC || length == 0) {
            pthread_mutex_unlock(&lock);
            return fail(fault_errno);
        }
        half = (struct iovec){parts->iov_base, length};
        parts = &half;
        count = 1;
        fault_count++; // What is tried for the rest finds no room either.
    }
    ssize_t written = offset < 0 ? syscall(SYS_writev, fd, parts, count)
                                 : syscall(SYS_pwrite64, fd, parts->iov_base, parts->iov_len, offset);
    int error = errno;
    if (written > 0) {
        uint64_t at = offset < 0 ? (uint64_t)(lseek(fd, 0, SEEK_CUR) - written) : (uint64_t)offset;
        put(WRITE, inode, at, parts, count, written);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    struct iovec part = {(void *)bytes, length};
    return write_parts(fd, &part, 1, -1);
}

ssize_t writev(int fd, const struct iovec *parts, int count) { return write_parts(fd, parts, count, -1); }

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    struct iovec part = {(void *)bytes, length};
    return write_parts(fd, &part, 1, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    struct iovec part = {(void *)bytes, length};
    return write_parts(fd, &part, 1, offset);
}

int ftruncate(int fd, off_t length) {
    uint64_t inode = inode_of(fd);
    if (!inode) return syscall(SYS_ftruncate, fd, length);
    pthread_mutex_lock(&lock);
    int cut = fails('t') ? fail(fault_errno) : syscall(SYS_ftruncate, fd, length);
    int error = errno;
    if (cut == 0) put(TRUNCATE, inode, length, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return cut;
}

int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

static int sync_file(int fd, long call) {
    uint64_t inode = inode_of(fd);
    if (!inode) return syscall(call, fd);
    pthread_mutex_lock(&lock);
    uint64_t number = ++syncs;
    put(SYNC_BEGIN, inode, number, 0, 0, 0);
    int failed = fails('s');
    pthread_mutex_unlock(&lock);
    struct timespec delay = {0, sync_us * 1000};
    if (sync_us) nanosleep(&delay, 0);
    pthread_mutex_lock(&lock);
    put(failed ? SYNC_FAILED : SYNC_END, inode, number, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    return failed ? fail(fault_errno) : 0;
}

int fsync(int fd) { return sync_file(fd, SYS_fsync); }

int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }
