"""The io_uring driver: the epoll driver with a ring beside it, for connections.

What connections of ours receive, and small writes, go through the ring, many by one system call: the io_uring_enter(2)
that also waits. Everything else is watched by the epoll instance, which the ring in turn watches:

- A descriptor that the program owns (add_reader, pipes, pidfds) must not be held by the kernel when the program closes
  it. Epoll forgets it then; an operation in a ring keeps the file open.
- A connection that receives more than a buffer of the ring at once is served by readiness (`bulk`): one recv(2) into
  the large buffer beats several completions and putting them together.
- What is not sent at once (EAGAIN) waits for room by readiness.
- Listeners: a multishot accept was no cheaper (it does not tell the address), and would take the connections of other
  processes that listen on the same socket.

So the calls of driver.pxd keep their meaning: receive() gives what the ring has brought. The rest of the
time it says EAGAIN.

Receiving: one multishot operation a connection, which takes buffers from a pool that all share. A buffer goes back as
soon as the transport has been told: who cannot be told now (paused, in the ready queue behind others) gets a copy.
Thus the pool is empty only if one turn brings more than it has; those operations end (ENOBUFS) and are begun again.

The end of a stream may have come together with its last bytes. It is told behind what these put into the ready queue:
on epoll it comes in a later turn, and a program that answers at once has answered by then.

Sending: post() hands over bytes, unless nobody else is ready: then they leave at once, as a program expects that blocks
next. At most one block a connection; all are submitted when the kernel is asked next, not to wait for room
(MSG_DONTWAIT), so that each completes within that call: no bytes are in flight between turns, and nothing needs to be
cancelled.

Waiting: in the ring, which watches the epoll instance. If for a while only epoll has brought anything (datagrams, large
messages) it is the other way round, by an eventfd, since each event by way of the other costs a system call more.

Nothing is submitted before the kernel is asked: until then `dirty` channels are on a list, and what they want by then
is what counts. Thus no submission names a descriptor that has been closed since.

A channel with operations in flight is referenced until the last of them has completed, whatever became of it: their
user data is its address.

The ring is made when the first connection is watched: a loop without any costs no more than on epoll. It is made for
one thread (SINGLE_ISSUER): the one that runs the loop then. If another one runs it later a new ring is made; what was
in flight in the old one has either completed or had no effect (DEFER_TASKRUN: the kernel works on it only while that
thread asks). If no ring can be had any more, the driver goes on as the epoll driver.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject, traverseproc, visitproc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from noria.core.capi cimport PyErr_CheckSignals, PyThread_get_thread_ident, noria_ticks
from noria.core.wheel cimport overdue, push
from noria.io.driver cimport ANY, STREAM, WANT_IN, Channel
from noria.io.epoll cimport BATCH, BESIDE, EpollDriver
from noria.io.ring cimport (
    CANCEL_ALL, CANCEL_ANY, CQE_F_BUFFER, CQE_F_MORE, NORIA_OPS, OP_ASYNC_CANCEL,
    OP_POLL_ADD, OP_RECV, OP_SEND, RECV_MULTISHOT, SETUP_COOP_TASKRUN, SETUP_DEFER_TASKRUN, SETUP_NO_SQARRAY,
    SETUP_R_DISABLED, SETUP_SINGLE_ISSUER, SETUP_SUBMIT_ALL, SETUP_TASKRUN_FLAG, SQE_BUFFER_SELECT, noria_buffers,
    noria_buffers_free, noria_buffers_give, noria_buffers_open, noria_buffers_publish, noria_cqe, noria_ring,
    noria_ring_clear, noria_ring_close, noria_ring_completions, noria_ring_cqe, noria_ring_enable, noria_ring_enter,
    noria_ring_idle, noria_ring_open, noria_ring_overflown, noria_ring_probe, noria_ring_seen, noria_ring_sqe,
    noria_ring_submit, noria_ring_tell, noria_ring_telling, noria_ring_waiting, noria_sqe,
)
from noria.io.sys cimport (
    EAGAIN, EBUSY, ECANCELED, EEXIST, EFD_CLOEXEC, EFD_NONBLOCK, EINTR, ENOBUFS, ENOSYS, EPOLLET,
    EPOLLIN, EPOLL_CTL_DEL, ETIME, MSG_DONTWAIT, MSG_NOSIGNAL, close, epoll_ctl,
    epoll_event, errno, eventfd, iovec,
)

import os
from asyncio.log import logger

cdef enum:
    SUBMISSIONS = 128
    COMPLETIONS = 1024
    BUFFERS = 64                 # a power of two
    # Of each. Not a power of two apart, or all would share a few cache lines.
    BUFFER_SIZE = 4 * 1024 + 64
    SMALL = 16                   # receptions that end `bulk`
    KEPT = 16 * 1024             # bytes kept for one connection by which the ring is to bring it no more
    # Completions by which there may be more: the kernel does what it put off (DEFER_TASKRUN) twenty at a time
    # (IO_LOCAL_TW_DEFAULT_MAX in its io_uring.c), and some of it completes nothing.
    SOME = 8
    OUTSIDE = 16                 # events after which to wait in epoll

# The low bits of a completion's user data; the rest is the channel's address.
cdef enum Tag:
    RECEIVED = 1
    SENT
    READY                        # the epoll instance has something
    CANCELLED
    TAGS = 7

# Of Channel.reading.
cdef enum Reading:
    IDLE
    ARMED
    CANCELLING

cdef uint32_t MUST = SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN | SETUP_TASKRUN_FLAG | SETUP_R_DISABLED
cdef uint32_t MAY = SETUP_COOP_TASKRUN | SETUP_SUBMIT_ALL | SETUP_NO_SQARRAY


cdef int open_ring(noria_ring* ring, noria_buffers* buffers) noexcept:
    # A disabled ring and its buffers: 0 or -errno.
    cdef int error = noria_ring_open(ring, SUBMISSIONS, COMPLETIONS, MUST, MAY)
    if error < 0:
        return error
    error = noria_buffers_open(ring, buffers, 0, BUFFERS, BUFFER_SIZE)
    if error < 0:
        noria_ring_close(ring)
    return error


cdef class UringDriver(EpollDriver):
    """UringDriver()"""
    cdef noria_ring uring
    cdef noria_buffers buffers
    cdef bint hopeless           # no ring could be made: epoll does it all
    cdef unsigned long owner     # the thread that the ring is enabled for; 0: none yet
    cdef bint listening          # the ring watches the epoll instance
    cdef int bell                # eventfd by which the ring tells the epoll instance
    cdef bint inside             # it does so
    cdef bint more               # the kernel may have put off more without a flag: SOME
    cdef unsigned int turn       # counts the waits
    cdef int outside             # events that epoll brought since the ring brought one
    cdef PyObject** flying       # channels with operations in flight, owned
    cdef Py_ssize_t aloft
    cdef Py_ssize_t flying_room
    cdef PyObject** unsettled    # dirty channels, owned, first in first out
    cdef Py_ssize_t first_dirty
    cdef Py_ssize_t end_dirty
    cdef Py_ssize_t dirty_room
    cdef char* spent             # what was kept for a channel, as receive() gave it last

    name = "io_uring"

    def __cinit__(self):
        noria_ring_clear(&self.uring)
        self.bell = -1
        self.posting = True

    def __dealloc__(self):
        self.shut()

    def abandon(self):
        """In a forked child: see EpollDriver. The ring is shared with the parent, and not touched."""
        self.posting = False
        self.abandoned = True
        self.drop_ring()
        EpollDriver.abandon(self)

    cdef int close_descriptors(self) except -1:
        if self.bell >= 0:
            close(self.bell)
            self.bell = -1
        return EpollDriver.close_descriptors(self)

    # The ring's life.

    cdef int drop_ring(self) except -1:
        # Nothing of it completes any more.
        cdef Py_ssize_t i
        cdef Channel channel
        self.inside = False
        self.outside = 0
        noria_ring_close(&self.uring)
        noria_buffers_free(&self.buffers)
        self.owner = 0
        self.listening = False
        for i in range(self.aloft):
            channel = <Channel>self.flying[i]
            channel.flights = 0
            channel.reading = IDLE
            channel.sending = False
        return 0

    cdef bint have_ring(self) except -1:
        # Make sure of a ring that is enabled for this thread.
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef int error
        if self.owner == me:
            return True
        if self.hopeless or self.epfd < 0:
            return False
        if self.owner != 0:
            self.renew_ring()
        error = self.make_ready()
        if error < 0:
            logger.debug("noria: a loop goes without io_uring: %s", os.strerror(-error))
            return self.give_up()
        noria_ring_telling(&self.uring, False)
        self.owner = me
        return True

    cdef int make_ready(self) except 1:
        # A ring that is enabled, and its bell: 0 or -errno.
        cdef int error
        if self.bell < 0:
            self.bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
            if self.bell < 0:
                return -errno
            try:
                self.watch_other(self.bell, <uint32_t>EPOLLIN | <uint32_t>EPOLLET, BESIDE)  # so it need not be read
            except OSError as refused:
                return -refused.errno
        if self.uring.fd < 0:
            error = open_ring(&self.uring, &self.buffers)
            if error < 0:
                return error
        error = noria_ring_enable(&self.uring)
        return error if error < 0 else noria_ring_tell(&self.uring, self.bell)

    cdef int renew_ring(self) except -1:
        # Another thread: what has completed counts, the rest is begun anew.
        cdef Py_ssize_t i, count
        self.reap(True)
        count = self.aloft
        self.drop_ring()
        for i in range(count):
            self.touch(<Channel>self.flying[i])
        self.release_all()
        return 0

    cdef bint give_up(self) except -1:
        # Returns False. Whoever waits for the ring is watched by epoll from now on.
        cdef int fd
        cdef Channel channel
        self.hopeless = True
        self.posting = False
        self.drop_ring()
        self.release_all()
        for fd in range(self.room):
            if self.slots[fd].channel != NULL:
                channel = <Channel>self.slots[fd].channel
                if channel.kind != ANY and channel.wants & ~channel.armed:
                    self.arm(channel, channel.wants)
        while self.first_dirty < self.end_dirty:
            channel = <Channel>self.unsettled[self.first_dirty]
            self.first_dirty += 1
            channel.dirty = False
            Py_DECREF(channel)  # `channel` is a reference of its own
            if channel.posted is not None:
                self.sent_off(channel, -EAGAIN)
        self.first_dirty = self.end_dirty = 0
        self.due = False
        return False

    cdef int release_all(self) except -1:
        cdef PyObject* held
        while self.aloft:
            self.aloft -= 1
            held = self.flying[self.aloft]
            (<Channel>held).flights = 0
            Py_DECREF(<object>held)
        return 0

    cdef int forget_dirt(self) except -1:
        cdef PyObject* held
        while self.first_dirty < self.end_dirty:
            self.end_dirty -= 1
            held = self.unsettled[self.end_dirty]
            (<Channel>held).dirty = False
            Py_DECREF(<object>held)
        self.first_dirty = self.end_dirty = 0
        self.due = False
        return 0

    cdef int shut(self) except -1:
        if self.uring.fd >= 0 and self.owner == PyThread_get_thread_ident() and not self.abandoned:
            self.cancel_all()
        self.posting = False
        self.drop_ring()
        self.release_all()
        free(self.flying)
        self.flying = NULL
        self.flying_room = 0
        self.forget_dirt()
        free(self.unsettled)
        self.unsettled = NULL
        self.dirty_room = 0
        free(self.spent)
        self.spent = NULL
        return EpollDriver.shut(self)

    cdef int cancel_all(self) except -1:
        # Have the kernel let go of every descriptor before this returns: their owners close them next, and the peers
        # are to notice.
        cdef noria_sqe* sqe
        cdef noria_cqe* cqe
        cdef noria_cqe done
        cdef Channel channel
        cdef int n, tries
        for tries in range(1000):
            while True:
                cqe = noria_ring_cqe(&self.uring)
                if cqe == NULL:
                    break
                done = cqe[0]
                noria_ring_seen(&self.uring, 1)
                if done.flags & CQE_F_BUFFER:
                    noria_buffers_give(&self.buffers, <uint16_t>(done.flags >> 16))
                    noria_buffers_publish(&self.buffers)
                if done.user_data & TAGS == READY:
                    self.listening = False
                elif done.user_data & TAGS != CANCELLED and not done.flags & CQE_F_MORE:
                    channel = <Channel><PyObject*>(done.user_data & ~<uint64_t>TAGS)
                    channel.sending = False
                    self.landed(channel)
            if self.aloft == 0 and not self.listening:
                return 0
            if tries & 15 == 0:
                sqe = noria_ring_sqe(&self.uring)
                if sqe != NULL:
                    sqe.opcode = OP_ASYNC_CANCEL
                    sqe.fd = -1
                    sqe.op_flags = CANCEL_ANY | CANCEL_ALL
                    sqe.user_data = CANCELLED
            n = noria_ring_enter(&self.uring, 1, 0.01)
            if n < 0 and n not in (-ETIME, -EINTR, -EAGAIN, -EBUSY):
                return 0
        return 0

    # Channels that are dirty, and those that fly.

    cdef int touch(self, Channel channel) except -1:
        # Look at it before the kernel is asked next.
        cdef PyObject** more
        cdef Py_ssize_t room
        if channel.dirty or self.epfd < 0:
            return 0
        if self.end_dirty == self.dirty_room:
            room = max(64, 2 * self.dirty_room)
            more = <PyObject**>realloc(self.unsettled, room * sizeof(PyObject*))
            if more == NULL:
                raise MemoryError
            self.unsettled = more
            self.dirty_room = room
        Py_INCREF(channel)
        self.unsettled[self.end_dirty] = <PyObject*>channel
        self.end_dirty += 1
        channel.dirty = True
        if not self.due:
            self.due = True
            self.due_since = noria_ticks()
        return 0

    cdef int takes_off(self, Channel channel) except -1:
        cdef PyObject** more
        cdef Py_ssize_t room
        if channel.flights == 0:
            if self.aloft == self.flying_room:
                room = max(64, 2 * self.flying_room)
                more = <PyObject**>realloc(self.flying, room * sizeof(PyObject*))
                if more == NULL:
                    raise MemoryError
                self.flying = more
                self.flying_room = room
            Py_INCREF(channel)
            channel.seat = self.aloft
            self.flying[self.aloft] = <PyObject*>channel
            self.aloft += 1
        channel.flights += 1
        return 0

    cdef int landed(self, Channel channel) except -1:
        cdef PyObject* last
        channel.flights -= 1
        if channel.flights == 0:
            self.aloft -= 1
            last = self.flying[self.aloft]
            self.flying[channel.seat] = last
            (<Channel>last).seat = channel.seat
            Py_DECREF(channel)  # the caller holds one more
        return 0

    # Submitting.

    cdef noria_sqe* submission(self) noexcept:
        # NULL: the kernel takes no more for now.
        cdef noria_sqe* sqe = noria_ring_sqe(&self.uring)
        if sqe == NULL:
            noria_ring_submit(&self.uring)
            sqe = noria_ring_sqe(&self.uring)
        return sqe

    cdef int settle_all(self) except -1:
        cdef PyObject* held
        cdef bint settled = True
        while settled and self.first_dirty < self.end_dirty:
            held = self.unsettled[self.first_dirty]
            self.first_dirty += 1
            (<Channel>held).dirty = False
            settled = self.settle(<Channel>held)
            Py_DECREF(<object>held)
        if self.first_dirty == self.end_dirty:
            self.first_dirty = self.end_dirty = 0
            self.due = False
        return 0

    cdef bint settle(self, Channel channel) except -1:
        # Bring what the ring does for the channel in line with what it wants. False: not all of it could be.
        cdef noria_sqe* sqe
        cdef bint wanted
        if channel.posted is not None and not channel.sending:
            sqe = self.submission()
            if sqe == NULL:
                self.touch(channel)
                return False
            if type(channel.posted) is list:
                channel.posted = b"".join(channel.posted)
            sqe.opcode = OP_SEND
            sqe.fd = channel.fd
            sqe.addr = <uint64_t><void*>PyBytes_AS_STRING(channel.posted)
            sqe.len = <uint32_t>PyBytes_GET_SIZE(channel.posted)
            sqe.op_flags = MSG_DONTWAIT | MSG_NOSIGNAL
            sqe.user_data = <uint64_t><void*>channel | SENT
            channel.sending = True
            self.takes_off(channel)
        wanted = (channel.watched and channel.wants & WANT_IN and not channel.bulk and not channel.over
                  and channel.kept_from == channel.kept_to)
        if wanted:
            if channel.reading != IDLE:
                return True
            sqe = self.submission()
            if sqe == NULL:
                self.touch(channel)
                return False
            sqe.opcode = OP_RECV
            sqe.fd = channel.fd
            sqe.ioprio = RECV_MULTISHOT
            sqe.flags = SQE_BUFFER_SELECT
            sqe.user_data = <uint64_t><void*>channel | RECEIVED
            channel.reading = ARMED
            self.takes_off(channel)
        elif channel.reading == ARMED:
            if channel.watched and not channel.bulk and channel.kept_from == channel.kept_to:
                return True  # paused, perhaps for a moment: when something comes is early enough
            sqe = self.submission()
            if sqe == NULL:
                self.touch(channel)
                return False
            sqe.opcode = OP_ASYNC_CANCEL
            sqe.fd = -1
            sqe.addr = <uint64_t><void*>channel | RECEIVED
            sqe.user_data = CANCELLED
            channel.reading = CANCELLING
        elif channel.bulk and channel.reading == IDLE and channel.watched and channel.wants & ~channel.armed:
            try:
                self.arm(channel, channel.wants)
            except OSError:  # no room for another watch: epoll(7)
                channel.bulk = False
                self.touch(channel)
        return True

    cdef int send_alone(self, Channel channel) except -1:
        # In the ring its completion would end the wait that submits it: two calls for what a send and a wait do.
        cdef iovec part
        if channel.posted is None or channel.sending:
            return 0
        if type(channel.posted) is list:
            channel.posted = b"".join(channel.posted)
        part.iov_base = PyBytes_AS_STRING(channel.posted)
        part.iov_len = PyBytes_GET_SIZE(channel.posted)
        self.sent_off(channel, EpollDriver.send(self, channel, &part, 1))
        return 0

    cdef int flush(self) except -1:
        if self.have_ring():
            self.settle_all()
            if noria_ring_waiting(&self.uring):
                noria_ring_enter(&self.uring, 0, 0)
            while noria_ring_overflown(&self.uring):
                # Nobody may ask for long, or another thread's ring: what was sent must be known by then.
                self.reap(True)
                if noria_ring_enter(&self.uring, 0, 0) < 0:
                    break
        self.due_since = noria_ticks()  # if some is left, not before the next time
        return 0

    cdef int hasten(self) except -1:
        if self.have_ring():
            if self.end_dirty - self.first_dirty == 1:
                self.send_alone(<Channel>self.unsettled[self.first_dirty])
            self.flush()
            self.reap(True)  # a connection whose bytes count as on their way could post no more
        return 0

    # Waiting.

    cdef int wait(self, double timeout, bint defer) except -1:
        cdef noria_sqe* sqe
        cdef int n
        self.turn += 1
        if self.spent != NULL:
            free(self.spent)
            self.spent = NULL
        if self.aloft == 0 and not self.due or self.abandoned or not self.have_ring():
            return EpollDriver.wait(self, timeout, defer)
        if self.end_dirty - self.first_dirty == 1:
            self.send_alone(<Channel>self.unsettled[self.first_dirty])
        self.settle_all()
        if self.due:
            timeout = 0  # the kernel takes no more before its completions have been reaped
        if self.outside >= OUTSIDE and not self.listening:
            return self.wait_outside(timeout, defer)
        if self.inside:
            noria_ring_telling(&self.uring, False)
            self.inside = False
        if not self.listening:
            sqe = self.submission()
            if sqe != NULL:
                sqe.opcode = OP_POLL_ADD
                sqe.fd = self.epfd
                sqe.op_flags = EPOLLIN
                sqe.user_data = READY
                self.listening = True
        if timeout == 0 or self.wheel.ring.head != self.wheel.ring.tail or noria_ring_completions(&self.uring):
            n = 0 if noria_ring_idle(&self.uring) and not self.more else noria_ring_enter(&self.uring, 0, 0)
        else:
            self.wheel.asleep = True
            with nogil:
                n = noria_ring_enter(&self.uring, 1, timeout)
            self.wheel.asleep = False
        if n < 0:
            if n == -EINTR:
                PyErr_CheckSignals()
            elif n == -EEXIST:
                self.renew_ring()  # another thread that has the number of one that has ended
                return 0
            elif n != -ETIME and n != -EAGAIN and n != -EBUSY:
                raise OSError(-n, os.strerror(-n))
        return self.fetch(defer)

    cdef int fetch(self, bint defer) except -1:
        # Deal with what has completed, and go on while the kernel may have more, up to what epoll would bring in a
        # turn: programs that end a few turns after they closed their connections expect the ends to come together.
        cdef int n, all_ = 0
        while True:
            n = self.reap(defer)
            all_ += n
            self.more = n >= SOME
            if not self.more or all_ >= BATCH or self.uring.fd < 0:
                return all_
            self.settle_all()  # who was paused, or turned out to be `bulk`, is to get no more
            if noria_ring_enter(&self.uring, 0, 0) < 0:
                return all_

    cdef int wait_outside(self, double timeout, bint defer) except -1:
        if not self.inside:
            noria_ring_telling(&self.uring, True)
            self.inside = True
        if self.more or not noria_ring_idle(&self.uring) or noria_ring_completions(&self.uring):
            self.beside(defer)
            timeout = 0
        return EpollDriver.wait(self, timeout, defer)

    cdef int beside(self, bint defer) except -1:
        cdef int n = 0
        if self.inside and self.owner == PyThread_get_thread_ident():
            n = noria_ring_enter(&self.uring, 0, 0)
            self.fetch(defer)
            if n == -EEXIST:
                self.renew_ring()
        return 0

    cdef int reap(self, bint defer) except -1:
        # Reentrant: each completion is given back before it is dealt with. Returns how many there were, without those
        # of sends, for which no work was put off.
        cdef noria_cqe* cqe
        cdef noria_cqe done
        cdef Channel channel
        cdef int delivered = 0
        while True:
            cqe = noria_ring_cqe(&self.uring) if self.uring.fd >= 0 else NULL
            if cqe == NULL:
                return delivered
            done = cqe[0]
            noria_ring_seen(&self.uring, 1)
            if done.user_data & TAGS == CANCELLED:
                continue
            delivered += done.user_data & TAGS != SENT
            if done.user_data & TAGS == READY:
                self.listening = False
                self.outside += 1
                self.ask(defer)
                continue
            channel = <Channel><PyObject*>(done.user_data & ~<uint64_t>TAGS)
            if done.user_data & TAGS == SENT:
                channel.sending = False
                self.landed(channel)
                self.sent_off(channel, done.res)
                continue
            self.outside = 0
            if not done.flags & CQE_F_MORE:
                channel.reading = IDLE
                self.landed(channel)
            self.came(channel, done.res, done.flags, defer)
            if overdue(self):
                self.flush()

    cdef int sent_off(self, Channel channel, Py_ssize_t n) except -1:
        data = channel.posted
        channel.posted = None
        if type(data) is list:
            data = b"".join(data)
        try:
            channel.sent(data, n)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.wheel.call_exception_handler({
                "message": "Exception in a callback of the event loop", "exception": error, "transport": channel,
            })
        return 0

    cdef int came(self, Channel channel, int res, uint32_t flags, bint defer) except -1:
        cdef uint16_t buffer = <uint16_t>(flags >> 16)
        try:
            if not channel.watched:
                return 0
            if res > 0:
                if res == BUFFER_SIZE and not channel.bulk:
                    channel.bulk = True
                    channel.small = 0
                    self.touch(channel)
                self.bring(channel, self.buffers.space + <size_t>buffer * BUFFER_SIZE, res, defer)
            elif res not in (-ENOBUFS, -ECANCELED, -EINTR, -EAGAIN) and (res < 0 or not flags & CQE_F_BUFFER):
                channel.over = True
                channel.result = res
                if channel.wants & WANT_IN:
                    self.hand(channel, WANT_IN, defer or channel.told == self.turn)
        finally:
            if flags & CQE_F_BUFFER and self.buffers.space != NULL:  # none in a child forked meanwhile
                noria_buffers_give(&self.buffers, buffer)
                noria_buffers_publish(&self.buffers)
        if channel.reading == IDLE and channel.watched and not channel.over:
            self.touch(channel)
        return 0

    cdef int bring(self, Channel channel, char* data, Py_ssize_t n, bint defer) except -1:
        if (defer or channel.queued or self.wheel.debug or not channel.wants & WANT_IN
                or channel.here_size or channel.kept_from != channel.kept_to):
            self.keep(channel, data, n, False)
            if channel.kept_to - channel.kept_from > KEPT:
                self.touch(channel)  # it takes less than comes: the peer is to notice
            if channel.wants & WANT_IN:
                self.again(channel)
            else:
                self.touch(channel)  # paused for longer
            return 0
        channel.told = self.turn
        channel.here = data
        channel.here_size = n
        try:
            self.hand(channel, WANT_IN, False)
        finally:
            if channel.here_size:
                if channel.watched and not self.abandoned:
                    self.keep(channel, channel.here, channel.here_size, True)
                    if channel.wants & WANT_IN:
                        self.again(channel)
                    else:
                        self.touch(channel)
                channel.here_size = 0
            channel.here = NULL
        return 0

    cdef int keep(self, Channel channel, char* data, Py_ssize_t n, bint before) except -1:
        # A copy, behind what is kept already, or before it.
        cdef Py_ssize_t size = channel.kept_to - channel.kept_from
        cdef Py_ssize_t room
        cdef char* more
        if channel.kept_to + n > channel.kept_room or before:
            room = 2 * (size + n) if size else n
            more = <char*>malloc(room)
            if more == NULL:
                raise MemoryError
            memcpy(more + (n if before else 0), channel.kept + channel.kept_from, size)
            free(channel.kept)
            channel.kept = more
            channel.kept_room = room
            channel.kept_from = 0
            channel.kept_to = size
            if before:
                memcpy(more, data, n)
                channel.kept_to += n
                return 0
        memcpy(channel.kept + channel.kept_to, data, n)
        channel.kept_to += n
        return 0

    cdef int drop_kept(self, Channel channel) noexcept:
        free(channel.kept)
        channel.kept = NULL
        channel.kept_from = channel.kept_to = channel.kept_room = 0
        return 0

    cdef int again(self, Channel channel) except -1:
        # There is more for it than it has asked for.
        channel.pending |= WANT_IN
        if not channel.queued:
            channel.queued = True
            push(self.wheel, channel)
        return 0

    # Watching.

    cdef int want(self, Channel channel, uint32_t wants) except -1:
        cdef uint32_t old = channel.wants
        if channel.kind == ANY or self.hopeless:
            return EpollDriver.want(self, channel, wants)
        if self.epfd < 0:
            raise RuntimeError("Event loop is closed")
        if not channel.watched:
            if wants == 0:
                channel.wants = 0
                return 0
            self.clear_place(channel.fd)
            self.take_in(channel)
            channel.bulk = channel.bare
            channel.over = False
        channel.wants = wants
        if (wants ^ old) & WANT_IN:
            if wants & WANT_IN and (channel.kept_from != channel.kept_to or channel.over):
                self.again(channel)
            elif channel.reading == IDLE or channel.reading == ARMED and not wants & WANT_IN:
                self.touch(channel)
        if (wants ^ old) & ~<uint32_t>WANT_IN or channel.bulk and channel.reading == IDLE and wants & ~channel.armed:
            self.arm(channel, wants)
        return 0

    cdef int arm(self, Channel channel, uint32_t wants) except -1:
        # What epoll is to watch of what is wanted.
        cdef epoll_event event
        if channel.kind == ANY or self.hopeless:
            return EpollDriver.arm(self, channel, wants)
        if not channel.bulk or channel.reading != IDLE:
            wants &= ~<uint32_t>WANT_IN
        if wants:
            return EpollDriver.arm(self, channel, wants)
        if channel.armed and self.epfd >= 0:
            channel.armed = 0
            epoll_ctl(self.epfd, EPOLL_CTL_DEL, channel.fd, &event)
        return 0

    cdef int forget(self, Channel channel) except -1:
        if channel.kind != ANY:
            self.drop_kept(channel)
            channel.here_size = 0
            channel.over = False
            if not channel.sending:
                channel.posted = None
        EpollDriver.forget(self, channel)
        if channel.reading == ARMED:
            self.touch(channel)
        return 0

    # Doing.

    cdef Py_ssize_t receive(self, Channel channel, char** where, Py_ssize_t room) noexcept:
        cdef Py_ssize_t n
        cdef char* data
        if channel.kind == ANY:
            return EpollDriver.receive(self, channel, where, room)
        if self.abandoned:
            return -EAGAIN  # the buffers are gone
        if channel.here_size:
            data = channel.here
            n = channel.here_size
            if 0 < room < n:
                n = room
            channel.here += n
            channel.here_size -= n
        elif channel.kept_from != channel.kept_to:
            data = channel.kept + channel.kept_from
            n = channel.kept_to - channel.kept_from
            if 0 < room < n:
                n = room
            channel.kept_from += n
            if channel.kept_from == channel.kept_to:
                free(self.spent)
                self.spent = channel.kept  # it stays valid until the next call
                channel.kept = NULL
                channel.kept_from = channel.kept_to = channel.kept_room = 0
        elif channel.over:
            return channel.result
        elif channel.bulk and channel.reading == IDLE or self.hopeless:
            n = EpollDriver.receive(self, channel, where, room)
            if n >= BUFFER_SIZE:
                channel.small = 0
            elif n > 0 and not self.hopeless:
                channel.small += 1
                if channel.small == SMALL:
                    self.lighten(channel)
            return n
        else:
            return -EAGAIN
        if where[0] == NULL:
            where[0] = data
        else:
            memcpy(where[0], data, n)
        if channel.here_size == 0:
            if channel.kept_from != channel.kept_to:
                self.rouse(channel)
            elif channel.over:
                channel.late = True  # what we return is not delivered yet
                self.rouse(channel)
            elif channel.reading == IDLE:
                self.stir(channel)
        return n

    cdef int lighten(self, Channel channel) noexcept:
        if channel.bare:
            return 0
        try:
            channel.bulk = False
            self.arm(channel, channel.wants)
            self.touch(channel)
        except BaseException:
            channel.bulk = True
        return 0

    cdef int rouse(self, Channel channel) noexcept:
        self.again(channel)  # fails only when there is no memory
        return 0

    cdef int stir(self, Channel channel) noexcept:
        self.touch(channel)  # likewise
        return 0

    cdef bint post(self, Channel channel, bytes data) except -1:
        if channel.posted is None:
            if (self.first_dirty == self.end_dirty and self.wheel.ring.head == self.wheel.ring.tail
                    and (self.uring.fd < 0 or not noria_ring_completions(&self.uring))):
                return False  # nobody to share the system call with
            channel.posted = data
            self.touch(channel)
        elif channel.sending:
            return False
        elif type(channel.posted) is list:
            (<list>channel.posted).append(data)
        else:
            channel.posted = [channel.posted, data]
        return True

    cdef int lay_bare(self, Channel channel) except -1:
        if channel.kind != STREAM or channel.bare or self.abandoned:
            return 0
        channel.bare = True
        if self.hopeless:
            return 0
        if not channel.bulk:
            channel.bulk = True
            channel.small = 0
            self.touch(channel)
        if channel.reading == ARMED:
            if self.owner == PyThread_get_thread_ident():
                self.flush()  # from now on the ring takes nothing from it
            elif self.wheel is not None and self.wheel.asleep:
                self.wake()  # and here from a moment later on
        return 0

    cdef object surrender(self, Channel channel):
        if channel.kind == ANY or self.hopeless:
            return b""
        if self.owner == PyThread_get_thread_ident():
            self.reap(True)
        if channel.reading != IDLE or channel.over or channel.here_size:
            return None
        data = PyBytes_FromStringAndSize(channel.kept + channel.kept_from, channel.kept_to - channel.kept_from)
        self.drop_kept(channel)
        return data

    cdef object unpost(self, Channel channel):
        data = channel.posted
        if channel.sending or data is None:
            return None
        channel.posted = None
        return b"".join(data) if type(data) is list else data


def probe():
    """(errno, setup flags, features, operations): what the kernel gives to a ring such as the driver's.

    errno: why there is none, or 0. flags and features: as io_uring_setup(2) has them. operations: the numbers of those
    that the kernel knows; ENOSYS if one is missing that the driver needs.
    """
    cdef noria_ring ring
    cdef noria_buffers buffers
    cdef unsigned char known[NORIA_OPS]
    cdef int error = open_ring(&ring, &buffers)
    if error < 0:
        return -error, 0, 0, ()
    flags, features = ring.flags, ring.features
    error = noria_ring_probe(&ring, known)
    if error >= 0:
        error = noria_ring_enable(&ring)
    if error >= 0:
        error = noria_ring_enter(&ring, 0, 0)  # what may be made may not always be used
    noria_ring_close(&ring)
    noria_buffers_free(&buffers)
    if error < 0:
        return -error, flags, features, ()
    operations = tuple([i for i in range(NORIA_OPS) if known[i]])
    lacks = not {OP_SEND, OP_RECV, OP_ASYNC_CANCEL, OP_POLL_ADD}.issubset(operations)
    return ENOSYS if lacks else 0, flags, features, operations


# The tables hold references the garbage collector must see: a loop dropped with connections open is a cycle.
cdef traverseproc plain_traverse = (<PyTypeObject*>UringDriver).tp_traverse


cdef int traverse(PyObject* self, visitproc visit, void* arg) noexcept:
    cdef UringDriver driver = <UringDriver>self
    cdef Py_ssize_t i
    cdef int stop
    for i in range(driver.aloft):
        stop = visit(driver.flying[i], arg)
        if stop:
            return stop
    for i in range(driver.first_dirty, driver.end_dirty):
        stop = visit(driver.unsettled[i], arg)
        if stop:
            return stop
    return plain_traverse(self, visit, arg) if plain_traverse != NULL else 0


(<PyTypeObject*>UringDriver).tp_traverse = <traverseproc>traverse
