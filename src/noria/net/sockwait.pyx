"""What sock_recv, sock_recv_into and sock_sendall return, and what the other sock_* calls wait with.

One object is the coroutine that the program sees, what the task waits for, and what the driver's poller runs. It
tries at once and waits only if it must. What receives does so in the step in which the task goes on, not when the
socket becomes ready: a task cancelled between the two leaves in the socket what had come. What sends goes on sending
from the ready queue.

On a socket of the standard class the system calls are made here, without the exception that says "not yet". Whatever
else has a socket's methods is asked by them.

Leaves to others: watching (io/poller), the calls that are no hot path (sockcalls.py).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.errno cimport errno

from noria.core.futures cimport FINISHED, PENDING
from noria.core.waits cimport DONE, RAISE, WAIT, Waiter
from noria.core.wheel cimport Wheel
from noria.io.poller cimport unwatch, watch
from noria.io.sys cimport EAGAIN, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, recv, send as sys_send

import os
import socket

cdef object Socket = socket.socket
cdef object SSLSocket
try:
    from ssl import SSLSocket
except ImportError:  # an interpreter without OpenSSL
    SSLSocket = ()

cdef enum:
    ROOM = 256 * 1024            # bytes received at once, at most

cdef char room[ROOM]             # the GIL is held from the system call to the copy
cdef tuple NAMES = ("readable", "sock_recv", "sock_recv_into", "sock_sendall")


def check(sock):
    """Refuse what the sock_* calls cannot work on.

    Raises TypeError for what is no socket, or one of ssl's, ValueError for a blocking one.
    """
    if type(sock) is not Socket:
        if isinstance(sock, SSLSocket):
            raise TypeError("Socket cannot be of type SSLSocket")
        if not hasattr(sock, "gettimeout"):
            raise TypeError(f"a socket is needed, got {type(sock).__name__}: {sock!r}")
    if sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking")


cdef object error_of(int number):
    return OSError(number, os.strerror(number))


cdef class SocketWait(Waiter):
    """An operation on a socket of the program's. Made by the loop's sock_* calls."""

    @property
    def __name__(self):
        return NAMES[self.operation]

    @property
    def __qualname__(self):
        return f"SocketCalls.{NAMES[self.operation]}"

    def __dealloc__(self):
        if self.viewed:
            PyBuffer_Release(&self.view)

    cdef int begin(self) except -1:
        check(self.sock)
        self.plain = type(self.sock) is Socket
        if self.operation == READABLE:
            return self.wait_ready()
        if self.operation == SENDALL:
            data = self.what if type(self.what) is bytes else memoryview(self.what).cast("B")
            PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
            self.viewed = True
        return self.attempt()

    cdef int again(self) except -1:
        if self.operation == READABLE or self.operation == SENDALL:
            return DONE
        return self.attempt()

    cdef int attempt(self) except -1:
        # DONE, or WAIT with the socket watched.
        cdef int outcome
        if self.operation == RECV:
            outcome = self.receive()
        elif self.operation == RECV_INTO:
            outcome = self.receive_into()
        else:
            outcome = self.send_rest()
        return self.wait_ready() if outcome == WAIT else outcome

    cdef int receive(self) except -1:
        cdef Py_ssize_t n, count
        if self.plain and type(self.what) is int and 0 <= self.what:
            count = min(self.what, ROOM)
            while True:
                n = recv(self.sock.fileno(), room, count, MSG_DONTWAIT)
                if n >= 0:
                    self.value = PyBytes_FromStringAndSize(room, n)
                    return DONE
                if errno != EINTR:
                    break
            if errno == EAGAIN:
                return WAIT
            raise error_of(errno)
        try:
            self.value = self.sock.recv(self.what)
        except (BlockingIOError, InterruptedError):
            return WAIT
        return DONE

    cdef int receive_into(self) except -1:
        cdef Py_buffer into
        cdef Py_ssize_t n
        cdef int number = 0
        if self.plain:
            try:
                PyObject_GetBuffer(self.what, &into, PyBUF_WRITABLE)
            except (TypeError, BufferError):
                self.value = self.sock.recv_into(self.what)  # which refuses it in its own words
                return DONE
            try:
                while True:
                    n = recv(self.sock.fileno(), into.buf, into.len, MSG_DONTWAIT)
                    number = errno
                    if n >= 0 or number != EINTR:
                        break
            finally:
                PyBuffer_Release(&into)
            if n >= 0:
                self.value = n
                return DONE
            if number == EAGAIN:
                return WAIT
            raise error_of(number)
        try:
            self.value = self.sock.recv_into(self.what)
        except (BlockingIOError, InterruptedError):
            return WAIT
        return DONE

    cdef int send_rest(self) except -1:
        cdef Py_ssize_t n = 0
        while self.sent < self.view.len:
            if self.plain:
                n = sys_send(self.sock.fileno(), <char*>self.view.buf + self.sent, self.view.len - self.sent,
                             MSG_NOSIGNAL | MSG_DONTWAIT)
                if n < 0:
                    if errno == EINTR:
                        continue
                    if errno == EAGAIN:
                        return WAIT
                    raise error_of(errno)
            else:
                try:
                    with memoryview(self.what) as whole, whole.cast("B") as rest:
                        n = self.sock.send(rest[self.sent:])
                except (BlockingIOError, InterruptedError):
                    return WAIT
            self.sent += n
        return DONE

    cdef int wait_ready(self) except -1:
        if self.loop is None:
            self.arm(self.on)
        else:
            self.rearm()
        self.poller = watch(self.on, self.sock.fileno(), self.sock, self.operation == SENDALL, self)
        return WAIT

    cdef int run(self) except -1:
        # The socket is ready.
        if self.state != PENDING:
            return 0
        if self.operation == SENDALL:
            try:
                if self.send_rest() == WAIT:
                    return 0
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                self.release()
                return self.fail(error)
        self.release()
        self.state = FINISHED
        return self.finish()

    cdef int release(self) except -1:
        cdef Poller poller = self.poller
        if poller is not None:
            self.poller = None
            unwatch(poller, self.operation == SENDALL, self)
        return 0

    cdef int dropped(self, object error) except -1:
        self.release()
        return RAISE


cdef object wait_for_socket(Wheel loop, object sock, object what, char operation):
    cdef SocketWait wait = <SocketWait>waits_new()
    wait.on = loop
    wait.sock = sock
    wait.what = what
    wait.operation = operation
    return wait


def readable(Wheel loop not None, sock):
    """Wait until sock, a non-blocking socket, can be read (or accepts, or has failed). A coroutine.

    Raises as `check`; RuntimeError if a transport uses its descriptor.
    """
    return wait_for_socket(loop, sock, None, READABLE)


def recv_some(Wheel loop not None, sock, n):
    """Receive up to n bytes, not more than 256 KiB at once; b"" at the end of the stream. A coroutine."""
    return wait_for_socket(loop, sock, n, RECV)


def recv_into(Wheel loop not None, sock, buf):
    """Receive into a writable buffer; gives the count of bytes. A coroutine."""
    return wait_for_socket(loop, sock, buf, RECV_INTO)


def sendall(Wheel loop not None, sock, data):
    """Send all of data, a bytes-like object, which must not change meanwhile. A coroutine."""
    return wait_for_socket(loop, sock, data, SENDALL)


cdef extern from *:
    """
    #include "pool.h"
    NORIA_STOCK(waits, 128)
    """
    void waits_stock(object type, int (*empty)(PyObject*) noexcept)
    object waits_new()


cdef int renew_wait(PyObject* o) noexcept:
    cdef SocketWait wait = <SocketWait>o
    if wait.poller is not None or not Waiter.renew(wait):
        return 0
    if wait.viewed:
        wait.viewed = False
        PyBuffer_Release(&wait.view)
    wait.sent = 0
    wait.on = wait.sock = wait.what = None
    return 1

waits_stock(SocketWait, renew_wait)
