from noria.core.wheel cimport Ready, Wheel
from noria.io.driver cimport Channel

cdef class Poller(Channel):
    cdef Wheel loop
    cdef Ready reader            # what add_reader was given, as a Handle; or what waits for a socket of the program's
    cdef Ready writer
    cdef object owner            # of a watch that is kept though nobody waits: a weak reference to the socket object

    cdef int take(self, bint writing, Ready ready) except -1

cdef Poller watch(Wheel loop, int fd, object sock, bint writing, Ready ready)
cdef int unwatch(Poller poller, bint writing, Ready ready) except -1
cdef object watcher(Wheel loop, int fd)
