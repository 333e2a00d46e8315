# CPython's C API as the core uses it: with plain PyObject pointers where an error must not become an exception here.
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT

    PySendResult PyIter_Send(PyObject* it, PyObject* arg, PyObject** result)
    PyObject* PyObject_Vectorcall(PyObject* f, PyObject** args, size_t nargs, PyObject* names)
    PyObject* PyObject_CallMethodOneArg(PyObject* obj, PyObject* name, PyObject* arg)
    PyObject* PyObject_CallMethodNoArgs(PyObject* obj, PyObject* name)
    PyObject* PyObject_VectorcallMethod(PyObject* name, PyObject** args, size_t nargs, PyObject* names)
    PyObject* PyTuple_GET_ITEM(PyObject* t, Py_ssize_t i)
    Py_ssize_t PyTuple_GET_SIZE(PyObject* t)
    object PyContext_CopyCurrent()
    int PyContext_Enter(PyObject* ctx)
    int enter_context "PyContext_Enter"(PyObject* ctx) except -1
    int PyContext_Exit(PyObject* ctx)
    bint PyContext_CheckExact(object o)
    bint PyCoro_CheckExact(object o)
    bint PyGen_CheckExact(object o)
    int PyErr_CheckSignals() except -1
    void PyErr_Clear()
    void PyErr_SetNone(object t)
    PyObject* PyErr_Occurred()
    int PyErr_ExceptionMatches(object t)
    void PyException_SetTraceback(object e, object tb)
    object PyException_GetTraceback(object e)
    void PyErr_SetObject(object t, object v)
    Py_ssize_t Py_REFCNT(PyObject* o)
    int Py_EnterRecursiveCall(const char* where) except 1  # what it returns on each of 3.11 to 3.13
    void Py_LeaveRecursiveCall()
    unsigned long PyThread_get_thread_ident()
    void PyObject_GC_UnTrack(object o)

cdef extern from "Python.h":
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET

cdef extern from "compat.h":
    PyObject* noria_take_exception()
    void noria_restore_exception(PyObject* exc)
    double noria_monotonic() nogil
    uint64_t noria_ticks() nogil
    uint64_t NORIA_SLICE
    void noria_set_await(object type, PyObject* (*itself)(PyObject*) noexcept, PyObject* (*next)(PyObject*) noexcept)
    void noria_forget_dict(object self)
    void noria_let_be_patched(object type)
    PyObject* noria_referent(object ref)
