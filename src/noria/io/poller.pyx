"""add_reader, add_writer and whatever else waits for a descriptor that the program owns.

Callbacks are queued, not called from the driver: their order among everything else that is ready is asyncio's.

A wait for a socket object (`watch`) leaves the descriptor watched when it ends, without wanting anything, since the
next one is usually a moment away: that saves two system calls a wait. It is used again only for the same socket object,
open under the same number; a number that came back to another is watched anew.
"""

from libc.stdint cimport uint32_t

from noria.core.handles cimport Handle, new_handle
from noria.core.wheel cimport Ready, Wheel, push
from noria.io.driver cimport WANT_IN, WANT_OUT, Channel, IODriver

import weakref

cdef object Reference = weakref.ref


cdef class Poller(Channel):
    """The reader and the writer of one descriptor."""

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
        cdef Ready ready
        self.queued = False
        self.pending = 0
        if events & WANT_IN and self.reader is not None:
            ready = self.reader
            ready.run()
        if events & WANT_OUT and self.writer is not None:
            ready = self.writer
            ready.run()
        return 0

    cdef int take(self, bint writing, Ready ready) except -1:
        # In the place of whoever was there, who will not be called any more.
        cdef Ready old
        if writing:
            old, self.writer = self.writer, ready
        else:
            old, self.reader = self.reader, ready
        if isinstance(old, Handle):
            (<Handle>old).cancel()
        return 0

    def __repr__(self):
        return f"<Poller fd={self.fd} reader={self.reader!r} writer={self.writer!r}>"

    def is_closing(self):
        return False


cdef Poller poller_for(Wheel loop, int fd, object found, bint writing):
    # The Poller for a descriptor, a new one if what was found is none.
    cdef IODriver driver = <IODriver>loop.driver
    cdef Poller poller
    cdef uint32_t wants
    if type(found) is Poller:
        poller = <Poller>found
        # If the descriptor was closed meanwhile the kernel has forgotten it, and its number may be a new one's.
        if poller.wants == 0 or (poller.writer if writing else poller.reader) is not None:
            wants = poller.wants
            driver.forget(poller)
            driver.want(poller, wants)
        return poller
    poller = Poller.__new__(Poller)
    poller.loop = loop
    poller.driver = driver
    poller.fd = fd
    return poller


def add(Wheel loop not None, int fd, bint writing, callback, tuple args):
    """Call callback(*args) whenever fd can be read (or written). Replaces an earlier one. Returns the Handle."""
    cdef Poller poller
    cdef Handle handle
    loop.check_open()
    poller = poller_for(loop, fd, (<IODriver>loop.driver).find(fd), writing)
    poller.owner = None
    handle = new_handle(loop, callback, args, False, None)
    poller.driver.want(poller, poller.wants | (WANT_OUT if writing else WANT_IN))
    poller.take(writing, handle)
    return handle


cdef Poller watch(Wheel loop, int fd, object sock, bint writing, Ready ready):
    # Call ready.run() whenever the descriptor of the socket object can be read (or written), until unwatch().
    cdef Poller poller
    found = watcher(loop, fd)
    loop.check_open()
    if type(found) is Poller:
        poller = <Poller>found
        if poller.wants != 0 or poller.owner is None or poller.owner() is not sock:
            poller = poller_for(loop, fd, found, writing)
    else:
        if found is not None and hasattr(found, "is_closing") and not found.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {found!r}")
        poller = poller_for(loop, fd, found, writing)
    poller.driver.want(poller, poller.wants | (WANT_OUT if writing else WANT_IN))
    poller.take(writing, ready)
    if poller.owner is None or poller.owner() is not sock:
        try:
            poller.owner = Reference(sock)
        except TypeError:
            poller.owner = None  # no socket of the standard library's
    return poller


cdef int unwatch(Poller poller, bint writing, Ready ready) except -1:
    # Undo watch(), unless another took its place.
    cdef uint32_t wants
    if (poller.writer if writing else poller.reader) is not ready:
        return 0
    poller.take(writing, None)
    wants = poller.wants & ~(<uint32_t>WANT_OUT if writing else <uint32_t>WANT_IN)
    if wants == 0 and (writing or poller.owner is None):
        return poller.driver.forget(poller)
    return poller.driver.want(poller, wants)


cdef object watcher(Wheel loop, int fd):
    # What watches fd: a Poller, a transport, a listener, or None, as on a loop that is closed or not initialised.
    return None if loop.shut or loop.driver is None else (<IODriver>loop.driver).find(fd)


def remove(Wheel loop not None, int fd, bint writing):
    """Undo add(). Returns whether there was one."""
    cdef IODriver driver = <IODriver>loop.driver
    cdef Poller poller
    found = watcher(loop, fd)
    if type(found) is not Poller:
        return False
    poller = <Poller>found
    if (poller.writer if writing else poller.reader) is None:
        return False
    poller.take(writing, None)
    driver.want(poller, poller.wants & ~(<uint32_t>WANT_OUT if writing else <uint32_t>WANT_IN))
    if poller.wants == 0:
        driver.forget(poller)
    return True


def user(Wheel loop not None, int fd):
    """The transport or listener that watches fd, or None."""
    found = watcher(loop, fd)
    return None if type(found) is Poller else found
