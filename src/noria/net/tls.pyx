"""TLS: a transport that stands on another, over ssl.MemoryBIO and ssl.SSLObject (OpenSSL by way of CPython).

The path of a received byte: the layer below hands over the memory it received into (`received`), from which it is
copied into the incoming BIO, a run of whole records at a time, and decrypted into the one bytes object that
`data_received` gets, or into a BufferedProtocol's own buffer. The path of a byte written: `write` makes records of it
at once and gives them to the layer below. What is written later in the same turn is collected, into records of 16 KiB
where there is so much, and goes out when the turn ends; while the kernel is behind nothing is encrypted, so what
waits is the program's own bytes objects, and records are full when their time comes.

Promises: the program's protocol hears what, when and in which order asyncio.sslproto of CPython 3.13 tells it, on every
interpreter; any method may be called from inside any callback; close_notify is sent when everything written has gone
out, and waited for; buffers do not stay with a connection that is idle; a paused reader holds at most what
set_read_buffer_limits says and one receipt more. The wire is looked at only as far as record lengths go (RFC 8446,
section 5.1), to know without asking OpenSSL whether there is anything to decrypt: its answer "not yet" is an exception.

On purpose not as in asyncio: what came before a broken record is delivered before the error; the alert that says why a
handshake failed is sent; data that comes after close() is thrown away instead of ending in an error that loses what is
still unsent; a handshake that is cut off by close() is an error for whoever waits for it; a connection that ends in the
middle of a record is lost with an SSLEOFError, since data is missing.

Leaves to others: making connections and start_tls (connect.py), the socket (stream.pyx), TLS itself (ssl).
"""

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.string cimport memcpy

from noria.core.capi cimport (
    PyErr_Clear, PyErr_ExceptionMatches, PyObject_CallMethodOneArg, noria_monotonic, noria_take_exception,
)
from noria.core.wheel cimport Wheel, push
from noria.net.stream cimport BUFFERED, LAYER, SINK, Layer, Sink, upper

import asyncio.constants
import asyncio.sslproto
import asyncio.transports
import ssl
import warnings
from asyncio.log import logger

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size) except NULL
    char* bytes_of "PyBytes_AS_STRING"(PyObject* data)
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1
    PyObject* PyObject_VectorcallMethod(PyObject* name, PyObject** args, size_t nargs, PyObject* names)
    Py_ssize_t PyLong_AsSsize_t(PyObject* number)
    void Py_XDECREF(PyObject* thing)

cdef enum:
    RECORD = 16 * 1024           # plaintext of a full record
    LONGEST_RECORD = RECORD + 2048
    RUN = 32 * 1024              # records are given to OpenSSL in runs of about this size: a BIO never shrinks
    BATCH = 64 * 1024            # ciphertext given to the kernel at once
    WARN_AFTER = 5               # writes to a lost connection before they are worth a warning
    # What decrypt() says beside a count.
    NOTIFIED = 0                 # the peer's close_notify
    FAILED = -1                  # an exception is pending
    NOT_YET = -2

cdef Py_ssize_t HIGH_WATER = asyncio.constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE * 1024
cdef Py_ssize_t READ_HIGH_WATER = asyncio.constants.FLOW_CONTROL_HIGH_WATER_SSL_READ * 1024
cdef object DATA_RECEIVED = "data_received"
cdef object BUFFER_UPDATED = "buffer_updated"
cdef object CONNECTION_MADE = "connection_made"
cdef object CONNECTION_LOST = "connection_lost"
cdef object GET_BUFFER = "get_buffer"
cdef object EOF_RECEIVED = "eof_received"
cdef object READ = "read"
cdef object WRITE = "write"
cdef object ZERO = 0
# The second is what OpenSSL makes of a BIO that ends; asyncio takes it for "not yet" as well.
cdef tuple NOT_NOW = (ssl.SSLWantReadError, ssl.SSLSyscallError)
cdef object ZeroReturn = ssl.SSLZeroReturnError
cdef str BROKEN = "Fatal error on SSL protocol"

cdef char* BYTES = "B"


cdef class Window:
    """Shows memory of ours to a method of ssl for the length of one call: no object is made for each piece."""
    cdef char* where
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer* view, int flags):
        view.obj = self
        view.buf = self.where
        view.len = self.size
        view.readonly = 0
        view.itemsize = 1
        view.format = BYTES if flags & PyBUF_FORMAT else NULL
        view.ndim = 1
        view.shape = &view.len if flags & PyBUF_ND else NULL
        view.strides = &view.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL

# One for all: the callee has copied where and size before it gives the GIL up.
cdef Window window = Window()


cdef inline PyObject* show(char* where, Py_ssize_t size) noexcept:
    window.where = where
    window.size = size
    return <PyObject*>window


cdef object taken():
    # The pending exception.
    cdef PyObject* raised = noria_take_exception()
    error = <object>raised
    Py_DECREF(error)
    return error


cdef class TLSTransport(Layer):
    """A TLS connection. Made by the loop's create_connection, create_server and their kin with `ssl`, and start_tls."""

    def __init__(self):
        raise TypeError("transports are made by the loop: create_connection(), create_server(), start_tls()")

    @property
    def __class__(self):
        return asyncio.sslproto._SSLProtocolTransport

    @property
    def _sslcontext(self):
        # Programs look at it although it is private: aiohttp's tests, to know whose it is.
        return self.sslcontext

    _start_tls_compatible = True
    _sendfile_compatible = asyncio.constants._SendfileMode.FALLBACK

    # Opening.

    def _start_on(self, Layer below not None):
        """start_tls: stand on this transport from the next turn on. Until then it receives nothing."""
        below.pause_reading()
        if below.choked:  # what it has to send holds our program's protocol back
            self.choked, below.choked = True, False
        below.set_protocol(self)
        self.below = below
        self.context = below.context
        self.starting = True
        push(self.loop, self)

    def _never_mind(self):
        """Whoever waited for the handshake is gone, and closes the transport below."""
        self.starting = False
        self.waiter = None

    cdef int made(self, Layer below) except -1:
        self.below = below
        self.context = below.context
        return self.begin()

    cdef int begin(self) except -1:
        cdef PyObject* outer = NULL
        cdef bint entered
        self.state = HANDSHAKE
        if self.loop.debug:
            logger.debug("%r starts SSL handshake", self)
            self.began = noria_monotonic()
        entered = self.enter(&outer)
        try:
            self.timer = self.loop.call_later(self.handshake_timeout, self._check_handshake)
            self.shake()
        finally:
            if entered:
                self.leave(outer)
        return 0

    def _check_handshake(self):
        self.timer = None
        if self.state == HANDSHAKE:
            self.fatal(ConnectionAbortedError(
                f"SSL handshake is taking longer than {self.handshake_timeout} seconds: aborting the connection"
            ), "Fatal error on transport")

    cdef int shake(self) except -1:
        cdef bint done = True
        error = None
        while True:
            self.busy = True
            self.again = False
            try:
                self.sslobj.do_handshake()
            except NOT_NOW:
                done = False
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as raised:
                error = raised
            finally:
                self.busy = False
            if done or self.state != HANDSHAKE:
                break
            self.settle()
            if not self.again:
                return 0
        return self.shaken(error)

    cdef int shaken(self, object error) except -1:
        if self.state != HANDSHAKE:  # aborted by a callback of ssl
            return 0
        self.stop_timer()
        self.settle()  # the last of the handshake, or the alert
        if error is not None:
            self.state = GONE
            self.fatal(error, "SSL handshake failed on verifying the certificate"
                       if isinstance(error, ssl.CertificateError) else "SSL handshake failed")
            return self.wake(error)
        self.state = WRAPPED
        self.secured = True
        if self.loop.debug:
            logger.debug("%r: SSL handshake took %.1f ms", self, (noria_monotonic() - self.began) * 1e3)
        self.held = self.undecrypted()
        self.ready = self.held > 0
        if self.told == NOTHING:
            self.told = MADE
            if not self.call(CONNECTION_MADE, <PyObject*>self, NULL):
                raised = taken()
                self.fatal(raised, "Fatal error: protocol.connection_made() call failed.")
                return self.wake(raised)
        self.wake(None)
        if self.state == WRAPPED:
            self.read()
        return 0

    cdef int wake(self, object error) except -1:
        waiter = self.waiter
        self.waiter = None
        if waiter is None:
            if error is not None and self.server_side and self.told == NOTHING and self.loop.debug:
                self.loop.call_exception_handler({
                    "message": "Error on transport creation for incoming connection",
                    "exception": error, "transport": self, "protocol": self.protocol,
                })
            return 0
        if not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
        return 0

    cdef int stop_timer(self) except -1:
        timer = self.timer
        self.timer = None
        if timer is not None:
            timer.cancel()
        return 0

    # Receiving.

    cdef int received(self, char* data, Py_ssize_t n) except -1:
        cdef PyObject* outer = NULL
        cdef bint entered, whole
        cdef Py_ssize_t step
        if self.state == IDLE or self.state >= DONE or self.notified:
            return 0
        entered = self.enter(&outer)
        try:
            if self.state == WRAPPED and not self.paused and self.reader != BUFFERED and not self.busy:
                self.take(data, n)
                self.settle()
                if self.below_paused:
                    self.control_reading()
                return 0
            self.held += n
            while n:
                step = self.cut(<unsigned char*>data, n, &whole)
                self.feed(data, step)
                self.ready |= whole
                data += step
                n -= step
            if self.busy:
                self.again = True
            else:
                self.advance()
        finally:
            if entered:
                self.leave(outer)
        return 0

    cdef Py_ssize_t cut(self, unsigned char* data, Py_ssize_t n, bint* whole) noexcept:
        # How much of what came to give to OpenSSL now: a run of whole records or, not `whole`, a part of one.
        cdef Py_ssize_t at = 0, end = 0, step
        cdef unsigned char byte
        whole[0] = True
        while at < n and not self.unframed:
            if self.missing:
                step = min(self.missing, n - at)
                at += step
                self.missing -= step
            else:
                byte = data[at]
                at += 1
                self.seen += 1
                if self.seen == 1:
                    self.unframed = not 20 <= byte <= 23
                elif self.seen == 2:
                    self.unframed = byte != 3
                elif self.seen == 4:
                    self.length = byte
                elif self.seen == 5:
                    self.seen = 0
                    self.missing = self.length << 8 | byte
                    self.unframed = self.missing > LONGEST_RECORD
            if self.missing == 0 and self.seen == 0:
                end = at
                if end >= RUN:
                    return end
        if self.unframed:
            return min(n, RUN)  # OpenSSL will say what it thinks of it
        if end:
            self.missing = self.seen = 0  # what is left begins with a record
            return end
        whole[0] = False
        return n

    cdef int feed(self, char* data, Py_ssize_t n) except -1:
        cdef PyObject* got = PyObject_CallMethodOneArg(
            <PyObject*>self.incoming, <PyObject*>WRITE, show(data, n)
        )
        if got == NULL:
            raise taken()
        Py_DECREF(<object>got)
        return 0

    cdef Py_ssize_t decrypt(self, char* where, Py_ssize_t room) noexcept:
        # The count; or NOTIFIED, NOT_YET, FAILED.
        cdef PyObject* args[3]
        cdef PyObject* got
        cdef Py_ssize_t count
        args[0] = <PyObject*>self.engine
        args[1] = <PyObject*>ZERO  # as much as the buffer holds
        args[2] = show(where, room)
        got = PyObject_VectorcallMethod(<PyObject*>READ, args, 3, NULL)
        if got != NULL:
            count = PyLong_AsSsize_t(got)
            Py_DECREF(<object>got)
            return count
        if PyErr_ExceptionMatches(NOT_NOW):
            PyErr_Clear()
            return NOT_YET
        if PyErr_ExceptionMatches(ZeroReturn):
            PyErr_Clear()
            return NOTIFIED
        return FAILED

    cdef int advance(self) except -1:
        if self.state == HANDSHAKE:
            return self.shake()
        if self.state == WRAPPED:
            return self.read()
        if self.state == FLUSHING:
            return self.flush_out()
        if self.state == SHUTDOWN:
            return self.shut()
        return 0

    cdef int read(self) except -1:
        # Deliver what OpenSSL has been given.
        if not self.paused:
            if self.ready:
                if self.reader == BUFFERED:
                    self.take_buffered()
                else:
                    self.take(NULL, 0)
            self.settle()
        return self.control_reading()

    cdef int take(self, char* data, Py_ssize_t n) except -1:
        # Decrypt what OpenSSL was given before and these bytes into one bytes object, and deliver it. All of `data` is
        # used up before the program is called, since the next receipt lies in the same place.
        cdef PyObject* plain
        cdef Py_ssize_t got = 0, how = NOT_YET, step
        cdef Py_ssize_t room = self.held + n  # enough: plaintext is shorter than its records
        cdef bint whole = self.ready, full = False
        error = None
        self.busy = True
        self.again = False
        plain = new_bytes(NULL, room)
        try:
            while True:
                while whole and not full:
                    how = self.decrypt(bytes_of(plain) + got, room - got)
                    if how <= 0:
                        break
                    got += how
                    full = got == room
                    if not self.undecrypted():
                        if not full:
                            self.held = 0
                        break
                self.ready = full
                if how == FAILED:
                    error = taken()
                    break
                if n == 0 or how == NOTIFIED:
                    break
                step = self.cut(<unsigned char*>data, n, &whole)
                self.feed(data, step)
                self.held += step
                data += step
                n -= step
            if full:
                self.resume_soon()  # only compression makes plaintext as long as its records
        except BaseException:
            Py_XDECREF(plain)
            raise
        finally:
            self.busy = False
        if self.again:
            self.resume_soon()
        if got == 0:
            Py_XDECREF(plain)
        else:
            _PyBytes_Resize(&plain, got)
            text = <object>plain
            Py_XDECREF(plain)
            if self.reader == LAYER:
                upper(self).received(PyBytes_AS_STRING(text), got)
            elif self.reader == SINK:
                sink = self.protocol
                try:
                    (<Sink>sink).take_whole(<bytes>text)
                except Exception as raised:
                    self.fatal(raised, BROKEN)
            elif not self.call(DATA_RECEIVED, <PyObject*>text, NULL):
                self.call_failed(BROKEN)
        return self.outcome(how, error)

    cdef int take_buffered(self) except -1:
        # The same into a BufferedProtocol's buffer. What does not fit has its turn later.
        cdef Py_buffer view
        cdef PyObject* result
        cdef Py_ssize_t got = 0, how = NOT_YET
        cdef object number = self.undecrypted()
        cdef bint full = False
        error = None
        if not self.call(GET_BUFFER, <PyObject*>number, &result):
            return self.call_failed(BROKEN)
        buffer = <object>result
        Py_DECREF(buffer)
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except BaseException as raised:
            return self.fatal(raised, BROKEN)
        try:
            if view.len == 0:
                return self.fatal(RuntimeError("get_buffer() returned an empty buffer"), BROKEN)
            if self.paused or self.state != WRAPPED and self.state != FLUSHING:
                return 0  # get_buffer() closed or paused us
            self.busy = True
            self.again = False
            while not full:
                how = self.decrypt(<char*>view.buf + got, view.len - got)
                if how <= 0:
                    break
                got += how
                full = got == view.len
                if not full and not self.undecrypted():
                    self.held = 0
                    break
            if how == FAILED:
                error = taken()
        finally:
            self.busy = False
            PyBuffer_Release(&view)
        self.ready = full
        if full or self.again:
            self.ready = True
            self.resume_soon()
        if got:
            number = <object>got
            if not self.call(BUFFER_UPDATED, <PyObject*>number, NULL):
                self.call_failed(BROKEN)
        return self.outcome(how, error)

    cdef int outcome(self, Py_ssize_t how, object error) except -1:
        if error is not None:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise error
            self.settle()  # the alert
            return self.fatal(error, BROKEN)
        if how == NOTIFIED:
            self.notified = True
            self.ready = False
            if self.state == WRAPPED or self.state == FLUSHING:
                self.tell_eof()
                return self.end(False)
        return 0

    cdef int resume_soon(self) except -1:
        if not self.resuming and not self.loop.shut:
            self.resuming = True
            push(self.loop, self)
        return 0

    cdef Py_ssize_t undecrypted(self) except -1:
        # Bytes in the BIO. None of it is left once close(), which a callback may have called, let the session go.
        return 0 if self.incoming is None else self.incoming.pending

    cdef int control_reading(self) except -1:
        # Let the kernel hold back the peer when much is waiting here for the program. The beginning of a record waits
        # for its end: whoever reads on, or has closed, would wait for ever if that were held back too.
        cdef Py_ssize_t size = self.undecrypted()
        cdef bint waiting = (self.paused or self.ready) and not self.by_us
        if waiting and size and size >= self.read_high and not self.below_paused:
            self.below_paused = True
            self.below.pause_reading()
        elif self.below_paused and (size <= self.read_low or not waiting):
            self.below_paused = False
            self.below.resume_reading()
        return 0

    def pause_reading(self):
        """Deliver nothing until resume_reading()."""
        self.paused = True

    def resume_reading(self):
        """Undo pause_reading(). What came meanwhile is delivered from the ready queue."""
        if self.paused:
            self.paused = False
            self.resume_soon()

    def is_reading(self):
        """Whether data may be delivered: not paused."""
        return not self.paused

    def set_read_buffer_limits(self, high=None, low=None):
        """Encrypted bytes kept for a paused reader above which no more is received, and below which again.

        Defaults: 256 KiB, and a quarter of high. Raises ValueError unless high >= low >= 0.
        """
        if high is None:
            high = 4 * low if low is not None else READ_HIGH_WATER
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.read_high = high
        self.read_low = low
        if self.below is not None and self.state < DONE:
            self.control_reading()

    def get_read_buffer_limits(self):
        """(low, high), in bytes."""
        return self.read_low, self.read_high

    def get_read_buffer_size(self):
        """Encrypted bytes that came and are not delivered yet."""
        return self.undecrypted()

    # Sending.

    def write(self, data):
        """Send data: bytes, bytearray or memoryview. Does not block: what the kernel does not take is buffered."""
        self.put(data)

    cdef int put(self, object data) except -1:
        cdef Py_buffer view
        cdef char* where
        cdef Py_ssize_t size, n = 0, batch = 0
        cdef bint plain = type(data) is bytes
        if plain:
            where = PyBytes_AS_STRING(data)
            size = PyBytes_GET_SIZE(data)
        else:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            where = <char*>view.buf
            size = view.len
        try:
            if size == 0:
                return 0
            if self.state != WRAPPED and self.state != HANDSHAKE:
                self.dropped()
                return 0
            if self.backlog == 0 and self.state == WRAPPED and not (self.burst or self.writing or self.below.unsent()):
                self.writing = True
                try:
                    n = self.encrypt(where, size, 0, &batch)
                except Exception as error:
                    self.fatal(error, BROKEN)
                    return 0
                finally:
                    self.writing = False
                if not self.burst:
                    self.burst = True
                    push(self.loop, self)
            if n < size:
                self.enqueue(data, n)
        finally:
            if not plain:
                PyBuffer_Release(&view)
        if self.backlog >= RECORD and self.below.unsent() == 0:
            self.write_out(False)
        return self.choke()

    def writelines(self, list_of_data):
        """Send each item of an iterable of bytes-like objects, in as few records as they fill."""
        items = []
        for item in list_of_data:
            if not isinstance(item, (bytes, bytearray, memoryview)):
                raise TypeError(f"data: expecting a bytes-like instance, got {type(item).__name__}")
            items.append(item if type(item) is bytes else bytes(item))
        if self.state != WRAPPED and self.state != HANDSHAKE:
            self.dropped()
            return
        for item in items:
            if len(item):
                self.enqueue(item, 0)
        if self.backlog and self.state == WRAPPED and self.below.unsent() == 0:
            self.write_out(False)
        self.choke()

    cdef int dropped(self) except -1:
        if self.lost_writes >= WARN_AFTER:
            logger.warning("SSL connection is closed")
        else:
            self.lost_writes += 1
        return 0

    cdef Py_ssize_t seal(self, char* data, Py_ssize_t size) except -1:
        # Make a record, or several, in the outgoing BIO. The count; 0: not now, a handshake is under way again.
        cdef PyObject* got = PyObject_CallMethodOneArg(
            <PyObject*>self.engine, <PyObject*>WRITE, show(data, size)
        )
        cdef Py_ssize_t count
        if got == NULL:
            if PyErr_ExceptionMatches(NOT_NOW):
                PyErr_Clear()
                return 0
            raise taken()
        count = PyLong_AsSsize_t(got)
        Py_DECREF(<object>got)
        return count

    cdef Py_ssize_t encrypt(self, char* data, Py_ssize_t size, Py_ssize_t after, Py_ssize_t* batch) except -1:
        # Make records and hand them down, a batch at a time, until the kernel is behind. The count of bytes done with.
        # after: how many follow, so that the last record of these need not go alone.
        cdef Py_ssize_t done = 0, n
        cdef bint more
        cdef bytes records
        while done < size:
            n = self.seal(data + done, min(size - done, RECORD))
            done += n
            records = self.outgoing.read()
            batch[0] += PyBytes_GET_SIZE(records)
            more = n > 0 and (done < size or after) and batch[0] < BATCH
            self.below.carry(records, more)
            if not more:
                batch[0] = 0
                if n == 0 or self.below.unsent():
                    break
        return done

    cdef int write_out(self, bint everything) except -1:
        # Encrypt what is queued, until the kernel is behind; or all the same.
        cdef char scratch[RECORD]
        cdef char* where
        cdef bytes item
        cdef Py_ssize_t i, n, size, part, batch = 0
        if self.writing or self.state != WRAPPED and self.state != FLUSHING:
            return 0
        self.writing = True
        try:
            while self.backlog:
                item = self.queue[self.head]
                where = PyBytes_AS_STRING(item) + self.offset
                size = PyBytes_GET_SIZE(item) - self.offset
                if size < RECORD and size < self.backlog:
                    # Small ones share a record.
                    memcpy(scratch, where, size)
                    where = scratch
                    i = self.head + 1
                    while size < RECORD and i < len(self.queue):
                        item = self.queue[i]
                        part = min(PyBytes_GET_SIZE(item), RECORD - size)
                        memcpy(scratch + size, PyBytes_AS_STRING(item), part)
                        size += part
                        i += 1
                elif size > RECORD and size < self.backlog:
                    size -= size % RECORD  # its end shares one with what follows
                n = self.encrypt(where, size, self.backlog - size, &batch)
                self.consume(n)
                if n < size or not everything and batch == 0 and self.below.unsent():
                    break
        except Exception as error:
            self.fatal(error, BROKEN)
        finally:
            self.writing = False
        return self.relieve()

    cdef int settle(self) except -1:
        # Send what OpenSSL has to say for itself (handshakes, tickets, key updates, alerts), and what waited for that.
        if self.outgoing is not None and self.outgoing.pending:
            self.below.carry(self.outgoing.read(), False)
        if self.backlog and not self.burst and self.below.unsent() == 0:
            self.write_out(False)
        return 0

    cdef Py_ssize_t usual_high(self) noexcept:
        return HIGH_WATER

    cdef Py_ssize_t unsent(self) noexcept:
        return self.backlog if self.below is None else self.backlog + self.below.unsent()

    cdef int room(self) except -1:
        cdef PyObject* outer = NULL
        cdef bint entered
        if self.writing or self.state == IDLE or self.state == GONE:
            return 0
        entered = self.enter(&outer)
        try:
            if self.below.unsent() == 0 and self.backlog:
                self.write_out(False)
            if self.reader == LAYER:
                upper(self).room()
            else:
                self.relieve()
            if self.state == FLUSHING:
                self.flush_out()
        finally:
            if entered:
                self.leave(outer)
        return 0

    cdef int hurry(self) except -1:
        if self.reader == LAYER and self.above is not None:
            upper(self).hurry()
        if self.backlog:
            self.write_out(True)
        return 0

    cdef int carry(self, bytes data, bint more) except -1:
        if self.state != WRAPPED and self.state != HANDSHAKE:
            return 0
        if PyBytes_GET_SIZE(data):
            self.enqueue(data, 0)
        if not more and self.backlog and self.below.unsent() == 0:
            self.write_out(False)
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        """Bytes buffered, plain and encrypted, above which the protocol is told to pause writing; below which to go on.

        Defaults: 512 KiB, and a quarter of high. Raises ValueError unless high >= low >= 0.
        """
        Layer.set_write_buffer_limits(self, high, low)
        self.relieve()

    def write_eof(self):
        """TLS has no half-close: raises NotImplementedError."""
        raise NotImplementedError

    def can_write_eof(self):
        """False."""
        return False

    # Ending.

    def close(self):
        """Send what is buffered and close_notify, wait for the peer's, then close. connection_lost(None) follows."""
        cdef PyObject* outer = NULL
        cdef bint entered
        if self.context is None:
            self.closing = True
            return
        if self.state >= DONE:
            # Closed by both sides. Programs keep transports, in cycles with their protocols: what is big goes at once.
            self.sslobj = self.engine = self.incoming = self.outgoing = self.sslcontext = None
            self.secured = False
            return
        entered = self.enter(&outer)
        try:
            self.end(True)
        finally:
            if entered:
                self.leave(outer)

    def abort(self):
        """Close at once; what is buffered is thrown away. connection_lost(None) follows."""
        self._force_close(None)

    def _force_close(self, exc):
        """Close at once with an error. For protocols that wrap transports."""
        self.closing = True
        if self.state == GONE:
            return
        if self.burst and self.backlog and self.below.unsent() == 0:
            self.write_out(False)  # written in this turn: a moment ago it would have gone at once
        self.state = GONE
        if self.below is not None:
            self.below._force_close(exc)

    def is_closing(self):
        """Whether it is closing or closed."""
        return self.closing

    cdef bint ending(self) noexcept:
        return self.closing

    cdef int end(self, bint by_us) except -1:
        self.closing = True
        if by_us and not self.by_us and self.state <= FLUSHING:
            self.by_us = True
            if self.state == FLUSHING:
                return self.flush_out()
        if self.state == HANDSHAKE:
            self.state = GONE
            self.below._force_close(None)
        elif self.state == WRAPPED:
            self.state = FLUSHING
            self.limit_shutdown()
            self.flush_out()
        return 0

    cdef int limit_shutdown(self) except -1:
        if self.timer is None:
            self.timer = self.loop.call_later(self.shutdown_timeout, self._check_shutdown)
        return 0

    def _check_shutdown(self):
        self.timer = None
        if FLUSHING <= self.state <= DONE:
            self.below._force_close(TimeoutError("SSL shutdown timed out"))

    cdef int flush_out(self) except -1:
        # To FLUSHING's end: deliver what came unless the program has closed, send what was written.
        if self.by_us:
            try:
                self.discard()
            except Exception as error:
                return self.fatal(error, BROKEN)
            self.control_reading()  # the peer's close_notify may be behind what was held back
        elif not self.paused and self.ready:
            if self.reader == BUFFERED:
                self.take_buffered()
            else:
                self.take(NULL, 0)
        if self.backlog and self.below.unsent() == 0:
            self.write_out(False)
        if self.state != FLUSHING or self.backlog:
            return 0
        if self.ended and not self.by_us and (self.ready or self.paused and not self.notified):
            return 0  # for the program to resume reading
        self.state = SHUTDOWN
        return self.shut()

    cdef int discard(self) except -1:
        # What comes after close() is nobody's any more, but has to be read to get at the peer's close_notify.
        cdef char scratch[RECORD]
        cdef Py_ssize_t how
        if self.ready:
            self.ready = False
            self.busy = True
            try:
                while True:
                    how = self.decrypt(scratch, sizeof(scratch))
                    if how <= 0:
                        break
            finally:
                self.busy = False
            if how == FAILED:
                raise taken()
            self.held = 0
            if how == NOTIFIED:
                self.notified = True
        return 0

    cdef int shut(self) except -1:
        # Exchange close_notify. Where the layer below has ended without the peer's there is nobody to send ours to.
        if self.ended and not self.by_us and (self.seen or self.missing) and not self.unframed:
            return self.complete(ssl.SSLEOFError(
                ssl.SSL_ERROR_EOF, "the connection ended in the middle of a TLS record: data was cut off"))
        if not self.ended:
            try:
                self.discard()
                self.busy = True
                try:
                    self.sslobj.unwrap()
                finally:
                    self.busy = False
            except NOT_NOW:
                return self.settle()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                return self.complete(error)
        self.settle()
        self.tell_eof()
        return self.complete(None)

    cdef int complete(self, object error) except -1:
        if self.state != SHUTDOWN:
            return 0
        if error is not None:
            self.stop_timer()
            return self.fatal(error, "Fatal error on transport")
        self.state = DONE
        if self.below.unsent() == 0:
            self.stop_timer()  # else it bounds the flushing below
        self.loop.call_soon(self.below.close)
        return 0

    cdef bint ends(self) except -1:
        cdef PyObject* outer = NULL
        cdef bint entered
        if self.state == IDLE or self.state >= DONE:
            return False
        self.ended = True
        if self.loop.debug:
            logger.debug("%r received EOF", self)
        entered = self.enter(&outer)
        try:
            if self.state == HANDSHAKE:
                self.shaken(ConnectionResetError())
            elif self.state == SHUTDOWN:
                self.shut()
            else:
                if self.state == WRAPPED:
                    self.state = FLUSHING
                self.flush_out()
                if self.state == FLUSHING and self.backlog:
                    self.limit_shutdown()
        finally:
            if entered:
                self.leave(outer)
        return self.state == FLUSHING

    cdef int tell_eof(self) except -1:
        cdef PyObject* result
        if self.told != MADE:
            return 0
        self.told = EOF
        if self.reader == LAYER:
            upper(self).ends()
            return 0
        if not self.call(EOF_RECEIVED, NULL, &result):
            return self.call_failed("Error calling eof_received()")
        keep_open = <object>result
        Py_DECREF(keep_open)
        if keep_open:
            logger.warning("returning true from eof_received() has no effect when using ssl")
        return 0

    cdef int gone(self, object error) except -1:
        cdef State was = self.state
        self.queue = None
        self.backlog = 0
        if self.lost_writes < WARN_AFTER:
            self.lost_writes += 1
        self.closing = True
        self.state = GONE
        self.stop_timer()
        if was == HANDSHAKE and error is None:
            error = ConnectionAbortedError("the connection was closed during the SSL handshake")
        self.wake(error)
        if was != HANDSHAKE and (self.told == MADE or self.told == EOF) and not self.loop.shut:
            self.told = LOST
            self.reason = error
            self.losing = True
            push(self.loop, self)
        else:
            self.protocol = self.above = None
        return 0

    cdef int finish(self) except -1:
        reason = self.reason
        self.reason = None
        if self.reader == LAYER:
            upper(self).gone(reason)
        elif not self.call(CONNECTION_LOST, <PyObject*>reason, NULL):
            self.report("Exception in protocol.connection_lost()")
        self.protocol = self.above = None
        return 0

    cdef int run(self) except -1:
        cdef PyObject* outer = NULL
        cdef bint entered = self.enter(&outer)
        try:
            if self.burst:
                self.burst = False
                if self.backlog and self.below.unsent() == 0:
                    self.write_out(False)
            elif self.starting:
                self.starting = False
                if self.state == IDLE:
                    self.begin()
                    self.below.resume_reading()
            elif self.resuming:
                self.resuming = False
                if self.state != HANDSHAKE:
                    self.advance()
            elif self.losing:
                self.losing = False
                self.finish()
        finally:
            if entered:
                self.leave(outer)
        return 0

    def __del__(self):
        if self.below is not None and not self.closing:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)

    # Trouble.

    cdef int fatal(self, object error, str message) except -1:
        self.closing = True
        if self.state != HANDSHAKE:  # connection_lost() has to know that it was never done
            self.state = GONE
        if self.below is not None:
            self.below._force_close(error)
        if isinstance(error, OSError):
            # The peer's doing, not the program's: the protocol hears of it by connection_lost.
            if self.loop.debug:
                logger.debug("%r: %s", self, message, exc_info=error)
        elif not isinstance(error, asyncio.CancelledError):
            self.loop.call_exception_handler({
                "message": message, "exception": error, "transport": self, "protocol": self.protocol,
            })
        return 0

    cdef int call_failed(self, str message) except -1:
        # A protocol's method raised, by way of the C API.
        error = taken()
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        return self.fatal(error, message)

    # Looking at it.

    def get_extra_info(self, name, default=None):
        """'sslcontext'; after the handshake 'ssl_object', 'peercert', 'cipher', 'compression'; 'close_notify': True if
        the peer has said that it sends no more, so that a stream which ended was not cut off (RFC 8446, section 6.1);
        else what the transport below answers."""
        if name == "sslcontext":
            return self.sslcontext
        if name == "close_notify":
            return self.notified
        if self.secured:
            if name == "ssl_object":
                return self.sslobj
            if name == "peercert" or name == "cipher" or name == "compression":
                if self.extra is None:
                    self.extra = {}
                if name not in self.extra:
                    ask = self.sslobj.getpeercert if name == "peercert" else getattr(self.sslobj, name)
                    self.extra[name] = ask()
                return self.extra[name]
        if self.below is None:
            return default
        return self.below.get_extra_info(name, default)

    def __repr__(self):
        states = ("idle", "handshake", "", "closing", "closing", "closing", "closed")
        info = [type(self).__name__]
        state = states[self.state]
        if state:
            info.append(state)
        if self.backlog:
            info.append(f"bufsize={self.backlog}")
        if self.below is not None:
            info.append(f"over {self.below!r}")
        return f"<{' '.join(info)}>"


class ByPython:
    """Reads and writes for an SSLObject whose class has methods of its own: they get no memory of ours to keep."""

    def __init__(self, sslobj):
        self.sslobj = sslobj

    def read(self, size, buffer):
        with memoryview(buffer) as room:
            data = self.sslobj.read(min(len(room), RECORD))
            room[:len(data)] = data
        return len(data)

    def write(self, data):
        return self.sslobj.write(bytes(data))


def positive(name, value, usual):
    if value is None:
        return usual
    if value <= 0:
        raise ValueError(f"{name} should be a positive number, got {value}")
    return value


def wrap_tls(
    Wheel loop not None, protocol, sslcontext, waiter=None, bint server_side=False, server_hostname=None, *,
    ssl_handshake_timeout=None, ssl_shutdown_timeout=None, bint call_connection_made=True,
):
    """A TLS transport for this protocol, to be given as the protocol to the transport it is to stand on.

    sslcontext: None for a client with ssl.create_default_context(). waiter: a future, done when the handshake is.
    Timeouts in seconds, by default those of asyncio (60 and 30). Raises ValueError for what cannot be meant, and
    what SSLContext.wrap_bio raises.
    """
    cdef TLSTransport self = TLSTransport.__new__(TLSTransport)
    self.handshake_timeout = positive(
        "ssl_handshake_timeout", ssl_handshake_timeout, asyncio.constants.SSL_HANDSHAKE_TIMEOUT
    )
    self.shutdown_timeout = positive(
        "ssl_shutdown_timeout", ssl_shutdown_timeout, asyncio.constants.SSL_SHUTDOWN_TIMEOUT
    )
    if not sslcontext:
        if server_side:
            raise ValueError("Server side SSL needs a valid SSLContext")
        sslcontext = ssl.create_default_context()
        if not server_hostname:
            sslcontext.check_hostname = False
    loop.check_open()
    self.loop = loop
    self.fd = -1
    self.use(protocol)
    self.sslcontext = sslcontext
    self.waiter = waiter
    self.server_side = server_side
    self.told = NOTHING if call_connection_made else MADE
    self.high = HIGH_WATER
    self.low = HIGH_WATER // 4
    self.read_high = READ_HIGH_WATER
    self.read_low = READ_HIGH_WATER // 4
    self.incoming = ssl.MemoryBIO()
    self.outgoing = ssl.MemoryBIO()
    self.sslobj = sslcontext.wrap_bio(
        self.incoming, self.outgoing, server_side=server_side,
        server_hostname=(server_hostname or None) if not server_side else None,
    )
    kind = type(self.sslobj)
    if getattr(kind, "read", None) is ssl.SSLObject.read and getattr(kind, "write", None) is ssl.SSLObject.write:
        self.engine = self.sslobj._sslobj
    else:
        self.engine = ByPython(self.sslobj)
    return self
