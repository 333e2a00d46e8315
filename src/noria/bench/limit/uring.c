/* The floor: a TCP echo server on io_uring, without Python and without a library: the kernel's interface itself.
 *
 *   uring
 *
 * Listens on a free port of 127.0.0.1, prints {"address": "tcp:PORT"} and serves until it is killed. One request
 * accepts every connection, and one for each connection receives all that comes on it (multishot), into buffers
 * that the kernel picks from a ring. A buffer is sent back from where it is and then returned. A connection has
 * one send under way at a time, so that the bytes stay in order; what came meanwhile is queued. With no buffer
 * left receiving ends, and is asked for again when there is one. (A client that sends and never receives could
 * keep all buffers: not for use outside.)
 *
 * io_uring_enter(2), io_uring_register(2); the memory barriers are those of io_uring(7). Needs Linux 6.1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRIES = 4096, COMPLETIONS = 32768, BUFFERS = 1024, BUFFER = 64 * 1024, NONE = -1 };
enum { ACCEPT, RECEIVE, SEND, CLOSE };  /* what a completion is of; its descriptor stands beside */

static struct connection {
    int first, last;     /* buffers to send, or NONE */
    unsigned sent;       /* bytes of the first */
    bool receiving, sending, broken, hungry;
} *connections;          /* by descriptor */
static struct { int next; unsigned length; } buffers[BUFFERS];
static char memory[BUFFERS][BUFFER];
static int *hungry, hungry_count, buffers_free;  /* descriptors that wait for a buffer to receive into */

static int ring, listener;
static unsigned *sq_head, *sq_tail, sq_mask, *cq_head, *cq_tail, cq_mask, unsubmitted;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static struct io_uring_buf_ring *buffer_ring;

static void die(const char *call) {
    perror(call);
    exit(1);
}

static void *map(size_t size, int fd, off_t offset) {
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED | MAP_POPULATE;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, offset);
    if (at == MAP_FAILED) die("mmap");
    return at;
}

static void enter(unsigned wait_for) {
    int n = syscall(SYS_io_uring_enter, ring, unsubmitted, wait_for, IORING_ENTER_GETEVENTS, NULL, 0);
    if (n < 0 && errno != EINTR && errno != EBUSY && errno != EAGAIN) die("io_uring_enter");
    if (n > 0) unsubmitted -= n;
}

static void submit(int opcode, int kind, int fd, struct io_uring_sqe request) {
    while (*sq_tail - __atomic_load_n(sq_head, __ATOMIC_ACQUIRE) == ENTRIES) enter(0);
    request.opcode = opcode;
    request.fd = fd;
    request.user_data = (unsigned long long)kind << 32 | fd;
    sqes[*sq_tail & sq_mask] = request;
    __atomic_store_n(sq_tail, *sq_tail + 1, __ATOMIC_RELEASE);
    unsubmitted++;
}

static void give_back(int id) {
    struct io_uring_buf *slot = &buffer_ring->bufs[buffer_ring->tail & (BUFFERS - 1)];
    slot->addr = (unsigned long)memory[id];
    slot->len = BUFFER;
    slot->bid = id;
    __atomic_store_n(&buffer_ring->tail, buffer_ring->tail + 1, __ATOMIC_RELEASE);
    buffers_free++;
}

static void start_accepting(void) {
    submit(IORING_OP_ACCEPT, ACCEPT, listener, (struct io_uring_sqe){.ioprio = IORING_ACCEPT_MULTISHOT});
}

static void start_receiving(int fd) {
    connections[fd].receiving = true;
    submit(IORING_OP_RECV, RECEIVE, fd,
           (struct io_uring_sqe){.ioprio = IORING_RECV_MULTISHOT, .flags = IOSQE_BUFFER_SELECT});
}

static void send_first(int fd) {
    struct connection *c = &connections[fd];
    c->sending = true;
    submit(IORING_OP_SEND, SEND, fd,
           (struct io_uring_sqe){.addr = (unsigned long)memory[c->first] + c->sent,
                                 .len = buffers[c->first].length - c->sent,
                                 .msg_flags = MSG_NOSIGNAL | MSG_WAITALL});
}

static void drop_first(struct connection *c) {
    give_back(c->first);
    c->first = buffers[c->first].next;
    c->sent = 0;
}

/* A descriptor is closed when nothing of it is under way, so that no completion can meet the next one of its number. */
static void close_if_done(int fd) {
    struct connection *c = &connections[fd];
    if (c->receiving || c->sending || c->hungry) return;
    while (c->first != NONE) drop_first(c);
    submit(IORING_OP_CLOSE, CLOSE, fd, (struct io_uring_sqe){.flags = IOSQE_CQE_SKIP_SUCCESS});
}

static void accepted(int result, unsigned flags) {
    if (result >= 0) {
        connections[result] = (struct connection){.first = NONE};
        start_receiving(result);
    } else if (result != -ECONNABORTED) {
        errno = -result;
        die("accept");
    }
    if (!(flags & IORING_CQE_F_MORE)) start_accepting();
}

static void received(int fd, int result, unsigned flags) {
    struct connection *c = &connections[fd];
    c->receiving = flags & IORING_CQE_F_MORE;
    if (result > 0) {
        int id = flags >> IORING_CQE_BUFFER_SHIFT;
        buffers_free--;
        buffers[id].next = NONE;
        buffers[id].length = result;
        if (c->first == NONE) c->first = id;
        else buffers[c->last].next = id;
        c->last = id;
        if (!c->sending && !c->broken) send_first(fd);
    } else if (result != -ENOBUFS) c->broken = true;
    if (c->receiving) return;
    if (c->broken) return close_if_done(fd);
    c->hungry = true;  /* out of buffers, or the kernel ended it for reasons of its own: ask again */
    hungry[hungry_count++] = fd;
}

static void was_sent(int fd, int result) {
    struct connection *c = &connections[fd];
    c->sending = false;
    if (result < 0) {
        c->broken = true;
        shutdown(fd, SHUT_RDWR);  /* ends the receiving */
    } else if ((c->sent += result) == buffers[c->first].length) drop_first(c);
    if (c->first != NONE && result >= 0) send_first(fd);
    else if (c->broken) close_if_done(fd);
}

/* The longest waiting first; no more of them than there are buffers. */
static void feed(void) {
    int n = hungry_count < buffers_free ? hungry_count : buffers_free;
    for (int i = 0; i < n; i++) {
        connections[hungry[i]].hungry = false;
        start_receiving(hungry[i]);
    }
    memmove(hungry, hungry + n, (hungry_count -= n) * sizeof *hungry);
}

static void set_up_ring(void) {
    struct io_uring_params p = {.cq_entries = COMPLETIONS};
    p.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_CQSIZE;
    if ((ring = syscall(SYS_io_uring_setup, ENTRIES, &p)) < 0) die("io_uring is not there (io_uring_setup)");
    size_t sq_size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    size_t cq_size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    char *at = map(sq_size > cq_size ? sq_size : cq_size, ring, IORING_OFF_SQ_RING);
    sqes = map(p.sq_entries * sizeof *sqes, ring, IORING_OFF_SQES);
    sq_head = (void *)(at + p.sq_off.head), sq_tail = (void *)(at + p.sq_off.tail), sq_mask = p.sq_entries - 1;
    cq_head = (void *)(at + p.cq_off.head), cq_tail = (void *)(at + p.cq_off.tail), cq_mask = p.cq_entries - 1;
    cqes = (void *)(at + p.cq_off.cqes);
    for (unsigned i = 0; i < p.sq_entries; i++) ((unsigned *)(at + p.sq_off.array))[i] = i;

    buffer_ring = map(BUFFERS * sizeof(struct io_uring_buf), -1, 0);
    struct io_uring_buf_reg reg = {.ring_addr = (unsigned long)buffer_ring, .ring_entries = BUFFERS};
    if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_PBUF_RING, &reg, 1) < 0) die("io_uring_register");
    for (int id = 0; id < BUFFERS; id++) give_back(id);
}

static void listen_somewhere(void) {
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if ((listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0) die("socket");
    if (setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) die("TCP_NODELAY");  /* inherited */
    if (bind(listener, (void *)&address, size) < 0 || listen(listener, 1024) < 0) die("listen");
    if (getsockname(listener, (void *)&address, &size) < 0) die("getsockname");
    printf("{\"address\": \"tcp:%d\"}\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    connections = map(files.rlim_max * sizeof *connections, -1, 0);
    hungry = map(files.rlim_max * sizeof *hungry, -1, 0);
    set_up_ring();
    listen_somewhere();
    start_accepting();
    while (1) {
        enter(1);
        unsigned head = *cq_head, tail = __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++) {
            struct io_uring_cqe *c = &cqes[head & cq_mask];
            int kind = c->user_data >> 32, fd = (int)c->user_data;
            if (kind == ACCEPT) accepted(c->res, c->flags);
            else if (kind == RECEIVE) received(fd, c->res, c->flags);
            else if (kind == SEND) was_sent(fd, c->res);
        }
        __atomic_store_n(cq_head, head, __ATOMIC_RELEASE);
        feed();
    }
}
