# What transports say to a driver, and what a driver says to them. Completions, not readiness: "receive into me",
# "these bytes came". The epoll driver makes the system call when the descriptor is ready.
from libc.stdint cimport uint32_t

from noria.core.wheel cimport Driver, Ready, Wheel
from noria.io.sys cimport iovec, sockaddr_storage, socklen_t

# What a channel may want. The values are poll(2)'s.
cdef enum:
    WANT_IN = 1      # POLLIN
    WANT_OUT = 4     # POLLOUT

# One descriptor as the driver sees it. The driver holds a reference while it watches it.
cdef class Channel(Ready):
    cdef IODriver driver
    cdef int fd                  # -1 when closed
    cdef uint32_t wants
    cdef uint32_t armed          # what the kernel watches for us; may lag behind `wants` until an event shows it
    cdef uint32_t pending        # events that happened and are not delivered yet
    cdef bint watched
    cdef bint queued

    # Completions. An error of the program's code is reported inside; only what must end the loop comes out.
    cdef int happened(self, uint32_t events) except -1

cdef class IODriver(Driver):
    cdef Wheel wheel
    cdef bint abandoned          # in a forked child: connections and kernel objects are the parent's

    # Watch for more, or less. The driver keeps the channel alive until it wants nothing.
    cdef int want(self, Channel channel, uint32_t wants) except -1
    # Forget the channel at once; no completion comes after this. Its descriptor may be closed then.
    cdef int forget(self, Channel channel) except -1
    # Receive now: the count, 0 at the end of the stream, -errno. `where` NULL: into the driver's own buffer,
    # valid until the next call; where it lies is put there.
    cdef Py_ssize_t receive(self, Channel channel, char** where, Py_ssize_t room) noexcept
    # Send now as much as the kernel takes: the count, or -errno.
    cdef Py_ssize_t send(self, Channel channel, iovec* parts, int count) noexcept
    cdef int accept(self, Channel channel, sockaddr_storage* addr, socklen_t* size) noexcept
    cdef object find(self, int fd)
