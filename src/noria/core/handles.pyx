"""Handle: a callback with its arguments and its context, as `call_soon` returns it.

Promises what `asyncio.Handle` does. Runs in its context; an error goes to the loop's exception handler, only
KeyboardInterrupt and SystemExit end the loop. Timers are in `timers`.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

from noria.core.capi cimport (
    PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit, PyObject_Vectorcall,
    PyTuple_GET_SIZE, noria_take_exception,
)
from noria.core.wheel cimport Ready, Wheel

import asyncio.events
import sys

from noria.core import _format

cdef tuple NOTHING = ()


cdef class Handle(Ready):
    """Handle(callback, args, loop, context=None)\n--

    A scheduled callback. Made by `loop.call_soon`; seldom by hand.

    Source: asyncio.Handle.
    """

    def __init__(self, callback, args, loop, context=None):
        cdef Wheel wheel = <Wheel>loop if isinstance(loop, Wheel) else None
        self.setup(wheel, callback, tuple(args), False, context)
        self.loop = loop
        if wheel is None and loop is not None and loop.get_debug():
            self.source_tb = _format.extract_stack(sys._getframe(0))

    cdef int setup(self, Wheel wheel, object callback, object args, bint single, object context) except -1:
        self.wheel = wheel
        self.loop = wheel
        self.callback = callback
        self.args = args
        self.single = single
        self.context = PyContext_CopyCurrent() if context is None else context
        if wheel is not None and wheel.debug:
            self.source_tb = _format.extract_stack(sys._getframe(0))
        return 0

    @property
    def __class__(self):
        # isinstance(handle, asyncio.Handle) holds without inheriting from it.
        return asyncio.events.Handle

    cdef tuple arguments(self):
        if self.args is None and not self.single:
            return NOTHING
        return (self.args,) if self.single else self.args

    cdef int run(self) except -1:
        cdef PyObject* result
        cdef PyObject* outer
        cdef PyObject* arg
        cdef object callback = self.callback
        cdef object args = self.args
        cdef object context = self.context
        cdef Wheel wheel = self.wheel
        cdef bint single = self.single  # cancel() may clear ours while the callback runs
        if self.stopped:
            return 0
        if PyContext_Enter(<PyObject*>context) < 0:
            return self.failed(callback, (args,) if single else args)
        outer = wheel.entered
        wheel.entered = <PyObject*>context
        if single:
            arg = <PyObject*>args
            result = PyObject_Vectorcall(<PyObject*>callback, &arg, 1, NULL)
        elif PyTuple_GET_SIZE(<PyObject*>args) == 0:
            result = PyObject_Vectorcall(<PyObject*>callback, NULL, 0, NULL)
        else:
            result = PyObject_Vectorcall(
                <PyObject*>callback, &(<PyObject**>items(<PyObject*>args))[0],
                PyTuple_GET_SIZE(<PyObject*>args), NULL,
            )
        if wheel.entered == <PyObject*>context:  # else a nested run could not give it back
            PyContext_Exit(<PyObject*>context)
        wheel.entered = outer
        if result == NULL:
            return self.failed(callback, (args,) if single else args)
        Py_DECREF(<object>result)
        return 0

    cdef int failed(self, object callback, tuple args) except -1:
        cdef PyObject* raised = noria_take_exception()
        exc = <object>raised
        Py_DECREF(exc)
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            raise exc
        return self.report(callback, args, exc)

    cdef int report(self, object callback, tuple args, object error) except -1:
        cdef dict context = {
            "message": "Exception in callback " + _format.callback(callback, args, self.loop.get_debug()),
            "exception": error,
            "handle": self,
        }
        if self.source_tb is not None:
            context["source_traceback"] = self.source_tb
        self.loop.call_exception_handler(context)
        return 0

    def _run(self):
        """Run the callback now. The loop calls this for nobody; it is here for those who drive handles by hand."""
        if self.wheel is None:
            callback, args = self.callback, self.arguments()
            if self.stopped:
                return
            try:
                self.context.run(callback, *args)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                self.report(callback, args, error)
        else:
            self.run()

    def cancel(self):
        """Cancel the callback. A second call, or one after it ran, does nothing."""
        self.revoke()

    cdef int revoke(self) except -1:
        if self.stopped:
            return 0
        self.stopped = True
        if self.wheel.debug if self.wheel is not None else self.loop.get_debug():
            self.text = repr(self)
        # Drop what the program gave us at once: a cancelled handle must not keep objects alive.
        self.callback = None
        self.args = None
        self.single = False
        return 0

    def cancelled(self):
        """Whether `cancel` was called."""
        return self.stopped

    def get_context(self):
        """The contextvars.Context the callback runs in."""
        return self.context

    def _repr_info(self):
        cdef list info = [type(self).__name__]
        if self.stopped:
            info.append("cancelled")
        if self.callback is not None:
            info.append(_format.callback(self.callback, self.arguments(), self.loop.get_debug()))
        if self.source_tb:
            frame = self.source_tb[-1]  # by name, as in Future._repr_info
            info.append(f"created at {frame.filename}:{frame.lineno}")
        return info

    def __repr__(self):
        if self.text is not None:
            return self.text
        return f"<{' '.join(self._repr_info())}>"

    @property
    def _callback(self):
        return self.callback

    @property
    def _args(self):
        return None if self.stopped else self.arguments()

    @property
    def _context(self):
        return self.context

    @property
    def _loop(self):
        return self.loop

    @property
    def _cancelled(self):
        return self.stopped

    @property
    def _source_traceback(self):
        return self.source_tb


cdef inline PyObject** items(PyObject* args):
    return <PyObject**>(&(<TupleItems*>args).ob_item[0])


cdef extern from "Python.h":
    ctypedef struct TupleItems "PyTupleObject":
        PyObject* ob_item[1]


cdef Handle new_handle(Wheel wheel, object callback, object args, bint single, object context):
    cdef Handle handle = Handle.__new__(Handle)
    handle.setup(wheel, callback, args, single, context)
    return handle


cdef extern from *:
    """
    #include "pool.h"
    NORIA_POOL(handles, 128)
    """
    void handles_pool(object type)

handles_pool(Handle)
