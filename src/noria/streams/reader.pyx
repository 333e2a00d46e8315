# cython: boundscheck=False, wraparound=False
"""StreamReader: what a connection brings, as something to read from.

Promises what asyncio's of CPython 3.13 does, on every interpreter and on any loop.

The path of a received byte: a transport of ours gives it to the protocol (connection.pyx), which gives it to
`take_in`, all in C; other transports come by way of `feed_data`. Who reads is one object, a `Reading`. It is
woken when what it waits for is there, not whenever something came: the bytes wait in the buffer until then, and until
its task has run, so that a cancelled one has taken nothing.

The buffer is one bytes object of which a part is in use. What fits the wish of the reader is handed out as it
came, without a copy; reading goes forward in it without moving the rest; it grows by doubling, or to just the
size somebody waits for. An empty one keeps no memory.

Not as asyncio: `read(-1)` that is cancelled leaves what came in the buffer, where asyncio's loses it. A reader that was
woken, and finds that somebody else has been there first, waits on.

Leaves to others: where bytes come from, and the writer (connection.pyx).
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject, PyObject_GenericSetAttr
from cpython.ref cimport Py_INCREF
from libc.string cimport memchr, memcpy, memmove
from libc.stdint cimport uint64_t

cimport cython

from noria.core.capi cimport noria_forget_dict, noria_let_be_patched
from noria.core.futures cimport FINISHED, PENDING
from noria.core.waits cimport DONE, RAISE, WAIT, Waiter
from noria.sync.lines cimport inherits, shown_as

import asyncio.events
import asyncio.exceptions
import asyncio.streams
import sys

from noria.core import _format
from noria.streams import _by_methods
from noria.core._marks import mark_coroutine_functions

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size) except NULL
    char* bytes_of "PyBytes_AS_STRING"(PyObject* data)
    Py_ssize_t size_of "PyBytes_GET_SIZE"(PyObject* data)
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1
    void drop_ref "Py_XDECREF"(PyObject* thing)
    # Without an exception to raise it gives the nearest number there is.
    Py_ssize_t PyNumber_AsSsize_t(object number, PyObject* error) except? -1

cdef extern from "string.h":
    void* memmem(const void* haystack, size_t length, const void* needle, size_t size) nogil

cdef object IncompleteReadError = asyncio.exceptions.IncompleteReadError
cdef object LimitOverrunError = asyncio.exceptions.LimitOverrunError
cdef object StandardReader = asyncio.streams.StreamReader
cdef Py_ssize_t USUAL_LIMIT = asyncio.streams._DEFAULT_LIMIT
cdef Py_ssize_t MOST = sys.maxsize // 2
cdef tuple NAMES = ("read", "read", "readexactly", "readuntil", "readuntil", "readuntil", "read")
cdef str NOT_FOUND = "Separator is not found, and chunk exceed the limit"
cdef str TOO_LONG = "Separator is found, but chunk is longer than limit"


# What was asked of the reader.
cdef enum What:
    SOME         # read(n)
    EVERYTHING   # read(-1)
    EXACTLY      # readexactly(n)
    UNTIL        # readuntil()
    LINE         # readline()
    NEXT_LINE    # async for
    ANYTHING     # to be woken by whatever comes next

# What a search for the end of a line has come to.
cdef enum Search:
    NOT_YET
    FOUND
    OVERRUN      # there is none so far, and there may be no more


cdef class StreamReader:
    """StreamReader(limit=65536, loop=None)\n--

    What a connection brings, as something to read from.

    limit: the longest line that `readline` and `readuntil` give, in bytes; when twice as much is waiting the transport
    receives no more. Raises ValueError if it is not above 0. loop: the event loop; by default the one that runs.

    Source: asyncio.StreamReader.
    """

    def __cinit__(self):
        noria_forget_dict(self)
        self.plain = inherits(self, ("feed_data",))
        self.plain_lines = inherits(self, ("readline", "readuntil"))

    def __init__(self, limit=USUAL_LIMIT, loop=None):
        if limit <= 0:
            raise ValueError("Limit cannot be <= 0")
        self._limit = limit
        self.drop(self.end - self.start)
        self.eof = self.paused = False
        self._waiter = self._exception = self._transport = None
        self._loop = asyncio.events.get_event_loop() if loop is None else loop
        if self._loop.get_debug():
            self.source_tb = _format.extract_stack(sys._getframe(0))

    def __dealloc__(self):
        drop_ref(self.store)

    # What asyncio's duck typing and programs look at.

    @property
    def __class__(self):
        return shown_as(self, StandardReader)

    @property
    def _source_traceback(self):
        return self.source_tb

    @property
    def _limit(self):
        return self.given

    @_limit.setter
    def _limit(self, value):
        if isinstance(value, float):
            self.limit = MOST if value >= MOST else int(value)
        else:
            self.limit = min(PyNumber_AsSsize_t(value, NULL), MOST)
        self.given = value

    @property
    def _buffer(self):
        if self.store == NULL:
            return bytearray()
        return bytearray((<bytes><object>self.store)[self.start:self.end])

    @_buffer.setter
    def _buffer(self, value):
        self.drop(self.end - self.start)
        value = bytes(value)
        if value:
            self.append(PyBytes_AS_STRING(value), len(value))

    @property
    def _eof(self):
        return self.eof != 0

    @_eof.setter
    def _eof(self, value):
        self.eof = bool(value)

    @property
    def _paused(self):
        return self.paused != 0

    @_paused.setter
    def _paused(self, value):
        self.paused = bool(value)

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        if name == "readline" or name == "readuntil":
            self.plain_lines = False  # a program has hung its own on this one reader

    def _wakeup_waiter(self):
        self.wake()

    def _maybe_resume_transport(self):
        self.resume()

    def _wait_for_data(self, func_name):
        """Wait until something comes, or nothing more will. A coroutine, for subclasses."""
        return new_reading(self, ANYTHING, 0, func_name)

    def __repr__(self):
        info = ["StreamReader"]
        if self.end > self.start:
            info.append(f"{self.end - self.start} bytes")
        if self.eof:
            info.append("eof")
        if self.given != USUAL_LIMIT:
            info.append(f"limit={self.given}")
        if self._waiter:
            info.append(f"waiter={self._waiter!r}")
        if self._exception:
            info.append(f"exception={self._exception!r}")
        if self._transport:
            info.append(f"transport={self._transport!r}")
        if self.paused:
            info.append("paused")
        return f"<{' '.join(info)}>"

    # For protocols.

    def exception(self):
        """The exception that every read raises, or None."""
        return self._exception

    def set_exception(self, exc):
        """From now on every read raises this exception; who waits gets it."""
        self.fail(exc)

    def set_transport(self, transport):
        """The transport to pause when too much is waiting. Once only."""
        assert self._transport is None, "Transport already set"
        self._transport = transport

    def feed_data(self, data):
        """Put data in: a bytes-like object."""
        assert not self.eof, "feed_data after feed_eof"
        if type(data) is not bytes:
            if not data:
                return
            if not isinstance(data, (bytes, bytearray)):
                copied = bytearray()
                copied.extend(data)
                data = copied
            data = bytes(data)
        self.take_whole(data)

    def feed_eof(self):
        """There is no more."""
        self.end_stream()

    def at_eof(self):
        """Whether everything has been read and there is no more."""
        return self.eof != 0 and self.start == self.end

    # For programs.

    def read(self, n=-1):
        """Read up to `n` bytes: what is there, waiting for at least one. -1: everything until the stream ends.

        b"" if the stream has ended. A coroutine. Raises what `set_exception` was given, RuntimeError if
        somebody else is waiting for data.
        """
        cdef Py_ssize_t count = PyNumber_AsSsize_t(n, NULL)
        return new_reading(self, EVERYTHING if count < 0 else SOME, count, None)

    def readexactly(self, n):
        """Read exactly `n` bytes.

        A coroutine. Raises IncompleteReadError, whose `partial` has what there was, if the stream ends before;
        ValueError if n is negative; and as `read`.
        """
        return new_reading(self, EXACTLY, PyNumber_AsSsize_t(n, NULL), None)

    def readline(self):
        """Read a line with the newline at its end; at the end of the stream what is left.

        A coroutine. Raises ValueError if the line is longer than the limit: it is thrown away; and as `read`.
        """
        if self.plain_lines:
            return new_reading(self, LINE, 1, None)
        return _by_methods.readline(self)

    def readuntil(self, separator=b"\n"):
        """Read until a separator comes, which is included. Of a tuple of separators, the one that ends first.

        A coroutine. Raises IncompleteReadError if the stream ends before, with the rest in `partial`;
        LimitOverrunError if there are more bytes than the limit before it: they stay; ValueError for an empty
        separator; and as `read`.
        """
        return new_reading(self, UNTIL, 1, separator)

    def __aiter__(self):
        return self

    def __anext__(self):
        if self.plain_lines:
            return new_reading(self, NEXT_LINE, 1, None)
        return _by_methods.next_line(self)

    # What comes in.

    cdef int take_in(self, const char* data, Py_ssize_t n) except -1:
        assert not self.eof, "feed_data after feed_eof"
        self.append(data, n)
        return self.came()

    cdef int take_whole(self, bytes data) except -1:
        cdef Py_ssize_t n = len(data)
        assert not self.eof, "feed_data after feed_eof"
        if n == 0:
            return 0
        if self.end > self.start:
            self.append(PyBytes_AS_STRING(data), n)
        else:
            Py_INCREF(data)
            self.store = <PyObject*>data
            self.start = 0
            self.end = n
            self.shared = True
        return self.came()

    cdef int append(self, const char* data, Py_ssize_t n) except -1:
        if self.store == NULL:
            self.store = new_bytes(data, n)
            self.start = 0
            self.end = n
            self.shared = n == 1  # the interpreter has one object for each
            return 0
        if self.shared or size_of(self.store) - self.end < n:
            self.grow(n)
        memcpy(bytes_of(self.store) + self.end, data, n)
        self.end += n
        return 0

    cdef int grow(self, Py_ssize_t n) except -1:
        # Make room for n more behind the end.
        cdef Py_ssize_t held = self.end - self.start
        cdef Py_ssize_t wanted = held + n, room
        cdef PyObject* bigger
        if not self.shared and self.start >= held and size_of(self.store) >= wanted:
            memmove(bytes_of(self.store), bytes_of(self.store) + self.start, held)
        else:
            room = max(2 * held, wanted)
            if isinstance(self._waiter, Reading) and (<Reading>self._waiter).what == EXACTLY:
                # What will be read is the whole store, and needs no copy.
                if wanted <= (<Reading>self._waiter).n < room:
                    room = (<Reading>self._waiter).n
            if self.start == 0 and not self.shared:
                bigger = self.store
                self.store = NULL
                self.end = 0
                _PyBytes_Resize(&bigger, room)
                self.store = bigger
            else:
                bigger = new_bytes(NULL, room)
                memcpy(bytes_of(bigger), bytes_of(self.store) + self.start, held)
                drop_ref(self.store)
                self.store = bigger
                self.shared = False
        self.start = 0
        self.end = held
        return 0

    cdef int came(self) except -1:
        self.wake()
        if self.end - self.start <= 2 * self.limit or self._transport is None or self.paused:
            return 0
        try:
            self._transport.pause_reading()
        except NotImplementedError:
            self._transport = None  # it cannot be paused
            return 0
        if self._waiter is None:
            self.paused = True
        else:
            # Who is waiting still needs more than this. asyncio's wakes up for a moment to resume it.
            self._transport.resume_reading()
        return 0

    cdef int wake(self) except -1:
        # Wake whoever has what he waits for.
        cdef object waiter = self._waiter
        cdef Reading reading
        if waiter is None:
            return 0
        if isinstance(waiter, Reading):
            reading = <Reading>waiter
            if reading.state != PENDING:
                self._waiter = None
            elif reading.satisfied():
                self._waiter = None
                reading.state = FINISHED
                reading.finish()
        else:
            self._waiter = None
            if not waiter.cancelled():
                waiter.set_result(None)
        return 0

    cdef int end_stream(self) except -1:
        self.eof = True
        return self.wake()

    cdef int fail(self, object error) except -1:
        cdef object waiter = self._waiter
        self._exception = error
        if waiter is not None:
            self._waiter = None
            if not waiter.cancelled():
                waiter.set_exception(error)
        return 0

    # What goes out.

    cdef int resume(self) except -1:
        if self.paused and self.end - self.start <= self.limit:
            self.paused = False
            self._transport.resume_reading()
        return 0

    cdef bytes take(self, Py_ssize_t n):
        # The first n bytes; all, if there are not so many.
        cdef Py_ssize_t held = self.end - self.start
        cdef PyObject* out
        if n >= held:
            if held == 0:
                return b""
            n = held
            if self.start == 0:
                out = self.store
                self.store = NULL
                self.end = 0
                self.taken += n
                if size_of(out) != n:
                    _PyBytes_Resize(&out, n)
                whole = <bytes><object>out
                drop_ref(out)
                return whole
        out = new_bytes(bytes_of(self.store) + self.start, n)
        self.drop(n)
        piece = <bytes><object>out
        drop_ref(out)
        return piece

    cdef int drop(self, Py_ssize_t n) noexcept:
        cdef PyObject* store
        self.start += n
        self.taken += n
        if self.start == self.end:
            store = self.store
            self.store = NULL
            self.start = self.end = 0
            drop_ref(store)
        return 0


cdef Reading new_reading(StreamReader reader, What what, Py_ssize_t n, object separators):
    cdef Reading reading = <Reading>readings_new()
    reading.reader = reader
    reading.what = what
    reading.n = n
    reading.separators = separators
    return reading


@cython.internal
cdef class Reading(Waiter):
    cdef StreamReader reader
    cdef What what
    cdef Py_ssize_t n            # bytes wanted; of the shortest separator
    cdef object separators       # None: a newline; or bytes; or a list of bytes, the shortest first
    cdef uint64_t scanned        # no separator begins before this place of the stream

    @property
    def __qualname__(self):
        names = ("read", "read", "readexactly", "readuntil", "readline", "__anext__", "_wait_for_data")
        return f"StreamReader.{names[self.what]}"

    cdef int begin(self) except -1:
        cdef StreamReader reader = self.reader
        if self.what == UNTIL:
            self.prepare()
        elif self.what == EXACTLY and self.n < 0:
            raise ValueError("readexactly size can not be less than zero")
        if reader._exception is not None and self.what != ANYTHING:
            raise reader._exception
        if self.n == 0 and (self.what == SOME or self.what == EXACTLY):
            self.value = b""
            return DONE
        self.scanned = reader.taken
        return self.look()

    cdef int look(self) except -1:
        cdef StreamReader reader = self.reader
        cdef object other = reader._waiter
        # Who reads everything has what is there already, though it still lies in the buffer.
        if other is None or not isinstance(other, Reading) or (<Reading>other).what != EVERYTHING:
            if self.what != ANYTHING and self.satisfied():
                return self.answer()
        if other is not None:
            name = self.separators if self.what == ANYTHING else NAMES[self.what]
            raise RuntimeError(f"{name}() called while another coroutine is already waiting for incoming data")
        # Waiting for more while it is paused would be for ever.
        if reader.paused:
            reader.paused = False
            reader._transport.resume_reading()
        if self.loop is None:
            self.arm(reader._loop)
        else:
            self.rearm()
        reader._waiter = self
        return WAIT

    cdef int again(self) except -1:
        if self.what == ANYTHING:
            return DONE
        if self.reader._exception is not None:
            if self.what == EVERYTHING or not self.satisfied():  # somebody else was here first
                self.dropped(None)
                raise self.reader._exception
        return self.look()

    cdef int dropped(self, object error) except -1:
        cdef StreamReader reader = self.reader
        if reader._waiter is self:
            reader._waiter = None
        if self.what == EVERYTHING and reader._exception is not None:
            reader.drop(reader.end - reader.start)  # nobody can read it any more
        return RAISE

    cdef bint satisfied(self) noexcept:
        # Whether there is an answer by now.
        cdef StreamReader reader = self.reader
        cdef Py_ssize_t at, to
        if reader.eof or self.what == ANYTHING:
            return True
        if self.what == SOME:
            return reader.end > reader.start
        if self.what == EXACTLY:
            return reader.end - reader.start >= self.n
        if self.what == EVERYTHING:
            return False
        return self.search(&at, &to) != NOT_YET

    cdef int answer(self) except -1:
        cdef StreamReader reader = self.reader
        if self.what == SOME or self.what == EVERYTHING:
            self.value = reader.take(reader.end - reader.start if self.what == EVERYTHING else self.n)
        elif self.what == EXACTLY:
            if reader.end - reader.start < self.n:
                raise IncompleteReadError(reader.take(self.n), self.n)
            self.value = reader.take(self.n)
        else:
            self.answer_line()
            return DONE
        reader.resume()
        return DONE

    cdef int answer_line(self) except -1:
        cdef StreamReader reader = self.reader
        cdef Py_ssize_t at = 0, to = 0
        cdef Search outcome = self.search(&at, &to)
        if outcome == FOUND and at <= reader.limit:
            self.value = reader.take(to)
            reader.resume()
        elif outcome == FOUND:
            self.close_line(at, TOO_LONG)
        elif outcome == OVERRUN:
            self.close_line(at, NOT_FOUND)
        else:
            rest = reader.take(reader.end - reader.start)
            if self.what == UNTIL:
                raise IncompleteReadError(rest, None)
            self.value = rest  # after the end nothing can come: it is not resumed, as in asyncio
        if self.what == NEXT_LINE and not self.value:
            raise StopAsyncIteration
        return 0

    cdef int close_line(self, Py_ssize_t consumed, str message) except -1:
        # There is too much before the separator.
        cdef StreamReader reader = self.reader
        error = LimitOverrunError(message, consumed)
        if self.what == UNTIL:
            raise error
        if reader.end - reader.start > consumed and bytes_of(reader.store)[reader.start + consumed] == c"\n":
            reader.drop(consumed + 1)
        else:
            reader.drop(reader.end - reader.start)
        reader.resume()
        too_long = ValueError(message)
        too_long.__context__ = error
        raise too_long

    cdef int prepare(self) except -1:
        # As asyncio: the shortest first; of those that end at the same place it is the one that counts.
        separators = self.separators
        if type(separators) is bytes:
            self.n = len(<bytes>separators)
        elif isinstance(separators, tuple):
            if not separators:
                raise ValueError("Separator should contain at least one element")
            separators = sorted(separators, key=len)
            self.n = len(separators[0])
            self.separators = [as_bytes(one) for one in separators] if self.n else None
        else:
            self.n = len(separators)
            self.separators = as_bytes(separators) if self.n else None
        if self.n == 0:
            raise ValueError("Separator should be at least one-byte string")
        return 0

    cdef Search search(self, Py_ssize_t* at, Py_ssize_t* to) noexcept:
        # Where the first separator begins and ends. OVERRUN: how many bytes have none.
        cdef StreamReader reader = self.reader
        cdef Py_ssize_t held = reader.end - reader.start
        cdef Py_ssize_t offset = 0, longest = self.n, length, end
        cdef char* where
        cdef char* data
        if self.scanned > reader.taken:
            offset = <Py_ssize_t>(self.scanned - reader.taken)
        if held - offset >= self.n:
            data = bytes_of(reader.store) + reader.start
            if self.separators is None:
                where = <char*>memchr(data + offset, c"\n", held - offset)
                if where != NULL:
                    at[0] = where - data
                    to[0] = at[0] + 1
                    self.scanned = reader.taken + at[0]  # who takes the line looks no further back
                    return FOUND
            elif type(self.separators) is bytes:
                where = find(data + offset, held - offset, <bytes>self.separators)
                if where != NULL:
                    at[0] = where - data
                    to[0] = at[0] + self.n
                    self.scanned = reader.taken + at[0]
                    return FOUND
            else:
                to[0] = -1
                for one in <list>self.separators:
                    length = len(<bytes>one)
                    longest = max(longest, length)
                    where = find(data + offset, held - offset, <bytes>one)
                    if where != NULL:
                        end = where - data + length
                        if to[0] < 0 or end < to[0]:
                            at[0] = where - data
                            to[0] = end
                if to[0] >= 0:
                    return FOUND
            offset = max(0, held + 1 - longest)
            self.scanned = reader.taken + offset
        if offset > reader.limit:
            at[0] = offset
            return OVERRUN
        return NOT_YET


cdef inline char* find(char* data, Py_ssize_t size, bytes separator) noexcept:
    return <char*>memmem(data, size, PyBytes_AS_STRING(separator), len(separator))


cdef bytes as_bytes(object separator):
    if not isinstance(separator, (bytes, bytearray, memoryview)):
        raise TypeError(f"argument should be integer or bytes-like object, not {type(separator).__name__!r}")
    return bytes(separator)


cdef int empty_reading(PyObject* o) noexcept:
    cdef Reading reading = <Reading>o
    if not reading.renew():
        return 0
    reading.reader = None
    reading.separators = None
    return 1


cdef extern from *:
    """
    #include "pool.h"
    NORIA_STOCK(readings, 128)
    """
    void readings_stock(object type, int (*empty)(PyObject*) noexcept)
    object readings_new()

readings_stock(Reading, empty_reading)

noria_let_be_patched(StreamReader)
mark_coroutine_functions(StreamReader.read, StreamReader.readexactly, StreamReader.readline, StreamReader.readuntil)
