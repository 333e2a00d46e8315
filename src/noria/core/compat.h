/* The few C-level conveniences that Cython does not spell: taking and restoring the pending exception on each
   supported interpreter, and a cheap clock. */
#ifndef NORIA_COMPAT_H
#define NORIA_COMPAT_H

#include <Python.h>
#include <stdint.h>
#include <time.h>

/* Remove the pending exception and return it, with its traceback attached (a new reference; NULL if none). */
static inline PyObject *noria_take_exception(void) {
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *tb;
    PyErr_Fetch(&type, &value, &tb);
    if (type == NULL) return NULL;
    PyErr_NormalizeException(&type, &value, &tb);
    if (tb != NULL) PyException_SetTraceback(value, tb);
    Py_XDECREF(type);
    Py_XDECREF(tb);
    return value;
#endif
}

/* Make exc the pending exception again, untouched. Does not steal the reference. */
static inline void noria_restore_exception(PyObject *exc) {
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(Py_NewRef(exc));
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exc)), Py_NewRef(exc), PyException_GetTraceback(exc));
#endif
}

static inline double noria_monotonic(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* A counter for "has something like a millisecond gone by": a hundredth of the cost of a step, so it can be read
   every turn. On x86 the time stamp counter, 1 to 5 ticks a nanosecond; elsewhere nanoseconds. NORIA_SLICE is
   therefore 0.2 to 1 ms. Never used to tell the time. */
#if defined(__x86_64__)
#include <x86intrin.h>
static inline uint64_t noria_ticks(void) { return __rdtsc(); }
#else
static inline uint64_t noria_ticks(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
#endif
#define NORIA_SLICE 1000000u

/* An object whose type has a `cdef dict __dict__` is born with an empty one. Without it methods are found faster, and 64
   bytes are saved; it is made anew when a program sets an attribute. */
static inline void noria_forget_dict(PyObject *self) {
    PyObject **dict = (PyObject **)((char *)self + Py_TYPE(self)->tp_dictoffset);
    Py_CLEAR(*dict);
}

/* What a weak reference refers to: a new reference; NULL, without an exception, if that is gone. */
static inline PyObject *noria_referent(PyObject *ref) {
    PyObject *found;
#if PY_VERSION_HEX >= 0x030D0000
    PyWeakref_GetRef(ref, &found);
    return found;
#else
    found = PyWeakref_GET_OBJECT(ref);
    return found == Py_None ? NULL : Py_NewRef(found);
#endif
}

/* What `await` calls: `self` for the iterator, `next` for its turns. The method __await__ that the type shows keeps
   Cython's function, for those who call it by name. */
static inline void noria_set_await(PyObject *type, unaryfunc self, iternextfunc next) {
    PyTypeObject *t = (PyTypeObject *)type;
    t->tp_as_async->am_await = self;
    t->tp_iternext = next;
}

/* Let programs replace methods of a compiled class, as they can of asyncio's classes that are written in Python: tests do,
   with mock.patch. Types that are compiled are immutable only for want of somebody who would say otherwise. */
static inline void noria_let_be_patched(PyObject *type) {
    ((PyTypeObject *)type)->tp_flags &= ~Py_TPFLAGS_IMMUTABLETYPE;
}

#endif
