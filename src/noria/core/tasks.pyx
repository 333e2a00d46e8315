"""Task: a future that runs a coroutine.

Promises what `asyncio.Task` of CPython 3.13 does, on every interpreter, on noria's loops and on foreign ones, awaiting
noria's futures and foreign ones.

How it differs inside: a task is itself an item of the ready queue; what a step is to do (start, go on, throw) is in
the task's own state, so waking it is one push. Unfinished tasks of a loop form a list linked through the tasks;
`asyncio.all_tasks()` is answered from it (see `registry` below), where the standard library puts each task into a
WeakSet and takes it out again.

A task is owned by whoever will wake it (the queue, the future it waits for) and by whoever holds it, never by its
loop: as in asyncio, a task that nobody refers to is destroyed, and reported if it was not finished.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

from noria.core.capi cimport (
    noria_take_exception, Py_EnterRecursiveCall, Py_LeaveRecursiveCall, Py_REFCNT, PyContext_CopyCurrent,
    PyContext_Enter, PyContext_Exit, PyCoro_CheckExact, PyErr_ExceptionMatches, PYGEN_ERROR, PYGEN_NEXT,
    PYGEN_RETURN, PyIter_Send, PyObject_CallMethodOneArg, PySendResult,
)
from noria.core.futures cimport FINISHED, PENDING, BaseFuture, Future, is_native
from noria.core.wheel cimport Link, Wheel, push

import asyncio.base_tasks
import asyncio.coroutines
import asyncio.exceptions
import asyncio.tasks
import inspect
import weakref

cdef object CancelledError = asyncio.exceptions.CancelledError
cdef object InvalidStateError = asyncio.exceptions.InvalidStateError
cdef object StandardTask = asyncio.tasks.Task  # as it was when nobody had substituted anything yet
cdef object THROW = "throw"
cdef uint64_t serials = 0
cdef dict current_tasks = asyncio.tasks._current_tasks


cdef class Wakeup:
    """What a task registers with a future that is not noria's: called with it when it is done."""
    cdef Task task

    def __call__(self, future):
        if self.task is not None:  # None: the task gave up waiting
            self.task.awake(future)

    @property
    def __self__(self):
        return self.task

    @property
    def __name__(self):
        return "task_wakeup"

    @property
    def __qualname__(self):
        return "task_wakeup"

    def __eq__(self, other):
        return isinstance(other, Wakeup) and (<Wakeup>other).task is self.task

    def __hash__(self):
        return hash(id(self.task))

    def __repr__(self):
        return f"<task_wakeup of {self.task!r}>"


cdef class Step:
    """What a task hands to call_soon of a loop that is not noria's."""
    cdef Task task

    def __call__(self):
        if self.task is not None:
            self.task.step(False)

    @property
    def __self__(self):
        return self.task

    def __repr__(self):
        return f"<task_step of {self.task!r}>"


cdef class Task(Future):
    """Task(coro, *, loop=None, name=None, context=None, eager_start=False)\n--

    Runs a coroutine. Made by `loop.create_task()`.

    coro: the coroutine; anything else raises TypeError.
    loop: the event loop; by default the one that runs.
    name: shown in reprs; str() of it is taken; "Task-N" by default.
    context: the contextvars.Context it runs in; by default a copy of the current one.
    eager_start: run the first step now, if the loop runs; a coroutine that ends there never sees the queue.

    Source: asyncio.Task.
    """

    def __init__(self, coro, *, loop=None, name=None, context=None, eager_start=False):
        if self.loop is not None:
            raise RuntimeError(f"{type(self).__name__} object is initialized already")
        if not asyncio.coroutines.iscoroutine(coro):
            raise TypeError(f"a coroutine was expected, got {coro!r}")
        if loop is None:
            loop = asyncio.events.get_event_loop()
        self.begin(coro, loop, name, context, eager_start and loop.is_running())

    cdef int begin(self, object coro, object loop, object name, object context, bint eager) except -1:
        global serials
        self.attach(loop)
        self.coro = coro
        self.context = PyContext_CopyCurrent() if context is None else context
        if name is None:
            serials += 1
            self.serial = serials
        elif isinstance(name, str):
            self.name = name
        else:
            self.name = str(name)
        self.log_destroy = True
        if self.wheel is None:
            asyncio.tasks._register_task(self)
        else:
            self.place.owner = <PyObject*>self
            self.place.before = &self.wheel.tasks
            self.place.after = self.wheel.tasks.after
            self.place.after.before = &self.place
            self.wheel.tasks.after = &self.place
        if eager:
            if self.wheel is not None:
                self.step(True)
            else:
                self.context.run(self._step_now)
            if self.state != PENDING:
                self.coro = None
        else:
            self.schedule()
        return 0

    def __dealloc__(self):
        self.unlink()

    def __del__(self):
        if self.state == PENDING and self.log_destroy and self.loop is not None:
            self.unlink()  # whoever keeps the report must not see it among the tasks to be cancelled
            report = {"task": self, "message": "Task was destroyed but it is pending!"}
            if self._source_traceback:
                report["source_traceback"] = self._source_traceback
            self.loop.call_exception_handler(report)
        Future.__del__(self)

    @property
    def __class__(self):
        return StandardTask

    # Private names that asyncio's helpers, debuggers and tests look at.

    @property
    def _coro(self):
        return self.coro

    @property
    def _context(self):
        return self.context

    @property
    def _fut_waiter(self):
        return self.waiting

    @property
    def _must_cancel(self):
        return self.must_cancel != 0

    @property
    def _num_cancels_requested(self):
        return self.cancels

    @property
    def _log_destroy_pending(self):
        return self.log_destroy != 0

    @_log_destroy_pending.setter
    def _log_destroy_pending(self, value):
        self.log_destroy = bool(value)

    @property
    def _wakeup(self):
        cdef Wakeup wakeup = Wakeup.__new__(Wakeup)
        wakeup.task = self
        return wakeup

    def _repr_info(self):
        info = Future._repr_info(self)
        if self.cancels and self.state == PENDING:
            info[0] = "cancelling"
        info.insert(1, f"name={self.get_name()!r}")
        if self.waiting is not None:
            info.insert(2, f"wait_for={self.waiting!r}")
        if self.coro is not None:
            info.insert(2, f"coro=<{asyncio.coroutines._format_coroutine(self.coro)}>")
        return info

    # The public interface.

    def get_coro(self):
        """The coroutine it runs; None for an eager task that finished at once."""
        return self.coro

    def get_context(self):
        """The contextvars.Context it runs in."""
        return self.context

    def get_name(self):
        """Its name."""
        if self.name is None:
            self.name = f"Task-{self.serial}"
        return self.name

    def set_name(self, value, /):
        """Give it a name; str() of value is taken."""
        self.name = str(value)

    def set_result(self, result, /):
        """Not for tasks: the coroutine's return value is the result. Raises RuntimeError."""
        raise RuntimeError("Task does not support set_result operation")

    def set_exception(self, exception, /):
        """Not for tasks: what the coroutine raises is the exception. Raises RuntimeError."""
        raise RuntimeError("Task does not support set_exception operation")

    def cancel(self, msg=None):
        """Throw CancelledError(msg) into the coroutine at its next chance. Returns False if the task is done.

        The coroutine may catch it; see `cancelling` and `uncancel`.
        """
        self.check_alive()
        return self.request_cancel(msg)

    cdef bint request_cancel(self, object msg) except -1:
        # Down the chain of native tasks that await one another in a loop, not by recursion: the chain may be long.
        # One that bites its own tail can never end (found by Brent's algorithm); in asyncio that is a RecursionError.
        cdef Task task = self, above = None, tortoise = self
        cdef size_t steps = 0, limit = 2
        while True:
            task.unseen = False
            if task.state != PENDING:
                if above is None:
                    return False
                above.must_cancel = True  # what it waited for is done, and it is to be woken
                return True
            task.cancels += 1
            task.keep("_cancel_message", msg)
            if type(task.waiting) is not Task:
                if task.waiting is None or not task.wait_cancel():
                    task.must_cancel = True
                return True
            above, task = task, <Task>task.waiting
            steps += 1
            if task is tortoise:
                raise RecursionError(f"tasks wait for one another in a circle, {task!r} among them")
            if steps == limit:
                tortoise = task
                steps = 0
                limit *= 2

    def cancelling(self):
        """How many requests to cancel are pending: calls of `cancel()` less those of `uncancel()`."""
        return self.cancels

    def uncancel(self):
        """Take back one request to cancel; returns how many remain."""
        if self.cancels > 0:
            self.cancels -= 1
            if self.cancels == 0:
                self.must_cancel = False
        return self.cancels

    def get_stack(self, *, limit=None):
        """The stack frames of the coroutine, or of the exception that ended it; at most limit."""
        return asyncio.base_tasks._task_get_stack(self, limit)

    def print_stack(self, *, limit=None, file=None):
        """Print the stack as `traceback` does, to file (default: stderr)."""
        return asyncio.base_tasks._task_print_stack(self, limit, file)

    # Inside.

    cdef int unlink(self) noexcept:
        # Touches no Python object: it also runs when the garbage collector has cleared ours.
        if self.place.before != NULL:
            self.place.before.after = self.place.after
            self.place.after.before = self.place.before
            self.place.before = self.place.after = NULL
        return 0

    cdef int schedule(self) except -1:
        cdef Step step
        if self.wheel is not None:
            if self.wheel.shut:
                self.wheel.check_open()
            if self.wheel.debug:
                self.wheel.check_thread()
            return push(self.wheel, self)
        step = Step.__new__(Step)
        step.task = self
        self.loop.call_soon(step, context=self.context)
        return 0

    cdef int throw_soon(self, object error) except -1:
        self.thrown = error
        return self.schedule()

    cdef int wait_cancel(self) except -1:
        # Pass a cancellation on to what the task waits for. 1 if that took it.
        waiting = self.waiting
        message = self.kept("_cancel_message")
        if type(waiting) is Task:
            return (<Task>waiting).request_cancel(message)
        if is_native(waiting):
            return (<BaseFuture>waiting).stop(message)
        Py_EnterRecursiveCall(" while cancelling a task")
        try:
            return bool(waiting.cancel(msg=message))
        finally:
            Py_LeaveRecursiveCall()

    cdef int run(self) except -1:
        return self.step(True)

    def _step_now(self):
        self.step(False)

    cdef int awake(self, object future) except -1:
        # A foreign future is done; its loop called us in our context already.
        try:
            future.result()
        except BaseException as error:
            self.thrown = error
        return self.step(False)

    cdef int step(self, bint enter) except -1:
        cdef PyObject* got = NULL
        cdef PyObject* outer
        cdef PyObject* outer_context
        cdef PySendResult outcome
        cdef Wheel wheel = self.wheel
        error = self.thrown
        if self.state != PENDING:
            raise InvalidStateError(f"step(): already done: {self!r}, {error!r}")
        if error is not None:
            self.thrown = None
        if self.must_cancel:
            if error is None and isinstance(self.waiting, BaseFuture):
                error = (<BaseFuture>self.waiting).ended_by()
            if not isinstance(error, CancelledError):
                error = self.cancelled_error()
            self.must_cancel = False
        if self.waiting is not None:
            self.waiting = None

        if wheel is None:
            # On a foreign loop asyncio's own table is kept at each step; an eager task starts inside another's.
            around = current_tasks.get(self.loop)
            current_tasks[self.loop] = self
            outcome = proceed(self, error, &got)
            raised = take(outcome)
            if around is None:
                current_tasks.pop(self.loop, None)
            else:
                current_tasks[self.loop] = around
        else:
            outer = wheel.current
            wheel.current = <PyObject*>self
            if enter:
                if PyContext_Enter(<PyObject*>self.context) < 0:
                    outcome = PYGEN_ERROR
                else:
                    outer_context = wheel.entered
                    wheel.entered = <PyObject*>self.context
                    outcome = proceed(self, error, &got)
                    if wheel.entered == <PyObject*>self.context:  # else a nested run could not give it back
                        PyContext_Exit(<PyObject*>self.context)
                    wheel.entered = outer_context
            else:
                outcome = proceed(self, error, &got)
            raised = take(outcome)
            wheel.current = outer
            if wheel.published == <PyObject*>self:
                wheel.publish()

        if outcome == PYGEN_NEXT:
            result = <object>got
            Py_DECREF(result)
            return self.suspend(result)
        self.unlink()
        if outcome == PYGEN_RETURN:
            result = <object>got
            Py_DECREF(result)
            if self.must_cancel:
                # cancelled in its last moments
                self.must_cancel = False
                self.stop(self.kept("_cancel_message"))
            else:
                self.value = result
                self.state = FINISHED
                self.finish()
            return 0
        return self.end(raised)

    cdef int end(self, object error) except -1:
        if isinstance(error, CancelledError):
            self.error_origin = error
            self.stop(None)
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            try:
                self.fail(error)
            except RuntimeError:
                # In a forked child the loop is closed, and nobody can be told; sys.exit() ends the child all the same.
                if self.wheel is None or not self.wheel.shut:
                    raise
                self.exception()  # retrieved: it is what is being raised
            raise error
        else:
            self.fail(error)
        return 0

    cdef int suspend(self, object yielded) except -1:
        cdef BaseFuture future
        if yielded is None:
            if self.wheel is None:
                return self.schedule()
            self.wheel.stood_back = True
            return push(self.wheel, self)
        if self.wheel is None or not is_native(yielded):
            return self.suspend_on_foreign(yielded)
        future = <BaseFuture>yielded
        if future.wheel is not self.wheel:
            return self.throw_soon(RuntimeError(
                f"Task {self!r} got Future {yielded!r} attached to a different loop"))
        if not future.blocking:
            return self.throw_soon(RuntimeError(
                f"yield was used instead of yield from in task {self!r} with {yielded!r}"))
        future.blocking = False
        if future is self:
            return self.throw_soon(RuntimeError(f"Task cannot await on itself: {self!r}"))
        future.wait_by(self)
        self.waiting = future
        if self.must_cancel and self.wait_cancel():
            self.must_cancel = False
        return 0

    cdef int suspend_on_foreign(self, object yielded) except -1:
        # Duck typing as in asyncio: futures of other makes, subclasses, and mistakes. Should one of its methods raise,
        # the coroutine hears of it, where asyncio would leave the task waiting for ever.
        cdef Wakeup wakeup = self._wakeup
        try:
            return self.wait_on_foreign(yielded, wakeup)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            wakeup.task = None
            self.waiting = None
            return self.throw_soon(error)

    cdef int wait_on_foreign(self, object yielded, object wakeup) except -1:
        blocking = getattr(yielded, "_asyncio_future_blocking", None)
        if blocking is None:
            if inspect.isgenerator(yielded):
                return self.throw_soon(RuntimeError(
                    f"yield was used instead of yield from for generator in task {self!r} with {yielded!r}"))
            return self.throw_soon(RuntimeError(f"Task got bad yield: {yielded!r}"))
        if asyncio.futures._get_loop(yielded) is not self.loop:
            return self.throw_soon(RuntimeError(
                f"Task {self!r} got Future {yielded!r} attached to a different loop"))
        if not blocking:
            return self.throw_soon(RuntimeError(
                f"yield was used instead of yield from in task {self!r} with {yielded!r}"))
        if yielded is self:
            return self.throw_soon(RuntimeError(f"Task cannot await on itself: {self!r}"))
        yielded._asyncio_future_blocking = False
        yielded.add_done_callback(wakeup, context=self.context)
        self.waiting = yielded
        if self.must_cancel and self.wait_cancel():
            self.must_cancel = False
        return 0


cdef inline PySendResult proceed(Task task, object error, PyObject** got) noexcept:
    cdef PyObject* raised
    if error is None:
        return PyIter_Send(<PyObject*>task.coro, <PyObject*>None, got)
    got[0] = PyObject_CallMethodOneArg(<PyObject*>task.coro, <PyObject*>THROW, <PyObject*>error)
    if got[0] != NULL:
        return PYGEN_NEXT
    if not PyErr_ExceptionMatches(StopIteration):
        return PYGEN_ERROR
    raised = noria_take_exception()
    stop = <object>raised
    Py_DECREF(stop)
    value = stop.value
    Py_INCREF(value)
    got[0] = <PyObject*>value
    return PYGEN_RETURN


cdef inline object take(PySendResult outcome):
    cdef PyObject* raised
    if outcome != PYGEN_ERROR:
        return None
    raised = noria_take_exception()
    error = <object>raised
    Py_DECREF(error)
    return error


cdef Task new_task(Wheel wheel, object coro, object name, object context, bint eager):
    cdef Task task
    if not PyCoro_CheckExact(coro) and not asyncio.coroutines.iscoroutine(coro):
        raise TypeError(f"a coroutine was expected, got {coro!r}")
    task = Task.__new__(Task)
    task.begin(coro, wheel, name, context, eager)
    return task


cdef object current_of(Wheel wheel):
    # The task that runs on this loop, or None. Whoever changes asyncio's table hashes the loop, which publishes ours
    # there first: a task that is not published has nobody above it.
    cdef PyObject* current = wheel.current
    if current != NULL and current != wheel.published:
        return <object>current
    return current_tasks.get(wheel)


# all_tasks()

cdef list list_tasks(Wheel wheel):
    cdef list found = []
    cdef Link* link = wheel.tasks.after
    while link != &wheel.tasks:
        # A task that is just being destroyed is still linked while its weak references are cleared.
        # One that the garbage collector has cleared has no loop any more.
        if Py_REFCNT(link.owner) > 0 and (<Task>link.owner).loop is not None:
            found.append(<object>link.owner)
        link = link.after
    return found


cdef object wheels = weakref.WeakSet()


def add_wheel(wheel):
    """Let asyncio.all_tasks() see the tasks of this loop."""
    wheels.add(wheel)


class Registry(weakref.WeakSet):  # type: ignore[type-arg]
    """asyncio's set of scheduled tasks, with noria's added to it when it is looked at.

    The standard library asks this set, by name and from C, for the tasks of a loop. The one set that exists is
    made to answer for ours too (its class is changed in place, so every reference to it sees them).
    """

    def __iter__(self):
        found = list(super().__iter__())
        for wheel in list(wheels):
            found += list_tasks(<Wheel?>wheel)
        return iter(found)

    def __contains__(self, item):
        if isinstance(item, Task):
            return (<Task>item).place.before != NULL or super().__contains__(item)
        return super().__contains__(item)


def install_registry():
    scheduled = getattr(asyncio.tasks, "_scheduled_tasks", None)
    if scheduled is None:
        scheduled = asyncio.tasks._all_tasks  # 3.11
    if type(scheduled) is weakref.WeakSet:
        scheduled.__class__ = Registry


install_registry()


cdef extern from *:
    """
    #include "pool.h"
    NORIA_POOL(tasks, 128)
    """
    void tasks_pool(object type)

tasks_pool(Task)
