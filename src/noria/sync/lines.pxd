from noria.core.futures cimport FINISHED
from noria.core.waits cimport Waiter
from noria.core.wheel cimport Link

cdef class Parked(Waiter):
    cdef Link place              # in the line
    cdef Line line               # where it stands; None when it does not

    cdef int park(self, LoopBound owner, Line line) except -1
    cdef bint leave(self) except -1

cdef class Line:
    cdef Link anchor
    cdef Link* next              # everybody before it has been woken or cancelled; the anchor: everybody has
    cdef Py_ssize_t count
    cdef object nothing          # None. A type without a Python object in it is not looked at by the collector

    cdef int join(self, Parked waiter) noexcept
    cdef int drop(self, Parked waiter) except -1
    cdef bint wake_next(self) except -1
    cdef int wake_first(self) except -1
    cdef bint wake_and_drop(self) except -1
    cdef bint all_cancelled(self) noexcept
    cdef object members(self)
    cdef Parked standing_for(self, object waiter)

cdef class LoopBound:
    cdef object loop             # the event loop that tasks waited on first
    cdef dict __dict__           # attributes that programs set
    cdef object __weakref__

    cdef object bind(self)
    cdef int replaced(self, str name) except -1
    cdef object content(self)
    cdef int fill(self, object content) except -1


cdef inline int wake(Parked waiter) except -1:
    waiter.state = FINISHED
    waiter.finish()
    return 0


cdef int alone(object self, Line waiters) except -1
cdef bint inherits(object self, tuple names) except -1
cdef object shown_as(object self, object standard)
