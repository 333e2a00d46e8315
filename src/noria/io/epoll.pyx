"""The epoll driver: level-triggered readiness, and the system call made when a descriptor is ready (epoll(7)).

Promises: a channel that was forgotten gets no event any more, not even one that the kernel had already reported in
the same batch; a descriptor closed and opened again under the same number is not taken for the old one (each slot
has a generation, and events carry it). A nested wait asks the kernel anew and leaves nothing to the outer one.

`wants` that shrink are told to the kernel only when an event shows that it matters for reading (pause and resume are
often a moment apart) and at once for writing (a writable socket would report for ever).
"""

from cpython.object cimport PyObject, PyTypeObject, inquiry, traverseproc, visitproc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

from noria.core.capi cimport PyErr_CheckSignals, PyThread_get_thread_ident
from noria.core.wheel cimport Wheel, overdue, push
from noria.io.driver cimport WANT_OUT, Channel, IODriver
from noria.io.sys cimport (
    EBADF, EEXIST, EINTR, ENOENT, ENOMEM, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR,
    EPOLLHUP, EPOLLIN, MSG_DONTWAIT, MSG_NOSIGNAL, O_CLOEXEC, O_NONBLOCK, close, epoll_create1, epoll_ctl,
    epoll_event, errno, iovec, mmsghdr, msghdr, noria_accept, noria_keep_heap, noria_recvmmsg, noria_sendmmsg,
    noria_wait, pipe2, read, recv, recvmsg, send as sys_send, sendmsg, sendto, sockaddr, sockaddr_storage,
    socklen_t, write, writev,
)

import os
import signal
import threading
import weakref

cdef object drivers = weakref.WeakSet()


cdef class EpollDriver(IODriver):
    """EpollDriver()"""

    def __cinit__(self):
        self.epfd = self.wake_in = self.wake_out = -1

    def __init__(self):
        cdef int ends[2]
        if self.epfd >= 0:
            raise RuntimeError("the driver is open already")
        noria_keep_heap()
        self.buffer = <char*>calloc(1, BUFFER)
        if self.buffer == NULL:
            raise MemoryError
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise OSError(errno, os.strerror(errno))
        if pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0:
            raise OSError(errno, os.strerror(errno))
        self.wake_out, self.wake_in = ends[0], ends[1]
        self.watch_other(self.wake_out, EPOLLIN, WAKE_UP)
        drivers.add(self)

    cdef int watch_other(self, int fd, uint32_t events, Other other) except -1:
        cdef epoll_event event
        event.events = events
        event.data.u64 = <uint64_t>-1 - other
        if epoll_ctl(self.epfd, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    def __dealloc__(self):
        self.shut()

    def bind(self, Wheel wheel, on_signals):
        """Serve this loop. on_signals(bytes) is called with the numbers of signals, after their handlers."""
        self.wheel = wheel
        self.on_signals = on_signals

    name = "epoll"

    def fileno(self):
        """The epoll descriptor."""
        return self.epfd

    @property
    def wakeup_fd(self):
        """For signal.set_wakeup_fd."""
        return self.wake_in

    def abandon(self):
        """In a forked child: let go of the parent's epoll instance, which it shares, without touching it.

        Its loop counts as closed from then on. Nothing is sent any more on connections, which are the parent's.
        """
        self.abandoned = True
        self.close_descriptors()
        if self.wheel is not None:
            self.wheel.shut = True

    cdef int close_descriptors(self) except -1:
        if self.epfd >= 0:
            close(self.epfd)
            self.epfd = -1
        if self.wake_in >= 0:
            close(self.wake_in)
            close(self.wake_out)
            self.wake_in = self.wake_out = -1
        return 0

    cdef int shut(self) except -1:
        cdef int fd
        cdef PyObject* held
        self.close_descriptors()
        for fd in range(self.room):
            held = self.slots[fd].channel
            if held != NULL:
                self.slots[fd].channel = NULL
                (<Channel>held).watched = False
                (<Channel>held).armed = (<Channel>held).wants = 0
                Py_DECREF(<object>held)
        free(self.slots)
        self.slots = NULL
        self.room = 0
        free(self.buffer)
        self.buffer = NULL
        free(self.letters)
        self.letters = NULL
        self.wheel = None
        self.on_signals = None
        return 0

    # Waking.

    cdef int wake(self) except -1:
        if not self.woken and self.wake_in >= 0:
            self.woken = True
            write(self.wake_in, b"\0", 1)  # a full pipe wakes as well
        return 0

    cdef int drain(self) except -1:
        cdef char bytes_[512]
        cdef Py_ssize_t n
        cdef bytes signals = b""
        self.woken = False
        while True:
            n = read(self.wake_out, bytes_, sizeof(bytes_))
            if n <= 0:
                break
            signals += bytes_[:n].replace(b"\0", b"")
            if n < <Py_ssize_t>sizeof(bytes_):
                break
        if signals:
            try:
                PyErr_CheckSignals()  # runs the Python handlers
            finally:
                if self.on_signals is not None:
                    self.on_signals(signals)
        return 0

    # Watching.

    cdef int want(self, Channel channel, uint32_t wants) except -1:
        cdef uint32_t lost = channel.wants & ~wants
        channel.wants = wants
        if wants & ~channel.armed or lost & WANT_OUT or not channel.watched:
            self.arm(channel, wants)
        return 0

    cdef int clear_place(self, int fd) except -1:
        cdef Slot* slots
        cdef int room
        if fd >= self.room:
            room = max(2 * self.room, fd + 64)
            slots = <Slot*>realloc(self.slots, room * sizeof(Slot))
            if slots == NULL:
                raise MemoryError
            memset(&slots[self.room], 0, (room - self.room) * sizeof(Slot))
            self.slots = slots
            self.room = room
        if self.slots[fd].channel != NULL:
            # The program closed a descriptor under an old channel and the number came back.
            self.forget(<Channel>self.slots[fd].channel)
        return 0

    cdef int take_in(self, Channel channel) except -1:
        channel.watched = True
        self.slots[channel.fd].channel = <PyObject*>channel
        Py_INCREF(channel)
        return 0

    cdef int arm(self, Channel channel, uint32_t wants) except -1:
        cdef epoll_event event
        cdef int op, fd = channel.fd
        if self.epfd < 0:
            raise RuntimeError("Event loop is closed")
        if wants == 0:
            if channel.watched:
                self.forget(channel)
            return 0
        if not channel.watched:
            self.clear_place(fd)
        op = EPOLL_CTL_MOD if channel.armed else EPOLL_CTL_ADD
        event.events = wants
        event.data.u64 = (<uint64_t>self.slots[fd].generation << 32) | <uint32_t>fd
        if epoll_ctl(self.epfd, op, fd, &event) < 0:
            if op == EPOLL_CTL_MOD and errno == ENOENT:
                op = EPOLL_CTL_ADD
            elif op == EPOLL_CTL_ADD and errno == EEXIST:
                op = EPOLL_CTL_MOD
            else:
                raise OSError(errno, os.strerror(errno))
            if epoll_ctl(self.epfd, op, fd, &event) < 0:
                raise OSError(errno, os.strerror(errno))
        channel.armed = wants
        if not channel.watched:
            self.take_in(channel)
        return 0

    cdef int forget(self, Channel channel) except -1:
        cdef epoll_event event
        cdef uint32_t armed = channel.armed
        channel.wants = 0
        channel.pending = 0
        if not channel.watched:
            return 0
        channel.watched = False
        channel.armed = 0
        if self.epfd >= 0 and armed:
            epoll_ctl(self.epfd, EPOLL_CTL_DEL, channel.fd, &event)  # fails if it was closed before: nothing to forget
        self.slots[channel.fd].channel = NULL
        self.slots[channel.fd].generation += 1
        Py_DECREF(channel)  # the caller holds one more
        return 0

    cdef object find(self, int fd):
        if 0 <= fd < self.room and self.slots[fd].channel != NULL:
            return <object>self.slots[fd].channel
        return None

    # Waiting.

    cdef int wait(self, double timeout, bint defer) except -1:
        # What an outer wait, or one that was interrupted, had not got to is let go: the kernel reports it again.
        cdef int n
        if self.abandoned:
            raise RuntimeError("this event loop is the parent process's: a forked child needs a new one")
        self.next_event = self.last_event = 0
        if timeout == 0 or self.wheel.ring.head != self.wheel.ring.tail:
            n = noria_wait(self.epfd, self.events, BATCH, 0)
        else:
            self.wheel.asleep = True
            with nogil:
                n = noria_wait(self.epfd, self.events, BATCH, timeout)
            self.wheel.asleep = False
        if n < 0:
            if errno != EINTR:
                raise OSError(errno, os.strerror(errno))
            PyErr_CheckSignals()
            return 0
        self.next_event = 0
        self.last_event = n
        return self.deliver(defer)

    cdef int deliver(self, bint defer) except -1:
        # Reentrant: the cursor is the driver's, and stands at the end when a nested wait has been there.
        cdef int delivered = 0
        cdef uint64_t data
        cdef uint32_t fd, events
        cdef PyObject* held
        cdef Channel channel
        while self.next_event < self.last_event:
            data = self.events[self.next_event].data.u64
            events = self.events[self.next_event].events
            self.next_event += 1
            delivered += 1
            if data >= <uint64_t>-1 - BESIDE:
                if data == <uint64_t>-1:
                    self.drain()
                else:
                    self.beside(defer)
                continue
            fd = <uint32_t>data
            held = self.slots[fd].channel
            if held == NULL or self.slots[fd].generation != data >> 32:
                continue
            channel = <Channel>held
            if events & (EPOLLERR | EPOLLHUP):
                # Whoever reads or writes finds out by doing so.
                events |= channel.wants
            events &= channel.wants
            if events == 0:
                self.arm(channel, channel.wants)
            else:
                self.hand(channel, events, defer)
            if overdue(self):
                self.flush()
        return delivered

    cdef int hand(self, Channel channel, uint32_t events, bint defer) except -1:
        if channel.queued:
            channel.pending |= events
        elif defer or self.wheel.debug:  # debug: the queue's items are timed
            channel.pending |= events
            channel.queued = True
            push(self.wheel, channel)
        else:
            try:
                channel.happened(events)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                self.wheel.call_exception_handler({
                    "message": "Exception in a callback of the event loop", "exception": error,
                    "transport": channel,
                })
        return 0

    cdef int beside(self, bint defer) except -1:
        return 0

    cdef int ask(self, bint defer) except -1:
        cdef int n = noria_wait(self.epfd, self.events, BATCH, 0)
        self.next_event = self.last_event = 0
        if n < 0:
            if errno != EINTR:
                raise OSError(errno, os.strerror(errno))
            return 0
        self.last_event = n
        return self.deliver(defer)

    # Doing.

    cdef Py_ssize_t receive(self, Channel channel, char** where, Py_ssize_t room) noexcept:
        cdef Py_ssize_t n
        if where[0] == NULL:
            where[0] = self.buffer
            if room <= 0 or room > BUFFER:
                room = BUFFER
        while True:
            n = read(channel.fd, where[0], room) if channel.plain else recv(channel.fd, where[0], room, 0)
            if n >= 0:
                return n
            if errno != EINTR:
                return -errno

    cdef Py_ssize_t send(self, Channel channel, iovec* parts, int count) noexcept:
        cdef Py_ssize_t n
        cdef msghdr message
        if self.abandoned:
            return -EBADF
        while True:
            if channel.plain:
                n = writev(channel.fd, parts, count)
            elif count == 1:
                n = sys_send(channel.fd, parts[0].iov_base, parts[0].iov_len, MSG_NOSIGNAL)
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = parts
                message.msg_iovlen = count
                n = sendmsg(channel.fd, &message, MSG_NOSIGNAL)
            if n >= 0:
                return n
            if errno != EINTR:
                return -errno

    cdef int receive_many(self, Channel channel, mmsghdr** messages, int room) noexcept:
        cdef Letters* letters = self.letters
        cdef int i, n
        if letters == NULL:
            letters = self.letters = <Letters*>malloc(sizeof(Letters))
            if letters == NULL:
                return -ENOMEM
            memset(letters.messages, 0, sizeof(letters.messages))
            for i in range(SLOTS):
                letters.parts[i].iov_base = &letters.space[i * SLOT]
                letters.parts[i].iov_len = SLOT
                letters.messages[i].msg_hdr.msg_iov = &letters.parts[i]
                letters.messages[i].msg_hdr.msg_iovlen = 1
                letters.messages[i].msg_hdr.msg_name = &letters.names[i]
        if room > SLOTS:
            room = SLOTS
        for i in range(room):
            letters.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage)  # the kernel wrote the last one's
        messages[0] = letters.messages
        while True:
            n = noria_recvmmsg(channel.fd, letters.messages, room)
            if n >= 0:
                return n
            if errno != EINTR:
                return -errno

    cdef Py_ssize_t receive_from(
            self, Channel channel, char** where, sockaddr_storage* addr, socklen_t* size, int* flags) noexcept:
        cdef Py_ssize_t n
        cdef iovec part
        cdef msghdr message
        where[0] = self.buffer
        part.iov_base = self.buffer
        part.iov_len = BUFFER
        while True:
            memset(&message, 0, sizeof(message))
            message.msg_name = addr
            message.msg_namelen = sizeof(sockaddr_storage)
            message.msg_iov = &part
            message.msg_iovlen = 1
            n = recvmsg(channel.fd, &message, MSG_DONTWAIT)
            if n >= 0:
                size[0] = message.msg_namelen
                flags[0] = message.msg_flags
                return n
            if errno != EINTR:
                return -errno

    cdef int send_to(self, Channel channel, void* data, size_t n, sockaddr* addr, socklen_t size) noexcept:
        if self.abandoned:
            return -EBADF
        while sendto(channel.fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL, addr, size) < 0:
            if errno != EINTR:
                return -errno
        return 0

    cdef int send_many(self, Channel channel, mmsghdr* messages, int count) noexcept:
        cdef int n
        if self.abandoned:
            return -EBADF
        while True:
            n = noria_sendmmsg(channel.fd, messages, count)
            if n >= 0:
                return n
            if errno != EINTR:
                return -errno

    cdef int accept(self, Channel channel, sockaddr_storage* addr, socklen_t* size) noexcept:
        cdef int fd
        while True:
            fd = noria_accept(channel.fd, addr, size)
            if fd >= 0:
                return fd
            if errno != EINTR:
                return -errno


def abandon_all():
    cdef EpollDriver driver
    ours = list(drivers)
    if threading.current_thread() is threading.main_thread():
        # Before the number is used again: a signal would be written into somebody's file.
        fd = signal.set_wakeup_fd(-1)
        if fd >= 0 and all(fd != (<EpollDriver?>driver).wake_in for driver in ours):
            signal.set_wakeup_fd(fd)
    for driver in ours:
        driver.abandon()


def flush_all():
    # What was written before a fork leaves before it: the child may take its time, or replace the program.
    cdef EpollDriver driver
    for driver in list(drivers):
        if driver.due and driver.wheel is not None and driver.wheel.thread == PyThread_get_thread_ident():
            driver.flush()


os.register_at_fork(before=flush_all, after_in_child=abandon_all)


# The slots hold references the garbage collector must see: a loop dropped with connections open is a cycle.
cdef traverseproc plain_traverse = (<PyTypeObject*>EpollDriver).tp_traverse
cdef inquiry plain_clear = (<PyTypeObject*>EpollDriver).tp_clear


cdef int traverse(PyObject* self, visitproc visit, void* arg) noexcept:
    cdef EpollDriver driver = <EpollDriver>self
    cdef int fd, stop
    for fd in range(driver.room):
        if driver.slots[fd].channel != NULL:
            stop = visit(driver.slots[fd].channel, arg)
            if stop:
                return stop
    return plain_traverse(self, visit, arg) if plain_traverse != NULL else 0


cdef int clear(PyObject* self) noexcept:
    (<EpollDriver>self).shut()
    return plain_clear(<object>self) if plain_clear != NULL else 0


(<PyTypeObject*>EpollDriver).tp_traverse = <traverseproc>traverse
(<PyTypeObject*>EpollDriver).tp_clear = <inquiry>clear
