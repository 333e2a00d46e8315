"""Timers: callbacks with a deadline, and the heap that keeps them.

Most timeouts are cancelled, so the heap is indexed: a cancelled timer leaves it at once, in O(log n), and no dead
entry stays behind. Four children a node instead of two: half the levels, and a node's children share a cache line
or two. Equal deadlines run in the order they were set.
"""

from cpython.object cimport PyObject, PyTypeObject, traverseproc, visitproc, inquiry
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t

from noria.core.handles cimport Handle
from noria.core.wheel cimport Ready, Wheel, push

import asyncio.events


cdef class TimerHandle(Handle):
    """TimerHandle(when, callback, args, loop, context=None)\n--

    A callback scheduled by `loop.call_later` or `loop.call_at`.

    Source: asyncio.TimerHandle.
    """

    def __cinit__(self):
        self.place = -1

    def __init__(self, when, callback, args, loop, context=None):
        Handle.__init__(self, callback, args, loop, context)
        self.at = when

    @property
    def __class__(self):
        return asyncio.events.TimerHandle

    def when(self):
        """The deadline: seconds on the loop's clock, as `loop.time()` counts them."""
        return self.at

    def cancel(self):
        """Cancel the callback and take it out of the loop's timers."""
        if self.place >= 0:
            self.heap.drop(self.place)
        self.revoke()

    def _repr_info(self):
        info = Handle._repr_info(self)
        info.insert(2 if self.stopped else 1, f"when={self.at}")
        return info

    @property
    def _when(self):
        return self.at

    @property
    def _scheduled(self):
        return self.place >= 0

    def __hash__(self):
        return hash(self.at)

    def __lt__(self, other):
        if isinstance(other, TimerHandle):
            return self.at < (<TimerHandle>other).at
        return NotImplemented

    def __gt__(self, other):
        if isinstance(other, TimerHandle):
            return self.at > (<TimerHandle>other).at
        return NotImplemented

    def __le__(self, other):
        if isinstance(other, TimerHandle):
            return self.at < (<TimerHandle>other).at or self.__eq__(other)
        return NotImplemented

    def __ge__(self, other):
        if isinstance(other, TimerHandle):
            return self.at > (<TimerHandle>other).at or self.__eq__(other)
        return NotImplemented

    def __eq__(self, other):
        cdef TimerHandle b
        if isinstance(other, TimerHandle):
            b = <TimerHandle>other
            return (
                self.at == b.at and self.callback == b.callback
                and self.arguments() == b.arguments() and self.stopped == b.stopped
            )
        return NotImplemented


cdef inline Py_ssize_t* place_of(Slot* slot) noexcept:
    # The item's field that is told the number of its slot.
    return <Py_ssize_t*>(<char*>slot.item + (slot.order & 0xFFFF))


cdef inline bint before(Slot* a, Slot* b) noexcept:
    return a.at < b.at or (a.at == b.at and a.order < b.order)


cdef class Timers:
    # What is in a slot is any Ready item; it is pushed when its time comes. It knows its slot's number by a field of
    # its own, to which the slot points: below 0 when it is in none.

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            place_of(&self.slots[i])[0] = -1
            Py_DECREF(<object>self.slots[i].item)
        PyMem_Free(self.slots)

    cdef int add(self, double at, Ready item, Py_ssize_t* place) except -1:
        cdef Slot* slots
        cdef Slot slot
        if self.count == self.room:
            slots = <Slot*>PyMem_Realloc(self.slots, (2 * self.room + 16) * sizeof(Slot))
            if slots == NULL:
                raise MemoryError
            self.slots = slots
            self.room = 2 * self.room + 16
        self.orders += 1
        slot.at = at
        slot.order = self.orders << 16 | <uint64_t>(<char*>place - <char*><PyObject*>item)
        slot.item = <PyObject*>item
        Py_INCREF(item)
        self.count += 1
        self.up(self.count - 1, slot)
        return 0

    cdef int drop(self, Py_ssize_t i) except -1:
        cdef PyObject* item = self.slots[i].item
        cdef Slot last
        place_of(&self.slots[i])[0] = -1
        self.count -= 1
        if i != self.count:
            last = self.slots[self.count]
            if i > 0 and before(&last, &self.slots[(i - 1) >> 2]):
                self.up(i, last)
            else:
                self.down(i, last)
        elif self.room > 1024 and self.count < self.room >> 3:
            self.shrink()
        Py_DECREF(<object>item)  # last, for it may be the end of the item
        return 0

    cdef int shrink(self) except -1:
        cdef Slot* slots = <Slot*>PyMem_Realloc(self.slots, (self.room >> 1) * sizeof(Slot))
        if slots != NULL:
            self.slots = slots
            self.room >>= 1
        return 0

    cdef void up(self, Py_ssize_t i, Slot slot) noexcept:
        cdef Py_ssize_t parent
        while i > 0:
            parent = (i - 1) >> 2
            if not before(&slot, &self.slots[parent]):
                break
            self.slots[i] = self.slots[parent]
            place_of(&self.slots[i])[0] = i
            i = parent
        self.slots[i] = slot
        place_of(&slot)[0] = i

    cdef void down(self, Py_ssize_t i, Slot slot) noexcept:
        cdef Py_ssize_t child, least, end
        while True:
            child = 4 * i + 1
            if child >= self.count:
                break
            end = min(child + 4, self.count)
            least = child
            child += 1
            while child < end:
                if before(&self.slots[child], &self.slots[least]):
                    least = child
                child += 1
            if not before(&self.slots[least], &slot):
                break
            self.slots[i] = self.slots[least]
            place_of(&self.slots[i])[0] = i
            i = least
        self.slots[i] = slot
        place_of(&slot)[0] = i

    cdef int due(self, Wheel wheel, double now) except -1:
        # Queue everything whose time has come.
        while self.count > 0 and self.slots[0].at <= now:
            push(wheel, <Ready>self.slots[0].item)
            self.drop(0)
        return 0

    cdef int clear(self) except -1:
        while self.count > 0:
            self.drop(self.count - 1)
        return 0


# The slots hold references the garbage collector must see: a loop dropped with timers set is a cycle.
cdef traverseproc plain_traverse = (<PyTypeObject*>Timers).tp_traverse
cdef inquiry plain_clear = (<PyTypeObject*>Timers).tp_clear


cdef int traverse(PyObject* self, visitproc visit, void* arg) noexcept:
    cdef Timers heap = <Timers>self
    cdef Py_ssize_t i
    cdef int stop
    for i in range(heap.count):
        stop = visit(heap.slots[i].item, arg)
        if stop:
            return stop
    return plain_traverse(self, visit, arg) if plain_traverse != NULL else 0


cdef int clear(PyObject* self) noexcept:
    (<Timers>self).clear()
    return plain_clear(<object>self) if plain_clear != NULL else 0


(<PyTypeObject*>Timers).tp_traverse = <traverseproc>traverse
(<PyTypeObject*>Timers).tp_clear = <inquiry>clear


cdef extern from *:
    """
    #include "pool.h"
    NORIA_POOL(timers, 128)
    """
    void timers_pool(object type)

timers_pool(TimerHandle)
