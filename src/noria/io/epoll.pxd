# The epoll driver's parts, for the io_uring driver, which is one with a ring beside it.
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t

from noria.io.driver cimport Channel, IODriver
from noria.io.sys cimport epoll_event, iovec, mmsghdr, sockaddr_storage

cdef enum:
    BATCH = 1024
    BUFFER = 256 * 1024
    SLOTS = 64                   # datagrams in one recvmmsg
    # The largest IP datagram, and then some: were the slots a power of two apart, all would share a few cache lines.
    SLOT = 64 * 1024 + 1088

# What stands for no channel in an event's data.
cdef enum Other:
    WAKE_UP
    BESIDE

cdef struct Slot:
    PyObject* channel       # owned while watched
    uint32_t generation

# Where recvmmsg(2) puts datagrams. The kernel gives memory to the pages that are written to, so small datagrams
# cost 4 KiB each of the 4 MiB that SLOTS of them may need.
cdef struct Letters:
    mmsghdr messages[SLOTS]
    iovec parts[SLOTS]
    sockaddr_storage names[SLOTS]
    char space[SLOTS * SLOT]


cdef class EpollDriver(IODriver):
    cdef object __weakref__
    cdef int epfd
    cdef int wake_in
    cdef int wake_out
    cdef bint woken              # a wake-up is in the pipe already
    cdef object on_signals       # called with the signal numbers that came through the pipe
    cdef Slot* slots             # by descriptor
    cdef int room
    cdef int next_event
    cdef int last_event
    cdef epoll_event events[BATCH]
    cdef char* buffer
    cdef Letters* letters        # made for the first datagram

    cdef int close_descriptors(self) except -1
    cdef int drain(self) except -1
    # The table by descriptor holds a reference to each channel that is watched. Make a place for one, putting out
    # whoever had the number; put it there.
    cdef int watch_other(self, int fd, uint32_t events, Other other) except -1
    cdef int clear_place(self, int fd) except -1
    cdef int take_in(self, Channel channel) except -1
    # Tell the kernel what to watch for, and take the channel in.
    cdef int arm(self, Channel channel, uint32_t wants) except -1
    # Ask now, without waiting, and deliver.
    cdef int ask(self, bint defer) except -1
    cdef int deliver(self, bint defer) except -1
    # The descriptor that was put in as BESIDE has something.
    cdef int beside(self, bint defer) except -1
    # Give a channel its events: at once, or by way of the ready queue.
    cdef int hand(self, Channel channel, uint32_t events, bint defer) except -1
