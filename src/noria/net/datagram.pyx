"""Datagram transports: UDP over IPv4 and IPv6, Unix-domain datagrams, and whatever else a program's socket speaks.

The path of a received datagram: the driver reports the socket readable, one recvmmsg(2) takes what waits there (as
many as the last times made it expect), each becomes a bytes object and the address it came from, and the protocol's
`datagram_received` gets them one by one. Those not delivered yet stay in the inbox: a protocol may pause, close, or run
the loop inside, and misses none and gets none too many. The path of one sent: `sendto` gives it to the kernel at
once; if the kernel has no room it is queued, and the queue goes out by sendmmsg(2). While a batch of received ones is
being delivered, what the protocol sends to addresses written in numbers is gathered, and goes out in the same way when
the batch is through: before anything else of the loop runs, or as soon as a fraction of a millisecond has passed. So
an error of such a datagram is told a little later than asyncio tells it.

Promises: order; each error told by `error_received` for the datagram that failed, and for no other; nothing cut
short unnoticed (EMSGSIZE instead). Semantics and messages are those of asyncio 3.13's selector transport, on each
interpreter; empty datagrams are sent and received.

Leaves to others: making the socket (endpoints.py); flow control, closing and telling the protocol (stream.pyx).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset, strlen

from noria.core.capi cimport (
    NORIA_SLICE, PY_VECTORCALL_ARGUMENTS_OFFSET,
    PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit, PyObject_VectorcallMethod,
    noria_ticks,
)
from noria.core.wheel cimport Wheel, push
from noria.io.driver cimport WANT_IN, WANT_OUT, IODriver
from noria.io.sys cimport (
    AF_INET, AF_INET6, AF_UNIX, EAGAIN, EMSGSIZE, MSG_TRUNC, htonl, htons, inet_pton, iovec, mmsghdr, sockaddr,
    sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t,
)
from noria.net.stream cimport CLOSING, LOST, OPEN, StreamTransport, address_of

import asyncio.constants
import asyncio.transports
import asyncio.trsock
import os
from asyncio.log import logger

# Both, as asyncio's own: programs ask isinstance(transport, asyncio.DatagramTransport), CPython's tests for Transport.
cdef object Kind = type(
    "DatagramTransport", (asyncio.transports.Transport, asyncio.transports.DatagramTransport),
    {"__slots__": (), "__module__": __name__})

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    AT_ONCE = 64                  # datagrams received for one wake-up, at most
    PARTS = 64                    # datagrams in one sendmmsg
    HEADER = 8                    # what a queued datagram counts above its data, as in asyncio
    KNOWN = 256                   # addresses remembered; a power of two
    LARGEST = 256 * 1024          # bytes received from a socket that is neither IP nor Unix
    WARN_AFTER = 5                # datagrams for a lost endpoint before they are worth a warning

cdef Py_ssize_t HIGH_WATER = 64 * 1024
cdef object DATAGRAM_RECEIVED = "datagram_received"
cdef object ERROR_RECEIVED = "error_received"


# Addresses. Two small tables, from the kernel's form to the tuple and back: a server answers with the very tuple it was
# given. An entry has one of two places, and a newer one takes that of the older. What is in them cannot change: exact
# tuples of exact strings and numbers, held, so that their identity is theirs alone.

cdef struct Entry:
    PyObject* address            # owned
    Address raw

cdef Entry received_from[KNOWN]  # by the kernel's form
cdef Entry sent_to[KNOWN]        # by the tuple's identity


cdef inline Entry* place_of_raw(sockaddr* raw) noexcept:
    cdef uint32_t mix
    if raw.sa_family == AF_INET:
        mix = (<sockaddr_in*>raw).sin_addr.s_addr ^ ((<sockaddr_in*>raw).sin_port * <uint32_t>0x9E3779B1)
    else:
        memcpy(&mix, &(<sockaddr_in6*>raw).sin6_addr.s6_addr[12], 4)
        mix ^= (<sockaddr_in6*>raw).sin6_port * <uint32_t>0x9E3779B1
    return &received_from[(mix ^ mix >> 11 ^ mix >> 22) & (KNOWN - 2)]


cdef inline Entry* place_of_tuple(PyObject* address) noexcept:
    cdef size_t mix = <uintptr_t>address >> 4
    return &sent_to[(mix ^ mix >> 7 ^ mix >> 14) & (KNOWN - 2)]


cdef int store(Entry* place, object address, void* raw, socklen_t size) except -1:
    # In the first of the two places; what is there moves to the second.
    cdef PyObject* old = place[1].address
    place[1] = place[0]
    Py_INCREF(address)
    place.address = <PyObject*>address
    memcpy(&place.raw.raw, raw, size)
    place.raw.size = size
    if old != NULL:
        Py_DECREF(<object>old)
    return 0


cdef object ip_address(sockaddr* raw, socklen_t size):
    # The tuple for an IPv4 or IPv6 address that the kernel gave us.
    cdef Entry* place = place_of_raw(raw)
    cdef int i
    for i in range(2):
        if place[i].address != NULL and place[i].raw.size == size and memcmp(&place[i].raw.raw, raw, size) == 0:
            return <object>place[i].address
    address = address_of(<sockaddr_storage*>raw, size)
    store(place, address, raw, size)
    store(place_of_tuple(<PyObject*>address), address, raw, size)
    return address


cdef Address* spell(object address, int family) except? NULL:
    # The kernel's form of an address, valid until the next call; NULL: no IP address written out in numbers, which the
    # socket object itself must make sense of.
    cdef Entry* place = place_of_tuple(<PyObject*>address)
    cdef int i
    for i in range(2):
        if place[i].address == <PyObject*>address and (<sockaddr*>&place[i].raw.raw).sa_family == family:
            return &place[i].raw
    return spell_out(address, family)


cdef Address* spell_out(object address, int family) except? NULL:
    cdef Address into
    cdef Entry* place
    cdef sockaddr_in* v4 = <sockaddr_in*>&into.raw
    cdef Py_ssize_t size
    cdef const char* text
    cdef long number
    if type(address) is not tuple or not 2 <= len(<tuple>address) <= (2 if family == AF_INET else 4):
        return NULL
    if type((<tuple>address)[0]) is not str:
        return NULL
    for part in (<tuple>address)[1:]:
        if type(part) is not int or not 0 <= part <= 0xFFFFFFFF:
            return NULL
    number = (<tuple>address)[1]
    if number > 0xFFFF:
        return NULL
    text = PyUnicode_AsUTF8AndSize((<tuple>address)[0], &size)
    if <size_t>size != strlen(text):
        return NULL
    memset(&into, 0, sizeof(into))
    (<sockaddr*>&into.raw).sa_family = family
    if family == AF_INET:
        into.size = sizeof(sockaddr_in)
        v4.sin_port = htons(number)
        if inet_pton(AF_INET, text, &v4.sin_addr) != 1:
            return NULL
    else:
        into.size = sizeof(sockaddr_in6)
        into.raw.sin6_port = htons(number)
        if inet_pton(AF_INET6, text, &into.raw.sin6_addr) != 1:
            return NULL
        if len(<tuple>address) > 2:
            if (<tuple>address)[2] > 0xFFFFF:
                return NULL
            into.raw.sin6_flowinfo = htonl((<tuple>address)[2])
        if len(<tuple>address) > 3:
            into.raw.sin6_scope_id = (<tuple>address)[3]
    place = place_of_tuple(<PyObject*>address)
    store(place, address, &into.raw, into.size)
    return &place.raw


cdef object error_of(int number):
    return OSError(number, os.strerror(number))


cdef class DatagramTransport(StreamTransport):
    """A datagram endpoint. Made by the loop's create_datagram_endpoint."""

    @property
    def __class__(self):
        return Kind

    _start_tls_compatible = False
    _sendfile_compatible = asyncio.constants._SendfileMode.UNSUPPORTED

    # Receiving.

    cdef int run(self) except -1:
        if self.due:
            self.due = False
            return self.deliver()
        return StreamTransport.run(self)

    cdef int happened(self, uint32_t events) except -1:
        if events & WANT_OUT:
            self.flush()
        if events & WANT_IN and self.wants & WANT_IN:
            if self.inbox is not None:
                return self.deliver()  # older ones first; the kernel tells us again of the rest
            if self.family == AF_INET or self.family == AF_INET6:
                return self.receive()
            if self.family == AF_UNIX:
                return self.receive_each()
            return self.receive_other()
        return 0

    cdef int receive(self) except -1:
        cdef mmsghdr* messages
        cdef mmsghdr* message
        cdef int i, n = self.driver.receive_many(self, &messages, self.expect)
        if n < 0:
            return 0 if n == -EAGAIN else self.failed(error_of(-n))
        self.judge(n)
        if n == 1:
            message = messages
            return self.hand_in(
                PyBytes_FromStringAndSize(<char*>message.msg_hdr.msg_iov.iov_base, message.msg_len),
                ip_address(<sockaddr*>message.msg_hdr.msg_name, message.msg_hdr.msg_namelen)
                if message.msg_hdr.msg_namelen else None,
                message.msg_hdr.msg_flags)
        # Python objects first: while the protocol runs, another endpoint may use the driver's buffers.
        inbox = []
        for i in range(n):
            message = &messages[i]
            if message.msg_hdr.msg_flags & MSG_TRUNC:
                inbox.append(None)
                inbox.append(error_of(EMSGSIZE))
                continue
            inbox.append(PyBytes_FromStringAndSize(<char*>message.msg_hdr.msg_iov.iov_base, message.msg_len))
            inbox.append(ip_address(<sockaddr*>message.msg_hdr.msg_name, message.msg_hdr.msg_namelen)
                         if message.msg_hdr.msg_namelen else None)
        self.inbox = inbox
        self.taken = 0
        return self.deliver()

    cdef int receive_each(self) except -1:
        # Unix-domain datagrams may be larger than a slot, and their addresses are names: one at a time.
        cdef sockaddr_storage addr
        cdef socklen_t size
        cdef char* where
        cdef int flags, came = 0, limit = self.expect
        cdef Py_ssize_t n
        while came < limit and self.wants & WANT_IN:
            n = self.driver.receive_from(self, &where, &addr, &size, &flags)
            if n < 0:
                if n != -EAGAIN:
                    return self.failed(error_of(<int>-n))
                break
            came += 1
            self.hand_in(PyBytes_FromStringAndSize(where, n), address_of(&addr, size), flags)
        self.judge(came)
        return 0

    cdef int receive_other(self) except -1:
        # Packet, netlink, Bluetooth...: the socket object knows their addresses.
        try:
            data, addr = self.sock.recvfrom(LARGEST)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            return self.failed(error)
        return self.hand_over(data, addr)

    cdef int judge(self, int came) except -1:
        # Ask for twice as many if all asked for were there, else slowly for fewer: a call that gets fewer has paid for
        # one attempt in vain.
        if came < self.expect:
            self.expect = max(came, self.expect >> 1)
        elif self.expect < AT_ONCE:
            self.expect *= 2
        return 0

    cdef int hand_in(self, bytes data, object addr, int flags) except -1:
        if flags & MSG_TRUNC:
            return self.failed(error_of(EMSGSIZE))
        return self.hand_over(data, addr)

    cdef int deliver(self) except -1:
        # Reentrant: the cursor is the transport's.
        cdef list inbox = self.inbox
        cdef bint outer = self.gathering
        if inbox is not None and len(inbox) - self.taken > 2 and self.life == OPEN and not self.paused:
            # Should the protocol raise KeyboardInterrupt, or wait in a nested run for the next datagram, the rest is
            # not forgotten: the kernel will not remind us of it.
            self.revisit()
            self.gathering = True
            self.since = noria_ticks()
        try:
            return self.deliver_each(inbox)
        finally:
            self.gathering = outer
            self.let_go()

    cdef int deliver_each(self, list inbox) except -1:
        while inbox is not None and self.life == OPEN and not self.paused:
            if self.taken >= len(inbox):
                self.inbox = None
                return 0
            data, addr = inbox[self.taken], inbox[self.taken + 1]
            self.taken += 2
            if data is None:
                self.failed(addr)
            else:
                self.hand_over(data, addr)
            if self.backlog and self.gathering and noria_ticks() - self.since > NORIA_SLICE >> 2:
                self.let_go()  # a slow protocol; what it has answered is not to wait for what it will
            inbox = self.inbox
        if self.life != OPEN:
            self.inbox = None
        return 0

    cdef int revisit(self) except -1:
        if not self.due and not self.loop.shut:
            self.due = True
            push(self.loop, self)
        return 0

    cdef int hand_over(self, object data, object addr) except -1:
        # As `call`, with two arguments.
        cdef object protocol = self.protocol
        cdef object context = self.context
        cdef Wheel loop = self.loop
        cdef PyObject* outer
        cdef PyObject* got
        cdef PyObject* args[4]
        if PyContext_Enter(<PyObject*>context) < 0:
            return self.report("Exception in protocol.datagram_received()")
        outer = loop.entered
        loop.entered = <PyObject*>context
        args[1], args[2], args[3] = <PyObject*>protocol, <PyObject*>data, <PyObject*>addr
        got = PyObject_VectorcallMethod(
            <PyObject*>DATAGRAM_RECEIVED, &args[1], 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)
        if loop.entered == <PyObject*>context:  # else a nested run could not give it back
            PyContext_Exit(<PyObject*>context)
        loop.entered = outer
        if got == NULL:
            return self.report("Exception in protocol.datagram_received()")
        Py_DECREF(<object>got)
        return 0

    cdef int failed(self, object error) except -1:
        if not self.call(ERROR_RECEIVED, <PyObject*>error, NULL):
            self.report("Exception in protocol.error_received()")
        return 0

    def resume_reading(self):
        """Undo pause_reading()."""
        StreamTransport.resume_reading(self)
        if self.inbox is not None:
            self.revisit()

    # Sending.

    def sendto(self, data, addr=None):
        """Send a datagram (bytes, bytearray or memoryview; it may be empty) to addr, or to remote_addr.

        Does not block: what the kernel does not take is buffered. If sending fails, error_received() of the protocol is
        called with the OSError. Raises TypeError for other data, ValueError if addr is not the remote_addr that was
        given when the endpoint was made.
        """
        cdef int sent
        if type(data) is not bytes and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.remote is not None:
            if addr is not None and addr != self.remote:
                raise ValueError(f"Invalid address: must be None or {self.remote}")
            addr = self.remote
        if self.life >= LOST:
            if self.lost_writes >= WARN_AFTER:
                logger.warning("socket.send() raised exception.")
            self.lost_writes += 1
            return
        if self.gathering and self.gather(data, addr):
            return
        if self.backlog == 0:
            sent = self.send_now(data, addr)
            if sent == 0:
                return
            if sent != -EAGAIN:
                error = self.refusal(sent)
                if isinstance(error, OSError):
                    self.protocol.error_received(error)
                else:
                    self.fatal(error, "Fatal write error on datagram transport")
                return
        self.keep(data, addr)

    cdef bint to_peer(self, object addr):
        return self.connected and (self.named or addr is None)

    cdef int send_now(self, object data, object addr) except -1000:
        # 0 if it is sent, -errno, or 1 if `refused` is what was wrong. The protocol is not called.
        cdef Address* raw
        cdef sockaddr* where = NULL
        cdef socklen_t size = 0
        cdef Py_buffer view
        cdef int sent
        if not self.to_peer(addr):
            raw = spell(addr, self.family) if self.family == AF_INET or self.family == AF_INET6 else NULL
            if raw == NULL:
                return self.send_other(data, addr)
            where = <sockaddr*>&raw.raw
            size = raw.size
        if type(data) is bytes:
            return self.driver.send_to(self, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), where, size)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        sent = self.driver.send_to(self, view.buf, view.len, where, size)
        PyBuffer_Release(&view)
        return sent

    cdef int send_other(self, object data, object addr) except -1000:
        # To a name, or a path, or something that is no address at all: as the socket object understands it.
        try:
            self.sock.sendto(data, addr)
        except (BlockingIOError, InterruptedError):
            return -EAGAIN
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.refused = error
            return 1
        return 0

    cdef object refusal(self, int sent):
        if sent < 0:
            return error_of(-sent)
        error, self.refused = self.refused, None
        return error

    cdef int keep(self, object data, object addr) except -1:
        self.append(data, addr)
        return self.await_room()

    cdef int append(self, object data, object addr) except -1:
        data = bytes(data)  # which the caller cannot change
        if self.backlog == 0:
            self.queue = []
            self.head = 0
        self.queue.append((data, addr))
        self.backlog += PyBytes_GET_SIZE(data) + HEADER
        return 0

    cdef bint gather(self, object data, object addr) except -1:
        # Whether it was taken. If not, nothing waits: it may go at once.
        if self.wants & WANT_OUT:
            return False  # the kernel has no room: the queue is a real one
        if self.family != AF_INET and self.family != AF_INET6 or self.to_peer(addr) or \
                self.backlog + len(data) + HEADER > self.high or spell(addr, self.family) == NULL:
            if self.backlog == 0:
                return False
            # Behind the others, and before what the protocol sends, or does, when it hears how they fared.
            self.append(data, addr)
            self.let_go()
            return True
        self.append(data, addr)
        self.revisit()  # a nested run lets it go
        if len(self.queue) - self.head >= PARTS:
            self.let_go()
        return True

    cdef int let_go(self) except -1:
        # Send what was gathered.
        if self.backlog and not self.wants & WANT_OUT and self.life < LOST:
            self.since = noria_ticks()
            self.flush()
            if self.backlog and self.life < LOST:
                self.await_room()
        return 0

    cdef int flush(self) except -1:
        # Reentrant: while the protocol hears of an error it may send, close, abort, or run the loop.
        cdef int sent
        while self.backlog:
            sent = self.send_batch()
            if sent > 0:
                self.drop_first(sent)
                continue
            if sent == 0:
                data, addr = self.queue[self.head]
                sent = self.send_now(data, addr)
            if sent == -EAGAIN:
                return self.relieve()
            self.drop_first(1)
            if sent != 0:
                error = self.refusal(sent)
                if isinstance(error, OSError):
                    self.failed(error)
                else:
                    self.fatal(error, "Fatal write error on datagram transport")
        if self.life >= LOST:
            return 0
        self.driver.want(self, self.wants & ~<uint32_t>WANT_OUT)
        self.relieve()  # the protocol may send
        if self.backlog == 0 and self.life == CLOSING:
            self.lose(None)
        return 0

    cdef int send_batch(self) except -1000:
        # As many of the queue as go out by one call: their count, -errno of the first, or 0: the first is to go alone.
        cdef mmsghdr messages[PARTS]
        cdef iovec parts[PARTS]
        cdef Address names[PARTS]
        cdef Address* raw
        cdef int count = 0
        cdef Py_ssize_t i = self.head
        cdef bytes data
        if len(self.queue) - i < 2 or self.family != AF_INET and self.family != AF_INET6 and not self.connected:
            return 0
        if self.connected and self.family != AF_UNIX:
            # An ICMP error that comes while others of the batch go out well would be lost: sendmmsg(2) tells of no
            # error but the first datagram's.
            return 0
        memset(messages, 0, sizeof(messages))
        while count < PARTS and i < len(self.queue):
            data, addr = <tuple>self.queue[i]
            if not self.to_peer(addr):
                raw = spell(addr, self.family) if self.family != AF_UNIX else NULL
                if raw == NULL:
                    break
                names[count] = raw[0]
                messages[count].msg_hdr.msg_name = &names[count].raw
                messages[count].msg_hdr.msg_namelen = names[count].size
            parts[count].iov_base = PyBytes_AS_STRING(data)
            parts[count].iov_len = PyBytes_GET_SIZE(data)
            messages[count].msg_hdr.msg_iov = &parts[count]
            messages[count].msg_hdr.msg_iovlen = 1
            count += 1
            i += 1
        if count < 2:
            return 0
        return self.driver.send_many(self, messages, count)

    cdef int drop_first(self, Py_ssize_t count) except -1:
        while count:
            data, _ = <tuple>self.queue[self.head]
            self.backlog -= len(data) + HEADER
            self.queue[self.head] = None
            self.head += 1
            count -= 1
        if self.backlog == 0:
            self.queue = None
            self.head = 0
        elif self.head > 1024 and self.head > len(self.queue) >> 1:
            del self.queue[:self.head]
            self.head = 0
        return 0

    # What a stream has and this has not: asyncio's datagram transports have these names too.

    def write(self, data):
        """Not for datagrams: use sendto()."""
        raise NotImplementedError

    def writelines(self, list_of_data):
        """Not for datagrams: use sendto()."""
        raise NotImplementedError

    def write_eof(self):
        """Datagrams have no end."""
        raise NotImplementedError

    def can_write_eof(self):
        """Datagrams have no end."""
        raise NotImplementedError

    # Closing.

    def abort(self):
        """Close at once; what is buffered is thrown away. connection_lost(None) follows."""
        self.let_go()  # without gathering it had been sent already
        self.lose(None)

    cdef int close_fd(self) except -1:
        if self.fd >= 0:
            self.fd = -1
            self.inbox = None
            sock, self.sock = self.sock, None
            sock.close()
        return 0


def open_datagram(Wheel loop not None, sock, protocol, address=None):
    """A transport over a non-blocking datagram socket object, which it owns from now on.

    address: where everything is sent to; None to name an address for each datagram or if the socket is connected.
    protocol.connection_made(transport) is called from the ready queue; then receiving starts.
    """
    cdef DatagramTransport transport = DatagramTransport.__new__(DatagramTransport)
    loop.check_open()
    transport.loop = loop
    transport.driver = <IODriver>loop.driver
    transport.context = PyContext_CopyCurrent()
    transport.high = HIGH_WATER
    transport.low = HIGH_WATER // 4
    transport.use(protocol)
    transport.remote = address or None
    transport.family = sock.family
    transport.expect = 1
    extra = {"socket": asyncio.trsock.TransportSocket(sock)}
    for name in ("sockname", "peername"):
        try:
            extra[name] = sock.getsockname() if name == "sockname" else sock.getpeername()
        except OSError:
            extra[name] = None
    transport.extra = extra
    transport.connected = extra["peername"] is not None
    transport.named = bool(extra["peername"])
    transport.fd = sock.fileno()
    transport.sock = sock
    transport.life = OPEN
    push(loop, transport)
    return transport
