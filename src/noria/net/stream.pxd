from cpython.object cimport PyObject

from noria.core.wheel cimport Wheel
from noria.io.driver cimport Channel
from noria.io.sys cimport sockaddr_storage, socklen_t

# What becomes of a connection, in this order and never back.
cdef enum Life:
    OPEN
    CLOSING      # close() was called; what is buffered still goes out
    LOST         # connection_lost() is in the ready queue; nothing is sent or received any more
    CLOSED

cdef class StreamTransport(Channel):
    cdef object __weakref__
    cdef Wheel loop
    cdef object protocol
    cdef object context
    cdef object server           # the Server it was accepted by, or None
    cdef object sock             # the socket object that owns the descriptor, if there is one
    cdef dict extra
    cdef object reason           # exception for connection_lost
    cdef object peer             # address, made when asked for
    cdef list queue              # bytes to be sent
    cdef Py_ssize_t head         # of the queue: first item not sent whole
    cdef Py_ssize_t offset       # of that item: bytes sent already
    cdef Py_ssize_t backlog      # bytes in the queue
    cdef Py_ssize_t high
    cdef Py_ssize_t low
    cdef unsigned char raw_peer[28]
    cdef unsigned char raw_peer_size
    cdef int lost_writes
    cdef Life life
    cdef bint begun              # connection_made() was called
    cdef bint buffered           # the protocol is a BufferedProtocol
    cdef bint paused             # pause_reading()
    cdef bint ended              # the peer sent its end of stream
    cdef bint eof                # write_eof()
    cdef bint sending_file       # somebody writes to the socket beside us
    cdef bint choked             # the protocol was told to pause writing

    cdef int begin(self) except -1
    cdef bint call(self, object method, PyObject* arg, PyObject** result) noexcept
    cdef int use(self, object protocol) except -1
    cdef int read_ready(self) except -1
    cdef int read_into(self) except -1
    cdef int got_eof(self) except -1
    cdef int trouble(self, Py_ssize_t error, str message) except -1
    cdef int fatal(self, object error, str message) except -1
    cdef int lose(self, object error) except -1
    cdef int call_failed(self, str message) except -1
    cdef int await_room(self) except -1
    cdef int enqueue(self, object data, Py_ssize_t sent) except -1
    cdef int flush(self) except -1
    cdef int consume(self, Py_ssize_t count) except -1
    cdef int choke(self) except -1
    cdef int relieve(self) except -1
    cdef int tell(self, str method) except -1
    cdef int finish(self) except -1
    cdef int close_fd(self) except -1
    cdef int report(self, str message) except -1
    cdef dict extra_info(self)
    cdef object address(self, bint peer)

cdef object address_of(sockaddr_storage* raw, socklen_t size)

cdef class Listener(Channel):
    cdef Wheel loop
    cdef object sock
    cdef object factory
    cdef object server
    cdef object wrap             # makes the TLS protocol around the program's, or None
    cdef object context
    cdef int backlog
    cdef bint closed

    cdef int admit(self, int fd, sockaddr_storage* addr, socklen_t size) except -1
