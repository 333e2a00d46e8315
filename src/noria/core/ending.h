/* The StopIteration by which an await gets its result: taken from a small stock.

   `await` asks an iterator in C for its next item, and gets the result by an exception that it takes apart at once. This
   is how most awaits end, and making the exception is the most expensive part of it: an object of the garbage
   collector's, a tuple for `args`, and both freed again. Here it is a type of our own, below StopIteration in all
   respects, whose objects are kept when nothing but the value was in them. The tuple is made only for a program that looks
   at the exception. */
#ifndef NORIA_ENDING_H
#define NORIA_ENDING_H

#include <Python.h>
#include "compat.h"

static PyTypeObject noria_ending_type;
static destructor noria_ending_plain;
static PyObject *noria_no_args;
static PyStopIterationObject *noria_endings[16];
static int noria_ending_count;

static void noria_ending_dealloc(PyObject *o) {
#if !defined(__SANITIZE_ADDRESS__) /* which is to see every free */
    PyStopIterationObject *stop = (PyStopIterationObject *)o;
    if (noria_ending_count < 16 && stop->dict == NULL && stop->notes == NULL && stop->traceback == NULL &&
            stop->context == NULL && stop->cause == NULL && stop->args == noria_no_args) {
        PyObject *value = stop->value;
        PyObject_GC_UnTrack(o);
        stop->value = NULL;
        noria_endings[noria_ending_count++] = stop;
        Py_XDECREF(value); /* last: it may run anything, and end others of these */
        return;
    }
#endif
    noria_ending_plain(o);
}

/* What a program sees of it is what StopIteration(value) shows. */

static int noria_ending_fill(PyStopIterationObject *stop) {
    PyObject *args;
    if (stop->args != noria_no_args || stop->value == NULL) return 0;
    args = PyTuple_Pack(1, stop->value);
    if (args == NULL) return -1;
    Py_SETREF(stop->args, args);
    return 0;
}

static PyObject *noria_ending_args(PyObject *o, void *unused) {
    (void)unused;
    if (noria_ending_fill((PyStopIterationObject *)o) < 0) return NULL;
    return Py_NewRef(((PyStopIterationObject *)o)->args);
}

static int noria_ending_set_args(PyObject *o, PyObject *value, void *unused) {
    PyObject *args;
    (void)unused;
    if (value == NULL) {
        PyErr_SetString(PyExc_TypeError, "args may not be deleted");
        return -1;
    }
    args = PySequence_Tuple(value);
    if (args == NULL) return -1;
    Py_SETREF(((PyStopIterationObject *)o)->args, args);
    return 0;
}

static PyObject *noria_ending_repr(PyObject *o) {
    if (noria_ending_fill((PyStopIterationObject *)o) < 0) return NULL;
    return ((PyTypeObject *)PyExc_StopIteration)->tp_repr(o);
}

static PyObject *noria_ending_str(PyObject *o) {
    if (noria_ending_fill((PyStopIterationObject *)o) < 0) return NULL;
    return ((PyTypeObject *)PyExc_StopIteration)->tp_str(o);
}

static PyObject *noria_ending_reduce(PyObject *o, PyObject *unused) {
    (void)unused;
    if (noria_ending_fill((PyStopIterationObject *)o) < 0) return NULL;
    return PyTuple_Pack(2, PyExc_StopIteration, ((PyStopIterationObject *)o)->args);
}

static PyGetSetDef noria_ending_getset[] = {
    {"args", noria_ending_args, noria_ending_set_args, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef noria_ending_methods[] = {
    {"__reduce__", noria_ending_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* End an iterator with a value, as a generator's return does. Returns NULL for the caller to return.
   None is signalled by NULL with no exception set (PEP 380 as CPython implements it). */
static PyObject *noria_ended_with(PyObject *value) {
    PyStopIterationObject *stop;
    if (value == Py_None) return NULL;
    if (noria_ending_count > 0) {
        stop = noria_endings[--noria_ending_count];
        PyObject_Init((PyObject *)stop, &noria_ending_type);
        PyObject_GC_Track(stop);
    } else {
        stop = (PyStopIterationObject *)noria_ending_type.tp_alloc(&noria_ending_type, 0);
        if (stop == NULL) return NULL;
        stop->args = Py_NewRef(noria_no_args);
    }
    stop->value = Py_NewRef(value);
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException((PyObject *)stop);
#else
    PyErr_Restore(Py_NewRef((PyObject *)&noria_ending_type), (PyObject *)stop, NULL);
#endif
    return NULL;
}

/* Called once, before the first await. Returns -1 with an exception if it fails. */
static int noria_endings_ready(void) {
    PyTypeObject *t = &noria_ending_type;
    PyTypeObject *base = (PyTypeObject *)PyExc_StopIteration;
    noria_no_args = PyTuple_New(0);
    if (noria_no_args == NULL) return -1;
    t->tp_name = "StopIteration";
    t->tp_base = base;
    t->tp_basicsize = base->tp_basicsize;
    t->tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC;
    t->tp_traverse = base->tp_traverse;
    t->tp_clear = base->tp_clear;
    t->tp_dealloc = noria_ending_dealloc;
    t->tp_repr = noria_ending_repr;
    t->tp_str = noria_ending_str;
    t->tp_getset = noria_ending_getset;
    t->tp_methods = noria_ending_methods;
    noria_ending_plain = base->tp_dealloc;
    return PyType_Ready(t);
}

#endif
