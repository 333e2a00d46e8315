"""The body of a large file from its socket into its file, by a thread, without the interpreter between the calls.

Through the loop each piece of a body costs an object of that size, a hand-over to a thread and back, and the
interpreter's lock at every step, which the thread that writes and the loop want at once. Here one buffer serves for all
of it. `splice` saves an eighth of the CPU time beside that, not worth a pipe for each download (docs/design.md).

Leaves to others: what a body is, and that nobody else reads the socket meanwhile (response.py).
"""

from libc.errno cimport EAGAIN, EINTR, EIO, errno
from libc.stdlib cimport free, malloc
from posix.types cimport off_t
from posix.unistd cimport SEEK_SET, close, lseek, pwrite, write

import os

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLIN
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    ssize_t recv(int fd, void *buffer, size_t size, int flags)

cdef extern from "<time.h>" nogil:
    """
    #include <sys/eventfd.h>

    static double noria_monotonic(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }
    /* Read by the loop's thread while another one counts. */
    #define noria_read(number) __atomic_load_n(number, __ATOMIC_RELAXED)
    #define noria_set(number, value) __atomic_store_n(number, value, __ATOMIC_RELAXED)
    """
    double noria_monotonic()
    long long noria_read(long long *number)
    void noria_set(long long *number, long long value)
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int initial, int flags)

cdef enum:
    BUFFER = 1024 * 1024  # a quarter of it takes a fifth more CPU time

cdef enum Ending:
    WHOLE
    CLOSED
    LOST
    UNWRITTEN
    STALLED
    STOPPED

_WORDS = ("whole", "closed", "lost", "unwritten", "stalled", "stopped")


cdef class Intake:
    """Brings `size` bytes from the stream socket `source` into the file `target`, from `offset` on.

    source, target: descriptors; it works on copies of its own, so the caller may close its own at any time. stall:
    seconds without a byte after which to give up, None for no limit. Raises ValueError, OverflowError, and OSError if
    there are no descriptors left.
    """

    cdef int _source, _target, _wake
    cdef long long _offset, _size, _received
    cdef double _stall
    cdef bint _begun

    def __cinit__(self, int source, int target, long long offset, long long size, stall=None):
        self._source = self._target = self._wake = -1
        self._offset, self._size = offset, size
        self._stall = -1.0 if stall is None else stall
        if offset < 0 or size < 0:
            raise ValueError("offset and size must not be negative")
        self._source = os.dup(source)
        self._target = os.dup(target)
        self._wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self._wake < 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        self._close()

    cdef void _close(self):
        """Under the interpreter's lock, as `stop` is."""
        for fd in (self._source, self._target, self._wake):
            if fd >= 0:
                close(fd)
        self._source = self._target = self._wake = -1

    @property
    def received(self):
        """Bytes that are in the file so far."""
        return noria_read(&self._received)

    def stop(self):
        """Let `run` end soon. For any thread, any number of times; before `run`, it will end at once."""
        cdef unsigned long long one = 1
        if self._wake >= 0:
            write(self._wake, &one, sizeof(one))

    def run(self):
        """Do it, once, in the calling thread. Returns how it ended and an error number.

        "whole"; "closed": by the peer before the end; "lost": the connection, with the error number; "unwritten": the
        file system refused, with the error number; "stalled"; "stopped". Afterwards the file's position is behind what
        was written. Raises RuntimeError if called again, MemoryError.
        """
        cdef Ending ending
        cdef int error = 0
        cdef char *buffer
        if self._begun:
            raise RuntimeError("an Intake runs once")
        self._begun = True
        buffer = <char *>malloc(BUFFER)
        if buffer is NULL:
            raise MemoryError
        with nogil:
            ending = self._run(buffer, &error)
            free(buffer)
            lseek(self._target, self._offset + self._received, SEEK_SET)
        self._close()  # not left to the garbage: the connection is closed when its last descriptor is
        return _WORDS[<int>ending], error

    cdef Ending _run(self, char *buffer, int *error) noexcept nogil:
        cdef:
            long long received = 0
            ssize_t n
            size_t wanted
            pollfd[2] watched
            int ready
            int patience
            double deadline
        watched[0].fd, watched[0].events = self._source, POLLIN
        watched[1].fd, watched[1].events = self._wake, POLLIN
        while received < self._size:
            # Asked on each round: a fast peer might never let it come to waiting.
            watched[1].revents = 0
            if poll(&watched[1], 1, 0) > 0:
                return STOPPED
            wanted = <size_t>min(self._size - received, <long long>BUFFER)
            n = recv(self._source, buffer, wanted, MSG_DONTWAIT)
            if n > 0:
                error[0] = self._write(buffer, n, self._offset + received)
                if error[0] != 0:
                    return UNWRITTEN
                received += n
                noria_set(&self._received, received)
                continue
            if n == 0:
                return CLOSED
            if errno == EINTR:
                continue
            if errno != EAGAIN:
                error[0] = errno
                return LOST
            deadline = noria_monotonic() + self._stall
            while True:
                patience = -1
                if self._stall >= 0.0:
                    patience = <int>min(max((deadline - noria_monotonic()) * 1000.0 + 1.0, 0.0), 1e9)
                ready = poll(watched, 2, patience)
                if ready > 0:
                    break
                if ready == 0 and noria_monotonic() >= deadline:
                    return STALLED
                if ready < 0 and errno != EINTR:
                    error[0] = errno
                    return LOST
        return WHOLE

    cdef int _write(self, const char *data, ssize_t size, long long offset) noexcept nogil:
        """The error number, 0 if all is written."""
        cdef ssize_t n
        while size > 0:
            n = pwrite(self._target, data, size, <off_t>offset)
            if n > 0:
                data += n
                size -= n
                offset += n
            elif n == 0:
                return EIO
            elif errno != EINTR:
                return errno
        return 0
