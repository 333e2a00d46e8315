from cpython.buffer cimport Py_buffer

from noria.core.waits cimport Waiter
from noria.core.wheel cimport Wheel
from noria.io.poller cimport Poller

cdef enum Operation:
    READABLE                     # only wait; the caller does the rest
    RECV
    RECV_INTO
    SENDALL

cdef class SocketWait(Waiter):
    cdef Wheel on                # the loop it was asked of
    cdef object sock
    cdef object what             # the count, the buffer, or the data
    cdef Poller poller           # while it waits
    cdef Py_buffer view          # of the data, while it is being sent
    cdef Py_ssize_t sent
    cdef char operation
    cdef bint viewed
    cdef bint plain              # a socket of exactly the standard class: the system calls are ours

    cdef int attempt(self) except -1
    cdef int receive(self) except -1
    cdef int receive_into(self) except -1
    cdef int send_rest(self) except -1
    cdef int wait_ready(self) except -1
    cdef int release(self) except -1
