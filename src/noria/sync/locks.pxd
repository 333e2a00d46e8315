from noria.sync.lines cimport Line, LoopBound, Parked

cdef class Lock(LoopBound):
    cdef Line waiters
    cdef bint taken
    cdef bint plain              # what `async with` and Condition call is not overridden

    cdef bint take(self) noexcept
    cdef int give_back(self) except -1

cdef class Event(LoopBound):
    cdef Line waiters
    cdef bint value

    cdef int turn_on(self) except -1

cdef class EventWait(Parked):
    cdef Event event
    cdef object answer

cdef class Semaphore(LoopBound):
    cdef Line waiters
    cdef public object _value    # any number, as in asyncio: programs give inf for "no limit"
    cdef bint plain

    cdef bint full(self) except -1
    cdef int give_back(self) except -1
    cdef int pass_on(self) except -1

cdef class BoundedSemaphore(Semaphore):
    cdef public object _bound_value

cdef class Condition(LoopBound):
    cdef Line waiters
    cdef object lock
    cdef Lock native             # the lock, if everything can go the short way; else None

    cdef int wake(self, object n) except -1
