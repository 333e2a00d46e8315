"""The interface between transports and the kernel. See driver.pxd for the contract of each call."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free

from noria.core.wheel cimport Driver, Ready, push
from noria.io.sys cimport iovec, mmsghdr, sockaddr, sockaddr_storage, socklen_t


cdef class Channel(Ready):
    """A descriptor watched by a driver. Not for use from Python."""

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        free(self.kept)

    cdef int run(self) except -1:
        # Events that came while the ready queue had older items in it.
        cdef uint32_t events = self.pending
        if self.late:
            self.late = False
            push(self.driver.wheel, self)
            return 0
        self.queued = False
        self.pending = 0
        if self.watched and events:
            self.happened(events)
        return 0

    cdef int happened(self, uint32_t events) except -1:
        raise NotImplementedError

    cdef int sent(self, bytes data, Py_ssize_t n) except -1:
        raise NotImplementedError


cdef class IODriver(Driver):
    """Base of the drivers."""

    cdef int want(self, Channel channel, uint32_t wants) except -1:
        raise NotImplementedError

    cdef int forget(self, Channel channel) except -1:
        raise NotImplementedError

    cdef Py_ssize_t receive(self, Channel channel, char** where, Py_ssize_t room) noexcept:
        return -1

    cdef Py_ssize_t send(self, Channel channel, iovec* parts, int count) noexcept:
        return -1

    cdef bint post(self, Channel channel, bytes data) except -1:
        raise NotImplementedError

    cdef object unpost(self, Channel channel):
        raise NotImplementedError

    cdef int lay_bare(self, Channel channel) except -1:
        return 0

    cdef object surrender(self, Channel channel):
        return b""

    cdef int receive_many(self, Channel channel, mmsghdr** messages, int room) noexcept:
        return -1

    cdef Py_ssize_t receive_from(
            self, Channel channel, char** where, sockaddr_storage* addr, socklen_t* size, int* flags) noexcept:
        return -1

    cdef int send_to(self, Channel channel, void* data, size_t n, sockaddr* addr, socklen_t size) noexcept:
        return -1

    cdef int send_many(self, Channel channel, mmsghdr* messages, int count) noexcept:
        return -1

    cdef int accept(self, Channel channel, sockaddr_storage* addr, socklen_t* size) noexcept:
        return -1

    cdef object find(self, int fd):
        return None
