# What files do, one system call or one compound of them at a time.
from libc.stdint cimport int64_t, uint64_t

from noria.core.waits cimport Waiter
from noria.core.wheel cimport Ready, Wheel
from noria.io.ring cimport NORIA_OPS, noria_cqe, noria_ring, noria_sqe

cdef extern from "<sys/stat.h>" nogil:
    cdef struct statx_timestamp:
        int64_t tv_sec
        unsigned int tv_nsec
    cdef struct statx "statx":
        unsigned int stx_mode
        unsigned int stx_nlink
        unsigned int stx_uid
        unsigned int stx_gid
        unsigned int stx_blksize
        unsigned int stx_rdev_major
        unsigned int stx_rdev_minor
        unsigned int stx_dev_major
        unsigned int stx_dev_minor
        uint64_t stx_ino
        uint64_t stx_size
        uint64_t stx_blocks
        statx_timestamp stx_atime
        statx_timestamp stx_mtime
        statx_timestamp stx_ctime

cdef extern from "jobs.h" nogil:
    enum:
        JOB_OPEN, JOB_CLOSE, JOB_READ, JOB_WRITE, JOB_FSYNC, JOB_FDATASYNC, JOB_FTRUNCATE, JOB_STAT, JOB_MKDIR
        JOB_RMDIR, JOB_UNLINK, JOB_RENAME, JOB_LINK, JOB_SYMLINK, JOB_SAVE, JOB_KINDS
        SAVE_FSYNC, SAVE_ATOMIC, SAVE_APPEND
        GROUND_UNKNOWN, GROUND_OTHER, GROUND_LOCAL, GROUND_MEMORY
    cdef struct mailbox:
        int fd
    cdef struct job:
        job* next
        int kind
        int fd
        int flags
        int mode
        int stream
        const char* path
        const char* path2
        char* data
        size_t size
        size_t moved
        int64_t offset
        int64_t result
        int stop
        int kick
        statx* st
        int ground
        int bounce
        void* owner
    int job_at_once(job* j, size_t room)
    void job_do(job* j)
    void job_kick(job* j)
    int job_stat_open(int fd, statx* st)
    enum:
        STATX_BASIC_STATS
    mailbox* box_open()
    job* box_empty(mailbox* box, bint drain)
    void box_wait(mailbox* box, double seconds)
    void box_close(mailbox* box)
    bint job_endless(job* j)
    void box_abandon(mailbox* box)
    int pool_give(job* first, mailbox* box)
    void job_ground_learned(const job* j)
    bint pool_take_back(job* j)
    void pool_forked()

cdef class Operation
cdef class Engine

# An open descriptor. Whatever uses it holds it, so its number cannot become another file's meanwhile.
cdef class Descriptor:
    cdef readonly int fd         # -1: closed
    cdef readonly bint owned     # closed with this object at the latest
    cdef int ground              # GROUND_: what the file lies on
    cdef bint quiet              # closing it waits for nothing
    cdef int users               # operations begun and not over
    cdef Operation closer        # closes it when they are back

# Where an operation is.
cdef enum Place:
    HERE         # not begun
    LINED        # begun, waits for the loop's thread to have time
    FLYING       # a thread's or the kernel's: its memory must stay
    LANDED       # `j.result` says how it ended
    STRANDED     # there was no thread to do it
    GIVEN_UP     # its loop was closed over it

cdef class Operation(Waiter):
    cdef job j
    cdef statx found
    cdef char place
    cdef bint in_ring
    cdef bint holds              # counts among its descriptor's users
    cdef bint has_view
    cdef bint taken              # the result has been looked at; an opened descriptor has an owner
    cdef readonly bint waited    # could not be done at once
    cdef Engine engine
    cdef Descriptor descriptor
    cdef object data             # what j.data points into
    cdef Py_buffer view
    cdef object paths            # bytes that j.path and j.path2 point into
    cdef object shown            # the paths as the program gave them
    cdef object shown2
    cdef object landing          # start()'s future

    cdef int launch(self) except -1
    cdef int take_room(self) except -1
    cdef int landed(self) except -1
    cdef object conclude(self)
    cdef int drop(self) except -1
    cdef Descriptor arrived(self)

cdef class Engine(Ready):
    cdef object loop
    cdef Wheel wheel             # None on a foreign loop
    cdef mailbox* box
    cdef object line             # operations on open files that wait for the thread's time
    cdef object openings         # those that open one
    cdef set flying
    cdef uint64_t used           # ticks spent on files in this turn
    cdef int woken               # operations that landed in this turn
    cdef job* out                # go to the threads at the end of the turn
    cdef job* last_out
    cdef job* back               # came back from threads, and are not told yet
    cdef bint queued             # run() will come
    cdef noria_ring ring
    cdef unsigned char known[NORIA_OPS]   # the operations that the kernel has
    cdef object refusal          # why there is no ring
    cdef bint tried              # to make one
    cdef bint shut
    cdef public bint at_once     # try here and now first
    cdef object __weakref__

    cdef int begin(self, Operation op) except -1
    cdef int go_on(self, Operation op) except -1
    cdef int stand_in_line(self, Operation op) except -1
    cdef int attempt(self, Operation op) except -1
    cdef int fly(self, Operation op) except -1
    cdef int give_away(self, Operation op) except -1
    cdef int forget(self, Operation op) except -1
    cdef int hold(self, Operation op) except -1
    cdef int let_go(self, Operation op) except -1
    cdef int recall(self, Operation op) except -1
    cdef int fly_by_thread(self, Operation op) except -1
    cdef int hand_over(self) except -1
    cdef bint fly_by_ring(self, Operation op) except -1
    cdef noria_sqe* entry(self) except? NULL
    cdef bint describe(self, job* j, noria_sqe* sqe) noexcept
    cdef int submit(self) except -1
    cdef int come_back(self, bint called) except -1
    cdef int reap(self) except -1
    cdef int ended_in_ring(self, Operation op, int64_t result) except -1
    cdef int open_box(self) except -1
    cdef int open_ring(self) except -1
    cdef int settle(self) except -1
    cdef int enqueue(self) except -1
    cdef object the_loop(self)
