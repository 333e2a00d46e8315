/* io_uring, by its kernel interface alone (io_uring_setup(2), io_uring_enter(2), io_uring_register(2)): no liburing,
   and no <linux/io_uring.h>, whose copy in the C library's headers is often older than the kernel. Layouts and numbers
   are the kernel's (include/uapi/linux/io_uring.h) and never change.

   A ring is two queues in memory shared with the kernel. Ours is the submission queue's tail and the completion
   queue's head; the kernel's are the others. A side publishes its index with release, and reads the other's with
   acquire: then the entries before it are complete.

   Nothing here takes a lock or the GIL: one thread at a time uses a ring. With SINGLE_ISSUER it must be the one that
   enabled it. Errors come as -errno. */
#ifndef NORIA_RING_H
#define NORIA_RING_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The same numbers on every architecture that Linux has had since 5.1. */
#define NORIA_SYS_SETUP 425
#define NORIA_SYS_ENTER 426
#define NORIA_SYS_REGISTER 427

/* What an operation's fields mean: io_uring_enter(2). */
typedef struct noria_sqe {
    uint8_t opcode;
    uint8_t flags;          /* SQE_ */
    uint16_t ioprio;        /* RECVSEND_, ACCEPT_ for the operations on sockets */
    int32_t fd;
    uint64_t off;           /* or addr2; -1: the file's own position */
    uint64_t addr;          /* a buffer, or an array of iovecs, a path, a msghdr */
    uint32_t len;
    uint32_t op_flags;      /* rw_flags, msg_flags, poll32_events, cancel_flags, open_flags, fsync_flags ... */
    uint64_t user_data;
    uint16_t buf_group;     /* or buf_index */
    uint16_t personality;
    uint32_t file_index;    /* or splice_fd_in, addr_len */
    uint64_t addr3;
    uint64_t pad;
} noria_sqe;

typedef struct noria_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;         /* CQE_; the buffer's number from bit 16 */
} noria_cqe;

enum {
    SQE_IO_LINK = 1 << 2, SQE_ASYNC = 1 << 4, SQE_BUFFER_SELECT = 1 << 5, SQE_CQE_SKIP_SUCCESS = 1 << 6,

    CQE_F_BUFFER = 1, CQE_F_MORE = 2, CQE_F_SOCK_NONEMPTY = 4, CQE_F_NOTIF = 8, CQE_F_BUF_MORE = 16,

    OP_NOP = 0, OP_READV = 1, OP_WRITEV = 2, OP_FSYNC = 3, OP_POLL_ADD = 6, OP_POLL_REMOVE = 7, OP_SENDMSG = 9,
    OP_RECVMSG = 10, OP_TIMEOUT = 11, OP_ACCEPT = 13, OP_ASYNC_CANCEL = 14, OP_LINK_TIMEOUT = 15, OP_CONNECT = 16,
    OP_FALLOCATE = 17, OP_OPENAT = 18, OP_CLOSE = 19, OP_STATX = 21, OP_READ = 22, OP_WRITE = 23, OP_FADVISE = 24,
    OP_SEND = 26, OP_RECV = 27, OP_SPLICE = 30, OP_TEE = 33, OP_SHUTDOWN = 34, OP_RENAMEAT = 35, OP_UNLINKAT = 36,
    OP_MKDIRAT = 37, OP_SYMLINKAT = 38, OP_LINKAT = 39, OP_MSG_RING = 40, OP_SOCKET = 45, OP_SEND_ZC = 47,
    OP_SENDMSG_ZC = 48, OP_READ_MULTISHOT = 49, OP_WAITID = 50, OP_FTRUNCATE = 55,
    NORIA_OPS = 256,

    /* ioprio */
    RECVSEND_POLL_FIRST = 1, RECV_MULTISHOT = 2, RECVSEND_FIXED_BUF = 4, RECVSEND_BUNDLE = 16,
    ACCEPT_MULTISHOT = 1, ACCEPT_DONTWAIT = 2, ACCEPT_POLL_FIRST = 4,
    /* len of OP_POLL_ADD and OP_POLL_REMOVE */
    POLL_ADD_MULTI = 1, POLL_UPDATE_EVENTS = 2, POLL_UPDATE_USER_DATA = 4, POLL_ADD_LEVEL = 8,
    /* op_flags of OP_ASYNC_CANCEL */
    CANCEL_ALL = 1, CANCEL_FD = 2, CANCEL_ANY = 4,
    /* op_flags of OP_FSYNC */
    FSYNC_DATASYNC = 1
};

enum {
    SETUP_CQSIZE = 1u << 3, SETUP_CLAMP = 1u << 4, SETUP_R_DISABLED = 1u << 6, SETUP_SUBMIT_ALL = 1u << 7,
    SETUP_COOP_TASKRUN = 1u << 8, SETUP_TASKRUN_FLAG = 1u << 9, SETUP_SINGLE_ISSUER = 1u << 12,
    SETUP_DEFER_TASKRUN = 1u << 13, SETUP_NO_SQARRAY = 1u << 16,

    FEAT_SINGLE_MMAP = 1u << 0, FEAT_NODROP = 1u << 1, FEAT_SUBMIT_STABLE = 1u << 2, FEAT_RW_CUR_POS = 1u << 3,
    FEAT_FAST_POLL = 1u << 5, FEAT_EXT_ARG = 1u << 8, FEAT_CQE_SKIP = 1u << 11, FEAT_RECVSEND_BUNDLE = 1u << 14,
    FEAT_MIN_TIMEOUT = 1u << 15,

    ENTER_GETEVENTS = 1u << 0, ENTER_EXT_ARG = 1u << 3,

    SQ_CQ_OVERFLOW = 1u << 1, SQ_TASKRUN = 1u << 2,

    REGISTER_EVENTFD = 4, REGISTER_PROBE = 8, REGISTER_ENABLE_RINGS = 12, REGISTER_IOWQ_MAX_WORKERS = 19,
    REGISTER_PBUF_RING = 22, UNREGISTER_PBUF_RING = 23, REGISTER_SYNC_CANCEL = 24
};

/* struct io_uring_params with its two tables of offsets */
typedef struct noria_ring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct {
        uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
        uint64_t user_addr;
    } sq_off;
    struct {
        uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
        uint64_t user_addr;
    } cq_off;
} noria_ring_params;

typedef char noria_ring_layout_[
    sizeof(noria_sqe) == 64 && sizeof(noria_cqe) == 16 && sizeof(noria_ring_params) == 120 ? 1 : -1];

typedef struct noria_ring {
    int fd;                             /* -1: closed */
    uint32_t flags;                     /* SETUP_ that the kernel took */
    uint32_t features;                  /* FEAT_ */
    uint32_t entries;                   /* of the submission queue */
    uint32_t cq_entries;
    uint32_t sq_mask, cq_mask;
    uint32_t sq_tail;                   /* ours; what the kernel sees is *sq_ktail */
    uint32_t cq_head;
    uint32_t *sq_khead, *sq_ktail, *sq_kflags;
    uint32_t *cq_khead, *cq_ktail, *cq_kflags;
    noria_sqe *sqes;
    noria_cqe *cqes;
    void *map;
    size_t map_size, sqes_size;
} noria_ring;

static inline void noria_ring_clear(noria_ring *ring) {
    memset(ring, 0, sizeof(*ring));
    ring->fd = -1;
}

/* Give everything back to the kernel. Also what a forked child does with its copy: it touches no queue. */
static inline void noria_ring_close(noria_ring *ring) {
    if (ring->fd < 0) return;
    if (ring->sqes != NULL) munmap(ring->sqes, ring->sqes_size);
    if (ring->map != NULL) munmap(ring->map, ring->map_size);
    close(ring->fd);
    noria_ring_clear(ring);
}

/* Make a ring of at least `entries` submissions (a power of two) and `cq_entries` completions. `must`: SETUP_ flags
   without which there is to be none; `may`: more, that are dropped where the kernel does not know them. 0 or -errno:
   ENOSYS, EPERM (refused: a container's seccomp filter, the sysctl kernel.io_uring_disabled), ENOMEM (locked memory, on
   kernels before 5.12), EMFILE, EINVAL. */
static inline int noria_ring_open(
        noria_ring *ring, uint32_t entries, uint32_t cq_entries, uint32_t must, uint32_t may) {
    /* The newest first. DEFER_TASKRUN is refused without SINGLE_ISSUER, and so goes before it. */
    static const uint32_t droppable[] = {
        SETUP_NO_SQARRAY, SETUP_DEFER_TASKRUN, SETUP_SINGLE_ISSUER, SETUP_COOP_TASKRUN, SETUP_TASKRUN_FLAG,
        SETUP_SUBMIT_ALL, 0};
    noria_ring_params params;
    uint32_t flags = must | may | SETUP_CLAMP | SETUP_CQSIZE, i;
    const uint32_t *drop = droppable;
    char *base;
    size_t sq_end, cq_end;
    int error;
    noria_ring_clear(ring);
    while (1) {
        memset(&params, 0, sizeof(params));
        params.flags = flags;
        params.cq_entries = cq_entries;
        ring->fd = (int)syscall(NORIA_SYS_SETUP, entries, &params);
        if (ring->fd >= 0) break;
        error = errno;
        if (error != EINVAL) return -error;
        while (*drop != 0 && !(flags & ~must & *drop)) drop++;
        if (*drop == 0) return -error;
        flags &= ~*drop;
    }
    if (!(params.features & FEAT_SINGLE_MMAP) || !(params.features & FEAT_NODROP) ||
        !(params.features & FEAT_EXT_ARG)) {
        noria_ring_close(ring);  /* before 5.11 */
        return -ENOSYS;
    }
    ring->flags = params.flags;
    ring->features = params.features;
    ring->entries = params.sq_entries;
    ring->cq_entries = params.cq_entries;
    sq_end = flags & SETUP_NO_SQARRAY ? 0 : params.sq_off.array + params.sq_entries * sizeof(uint32_t);
    cq_end = params.cq_off.cqes + params.cq_entries * sizeof(noria_cqe);
    ring->map_size = sq_end > cq_end ? sq_end : cq_end;
    ring->map = mmap(NULL, ring->map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, 0);
    if (ring->map == MAP_FAILED) {
        error = errno;
        ring->map = NULL;
        noria_ring_close(ring);
        return -error;
    }
    ring->sqes_size = params.sq_entries * sizeof(noria_sqe);
    ring->sqes = (noria_sqe *)mmap(
        NULL, ring->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, 0x10000000);
    if ((void *)ring->sqes == MAP_FAILED) {
        error = errno;
        ring->sqes = NULL;
        noria_ring_close(ring);
        return -error;
    }
    base = (char *)ring->map;
    ring->sq_khead = (uint32_t *)(base + params.sq_off.head);
    ring->sq_ktail = (uint32_t *)(base + params.sq_off.tail);
    ring->sq_kflags = (uint32_t *)(base + params.sq_off.flags);
    ring->sq_mask = *(uint32_t *)(base + params.sq_off.ring_mask);
    ring->cq_khead = (uint32_t *)(base + params.cq_off.head);
    ring->cq_ktail = (uint32_t *)(base + params.cq_off.tail);
    ring->cq_kflags = (uint32_t *)(base + params.cq_off.flags);
    ring->cq_mask = *(uint32_t *)(base + params.cq_off.ring_mask);
    ring->cqes = (noria_cqe *)(base + params.cq_off.cqes);
    ring->sq_tail = *ring->sq_ktail;
    ring->cq_head = *ring->cq_khead;
    if (!(flags & SETUP_NO_SQARRAY)) {  /* entry i is always in slot i */
        uint32_t *array = (uint32_t *)(base + params.sq_off.array);
        for (i = 0; i < params.sq_entries; i++) array[i] = i;
    }
    return 0;
}

static inline int noria_ring_register(noria_ring *ring, unsigned what, void *arg, unsigned count) {
    int n = (int)syscall(NORIA_SYS_REGISTER, ring->fd, what, arg, count);
    return n < 0 ? -errno : n;
}

/* A ring made with SETUP_R_DISABLED begins to work, for the calling thread. */
static inline int noria_ring_enable(noria_ring *ring) {
    return noria_ring_register(ring, REGISTER_ENABLE_RINGS, NULL, 0);
}

/* Have the kernel write to an eventfd(2) when there is something to enter for. The ring's own descriptor does not tell
   poll(2) of work put off by DEFER_TASKRUN. */
static inline int noria_ring_tell(noria_ring *ring, int32_t eventfd) {
    return noria_ring_register(ring, REGISTER_EVENTFD, &eventfd, 1);
}

/* Have it do so, or not, from now on. */
static inline void noria_ring_telling(noria_ring *ring, int on) {
    __atomic_store_n(ring->cq_kflags, on ? 0 : 1 /* IORING_CQ_EVENTFD_DISABLED */, __ATOMIC_SEQ_CST);
}

/* Which operations the kernel has: known[OP] becomes 1 or 0. */
static inline int noria_ring_probe(noria_ring *ring, unsigned char known[NORIA_OPS]) {
    struct {
        uint8_t last_op, ops_len;
        uint16_t resv;
        uint32_t resv2[3];
        struct { uint8_t op, resv; uint16_t flags; uint32_t resv2; } ops[NORIA_OPS];
    } probe;
    int i, error;
    memset(&probe, 0, sizeof(probe));
    memset(known, 0, NORIA_OPS);
    error = noria_ring_register(ring, REGISTER_PROBE, &probe, NORIA_OPS);
    if (error < 0) return error;
    for (i = 0; i < probe.ops_len; i++) known[probe.ops[i].op] = probe.ops[i].flags & 1;
    return 0;
}

/* Submissions filled in and not taken by the kernel yet. */
static inline uint32_t noria_ring_waiting(noria_ring *ring) {
    return ring->sq_tail - __atomic_load_n(ring->sq_khead, __ATOMIC_ACQUIRE);
}

/* The next free submission, all zero, or NULL if the queue is full: then submit, and ask again. */
static inline noria_sqe *noria_ring_sqe(noria_ring *ring) {
    noria_sqe *sqe;
    if (noria_ring_waiting(ring) >= ring->entries) return NULL;
    sqe = &ring->sqes[ring->sq_tail++ & ring->sq_mask];
    memset(sqe, 0, sizeof(*sqe));
    return sqe;
}

/* Submit everything that is filled in, let the kernel do what it put off (DEFER_TASKRUN, a completion queue that had
   overflowed), and wait until `least` completions are there or the time is over: timeout in seconds, below 0 for ever.
   The count of submissions taken, or -errno: ETIME (time is over), EINTR (a signal), EBUSY or EAGAIN (reap completions
   first). Returns at once when `least` is 0. */
static inline int noria_ring_enter(noria_ring *ring, uint32_t least, double timeout) {
    struct { uint64_t sigmask; uint32_t sigmask_size, min_wait_usec; uint64_t ts; } arg;
    struct { int64_t tv_sec; long long tv_nsec; } ts;  /* struct __kernel_timespec */
    uint32_t ready = noria_ring_waiting(ring);
    int n;
    __atomic_store_n(ring->sq_ktail, ring->sq_tail, __ATOMIC_RELEASE);
    if (least == 0 || timeout < 0) {
        n = (int)syscall(NORIA_SYS_ENTER, ring->fd, ready, least, ENTER_GETEVENTS, NULL, 0);
    } else {
        memset(&arg, 0, sizeof(arg));
        ts.tv_sec = (int64_t)timeout;
        ts.tv_nsec = (long long)((timeout - (double)ts.tv_sec) * 1e9);
        arg.ts = (uint64_t)(uintptr_t)&ts;
        n = (int)syscall(
            NORIA_SYS_ENTER, ring->fd, ready, least, ENTER_GETEVENTS | ENTER_EXT_ARG, &arg, sizeof(arg));
    }
    return n < 0 ? -errno : n;
}

/* Submit without running deferred work: what a ring does whose descriptor somebody else watches. */
static inline int noria_ring_submit(noria_ring *ring) {
    uint32_t ready = noria_ring_waiting(ring);
    int n;
    if (ready == 0) return 0;
    __atomic_store_n(ring->sq_ktail, ring->sq_tail, __ATOMIC_RELEASE);
    n = (int)syscall(NORIA_SYS_ENTER, ring->fd, ready, 0, 0, NULL, 0);
    return n < 0 ? -errno : n;
}

/* The oldest completion, or NULL. It is ours until noria_ring_seen(). */
static inline noria_cqe *noria_ring_cqe(noria_ring *ring) {
    if (ring->cq_head == __atomic_load_n(ring->cq_ktail, __ATOMIC_ACQUIRE)) return NULL;
    return &ring->cqes[ring->cq_head & ring->cq_mask];
}

static inline uint32_t noria_ring_completions(noria_ring *ring) {
    return __atomic_load_n(ring->cq_ktail, __ATOMIC_ACQUIRE) - ring->cq_head;
}

/* Give the oldest `count` completions back. */
static inline void noria_ring_seen(noria_ring *ring, uint32_t count) {
    ring->cq_head += count;
    __atomic_store_n(ring->cq_khead, ring->cq_head, __ATOMIC_RELEASE);
}

/* Completions that did not fit wait in the kernel: enter() brings them once there is room. */
static inline int noria_ring_overflown(noria_ring *ring) {
    return (__atomic_load_n(ring->sq_kflags, __ATOMIC_RELAXED) & SQ_CQ_OVERFLOW) != 0;
}

/* With SETUP_TASKRUN_FLAG: entering would bring nothing now. */
static inline int noria_ring_idle(noria_ring *ring) {
    return noria_ring_waiting(ring) == 0 &&
           (__atomic_load_n(ring->sq_kflags, __ATOMIC_RELAXED) & (SQ_TASKRUN | SQ_CQ_OVERFLOW)) == 0;
}

/* Buffers that the kernel picks by itself when data come (IOSQE_BUFFER_SELECT), as a ring of its own: the kernel takes
   from the head, we give back at the tail. */
typedef struct noria_buf {
    uint64_t addr;
    uint32_t len;
    uint16_t bid;
    uint16_t tail;      /* in the first entry: the ring's tail */
} noria_buf;

typedef struct noria_buffers {
    noria_buf *entries;                 /* NULL: not there */
    char *space;                        /* count times size */
    size_t entries_size, space_size;
    uint32_t size;                      /* of one buffer */
    uint16_t count, group, tail;
} noria_buffers;

/* Give a buffer to the kernel; noria_buffers_publish() makes it seen. */
static inline void noria_buffers_give(noria_buffers *buffers, uint16_t bid) {
    noria_buf *entry = &buffers->entries[buffers->tail & (buffers->count - 1)];
    entry->addr = (uint64_t)(uintptr_t)(buffers->space + (size_t)bid * buffers->size);
    entry->len = buffers->size;
    entry->bid = bid;
    buffers->tail++;
}

static inline void noria_buffers_publish(noria_buffers *buffers) {
    __atomic_store_n(&buffers->entries[0].tail, buffers->tail, __ATOMIC_RELEASE);
}

/* Only when nothing is in flight that may take a buffer, or after the ring was closed. */
static inline void noria_buffers_free(noria_buffers *buffers) {
    if (buffers->entries != NULL) munmap(buffers->entries, buffers->entries_size);
    if (buffers->space != NULL) munmap(buffers->space, buffers->space_size);
    memset(buffers, 0, sizeof(*buffers));
}

/* Register `count` (a power of two, at most 32768) buffers of `size` bytes as group `group`, all of them given. */
static inline int noria_buffers_open(
        noria_ring *ring, noria_buffers *buffers, uint16_t group, uint16_t count, uint32_t size) {
    struct { uint64_t addr; uint32_t entries; uint16_t group, flags; uint64_t resv[3]; } reg;
    uint16_t i;
    int error;
    memset(buffers, 0, sizeof(*buffers));
    buffers->entries_size = count * sizeof(noria_buf);
    buffers->space_size = (size_t)count * size;
    buffers->entries = (noria_buf *)mmap(
        NULL, buffers->entries_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if ((void *)buffers->entries == MAP_FAILED) buffers->entries = NULL;
    buffers->space = (char *)mmap(
        NULL, buffers->space_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if ((void *)buffers->space == MAP_FAILED) buffers->space = NULL;
    if (buffers->entries == NULL || buffers->space == NULL) {
        noria_buffers_free(buffers);
        return -ENOMEM;
    }
    /* The kernel pins these pages: a child that shared them would make our next write go to a copy. */
    madvise(buffers->entries, buffers->entries_size, MADV_DONTFORK);
    memset(&reg, 0, sizeof(reg));
    reg.addr = (uint64_t)(uintptr_t)buffers->entries;
    reg.entries = count;
    reg.group = group;
    buffers->size = size;
    buffers->count = count;
    buffers->group = group;
    error = noria_ring_register(ring, REGISTER_PBUF_RING, &reg, 1);
    if (error < 0) {
        noria_buffers_free(buffers);
        return error;
    }
    for (i = 0; i < count; i++) noria_buffers_give(buffers, i);
    noria_buffers_publish(buffers);
    return 0;
}

#endif
