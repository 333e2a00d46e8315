"""timeout, timeout_at, Timeout, wait_for: deadlines.

A Timeout is itself the timer's entry in the loop's heap. `wait_for` is one object: the coroutine for the program, the
timer's entry, and what passes each step on to the awaitable it watches over; between that and the task there is
nothing to be told or woken.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

cimport cython

from noria.core.capi cimport (
    PYGEN_NEXT, PYGEN_RETURN, PyCoro_CheckExact, PyErr_SetObject, PyIter_Send, PyObject_GC_UnTrack, PySendResult,
    noria_let_be_patched, noria_monotonic, noria_restore_exception, noria_set_await, noria_take_exception,
)
from noria.core.futures cimport BaseFuture, ended_with, is_native
from noria.core.loop cimport CoreLoop
from noria.core.tasks cimport Task
from noria.core.waits cimport FRESH, OVER, YIELDED, Waiter, awaited as itself_once, running_loop
from noria.core.wheel cimport Ready, push
from noria.sync.lines cimport inherits
from noria.sync.tasks cimport cancel, running_task, to_future

import asyncio.exceptions
from types import CoroutineType

from noria.core import _frames
from noria.core._marks import mark_coroutine_functions
from noria.sync.coroutines import at_once, awaited

cdef object CancelledError = asyncio.exceptions.CancelledError
cdef object Group = ExceptionGroup


# What both have to do with the task.

cdef Py_ssize_t cancelling(object task) except -1:
    if isinstance(task, Task):
        return (<Task>task).cancels
    return task.cancelling()


cdef object timed_out(object task, Py_ssize_t before, object kind, object error):
    # The block was left after its time was up, by the exception, if any. Returns the TimeoutError to raise instead if
    # the cancellation was ours alone.
    if task.uncancel() > before or kind is None:
        return None
    if issubclass(kind, CancelledError):
        late = TimeoutError()
        late.__cause__ = error
        return late
    if error is not None:
        mark(error)
        if isinstance(error, Group):
            for inner in error.exceptions:
                mark(inner)
    return None


cdef int mark(object error) except -1:
    # The exception came while our cancellation was handled: put a TimeoutError before that in its history.
    while error.__context__ is not None:
        if isinstance(error.__context__, CancelledError):
            late = TimeoutError()
            late.__context__ = late.__cause__ = error.__context__
            error.__context__ = late
            return 0
        error = error.__context__
    return 0


# Timeout.

cdef enum Phase:
    CREATED
    ENTERED
    EXPIRING
    EXPIRED
    EXITED

cdef tuple PHASES = ("created", "active", "expiring", "expired", "finished")


cdef class Timeout(Ready):
    """Timeout(when)\n--

    A deadline for the block: `async with` it. Made by `timeout` or `timeout_at`.

    when: seconds on the loop's clock; None: no deadline, until one is set by `reschedule`.

    Source: asyncio.Timeout (3.11).
    """
    cdef object __weakref__
    cdef dict __dict__
    cdef object deadline         # seconds on the loop's clock, as given; or None
    cdef double at               # the same, where `timeout` reckoned it
    cdef bint reckoned           # the deadline is `at`
    cdef object task             # whose block it is
    cdef object handle           # the timer on a loop that is not ours, or keeps a time of its own
    cdef CoreLoop core           # the loop otherwise
    cdef Py_ssize_t cancelling   # the task's requests to be cancelled when it entered
    cdef Py_ssize_t place        # in the loop's heap of timers; -1 when not in it
    cdef int stale               # times it stands in the ready queue though rescheduled since
    cdef bint armed              # it is in the heap, or in the ready queue
    cdef char phase

    def __cinit__(self):
        self.place = -1

    def __init__(self, when):
        self.deadline = when

    def when(self):
        """The deadline: seconds on the loop's clock, as `loop.time()` counts them; None if there is none."""
        return self.at if self.reckoned else self.deadline

    def reschedule(self, when):
        """Set another deadline (seconds on the loop's clock; None: no deadline).

        Raises RuntimeError before the block was entered and after its time is up or it was left.
        """
        if self.phase != ENTERED:
            if self.phase == CREATED:
                raise RuntimeError("Timeout has not been entered")
            raise RuntimeError(f"Cannot change state of {PHASES[self.phase]} Timeout")
        self.arm(when, None)

    def expired(self):
        """Whether the time was up before the block was left."""
        return self.phase == EXPIRING or self.phase == EXPIRED

    def __repr__(self):
        when = ""
        if self.phase == ENTERED:
            when = self.when()
            when = f" when={None if when is None else round(when, 3)}"
        return f"<Timeout [{PHASES[self.phase]}]{when}>"

    def __aenter__(self):
        """Begin. Returns the Timeout. Raises RuntimeError outside a task, or when entered before."""
        return passage(self, True, None, None)

    def __aexit__(self, exc_type, exc_val, exc_tb):
        """End. Turns the CancelledError by which the time was called into a TimeoutError."""
        return passage(self, False, exc_type, exc_val)

    cdef int enter(self) except -1:
        if self.phase != CREATED:
            raise RuntimeError("Timeout has already been entered")
        loop = running_loop()
        task = running_task(loop)
        if task is None:
            raise RuntimeError("Timeout should be used inside a task")
        self.cancelling = cancelling(task)
        self.task = task
        self.phase = ENTERED
        if not inherits(self, ("reschedule",)):
            self.reschedule(self.when())
            return 0
        if self.reckoned and isinstance(loop, CoreLoop) and (<CoreLoop>loop).own_clock:
            return self.arm_at(self.at, <CoreLoop>loop)
        return self.arm(self.when(), loop)

    cdef int leave(self, object kind, object error) except -1:
        if self.phase != ENTERED and self.phase != EXPIRING:
            raise AssertionError(f"Timeout is {PHASES[self.phase]}")
        self.disarm()
        task, self.task = self.task, None
        if self.phase == ENTERED:
            self.phase = EXITED
            return 0
        self.phase = EXPIRED
        late = timed_out(task, self.cancelling, kind, error)
        if late is not None:
            raise late from error
        return 0

    cdef int arm(self, object when, object loop) except -1:
        cdef double at
        self.deadline = when
        self.reckoned = False
        self.disarm()
        if when is None:
            return 0
        if loop is None:
            loop = running_loop()
        if not isinstance(loop, CoreLoop) or not (<CoreLoop>loop).own_clock:
            if when <= loop.time():
                self.handle = loop.call_soon(self._on_timeout)
            else:
                self.handle = loop.call_at(when, self._on_timeout)
            return 0
        at = when
        if at != at:
            raise ValueError("when must be a time in seconds, not nan")
        return self.arm_at(at, <CoreLoop>loop)

    cdef int arm_at(self, double at, CoreLoop core) except -1:
        self.core = core
        if at <= noria_monotonic():
            push(core, self)
        else:
            core.timers.add(at, self, &self.place)
        self.armed = True
        return 0

    cdef int disarm(self) except -1:
        if self.armed:
            self.armed = False
            if self.place >= 0:
                self.core.timers.drop(self.place)
            else:
                self.stale += 1
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None
        return 0

    cdef int run(self) except -1:
        if self.stale:
            self.stale -= 1
            return 0
        self.armed = False
        self._on_timeout()
        return 0

    def _on_timeout(self):
        self.handle = None
        if self.phase == ENTERED:
            cancel(self.task, None)
            self.phase = EXPIRING


@cython.internal
@cython.freelist(8)
cdef class Passage:
    # Into the block, or out of it: a coroutine that ends at once. Lighter than a Waiter, since it never waits.
    cdef Timeout timeout         # None once awaited
    cdef object kind
    cdef object error
    cdef bint entering

    @property
    def __name__(self):
        return "__aenter__" if self.entering else "__aexit__"

    @property
    def __qualname__(self):
        return f"Timeout.{self.__name__}"

    @property
    def __class__(self):
        return CoroutineType

    cr_running = cr_suspended = False
    cr_await = cr_origin = None

    @property
    def cr_frame(self):
        return None if self.timeout is None else _frames.frame_of(self.__qualname__)

    @property
    def cr_code(self):
        return _frames.code_of(self.__qualname__)

    def __repr__(self):
        return f"<coroutine object {self.__qualname__} at {<size_t><PyObject*>self:#x}>"

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return None  # replaced by pass_through, below

    def send(self, value, /):
        """Go through. Raises StopIteration with the result, or what went wrong."""
        return next(self)

    def throw(self, type, value=None, traceback=None, /):
        """Raise the exception instead."""
        self.timeout = None
        raise type if value is None else value

    def close(self):
        """Never mind."""
        self.timeout = None


cdef PyObject* pass_through(PyObject* it) noexcept:
    cdef Passage self = <Passage>it
    cdef Timeout timeout = self.timeout
    try:
        if timeout is None:
            raise RuntimeError("cannot reuse already awaited coroutine")
        self.timeout = None
        if self.entering:
            timeout.enter()
            return ended_with(<PyObject*>timeout)
        timeout.leave(self.kind, self.error)
        return NULL
    except BaseException as error:
        PyErr_SetObject(type(error), error)
        return NULL


cdef inline Passage passage(Timeout timeout, bint entering, object kind, object error):
    cdef Passage passage = Passage.__new__(Passage)
    passage.timeout = timeout
    passage.entering = entering
    passage.kind = kind
    passage.error = error
    return passage


def timeout(delay):
    """A deadline `delay` seconds from now for the block that follows: `async with timeout(10): ...`.

    When the time is up the block is cancelled, and leaving it raises TimeoutError. delay: None for no deadline.
    Raises RuntimeError if no loop runs.

    Source: asyncio.timeout (3.11).
    """
    cdef Timeout timeout
    loop = running_loop()
    timeout = <Timeout>timeouts_new()
    if delay is None:
        pass
    elif type(delay) in (int, float) and isinstance(loop, CoreLoop) and (<CoreLoop>loop).own_clock:
        timeout.at = noria_monotonic() + <double>delay
        if timeout.at != timeout.at:
            timeout.deadline = timeout.at  # refused when the block is entered
        else:
            timeout.reckoned = True
    else:
        timeout.deadline = loop.time() + delay
    return timeout


def timeout_at(when):
    """As `timeout`, with the time itself: seconds on the loop's clock (`loop.time()`); None for no deadline.

    Source: asyncio.timeout_at (3.11).
    """
    cdef Timeout timeout = <Timeout>timeouts_new()
    timeout.deadline = when
    return timeout


# wait_for.

@cython.internal
cdef class WaitFor(Waiter):
    # Unlike other waiters it never waits itself: what it yields is what the awaitable inside yields.
    cdef object fut
    cdef object timeout
    cdef object inner            # iterator of fut once begun
    cdef object task
    cdef object handle           # the timer on a loop that is not ours, or keeps a time of its own
    cdef CoreLoop core           # the loop otherwise, if there is a timer
    cdef Py_ssize_t cancelling
    cdef Py_ssize_t place        # in the loop's heap of timers; -1 when not in it
    cdef bint expired

    def __cinit__(self):
        self.place = -1

    @property
    def __qualname__(self):
        return "wait_for"

    @property
    def cr_await(self):
        return self.inner

    def __await__(self):
        return self

    cdef int enter(self) except -1:
        cdef double at = 0
        fut, self.fut = self.fut, None
        timeout = self.timeout
        if timeout is not None and timeout <= 0:
            self.inner = at_once(to_future(fut, None))
            return 0
        loop = running_loop()
        task = running_task(loop)
        if isinstance(loop, CoreLoop) and (<CoreLoop>loop).own_clock:
            if timeout is not None:
                at = noria_monotonic() + timeout
                if at != at:
                    raise ValueError("timeout must be a number of seconds, not nan")
        elif timeout is not None:
            timeout = loop.time() + timeout
        if task is None:
            raise RuntimeError("Timeout should be used inside a task")
        self.inner = stepper(fut)
        if timeout is None:
            return 0
        self.cancelling = cancelling(task)
        self.task = task
        if isinstance(loop, CoreLoop) and (<CoreLoop>loop).own_clock:
            self.core = <CoreLoop>loop
            self.core.timers.add(at, self, &self.place)
        else:
            self.handle = loop.call_at(timeout, self._on_timeout)
        return 0

    cdef object leave(self, object error):
        # It is over. Returns the exception to raise, if any.
        self.stage = OVER
        self.inner = None
        if self.place >= 0:
            self.core.timers.drop(self.place)
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None
        if self.expired:
            task, self.task = self.task, None
            late = timed_out(task, self.cancelling, None if error is None else type(error), error)
            return error if late is None else late
        self.task = None
        return error

    cdef int run(self) except -1:
        # The time is up. (If it was left meanwhile, this is too late.)
        if self.stage == YIELDED:
            cancel(self.task, None)
            self.expired = True
        return 0

    def _on_timeout(self):
        self.handle = None
        self.run()

    cdef object give_up(self, object error):
        # An exception comes in: it is for the awaitable inside. Returns what that yields, else raises.
        inner = self.inner
        try:
            if isinstance(error, GeneratorExit):
                if hasattr(inner, "close"):
                    inner.close()
                raise error
            if not hasattr(inner, "throw"):
                raise error
            return inner.throw(error)
        except StopIteration as stop:
            value = stop.value
        except BaseException as raised:
            left = self.leave(raised)
            if left is raised:
                raise
            raise left from raised
        left = self.leave(None)
        raise StopIteration(value)


cdef object stepper(object awaitable):
    # The iterator by which `await` would go through the awaitable.
    if PyCoro_CheckExact(awaitable):
        if awaitable.cr_await is None:
            return awaitable
    elif is_native(awaitable):
        if (<Waiter>awaitable).stage == FRESH if isinstance(awaitable, Waiter) else (
                (<BaseFuture>awaitable).loop is not None):
            return awaitable
    return awaited(awaitable)  # which also says so if it cannot be awaited


cdef PyObject* itself(PyObject* self) noexcept:
    Py_INCREF(<object>self)
    return self


cdef PyObject* go_on(PyObject* it) noexcept:
    cdef WaitFor self = <WaitFor>it
    cdef PyObject* got = NULL
    cdef PySendResult outcome
    try:
        if self.stage == FRESH:
            self.stage = OVER
            self.enter()
            self.stage = YIELDED
        elif self.stage == OVER:
            raise RuntimeError("cannot reuse already awaited coroutine")
        inner = self.inner
        outcome = PyIter_Send(<PyObject*>inner, <PyObject*>None, &got)
        if outcome == PYGEN_NEXT:
            return got
        if outcome == PYGEN_RETURN:
            value = <object>got
            Py_DECREF(value)
            self.leave(None)
            return ended_with(<PyObject*>value)
        got = noria_take_exception()
        error = <object>got
        Py_DECREF(error)
        left = self.leave(error)
        if left is error:
            noria_restore_exception(<PyObject*>error)
        else:
            left.__context__ = error
            noria_restore_exception(<PyObject*>left)
        return NULL
    except BaseException as raised:
        PyErr_SetObject(type(raised), raised)
        return NULL


noria_set_await(WaitFor, itself_once, go_on)
noria_set_await(Passage, itself, pass_through)


def wait_for(fut, timeout):
    """Await fut, at most `timeout` seconds (None: for ever); returns its result.

    When the time is up what is awaited is cancelled, and once it has ended TimeoutError is raised; if it returns a
    value in spite of being cancelled, that is returned. A timeout of 0 or less: the result must be there already.

    A coroutine. Raises RuntimeError outside a task.

    Source: asyncio.wait_for, as of 3.12.
    """
    cdef WaitFor waiter = WaitFor.__new__(WaitFor)
    waiter.fut = fut
    waiter.timeout = timeout
    return waiter


mark_coroutine_functions(wait_for, Timeout.__aenter__, Timeout.__aexit__)
noria_let_be_patched(Timeout)


cdef extern from *:
    """
    #include "pool.h"
    /* Whether attributes were set on an object of a type with a dict (Cython does not let one look). */
    static inline int has_attributes(PyObject *o) {
        PyObject *dict = *(PyObject **)((char *)o + Py_TYPE(o)->tp_dictoffset);
        return dict != NULL && PyDict_GET_SIZE(dict) > 0;
    }
    NORIA_STOCK(timeouts, 128)
    NORIA_POOL(wait_fors, 128)
    """
    void timeouts_stock(object type, int (*empty)(PyObject*) noexcept)
    object timeouts_new()
    bint has_attributes(PyObject* o)
    void wait_fors_pool(object type)


cdef int renew_timeout(PyObject* o) noexcept:
    # Only one that was left in time, which is nearly all: nothing but the deadline is in it then.
    cdef Timeout timeout = <Timeout>o
    if timeout.phase != EXITED or timeout.stale or has_attributes(o):
        return 0
    PyObject_GC_UnTrack(timeout)
    timeout.phase = CREATED
    timeout.deadline = timeout.core = None
    timeout.reckoned = False
    return 1


timeouts_stock(Timeout, renew_timeout)
wait_fors_pool(WaitFor)
