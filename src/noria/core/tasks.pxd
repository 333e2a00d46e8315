from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from noria.core.futures cimport Future
from noria.core.wheel cimport Link, Wheel

cdef class Task(Future):
    cdef object coro             # None once an eager task finished without suspending
    cdef object context
    cdef object name             # None: "Task-<serial>", made when asked for
    cdef uint64_t serial
    cdef object waiting          # the future it waits for
    cdef object thrown           # to be thrown in at the next step
    cdef Py_ssize_t cancels      # cancel() requests less uncancel()s
    cdef Link place              # in the loop's list of unfinished tasks

    cdef int begin(self, object coro, object loop, object name, object context, bint eager) except -1
    cdef int unlink(self) noexcept
    cdef int schedule(self) except -1
    cdef int step(self, bint enter) except -1
    cdef int suspend(self, object yielded) except -1
    cdef int suspend_on_foreign(self, object yielded) except -1
    cdef int wait_on_foreign(self, object yielded, object wakeup) except -1
    cdef int awake(self, object future) except -1
    cdef int throw_soon(self, object error) except -1
    cdef int end(self, object error) except -1
    cdef bint request_cancel(self, object msg) except -1
    cdef int wait_cancel(self) except -1

cdef Task new_task(Wheel wheel, object coro, object name, object context, bint eager)
cdef list list_tasks(Wheel wheel)
cdef object current_of(Wheel wheel)
