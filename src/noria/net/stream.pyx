"""Stream transports: TCP and Unix-domain connections, and the listeners that accept them.

The path of a received byte: the driver reports the channel ready (`happened`), `read_ready` receives into the
driver's buffer, makes one bytes object of it and calls the protocol's `data_received` in the connection's context;
a `Sink`, as streams are, takes it from the buffer itself;
for a BufferedProtocol `read_into` receives straight into the protocol's buffer. The path of a byte written: `write`
gives it to the kernel at once; what the kernel does not take waits in the queue, bytes objects without a copy,
anything the caller could change copied, and goes out several at a time (sendmsg) as the driver reports room.

A connection's life is OPEN, CLOSING, LOST, CLOSED, in that order (see stream.pxd). `connection_made` is called
before anything is received and `connection_lost` exactly once, from the ready queue, after everything else. Calling
any method from inside any callback is safe. Semantics and messages are those of asyncio's selector transports.

A transport may carry another layer instead of a program's protocol: TLS (tls.pyx), which may carry TLS again. What
the two say to each other are the methods of `Layer`, called in C: no object is made for what was received, and what the
layer above keeps back while the kernel is behind is asked for as room comes.

Leaves to others: making the connection (connect.py), TLS (tls.pyx).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from noria.core.capi cimport (
    PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit, PyObject_CallMethodNoArgs, PyObject_CallMethodOneArg,
    enter_context, noria_take_exception,
)
from noria.core.wheel cimport Ready, Wheel, push
from noria.io.driver cimport STREAM, WANT_IN, WANT_OUT, Channel, IODriver
from noria.io.sys cimport (
    AF_INET, AF_INET6, AF_UNIX, EAGAIN, ECONNABORTED, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTO, SHUT_WR, close,
    getpeername, getsockname, inet_ntop, iovec, ntohl, ntohs, shutdown, sockaddr, sockaddr_in, sockaddr_in6,
    sockaddr_storage, sockaddr_un, socklen_t,
)

import asyncio.constants
import asyncio.protocols
import asyncio.transports
import asyncio.trsock
import os
import socket
import warnings
import weakref
from asyncio.log import logger

cdef enum:
    PARTS = 64                    # buffers in one sendmsg; the kernel takes 1024
    POST = 16 * 1024              # what is larger gains nothing by being sent together with other connections' bytes
    WARN_AFTER = 5                # writes to a lost connection before they are worth a warning
    ACCEPT_AT_ONCE = 256
    FOR_BUFFERED = 64 * 1024      # received at once for a layer above that may have to keep it
    RETRY_ACCEPT = 1              # seconds, when out of descriptors or memory

cdef Py_ssize_t HIGH_WATER = 64 * 1024
cdef object DATA_RECEIVED = "data_received"
cdef object BUFFER_UPDATED = "buffer_updated"
cdef object CONNECTION_MADE = "connection_made"
cdef object CONNECTION_LOST = "connection_lost"
cdef object GET_BUFFER = "get_buffer"
cdef object EOF_RECEIVED = "eof_received"
cdef object BufferedProtocol = asyncio.protocols.BufferedProtocol


cdef object address_of(sockaddr_storage* raw, socklen_t size):
    # As the socket module shows addresses.
    cdef char text[64]
    cdef sockaddr_in* v4
    cdef sockaddr_in6* v6
    cdef char* path
    if size == 0:
        return None
    if raw.ss_family == AF_INET:
        v4 = <sockaddr_in*>raw
        inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs(v4.sin_port)
    if raw.ss_family == AF_INET6:
        v6 = <sockaddr_in6*>raw
        inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text))
        return (text.decode("ascii"), ntohs(v6.sin6_port), ntohl(v6.sin6_flowinfo) & 0xFFFFF, v6.sin6_scope_id)
    if raw.ss_family == AF_UNIX:
        path = (<sockaddr_un*>raw).sun_path
        size -= 2
        if size == 0:
            return ""
        if path[0] == 0:
            return path[:size]  # abstract: bytes, as the socket module gives them
        return os.fsdecode(<bytes>path)
    return None


cdef class Sink(Ready):
    """A protocol that takes what came without a call through Python. Not for use from Python."""

    cdef int take(self, char* data, Py_ssize_t n) except -1:
        raise NotImplementedError

    cdef int take_whole(self, bytes data) except -1:
        raise NotImplementedError


cdef class Layer(Channel):
    """What transports have in common, and what one that stands on another says to it and hears of it."""

    @property
    def _loop(self):
        return self.loop

    def _is_choked(self):
        """Whether the protocol was told to pause writing."""
        return self.choked

    # The protocol above.

    def set_protocol(self, protocol):
        """From now on call this protocol."""
        self.use(protocol)

    def get_protocol(self):
        """The protocol it calls."""
        return self.protocol

    cdef int use(self, object protocol) except -1:
        self.protocol = protocol
        if isinstance(protocol, Layer):
            self.above = protocol
            self.reader = LAYER
            return 0
        self.above = None
        if isinstance(protocol, Sink) and (<Sink>protocol).direct:
            self.reader = SINK
            return 0
        self.reader = BUFFERED if isinstance(protocol, BufferedProtocol) else PROTOCOL
        return 0

    cdef bint enter(self, PyObject** outer) except -1:
        # Enter the connection's context. False: it is entered already, and not the caller's to leave.
        cdef PyObject* ours = <PyObject*>self.context
        cdef Wheel loop = self.loop
        if loop.entered == ours:
            return False
        enter_context(ours)
        outer[0] = loop.entered
        loop.entered = ours
        return True

    cdef int leave(self, PyObject* outer) noexcept:
        cdef PyObject* ours = <PyObject*>self.context
        if self.loop.entered == ours:  # else a nested run could not give it back
            PyContext_Exit(ours)
        self.loop.entered = outer
        return 0

    cdef bint call(self, object method, PyObject* arg, PyObject** result) noexcept:
        # Call the protocol in the connection's context. False: an exception is pending. `result` NULL: not wanted.
        # Our own references: the protocol may be changed while it runs, and a nested run may lend the context.
        cdef object protocol = self.protocol
        cdef object context = self.context
        cdef Wheel loop = self.loop
        cdef PyObject* outer = loop.entered
        cdef PyObject* got
        cdef bint inside = outer == <PyObject*>context  # a layer below has entered it
        if not inside:
            if PyContext_Enter(<PyObject*>context) < 0:
                return False
            loop.entered = <PyObject*>context
        if arg == NULL:
            got = PyObject_CallMethodNoArgs(<PyObject*>protocol, <PyObject*>method)
        else:
            got = PyObject_CallMethodOneArg(<PyObject*>protocol, <PyObject*>method, arg)
        if not inside:
            if loop.entered == <PyObject*>context:  # else a nested run could not give it back
                PyContext_Exit(<PyObject*>context)
            loop.entered = outer
        if got == NULL:
            return False
        if result == NULL:
            Py_DECREF(<object>got)
        else:
            result[0] = got
        return True

    cdef int report(self, str message) except -1:
        cdef PyObject* raised = noria_take_exception()
        error = <object>raised
        Py_DECREF(error)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        self.loop.call_exception_handler({
            "message": message, "exception": error, "transport": self, "protocol": self.protocol,
        })
        return 0

    # What waits to be sent.

    cdef int enqueue(self, object data, Py_ssize_t sent) except -1:
        # bytes cannot change under us; anything else can, and is copied.
        cdef Py_ssize_t size
        if type(data) is not bytes:
            data = bytes(memoryview(data).cast("B")[sent:])
            sent = 0
        size = PyBytes_GET_SIZE(data) - sent
        if self.queue is None:
            self.queue = []
        if self.backlog == 0:
            self.head = 0
            self.offset = sent
            self.queue.clear()
        self.queue.append(data)
        self.backlog += size
        return 0

    cdef int consume(self, Py_ssize_t count) except -1:
        cdef Py_ssize_t left
        self.backlog -= count
        while count:
            left = PyBytes_GET_SIZE(self.queue[self.head]) - self.offset
            if count < left:
                self.offset += count
                break
            count -= left
            self.queue[self.head] = None
            self.head += 1
            self.offset = 0
        if self.backlog == 0:
            self.queue = None
            self.head = 0
        elif self.head > 1024 and self.head > len(self.queue) >> 1:
            del self.queue[:self.head]
            self.head = 0
        return 0

    # Flow control.

    cdef int choke(self) except -1:
        # A layer above asks for itself what is unsent.
        if not self.choked and self.reader != LAYER and self.unsent() > self.high:
            self.choked = True
            self.tell("pause_writing")
        return 0

    cdef int relieve(self) except -1:
        if self.choked and self.unsent() <= self.low:
            self.choked = False
            if self.protocol is not None:  # connection_lost() has been
                self.tell("resume_writing")
        return 0

    cdef int tell(self, str method) except -1:
        # What the program itself brings about, by write(), it hears in the context it is in, as in asyncio; what an
        # event does, in the connection's.
        cdef PyObject* outer = NULL
        cdef bint entered = False
        try:
            entered = self.loop.entered == NULL and self.enter(&outer)
            getattr(self.protocol, method)()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.loop.call_exception_handler({
                "message": f"protocol.{method}() failed",
                "exception": error, "transport": self, "protocol": self.protocol,
            })
        finally:
            if entered:
                self.leave(outer)
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        """Bytes buffered above which the protocol is told to pause writing, and below which to go on.

        Defaults: 64 KiB (TLS: 512 KiB), and a quarter of high. Raises ValueError unless high >= low >= 0.
        """
        if high is None:
            high = 4 * low if low is not None else self.usual_high()
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high = high
        self.low = low
        self.choke()

    def get_write_buffer_limits(self):
        """(low, high), in bytes."""
        return self.low, self.high

    def get_write_buffer_size(self):
        """Bytes written and not taken by the kernel yet."""
        return self.unsent()

    cdef Py_ssize_t usual_high(self) noexcept:
        return HIGH_WATER

    cdef Py_ssize_t unsent(self) noexcept:
        return self.backlog

    # See stream.pxd.

    cdef int put(self, object data) except -1:
        raise NotImplementedError

    cdef bint ending(self) noexcept:
        return True

    cdef int carry(self, bytes data, bint more) except -1:
        raise NotImplementedError

    cdef int made(self, Layer below) except -1:
        raise NotImplementedError

    cdef int received(self, char* data, Py_ssize_t n) except -1:
        raise NotImplementedError

    cdef bint ends(self) except -1:
        raise NotImplementedError

    cdef int room(self) except -1:
        raise NotImplementedError

    cdef int hurry(self) except -1:
        raise NotImplementedError

    cdef int gone(self, object error) except -1:
        raise NotImplementedError


class Socket(asyncio.trsock.TransportSocket):
    """The socket object of a connection: its transport knows when the program lays hands on the descriptor."""

    __slots__ = ("_transport",)

    def __init__(self, sock, transport):
        super().__init__(sock)
        self._transport = weakref.ref(transport)

    def fileno(self):
        """The descriptor's number."""
        lay_bare(self._transport())
        return self._sock.fileno()

    def dup(self):
        """A socket.socket of a duplicate of the descriptor."""
        lay_bare(self._transport())
        return self._sock.dup()

    def shutdown(self, how):
        """Close one half of the connection or both: shutdown(2). What was written goes out before."""
        send_posted(self._transport())
        self._sock.shutdown(how)

    def __repr__(self):
        return repr(asyncio.trsock.TransportSocket(self._sock))


cdef int lay_bare(StreamTransport transport) except -1:
    if transport is not None:
        transport.lay_bare()
    return 0


cdef int send_posted(StreamTransport transport) except -1:
    if transport is not None:
        transport.send_posted()
    return 0


cdef class StreamTransport(Layer):
    """A TCP or Unix-domain connection. Made by the loop's create_connection, create_server and their kin."""

    def __cinit__(self):
        self.life = CLOSED  # until make() opens it

    def __init__(self):
        raise TypeError("transports are made by the loop: create_connection(), create_server()")

    @property
    def __class__(self):
        return asyncio.transports.Transport

    _start_tls_compatible = True
    _sendfile_compatible = asyncio.constants._SendfileMode.TRY_NATIVE

    def _hold_writes(self, bint on):
        """While a file is being sent, write() would put its data into the middle of it, and raises."""
        self.sending_file = on

    def _is_posted(self):
        """Whether bytes that count as sent are still on their way to the kernel."""
        return self.aloft != 0

    def _surrender(self):
        """Pause reading, and let the caller receive from the descriptor: what came before and nobody was told, bytes.

        None: not now. Reading is paused all the same.
        """
        self.pause_reading()
        if self.life != OPEN:
            return None
        self.lay_bare()
        return self.driver.surrender(self)

    # Opening.

    cdef int begin(self) except -1:
        # connection_made, then start receiving, unless the protocol thought better of it.
        self.begun = True
        if self.reader == LAYER:
            upper(self).made(self)
        elif not self.call(CONNECTION_MADE, <PyObject*>self, NULL):
            self.report("Exception in protocol.connection_made()")
        if self.life == OPEN and not self.paused and not self.ended:
            try:
                self.driver.want(self, self.wants | WANT_IN)
            except OSError as error:  # the kernel's limit on watches: epoll(7)
                self.fatal(error, "Fatal error: cannot watch the socket")
        return 0

    # Receiving.

    cdef int run(self) except -1:
        if not self.begun:
            return self.begin()
        if self.queued:
            return Channel.run(self)  # an event's place in the queue; connection_lost() has its own, behind it
        if self.life == LOST:
            return self.finish()
        return 0

    cdef int happened(self, uint32_t events) except -1:
        if events & WANT_OUT:
            self.flush()
        if events & WANT_IN and self.wants & WANT_IN:
            if self.reader == PROTOCOL or self.reader == SINK:
                return self.read_ready()
            if self.reader == LAYER:
                return self.read_up()
            return self.read_into()
        return 0

    cdef int read_ready(self) except -1:
        cdef char* where = NULL
        cdef Py_ssize_t n = self.driver.receive(self, &where, 0)
        cdef bytes data
        if n <= 0:
            if n == 0:
                return self.got_eof()
            return self.trouble(n, "Fatal read error on socket transport")
        if self.reader == SINK:
            sink = self.protocol
            try:
                return (<Sink>sink).take(where, n)
            except Exception as error:
                return self.fatal(error, "Fatal error: protocol.data_received() call failed.")
        data = PyBytes_FromStringAndSize(where, n)
        if not self.call(DATA_RECEIVED, <PyObject*>data, NULL):
            return self.call_failed("Fatal error: protocol.data_received() call failed.")
        return 0

    cdef int read_up(self) except -1:
        cdef char* where = NULL
        cdef Layer above = upper(self)
        # A layer that fills its protocol's buffer may have to keep the rest of what it is given.
        cdef Py_ssize_t n = self.driver.receive(self, &where, FOR_BUFFERED if above.reader == BUFFERED else 0)
        if n <= 0:
            if n == 0:
                return self.got_eof()
            return self.trouble(n, "Fatal read error on socket transport")
        return above.received(where, n)

    cdef int read_into(self) except -1:
        cdef Py_buffer view
        cdef char* where
        cdef Py_ssize_t n
        cdef PyObject* got
        cdef object number = -1
        if not self.call(GET_BUFFER, <PyObject*>number, &got):
            return self.call_failed("Fatal error: protocol.get_buffer() call failed.")
        buffer = <object>got
        Py_DECREF(buffer)
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except BaseException as error:
            return self.fatal(error, "Fatal error: protocol.get_buffer() call failed.")
        where = <char*>view.buf
        if view.len == 0:
            PyBuffer_Release(&view)
            return self.fatal(RuntimeError("get_buffer() returned an empty buffer"),
                              "Fatal error: protocol.get_buffer() call failed.")
        if self.life >= LOST or not self.wants & WANT_IN:
            PyBuffer_Release(&view)  # get_buffer() closed or paused us
            return 0
        n = self.driver.receive(self, &where, view.len)
        PyBuffer_Release(&view)
        if n <= 0:
            if n == 0:
                return self.got_eof()
            return self.trouble(n, "Fatal read error on socket transport")
        number = <object>n
        if not self.call(BUFFER_UPDATED, <PyObject*>number, NULL):
            return self.call_failed("Fatal error: protocol.buffer_updated() call failed.")
        return 0

    cdef int got_eof(self) except -1:
        cdef PyObject* got
        self.ended = True
        self.driver.want(self, self.wants & ~<uint32_t>WANT_IN)
        if self.reader == LAYER:
            if not upper(self).ends():
                self.close()
            return 0
        if not self.call(EOF_RECEIVED, NULL, &got):
            return self.call_failed("Fatal error: protocol.eof_received() call failed.")
        keep_open = <object>got
        Py_DECREF(keep_open)
        if not keep_open:
            self.close()
        return 0

    # Sending.

    def write(self, data):
        """Send data: bytes, bytearray or memoryview. Does not block: what the kernel does not take is buffered."""
        self.put(data)

    cdef int put(self, object data) except -1:
        cdef iovec part
        cdef Py_buffer view
        cdef Py_ssize_t n, size
        cdef bint plain = type(data) is bytes
        if self.eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.sending_file:
            raise RuntimeError("unable to write; sendfile is in progress")
        if plain:
            part.iov_base = PyBytes_AS_STRING(data)
            size = PyBytes_GET_SIZE(data)
        else:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            part.iov_base = view.buf
            size = view.len
        try:
            if size == 0:
                return 0
            if self.life >= LOST:
                self.lost_writes += 1
                if self.lost_writes >= WARN_AFTER:
                    logger.warning("socket.send() raised exception.")
                return 0
            n = 0
            if self.backlog == 0 and self.driver.posting and self.aloft + size <= POST and self.give(
                    data if plain else PyBytes_FromStringAndSize(<char*>part.iov_base, size)):
                return 0
            if self.aloft:
                self.recall()
                if self.life >= LOST:
                    return 0
            if self.backlog == 0 and self.aloft == 0:
                part.iov_len = size
                n = self.driver.send(self, &part, 1)
                if n == size:
                    return 0
                if n < 0:
                    if n != -EAGAIN:
                        self.trouble(n, "Fatal write error on socket transport")
                        return 0
                    n = 0
            self.enqueue(data, n)
        finally:
            if not plain:
                PyBuffer_Release(&view)
        return self.await_room()

    def writelines(self, list_of_data):
        """Send each item of an iterable of bytes-like objects, in one system call where the kernel takes it."""
        if self.eof:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        if self.sending_file:
            raise RuntimeError("unable to writelines; sendfile is in progress")
        items = []
        for item in list_of_data:
            if not isinstance(item, (bytes, bytearray, memoryview)):
                raise TypeError(f"data argument must be a bytes-like object, not {type(item).__name__!r}")
            # Converted before the first is queued: what fails here leaves nothing half done.
            items.append(item if type(item) is bytes else bytes(item))
        if self.life >= LOST:
            if items:
                self.lost_writes += 1
                if self.lost_writes >= WARN_AFTER:
                    logger.warning("socket.send() raised exception.")
            return
        if self.driver.posting and self.backlog == 0 and items:
            total = sum(map(len, items))
            if total == 0 or (self.aloft + total <= POST and self.give(b"".join(items))):
                return
        if self.aloft:
            self.recall()
            if self.life >= LOST:
                return
        idle = self.backlog == 0 and self.aloft == 0
        for item in items:
            if len(item):
                self.enqueue(item, 0)
        if self.backlog == 0:
            return
        if idle:
            self.flush()
        if self.backlog and self.life < LOST:
            self.await_room()

    cdef int carry(self, bytes data, bint more) except -1:
        cdef iovec part
        cdef Py_ssize_t n
        part.iov_base = PyBytes_AS_STRING(data)
        part.iov_len = PyBytes_GET_SIZE(data)
        if self.life >= LOST:
            return 0
        if self.driver.posting and self.backlog == 0 and not more:
            if not part.iov_len or (self.aloft + <Py_ssize_t>part.iov_len <= POST and self.give(data)):
                return 0
        if self.aloft:
            self.recall()
            if self.life >= LOST:
                return 0
        if self.backlog or self.aloft or more:
            if part.iov_len:
                self.enqueue(data, 0)
            if more or self.aloft or self.wants & WANT_OUT:
                return 0
            self.flush()
        elif part.iov_len:
            n = self.driver.send(self, &part, 1)
            if n == <Py_ssize_t>part.iov_len:
                return 0
            if n < 0:
                if n != -EAGAIN:
                    return self.trouble(n, "Fatal write error on socket transport")
                n = 0
            self.enqueue(data, n)
        if self.backlog and self.life < LOST:
            return self.await_room()
        return 0

    cdef bint give(self, bytes data) except -1:
        # Let the driver send it together with what else this turn sends. It counts as sent: what the kernel then does
        # not take comes back and is queued. False: not now. When nobody runs the loop, or it sleeps while another
        # thread writes (which is that thread's mistake), the bytes would wait.
        if (self.kind != STREAM or self.bare or self.loop.thread == 0 or self.loop.asleep
                or not self.driver.post(self, data)):
            return False
        self.aloft += PyBytes_GET_SIZE(data)
        return True

    cdef int sent(self, bytes data, Py_ssize_t n) except -1:
        cdef bint whole = self.came_down(data, n)
        if self.life >= LOST:
            return 0
        if whole:
            if self.backlog == 0:
                return self.emptied()
            self.flush()
        if self.backlog and self.life < LOST:
            return self.await_room()
        return 0

    cdef bint came_down(self, bytes data, Py_ssize_t n) except -1:
        # The kernel took n bytes of what was posted, or none for -errno: the rest is queued before what follows it.
        # True: nothing is left of it. The program is told nothing: a write of its own from pause_writing() would come
        # before the one that we may be in the middle of.
        cdef Py_ssize_t size = self.aloft
        self.aloft = 0
        if self.life >= LOST:
            return False
        if n < 0:
            if n != -EAGAIN:
                self.trouble(n, "Fatal write error on socket transport")
                return False
            n = 0
        if n == size:
            return True
        if self.queue is None:
            self.queue = []
        # Nothing of what was queued has gone before it: no item there is begun.
        self.queue[:self.head] = ()
        self.queue.insert(0, data)
        self.head = 0
        self.offset = n
        self.backlog += size - n
        return False

    cdef int recall(self) except -1:
        # Send at once what is posted, if it is not on its way: something follows that the driver cannot take. Whoever
        # calls queues that, if it still may, before it asks for room.
        data = self.driver.unpost(self)
        if data is not None and self.came_down(data, self.send_one(data)):
            self.emptied()
        return 0

    cdef int send_posted(self) except -1:
        # Send at once what is posted, as something follows that is not ours to order.
        if self.aloft and not self.driver.abandoned:
            self.recall()
            if self.backlog and self.life < LOST and not self.wants & WANT_OUT:
                self.await_room()
        return 0

    cdef int lay_bare(self) except -1:
        # The program asked for the descriptor: what it does with it comes behind what it wrote, and finds what has not
        # been told yet.
        self.send_posted()
        self.driver.lay_bare(self)
        return 0

    cdef Py_ssize_t send_one(self, bytes data) noexcept:
        cdef iovec part
        part.iov_base = PyBytes_AS_STRING(data)
        part.iov_len = PyBytes_GET_SIZE(data)
        return self.driver.send(self, &part, 1)

    cdef int await_room(self) except -1:
        try:
            self.driver.want(self, self.wants | WANT_OUT)
        except OSError as error:  # the kernel's limit on watches: epoll(7)
            return self.fatal(error, "Fatal error: cannot watch the socket")
        return self.choke()

    cdef int flush(self) except -1:
        # Send what is queued. Whoever calls sees to it that the driver tells us of room for the rest.
        cdef iovec parts[PARTS]
        cdef int count
        cdef Py_ssize_t n, asked, i
        cdef bytes item
        if self.aloft:
            return 0  # sent() will
        while self.backlog:
            count = 0
            asked = 0
            i = self.head
            while count < PARTS and i < len(self.queue):
                item = self.queue[i]
                parts[count].iov_base = PyBytes_AS_STRING(item)
                parts[count].iov_len = PyBytes_GET_SIZE(item)
                if count == 0:
                    parts[0].iov_base = PyBytes_AS_STRING(item) + self.offset
                    parts[0].iov_len -= self.offset
                asked += parts[count].iov_len
                count += 1
                i += 1
            n = self.driver.send(self, parts, count)
            if n < 0:
                if n == -EAGAIN:
                    return 0
                return self.trouble(n, "Fatal write error on socket transport")
            self.consume(n)
            if n < asked:
                break
        if self.reader == LAYER:
            upper(self).room()  # may bring more
            if self.life >= LOST:
                return 0
        if self.backlog == 0:
            self.driver.want(self, self.wants & ~<uint32_t>WANT_OUT)
        self.relieve()
        return self.emptied()

    cdef int emptied(self) except -1:
        if self.backlog == 0 and self.aloft == 0:
            if self.life == CLOSING:
                self.lose(None)
            elif self.eof and self.life == OPEN:
                shutdown(self.fd, SHUT_WR)
        return 0

    def write_eof(self):
        """Close the sending half once everything written has gone out."""
        if self.life != OPEN or self.eof:
            return
        self.send_posted()
        if self.life != OPEN:
            return
        self.eof = True
        if self.backlog == 0 and self.aloft == 0 and not self.driver.abandoned:  # it would end the parent's connection
            shutdown(self.fd, SHUT_WR)

    def can_write_eof(self):
        """True: streams have a half-close."""
        return True

    # Receiving or not.

    def pause_reading(self):
        """Receive nothing until resume_reading()."""
        if self.life != OPEN or self.paused:
            return
        self.paused = True
        self.driver.want(self, self.wants & ~<uint32_t>WANT_IN)

    def resume_reading(self):
        """Undo pause_reading()."""
        if self.life != OPEN or not self.paused:
            return
        self.paused = False
        if not self.ended:
            self.driver.want(self, self.wants | WANT_IN)

    def is_reading(self):
        """Whether data may arrive: not paused, not closing."""
        return self.life == OPEN and not self.paused

    # Closing.

    def close(self):
        """Stop receiving, send what is buffered, then close. connection_lost(None) follows."""
        if self.life != OPEN:
            return
        if self.reader == LAYER:
            upper(self).hurry()
        self.send_posted()
        if self.life != OPEN:
            return
        self.life = CLOSING
        self.driver.want(self, self.wants & ~<uint32_t>WANT_IN)
        if self.backlog == 0 and self.aloft == 0:
            self.lose(None)

    def abort(self):
        """Close at once; what is buffered is thrown away. connection_lost(None) follows."""
        self.lose(None)

    def _force_close(self, exc):
        """Close at once with an error. For protocols that wrap transports, as asyncio's TLS does."""
        self.lose(exc)

    def is_closing(self):
        """Whether it is closing or closed."""
        return self.life != OPEN

    cdef bint ending(self) noexcept:
        return self.life != OPEN

    cdef int lose(self, object error) except -1:
        # The one way out of OPEN and CLOSING.
        if self.life >= LOST:
            return 0
        self.life = LOST
        if self.aloft:
            data = self.driver.unpost(self)
            if data is not None:
                self.send_one(data)  # it counts as sent: no error of it could be told any more
        self.queue = None
        self.backlog = 0
        self.reason = error
        self.driver.forget(self)
        if not self.loop.shut:
            push(self.loop, self)
        return 0

    cdef int finish(self) except -1:
        cdef object reason = self.reason
        cdef object server = self.server
        self.life = CLOSED
        self.server = None
        self.reason = None
        try:
            if self.reader == LAYER:
                upper(self).gone(reason)
            elif not self.call(CONNECTION_LOST, <PyObject*>reason, NULL):
                self.report("Exception in protocol.connection_lost()")
        finally:
            self.protocol = self.above = None
            self.reader = PROTOCOL
            self.close_fd()
            if server is not None:
                server._detach(self)
        return 0

    cdef int close_fd(self) except -1:
        cdef int fd = self.fd
        if fd < 0:
            return 0
        if self.peer is None and self.raw_peer_size == 0:
            self.address(True)
        self.extra_info()["sockname"] = self.address(False)
        self.fd = -1
        if self.sock is not None:
            sock = self.sock
            self.sock = None
            sock.close()
        else:
            close(fd)
        return 0

    def __del__(self):
        if self.fd >= 0:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self.close_fd()

    # Trouble.

    cdef int trouble(self, Py_ssize_t error, str message) except -1:
        # A system call gave -errno.
        if error == -EAGAIN:
            return 0
        return self.fatal(OSError(-error, os.strerror(-error)), message)

    cdef int fatal(self, object error, str message) except -1:
        try:
            if isinstance(error, OSError):
                # The peer's doing, not the program's: the protocol hears of it by connection_lost.
                if self.loop.debug:
                    logger.debug("%r: %s", self, message, exc_info=error)
            else:
                self.loop.call_exception_handler({
                    "message": message, "exception": error, "transport": self, "protocol": self.protocol,
                })
        finally:
            self.lose(error)
        return 0

    cdef int call_failed(self, str message) except -1:
        # A protocol's method raised, by way of the C API.
        cdef PyObject* raised = noria_take_exception()
        error = <object>raised
        Py_DECREF(error)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        return self.fatal(error, message)

    # Looking at it.

    cdef dict extra_info(self):
        if self.extra is None:
            self.extra = {}
        return self.extra

    def get_extra_info(self, name, default=None):
        """'socket' (an asyncio.TransportSocket), 'sockname', 'peername'; else what a wrapping layer added."""
        if self.extra is not None and name in self.extra:
            return self.extra[name]
        if name == "socket":
            if self.sock is None and self.fd >= 0:
                self.sock = socket.socket(fileno=self.fd)
            if self.sock is None:
                return default
            found = Socket(self.sock, self)
            self.extra_info()["socket"] = found
            return found
        if name == "peername":
            found = self.address(True)
            return default if found is None else found
        if name == "sockname":
            found = self.address(False)
            return default if found is None else found
        return default

    cdef object address(self, bint peer):
        cdef sockaddr_storage raw
        cdef socklen_t size = sizeof(raw)
        if peer:
            if self.peer is None:
                if self.raw_peer_size:
                    memcpy(&raw, self.raw_peer, self.raw_peer_size)
                    self.peer = address_of(&raw, self.raw_peer_size)
                elif self.fd >= 0 and getpeername(self.fd, <sockaddr*>&raw, &size) == 0:
                    self.peer = address_of(&raw, size)
            return self.peer
        if self.fd >= 0 and getsockname(self.fd, <sockaddr*>&raw, &size) == 0:
            return address_of(&raw, size)
        return None

    @property
    def _sock(self):
        return self.sock

    def __repr__(self):
        info = [type(self).__name__]
        if self.life == CLOSED:
            info.append("closed")
        elif self.life != OPEN:
            info.append("closing")
        info.append(f"fd={self.fd}")
        if self.fd >= 0:
            info.append("read=polling" if self.wants & WANT_IN else "read=idle")
            state = "polling" if self.wants & WANT_OUT else "idle"
            info.append(f"write=<{state}, bufsize={self.backlog}>")
        return f"<{' '.join(info)}>"


cdef StreamTransport make(Wheel loop, int fd, object sock, object protocol, object server):
    cdef StreamTransport transport = StreamTransport.__new__(StreamTransport)
    loop.check_open()
    transport.loop = loop
    transport.driver = <IODriver>loop.driver
    transport.context = PyContext_CopyCurrent()
    transport.high = HIGH_WATER
    transport.low = HIGH_WATER // 4
    transport.use(protocol)
    transport.server = server
    if server is not None:
        server._attach(transport)
    # From here on the descriptor is the transport's to close; until here nothing has failed that would close it twice.
    transport.fd = fd
    transport.sock = sock
    transport.life = OPEN
    return transport


def open_stream(Wheel loop not None, sock, protocol, server=None, peer=None):
    """A transport over a connected, non-blocking socket object, which it owns from now on.

    protocol.connection_made(transport) is called from the ready queue; then receiving starts.
    """
    cdef StreamTransport transport = make(loop, sock.fileno(), sock, protocol, server)
    transport.peer = peer
    transport.kind = STREAM
    push(loop, transport)
    return transport


cdef class Listener(Channel):
    """Accepts connections of one listening socket for a Server."""

    def __cinit__(self):
        self.closed = True

    def __init__(self, Wheel loop not None, sock, factory, server, int backlog, wrap=None):
        self.loop = loop
        self.driver = <IODriver>loop.driver
        self.sock = sock
        self.factory = factory
        self.server = server
        self.backlog = max(1, min(backlog, ACCEPT_AT_ONCE))
        self.expect = 1
        self.wrap = wrap
        self.context = PyContext_CopyCurrent()
        self.fd = sock.fileno()
        loop.check_open()
        self.closed = False

    def start(self):
        """Begin to accept."""
        if not self.closed:
            self.driver.want(self, WANT_IN)

    def close(self):
        """Accept no more. The socket object stays its owner's to close."""
        if not self.closed:
            self.closed = True
            self.driver.forget(self)

    cdef int happened(self, uint32_t events) except -1:
        cdef sockaddr_storage addr
        cdef socklen_t size
        cdef int fd, left = self.expect, came = 0
        # As many as the last time let us expect, twice as many if they were all there: the accept that finds nobody is
        # a system call in vain. Who is left is reported in the next turn.
        while left > 0 and not self.closed:
            left -= 1
            size = sizeof(addr)
            fd = self.driver.accept(self, &addr, &size)
            if fd >= 0:
                came += 1
                self.admit(fd, &addr, size)
                continue
            if fd == -EAGAIN:
                break
            if fd == -ECONNABORTED or fd == -EPROTO:
                continue  # that client is gone already
            # The socket may stay readable: without a pause the loop would spin.
            self.driver.forget(self)
            self.loop.call_later(RETRY_ACCEPT, self.start)
            lacking = fd in (-EMFILE, -ENFILE, -ENOBUFS, -ENOMEM)
            self.loop.call_exception_handler({
                "message": "socket.accept() out of system resource" if lacking else "socket.accept() failed",
                "exception": OSError(-fd, os.strerror(-fd)),
                "socket": asyncio.trsock.TransportSocket(self.sock),
            })
            break
        self.expect = max(1, came) if came < self.expect else min(2 * self.expect, self.backlog)
        return 0

    cdef int admit(self, int fd, sockaddr_storage* addr, socklen_t size) except -1:
        cdef StreamTransport transport
        cdef PyObject* outer
        if addr.ss_family != AF_INET and addr.ss_family != AF_INET6 and addr.ss_family != AF_UNIX:
            size = 0
        if PyContext_Enter(<PyObject*>self.context) < 0:
            close(fd)
            raise RuntimeError("a listener's context is in use")
        outer = self.loop.entered
        self.loop.entered = <PyObject*>self.context
        transport = None
        try:
            protocol = self.factory()
            if self.wrap is not None:
                protocol = self.wrap(protocol)
            transport = make(self.loop, fd, None, protocol, self.server)
            transport.kind = STREAM
            if 0 < size <= sizeof(transport.raw_peer):
                memcpy(transport.raw_peer, addr, size)
                transport.raw_peer_size = size
        except (KeyboardInterrupt, SystemExit):
            if transport is None:
                close(fd)
            raise
        except BaseException as error:
            if transport is None:
                close(fd)
            self.loop.call_exception_handler({
                "message": "Error on transport creation for incoming connection", "exception": error,
            })
            return 0
        finally:
            if self.loop.entered == <PyObject*>self.context:
                PyContext_Exit(<PyObject*>self.context)
            self.loop.entered = outer
        return transport.begin()
