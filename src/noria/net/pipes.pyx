"""Pipe transports: the reading or the writing end of a pipe, a FIFO, a socket, a terminal or another character device.

Stream transports of one direction over a file object that the program opened: read(2) and write(2) instead of recv
and send, the queue and the flow control of stream.pyx. The file object is made non-blocking, belongs to the transport
and is closed after `connection_lost`.

What the other end's going means, as in asyncio: for a reader, eof_received and connection_lost(None), or, for the
master of a terminal whose last user left, connection_lost with the OSError EIO; for a writer, also while it is idle,
connection_lost with BrokenPipeError if something was unsent and else with None. A pipe writer never half-closes:
write_eof() is close().

Leaves to others: the loop's methods (endpoints.py).
"""

from cpython.object cimport PyObject
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t

from noria.core.capi cimport PyContext_CopyCurrent
from noria.core.wheel cimport Wheel, push
from noria.io.driver cimport WANT_GONE, WANT_IN, WANT_OUT, IODriver
from noria.io.sys cimport EAGAIN, EIO, close
from noria.net.stream cimport CLOSING, OPEN, SINK, Sink, StreamTransport

import asyncio.constants
import asyncio.transports
import os
import stat
from asyncio.log import logger

cdef enum:
    WARN_AFTER = 5                # writes to a pipe that was closed before they are worth a warning

cdef Py_ssize_t HIGH_WATER = 64 * 1024
cdef object DATA_RECEIVED = "data_received"
cdef object CONNECTION_MADE = "connection_made"
cdef object EOF_RECEIVED = "eof_received"


cdef class PipeTransport(StreamTransport):
    """What both directions have in common."""

    _start_tls_compatible = False
    _sendfile_compatible = asyncio.constants._SendfileMode.UNSUPPORTED

    cdef int adopt(self, object loop, object pipe, object protocol, str refusal) except -1:
        cdef Wheel wheel = <Wheel?>loop
        fd = pipe.fileno()
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
            raise ValueError(refusal)
        wheel.check_open()
        os.set_blocking(fd, False)
        if not stat.S_ISFIFO(mode):
            # It goes both ways, so the program may connect a reader and a writer to it. The driver watches one
            # channel for a descriptor: the writer gets a second descriptor of the same file.
            if isinstance(self, WritePipeTransport):
                fd = self.duplicated = os.dup(fd)
        self.plain = not stat.S_ISSOCK(mode)
        self.loop = wheel
        self.driver = <IODriver>wheel.driver
        self.context = PyContext_CopyCurrent()
        self.high = HIGH_WATER
        self.low = HIGH_WATER // 4
        self.use(protocol)
        self.pipe = pipe
        self.extra = {"pipe": pipe}
        self.fd = fd
        self.life = OPEN
        push(wheel, self)
        return 0

    cdef int begin(self) except -1:
        self.begun = True
        if not self.call(CONNECTION_MADE, <PyObject*>self, NULL):
            self.report("Exception in protocol.connection_made()")
        return self.watch()

    cdef int watch(self) except -1:
        raise NotImplementedError

    cdef int trouble(self, Py_ssize_t error, str message) except -1:
        if error == -EAGAIN:
            return 0
        return self.fatal(OSError(-error, os.strerror(-error)), message.replace("socket", "pipe"))

    cdef int close_fd(self) except -1:
        if self.fd < 0:
            return 0
        self.fd = -1
        if self.duplicated is not None:
            close(self.duplicated)
        pipe, self.pipe = self.pipe, None
        try:
            pipe.close()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # a buffered file that could not write what it kept
            self.loop.call_exception_handler({
                "message": "closing the pipe failed", "exception": error, "transport": self,
            })
        return 0


cdef class ReadPipeTransport(PipeTransport):
    """The reading end of a pipe. Made by the loop's connect_read_pipe."""

    @property
    def __class__(self):
        return asyncio.transports.ReadTransport

    cdef int watch(self) except -1:
        if self.life != OPEN or self.paused:
            return 0
        try:
            self.driver.want(self, WANT_IN)
        except PermissionError:  # /dev/null and its like: epoll_ctl(2) EPERM
            self.wants = 0
            self.always = True
            if not self.due:
                self.due = True
                push(self.loop, self)
        except OSError as error:  # the kernel's limit on watches: epoll(7)
            self.fatal(error, "Fatal error: cannot watch the pipe")
        return 0

    cdef int run(self) except -1:
        if not self.due:
            return PipeTransport.run(self)
        self.due = False
        if self.life == OPEN and not self.paused:
            self.due = True
            push(self.loop, self)  # first, since reading may end in KeyboardInterrupt
            self.read_ready()
        return 0

    cdef int happened(self, uint32_t events) except -1:
        if events & WANT_IN and self.wants & WANT_IN:
            return self.read_ready()
        return 0

    cdef int read_ready(self) except -1:
        cdef char* where = NULL
        cdef Py_ssize_t n = self.driver.receive(self, &where, 0)
        cdef bytes data
        if n < 0:
            return self.trouble(n, "Fatal read error on pipe transport")
        if n == 0:
            if self.loop.debug:
                logger.info("%r was closed by peer", self)
            self.close()
            if not self.call(EOF_RECEIVED, NULL, NULL):
                self.report("Exception in protocol.eof_received()")
            return 0
        if self.reader == SINK:
            sink = self.protocol
            try:
                (<Sink>sink).take(where, n)
            except Exception as error:
                self.loop.call_exception_handler({
                    "message": "Exception in protocol.data_received()", "exception": error, "transport": self,
                    "protocol": sink,
                })
            return 0
        data = PyBytes_FromStringAndSize(where, n)
        if not self.call(DATA_RECEIVED, <PyObject*>data, NULL):
            self.report("Exception in protocol.data_received()")
        return 0

    cdef int fatal(self, object error, str message) except -1:
        # As asyncio: only a terminal's hanging up is nothing to talk about.
        if not isinstance(error, OSError) or error.errno == EIO:
            return PipeTransport.fatal(self, error, message)
        try:
            self.loop.call_exception_handler({
                "message": message, "exception": error, "transport": self, "protocol": self.protocol,
            })
        finally:
            self.lose(error)
        return 0

    def resume_reading(self):
        """Undo pause_reading()."""
        if self.life == OPEN and self.paused:
            self.paused = False
            if self.begun:
                self.watch()

    def write(self, data):
        """Not for a pipe's reading end."""
        raise NotImplementedError

    cdef int put(self, object data) except -1:
        raise NotImplementedError

    def writelines(self, list_of_data):
        """Not for a pipe's reading end."""
        raise NotImplementedError

    def write_eof(self):
        """Not for a pipe's reading end."""
        raise NotImplementedError

    def can_write_eof(self):
        """False."""
        return False

    def __repr__(self):
        if self.pipe is None:
            return f"<{type(self).__name__} closed fd={self.fd} closed>"
        closing = "" if self.life == OPEN else " closing"
        state = "open" if self.loop.shut else "polling" if self.wants & WANT_IN else "idle"
        return f"<{type(self).__name__}{closing} fd={self.fd} {state}>"


cdef class WritePipeTransport(PipeTransport):
    """The writing end of a pipe. Made by the loop's connect_write_pipe."""

    @property
    def __class__(self):
        return asyncio.transports.WriteTransport

    cdef int watch(self) except -1:
        # For an error or a hang-up, which the kernel reports whatever was asked for.
        if self.one_way and (self.life == OPEN or self.life == CLOSING):
            try:
                self.driver.want(self, self.wants | WANT_GONE)
            except OSError as error:
                self.fatal(error, "Fatal error: cannot watch the pipe")
        return 0

    cdef int happened(self, uint32_t events) except -1:
        if events & WANT_GONE and self.wants & WANT_GONE:
            if self.loop.debug:
                logger.info("%r was closed by peer", self)
            return self.lose(BrokenPipeError() if self.backlog else None)
        if events & WANT_OUT:
            self.flush()
        return 0

    def write(self, data):
        """Send data: bytes, bytearray or memoryview. Does not block: what the kernel does not take is buffered.

        After close() or write_eof(), or when the reader has gone, data is thrown away, and from the sixth time on with
        a warning in the log. Raises TypeError for other data.
        """
        self.put(data)

    cdef int put(self, object data) except -1:
        if self.life == OPEN:
            return StreamTransport.put(self, data)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if len(data):
            if self.lost_writes >= WARN_AFTER:
                logger.warning("pipe closed by peer or os.write(pipe, data) raised exception.")
            self.lost_writes += 1
        return 0

    def writelines(self, list_of_data):
        """Send each item of an iterable of bytes-like objects."""
        if self.life == OPEN:
            StreamTransport.writelines(self, list_of_data)
        else:
            self.write(b"".join(list_of_data))

    def write_eof(self):
        """The same as close(): the reader sees the end once everything written has gone out."""
        self.close()

    def is_reading(self):
        """False: nothing is received."""
        return False

    def pause_reading(self):
        """Not for a pipe's writing end."""
        raise NotImplementedError

    def resume_reading(self):
        """Not for a pipe's writing end."""
        raise NotImplementedError

    def __repr__(self):
        if self.pipe is None:
            return f"<{type(self).__name__} closed fd={self.fd} closed>"
        closing = "" if self.life == OPEN else " closing"
        state = "polling" if self.wants & WANT_OUT else "idle"
        state = "open" if self.loop.shut else f"{state} bufsize={self.backlog}"
        return f"<{type(self).__name__}{closing} fd={self.fd} {state}>"


def open_read_pipe(Wheel loop not None, pipe, protocol):
    """A transport over the reading end of a pipe, a file object which it owns from now on.

    Raises ValueError, and leaves the file alone, if it is no pipe, socket or character device.
    """
    cdef ReadPipeTransport transport = ReadPipeTransport.__new__(ReadPipeTransport)
    transport.adopt(loop, pipe, protocol, "Pipe transport is for pipes/sockets only.")
    return transport


def open_write_pipe(Wheel loop not None, pipe, protocol):
    """A transport over the writing end of a pipe, a file object which it owns from now on.

    Raises ValueError, and leaves the file alone, if it is no pipe, socket or character device.
    """
    cdef WritePipeTransport transport = WritePipeTransport.__new__(WritePipeTransport)
    # A terminal cannot be watched for its other end: the error comes with the next write.
    transport.one_way = not stat.S_ISCHR(os.fstat(pipe.fileno()).st_mode)
    transport.adopt(loop, pipe, protocol, "Pipe transport is only for pipes, sockets and character devices")
    return transport
