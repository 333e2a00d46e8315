"""The loop's core: turns of the wheel, scheduling, running, stopping, nesting.

A turn is what asyncio calls an iteration: ask the kernel, queue the timers that are due, run what was in the ready
queue when the turn began. The order in which callbacks run is asyncio's. What differs is how often the kernel is
asked: asking costs as much as several steps, so while there is work it is asked only every ASK_EVERY turns or when
about a millisecond has passed. But a task that stands back for a turn (`sleep(0)`) often does so to see what arrives:
after that the kernel is asked in each of CURIOUS turns, unless that was in vain ASK_IN_VAIN times running. With nothing
to do the turn waits in the kernel.

Runs nest. `run_until_complete` may be called from a callback or task of the loop that is running: it turns the same
wheel until its future is done, so everything else goes on, and then the outer run resumes. `stop()` ends the
outermost run.

Leaves to others: sockets and files (io, net), signals, executors, exception reports (house.py).
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

from noria.core.capi cimport (
    NORIA_SLICE, PyContext_Exit, PyErr_CheckSignals, enter_context,
    PyErr_Clear, PyThread_get_thread_ident, noria_monotonic, noria_ticks,
)
from noria.core.futures cimport Future
from noria.core.handles cimport Handle, new_handle
from noria.core.tasks cimport list_tasks, new_task
from noria.core.timers cimport TimerHandle, Timers
from noria.core.wheel cimport Driver, Ready, Wheel, overdue, push

import asyncio.events
import asyncio.futures
import asyncio.tasks
import inspect
import sys
import warnings

from noria.core.factories import eager_task_factory
from noria.core.tasks import add_wheel

cdef extern from "Python.h":
    int generic_setattr "PyObject_GenericSetAttr"(PyObject* o, PyObject* name, PyObject* value) except -1

cdef enum:
    ASK_EVERY = 64
    CURIOUS = 8
    ASK_IN_VAIN = 16
    TELL_EVERY = 4  # what is posted to be sent waits for the next time the kernel is asked

# Deadlines this close count as reached, as in asyncio: the clock's resolution, in seconds.
cdef double RESOLUTION = 1e-9
cdef double LONGEST_WAIT = 24 * 3600.0
cdef frozenset CLOCK = frozenset(("time", "call_at", "call_later"))
cdef dict current_tasks = asyncio.tasks._current_tasks
cdef object EAGER_FACTORY = getattr(asyncio.tasks, "eager_task_factory", None)


cdef class Stopper:
    """Done callback of the future a run waits for."""

    __name__ = __qualname__ = "run_until_complete"

    def __call__(self, future):
        # The future's own KeyboardInterrupt or SystemExit ends the run by itself.
        if not future.cancelled():
            error = future.exception()
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                return
        self.done = True


cdef class CoreLoop(Wheel):
    """The compiled part of noria.Loop."""

    def __cinit__(self):
        self.timers = Timers.__new__(Timers)

    def __init__(self, Driver driver not None):
        self.driver = driver
        self.slow_callback_duration = 0.1
        self.debug = sys.flags.dev_mode or asyncio.coroutines._is_debug_mode()
        self.see_whose_clock(())  # not the instance's dict: it would be made
        self.own_tasks = type(self).create_task is CoreLoop.create_task
        add_wheel(self)

    cdef int see_whose_clock(self, object hung) except -1:
        # A program's subclass may keep a time of its own, and tests put one on the instance: then everything that has
        # to do with time must go through these methods.
        kind = type(self)
        self.own_time = kind.time is CoreLoop.time and "time" not in hung
        self.own_clock = (self.own_time and kind.call_at is CoreLoop.call_at and kind.call_later is CoreLoop.call_later
                          and "call_at" not in hung and "call_later" not in hung)
        return 0

    def __setattr__(self, name, value):
        generic_setattr(<PyObject*>self, <PyObject*>name, <PyObject*>value)
        if name in CLOCK:
            self.see_whose_clock(self.__dict__)

    def __delattr__(self, name):
        generic_setattr(<PyObject*>self, <PyObject*>name, NULL)
        if name in CLOCK:
            self.see_whose_clock(self.__dict__)

    # Scheduling.

    cdef int checked_callback(self, object callback, str method) except -1:
        if self.shut:
            self.check_open()
        if self.debug:
            if method != "call_soon_threadsafe":
                self.check_thread()
            if asyncio.coroutines.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
                raise TypeError(f"coroutines cannot be used with {method}()")
            if not callable(callback):
                raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")
        return 0

    def call_soon(self, callback, *args, context=None):
        """Call callback(*args) in the next turn of the loop, after everything queued before it.

        context: the contextvars.Context to run in; by default a copy of the current one.
        Returns a Handle. Raises RuntimeError if the loop is closed.
        """
        cdef Handle handle
        if self.shut or self.debug:
            self.checked_callback(callback, "call_soon")
        handle = new_handle(self, callback, args, False, context)
        push(self, handle)
        return handle

    def call_soon_threadsafe(self, callback, *args, context=None):
        """call_soon for other threads and for signal handlers: also wakes the loop if it waits."""
        cdef Handle handle
        if self.debug:
            self.checked_callback(callback, "call_soon_threadsafe")
        handle = new_handle(self, callback, args, False, context)
        if self.shut:  # asked last: making the handle may have let another thread close the loop
            self.check_open()
        push(self, handle)
        if self.asleep:
            self.driver.wake()
        return handle

    def time(self):
        """The loop's clock: seconds, monotonic (CLOCK_MONOTONIC)."""
        return noria_monotonic()

    cdef double now(self) except? -1:
        return noria_monotonic() if self.own_time else self.time()

    cdef TimerHandle timer(self, double when, object callback, tuple args, object context):
        cdef TimerHandle timer = TimerHandle.__new__(TimerHandle)
        timer.setup(self, callback, args, False, context)
        timer.at = when
        timer.heap = self.timers
        self.timers.add(when, timer, &timer.place)
        return timer

    def call_later(self, delay, callback, *args, context=None):
        """Call callback(*args) delay seconds from now. Returns a TimerHandle."""
        cdef double seconds
        if delay is None:
            raise TypeError("delay must not be None")
        seconds = delay
        if seconds != seconds:
            raise ValueError("delay must be a number of seconds, not nan")
        if self.shut or self.debug:
            self.checked_callback(callback, "call_later")
        if not self.own_clock:
            return self.call_at(self.time() + seconds, callback, *args, context=context)
        if seconds <= 0:
            self.timer_due = True
        return self.timer(noria_monotonic() + seconds, callback, args, context)

    def call_at(self, when, callback, *args, context=None):
        """Call callback(*args) when the loop's clock (`time()`) reaches `when`, in seconds. Returns a TimerHandle."""
        cdef double at
        if when is None:
            raise TypeError("when cannot be None")
        at = when
        if at != at:
            raise ValueError("when must be a time in seconds, not nan")
        if self.shut or self.debug:
            self.checked_callback(callback, "call_at")
        if at <= self.now():
            self.timer_due = True
        return self.timer(at, callback, args, context)

    # Futures and tasks.

    def create_future(self):
        """A new Future of this loop."""
        cdef Future future = Future.__new__(Future)
        future.attach(self)
        return future

    def create_task(self, coro, *, name=None, context=None, eager_start=None):
        """Run a coroutine as a Task of this loop.

        name: str, "Task-N" by default. context: the contextvars.Context it runs in, by default a copy of the
        current one. eager_start: run the first step now, inside this call.
        """
        cdef bint eager
        if self.shut:
            self.check_open()
        if self.factory is not None and not self.eager:
            kwargs = {}
            if context is not None:
                kwargs["context"] = context
            if eager_start is not None:
                kwargs["eager_start"] = eager_start
            task = self.factory(self, coro, **kwargs)
            if name is not None:
                try:
                    task.set_name(name)
                except AttributeError:
                    warnings.warn(
                        "Task.set_name() was added in Python 3.8, the method support will be mandatory for third-party "
                        "task implementations since 3.13.", DeprecationWarning, stacklevel=2)
            return task
        eager = self.eager if eager_start is None else eager_start
        return new_task(self, coro, name, context, eager and self.thread != 0)

    def set_task_factory(self, factory):
        """Make tasks by factory(loop, coro, **kwargs); None: the plain way.

        asyncio.eager_task_factory and noria.eager_task_factory are known and done natively.
        """
        if factory is not None and not callable(factory):
            raise TypeError("task factory must be a callable or None")
        self.factory = factory
        self.eager = factory is not None and (factory is EAGER_FACTORY or factory is eager_task_factory)

    def get_task_factory(self):
        """The task factory, or None."""
        return self.factory

    # State.

    def is_running(self):
        """Whether some thread runs the loop."""
        return self.thread != 0

    def is_closed(self):
        """Whether close() was called."""
        return self.shut

    def get_debug(self):
        """Whether debug mode is on."""
        return self.debug

    def set_debug(self, enabled):
        """Debug mode: source tracebacks, thread checks, slow callbacks reported, coroutine origins tracked."""
        self.debug = enabled
        if self.thread != 0:
            self.call_soon_threadsafe(self._track_coroutine_origins)

    def stop(self):
        """End run_forever() after what is ready now has run."""
        self.stopping = True
        if self.asleep:
            self.driver.wake()

    # Running.

    def _enter(self, nested):
        """Take the thread for the loop. Returns what _leave needs to undo it."""
        cdef unsigned long thread = PyThread_get_thread_ident()
        self.check_open()
        if self.thread != 0 and (self.thread != thread or not nested):
            raise RuntimeError("This event loop is already running")
        outer = asyncio.events._get_running_loop()
        if outer is not None and outer is not self and isinstance(outer, Wheel) and (<Wheel>outer).driver.due:
            (<Wheel>outer).driver.flush()  # it will not turn for a while
        hooks = sys.get_asyncgen_hooks()
        depth = self._track_coroutine_origins()
        if self.depth == 0:
            self.thread = thread
        sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter, finalizer=self._asyncgen_finalizer)
        asyncio.events._set_running_loop(self)
        self.depth += 1
        return outer, hooks, depth

    def _leave(self, state):
        outer, hooks, depth = state
        self.depth -= 1
        if self.depth == 0:
            self.thread = 0
            self.stopping = False
        asyncio.events._set_running_loop(outer)
        if depth is not None:
            sys.set_coroutine_origin_tracking_depth(depth)
        sys.set_asyncgen_hooks(*hooks)

    def _track_coroutine_origins(self):
        from asyncio import constants

        before = sys.get_coroutine_origin_tracking_depth()
        if self.debug:
            sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
        elif self.depth:
            sys.set_coroutine_origin_tracking_depth(0)
        return before

    def _until(self, Stopper stopper):
        """Turn until the stopper says so, or until stop() if there is none."""
        cdef PyObject* task = self.current
        cdef PyObject* published = self.published
        cdef PyObject* context = self.entered
        cdef object shadowed = self.shadowed
        cdef object held
        cdef bint ask = True
        cdef bint lent = False
        # Nested inside a step: others may need the context it runs in, and none of them is the current task.
        if context != NULL:
            if PyContext_Exit(context) < 0:
                PyErr_Clear()  # the program is inside a Context.run() of its own
            else:
                lent = True
            self.entered = NULL
        # Standard tasks enter and leave asyncio's table by themselves, and insist on finding it empty.
        self.current = self.published = NULL
        self.shadowed = None
        held = current_tasks.pop(self, None)
        try:
            while True:
                self.turn(ask, stopper)
                ask = False
                if self.over(stopper):
                    break
        finally:
            if self.driver.due:
                self.driver.flush()
            if held is not None:
                current_tasks[self] = held
            self.current = task
            self.published = published
            self.shadowed = shadowed
            self.entered = context
            if lent:
                self.give_back(context)

    cdef int give_back(self, PyObject* context) except -1:
        try:
            enter_context(context)
        except RuntimeError:
            self.entered = NULL  # another thread runs in it now: the step that lent it has none to leave
            raise
        return 0

    def run_forever(self):
        """Run until stop() is called.

        Raises RuntimeError if the loop is closed or runs already. Another loop that runs in this thread (as in a
        notebook) waits meanwhile.
        """
        state = self._enter(False)
        try:
            self._until(None)
        finally:
            self._leave(state)

    def run_until_complete(self, future):
        """Run until the future, or the coroutine wrapped in a task, is done; return its result or raise its error.

        May be called while this loop, or another one, runs in the same thread: then it nests, and this loop's other
        tasks go on. Raises RuntimeError if the loop is closed, runs in another thread, or was stopped before.
        """
        cdef Stopper stopper = Stopper.__new__(Stopper)
        cdef bint made = not asyncio.futures.isfuture(future)
        self.check_open()
        if self.thread != 0 and self.thread != PyThread_get_thread_ident():
            raise RuntimeError("This event loop is already running")
        if self.current != NULL and future is <object>self.current:
            raise RuntimeError(f"Task cannot await on itself: {future!r}")
        if made and asyncio.coroutines.iscoroutine(future):
            future = self.create_task(future)
        else:
            future = asyncio.tasks.ensure_future(future, loop=self)
        if made:
            # its error is raised here, no need to report it if the run is interrupted
            future._log_destroy_pending = False
        future.add_done_callback(stopper)
        state = self._enter(True)
        try:
            self._until(stopper)
        except BaseException:
            if made and future.done() and not future.cancelled():
                future.exception()  # retrieved: it is what is being raised
            raise
        finally:
            self._leave(state)
            future.remove_done_callback(stopper)
        if not future.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return future.result()

    cdef bint over(self, Stopper stopper) noexcept:
        # stop() is for the outermost run; a nested one has a future to see done.
        if stopper is not None and stopper.done:
            return True
        return self.stopping and self.depth == 1

    cdef int turn(self, bint ask, Stopper stopper) except -1:
        cdef double timeout
        cdef size_t end
        cdef bint polled = True
        if self.ring.head == self.ring.tail:
            PyErr_CheckSignals()  # handlers may queue something, or stop us
        if self.ring.head == self.ring.tail:
            # Nothing to do: wait for the kernel, a timer or another thread.
            if self.over(stopper):
                timeout = 0
            elif self.timers.count:
                timeout = self.timers.slots[0].at - self.now()
                if timeout < 0:
                    timeout = 0
                elif timeout > LONGEST_WAIT:
                    timeout = LONGEST_WAIT
            else:
                timeout = -1
            self.driver.wait(timeout, False)
            self.vain = 0
            self.idle_turns = 0
            self.asked = noria_ticks()
        else:
            self.idle_turns += 1
            if self.stood_back:
                self.stood_back = False
                self.curious = CURIOUS
            if (ask or self.idle_turns >= <unsigned int>(TELL_EVERY if self.driver.due else ASK_EVERY)
                    or (self.curious > 0 and self.vain < ASK_IN_VAIN)
                    or noria_ticks() - self.asked > NORIA_SLICE):
                if self.driver.wait(0, True):
                    self.vain = 0
                else:
                    self.vain += 1
                self.curious -= self.curious > 0
                self.idle_turns = 0
                self.asked = noria_ticks()
            else:
                polled = False
        if self.timers.count and (polled or self.timer_due or not self.own_time):
            self.timer_due = False
            self.timers.due(self, self.now() + RESOLUTION)
        end = self.ring.tail
        while True:
            try:
                self.spin(end)
                break
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                # Items deal with the program's errors themselves. What gets here must not end the loop either.
                self.call_exception_handler({
                    "message": "Exception in a callback of the event loop", "exception": error,
                })
        return 0

    cdef int spin(self, size_t end) except -1:
        # Run what is queued, up to `end`; a nested run may have been there before us.
        cdef PyObject* item
        while <Py_ssize_t>(end - self.ring.head) > 0:
            item = self.ring.items[self.ring.head & self.ring.mask]
            self.ring.head += 1
            try:
                if self.debug:
                    self.timed_run(<object>item)
                else:
                    (<Ready>item).run()
            finally:
                Py_DECREF(<object>item)
            if overdue(self.driver):
                self.driver.hasten()
        return 0

    cdef int timed_run(self, object item) except -1:
        cdef double began = noria_monotonic()
        (<Ready>item).run()
        cdef double took = noria_monotonic() - began
        if took >= self.slow_callback_duration:
            self._report_slow(item, took)
        return 0

    # Closing.

    def _close_core(self):
        """Drop what is queued and let the driver go. Idempotent."""
        if self.thread != 0:
            raise RuntimeError("Cannot close a running event loop")
        if self.shut:
            return
        self.shut = True
        self.empty()
        self.timers.clear()
        if self.driver is not None:
            self.driver.shut()

    def _tasks(self):
        """The unfinished tasks, newest first."""
        return list_tasks(self)
