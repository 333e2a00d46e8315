from noria.net.stream cimport Layer, Sink
from noria.streams.reader cimport StreamReader
from noria.sync.lines cimport Line

cdef class StreamReaderProtocol(Sink):
    cdef public object _loop
    cdef public object _transport
    cdef public object _task             # of the client_connected_cb
    cdef public object _strong_reader    # until the connection is made
    cdef public object _client_connected_cb
    cdef public object _stream_reader_wr  # a weak reference, or None
    cdef public object _stream_writer    # 3.12's; for programs
    cdef object source_tb
    cdef object serving          # the same task until it has ended
    cdef object served           # and its transport
    cdef object close_waiter     # future, made when somebody asks for it
    cdef object reason           # exception that the connection was lost by
    cdef Line drains             # who waits until more may be written; made for the first of them
    cdef Line mourners           # who waits until the connection is closed; likewise
    cdef dict __dict__           # attributes that programs set
    cdef object __weakref__
    cdef char over_ssl
    cdef char paused
    cdef char lost
    cdef char reject
    cdef char plain_drain        # no subclass of a program's has another way to drain
    cdef char plain_close        # nor to wait until it is closed

    cdef StreamReader native_reader(self)
    cdef object any_reader(self)
    cdef int after_serving(self) except -1
    cdef object closed_future(self)

cdef class StreamWriter:
    cdef public object _protocol
    cdef public object _reader
    cdef public object _loop
    cdef object transport_
    cdef Layer layer             # the transport, if it is ours
    cdef StreamReaderProtocol native     # the protocol, if it is ours
    cdef dict __dict__           # attributes that programs set
    cdef object __weakref__

    cdef int use(self, object transport) except -1
    cdef bint closing(self) except -1

cdef class Feeder(Sink):
    cdef StreamReader reader
    cdef object below            # the protocol that hears of everything else
