from cpython.object cimport Py_TYPE, PyObject, PyTypeObject

from noria.core.wheel cimport Ready, Wheel

cdef enum State:
    PENDING
    CANCELLED
    FINISHED

# All that a future is, for those who are one and for those who only can be waited for like one (waits.pxd).
cdef class BaseFuture(Ready):
    cdef Wheel wheel             # None on a foreign loop
    cdef object loop             # None before __init__
    cdef object value            # the result; meaningless before FINISHED
    cdef object error            # the exception instance, if that is how it ended
    cdef object error_origin     # its traceback as it was then; in a cancelled task the CancelledError that ended it
    cdef object first            # first callback, or the first task waiting if first_context is None
    cdef object first_context
    # the others: (callback, context); context None marks a waiting task, WATCHES a compiled object that is told
    cdef list rest
    cdef dict extra              # attributes that programs set; also what hardly any future has (`keep`)
    cdef object __weakref__
    # char, not bint, which is an int; and those of subclasses among them, since a subclass's own fields begin at a
    # multiple of eight: a task and a waiter are 8 bytes smaller
    cdef char state
    cdef char blocking           # yielded to a task that has not yet looked at it
    cdef char unseen             # has an exception nobody asked for
    cdef char must_cancel        # Task: throw CancelledError in at the next step
    cdef char log_destroy        # Task: report it if it is dropped before its end
    cdef char stage              # Waiter

    cdef int attach(self, object loop) except -1
    cdef int check_alive(self) except -1
    cdef object kept(self, str name)
    cdef int keep(self, str name, object value) except -1
    cdef int wait_by(self, Ready task) except -1
    cdef int on_done(self, object callback, object context) except -1
    cdef int watch(self, Ready watcher) except -1
    cdef int unwatch(self, Ready watcher) except -1
    cdef int finish(self) except -1
    cdef int wake(self, object callback, object context) except -1
    cdef int resolve(self, object value) except -1
    cdef int fail(self, object error) except -1
    cdef bint stop(self, object message) except -1
    cdef object outcome(self)
    cdef object cancelled_error(self)
    cdef object ended_by(self)
    cdef object shown(self, object callback, object context)


cdef class Future(BaseFuture):
    pass


cdef PyObject* ended_with(PyObject* value) noexcept
cdef object thrown(object kind, object value, object traceback)
cdef object new_iter(BaseFuture future)


cdef extern from "Python.h":
    unsigned long Py_TPFLAGS_HEAPTYPE
    unsigned long PyType_GetFlags(PyTypeObject* type)


cdef inline bint is_native(object o) noexcept:
    # A future, or a waiter, of ours and of a compiled class: nothing that a program can have overridden.
    return isinstance(o, BaseFuture) and not PyType_GetFlags(Py_TYPE(o)) & Py_TPFLAGS_HEAPTYPE
