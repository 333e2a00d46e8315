"""Waiter: an operation to be awaited, in one object.

`await lock.acquire()` on the standard library makes a coroutine, its frame, a future, and callbacks between them.
Here it makes one object, which is the awaitable, its own iterator, and the future that the task waits for.

For a program it is a coroutine, though not of the type `types.CoroutineType`: `isinstance(w, Coroutine)` (of
collections.abc) and `asyncio.iscoroutine(w)` hold, `create_task(w)` works, it does nothing until it is awaited, can be
awaited once, and warns if it never was. For the task that it has suspended it is a future: noria's tasks store
themselves in it, others find asyncio's `_asyncio_future_blocking`, `add_done_callback` and the rest. So it also works
on other loops.

A subclass says what the operation does by three methods:

begin()         do it, or put yourself where somebody will find you and resolve() you (arm() first)
again()         you were resolved, or the turn you yielded is over: have you got what you want, or must you wait on?
dropped(error)  you are not wanted any more: the task was cancelled, or an error was thrown in. Leave the place
                where you waited. Usually answered by RAISE; WAIT goes on waiting (rearm() first)

Each answers with an Outcome. What they raise goes to whoever awaits. None of them runs before the waiter is awaited.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from noria.core.capi cimport PyErr_SetObject, noria_set_await, noria_stop_iteration
from noria.core.futures cimport FINISHED, PENDING, Future

import builtins
import warnings
from types import TracebackType

import asyncio.events

cdef object get_running_loop = asyncio.events.get_running_loop


cdef object running_loop():
    # The loop that runs in this thread. Raises RuntimeError if there is none.
    return get_running_loop()


cdef class Waiter(Future):
    """An operation to be awaited: a coroutine for the program, a future for the task that waits."""

    def __init__(self):
        raise TypeError(f"{type(self).__name__} cannot be made by calling its type")

    # What the operation does.

    cdef int begin(self) except -1:
        raise NotImplementedError

    cdef int again(self) except -1:
        return DONE

    cdef int dropped(self, object error) except -1:
        return RAISE

    cdef int arm(self, object loop) except -1:
        # Belong to a loop from now on: before the first WAIT.
        return self.attach(loop)

    cdef int rearm(self) except -1:
        # Pending again: before every later WAIT.
        self.state = PENDING
        self.value = None
        self.error = self.error_origin = None
        self.message = None
        self.unseen = False
        return 0

    cdef object give_up(self, object error):
        # An error comes in, by cancel() or from outside. Returns what to yield if there is more to wait for; raises
        # otherwise, StopIteration if the operation was completed nevertheless.
        cdef int outcome
        self.stage = OVER
        outcome = self.dropped(error)
        if outcome == RAISE:
            raise error
        if outcome == DONE:
            raise StopIteration(self.value)
        if outcome == YIELD:
            self.stage = YIELDED
            return None
        self.stage = WAITING
        self.blocking = True
        return self

    # A coroutine to the program.

    @property
    def __class__(self):
        return type(self)

    @property
    def __name__(self):
        return type(self).__name__

    @property
    def __qualname__(self):
        return type(self).__name__

    @property
    def cr_running(self):
        return False

    @property
    def cr_await(self):
        return self if self.stage == WAITING else None

    @property
    def _asyncio_future_blocking(self):
        # None: not a future yet, or no longer (see asyncio.isfuture)
        return self.blocking != 0 if self.stage == WAITING else None

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, value):
        self.check_alive()
        self.blocking = bool(value)

    def __repr__(self):
        if self.stage == WAITING:
            return Future.__repr__(self)
        return f"<coroutine object {self.__qualname__} at {<size_t><PyObject*>self:#x}>"

    def __del__(self):
        if self.stage == FRESH:
            self.stage = OVER
            message = f"coroutine '{self.__qualname__}' was never awaited"
            warnings.warn(message, RuntimeWarning, stacklevel=1, source=self)

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def send(self, value, /):
        """Go on. Returns what the task is to wait for; raises StopIteration with the result, or what went wrong."""
        if value is not None and self.stage == FRESH:
            raise TypeError("can't send non-None value to a just-started coroutine")
        return next(self)

    def throw(self, type, value=None, traceback=None, /):
        """Raise the exception where the operation waits. Returns and raises as `send`."""
        if value is not None or traceback is not None:
            warnings.warn(
                "the (type, exc, tb) signature of throw() is deprecated, use the single-arg signature instead.",
                DeprecationWarning, stacklevel=1)
        if traceback is not None and not isinstance(traceback, TracebackType):
            raise TypeError("throw() third argument must be a traceback")
        if isinstance(type, BaseException):
            if value is not None:
                raise TypeError("instance exception may not have a separate value")
            value = type
        elif value is None:
            value = type() if isinstance(type, builtins.type) else type
        elif not isinstance(value, BaseException):
            value = type(value)
        if not isinstance(value, BaseException):
            raise TypeError(f"exceptions must be classes or instances deriving from BaseException, not {type!r}")
        if traceback is not None:
            value = value.with_traceback(traceback)
        if self.stage == OVER:
            raise RuntimeError("cannot reuse already awaited coroutine")
        if self.stage == FRESH:
            self.stage = OVER
            raise value
        return self.give_up(value)

    def close(self):
        """Stop waiting; the operation is undone."""
        if self.stage == FRESH or self.stage == OVER:
            self.stage = OVER
            return
        try:
            self.give_up(GeneratorExit())
        except (GeneratorExit, StopIteration):
            return
        raise RuntimeError("coroutine ignored GeneratorExit")


# What `await` calls. Against the C API, so that results and cancellation travel without a frame or an entry in the
# traceback.

cdef PyObject* itself(PyObject* self) noexcept:
    Py_INCREF(<object>self)
    return self


cdef PyObject* go_on(PyObject* it) noexcept:
    cdef Waiter self = <Waiter>it
    cdef int outcome
    try:
        if self.stage == WAITING:
            if self.state == FINISHED and self.error is None:
                outcome = self.again()
            elif self.state == PENDING:
                raise RuntimeError("await wasn't used with future")
            else:
                back = self.give_up(self.ended_by())
                Py_INCREF(back)
                return <PyObject*>back
        elif self.stage == FRESH:
            outcome = self.begin()
        elif self.stage == YIELDED:
            outcome = self.again()
        else:
            raise RuntimeError("cannot reuse already awaited coroutine")
        if outcome == DONE:
            self.stage = OVER
            return noria_stop_iteration(<PyObject*>self.value)
        if outcome == YIELD:
            self.stage = YIELDED
            Py_INCREF(None)
            return <PyObject*>None
        self.stage = WAITING
        self.blocking = True
        Py_INCREF(self)
        return it
    except BaseException as error:
        self.stage = OVER
        PyErr_SetObject(type(error), error)
        return NULL


noria_set_await(Waiter, itself, go_on)
