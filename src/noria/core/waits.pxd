from cpython.object cimport PyObject

from noria.core.futures cimport BaseFuture

# What an operation has come to.
cdef enum Outcome:
    DONE       # over: `value` is the result
    WAIT       # wait until somebody resolves it
    YIELD      # wait for the next turn of the loop
    RAISE      # dropped() only: the error goes on to whoever awaits

cdef enum Stage:
    FRESH      # not awaited yet
    YIELDED
    WAITING
    OVER

cdef class Waiter(BaseFuture):
    cdef int begin(self) except -1
    cdef int again(self) except -1
    cdef int dropped(self, object error) except -1
    cdef int arm(self, object loop) except -1
    cdef int rearm(self) except -1
    cdef object give_up(self, object error)
    cdef bint renew(self) noexcept

cdef object done              # awaiting it gives None at once

cdef object running_loop()
cdef PyObject* awaited(PyObject* self) noexcept  # what `await` takes a Waiter for: itself
