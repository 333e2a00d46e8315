/* File system calls as data, and the threads that make them.

   A job is one call, or one that goes on until all bytes are moved. `job_do` makes it, wherever it is called. The pool is
   this process's threads for jobs that may block; they know no Python object and never take the GIL, so whatever they
   are stuck in holds up neither the interpreter nor the end of the process.

   A job's memory is its owner's, who may not free it before it came back through its mailbox, or `box_close` said that
   it will not. The mailbox is counted: a thread that comes back after the loop is gone finds it still there.

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
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
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

struct mailbox;

typedef struct job {
    struct job *next;
    struct job *before, *after;  /* among those of the mailbox that a thread works on */
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
    void *owner;           /* whose it is; nothing here looks at it */
} job;

enum { SAVE_FSYNC = 1, SAVE_ATOMIC = 2, SAVE_APPEND = 4 };

/* Where jobs come back, one for each loop. */
typedef struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t came;   /* for box_close */
    job *done;             /* newest first */
    job busy;              /* anchor of those being worked on */
    int fd;                /* an eventfd: readable when there is something */
    int shut;
    int holders;           /* the loop, and each job under way */
} mailbox;

/* The calls. */

static inline int job_stat(int fd, const char *path, int flags, job_statx *st) {
    return (int)syscall(SYS_statx, fd, path, flags, STATX_BASIC_STATS, st);
}

/* What is known of an open file without asking a server for it. */
static inline int job_stat_open(int fd, job_statx *st) {
    return job_stat(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, st);
}

/* Where the next byte goes. */
static inline int64_t job_offset(const job *j) { return j->offset < 0 ? -1 : j->offset + (int64_t)j->moved; }

static ssize_t job_transfer(job *j, size_t n, int flags) {
    struct iovec part;
    int64_t offset = job_offset(j);
    part.iov_base = j->data + j->moved;
    part.iov_len = n;
    if (flags)
        return j->kind == JOB_WRITE ? pwritev2(j->fd, &part, 1, offset, flags) : preadv2(j->fd, &part, 1, offset, flags);
    if (offset < 0)
        return j->kind == JOB_WRITE ? write(j->fd, part.iov_base, n) : read(j->fd, part.iov_base, n);
    return j->kind == JOB_WRITE ? pwrite(j->fd, part.iov_base, n, offset) : pread(j->fd, part.iov_base, n, offset);
}

/* A stream's next bytes, or room for them, waited for where the wait can be ended: by poll(2). The call after it does not
   wait even if another process was faster, on kernels that can say so for pipes (6.3); else a pipe that is ready takes
   PIPE_BUF bytes without waiting. */
static ssize_t job_stream(job *j, size_t n) {
    struct pollfd two[2] = {{j->fd, j->kind == JOB_WRITE ? POLLOUT : POLLIN, 0}, {j->kick, POLLIN, 0}};
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
            moved = job_transfer(j, j->kind == JOB_WRITE && n > PIPE_BUF ? PIPE_BUF : n, 0);
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
        if (r >= 0 && j->st != NULL) job_stat_open((int)r, j->st);
        break;
    case JOB_CLOSE:
        r = close(j->fd);
        if (r < 0 && errno == EINTR) r = 0;  /* it is closed all the same: close(2) */
        break;
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
    if (j->kind == JOB_READ || j->kind == JOB_WRITE) return j->stream;
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
        fd = open_cached(j, j->flags | O_NONBLOCK);
        if (fd < 0) return -1;
        if (job_stat_open(fd, j->st) < 0 || !S_ISREG(j->st->stx_mode)) { close(fd); return -1; }
        if (!(j->flags & O_NONBLOCK)) fcntl(fd, F_SETFL, j->flags & ~(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC));
        j->result = fd;
        return 0;
    }
    if (j->kind == JOB_READ || j->kind == JOB_WRITE) {
        size_t n = j->size - j->moved;
        ssize_t moved = job_transfer(j, n < room ? n : room, RWF_NOWAIT);
        if (moved < 0) {
            if (errno == EAGAIN || errno == EOPNOTSUPP || errno == EINVAL || errno == EINTR || errno == ENOSYS || errno == EPERM) return -1;
            j->result = -errno;
            return 0;
        }
        j->moved += (size_t)moved;
        j->result = (int64_t)j->moved;
        if (moved == 0 || j->moved == j->size || (j->stream && j->kind == JOB_READ)) return 0;
        return 1;
    }
    return -1;
}

/* Mailboxes. */

static mailbox *box_open(void) {
    mailbox *box = (mailbox *)calloc(1, sizeof *box);
    if (box == NULL) return NULL;
    box->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (box->fd < 0) {
        free(box);
        return NULL;
    }
    pthread_mutex_init(&box->lock, NULL);
    pthread_cond_init(&box->came, NULL);
    box->busy.before = box->busy.after = &box->busy;
    box->holders = 1;
    return box;
}

static void box_drop(mailbox *box) {  /* with the lock held */
    int last = --box->holders == 0;
    pthread_mutex_unlock(&box->lock);
    if (!last) return;
    if (box->fd >= 0) close(box->fd);
    pthread_mutex_destroy(&box->lock);
    pthread_cond_destroy(&box->came);
    free(box);
}

/* What came back, oldest first. */
static job *box_empty(mailbox *box) {
    uint64_t count;
    job *j, *next, *first = NULL;
    if (read(box->fd, &count, sizeof count) < 0 && errno != EAGAIN) return NULL;
    pthread_mutex_lock(&box->lock);
    j = box->done;
    box->done = NULL;
    pthread_mutex_unlock(&box->lock);
    for (; j != NULL; j = next) {
        next = j->next;
        j->next = first;
        first = j;
    }
    return first;
}

/* The pool. */

#define POOL_IDLE_SECONDS 10  /* a thread that had nothing to do for so long ends */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t work;
    job *first, *last;
    int threads, idle, endless;  /* endless: those that may be stuck, which do not count towards the limit */
    int limit;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void pool_forked(void) {
    memset(&pool, 0, sizeof pool);
    pthread_mutex_init(&pool.lock, NULL);
}

static void pool_finish(job *j) {
    mailbox *box = j->box;
    static const uint64_t one = 1;
    pthread_mutex_lock(&box->lock);
    if (j->before == NULL) {  /* box_close has given it up: not ours to touch any more, its owner keeps it for ever */
        box_drop(box);
        return;
    }
    j->before->after = j->after;
    j->after->before = j->before;
    j->before = j->after = NULL;
    j->next = box->done;
    box->done = j;
    pthread_cond_signal(&box->came);
    if (j->next == NULL && !box->shut && write(box->fd, &one, sizeof one) < 0) { /* full: readable anyway */ }
    box_drop(box);
}

static void *pool_thread(void *nothing) {
    (void)nothing;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        job *j = pool.first;
        if (j == NULL) {
            struct timespec until;
            int late;
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_sec += POOL_IDLE_SECONDS;
            pool.idle++;
            late = pthread_cond_timedwait(&pool.work, &pool.lock, &until);
            pool.idle--;
            if (late == ETIMEDOUT && pool.first == NULL) break;
            continue;
        }
        pool.first = j->next;
        if (pool.first == NULL) pool.last = NULL;
        pthread_mutex_unlock(&pool.lock);
        if (job_endless(j)) {
            pthread_mutex_lock(&pool.lock);
            pool.endless++;
            pthread_mutex_unlock(&pool.lock);
            job_do(j);
            pool_finish(j);
            pthread_mutex_lock(&pool.lock);
            pool.endless--;
        } else {
            job_do(j);
            pool_finish(j);
            pthread_mutex_lock(&pool.lock);
        }
    }
    pool.threads--;
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

static int pool_thread_start(void) {  /* with the lock held */
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, before;
    int failed;
    if (pool.threads == 0) {
        pthread_condattr_t kind;
        pthread_condattr_init(&kind);
        pthread_condattr_setclock(&kind, CLOCK_MONOTONIC);
        pthread_cond_init(&pool.work, &kind);
        pthread_condattr_destroy(&kind);
    }
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 256 * 1024);
    sigfillset(&all);  /* signals are for the threads that run Python */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&thread, &attr, pool_thread, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (!failed) pool.threads++;
    return !failed;
}

/* Give a job to the threads. 0, or -EAGAIN if there is none and none can be started. */
static int pool_give(job *j, mailbox *box) {
    j->box = box;
    j->next = NULL;
    pthread_mutex_lock(&box->lock);
    box->holders++;
    j->before = box->busy.before;
    j->after = &box->busy;
    j->before->after = j;
    box->busy.before = j;
    pthread_mutex_unlock(&box->lock);

    pthread_mutex_lock(&pool.lock);
    if (pool.limit == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        pool.limit = cores < 2 ? 2 : cores > 4 ? 8 : (int)cores * 2;
    }
    if (pool.idle == 0 && pool.threads - pool.endless < pool.limit && !pool_thread_start() &&
            pool.threads == pool.endless) {
        pthread_mutex_unlock(&pool.lock);
        pthread_mutex_lock(&box->lock);
        j->before->after = j->after;
        j->after->before = j->before;
        j->before = j->after = NULL;
        box_drop(box);
        return -EAGAIN;
    }
    if (pool.last == NULL) pool.first = j;
    else pool.last->next = j;
    pool.last = j;
    if (pool.idle > 0) pthread_cond_signal(&pool.work);
    pthread_mutex_unlock(&pool.lock);
    return 0;
}

/* Take a job back that no thread has begun. Whether it could be. */
static int pool_take_back(job *j) {
    job *at, *before = NULL;
    mailbox *box = j->box;
    pthread_mutex_lock(&pool.lock);
    for (at = pool.first; at != NULL && at != j; at = at->next) before = at;
    if (at != NULL) {
        if (before == NULL) pool.first = j->next;
        else before->next = j->next;
        if (pool.last == j) pool.last = before;
    }
    pthread_mutex_unlock(&pool.lock);
    if (at == NULL) return 0;
    pthread_mutex_lock(&box->lock);
    j->before->after = j->after;
    j->after->before = j->before;
    j->before = j->after = NULL;
    box_drop(box);
    return 1;
}

/* Wait until a job comes back, at most `seconds`, unless there is none under way or one is back already. */
static void box_wait(mailbox *box, double seconds) {
    struct timespec until;
    int late = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)seconds;
    until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&box->lock);
    while (box->done == NULL && box->busy.after != &box->busy && !late)
        late = pthread_cond_timedwait(&box->came, &box->lock, &until) != 0;
    pthread_mutex_unlock(&box->lock);
}

/* The loop lets go. Jobs still under way are given up: they never come back, and their memory must stay for ever. */
static void box_close(mailbox *box) {
    pthread_mutex_lock(&box->lock);
    box->shut = 1;
    while (box->busy.after != &box->busy) {
        job *j = box->busy.after;
        box->busy.after = j->after;
        j->after->before = &box->busy;
        j->before = j->after = NULL;
    }
    close(box->fd);
    box->fd = -1;
    box_drop(box);
}

/* In a forked child: the lock may be held by a thread that is not here. Only the descriptor is let go. */
static void box_abandon(mailbox *box) {
    close(box->fd);
    box->fd = -1;
}

#endif
