from noria.sync.lines cimport Line, LoopBound, Parked
from noria.sync.locks cimport Event

cdef class Queue(LoopBound):
    cdef Line getters
    cdef Line putters
    cdef list ring               # the items, from `head` on and round; None until the first is put
    cdef Py_ssize_t head
    cdef Py_ssize_t count        # of items in the ring
    cdef object store            # None, or a container instead of the ring: another kind of queue, or a program looked
    cdef object given            # maxsize
    cdef Py_ssize_t limit        # what it means: 0 for none
    cdef Py_ssize_t unfinished
    cdef Event finished          # set while nothing is unfinished; made when somebody asks
    cdef bint ended              # shutdown() was called
    cdef bint plain              # no method that awaiting calls is overridden

    cdef Py_ssize_t length(self) except -1
    cdef int store_item(self, object item) except -1
    cdef object take_item(self)
    cdef int grow(self) except -1
    cdef bint nothing_left(self) except -1
    cdef bint is_empty(self) except -1
    cdef bint is_full(self) except -1
    cdef int put_now(self, object item) except -1
    cdef object get_now(self)
    cdef Event finish_line(self)

cdef class PriorityQueue(Queue):
    pass

cdef class LifoQueue(Queue):
    pass
