/* A small stock of freed objects of one exact type, to be used again without the allocator and without counting towards
   the next garbage collection. Handles and tasks come and go by the million, a few at a time.

   NORIA_POOL(name, size) defines name_pool(type), which puts the pool behind the type's tp_alloc and tp_free.
   Subclasses made in Python have slots of their own and never come here; compiled ones inherit these slots and
   are told apart by their type. Switched off in sanitizer builds, which are to see every free. */
#ifndef NORIA_POOL_H
#define NORIA_POOL_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define NORIA_POOL(NAME, SIZE) static void NAME##_pool(PyObject *type) { (void)type; }
#else
/* The two words in front of an object hold its garbage collector links (PyGC_Head, pycore_gc.h, 3.11 to 3.13): zero when
   untracked; the second keeps the "finalized" mark, which a new life must not inherit. */
#define NORIA_POOL(NAME, SIZE) \
    static PyTypeObject *NAME##_type; \
    static PyObject *NAME##_stock[SIZE]; \
    static int NAME##_count; \
    static PyObject *NAME##_alloc(PyTypeObject *type, Py_ssize_t items) { \
        PyObject *o; \
        if (type != NAME##_type || NAME##_count == 0) return PyType_GenericAlloc(type, items); \
        o = NAME##_stock[--NAME##_count]; \
        memset((char *)o + sizeof(PyObject), 0, (size_t)type->tp_basicsize - sizeof(PyObject)); \
        ((uintptr_t *)o)[-1] = ((uintptr_t *)o)[-2] = 0; \
        PyObject_Init(o, type); \
        PyObject_GC_Track(o); \
        return o; \
    } \
    static void NAME##_free(void *p) { \
        PyObject *o = (PyObject *)p; \
        if (Py_TYPE(o) == NAME##_type && NAME##_count < SIZE && !PyObject_GC_IsTracked(o)) \
            NAME##_stock[NAME##_count++] = o; \
        else \
            PyObject_GC_Del(o); \
    } \
    static void NAME##_pool(PyObject *type) { \
        NAME##_type = (PyTypeObject *)type; \
        NAME##_type->tp_alloc = NAME##_alloc; \
        NAME##_type->tp_free = NAME##_free; \
    }
#endif

/* A stock of waiters of one exact type that are over. They are kept whole, their fields emptied, so that using one again
   is cheaper still than taking it from a pool: no constructors, no chain of deallocators.

   NORIA_STOCK(name, size) defines name_stock(type, empty), which puts the stock behind the type's tp_dealloc, and
   name_new(), which takes an object from it or makes one. `empty(o)` empties one and returns 1, or returns 0 if it must
   die the ordinary way. */
#if defined(__SANITIZE_ADDRESS__)
#define NORIA_STOCK(NAME, SIZE) \
    static PyTypeObject *NAME##_type; \
    static PyObject *NAME##_none; \
    static void NAME##_stock(PyObject *type, int (*empty)(PyObject *)) { \
        (void)empty; \
        NAME##_type = (PyTypeObject *)type; \
        NAME##_none = PyTuple_New(0); \
    } \
    static PyObject *NAME##_new(void) { return NAME##_type->tp_new(NAME##_type, NAME##_none, NULL); }
#else
#define NORIA_STOCK(NAME, SIZE) \
    static PyTypeObject *NAME##_type; \
    static PyObject *NAME##_none; \
    static destructor NAME##_plain; \
    static int (*NAME##_empty)(PyObject *); \
    static PyObject *NAME##_kept[SIZE]; \
    static int NAME##_count, NAME##_busy; \
    static void NAME##_dealloc(PyObject *o) { \
        /* emptying may run anything, and more of them may end meanwhile: each has its place reserved */ \
        if (NAME##_count + NAME##_busy < SIZE && Py_TYPE(o) == NAME##_type && !PyObject_GC_IsFinalized(o) && \
                *(PyObject **)((char *)o + NAME##_type->tp_weaklistoffset) == NULL) { \
            int empty; \
            Py_SET_REFCNT(o, 1); \
            NAME##_busy++; \
            empty = NAME##_empty(o); \
            NAME##_busy--; \
            if (empty) { \
                NAME##_kept[NAME##_count++] = o; \
                return; \
            } \
            Py_SET_REFCNT(o, 0); \
        } \
        /* Cython's deallocator leaves this out when it is not its type's own */ \
        if (Py_TYPE(o) == NAME##_type && !PyObject_GC_IsFinalized(o) && PyObject_CallFinalizerFromDealloc(o) < 0) return; \
        NAME##_plain(o); \
    } \
    static void NAME##_stock(PyObject *type, int (*empty)(PyObject *)) { \
        NAME##_type = (PyTypeObject *)type; \
        NAME##_none = PyTuple_New(0); \
        NAME##_empty = empty; \
        NAME##_plain = NAME##_type->tp_dealloc; \
        NAME##_type->tp_dealloc = NAME##_dealloc; \
    } \
    static PyObject *NAME##_new(void) { \
        PyObject *o; \
        if (NAME##_count == 0) return NAME##_type->tp_new(NAME##_type, NAME##_none, NULL); \
        o = NAME##_kept[--NAME##_count]; \
        PyObject_GC_Track(o); \
        return o; \
    }
#endif

#endif
