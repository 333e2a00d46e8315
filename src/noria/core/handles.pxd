from noria.core.wheel cimport Ready, Wheel

cdef class Handle(Ready):
    cdef Wheel wheel             # None when made for a foreign loop
    cdef object loop
    cdef object callback         # None once cancelled
    cdef object args             # a tuple, or the one argument itself if `single`
    cdef object context
    cdef object source_tb
    cdef object text             # debug mode: what a cancelled handle was
    cdef bint single
    cdef bint stopped            # cancel() was called
    cdef object __weakref__

    cdef int setup(self, Wheel wheel, object callback, object args, bint single, object context) except -1
    cdef int failed(self, object callback, tuple args) except -1
    cdef int report(self, object callback, tuple args, object error) except -1
    cdef int revoke(self) except -1
    cdef tuple arguments(self)

cdef Handle new_handle(Wheel wheel, object callback, object args, bint single, object context)
