"""`sleep`: wait for a time.

One object is the awaitable, the timer's entry in the heap, and what the task waits for.
"""

cimport cython
from cpython.object cimport PyObject

from noria.core.capi cimport noria_monotonic
from noria.core.futures cimport FINISHED, PENDING
from noria.core.loop cimport CoreLoop
from noria.core.waits cimport DONE, RAISE, WAIT, YIELD, Waiter, running_loop

from noria.core._marks import mark_coroutine_functions


@cython.internal
cdef class Sleep(Waiter):
    cdef object delay            # seconds
    cdef object handle           # the timer on a loop that is not ours, or keeps a time of its own
    cdef Py_ssize_t place        # in our loop's heap of timers; -1 when not in it

    def __cinit__(self):
        self.place = -1

    @property
    def __qualname__(self):
        return "sleep"

    cdef int begin(self) except -1:
        cdef CoreLoop loop
        cdef double seconds
        if self.delay <= 0:
            return YIELD
        seconds = self.delay
        if seconds != seconds:
            raise ValueError("Invalid delay: NaN (not a number)")
        running = running_loop()
        self.arm(running)
        if self.wheel is not None and (<CoreLoop>self.wheel).own_clock:
            loop = <CoreLoop>self.wheel
            loop.timers.add(noria_monotonic() + seconds, self, &self.place)
        else:
            self.handle = running.call_later(self.delay, self._wake)
        return WAIT

    cdef int run(self) except -1:
        # The time has come.
        if self.state == PENDING:
            self.state = FINISHED
            self.finish()
        return 0

    def _wake(self):
        self.run()

    cdef int again(self) except -1:
        self.handle = None
        return DONE

    cdef int dropped(self, object error) except -1:
        if self.place >= 0:
            (<CoreLoop>self.wheel).timers.drop(self.place)
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None
        return RAISE


def sleep(delay, result=None):
    """Wait `delay` seconds (0 or less: let others run for a turn), then return `result`.

    A coroutine. Raises ValueError if delay is nan.

    Source: asyncio.sleep.
    """
    cdef Sleep sleep = <Sleep>sleeps_new()
    sleep.delay = delay
    sleep.value = result
    return sleep


mark_coroutine_functions(sleep)


cdef extern from *:
    """
    #include "pool.h"
    NORIA_STOCK(sleeps, 128)
    """
    void sleeps_stock(object type, int (*empty)(PyObject*) noexcept)
    object sleeps_new()


cdef int renew_sleep(PyObject* o) noexcept:
    cdef Sleep sleep = <Sleep>o
    if sleep.place >= 0 or not Waiter.renew(sleep):
        return 0
    sleep.delay = sleep.handle = None
    return 1

sleeps_stock(Sleep, renew_sleep)
