# What transports say to a driver, and what a driver says to them. Completions, not readiness: "receive into me",
# "these bytes came". The epoll driver makes the system call when the descriptor is ready.
from libc.stdint cimport uint32_t

from noria.core.wheel cimport Driver, Ready, Wheel
from noria.io.sys cimport iovec, mmsghdr, sockaddr, sockaddr_storage, socklen_t

# What a channel may want. The values are poll(2)'s.
cdef enum:
    WANT_IN = 1      # POLLIN
    WANT_OUT = 4     # POLLOUT
    WANT_GONE = 0x2000   # POLLRDHUP: the other end will send no more. For a pipe's writer: nobody reads any more

# What a channel's descriptor is. Of its own accord a driver does nothing with what the program may close under it.
cdef enum Kind:
    ANY                # only watched
    STREAM             # a connection that is ours: bytes may be received before they are asked for

# One descriptor as the driver sees it. The driver holds a reference while it watches it.
cdef class Channel(Ready):
    cdef IODriver driver
    cdef int fd                  # -1 when closed
    cdef uint32_t wants
    cdef uint32_t armed          # what the kernel watches for us; may lag behind `wants` until an event shows it
    cdef uint32_t pending        # events that happened and are not delivered yet
    cdef bint watched
    cdef bint queued
    cdef bint plain              # no socket: read(2) and write(2) instead of recv and send
    cdef char kind               # Kind
    # The io_uring driver's own.
    cdef char reading            # what its ring has in flight for us to receive: uring.pyx, Reading
    cdef bint sending            # the posted bytes are in the ring
    cdef bint dirty              # on its list of those to look at before it asks the kernel
    cdef bint bulk               # receives so much that it is done by readiness
    cdef bint bare               # its descriptor may be used by others: likewise, and for good
    cdef bint over               # it came to an end, with `result`: 0 (of the stream) or -errno
    cdef bint late               # its place in the ready queue is to be taken once more, behind what has come meanwhile
    cdef unsigned int told       # the driver's turn in which bytes were delivered last
    cdef unsigned char small     # receptions in succession that a bulk connection did not need to be one for
    cdef int result
    cdef int flights             # operations in the ring
    cdef Py_ssize_t seat         # in its table of those that have some
    cdef char* here              # just received, in its buffer
    cdef Py_ssize_t here_size
    cdef char* kept              # received and not asked for yet; behind what is `here`
    cdef Py_ssize_t kept_from
    cdef Py_ssize_t kept_to
    cdef Py_ssize_t kept_room
    cdef object posted           # what post() was given: bytes, or a list of them

    # Completions. An error of the program's code is reported inside; only what must end the loop comes out.
    cdef int happened(self, uint32_t events) except -1
    # What was post()ed has gone out, as much as the kernel took: the count, or -errno (EAGAIN: nothing).
    cdef int sent(self, bytes data, Py_ssize_t n) except -1

cdef class IODriver(Driver):
    cdef Wheel wheel
    cdef bint abandoned          # in a forked child: connections and kernel objects are the parent's
    cdef bint posting            # post() may be called

    # Watch for more, or less. The driver keeps the channel alive until it wants nothing.
    cdef int want(self, Channel channel, uint32_t wants) except -1
    # Forget the channel at once; no completion comes after this. Its descriptor may be closed then.
    cdef int forget(self, Channel channel) except -1
    # Receive now: the count, 0 at the end of the stream, -errno. `where` NULL: into the driver's own buffer,
    # valid until the next call; where it lies is put there, and a `room` of 0 means all of it.
    cdef Py_ssize_t receive(self, Channel channel, char** where, Py_ssize_t room) noexcept
    # Send now as much as the kernel takes: the count, or -errno.
    cdef Py_ssize_t send(self, Channel channel, iovec* parts, int count) noexcept
    # Send this when the kernel is asked next, behind what was posted before it; sent() tells how that went. False: too
    # late to be joined with that, which is on its way.
    cdef bint post(self, Channel channel, bytes data) except -1
    # Take back what was posted and is not on its way yet: bytes, or None.
    cdef object unpost(self, Channel channel)
    # Somebody else may use the descriptor from now on: do nothing of its own accord with it any more.
    cdef int lay_bare(self, Channel channel) except -1
    # What came for a channel that is laid bare and wants no input, and was not asked for: bytes. None: not to be known
    # yet, or its stream has ended.
    cdef object surrender(self, Channel channel)
    # Receive up to `room` datagrams into buffers of the driver's own, valid until the next call: their count, or
    # -errno. Each has room for the largest that IP can carry.
    cdef int receive_many(self, Channel channel, mmsghdr** messages, int room) noexcept
    # One datagram of any size the driver's buffer holds; flags as recvmsg(2) gives them (MSG_TRUNC).
    cdef Py_ssize_t receive_from(
        self, Channel channel, char** where, sockaddr_storage* addr, socklen_t* size, int* flags) noexcept
    # Send one datagram, to `addr` or NULL for the peer the socket is connected to: 0, or -errno.
    cdef int send_to(self, Channel channel, void* data, size_t n, sockaddr* addr, socklen_t size) noexcept
    # Send datagrams in order until one fails: how many went out, or -errno if the first failed.
    cdef int send_many(self, Channel channel, mmsghdr* messages, int count) noexcept
    cdef int accept(self, Channel channel, sockaddr_storage* addr, socklen_t* size) noexcept
    cdef object find(self, int fd)
