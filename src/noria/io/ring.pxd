# io_uring's kernel interface: ring.h says what each call does. Needs no GIL.
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t

cdef extern from "ring.h" nogil:
    ctypedef struct noria_sqe:
        uint8_t opcode
        uint8_t flags
        uint16_t ioprio
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint32_t op_flags
        uint64_t user_data
        uint16_t buf_group
        uint16_t personality
        uint32_t file_index
        uint64_t addr3

    ctypedef struct noria_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags

    ctypedef struct noria_ring:
        int fd
        uint32_t flags
        uint32_t features
        uint32_t entries
        uint32_t cq_entries

    ctypedef struct noria_buffers:
        char* space
        uint32_t size
        uint16_t count
        uint16_t group

    enum:
        SQE_IO_LINK, SQE_ASYNC, SQE_BUFFER_SELECT, SQE_CQE_SKIP_SUCCESS
        CQE_F_BUFFER, CQE_F_MORE, CQE_F_SOCK_NONEMPTY, CQE_F_NOTIF, CQE_F_BUF_MORE
        OP_NOP, OP_READV, OP_WRITEV, OP_FSYNC, OP_POLL_ADD, OP_POLL_REMOVE, OP_SENDMSG, OP_RECVMSG, OP_TIMEOUT
        OP_ACCEPT, OP_ASYNC_CANCEL, OP_LINK_TIMEOUT, OP_CONNECT, OP_FALLOCATE, OP_OPENAT, OP_CLOSE, OP_STATX, OP_READ
        OP_WRITE, OP_FADVISE, OP_SEND, OP_RECV, OP_SPLICE, OP_TEE, OP_SHUTDOWN, OP_RENAMEAT, OP_UNLINKAT, OP_MKDIRAT
        OP_SYMLINKAT, OP_LINKAT, OP_MSG_RING, OP_SOCKET, OP_SEND_ZC, OP_SENDMSG_ZC, OP_READ_MULTISHOT, OP_WAITID
        OP_FTRUNCATE, NORIA_OPS
        RECVSEND_POLL_FIRST, RECV_MULTISHOT, RECVSEND_FIXED_BUF, RECVSEND_BUNDLE
        ACCEPT_MULTISHOT, ACCEPT_DONTWAIT, ACCEPT_POLL_FIRST
        POLL_ADD_MULTI, POLL_UPDATE_EVENTS, POLL_UPDATE_USER_DATA, POLL_ADD_LEVEL
        CANCEL_ALL, CANCEL_FD, CANCEL_ANY, FSYNC_DATASYNC
        SETUP_CQSIZE, SETUP_CLAMP, SETUP_R_DISABLED, SETUP_SUBMIT_ALL, SETUP_COOP_TASKRUN, SETUP_TASKRUN_FLAG
        SETUP_SINGLE_ISSUER, SETUP_DEFER_TASKRUN, SETUP_NO_SQARRAY
        FEAT_SINGLE_MMAP, FEAT_NODROP, FEAT_SUBMIT_STABLE, FEAT_RW_CUR_POS, FEAT_FAST_POLL, FEAT_EXT_ARG
        FEAT_CQE_SKIP, FEAT_RECVSEND_BUNDLE, FEAT_MIN_TIMEOUT
        REGISTER_EVENTFD, REGISTER_PROBE, REGISTER_ENABLE_RINGS, REGISTER_IOWQ_MAX_WORKERS, REGISTER_PBUF_RING
        UNREGISTER_PBUF_RING, REGISTER_SYNC_CANCEL

    void noria_ring_clear(noria_ring* ring)
    int noria_ring_open(noria_ring* ring, uint32_t entries, uint32_t cq_entries, uint32_t must, uint32_t may)
    void noria_ring_close(noria_ring* ring)
    int noria_ring_register(noria_ring* ring, unsigned what, void* arg, unsigned count)
    int noria_ring_enable(noria_ring* ring)
    int noria_ring_probe(noria_ring* ring, unsigned char* known)
    int noria_ring_tell(noria_ring* ring, int32_t eventfd)
    void noria_ring_telling(noria_ring* ring, bint on)
    uint32_t noria_ring_waiting(noria_ring* ring)
    noria_sqe* noria_ring_sqe(noria_ring* ring)
    int noria_ring_enter(noria_ring* ring, uint32_t least, double timeout)
    int noria_ring_submit(noria_ring* ring)
    noria_cqe* noria_ring_cqe(noria_ring* ring)
    uint32_t noria_ring_completions(noria_ring* ring)
    void noria_ring_seen(noria_ring* ring, uint32_t count)
    bint noria_ring_overflown(noria_ring* ring)
    bint noria_ring_idle(noria_ring* ring)

    int noria_buffers_open(noria_ring* ring, noria_buffers* buffers, uint16_t group, uint16_t count, uint32_t size)
    void noria_buffers_give(noria_buffers* buffers, uint16_t bid)
    void noria_buffers_publish(noria_buffers* buffers)
    void noria_buffers_free(noria_buffers* buffers)
