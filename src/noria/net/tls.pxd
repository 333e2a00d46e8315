from noria.net.stream cimport Layer

# Where a TLS connection stands, in this order and never back. Not every one passes through all.
cdef enum State:
    IDLE         # nothing below it yet
    HANDSHAKE
    WRAPPED      # data goes both ways
    FLUSHING     # it is to end; what was written still goes out, and what came is delivered if the peer ended it
    SHUTDOWN     # our close_notify is out; the peer's is awaited
    DONE         # both are; the layer below is being closed
    GONE         # the connection is lost or aborted; connection_lost() follows or has been

# What the program's protocol has been told, in this order.
cdef enum Told:
    NOTHING
    MADE
    EOF
    LOST

cdef class TLSTransport(Layer):
    cdef Layer below             # kept after the end, for get_extra_info()
    cdef object sslcontext
    cdef object sslobj           # ssl.SSLObject
    cdef object engine           # what reads and writes for it
    cdef object incoming         # ssl.MemoryBIO: from the wire
    cdef object outgoing         # to the wire
    cdef object waiter           # future of whoever waits for the handshake
    cdef object timer            # of the handshake, or of the shutdown
    cdef object handshake_timeout
    cdef object shutdown_timeout
    cdef object reason           # exception for connection_lost
    cdef dict extra              # what was asked of the session before
    cdef double began            # the handshake; debug mode
    cdef Py_ssize_t read_high
    cdef Py_ssize_t read_low
    cdef Py_ssize_t held         # bytes from the wire that are not plaintext yet: at most so many
    cdef Py_ssize_t missing      # of the record that is coming in
    cdef unsigned char seen      # bytes of the header of the record that is coming in
    cdef unsigned char length    # the first of the two that hold its length
    cdef unsigned char lost_writes
    cdef State state
    cdef Told told
    cdef bint secured            # the handshake succeeded
    cdef bint unframed           # what came does not look like records
    cdef bint paused             # pause_reading()
    cdef bint below_paused       # we paused the layer below
    cdef bint ended              # the layer below has come to its end of stream
    cdef bint notified           # the peer's close_notify has come
    cdef bint closing            # is_closing()
    cdef bint by_us              # the program closed it: it gets no more data
    cdef bint busy               # the engine reads, or shakes hands
    cdef bint again              # bytes came meanwhile
    cdef bint ready              # OpenSSL has been given a whole record, or something that is none, and may have more
    cdef bint writing            # the engine writes
    cdef bint server_side
    # Each of these is one place in the ready queue.
    cdef bint burst              # something was written in this turn: what follows goes out at its end
    cdef bint starting           # start_tls()
    cdef bint resuming           # resume_reading(), or what did not fit into a BufferedProtocol's buffer
    cdef bint losing             # connection_lost()

    cdef int begin(self) except -1
    cdef int shake(self) except -1
    cdef int shaken(self, object error) except -1
    cdef int wake(self, object error) except -1
    cdef int stop_timer(self) except -1
    cdef Py_ssize_t cut(self, unsigned char* data, Py_ssize_t n, bint* whole) noexcept
    cdef int feed(self, char* data, Py_ssize_t n) except -1
    cdef Py_ssize_t decrypt(self, char* where, Py_ssize_t room) noexcept
    cdef int resume_soon(self) except -1
    cdef int advance(self) except -1
    cdef int read(self) except -1
    cdef int take(self, char* data, Py_ssize_t n) except -1
    cdef int take_buffered(self) except -1
    cdef int outcome(self, Py_ssize_t how, object error) except -1
    cdef int control_reading(self) except -1
    cdef Py_ssize_t seal(self, char* data, Py_ssize_t size) except -1
    cdef Py_ssize_t encrypt(self, char* data, Py_ssize_t size, Py_ssize_t after, Py_ssize_t* batch) except -1
    cdef int write_out(self, bint everything) except -1
    cdef int dropped(self) except -1
    cdef int settle(self) except -1
    cdef int end(self, bint by_us) except -1
    cdef int limit_shutdown(self) except -1
    cdef int flush_out(self) except -1
    cdef int discard(self) except -1
    cdef int shut(self) except -1
    cdef int complete(self, object error) except -1
    cdef int tell_eof(self) except -1
    cdef int fatal(self, object error, str message) except -1
    cdef int call_failed(self, str message) except -1
    cdef int finish(self) except -1
