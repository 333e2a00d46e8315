"""Waiter: an operation to be awaited, in one object.

`await lock.acquire()` on the standard library makes a coroutine, its frame, a future, and callbacks between them.
Here it makes one object, which is the awaitable, its own iterator, and the future that the task waits for.

For a program it is a coroutine: `inspect.iscoroutine(w)`, `isinstance(w, types.CoroutineType)` and
`asyncio.iscoroutine(w)` hold, the first two by `__class__`; `create_task(w)` works, it does nothing until it is
awaited, can be awaited once, and warns if it never was. It is no `Future` by isinstance. For the task that it has
suspended it is one all the same: noria's tasks store themselves in it, others find asyncio's
`_asyncio_future_blocking`, `add_done_callback` and the rest. So it also works on other loops.

A subclass says what the operation does by three methods:

begin()         do it, or put yourself where somebody will find you and resolve() you (arm() first)
again()         you were resolved, or the turn you yielded is over: have you got what you want, or must you wait on?
dropped(error)  you are not wanted any more: the task was cancelled, or an error was thrown in. Leave the place
                where you waited. Usually answered by RAISE; WAIT goes on waiting (rearm() first)

Each answers with an Outcome. What they raise goes to whoever awaits. None of them runs before the waiter is awaited.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from noria.core.capi cimport PyErr_SetObject, PyObject_GC_UnTrack, noria_set_await
from noria.core.futures cimport FINISHED, PENDING, BaseFuture, ended_with, new_iter, thrown

import warnings

import asyncio.events
from types import CoroutineType

from noria.core import _frames

cdef extern from *:
    """
    /* asyncio.get_running_loop is in C and takes nothing: called as what it is, it costs half. */
    static PyObject *running_loop_of;
    static PyCFunction running_loop_plainly;
    static void noria_find_running_loop(PyObject *function) {
        running_loop_of = function;
        if (PyCFunction_CheckExact(function) && PyCFunction_GET_FLAGS(function) == METH_NOARGS)
            running_loop_plainly = PyCFunction_GET_FUNCTION(function);
    }
    static inline PyObject *noria_running_loop(void) {
        if (running_loop_plainly != NULL)
            return running_loop_plainly(PyCFunction_GET_SELF(running_loop_of), NULL);
        return PyObject_CallNoArgs(running_loop_of);
    }
    """
    void noria_find_running_loop(object function)
    object noria_running_loop()

cdef object get_running_loop = asyncio.events.get_running_loop  # kept: the C code above borrows it
noria_find_running_loop(get_running_loop)


cdef object running_loop():
    # The loop that runs in this thread. Raises RuntimeError if there is none.
    return noria_running_loop()


cdef class Waiter(BaseFuture):
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
        self.keep("_cancel_message", None)
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

    cdef bint renew(self) noexcept:
        # For the stock (pool.h): empty it for another life. False if it is not over, or if programs have been at it.
        if self.stage != OVER or self.extra is not None:
            return False
        PyObject_GC_UnTrack(self)
        self.stage = FRESH
        self.value = None
        if self.loop is not None:
            self.state = PENDING
            self.blocking = self.unseen = False
            self.wheel = None
            self.loop = self.error = self.error_origin = self.first = self.first_context = self.rest = None
        return True

    # A coroutine to the program.

    @property
    def __class__(self):
        return CoroutineType

    @property
    def __name__(self):
        return self.__qualname__.rpartition(".")[2]

    @property
    def __qualname__(self):
        return type(self).__name__

    @property
    def cr_running(self):
        return False

    @property
    def cr_suspended(self):
        return self.stage == WAITING or self.stage == YIELDED

    @property
    def cr_frame(self):
        return None if self.stage == OVER else _frames.frame_of(self.__qualname__)

    @property
    def cr_code(self):
        return _frames.code_of(self.__qualname__)

    cr_origin = None

    @property
    def cr_await(self):
        # Not itself, though it is that: whoever follows these to the end would not come to one.
        return new_iter(self) if self.stage == WAITING else None

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
            return BaseFuture.__repr__(self)
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
        error = thrown(type, value, traceback)
        if self.stage == OVER:
            raise RuntimeError("cannot reuse already awaited coroutine")
        if self.stage == FRESH:
            self.stage = OVER
            raise error
        return self.give_up(error)

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


cdef class Done:
    """What a call that has nothing left to wait for returns: a coroutine that gives None, as often as it is awaited."""

    __name__ = __qualname__ = "done"
    cr_running = cr_suspended = False
    cr_await = cr_origin = cr_frame = None
    cr_code = _frames.code_of("done")

    @property
    def __class__(self):
        return CoroutineType

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def send(self, value, /):
        """Raises StopIteration."""
        raise StopIteration

    def throw(self, type, value=None, traceback=None, /):
        """Raise the exception."""
        raise thrown(type, value, traceback)

    def close(self):
        """Nothing to do."""


# What `await` calls. Against the C API, so that results and cancellation travel without a frame or an entry in the
# traceback.

cdef PyObject* itself(PyObject* self) noexcept:
    Py_INCREF(<object>self)
    return self


cdef PyObject* awaited(PyObject* self) noexcept:
    # A second `await` of what somebody waits for must not disturb him.
    if (<Waiter>self).stage == WAITING or (<Waiter>self).stage == YIELDED:
        error = RuntimeError("coroutine is being awaited already")
        PyErr_SetObject(RuntimeError, error)
        return NULL
    Py_INCREF(<object>self)
    return self


cdef int advance(Waiter self, PyObject** out) except -1:
    cdef int outcome
    if self.stage == WAITING:
        if self.state == FINISHED and self.error is None:
            outcome = self.again()
        elif self.state == PENDING:
            raise RuntimeError("await wasn't used with future")
        else:
            back = self.give_up(self.ended_by())
            Py_INCREF(back)
            out[0] = <PyObject*>back
            return 0
    elif self.stage == FRESH:
        outcome = self.begin()
    elif self.stage == YIELDED:
        outcome = self.again()
    else:
        raise RuntimeError("cannot reuse already awaited coroutine")
    if outcome == DONE:
        self.stage = OVER
        out[0] = ended_with(<PyObject*>self.value)
    elif outcome == YIELD:
        self.stage = YIELDED
        Py_INCREF(None)
        out[0] = <PyObject*>None
    else:
        self.stage = WAITING
        self.blocking = True
        Py_INCREF(self)
        out[0] = <PyObject*>self
    return 0


# The error stays where it is, for whoever called go_on: `try` costs as much as half of the rest.
ctypedef int (*Quiet)(Waiter, PyObject**) noexcept

cdef PyObject* go_on(PyObject* it) noexcept:
    cdef PyObject* out = NULL
    if (<Quiet>advance)(<Waiter>it, &out) < 0:
        (<Waiter>it).stage = OVER
        return NULL
    return out


cdef PyObject* nothing_more(PyObject* it) noexcept:
    return NULL  # without an exception: StopIteration(None)


noria_set_await(Waiter, awaited, go_on)
noria_set_await(Done, itself, nothing_more)
done = Done.__new__(Done)
