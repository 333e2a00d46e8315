"""add_reader and add_writer: callbacks on a descriptor that the program owns.

Callbacks are queued, not called from the driver: their order among everything else that is ready is asyncio's.
"""

from libc.stdint cimport uint32_t

from noria.core.handles cimport Handle, new_handle
from noria.core.wheel cimport Wheel, push
from noria.io.driver cimport WANT_IN, WANT_OUT, Channel, IODriver


cdef class Poller(Channel):
    """The reader and the writer of one descriptor."""
    cdef Wheel loop
    cdef Handle reader
    cdef Handle writer

    cdef int happened(self, uint32_t events) except -1:
        # At most once in the queue: a second call after the first has read everything would block on a descriptor
        # that is not non-blocking.
        self.pending |= events
        if not self.queued:
            self.queued = True
            push(self.loop, self)
        return 0

    cdef int run(self) except -1:
        cdef uint32_t events = self.pending
        cdef Handle handle
        self.queued = False
        self.pending = 0
        if events & WANT_IN and self.reader is not None:
            handle = self.reader
            handle.run()
        if events & WANT_OUT and self.writer is not None:
            handle = self.writer
            handle.run()
        return 0

    def __repr__(self):
        return f"<Poller fd={self.fd} reader={self.reader!r} writer={self.writer!r}>"

    def is_closing(self):
        return False


def add(Wheel loop not None, int fd, bint writing, callback, tuple args):
    """Call callback(*args) whenever fd can be read (or written). Replaces an earlier one. Returns the Handle."""
    cdef IODriver driver = <IODriver>loop.driver
    cdef Poller poller
    cdef Handle handle, old
    cdef uint32_t wants
    loop.check_open()
    found = driver.find(fd)
    if type(found) is Poller:
        poller = <Poller>found
        # If the descriptor was closed meanwhile the kernel has forgotten it, and its number may be a new one's.
        if (poller.writer if writing else poller.reader) is not None:
            wants = poller.wants
            driver.forget(poller)
            driver.want(poller, wants)
    else:
        poller = Poller.__new__(Poller)
        poller.loop = loop
        poller.driver = driver
        poller.fd = fd
    handle = new_handle(loop, callback, args, False, None)
    driver.want(poller, poller.wants | (WANT_OUT if writing else WANT_IN))
    if writing:
        old, poller.writer = poller.writer, handle
    else:
        old, poller.reader = poller.reader, handle
    if old is not None:
        old.cancel()
    return handle


cdef object watcher(Wheel loop, int fd):
    # What watches fd: a Poller, a transport, a listener, or None, as on a loop that is closed or not initialised.
    return None if loop.shut or loop.driver is None else (<IODriver>loop.driver).find(fd)


def remove(Wheel loop not None, int fd, bint writing):
    """Undo add(). Returns whether there was one."""
    cdef IODriver driver = <IODriver>loop.driver
    cdef Poller poller
    cdef Handle old
    found = watcher(loop, fd)
    if type(found) is not Poller:
        return False
    poller = <Poller>found
    if writing:
        old, poller.writer = poller.writer, None
    else:
        old, poller.reader = poller.reader, None
    if old is None:
        return False
    driver.want(poller, poller.wants & ~(<uint32_t>WANT_OUT if writing else <uint32_t>WANT_IN))
    if poller.wants == 0:
        driver.forget(poller)
    old.cancel()
    return True


def user(Wheel loop not None, int fd):
    """The transport or listener that watches fd, or None."""
    found = watcher(loop, fd)
    return None if type(found) is Poller else found
