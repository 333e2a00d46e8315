/* File system calls as data, and the threads that make them.

   A job is one call, or one that goes on until all bytes are moved. `job_do` makes it, wherever it is called. The pool is
   this process's threads for jobs that may block; they know no Python object and never take the GIL, so whatever they
   are stuck in holds up neither the interpreter nor the end of the process.

   A job's memory is its owner's, who may not free it before it came back through its mailbox: after `box_close`, never. The mailbox is counted: a thread that comes back after the loop is gone finds it still there.

   After a fork the child has none of the threads: `pool_forked` starts it afresh. */
#ifndef NORIA_JOBS_H
#define NORIA_JOBS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif

enum job_kind {
    JOB_OPEN, JOB_CLOSE, JOB_READ, JOB_WRITE, JOB_FSYNC, JOB_FDATASYNC, JOB_FTRUNCATE, JOB_STAT, JOB_MKDIR, JOB_RMDIR,
    JOB_UNLINK, JOB_RENAME, JOB_LINK, JOB_SYMLINK, JOB_SAVE, JOB_LOAD, JOB_KINDS
};

typedef struct statx job_statx;

#define JOB_SMALL (1024 * 1024)  /* bytes */

struct mailbox;

typedef struct job {
    struct job *next;
    struct mailbox *box;
    int kind;
    int fd;                /* the descriptor, or a directory's for `path` (AT_FDCWD) */
    int flags;             /* of open, stat, rename, link; SAVE_ of JOB_SAVE */
    int mode;              /* of open, mkdir */
    int stream;            /* a pipe, terminal or the like: reads take what comes, and may wait for ever */
    const char *path;
    const char *path2;
    char *data;
    size_t size;
    size_t moved;          /* bytes read or written so far */
    int64_t offset;        /* of the first byte of data, -1: where the file's own position is; the length to truncate to */
    int64_t result;        /* >= 0, or -errno */
    int stop;              /* atomic: nobody wants it any more */
    int kick;              /* of a stream's job that a thread has: an eventfd that ends its waiting; else -1 */
    job_statx *st;         /* JOB_STAT, JOB_OPEN: what was found */
    int ground;            /* what the file lies on: GROUND_ */
    int bounce;            /* JOB_OPEN: 1: come back with -EAGAIN instead of waiting for ever, as for a FIFO's other end;
                              2: that happened */
    void *owner;           /* whose it is; nothing here looks at it */
} job;

enum { SAVE_FSYNC = 1, SAVE_ATOMIC = 2, SAVE_APPEND = 4 };

/* File systems by what may wait. LOCAL: closing what was only read does not, since there is no one to tell. MEMORY: nothing
   but what is swapped out, as with the process's own memory. */
enum { GROUND_UNKNOWN, GROUND_OTHER, GROUND_LOCAL, GROUND_MEMORY };

/* Where jobs come back, one for each loop. */
typedef struct mailbox {
    job *done;             /* atomic: a stack, newest first */
    int fd;                /* an eventfd: written to when something was put into the empty stack */
    int holders;           /* atomic: the loop, and each job under way */
    int shut;
    pthread_mutex_t lock;  /* of fd and shut: nobody writes to a number that is closed */
} mailbox;

/* The calls. */

static inline int job_stat(int fd, const char *path, int flags, job_statx *st) {
    return (int)syscall(SYS_statx, fd, path, flags, STATX_BASIC_STATS, st);
}

/* What is known of an open file without asking a server for it. */
static inline int job_stat_open(int fd, job_statx *st) {
    return job_stat(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, st);
}

/* What a file lies on, by fstatfs(2), which asks the server of a network's or user space's file system: not for the
   loop's thread. */
static int job_ground_of(int fd) {
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0) return GROUND_UNKNOWN;
    switch ((unsigned)fs.f_type) {
    case 0x01021994:  /* tmpfs */
    case 0x858458f6:  /* ramfs */
        return GROUND_MEMORY;
    case 0xef53:      /* ext2, ext3, ext4 */
    case 0x58465342:  /* xfs */
    case 0x9123683e:  /* btrfs */
    case 0xf2f52010:  /* f2fs */
        return GROUND_LOCAL;
    }
    return GROUND_OTHER;
}

/* The grounds of the devices that were met, for the threads that run loops. The GIL guards it. A device's number may be
   given to another file system later: then something waits that was thought not to, which is all that it does. */
static struct { uint64_t device; int ground; } job_devices[32];
static unsigned job_devices_met;

static uint64_t job_device(const job_statx *st) { return (uint64_t)st->stx_dev_major << 32 | st->stx_dev_minor; }

static int job_ground_known(const job_statx *st) {
    uint64_t device = job_device(st);
    unsigned i, n = sizeof job_devices / sizeof *job_devices;
    if (job_devices_met < n) n = job_devices_met;
    for (i = 0; i < n; i++)
        if (job_devices[i].device == device) return job_devices[i].ground;
    return GROUND_UNKNOWN;
}

static void job_ground_learned(const job *j) {
    unsigned i;
    if (j->ground == GROUND_UNKNOWN || job_ground_known(j->st) == j->ground) return;
    i = job_devices_met++ % (sizeof job_devices / sizeof *job_devices);
    job_devices[i].device = job_device(j->st);
    job_devices[i].ground = j->ground;
}

/* Where the next byte goes. */
static inline int64_t job_offset(const job *j) { return j->offset < 0 ? -1 : j->offset + (int64_t)j->moved; }

static ssize_t job_transfer(job *j, size_t n, int flags) {
    struct iovec part;
    int64_t offset = job_offset(j);
    part.iov_base = j->data + j->moved;
    part.iov_len = n;
    if (flags && j->ground != GROUND_MEMORY)
        return j->kind != JOB_READ ? pwritev2(j->fd, &part, 1, offset, flags) : preadv2(j->fd, &part, 1, offset, flags);
    if (offset < 0)
        return j->kind != JOB_READ ? write(j->fd, part.iov_base, n) : read(j->fd, part.iov_base, n);
    return j->kind != JOB_READ ? pwrite(j->fd, part.iov_base, n, offset) : pread(j->fd, part.iov_base, n, offset);
}

/* A stream's next bytes, or room for them, waited for where the wait can be ended: by poll(2). The call after it does not
   wait even if another process was faster, on kernels that can say so for pipes (6.3); else a pipe that is ready takes
   PIPE_BUF bytes without waiting. */
static ssize_t job_stream(job *j, size_t n) {
    struct pollfd two[2] = {{j->fd, j->kind != JOB_READ ? POLLOUT : POLLIN, 0}, {j->kick, POLLIN, 0}};
    for (;;) {
        ssize_t moved;
        if (poll(two, j->kick >= 0 ? 2 : 1, -1) < 0) return -1;
        if (__atomic_load_n(&j->stop, __ATOMIC_RELAXED)) {
            errno = ECANCELED;
            return -1;
        }
        if (two[0].revents == 0) continue;
        moved = job_transfer(j, n, RWF_NOWAIT);
        if (moved < 0 && (errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS || errno == EPERM))
            moved = job_transfer(j, j->kind != JOB_READ && n > PIPE_BUF ? PIPE_BUF : n, 0);
        if (moved >= 0 || errno != EAGAIN) return moved;
    }
}

/* Reads from files go on until all is there or the file ends, reads from streams take what comes; writes go on to the
   end. Pieces of 16 MiB, so that a job nobody wants any more ends. */
static int64_t job_move(job *j) {
    while (j->moved < j->size) {
        size_t n = j->size - j->moved;
        ssize_t moved;
        if (n > (16u << 20)) n = 16u << 20;
        if (__atomic_load_n(&j->stop, __ATOMIC_RELAXED)) return -ECANCELED;
        moved = j->stream ? job_stream(j, n) : job_transfer(j, n, 0);
        if (moved < 0) {
            if (errno == EINTR) continue;
            if (j->moved > 0 && j->kind == JOB_READ) break;
            return -errno;
        }
        if (moved == 0) break;
        j->moved += (size_t)moved;
        if (j->stream && j->kind == JOB_READ) break;
    }
    return (int64_t)j->moved;
}

/* End the wait of a job that a thread has. */
static void job_kick(job *j) {
    static const uint64_t one = 1;
    __atomic_store_n(&j->stop, 1, __ATOMIC_RELAXED);
    if (j->kick >= 0 && write(j->kick, &one, sizeof one) < 0) { /* full: kicked already */ }
}

static int64_t write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0) {
            if (errno == EINTR) continue;
            return -errno;
        }
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

/* Make what `name` stands for in its directory durable too (fsync(2): the entry needs its own). */
static int64_t sync_directory(const char *path) {
    const char *slash = strrchr(path, '/');
    int64_t result = 0;
    int fd;
    if (slash == NULL) {
        fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    } else {
        char *parent = strndup(path, slash == path ? 1 : (size_t)(slash - path));
        if (parent == NULL) return -ENOMEM;
        fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        free(parent);
    }
    if (fd < 0) return -errno;
    if (fsync(fd) < 0 && errno != EINVAL) result = -errno;  /* EINVAL: a file system that cannot */
    close(fd);
    return result;
}

/* A whole file written. SAVE_ATOMIC: under another name in the same directory (path2, not there yet), which then takes
   the place of `path`, with the permissions of the file that it replaces. */
static int64_t job_save(job *j) {
    int atomic = j->flags & SAVE_ATOMIC;
    const char *path = atomic ? j->path2 : j->path;
    int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (atomic ? O_EXCL : j->flags & SAVE_APPEND ? O_APPEND : O_TRUNC);
    int64_t result;
    struct stat old;
    int fd;
    if (__atomic_load_n(&j->stop, __ATOMIC_RELAXED)) return -ECANCELED;
    do fd = open(path, flags, j->mode); while (fd < 0 && errno == EINTR);
    if (fd < 0) return -errno;
    result = write_all(fd, j->data, j->size);
    if (result == 0 && atomic && stat(j->path, &old) == 0 && fchmod(fd, old.st_mode & 07777) < 0) result = -errno;
    if (result == 0 && j->flags & SAVE_FSYNC && fsync(fd) < 0) result = -errno;
    if (close(fd) < 0 && result == 0 && errno != EINTR) result = -errno;
    if (atomic) {
        if (result == 0 && rename(path, j->path) < 0) result = -errno;
        if (result < 0) unlink(path);
    }
    if (result == 0 && j->flags & SAVE_FSYNC) result = sync_directory(j->path);
    return result < 0 ? result : (int64_t)j->size;
}

static void job_do(job *j) {
    int64_t r = 0;
    switch (j->kind) {
    case JOB_OPEN:
        do r = openat(j->fd, j->path, j->flags, j->mode);
        while (r < 0 && errno == EINTR && !__atomic_load_n(&j->stop, __ATOMIC_RELAXED));
        if (r >= 0 && j->st != NULL) {
            job_stat_open((int)r, j->st);
            if (S_ISREG(j->st->stx_mode)) j->ground = job_ground_of((int)r);
        }
        break;
    case JOB_CLOSE: {
        int64_t written = j->moved < j->size ? job_move(j) : 0;
        r = close(j->fd);
        if (r < 0 && errno == EINTR) r = 0;  /* it is closed all the same: close(2) */
        if (written < 0) {
            j->result = written;
            return;
        }
        break;
    }
    case JOB_READ:
    case JOB_WRITE:
        j->result = job_move(j);
        return;
    case JOB_FSYNC: r = fsync(j->fd); break;
    case JOB_FDATASYNC: r = fdatasync(j->fd); break;
    case JOB_FTRUNCATE: r = ftruncate(j->fd, j->offset); break;
    case JOB_STAT: r = job_stat(j->fd, j->path, j->flags, j->st); break;
    case JOB_MKDIR: r = mkdirat(j->fd, j->path, (mode_t)j->mode); break;
    case JOB_RMDIR: r = unlinkat(j->fd, j->path, AT_REMOVEDIR); break;
    case JOB_UNLINK: r = unlinkat(j->fd, j->path, 0); break;
    case JOB_RENAME: r = renameat(AT_FDCWD, j->path, AT_FDCWD, j->path2); break;
    case JOB_LINK: r = linkat(AT_FDCWD, j->path, AT_FDCWD, j->path2, j->flags); break;
    case JOB_SYMLINK: r = symlinkat(j->path, AT_FDCWD, j->path2); break;
    case JOB_SAVE:
        j->result = job_save(j);
        return;
    default: r = -1; errno = ENOSYS;
    }
    j->result = r < 0 ? -errno : r;
}

/* Whether a thread may be stuck in it until somebody else does something: at a FIFO's or a terminal's other end. */
static int job_endless(job *j) {
    struct stat st;
    if (j->kind == JOB_READ || j->kind == JOB_WRITE || j->kind == JOB_CLOSE) return j->stream;
    if (j->kind != JOB_OPEN && j->kind != JOB_SAVE) return 0;
    return stat(j->path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

/* What can be done here and now, because nothing of it would wait (openat2(2) RESOLVE_CACHED, preadv2(2) RWF_NOWAIT).
   0: it is done; 1: done in part, more may follow; -1: it would wait, or the kernel cannot tell. At most `room` bytes. */

struct job_how { uint64_t flags, mode, resolve; };

static int open_cached(job *j, int flags) {
    static int absent;  /* a kernel older than 5.12, or one that forbids the call */
    struct job_how how = {(uint64_t)(unsigned)flags, 0, 0x20 /* RESOLVE_CACHED */};
    int fd;
    if (absent) { errno = EAGAIN; return -1; }
    fd = (int)syscall(SYS_openat2, j->fd, j->path, &how, sizeof how);
    if (fd < 0 && (errno == ENOSYS || errno == EINVAL || errno == EPERM)) { absent = errno != EPERM; errno = EAGAIN; }
    return fd;
}

static int job_at_once(job *j, size_t room) {
    if (j->kind == JOB_OPEN) {
        /* Only regular files: opening a FIFO waits for its other end, opening a device may do anything. O_NONBLOCK is for
           one that took the file's place since we looked. */
        int fd;
        if (j->flags & (O_CREAT | O_TRUNC | O_PATH | O_DIRECTORY | __O_TMPFILE) || j->st == NULL) return -1;
        fd = open_cached(j, O_PATH | O_CLOEXEC);
        if (fd < 0) return -1;
        if (job_stat_open(fd, j->st) < 0 || !S_ISREG(j->st->stx_mode)) { close(fd); return -1; }
        close(fd);
        j->ground = job_ground_known(j->st);
        if (j->ground == GROUND_UNKNOWN) return -1;  /* a thread finds out */
        fd = open_cached(j, j->flags | O_NONBLOCK);
        if (fd < 0) return -1;
        if (job_stat_open(fd, j->st) < 0 || !S_ISREG(j->st->stx_mode)) { close(fd); return -1; }
        if (!(j->flags & O_NONBLOCK)) fcntl(fd, F_SETFL, j->flags & ~(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC));
        j->result = fd;
        return 0;
    }
    if (j->kind == JOB_CLOSE && j->moved == j->size) {
        /* The last name of a large file is gone already: then closing frees its pages, which takes its time. */
        job_statx st;
        if (job_stat_open(j->fd, &st) == 0 && st.stx_nlink == 0 && st.stx_size > JOB_SMALL) return -1;
        job_do(j);
        return 0;
    }
    if (j->kind == JOB_READ || j->kind == JOB_WRITE || j->kind == JOB_CLOSE) {
        size_t n = j->size - j->moved;
        ssize_t moved = job_transfer(j, n < room ? n : room, RWF_NOWAIT);
        if (moved < 0) {
            if (errno == EAGAIN || errno == EOPNOTSUPP || errno == EINVAL || errno == EINTR || errno == ENOSYS || errno == EPERM) return -1;
            j->result = -errno;
            if (j->kind == JOB_CLOSE) close(j->fd);
            return 0;
        }
        j->moved += (size_t)moved;
        if (j->kind == JOB_CLOSE) return 1;
        j->result = (int64_t)j->moved;
        if (moved == 0 || j->moved == j->size || (j->stream && j->kind == JOB_READ)) return 0;
        return 1;
    }
    return -1;
}

/* Mailboxes. A loop never waits for a thread here, which may hold a lock and not be let run for milliseconds: what goes to
   and fro is pushed on stacks by compare-and-swap, and taken whole. */

static void job_push(job **stack, job *first, job *last, int *was_empty) {
    job *top = __atomic_load_n(stack, __ATOMIC_RELAXED);
    do last->next = top;
    while (!__atomic_compare_exchange_n(stack, &top, first, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    *was_empty = top == NULL;
}

/* All of a stack, oldest first. */
static job *job_take_all(job **stack) {
    job *j, *next, *first = NULL;
    if (__atomic_load_n(stack, __ATOMIC_RELAXED) == NULL) return NULL;
    for (j = __atomic_exchange_n(stack, NULL, __ATOMIC_SEQ_CST); j != NULL; j = next) {
        next = j->next;
        j->next = first;
        first = j;
    }
    return first;
}

static mailbox *box_open(void) {
    mailbox *box = (mailbox *)calloc(1, sizeof *box);
    if (box == NULL) return NULL;
    box->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (box->fd < 0) {
        free(box);
        return NULL;
    }
    pthread_mutex_init(&box->lock, NULL);
    box->holders = 1;
    return box;
}

static void box_drop(mailbox *box) {
    if (__atomic_sub_fetch(&box->holders, 1, __ATOMIC_ACQ_REL) > 0) return;
    pthread_mutex_destroy(&box->lock);
    free(box);
}

/* What came back, oldest first. drain: fd was readable. */
static job *box_empty(mailbox *box, int drain) {
    uint64_t count;
    if (drain && read(box->fd, &count, sizeof count) < 0) { /* taken already */ }
    return job_take_all(&box->done);
}

/* What comes back when its loop is gone. */
static void box_discard(mailbox *box) {
    job *j, *next;
    for (j = job_take_all(&box->done); j != NULL; j = next) {
        next = j->next;
        if (j->kind == JOB_OPEN && j->result >= 0) close((int)j->result);
    }
}

static void box_put(job *j) {
    static const uint64_t one = 1;
    mailbox *box = j->box;
    int first, late;
    job_push(&box->done, j, j, &first);  /* from here on it is the loop's, and may be gone */
    if (first) {
        pthread_mutex_lock(&box->lock);
        late = box->shut;
        if (!late && write(box->fd, &one, sizeof one) < 0) { /* full: readable anyway */ }
        pthread_mutex_unlock(&box->lock);
        if (late) box_discard(box);
    }
    box_drop(box);
}

/* The pool. */

#define POOL_IDLE_SECONDS 10  /* a thread that had nothing to do for so long ends */

static struct {
    job *incoming;         /* atomic: a stack onto which the loops push */
    pthread_mutex_t lock;  /* of the threads among themselves: of first and last */
    job *first, *last;
    sem_t wake;            /* a token for each idle thread that somebody claimed. Not a condition variable: signalling one
                              can wait for threads that were woken before (nptl/pthread_cond_signal.c) */
    int idle;              /* atomic, as the next: threads that sleep, and are not claimed */
    int threads, starting;
    int endless;           /* threads that may be stuck, which do not count towards the limit */
    int limit;             /* 0: nothing is set up yet */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void pool_forked(void) {
    memset(&pool, 0, sizeof pool);
    pthread_mutex_init(&pool.lock, NULL);
}

static int pool_add(int *number, int n) { return __atomic_add_fetch(number, n, __ATOMIC_SEQ_CST); }
static int pool_get(int *number) { return __atomic_load_n(number, __ATOMIC_SEQ_CST); }

/* Of the idle threads one is not idle any more. Whether there was one. */
static int pool_claim(void) {
    int n = pool_get(&pool.idle);
    while (n > 0)
        if (__atomic_compare_exchange_n(&pool.idle, &n, n - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return 1;
    return 0;
}

static void pool_gather(void) {  /* with the lock held */
    job *j = job_take_all(&pool.incoming);
    if (j == NULL) return;
    if (pool.last == NULL) pool.first = j;
    else pool.last->next = j;
    while (j->next != NULL) j = j->next;
    pool.last = j;
}

static job *pool_take(void) {  /* with the lock held */
    job *j;
    if (pool.first == NULL) pool_gather();
    j = pool.first;
    if (j == NULL) return NULL;
    pool.first = j->next;
    if (pool.first == NULL) pool.last = NULL;
    return j;
}

static void pool_do(job *j) {
    int endless = job_endless(j);
    if (endless && j->bounce == 1) {
        j->result = -EAGAIN;
    } else {
        if (endless) pool_add(&pool.endless, 1);
        job_do(j);
        if (endless) pool_add(&pool.endless, -1);
    }
    box_put(j);
}

static int pool_sleep(void) {
    struct timespec until;
    int failed;
    clock_gettime(CLOCK_REALTIME, &until);  /* should it be set meanwhile, a thread ends early or late */
    until.tv_sec += POOL_IDLE_SECONDS;
    do failed = sem_timedwait(&pool.wake, &until); while (failed && errno == EINTR);
    return failed;
}

static void *pool_thread(void *nothing) {
    (void)nothing;
    pool_add(&pool.starting, -1);
    for (;;) {
        job *j;
        pthread_mutex_lock(&pool.lock);
        j = pool_take();
        if (j == NULL) {
            pool_add(&pool.idle, 1);  /* who pushes after the next look sees it */
            j = pool_take();
            pthread_mutex_unlock(&pool.lock);
            if (j == NULL && !pool_sleep()) continue;
            if (!pool_claim()) {  /* somebody did, whose token is here or about to come */
                while (sem_wait(&pool.wake) && errno == EINTR) {}
                if (j == NULL) continue;
            } else if (j == NULL) {  /* the time is up */
                pthread_mutex_lock(&pool.lock);
                pool_add(&pool.threads, -1);  /* who pushes after the next look sees it */
                j = pool_take();
                if (j != NULL) pool_add(&pool.threads, 1);
                pthread_mutex_unlock(&pool.lock);
                if (j == NULL) return NULL;
            }
        } else {
            pthread_mutex_unlock(&pool.lock);
        }
        pool_do(j);
    }
}

static int pool_thread_start(void) {
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, before;
    int failed;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 256 * 1024);
    sigfillset(&all);  /* signals are for the threads that run Python */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pool_add(&pool.threads, 1);
    pool_add(&pool.starting, 1);
    failed = pthread_create(&thread, &attr, pool_thread, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (failed) {
        pool_add(&pool.threads, -1);
        pool_add(&pool.starting, -1);
    }
    return !failed;
}

/* Give jobs to the threads, a list of them in one go. 0, or -EAGAIN if there is no thread and none can be started; then
   nothing was given. The caller has the GIL: one gives at a time. */
static int pool_give(job *first, mailbox *box) {
    job *j, *next, *top = NULL;
    int count = 0, empty;
    if (pool.limit == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        sem_init(&pool.wake, 0, 0);
        pool.limit = cores < 2 ? 2 : cores > 4 ? 8 : (int)cores * 2;
    }
    for (j = first; j != NULL; j = j->next) count++;
    while (pool_get(&pool.idle) + pool_get(&pool.starting) < count &&
           pool_get(&pool.threads) - pool_get(&pool.endless) < pool.limit && pool_thread_start()) {}
    if (pool_get(&pool.threads) <= pool_get(&pool.endless)) return -EAGAIN;
    __atomic_add_fetch(&box->holders, count, __ATOMIC_RELAXED);
    for (j = first; j != NULL; j = next) {
        next = j->next;
        j->box = box;
        j->next = top;
        top = j;
    }
    job_push(&pool.incoming, top, first, &empty);
    while (count-- > 0 && pool_claim()) sem_post(&pool.wake);
    if (pool_get(&pool.threads) == 0 && !pool_thread_start()) {  /* the last one ended this very moment */
        pthread_mutex_lock(&pool.lock);
        while ((j = pool_take()) != NULL) pool_do(j);
        pthread_mutex_unlock(&pool.lock);
    }
    return 0;
}

/* Take a job back that no thread has begun. Whether it could be. */
static int pool_take_back(job *j) {
    job *at, *before = NULL;
    pthread_mutex_lock(&pool.lock);
    pool_gather();
    for (at = pool.first; at != NULL && at != j; at = at->next) before = at;
    if (at != NULL) {
        if (before == NULL) pool.first = j->next;
        else before->next = j->next;
        if (pool.last == j) pool.last = before;
    }
    pthread_mutex_unlock(&pool.lock);
    if (at != NULL) box_drop(j->box);
    return at != NULL;
}

/* Wait until a job comes back, at most `seconds`. */
static void box_wait(mailbox *box, double seconds) {
    struct pollfd one = {box->fd, POLLIN, 0};
    poll(&one, 1, (int)(seconds * 1e3));
}

/* The loop lets go. Jobs still under way are given up: they never come back, and their memory must stay for ever. */
static void box_close(mailbox *box) {
    pthread_mutex_lock(&box->lock);
    box->shut = 1;
    close(box->fd);
    box->fd = -1;
    pthread_mutex_unlock(&box->lock);
    box_discard(box);
    box_drop(box);
}

/* In a forked child: the lock may be held by a thread that is not here. Only the descriptor is let go. */
static void box_abandon(mailbox *box) {
    close(box->fd);
    box->fd = -1;
}

#endif
