from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from noria.core.handles cimport Handle
from noria.core.wheel cimport Ready, Wheel

cdef class TimerHandle(Handle):
    cdef double at               # seconds on the loop's clock
    cdef Py_ssize_t place        # its slot in the heap; -1 when not in it
    cdef Timers heap

cdef struct Slot:
    double at
    uint64_t order               # ties: first come, first served; the lowest 16 bits say where in the item `place` is
    PyObject* item               # owned, Ready

cdef class Timers:
    cdef object visited          # nothing: an object field makes this a type the garbage collector visits
    cdef Slot* slots
    cdef Py_ssize_t count
    cdef Py_ssize_t room
    cdef uint64_t orders

    cdef int add(self, double at, Ready item, Py_ssize_t* place) except -1
    cdef int drop(self, Py_ssize_t i) except -1
    cdef void up(self, Py_ssize_t i, Slot slot) noexcept
    cdef void down(self, Py_ssize_t i, Slot slot) noexcept
    cdef int due(self, Wheel wheel, double now) except -1
    cdef int shrink(self) except -1
    cdef int clear(self) except -1
