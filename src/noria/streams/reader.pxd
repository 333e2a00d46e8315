from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

cdef class StreamReader:
    cdef public object _loop
    cdef public object _transport
    cdef public object _exception
    cdef public object _waiter   # a Reading, or what a program put there
    cdef object source_tb
    cdef object given            # the limit, as it was given
    cdef dict __dict__           # attributes that programs set
    cdef object __weakref__
    # What came and was not read are the bytes from `start` to `end` of a bytes object; NULL when there is nothing.
    cdef PyObject* store
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    cdef uint64_t taken          # bytes read since the beginning
    cdef Py_ssize_t limit
    cdef char shared             # others know the store: it must not change
    cdef char eof
    cdef char paused             # we paused the transport
    cdef char plain              # no subclass of a program's changes how data comes in
    cdef char plain_lines        # nor how lines are read

    cdef int take_in(self, const char* data, Py_ssize_t n) except -1
    cdef int take_whole(self, bytes data) except -1
    cdef int append(self, const char* data, Py_ssize_t n) except -1
    cdef int grow(self, Py_ssize_t n) except -1
    cdef int came(self) except -1
    cdef int wake(self) except -1
    cdef int end_stream(self) except -1
    cdef int fail(self, object error) except -1
    cdef int resume(self) except -1
    cdef bytes take(self, Py_ssize_t n)
    cdef int drop(self, Py_ssize_t n) noexcept
