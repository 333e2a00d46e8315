"""StreamReaderProtocol and StreamWriter: a connection as a pair of streams.

The protocol stands between a transport and a StreamReader. Over a transport of ours it is a `Sink`: what came goes
from the driver's buffer to the reader's without a call through Python; other transports, and subclasses of programs
that override `data_received` or `feed_data`, come by the ordinary methods. The writer's methods go straight to the
transport; `drain` suspends only while the transport is behind.

Promises what asyncio's of CPython 3.13 do, on every interpreter and on any loop. A connection that its program has
forgotten is collected: the protocol refers to the reader weakly, and nothing that asyncio makes at once is made before
somebody asks for it.

Leaves to others: reading (reader.pyx), opening connections and servers (opening.py).
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

cimport cython

from noria.core.capi cimport noria_forget_dict, noria_let_be_patched, noria_referent
from noria.core.futures cimport is_native
from noria.core.tasks cimport Task
from noria.core.waits cimport DONE, RAISE, WAIT, YIELD
from noria.net.stream cimport Layer
from noria.streams.reader cimport StreamReader
from noria.sync.lines cimport Line, Parked, inherits, shown_as

import asyncio.coroutines
import asyncio.events
import asyncio.streams
import weakref
import warnings
from asyncio.log import logger

from noria.streams import _by_methods
from noria.core._marks import mark_coroutine_functions

cdef object iscoroutine = asyncio.coroutines.iscoroutine
cdef object make_ref = weakref.ref
# Those of the standard library, whatever takes their places later.
cdef object StandardReader = asyncio.streams.StreamReader
cdef object StandardWriter = asyncio.streams.StreamWriter
cdef object StandardProtocol = asyncio.streams.StreamReaderProtocol


cdef class StreamReaderProtocol(Sink):
    """StreamReaderProtocol(stream_reader, client_connected_cb=None, loop=None)\n--

    Feeds a StreamReader with what a connection brings.

    client_connected_cb: called with a StreamReader and a StreamWriter when the connection is made; a coroutine that
    it returns is run as a task. Its exceptions go to the loop's exception handler, and close the connection.

    Source: asyncio.StreamReaderProtocol.
    """

    def __cinit__(self):
        noria_forget_dict(self)

    def __init__(self, stream_reader, client_connected_cb=None, loop=None):
        self._loop = asyncio.events.get_event_loop() if loop is None else loop
        self.plain_drain = inherits(self, ("_drain_helper", "pause_writing", "resume_writing"))
        self.plain_close = inherits(self, ("_get_close_waiter", "connection_lost"))
        self.direct = inherits(self, ("data_received",))
        if stream_reader is not None:
            self._stream_reader_wr = make_ref(stream_reader)
            self.source_tb = stream_reader._source_traceback
            if not isinstance(stream_reader, StreamReader) or not (<StreamReader>stream_reader).plain:
                self.direct = False
        if client_connected_cb is not None:
            # The reader has nobody else until the connection is made.
            self._strong_reader = stream_reader
        self._client_connected_cb = client_connected_cb

    # What asyncio's duck typing and programs look at.

    @property
    def __class__(self):
        return shown_as(self, StandardProtocol)

    @property
    def _source_traceback(self):
        return self.source_tb

    @property
    def _stream_reader(self):
        return self.any_reader()

    @property
    def _over_ssl(self):
        return self.over_ssl != 0

    @_over_ssl.setter
    def _over_ssl(self, value):
        self.over_ssl = bool(value)

    @property
    def _paused(self):
        return self.paused != 0

    @property
    def _connection_lost(self):
        return self.lost != 0

    @property
    def _reject_connection(self):
        return self.reject != 0

    @_reject_connection.setter
    def _reject_connection(self, value):
        self.reject = bool(value)

    @property
    def _closed(self):
        return self.closed_future()

    @property
    def _drain_waiters(self):
        return None if self.drains is None else self.drains.members()

    def _replace_transport(self, transport):
        """From now on the connection goes by this transport, which stands on the one before."""
        self._transport = transport
        self.over_ssl = transport.get_extra_info("sslcontext") is not None

    def _replace_writer(self, writer):
        self._replace_transport(writer.transport)
        self._stream_writer = writer

    # What the transport calls.

    def connection_made(self, transport):
        """Hand the connection to the reader, and reader and writer to the callback."""
        if self.reject:
            report = {
                "message": (
                    "An open stream was garbage collected prior to establishing network connection; "
                    'call "stream.close()" explicitly.'
                ),
            }
            if self.source_tb:
                report["source_traceback"] = self.source_tb
            self._loop.call_exception_handler(report)
            transport.abort()
            return
        self._transport = transport
        reader = self.any_reader()
        if reader is not None:
            reader.set_transport(transport)
        self.over_ssl = transport.get_extra_info("sslcontext") is not None
        if self._client_connected_cb is not None:
            writer = StreamWriter(transport, self, reader, self._loop)
            result = self._client_connected_cb(reader, writer)
            if iscoroutine(result):
                task = self._task = self._loop.create_task(result)
                self.serving = task
                self.served = transport
                if isinstance(task, Task) and is_native(task) and (<Task>task).wheel is not None:
                    (<Task>task).wait_by(self)  # our run() is its callback
                else:
                    task.add_done_callback(self._wakeup)
            self._strong_reader = None

    cdef int run(self) except -1:
        return self.after_serving()

    def _wakeup(self, task):
        """The client_connected_cb has come to its end."""
        self.after_serving()

    cdef int after_serving(self) except -1:
        task, transport = self.serving, self.served
        self.serving = self.served = None
        if task is None:
            return 0
        if task.cancelled():
            transport.close()
            return 0
        error = task.exception()
        if error is not None:
            self._loop.call_exception_handler({
                "message": "Unhandled exception in client_connected_cb",
                "exception": error,
                "transport": transport,
            })
            transport.close()
        return 0

    def connection_lost(self, exc):
        """Tell the reader, and whoever waits for it."""
        reader = self.any_reader()
        if reader is not None:
            if exc is None:
                reader.feed_eof()
            else:
                reader.set_exception(exc)
        self.lost = True
        self.reason = exc
        if self.close_waiter is not None and not self.close_waiter.done():
            if exc is None:
                self.close_waiter.set_result(None)
            else:
                self.close_waiter.set_exception(exc)
        wake_all(self.mourners, exc)
        if self.paused:
            wake_all(self.drains, exc)
        self._stream_reader_wr = None
        self._stream_writer = None
        self._task = None
        self._transport = None

    def data_received(self, data):
        """Feed the reader."""
        reader = self.any_reader()
        if reader is not None:
            reader.feed_data(data)

    def eof_received(self):
        """Tell the reader. True, to keep the sending half open, unless the connection is TLS, which has no halves."""
        reader = self.any_reader()
        if reader is not None:
            reader.feed_eof()
        return not self.over_ssl

    def pause_writing(self):
        """From now on `drain` waits."""
        assert not self.paused
        self.paused = True
        if self._loop.get_debug():
            logger.debug("%r pauses writing", self)

    def resume_writing(self):
        """Let those go on who wait in `drain`."""
        assert self.paused
        self.paused = False
        if self._loop.get_debug():
            logger.debug("%r resumes writing", self)
        wake_all(self.drains, None)

    cdef int take(self, char* data, Py_ssize_t n) except -1:
        cdef StreamReader reader = self.native_reader()
        return 0 if reader is None else reader.take_in(data, n)

    cdef int take_whole(self, bytes data) except -1:
        cdef StreamReader reader = self.native_reader()
        return 0 if reader is None else reader.take_whole(data)

    # For the writer.

    def _drain_helper(self):
        """Wait until more may be written. Raises ConnectionResetError if the connection is lost."""
        cdef Drain drain = <Drain>drains_new()
        drain.protocol = self
        return drain

    def _get_close_waiter(self, stream):
        return self.closed_future()

    # Inside.

    cdef object any_reader(self):
        if self._stream_reader_wr is None:
            return None
        return self._stream_reader_wr()

    cdef StreamReader native_reader(self):
        cdef PyObject* found
        if self._stream_reader_wr is None:
            return None
        found = noria_referent(self._stream_reader_wr)
        if found == NULL:
            return None
        reader = <StreamReader?><object>found
        Py_DECREF(reader)
        return reader

    cdef object closed_future(self):
        if self.close_waiter is None:
            self.close_waiter = self._loop.create_future()
            if self.lost:
                if self.reason is None:
                    self.close_waiter.set_result(None)
                else:
                    self.close_waiter.set_exception(self.reason)
        return self.close_waiter

    def __del__(self):
        # Nobody has to ask what the connection was lost by.
        waiter = self.close_waiter
        if waiter is not None and waiter.done() and not waiter.cancelled():
            waiter.exception()


cdef int wake_all(Line line, object error) except -1:
    if line is None:
        return 0
    if error is None:
        while line.wake_next():
            pass
        return 0
    for waiter in line.members():
        if not waiter.done():
            waiter.set_exception(error)
    return 0


cdef class Feeder(Sink):
    """Feeder(reader, protocol)

    Stands between a pipe and its protocol: what came goes to the reader, everything else to the protocol.
    """

    def __init__(self, StreamReader reader not None, protocol):
        self.reader = reader
        self.below = protocol
        self.direct = True

    cdef int take(self, char* data, Py_ssize_t n) except -1:
        return self.reader.take_in(data, n)

    cdef int take_whole(self, bytes data) except -1:
        return self.reader.take_whole(data)

    def data_received(self, data):
        """Feed the reader."""
        self.reader.feed_data(data)

    def eof_received(self):
        """Passed on."""
        return self.below.eof_received()

    def connection_lost(self, exc):
        """Passed on."""
        self.below.connection_lost(exc)

    def __repr__(self):
        return repr(self.below)


cdef class StreamWriter:
    """StreamWriter(transport, protocol, reader, loop)\n--

    Writes to a connection. Made by `open_connection` and `start_server`.

    Source: asyncio.StreamWriter.
    """

    def __cinit__(self):
        noria_forget_dict(self)

    def __init__(self, transport, protocol, reader, loop):
        self.use(transport)
        self._protocol = protocol
        if isinstance(protocol, StreamReaderProtocol) and (<StreamReaderProtocol>protocol).plain_drain:
            self.native = protocol
        assert reader is None or isinstance(reader, (StreamReader, StandardReader))
        self._reader = reader
        self._loop = loop

    @property
    def __class__(self):
        return shown_as(self, StandardWriter)

    def __repr__(self):
        info = [type(self).__name__, f"transport={self.transport_!r}"]
        if self._reader is not None:
            info.append(f"reader={self._reader!r}")
        return f"<{' '.join(info)}>"

    @property
    def transport(self):
        """The transport it writes to."""
        return self.transport_

    @property
    def _transport(self):
        return self.transport_

    @_transport.setter
    def _transport(self, value):
        self.use(value)

    def write(self, data):
        """Send data: a bytes-like object. What the kernel does not take is buffered; see `drain`."""
        if self.layer is not None:
            self.layer.put(data)
        else:
            self.transport_.write(data)

    def writelines(self, data):
        """Send each item of an iterable of bytes-like objects."""
        self.transport_.writelines(data)

    def write_eof(self):
        """Close the sending half once everything written has gone out."""
        return self.transport_.write_eof()

    def can_write_eof(self):
        """Whether there is a half-close: not with TLS."""
        return self.transport_.can_write_eof()

    def close(self):
        """Send what is buffered, then close. See `wait_closed`."""
        return self.transport_.close()

    def is_closing(self):
        """Whether it is closing or closed."""
        return self.closing()

    def wait_closed(self):
        """Wait until the connection is closed. Raises the exception it was lost by. A coroutine."""
        cdef WaitClosed wait
        protocol = self._protocol
        if not isinstance(protocol, StreamReaderProtocol) or not (<StreamReaderProtocol>protocol).plain_close:
            return _by_methods.wait_closed(self)
        wait = WaitClosed.__new__(WaitClosed)
        wait.protocol = protocol
        return wait

    def get_extra_info(self, name, default=None):
        """What the transport knows: 'peername', 'sockname', 'socket', with TLS 'ssl_object' and others."""
        return self.transport_.get_extra_info(name, default)

    def drain(self):
        """Wait until it is a good time to write more: at once, unless too much is buffered.

        A coroutine. Raises the reader's exception if it has one, ConnectionResetError if the connection is lost.
        """
        cdef Drain drain
        if self.native is None:
            return _by_methods.drain(self)
        drain = <Drain>drains_new()
        drain.protocol = self.native
        drain.writer = self
        return drain

    def start_tls(self, sslcontext, *, server_hostname=None, ssl_handshake_timeout=None, ssl_shutdown_timeout=None):
        """Go on with TLS. A coroutine. Arguments and exceptions are those of `loop.start_tls`; timeouts in seconds."""
        return _by_methods.start_tls(self, sslcontext, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout)

    def __del__(self):
        if self.transport_ is None or self.closing():
            return
        if self._loop.is_closed():
            warnings.warn("loop is closed", ResourceWarning)
        else:
            self.close()
            warnings.warn(f"unclosed {self!r}", ResourceWarning)

    cdef int use(self, object transport) except -1:
        self.transport_ = transport
        self.layer = <Layer>transport if isinstance(transport, Layer) else None
        return 0

    cdef bint closing(self) except -1:
        if self.layer is not None:
            return self.layer.ending()
        return bool(self.transport_.is_closing())


@cython.internal
cdef class Drain(Parked):
    cdef StreamReaderProtocol protocol
    cdef StreamWriter writer     # None: only the protocol's part

    @property
    def __qualname__(self):
        return "StreamWriter.drain"

    cdef int begin(self) except -1:
        cdef StreamWriter writer = self.writer
        if writer is not None:
            if writer._reader is not None:
                if isinstance(writer._reader, StreamReader):
                    error = (<StreamReader>writer._reader)._exception
                else:
                    error = writer._reader.exception()
                if error is not None:
                    raise error
            if writer.closing():
                # connection_lost() is called in between: who writes and drains in a loop hears of it.
                return YIELD
        return self.look()

    cdef int look(self) except -1:
        cdef StreamReaderProtocol protocol = self.protocol
        if protocol.lost:
            raise ConnectionResetError("Connection lost")
        if not protocol.paused:
            return DONE
        if protocol.drains is None:
            protocol.drains = Line.__new__(Line)
        self.arm(protocol._loop)
        protocol.drains.join(self)
        return WAIT

    cdef int again(self) except -1:
        if self.line is None:  # the turn is over
            return self.look()
        self.leave()
        return DONE

    cdef int dropped(self, object error) except -1:
        if self.line is not None:
            self.leave()
        return RAISE


@cython.internal
cdef class WaitClosed(Parked):
    # asyncio's await one future together: there the first to be cancelled, or to run out of time, cancels all.
    cdef StreamReaderProtocol protocol

    @property
    def __qualname__(self):
        return "StreamWriter.wait_closed"

    cdef int begin(self) except -1:
        cdef StreamReaderProtocol protocol = self.protocol
        if protocol.lost:
            if protocol.reason is not None:
                raise protocol.reason
            return DONE
        if protocol.mourners is None:
            protocol.mourners = Line.__new__(Line)
        self.arm(protocol._loop)
        protocol.mourners.join(self)
        return WAIT

    cdef int again(self) except -1:
        self.leave()
        return DONE

    cdef int dropped(self, object error) except -1:
        self.leave()
        return RAISE


cdef int empty_drain(PyObject* o) noexcept:
    cdef Drain drain = <Drain>o
    if not drain.renew():
        return 0
    drain.protocol = None
    drain.writer = None
    return 1


cdef extern from *:
    """
    #include "pool.h"
    NORIA_STOCK(drains, 128)
    """
    void drains_stock(object type, int (*empty)(PyObject*) noexcept)
    object drains_new()

drains_stock(Drain, empty_drain)

mark_coroutine_functions(StreamWriter.wait_closed, StreamWriter.drain, StreamWriter.start_tls)
noria_let_be_patched(StreamReaderProtocol)
noria_let_be_patched(StreamWriter)
