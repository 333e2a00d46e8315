# The wheel: the ready queue and what each of its parts must know of the loop that turns it.
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint64_t

from noria.core.capi cimport NORIA_SLICE, noria_ticks

# Owned references, first in first out. head and tail count up for ever; a slot is the counter masked.
cdef struct Ring:
    PyObject** items
    size_t mask
    size_t head
    size_t tail

# A list linked through its members, which it does not own. The wheel's own link is the anchor.
cdef struct Link:
    Link* before
    Link* after
    PyObject* owner

cdef class Ready:
    # Run once. Errors of the program are dealt with inside; only what must end the loop comes out
    # (KeyboardInterrupt, SystemExit).
    cdef int run(self) except -1
    # A future that this watches is done (Future.watch). Called where its other callbacks are queued: must run no
    # program's code; what is to wait for the callbacks' turn is pushed.
    cdef int told(self, Ready future) except -1

cdef class Driver:
    cdef bint due                # there is something to tell the kernel, by wait() or flush()
    cdef uint64_t due_since      # noria_ticks()
    # Ask the kernel. timeout in seconds: 0 asks without waiting, below 0 waits for ever. Returns the number of
    # events handed on. If `defer`, events are queued as Ready items behind what is there, else run at once.
    cdef int wait(self, double timeout, bint defer) except -1
    # Tell the kernel what there is to tell, and no more. The thread that runs the loop.
    cdef int flush(self) except -1
    # The same, and take in what becomes of it, behind what is in the ready queue: what is due has waited long.
    cdef int hasten(self) except -1
    # End a wait() that another thread is in. Any thread, GIL held.
    cdef int wake(self) except -1
    cdef int shut(self) except -1

cdef class Wheel:
    cdef Ring ring
    cdef Driver driver
    cdef object __weakref__
    cdef bint debug
    cdef bint shut               # close() was called
    cdef bint stood_back         # a task gave up its turn (sleep(0)): it may want to see what arrives
    cdef bint asleep             # inside a blocking wait(), GIL released
    cdef unsigned long thread    # ident of the thread that runs it; 0 when nobody does
    cdef PyObject* current       # the task being stepped, borrowed; NULL between steps
    cdef PyObject* published     # what asyncio's own table of current tasks holds on our behalf, borrowed
    cdef object shadowed         # the standard task whose place in that table ours took
    cdef PyObject* entered       # the context this turn's item runs in, borrowed
    cdef Link tasks              # the unfinished tasks

    cdef int grow(self) except -1
    cdef int empty(self) except -1
    cdef int publish(self) except -1
    cdef int check_open(self) except -1
    cdef int check_thread(self) except -1


cdef inline bint overdue(Driver driver) noexcept:
    # What is to be told to the kernel has waited long, in this turn.
    return driver.due and noria_ticks() - driver.due_since > NORIA_SLICE


cdef inline int push(Wheel wheel, Ready item) except -1:
    if wheel.ring.tail - wheel.ring.head > wheel.ring.mask:
        wheel.grow()
    Py_INCREF(item)
    wheel.ring.items[wheel.ring.tail & wheel.ring.mask] = <PyObject*>item
    wheel.ring.tail += 1
    return 0
