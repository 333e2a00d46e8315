from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from noria.core.timers cimport TimerHandle, Timers
from noria.core.wheel cimport Wheel

cdef class Stopper:
    cdef bint done

cdef class CoreLoop(Wheel):
    cdef Timers timers
    cdef object factory          # of tasks; None for the plain one
    cdef bint eager              # the factory is asyncio's eager one: ours does the same natively
    cdef bint stopping           # stop() was called
    cdef bint own_time           # nobody changed time(), in a subclass or on the instance
    cdef bint own_clock          # nor call_at() or call_later()
    cdef bint own_tasks          # no subclass changed create_task()
    cdef bint timer_due          # a timer was set whose time had come already
    cdef bint busy               # a turn is running: nested runs tell by it
    cdef int depth               # run_forever and run_until_complete now active, nested in one another
    cdef unsigned int idle_turns # turns since the kernel was last asked
    cdef uint64_t asked          # when that was, in ticks
    cdef int curious             # turns still to come in which it is asked, since a task stood back
    cdef int vain                # turns in which it was asked and had nothing to tell, running
    cdef public double slow_callback_duration

    cdef bint over(self, Stopper stopper) noexcept
    cdef int see_whose_clock(self, object hung) except -1
    cdef double now(self) except? -1
    cdef int turn(self, bint ask, Stopper stopper) except -1
    cdef int give_back(self, PyObject* context) except -1
    cdef int spin(self, size_t end) except -1
    cdef int timed_run(self, object item) except -1
    cdef TimerHandle timer(self, double when, object callback, tuple args, object context)
    cdef int checked_callback(self, object callback, str method) except -1
