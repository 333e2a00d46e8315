"""Future: the result of work that has not completed.

Promises what `asyncio.Future` of CPython 3.13 does, on every interpreter, on noria's loops and on foreign ones.

How it differs inside: on a noria loop a task that awaits is stored in the future itself and woken by pushing it to
the ready queue; there is no callback object, no handle and no bound method between the two. One callback or waiter
has a place of its own, since most futures have just one; a list takes the rest. A future is its own iterator:
awaiting allocates nothing.

`isinstance(f, asyncio.Future)` holds by `__class__`, which is how the language lets an object answer for a class
it does not inherit from (see PyObject_IsInstance).
"""

from cpython.object cimport PyObject, PyObject_GenericSetAttr
from cpython.ref cimport Py_DECREF, Py_INCREF
from types import GenericAlias, TracebackType

cimport cython

from noria.core.capi cimport (
    PyContext_CopyCurrent, PyErr_SetObject, PyException_SetTraceback,
    noria_set_await, noria_take_exception,
)
from noria.core.handles cimport new_handle
from noria.core.wheel cimport Ready, Wheel, push

cdef extern from "ending.h":
    PyObject* noria_ended_with(PyObject* value)
    int noria_endings_ready() except -1

noria_endings_ready()


cdef PyObject* ended_with(PyObject* value) noexcept:
    return noria_ended_with(value)


import asyncio.events
import asyncio.exceptions
import asyncio.futures
import reprlib
import sys
import warnings

from noria.core import _format

cdef object CancelledError = asyncio.exceptions.CancelledError
cdef object InvalidStateError = asyncio.exceptions.InvalidStateError
cdef object StandardFuture = asyncio.futures.Future  # as it was when nobody had substituted anything yet
cdef object WATCHES = object()  # in the place of a context
cdef tuple STATES = ("PENDING", "CANCELLED", "FINISHED")


cdef class BaseFuture(Ready):
    """All of a Future but its name. Not for use from Python.

    Waiters have it too, and are no futures to a program: whoever asks by isinstance is about to treat them as one.
    """

    def __init__(self, *, loop=None):
        if loop is None:
            loop = asyncio.events.get_event_loop()
        self.attach(loop)

    cdef int attach(self, object loop) except -1:
        self.loop = loop
        if isinstance(loop, Wheel):
            self.wheel = <Wheel>loop
            if self.wheel.debug:
                self.keep("_source_traceback", _format.extract_stack(sys._getframe(0)))
        elif loop.get_debug():
            self.keep("_source_traceback", _format.extract_stack(sys._getframe(0)))
        return 0

    cdef int check_alive(self) except -1:
        if self.loop is None:
            raise RuntimeError("Future object is not initialized.")
        return 0

    def __del__(self):
        if self.unseen and self.error is not None and self.loop is not None:
            self.unseen = False
            report = {
                "message": f"{type(self).__name__} exception was never retrieved",
                "exception": self.error,
                "future": self,
            }
            if self._source_traceback:
                report["source_traceback"] = self._source_traceback
            self.loop.call_exception_handler(report)

    # Attributes that programs hang on futures. Kept out of the way: nothing is allocated until one is set.

    def __getattr__(self, name):
        if self.extra is not None and name in self.extra:
            return self.extra[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'", name=name, obj=self)

    def __setattr__(self, name, value):
        try:
            PyObject_GenericSetAttr(self, name, value)
        except AttributeError:
            if hasattr(type(self), name):
                raise  # a read-only property
            if self.extra is None:
                self.extra = {}
            self.extra[name] = value

    cdef object kept(self, str name):
        # What `keep` kept, or None.
        return None if self.extra is None else self.extra.get(name)

    cdef int keep(self, str name, object value) except -1:
        # Of ours, under the name of the property that shows it.
        if value is not None:
            if self.extra is None:
                self.extra = {}
            self.extra[name] = value
        elif self.extra is not None:
            self.extra.pop(name, None)
        return 0

    def __delattr__(self, name):
        if self.extra is not None and name in self.extra:
            del self.extra[name]
        elif hasattr(type(self), name):
            raise AttributeError(f"cannot delete attribute {name!r} of {type(self).__name__!r} objects")
        else:
            self.__getattr__(name)  # which says that there is none

    # What asyncio's duck typing and its reports look at.

    @property
    def __class__(self):
        return StandardFuture

    @property
    def _asyncio_future_blocking(self):
        return self.blocking != 0

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, value):
        self.check_alive()
        self.blocking = bool(value)

    @property
    def _state(self):
        return STATES[self.state]

    @property
    def _result(self):
        return self.value

    @property
    def _exception(self):
        return self.error

    @property
    def _loop(self):
        return self.loop

    @property
    def _callbacks(self):
        cdef list found = []
        if self.first is not None:
            found.append((self.shown(self.first, self.first_context), self.first_context))
        if self.rest is not None:
            found += [(self.shown(callback, context), context) for callback, context in self.rest]
        return found or None

    cdef object shown(self, object callback, object context):
        if context is None:
            return callback._wakeup
        return callback._told if context is WATCHES else callback

    @property
    def _log_traceback(self):
        return self.unseen != 0

    @_log_traceback.setter
    def _log_traceback(self, value):
        if value:
            raise ValueError("_log_traceback can only be set to False")
        self.unseen = False

    @property
    def _source_traceback(self):
        return self.kept("_source_traceback")

    @property
    def _cancel_message(self):
        return self.kept("_cancel_message")

    @_cancel_message.setter
    def _cancel_message(self, value):
        self.keep("_cancel_message", value)

    def _make_cancelled_error(self):
        """The CancelledError to raise: the one that ended the task if there is one, else a new one."""
        return self.cancelled_error()

    def _repr_info(self):
        cdef list info = [STATES[self.state].lower()]
        if self.state == FINISHED:
            if self.error is not None:
                info.append(f"exception={self.error!r}")
            else:
                # reprlib and not repr: the result may be huge.
                info.append(f"result={reprlib.repr(self.value)}")
        callbacks = self._callbacks
        if callbacks:
            shown = [_format.callback(c, (), False) for c, _ in callbacks]
            if len(shown) > 2:
                shown[1:-1] = [f"<{len(shown) - 2} more>"]
            info.append(f"cb=[{', '.join(shown)}]")
        trace = self.kept("_source_traceback")
        if trace:
            frame = trace[-1]  # by name: frame[0] reads the source, which fails while the interpreter ends
            info.append(f"created at {frame.filename}:{frame.lineno}")
        return info

    def __repr__(self):
        return _format.future(self)

    # The public interface.

    def get_loop(self):
        """The event loop this future belongs to."""
        self.check_alive()
        return self.loop

    def done(self):
        """Whether it has a result or an exception, or was cancelled."""
        return self.state != PENDING

    def cancelled(self):
        """Whether it was cancelled."""
        return self.state == CANCELLED

    def result(self):
        """The result.

        Raises the exception if that was set, CancelledError if cancelled, InvalidStateError if not done yet.
        """
        return self.outcome()

    def exception(self):
        """The exception that was set, or None.

        Raises CancelledError if cancelled, InvalidStateError if not done yet.
        """
        if self.state == CANCELLED:
            raise self.cancelled_error()
        if self.state == PENDING:
            raise InvalidStateError("Exception is not set.")
        self.unseen = False
        if self.error is not None:
            PyException_SetTraceback(self.error, self.error_origin)
        return self.error

    def set_result(self, result, /):
        """Mark as done with this result and wake who waits. Raises InvalidStateError if already done."""
        self.check_alive()
        self.resolve(result)

    def set_exception(self, exception, /):
        """Mark as done with this exception (an instance or a class). Raises InvalidStateError if already done,
        TypeError if it is no exception."""
        self.check_alive()
        self.fail(exception)

    def cancel(self, msg=None):
        """Cancel and wake who waits with CancelledError(msg). Returns False if it was done already."""
        self.check_alive()
        return self.stop(msg)

    def add_done_callback(self, fn, /, *, context=None):
        """Call fn(self) by the loop, in context (default: a copy of the current one), when done or soon if it is."""
        self.check_alive()
        if not callable(fn):
            raise TypeError(f"a callable object was expected by add_done_callback(), got {fn!r}")
        self.on_done(fn, PyContext_CopyCurrent() if context is None else context)

    def remove_done_callback(self, fn, /):
        """Remove every registration of fn; returns how many there were."""
        cdef Py_ssize_t removed = 0
        self.check_alive()
        # Comparing runs the program's code, which may add and remove callbacks itself: first find out, then remove what
        # was found, by identity, from what is there then.
        gone = []
        if self.first is not None:
            held, context = self.first, self.first_context
            if self.shown(held, context) == fn and self.first is held and self.first_context is context:
                self.first = self.first_context = None
                removed = 1
        for entry in list(self.rest or ()):
            if self.shown(entry[0], entry[1]) == fn:
                gone.append(entry)
        if gone and self.rest is not None:
            kept = [entry for entry in self.rest if not any(entry is other for other in gone)]
            removed += len(self.rest) - len(kept)
            self.rest = kept or None
        if self.first is None and self.rest is not None:
            self.first, self.first_context = self.rest.pop(0)
            if not self.rest:
                self.rest = None
        return removed

    # Awaiting.

    # `await` takes the type's slot, which gives the future itself (see the end of the module);
    # whoever calls these by name gets an iterator with a generator's methods.

    def __await__(self):
        return new_iter(self)

    def __iter__(self):
        return new_iter(self)

    # Inside.

    cdef int run(self) except -1:
        raise SystemError("a future is nothing to run")

    cdef int wait_by(self, Ready task) except -1:
        # A native task of the same loop waits.
        if self.state != PENDING:
            push(self.wheel, task)
        elif self.first is None:
            self.first = task
        elif self.rest is None:
            self.rest = [(task, None)]
        else:
            self.rest.append((task, None))
        return 0

    cdef int on_done(self, object callback, object context) except -1:
        if self.state != PENDING:
            self.wake(callback, context)
        elif self.first is None:
            self.first = callback
            self.first_context = context
        elif self.rest is None:
            self.rest = [(callback, context)]
        else:
            self.rest.append((callback, context))
        return 0

    cdef int watch(self, Ready watcher) except -1:
        # Tell a compiled object when done: no callback, no handle, and nothing queued but what it queues itself.
        # For futures of noria's loops. Shown as the watcher's method `_told`.
        return self.on_done(watcher, WATCHES)

    cdef int unwatch(self, Ready watcher) except -1:
        cdef Py_ssize_t i
        if self.first is watcher and self.first_context is WATCHES:
            if self.rest is None:
                self.first = self.first_context = None
            else:
                self.first, self.first_context = self.rest.pop(0)
                if not self.rest:
                    self.rest = None
        elif self.rest is not None:
            for i in range(len(self.rest)):
                if (<tuple>self.rest[i])[0] is watcher and (<tuple>self.rest[i])[1] is WATCHES:
                    del self.rest[i]
                    break
            if not self.rest:
                self.rest = None
        return 0

    cdef int wake(self, object callback, object context) except -1:
        if self.wheel is None:
            self.loop.call_soon(callback, self, context=context)
            return 0
        if self.wheel.shut:
            self.wheel.check_open()
        if self.wheel.debug:
            self.wheel.check_thread()
        if context is None:
            push(self.wheel, <Ready>callback)
        elif context is WATCHES:
            (<Ready>callback).told(self)
        else:
            push(self.wheel, new_handle(self.wheel, callback, self, True, context))
        return 0

    cdef int finish(self) except -1:
        # The state has just left PENDING: hand everyone who waits to the loop, in the order they came.
        cdef object callback = self.first
        cdef object context = self.first_context
        cdef list rest = self.rest
        if callback is None:
            return 0
        self.first = None
        self.first_context = None
        self.rest = None
        self.wake(callback, context)
        if rest is not None:
            for entry in rest:
                self.wake((<tuple>entry)[0], (<tuple>entry)[1])
        return 0

    cdef int resolve(self, object value) except -1:
        if self.state != PENDING:
            raise InvalidStateError(f"invalid state: {self!r}")
        self.value = value
        self.state = FINISHED
        return self.finish()

    cdef int fail(self, object error) except -1:
        if self.state != PENDING:
            raise InvalidStateError(f"invalid state: {self!r}")
        if isinstance(error, type):
            error = error()
        if isinstance(error, StopIteration):
            # A generator would take it for the end of what it awaits (CPython gh-112182).
            raised = RuntimeError("StopIteration interacts badly with generators and cannot be raised into a Future")
            raised.__cause__ = error
            raised.__context__ = error
            error = raised
        if not isinstance(error, BaseException):
            raise TypeError("invalid exception object: an exception instance or class is needed, "
                            f"got {type(error).__name__}")
        self.error = error
        self.error_origin = error.__traceback__
        self.state = FINISHED
        self.unseen = True
        return self.finish()

    cdef bint stop(self, object message) except -1:
        self.unseen = False
        if self.state != PENDING:
            return False
        self.state = CANCELLED
        self.keep("_cancel_message", message)
        self.finish()
        return True

    cdef object outcome(self):
        if self.state == FINISHED:
            if self.error is None:
                return self.value
            self.unseen = False
            PyException_SetTraceback(self.error, self.error_origin)
            raise self.error
        if self.state == CANCELLED:
            raise self.cancelled_error()
        raise InvalidStateError("Result is not set.")

    cdef object ended_by(self):
        # The error that awaiting would raise, or None.
        if self.state == CANCELLED:
            return self.cancelled_error()
        if self.error is not None:
            self.unseen = False
        return self.error

    cdef object cancelled_error(self):
        error = self.error_origin if self.state == CANCELLED else None  # asyncio.gather also asks others
        if error is not None:
            self.error_origin = None  # no cycle through the traceback
        else:
            message = self.kept("_cancel_message")
            error = CancelledError() if message is None else CancelledError(message)
        return error


cdef object thrown(object kind, object value, object traceback):
    # The exception that a generator's throw() was given, in its one-argument form or in its three-argument one.
    if value is not None or traceback is not None:
        warnings.warn(
            "the (type, exc, tb) signature of throw() is deprecated, use the single-arg signature instead.",
            DeprecationWarning, stacklevel=1)
    if traceback is not None and not isinstance(traceback, TracebackType):
        raise TypeError("throw() third argument must be a traceback")
    if isinstance(kind, BaseException):
        if value is not None:
            raise TypeError("instance exception may not have a separate value")
        value = kind
    elif value is None:
        value = kind() if isinstance(kind, type) else kind
    elif not isinstance(value, BaseException):
        value = kind(value)
    if not isinstance(value, BaseException):
        raise TypeError(f"exceptions must be classes or instances deriving from BaseException, not {kind!r}")
    return value if traceback is None else value.with_traceback(traceback)


@cython.internal
cdef class FutureIter:
    """What `future.__await__()` returns: for code that drives awaitables by hand."""
    cdef BaseFuture future

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value, /):
        """Go on: the future itself if it is not done, else StopIteration with its result, or its exception."""
        cdef PyObject* step
        cdef PyObject* raised
        cdef BaseFuture future = self.future
        if future is None:
            raise StopIteration
        step = proceed(<PyObject*>future)
        if step != NULL:
            Py_DECREF(future)
            return future
        if future.state != PENDING:
            self.future = None
        raised = noria_take_exception()
        if raised == NULL:
            raise StopIteration
        error = <object>raised
        Py_DECREF(error)
        raise error

    def throw(self, type, value=None, traceback=None, /):
        """Raise the exception; the future is let go."""
        self.future = None
        raise thrown(type, value, traceback)

    def close(self):
        """Let the future go."""
        self.future = None


cdef object new_iter(BaseFuture future):
    cdef FutureIter it = FutureIter.__new__(FutureIter)
    future.check_alive()
    it.future = future
    return it


cdef PyObject* itself(PyObject* self) noexcept:
    if (<BaseFuture>self).loop is None:
        error = RuntimeError("Future object is not initialized.")
        PyErr_SetObject(RuntimeError, error)
        return NULL
    Py_INCREF(<object>self)
    return self


# What `await` calls at every turn. Written against the C API, so that the result travels without a Python frame.
cdef PyObject* proceed(PyObject* it) noexcept:
    cdef BaseFuture self = <BaseFuture>it
    if self.state == FINISHED:
        if self.error is None:
            return noria_ended_with(<PyObject*>self.value)
        self.unseen = False
        PyException_SetTraceback(self.error, self.error_origin)
        PyErr_SetObject(type(self.error), self.error)
        return NULL
    if self.state == CANCELLED:
        error = self.cancelled_error()
        PyErr_SetObject(type(error), error)
        return NULL
    if self.blocking:
        # Whoever drives the coroutine looked away: it took the future and did not wait for it.
        error = RuntimeError("await wasn't used with future")
        PyErr_SetObject(type(error), error)
        return NULL
    self.blocking = True
    Py_INCREF(self)
    return <PyObject*>self


cdef class Future(BaseFuture):
    """Future(*, loop=None)\n--

    The result of work that has not completed. Made by `loop.create_future()`.

    loop: the event loop it belongs to; by default the one that runs.

    Source: asyncio.Future.
    """

    __class_getitem__ = classmethod(GenericAlias)


noria_set_await(BaseFuture, itself, proceed)
noria_set_await(Future, itself, proceed)


cdef extern from *:
    """
    #include "pool.h"
    NORIA_POOL(futures, 128)
    """
    void futures_pool(object type)

futures_pool(Future)
