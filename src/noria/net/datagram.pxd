from libc.stdint cimport uint16_t, uint64_t

from noria.io.sys cimport mmsghdr, sockaddr, sockaddr_in6, socklen_t
from noria.net.stream cimport StreamTransport

cdef class DatagramTransport(StreamTransport):
    cdef dict __dict__           # programs set attributes on asyncio's
    # `queue`, `head` and `backlog` of the base count (data, address) pairs here, each with HEADER bytes more.
    cdef object remote           # where everything goes, if remote_addr was given
    cdef list inbox              # received and not delivered: data, address, data, address...
    cdef Py_ssize_t taken        # of the inbox: items delivered
    cdef object refused          # what the socket object raised when it was to send
    cdef int family
    cdef int expect              # datagrams to ask the kernel for, judged by what came the last time
    cdef bint connected          # the socket has a peer
    cdef bint named              # and that has an address; else a datagram may have one
    cdef bint due                # we are in the ready queue to deliver the inbox
    cdef bint gathering          # a batch is being delivered: what is sent meanwhile goes out together
    cdef uint64_t since          # noria_ticks() when that last went out

    cdef int receive(self) except -1
    cdef int receive_each(self) except -1
    cdef int receive_other(self) except -1
    cdef int hand_in(self, bytes data, object addr, int flags) except -1
    cdef int judge(self, int came) except -1
    cdef int deliver(self) except -1
    cdef int deliver_each(self, list inbox) except -1
    cdef int revisit(self) except -1
    cdef int hand_over(self, object data, object addr) except -1
    cdef int failed(self, object error) except -1
    cdef bint to_peer(self, object addr)
    cdef int send_now(self, object data, object addr) except -1000
    cdef int send_other(self, object data, object addr) except -1000
    cdef object refusal(self, int sent)
    cdef int send_batch(self) except -1000
    cdef int keep(self, object data, object addr) except -1
    cdef int append(self, object data, object addr) except -1
    cdef bint gather(self, object data, object addr) except -1
    cdef int let_go(self) except -1
    cdef int drop_first(self, Py_ssize_t count) except -1

# An address as the kernel has it. Kept so that a tuple that was received, or sent to, is not spelled out again.
cdef struct Address:
    sockaddr_in6 raw             # or the shorter sockaddr_in
    socklen_t size
