from noria.net.stream cimport StreamTransport

cdef class PipeTransport(StreamTransport):
    cdef dict __dict__           # programs set attributes on asyncio's
    cdef object pipe             # the file object that owns the descriptor
    cdef object duplicated       # the descriptor is our own second one of the same file

    cdef int adopt(self, object loop, object pipe, object protocol, str refusal) except -1
    cdef int watch(self) except -1

cdef class ReadPipeTransport(PipeTransport):
    cdef bint always             # a device that can be read at any time, which epoll(7) does not watch
    cdef bint due                # we are in the ready queue to read from such a one

cdef class WritePipeTransport(PipeTransport):
    cdef bint one_way            # the kernel can tell us that the reader has gone
