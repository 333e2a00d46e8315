from cpython.object cimport PyObject

from noria.core.wheel cimport Ready, Wheel
from noria.io.driver cimport Channel
from noria.io.sys cimport sockaddr_storage, socklen_t

# What becomes of a connection, in this order and never back.
cdef enum Life:
    OPEN
    CLOSING      # close() was called; what is buffered still goes out
    LOST         # connection_lost() is in the ready queue; nothing is sent or received any more
    CLOSED

# Whom a layer gives what it received.
cdef enum Reader:
    PROTOCOL     # data_received()
    BUFFERED     # get_buffer() and buffer_updated()
    LAYER        # another layer, which is then `above`
    SINK         # take() or take_whole()

# A protocol of ours that takes what came without a call through Python. In all else it is an ordinary protocol.
cdef class Sink(Ready):
    cdef char direct             # false: a program's subclass has a data_received() of its own, which is to be called

    # These bytes came: valid until the method returns; a bytes object. They run nothing of the program's.
    cdef int take(self, char* data, Py_ssize_t n) except -1
    cdef int take_whole(self, bytes data) except -1

# A transport as the one that stands on it sees it, and the other way round.
cdef class Layer(Channel):
    cdef object __weakref__
    cdef Wheel loop
    cdef object protocol
    cdef Layer above             # the protocol, if it is a layer
    cdef object context
    cdef list queue              # bytes to be sent
    cdef Py_ssize_t head         # of the queue: first item not sent whole
    cdef Py_ssize_t offset       # of that item: bytes sent already
    cdef Py_ssize_t backlog      # bytes in the queue
    cdef Py_ssize_t high
    cdef Py_ssize_t low
    cdef Reader reader
    cdef bint choked             # the protocol was told to pause writing

    # write() and is_closing() for those who know us in C.
    cdef int put(self, object data) except -1
    cdef bint ending(self) noexcept

    # What the layer above asks: send this (more: more follows at once, so one call to the kernel may do for all); how
    # many bytes the kernel has not taken yet.
    cdef int carry(self, bytes data, bint more) except -1
    cdef Py_ssize_t unsent(self) noexcept
    # What the layer below tells: the connection is there; these bytes came (valid until the method returns or calls the
    # program); the peer ended its stream (true: do not close for that); some of what was unsent has gone; this is the
    # last moment to hand over what is kept back; the connection is gone. Each deals with the program's errors itself.
    cdef int made(self, Layer below) except -1
    cdef int received(self, char* data, Py_ssize_t n) except -1
    cdef bint ends(self) except -1
    cdef int room(self) except -1
    cdef int hurry(self) except -1
    cdef int gone(self, object error) except -1

    cdef int use(self, object protocol) except -1
    cdef bint enter(self, PyObject** outer) except -1
    cdef int leave(self, PyObject* outer) noexcept
    cdef bint call(self, object method, PyObject* arg, PyObject** result) noexcept
    cdef int report(self, str message) except -1
    cdef int enqueue(self, object data, Py_ssize_t sent) except -1
    cdef int consume(self, Py_ssize_t count) except -1
    cdef Py_ssize_t usual_high(self) noexcept
    cdef int choke(self) except -1
    cdef int relieve(self) except -1
    cdef int tell(self, str method) except -1

# The layer above, to be told something: a reference of the caller's own, as a nested run in a callback may end the
# connection, which lets the layer go.
cdef inline Layer upper(Layer self):
    return self.above

cdef class StreamTransport(Layer):
    cdef object server           # the Server it was accepted by, or None
    cdef object sock             # the socket object that owns the descriptor, if there is one
    cdef dict extra
    cdef object reason           # exception for connection_lost
    cdef object peer             # address, made when asked for
    cdef unsigned char raw_peer[28]
    cdef unsigned char raw_peer_size
    cdef int lost_writes
    cdef Life life
    cdef bint begun              # connection_made() was called
    cdef bint paused             # pause_reading()
    cdef bint ended              # the peer sent its end of stream
    cdef bint eof                # write_eof()
    cdef bint sending_file       # somebody writes to the socket beside us
    cdef Py_ssize_t aloft        # bytes posted to the driver, which count as sent

    cdef int begin(self) except -1
    cdef int read_ready(self) except -1
    cdef int read_up(self) except -1
    cdef int read_into(self) except -1
    cdef int got_eof(self) except -1
    cdef int trouble(self, Py_ssize_t error, str message) except -1
    cdef int fatal(self, object error, str message) except -1
    cdef int lose(self, object error) except -1
    cdef int call_failed(self, str message) except -1
    cdef int await_room(self) except -1
    cdef int flush(self) except -1
    cdef bint give(self, bytes data) except -1
    cdef bint came_down(self, bytes data, Py_ssize_t n) except -1
    cdef int recall(self) except -1
    cdef int send_posted(self) except -1
    cdef int lay_bare(self) except -1
    cdef Py_ssize_t send_one(self, bytes data) noexcept
    cdef int emptied(self) except -1
    cdef int finish(self) except -1
    cdef int close_fd(self) except -1
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
    cdef int expect              # connections to ask for at the next event
    cdef bint closed

    cdef int admit(self, int fd, sockaddr_storage* addr, socklen_t size) except -1
