"""The ready queue, and the state that futures, tasks, handles and drivers share with the loop.

Promises: items run in the order they were pushed, each exactly once. The queue may be pushed to by any thread that
holds the GIL (nothing in `push` gives it up), but only the thread that runs the loop takes from it; waking a loop
that sleeps in the kernel is `call_soon_threadsafe`'s business.

Leaves to others: what an item is (handles, tasks, endpoints), when the kernel is asked (loop), how (drivers).
"""

from cpython.object cimport PyObject, PyTypeObject, inquiry, traverseproc, visitproc
from cpython.ref cimport Py_DECREF
from libc.stdlib cimport free, malloc

import asyncio.tasks

from noria.core.capi cimport PyThread_get_thread_ident

cdef dict current_tasks = asyncio.tasks._current_tasks


cdef class Ready:
    """Base of everything the ready queue holds. Not for use from Python."""

    cdef int run(self) except -1:
        raise NotImplementedError

    cdef int told(self, Ready future) except -1:
        raise NotImplementedError


cdef class Driver:
    """The interface between the loop and the kernel; `io` implements it."""

    cdef int wait(self, double timeout, bint defer) except -1:
        raise NotImplementedError

    cdef int flush(self) except -1:
        return 0

    cdef int hasten(self) except -1:
        return 0

    cdef int wake(self) except -1:
        raise NotImplementedError

    cdef int shut(self) except -1:
        raise NotImplementedError


cdef class Wheel:
    """What the loop is to its parts."""

    def __cinit__(self):
        self.ring.items = <PyObject**>malloc(64 * sizeof(PyObject*))
        if self.ring.items == NULL:
            raise MemoryError
        self.ring.mask = 63
        self.tasks.before = self.tasks.after = &self.tasks

    def __dealloc__(self):
        # Tasks collected together with their loop may outlive it by a moment.
        cdef Link* link = self.tasks.after
        while link != &self.tasks:
            self.tasks.after = link.after
            link.before = link.after = NULL
            link = self.tasks.after
        self.empty()
        free(self.ring.items)

    cdef int empty(self) except -1:
        # One at a time, the counters first: dropping an item may run a finaliser that looks at the queue.
        cdef PyObject* item
        while self.ring.head != self.ring.tail:
            item = self.ring.items[self.ring.head & self.ring.mask]
            self.ring.head += 1
            Py_DECREF(<object>item)
        return 0

    cdef int grow(self) except -1:
        cdef size_t i, size = self.ring.mask + 1, mask = 2 * size - 1
        cdef PyObject** items = <PyObject**>malloc(2 * size * sizeof(PyObject*))
        if items == NULL:
            raise MemoryError
        for i in range(self.ring.head, self.ring.tail):
            items[i & mask] = self.ring.items[i & self.ring.mask]
        free(self.ring.items)
        self.ring.items = items
        self.ring.mask = mask
        return 0

    def __hash__(self):
        """Identity, as for any object. asyncio finds the current task in a dict keyed by the loop, so whoever
        asks for it hashes the loop first: bringing that dict up to date here, and not at every step, makes the
        bookkeeping free for the steps nobody asks about.
        """
        if self.current != self.published:
            self.publish()
        return <Py_hash_t>(<size_t><void*>self >> 4)

    cdef int publish(self) except -1:
        # Standard tasks on this loop, eager ones included, enter and leave the same table by themselves. Take out
        # only what we put in, and give back what stood there before.
        cdef PyObject* old = self.published
        cdef PyObject* new = self.current
        self.published = new  # before hash(self) is asked again below
        held = current_tasks.get(self)
        if held is None or <PyObject*>held != old:
            if new != NULL:
                self.shadowed = held
                current_tasks[self] = <object>new
        elif self.shadowed is not None:
            current_tasks[self] = self.shadowed
            self.shadowed = None
        elif new != NULL:
            current_tasks[self] = <object>new
        else:
            del current_tasks[self]
        return 0

    cdef int check_open(self) except -1:
        if self.shut:
            raise RuntimeError("Event loop is closed")
        if self.driver is None:
            raise RuntimeError("the event loop is not initialized: a subclass must call super().__init__()")
        return 0

    cdef int check_thread(self) except -1:
        if self.thread != 0 and self.thread != PyThread_get_thread_ident():
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one")
        return 0


# The ring holds references the garbage collector must see: a loop dropped with callbacks queued is a cycle.
cdef traverseproc plain_traverse = (<PyTypeObject*>Wheel).tp_traverse
cdef inquiry plain_clear = (<PyTypeObject*>Wheel).tp_clear


cdef int traverse(PyObject* self, visitproc visit, void* arg) noexcept:
    cdef Wheel wheel = <Wheel>self
    cdef size_t i
    cdef int stop
    if wheel.ring.items != NULL:
        for i in range(wheel.ring.head, wheel.ring.tail):
            stop = visit(wheel.ring.items[i & wheel.ring.mask], arg)
            if stop:
                return stop
    return plain_traverse(self, visit, arg) if plain_traverse != NULL else 0


cdef int clear(PyObject* self) noexcept:
    (<Wheel>self).empty()
    return plain_clear(<object>self) if plain_clear != NULL else 0


(<PyTypeObject*>Wheel).tp_traverse = <traverseproc>traverse
(<PyTypeObject*>Wheel).tp_clear = <inquiry>clear
