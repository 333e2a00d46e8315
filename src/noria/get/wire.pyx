"""The compiled half of the lean path: its connections, the watch over them, and the shortest way for a small file.

An `Exchange` is one GET whose answer is as plain as can be: status 200 of HTTP/1.1, a head that comes in one piece and
keeps to the letter of RFC 9112, one Content-Length, no other framing, a short body. It knows such an answer when it
sees it and does nothing else; at the least doubt, and when anything goes wrong, everything that has come is given to a
`response.LeanResponse`, whose parser decides what it means. So what this file takes is a part of what that parser
takes, and means the same; `tests/get/test_wire.py` compares the two.

One object per connection is the protocol of all exchanges and responses on it, one at a time. Nothing here knows of
files: whoever starts an exchange is called when the whole body is there.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.math cimport INFINITY
from libc.string cimport memchr, memcmp

from noria.get.failures import Failure


cdef class Connection:
    """A protocol: its transport, and what is under way on it. `origin` has the sets `connections` and `idle`."""

    cdef readonly object origin
    cdef readonly object transport
    cdef readonly object loop
    cdef readonly object response
    cdef readonly bint lost
    cdef readonly double idle_since
    cdef readonly Watch watch
    cdef Exchange exchange
    cdef object now

    def __init__(self, origin, Watch watch not None, loop):
        self.origin = origin
        self.watch = watch
        self.loop = loop
        self.now = loop.time

    def start(self, bytes head, response):
        """Send the request `head`, whose answer `response` takes; None if it has been sent."""
        self.response = response
        self.watch.add(response)
        if head is not None:
            self.transport.write(head)

    def connection_made(self, transport):
        self.transport = transport
        self.origin.connections.add(self)

    def data_received(self, data):
        if self.exchange is not None:
            self.exchange.feed(data if type(data) is bytes else bytes(data))
        elif self.response is not None:
            self.response.feed(data)
        else:
            self.transport.abort()  # nobody asked

    def eof_received(self):
        return None

    def connection_lost(self, exc):
        self.lost = True
        self.origin.connections.discard(self)
        if self in self.origin.idle:
            self.origin.idle.remove(self)
        if self.exchange is not None:
            self.exchange.end(exc)
        elif self.response is not None:
            self.response.end(exc)

    def pause_writing(self):
        """Requests are short."""

    def resume_writing(self):
        """Requests are short."""

    cpdef finished(self, bint reusable):
        """What was under way has ended; the next one may come here if the connection is `reusable`."""
        if self.exchange is not None:
            self.watch.discard(self.exchange)
            self.exchange = None
        else:
            self.watch.discard(self.response)
            self.response = None
        if reusable and not self.lost:
            self.idle_since = self.now()
            self.origin.idle.append(self)
        else:
            self.transport.abort()


cdef class Watch:
    """Ends what makes no progress: `add`ed objects with the attributes heard (loop time), began (a byte has come) and
    paused, and the method fail. One timer for all: it is set for the earliest moment at which one of them can be late.

    first_byte, stall: seconds until the first byte and between two, None for no limit; first_byte is as stall if None.
    """

    cdef object loop
    cdef object now
    cdef dict watched
    cdef object timer
    cdef double when
    cdef double first_byte
    cdef double stall

    def __init__(self, loop, first_byte, stall):
        self.loop = loop
        self.now = loop.time
        self.stall = INFINITY if stall is None else stall
        self.first_byte = self.stall if first_byte is None else first_byte
        self.watched = {}
        self.when = INFINITY

    cpdef add(self, watched):
        """Watch `watched`, whose request is being sent."""
        cdef double now = self.now()
        watched.heard = now
        self.watched[watched] = None
        # It may begin in the next moment, and then be late after a whole time of silence.
        self.set(now + min(self.first_byte, self.stall))

    cpdef discard(self, watched):
        """Watch it no more."""
        self.watched.pop(watched, None)

    def close(self):
        """Stop."""
        if self.timer is not None:
            self.timer.cancel()

    cdef double limit(self, watched):
        return self.stall if watched.began else self.first_byte

    cdef int set(self, double when) except -1:
        if when < self.when:
            if self.timer is not None:
                self.timer.cancel()
            self.when = when
            self.timer = self.loop.call_at(when, self.look)
        return 0

    def look(self):
        """The timer's call: see who is late."""
        cdef double now = self.now()
        cdef double earliest = INFINITY
        cdef double deadline
        self.timer = None
        self.when = INFINITY
        for watched in list(self.watched):
            if watched not in self.watched:
                continue
            deadline = INFINITY if watched.paused else watched.heard + self.limit(watched)
            if deadline <= now:
                watched.fail(
                    Failure(
                        f"stalled: no data for {self.limit(watched):g} s",
                        again=True, kind="timeout", congested=True,
                    )
                )
            else:
                earliest = min(earliest, deadline, now + self.stall)
        if earliest < INFINITY:
            self.set(earliest)


cdef class Exchange:
    """One GET for a small file.

    loop: whose `create_future` makes `future`. most: bytes that a body may have here. unnamed: whether the name of the
    file is the server's to give. received: called with this object once `body` is whole, etag, last_modified and date
    are what the answer had of them, and the connection is free again; whoever made the exchange then sees to `future`.
    otherwise: called with this object, its connection, what has come so far (a list of bytes), whether the connection
    is lost, and why (an exception or None) or what the watch said. It takes the connection over and sees to `future`.

    size: bytes that the body must have, -1 for any. subject, settled: the caller's, but for `settled` if a callback
    raises, which is then the future's exception. first_byte: seconds from the request to the answer.
    """

    cdef public object future
    cdef public bint settled
    cdef public object subject
    cdef readonly bytes body
    cdef readonly bytes etag
    cdef readonly bytes last_modified
    cdef readonly bytes date
    cdef readonly double first_byte
    cdef public double heard
    cdef readonly bint began
    cdef readonly bint paused
    cdef readonly Connection connection
    cdef object received
    cdef object otherwise
    cdef list data       # all that has come
    cdef Py_ssize_t most
    cdef Py_ssize_t size
    cdef Py_ssize_t start   # of the body, in the first piece
    cdef Py_ssize_t length
    cdef Py_ssize_t left    # bytes of the body still to come; -1: the head has not
    cdef bint unnamed

    def __init__(self, loop, subject, Py_ssize_t most, Py_ssize_t size, bint unnamed, received, otherwise):
        self.future = loop.create_future()
        self.subject = subject
        self.most = most
        self.size = size
        self.unnamed = unnamed
        self.received = received
        self.otherwise = otherwise
        self.data = []
        self.left = -1

    cpdef begin(self, Connection connection, bytes head):
        """Send the request `head`."""
        self.connection = connection
        connection.exchange = self
        connection.watch.add(self)
        connection.transport.write(head)

    def close(self):
        """Close the connection, if the exchange is under way."""
        cdef Connection connection = self.connection
        if connection is not None:
            self.connection = None
            connection.finished(False)

    def fail(self, error):
        """What the watch says."""
        self.give_up(False, error)

    cdef int feed(self, bytes data) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef double now = self.connection.now()
        if not self.began:
            self.began = True
            self.first_byte = now - self.heard
        self.heard = now
        self.data.append(data)
        if self.left < 0:
            if (
                not self.plain(data)
                or self.length > self.most
                or self.size >= 0 and self.length != self.size
            ):
                self.give_up(False, None)
                return 0
            self.left = self.length - (size - self.start)
        else:
            self.left -= size
        if self.left <= 0:
            self.complete()
        return 0

    cdef int complete(self) except -1:
        cdef bytes first = self.data[0]
        cdef Connection connection = self.connection
        if len(self.data) == 1:
            self.body = first[self.start:self.start + self.length]
        else:
            self.body = (first[self.start:] + b"".join(self.data[1:]))[:self.length]
        self.data = None
        self.connection = None
        connection.finished(self.left == 0)  # else more came than was declared, and the next answer could be it
        self.tell(self.received, (self,))
        return 0

    cdef int tell(self, callback, tuple arguments) except -1:
        try:
            callback(*arguments)
        except Exception as error:  # nobody else would end the wait
            self.settled = True
            if not self.future.done():
                self.future.set_exception(error)
        return 0

    cdef int end(self, error) except -1:
        self.give_up(True, error)
        return 0

    cdef int give_up(self, bint lost, error) except -1:
        cdef Connection connection = self.connection
        data = self.data
        self.data = None
        self.connection = None
        connection.watch.discard(self)
        connection.exchange = None
        self.tell(self.otherwise, (self, connection, data, lost, error))
        return 0

    cdef bint plain(self, bytes data) except -1:
        """Whether `data` begins with a head that this file takes; then `start` and `length` are known."""
        cdef const unsigned char *text = <const unsigned char *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t at = 13
        cdef Py_ssize_t end, colon, i
        cdef const unsigned char *found
        cdef bint counted = False
        if size < 17 or memcmp(text, b"HTTP/1.1 200 ", 13) != 0:
            return False
        while True:
            found = <const unsigned char *>memchr(text + at, c"\n", size - at)
            if found is NULL:
                return False
            end = found - text - 1
            if end < at or text[end] != c"\r":
                return False
            for i in range(at, end):  # visible ASCII, spaces and tabs
                if text[i] < 32 and text[i] != c"\t" or text[i] > 126:
                    return False
            if at == 13:
                pass  # words for people
            elif end == at:
                self.start = end + 2
                return counted
            else:
                found = <const unsigned char *>memchr(text + at, c":", end - at)
                if found is NULL:
                    return False
                colon = found - text
                if not is_token(text + at, colon - at) or not self.field(text, at, colon, end, &counted):
                    return False
            at = end + 2

    cdef bint field(
        self, const unsigned char *text, Py_ssize_t at, Py_ssize_t colon, Py_ssize_t end, bint *counted
    ) except -1:
        """Take note of a field of the head; false if the answer is not plain with it."""
        cdef const unsigned char *name = text + at
        cdef Py_ssize_t size = colon - at
        cdef Py_ssize_t i
        colon += 1
        while colon < end and (text[colon] == c" " or text[colon] == c"\t"):
            colon += 1
        while end > colon and (text[end - 1] == c" " or text[end - 1] == c"\t"):
            end -= 1
        if size == 14 and same(name, b"content-length", 14):
            if counted[0] or not 0 < end - colon <= 15:
                return False
            self.length = 0
            for i in range(colon, end):
                if not c"0" <= text[i] <= c"9":
                    return False
                self.length = 10 * self.length + (text[i] - c"0")
            counted[0] = True
        elif size == 4 and same(name, b"etag", 4):
            if self.etag is not None:
                return False
            self.etag = text[colon:end]
        elif size == 13 and same(name, b"last-modified", 13):
            if self.last_modified is not None:
                return False
            self.last_modified = text[colon:end]
        elif size == 4 and same(name, b"date", 4):
            if self.date is not None:
                return False
            self.date = text[colon:end]
        elif size == 10 and same(name, b"connection", 10):
            return end - colon == 10 and same(text + colon, b"keep-alive", 10)
        elif size == 19 and same(name, b"content-disposition", 19):
            return not self.unnamed
        else:
            return not (
                size == 17 and same(name, b"transfer-encoding", 17)
                or size == 11 and same(name, b"repr-digest", 11)
                or size == 7 and (same(name, b"upgrade", 7) or same(name, b"trailer", 7))
                or size == 16 and same(name, b"proxy-connection", 16)
            )
        return True


cdef bint same(const unsigned char *text, const char *lower, Py_ssize_t size) noexcept nogil:
    """Whether `text` is `lower`, a word in small letters, in any case of letters."""
    cdef Py_ssize_t i
    cdef unsigned char c
    for i in range(size):
        c = text[i]
        if c"A" <= c <= c"Z":
            c += 32
        if c != <unsigned char>lower[i]:
            return False
    return True


cdef bint is_token(const unsigned char *text, Py_ssize_t size) noexcept nogil:
    """Whether it is a field's name (RFC 9110, section 5.6.2)."""
    cdef Py_ssize_t i
    cdef unsigned char c
    if size <= 0:
        return False
    for i in range(size):
        c = text[i]
        if not (c"a" <= c <= c"z" or c"A" <= c <= c"Z" or c"0" <= c <= c"9" or c == c"-"):
            if memchr(b"!#$%&'*+.^_`|~", c, 14) is NULL:
                return False
    return True
