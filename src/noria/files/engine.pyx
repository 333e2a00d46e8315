"""Files' system calls: each is one awaitable object, and none of them blocks the loop.

What the kernel can do without waiting is done on the spot: bytes that are in the page cache (preadv2(2), RWF_NOWAIT),
opening what has been opened lately (openat2(2), RESOLVE_CACHED). All the rest is given away and comes back later: to
the kernel's own workers through an io_uring of the loop's, or to a few threads (jobs.h), which is the same to everyone
else.

Promises: the loop's thread spends no more than SLICE on files in a turn, however many operations there are; who comes
too late waits in line. An operation under way keeps its buffer, its descriptor and its paths alive, also when its task
was cancelled; a descriptor that a cancelled open brings is closed. Closing the loop waits for what is under way, after
asking the kernel to cancel it. In a forked child nothing of the parent's is touched.

Leaves to others: the order of operations on one file, buffers, positions, text (binary.py, text.py).

An operation that is cancelled may have happened or not, or in part; which is not told.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from noria.core.capi cimport NORIA_SLICE, noria_ticks
from noria.core.futures cimport PENDING
from noria.core.waits cimport DONE, FRESH, OVER, RAISE, WAIT, WAITING, Waiter, running_loop
from noria.core.wheel cimport Ready, Wheel, push
from noria.io.ring cimport (
    FEAT_CQE_SKIP, FSYNC_DATASYNC, OP_ASYNC_CANCEL, OP_FSYNC, OP_FTRUNCATE, OP_LINKAT, OP_MKDIRAT, OP_OPENAT,
    OP_READ, OP_RENAMEAT, OP_STATX, OP_SYMLINKAT, OP_UNLINKAT, OP_WRITE, SETUP_COOP_TASKRUN, SETUP_NO_SQARRAY,
    SETUP_SUBMIT_ALL, SQE_ASYNC, SQE_CQE_SKIP_SUCCESS, noria_cqe, noria_ring_clear, noria_ring_close, noria_ring_cqe,
    noria_ring_enter, noria_ring_open, noria_ring_overflown, noria_ring_probe, noria_ring_seen, noria_ring_sqe,
    noria_ring_submit, noria_ring_waiting, noria_sqe,
)

import os
import weakref
from collections import deque
from time import monotonic

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject** bytes, Py_ssize_t size) except -1
    bytes PyUnicode_EncodeFSDefault(object path)

cdef extern from "<unistd.h>" nogil:
    int sys_close "close"(int fd)

cdef extern from "<errno.h>" nogil:
    enum:
        EAGAIN, EBUSY, ECANCELED, EINTR, ENOSYS

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int count, int flags)
    enum:
        EFD_CLOEXEC

cdef extern from "<fcntl.h>" nogil:
    enum:
        AT_FDCWD, AT_EMPTY_PATH, AT_REMOVEDIR, AT_SYMLINK_NOFOLLOW, O_ACCMODE, O_CLOEXEC, O_RDONLY

cdef enum:
    PIECE = 256 * 1024           # bytes copied here and now by one call: 50 microseconds or so
    MOST = 1 << 30               # bytes in one of the kernel's operations
    LARGE = 4 * PIECE            # more than this is better copied by another core
    WAKES = 32                   # operations that land in one turn: each wakes a task, which has things to do
    ENTRIES = 256                # of the ring's submission queue
    CQ_ENTRIES = 2048            # more completions than that wait in the kernel

cdef uint64_t SLICE = NORIA_SLICE // 2
cdef double PATIENCE = 10.0      # seconds close() waits for what can not be cancelled, such as a disk that is slow
cdef object engines = weakref.WeakKeyDictionary()   # of loops that are not noria's
cdef object all_engines = weakref.WeakSet()
cdef list kept = []              # operations whose loops closed while a thread was stuck in them: never freed


cdef class Descriptor:
    """Descriptor(fd, owned)

    An open file's number; owned: it is closed with this object at the latest.
    """

    def __cinit__(self):
        self.fd = -1

    def __init__(self, int fd, bint owned):
        self.fd = fd
        self.owned = owned

    def __dealloc__(self):
        if self.fd >= 0 and self.owned:
            sys_close(self.fd)

    def release(self):
        """Whoever calls this closes it. Returns the number; it counts as closed here."""
        fd, self.fd = self.fd, -1
        return fd


cdef class Operation(Waiter):
    """One operation on a file: a coroutine for the program."""

    def __cinit__(self):
        memset(&self.j, 0, sizeof(job))
        self.j.fd = self.j.kick = -1
        self.j.owner = <void*>self

    def __dealloc__(self):
        if self.has_view:
            PyBuffer_Release(&self.view)
        if self.j.kick >= 0:
            sys_close(self.j.kick)
        if self.place == LANDED and not self.taken and self.j.kind == JOB_OPEN and self.j.result >= 0:
            sys_close(<int>self.j.result)

    @property
    def __qualname__(self):
        return NAMES[self.j.kind]

    @property
    def moved(self):
        """Bytes that were moved so far."""
        return self.j.moved

    cdef int begin(self) except -1:
        loop = running_loop()
        self.engine = engine_of(loop)
        if self.launch():
            self.value = self.conclude()
            return DONE
        self.arm(loop)
        return WAIT

    cdef int again(self) except -1:
        self.value = self.conclude()
        return DONE

    cdef int dropped(self, object error) except -1:
        self.drop()
        if self.place == FLYING:  # it keeps its memory alive until it lands, but not a loop that ends before
            self.loop = self.wheel = None
        return RAISE

    def start(self):
        """Begin without being awaited. Returns a future of the result; goes on whether somebody waits for it or not."""
        if self.stage != FRESH:
            raise RuntimeError("cannot reuse already awaited coroutine")
        loop = running_loop()
        self.engine = engine_of(loop)
        self.stage = OVER
        landing = loop.create_future()
        if self.launch():
            try:
                landing.set_result(self.conclude())
            except OSError as error:
                landing.set_exception(error)
        else:
            self.landing = landing
        return landing

    def abort(self):
        """Nobody wants what was started any more: its future is cancelled."""
        if self.landing is not None:
            self.landing.cancel()
        self.drop()

    cdef int launch(self) except -1:
        # Whether it is done already.
        if self.descriptor is not None:
            if self.descriptor.fd < 0:
                self.place = LANDED
                self.taken = True
                raise ValueError("I/O operation on closed file")
            self.j.fd = self.descriptor.fd
            self.j.ground = self.descriptor.ground
            if self.j.kind == JOB_CLOSE:
                self.descriptor.release()
        return self.engine.begin(self)

    cdef int drop(self) except -1:
        # Not wanted any more. What closes a descriptor goes on.
        if self.j.kind == JOB_CLOSE:
            return 0
        if self.place == LINED:
            self.place = LANDED
            self.j.result = -ECANCELED
            self.engine.let_go(self)
            if self.landing is not None:
                self.landed()
        elif self.place == FLYING:
            self.engine.recall(self)
        return 0

    cdef int landed(self) except -1:
        # It came back: tell who waits, if somebody still does.
        if self.engine.shut:
            return 0
        landing = self.landing
        if landing is None:
            if self.stage == WAITING and self.state == PENDING:
                self.resolve(None)
            return 0
        self.landing = None
        if landing.done():
            return 0
        try:
            landing.set_result(self.conclude())
        except (OSError, RuntimeError) as error:
            landing.set_exception(error)
        return 0

    cdef int take_room(self) except -1:
        # The bytes to read into: made when the reading begins. Who stands in line holds no memory yet.
        if self.j.kind == JOB_READ and self.j.data == NULL:
            self.data = PyBytes_FromStringAndSize(NULL, self.j.size)
            self.j.data = PyBytes_AS_STRING(self.data)
        return 0

    cdef int run(self) except -1:
        return 0

    cdef Descriptor arrived(self):
        cdef Descriptor descriptor = Descriptor.__new__(Descriptor)
        descriptor.fd = <int>self.j.result
        descriptor.owned = True
        descriptor.ground = self.j.ground
        descriptor.quiet = self.j.ground == GROUND_MEMORY or (
            self.j.ground == GROUND_LOCAL and self.j.flags & O_ACCMODE == O_RDONLY)
        return descriptor

    cdef object conclude(self):
        # The result for the program, or its error. Once.
        cdef int64_t r = self.j.result
        cdef PyObject* data
        self.taken = True
        if self.has_view:
            self.has_view = False
            PyBuffer_Release(&self.view)
        if self.place == GIVEN_UP:
            raise RuntimeError("Event loop is closed")
        if self.place == STRANDED:
            raise RuntimeError("can't start new thread")
        if r < 0:
            self.data = None
            code = <int>-r
            if self.shown2 is not None:
                raise OSError(code, os.strerror(code), self.shown, None, self.shown2)
            if self.shown is not None:
                raise OSError(code, os.strerror(code), self.shown)
            raise OSError(code, os.strerror(code))
        if self.j.kind == JOB_READ:
            if self.data is None:
                return r
            if r == PyBytes_GET_SIZE(self.data):
                result, self.data = self.data, None
                return result
            # Shrunk in place: nobody else has seen it.
            data = <PyObject*>self.data
            Py_INCREF(<object>data)
            self.data = None
            _PyBytes_Resize(&data, <Py_ssize_t>r)
            result = <object>data
            Py_DECREF(result)
            return result
        self.data = None
        if self.j.kind == JOB_WRITE or self.j.kind == JOB_SAVE:
            return r
        if self.j.kind == JOB_OPEN:
            return self.arrived(), self.found.stx_mode, self.found.stx_size
        if self.j.kind == JOB_STAT:
            return stat_result(&self.found)
        return None


cdef tuple NAMES = (
    "open", "close", "read", "write", "fsync", "fdatasync", "truncate", "stat", "mkdir", "rmdir", "unlink", "rename",
    "link", "symlink", "write_bytes",
)


cdef object stat_result(statx* st):
    # As os.stat gives it: seconds as ints in the tuple, as floats and in nanoseconds by name.
    cdef int64_t a = st.stx_atime.tv_sec, m = st.stx_mtime.tv_sec, c = st.stx_ctime.tv_sec
    cdef unsigned int an = st.stx_atime.tv_nsec, mn = st.stx_mtime.tv_nsec, cn = st.stx_ctime.tv_nsec
    billion = 1_000_000_000
    return os.stat_result(
        (st.stx_mode, st.stx_ino, os.makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_nlink, st.stx_uid, st.stx_gid,
         st.stx_size, a, m, c),
        {"st_atime": a + 1e-9 * an, "st_mtime": m + 1e-9 * mn, "st_ctime": c + 1e-9 * cn,
         "st_atime_ns": a * billion + an, "st_mtime_ns": m * billion + mn, "st_ctime_ns": c * billion + cn,
         "st_blksize": st.stx_blksize, "st_blocks": st.stx_blocks,
         "st_rdev": os.makedev(st.stx_rdev_major, st.stx_rdev_minor)})


# Making operations. Each returns one to be awaited.

cdef Operation new(int kind):
    cdef Operation op = Operation.__new__(Operation)
    op.j.kind = kind
    op.j.st = &op.found
    return op


cdef bytes encoded(object path):
    cdef bytes name = PyUnicode_EncodeFSDefault(path) if type(path) is str else os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    return name


cdef Operation named(int kind, object path, object path2):
    # An operation on a path, or on two.
    cdef Operation op
    first = encoded(path)
    second = None if path2 is None else encoded(path2)
    op = new(kind)
    op.shown = path
    op.j.fd = AT_FDCWD
    op.j.path = PyBytes_AS_STRING(first)
    op.paths = first
    if path2 is not None:
        op.shown2 = path2
        op.j.path2 = PyBytes_AS_STRING(second)
        op.paths = (first, second)
    return op


cdef Operation on_open(int kind, Descriptor descriptor):
    cdef Operation op = new(kind)
    op.descriptor = descriptor
    return op


def open_path(path, int flags, int mode):
    """openat(2). Gives (Descriptor, st_mode, st_size)."""
    cdef Operation op = named(JOB_OPEN, path, None)
    op.j.flags = flags | O_CLOEXEC
    op.j.mode = mode
    return op


def close(Descriptor descriptor not None):
    """close(2). From its beginning on the descriptor counts as closed; cancelling does not stop it."""
    return on_open(JOB_CLOSE, descriptor)


def write_and_close(Descriptor descriptor not None, data, int64_t offset):
    """`write` of what is left and `close`, in one. The descriptor is closed also if the writing failed."""
    cdef Operation op = on_open(JOB_CLOSE, descriptor)
    take_data(op, data, PyBUF_SIMPLE)
    op.j.offset = offset
    return op


def read(Descriptor descriptor not None, size_t n, int64_t offset, bint stream):
    """Up to n bytes: fewer only at the file's end, or if it is a stream. offset: -1 for the file's own position."""
    cdef Operation op = on_open(JOB_READ, descriptor)
    op.j.size = n
    op.j.offset = offset
    op.j.stream = stream
    return op


cdef int take_data(Operation op, object data, int how) except -1:
    op.stage = OVER  # if this raises, it is not the program's fault that nobody awaits it
    PyObject_GetBuffer(data, &op.view, how)
    op.stage = FRESH
    op.has_view = True
    op.j.data = <char*>op.view.buf
    op.j.size = op.view.len
    return 0


def readinto(Descriptor descriptor not None, buffer, int64_t offset, bint stream):
    """`read` into a buffer, which must stay of its size until the operation has ended. Gives the number of bytes."""
    cdef Operation op = on_open(JOB_READ, descriptor)
    take_data(op, buffer, PyBUF_WRITABLE)
    op.j.offset = offset
    op.j.stream = stream
    return op


def write(Descriptor descriptor not None, data, int64_t offset, bint stream):
    """Write all of it. offset: -1 for the file's own position, or its end in append mode. Gives the number of bytes."""
    cdef Operation op = on_open(JOB_WRITE, descriptor)
    take_data(op, data, PyBUF_SIMPLE)
    op.j.offset = offset
    op.j.stream = stream
    return op


def fsync(Descriptor descriptor not None):
    """fsync(2)."""
    return on_open(JOB_FSYNC, descriptor)


def fdatasync(Descriptor descriptor not None):
    """fdatasync(2)."""
    return on_open(JOB_FDATASYNC, descriptor)


def truncate(Descriptor descriptor not None, int64_t length):
    """ftruncate(2)."""
    cdef Operation op = on_open(JOB_FTRUNCATE, descriptor)
    op.j.offset = length
    return op


def stat(path, bint follow_symlinks):
    """statx(2) of a path or of a descriptor's number. Gives an os.stat_result."""
    cdef Operation op
    if isinstance(path, int):
        op = named(JOB_STAT, "", None)
        op.shown = path
        op.j.fd = path
        op.j.flags = AT_EMPTY_PATH
    else:
        op = named(JOB_STAT, path, None)
        op.j.flags = 0 if follow_symlinks else AT_SYMLINK_NOFOLLOW
    return op


def mkdir(path, int mode):
    """mkdir(2)."""
    cdef Operation op = named(JOB_MKDIR, path, None)
    op.j.mode = mode
    return op


def rmdir(path):
    """rmdir(2)."""
    return named(JOB_RMDIR, path, None)


def unlink(path):
    """unlink(2)."""
    return named(JOB_UNLINK, path, None)


def rename(src, dst):
    """rename(2)."""
    return named(JOB_RENAME, src, dst)


def link(src, dst):
    """link(2)."""
    return named(JOB_LINK, src, dst)


def symlink(src, dst):
    """symlink(2)."""
    return named(JOB_SYMLINK, src, dst)


def save(path, other, data, int mode, bint sync, bint append):
    """A file made or replaced by one with this content. other: the name in the same directory under which it is
    written first, or None for in place. Gives the number of bytes."""
    cdef Operation op = named(JOB_SAVE, path, other)
    op.shown2 = None
    take_data(op, data, PyBUF_SIMPLE)
    op.j.mode = mode
    op.j.flags = SAVE_FSYNC * sync | SAVE_ATOMIC * (other is not None) | SAVE_APPEND * append
    return op


# The engine.

cdef Engine engine_of(object loop):
    cdef Engine engine
    native = isinstance(loop, Wheel)
    engine = loop._files if native else engines.get(loop)
    if engine is None or engine.shut:
        engine = Engine(loop)
        if native:
            loop._files = engine
        else:
            # Those loops do not tell us of their end.
            for other in [other for other in engines if other.is_closed()]:
                (<Engine>engines.pop(other)).close()
            engines[loop] = engine
    return engine


def engine_for(loop):
    """The engine that serves the loop's files."""
    return engine_of(loop)


cdef class Engine(Ready):
    """Engine(loop)

    Does the operations of one loop. at_once: try each here and now before it is given away.
    """

    def __cinit__(self):
        noria_ring_clear(&self.ring)

    def __init__(self, loop):
        if self.box != NULL:
            raise RuntimeError("the engine is running already")
        wanted = os.environ.get("NORIA_FILES") or "io_uring"
        if wanted not in ("io_uring", "threads"):
            raise ValueError(f"NORIA_FILES is {wanted!r}; it can be io_uring or threads")
        self.loop = loop if isinstance(loop, Wheel) else weakref.ref(loop)
        self.wheel = <Wheel>loop if isinstance(loop, Wheel) else None
        self.refusal = "NORIA_FILES is threads" if wanted == "threads" else None
        self.line = deque()
        self.openings = deque()
        self.flying = set()
        self.at_once = True
        all_engines.add(self)

    def __del__(self):
        self.close()

    cdef object the_loop(self):
        return self.loop if self.wheel is not None else self.loop()

    @property
    def kind(self):
        """What does that which cannot be done at once: "io_uring" or "threads"."""
        self.open_ring()
        return "threads" if self.ring.fd < 0 else "io_uring"

    @property
    def refused(self):
        """Why it is threads: an OSError of the kernel's, a str, or None."""
        self.open_ring()
        return self.refusal

    @property
    def under_way(self):
        """How many operations are given away and not back yet."""
        return len(self.flying)

    # Doing.

    cdef int begin(self, Operation op) except -1:
        # Whether it is done already. Else it lands later.
        cdef bint closes = op.j.kind == JOB_CLOSE
        if op.j.kind == JOB_OPEN:
            # Who has a file open goes before who opens one: fewer are open at a time then, and most tasks wait once for
            # all that they do.
            if self.openings or self.used > SLICE:
                self.stand_in_line(op)
                return False
            return self.attempt(op) == 1
        if (not self.at_once or op.j.kind > JOB_WRITE or op.j.size > LARGE or closes and (
                not op.descriptor.quiet or op.descriptor.users or op.j.size and op.j.ground != GROUND_MEMORY)):
            op.waited = True
            self.fly(op)
            return False
        # A close alone is quick, and who waits for it has what he read.
        if (self.line or self.used > SLICE) and not (closes and op.j.size == 0):
            self.stand_in_line(op)
            return False
        return self.attempt(op) == 1

    cdef int stand_in_line(self, Operation op) except -1:
        op.place = LINED
        self.hold(op)
        (self.openings if op.j.kind == JOB_OPEN else self.line).append(op)
        self.enqueue()
        return 0

    cdef int attempt(self, Operation op) except -1:
        # 1: done. 0: given away, or in the line because the time is up.
        cdef uint64_t start = noria_ticks(), now
        cdef int more = 1
        self.enqueue()
        if not self.at_once:
            more = -1
        op.take_room()
        while more == 1:
            more = job_at_once(&op.j, PIECE)
            now = noria_ticks()
            self.used += now - start
            start = now
            if self.used > SLICE:
                break
        if more == 0:
            op.place = LANDED
            self.let_go(op)
            return 1
        if more < 0:
            op.waited = True
            self.fly(op)
        else:
            self.stand_in_line(op)
        return 0

    cdef int enqueue(self) except -1:
        # Once a turn, from the first operation on.
        if not self.queued and not self.shut:
            self.queued = True
            if self.wheel is not None:
                push(self.wheel, self)
            else:
                self.the_loop().call_soon(self._run)
        return 0

    def _run(self):
        self.run()

    cdef int run(self) except -1:
        # The end of a turn in which something was done with files: those in line go on, what is given away leaves.
        self.queued = False
        self.used = 0
        self.woken = 0
        self.come_back(False)
        while self.line and self.used <= SLICE and self.woken < WAKES:
            self.go_on(<Operation>self.line.popleft())
        while self.openings and self.woken < WAKES:
            self.go_on(<Operation>self.openings.popleft())
            if self.used > SLICE // 4:  # the rest of the time is for what the openers do next
                break
        if self.out != NULL:
            self.hand_over()
        if self.ring.fd >= 0 and noria_ring_waiting(&self.ring):
            self.submit()
            self.reap()
            if noria_ring_waiting(&self.ring):
                self.enqueue()
        if self.line or self.openings:
            self.enqueue()
        return 0

    cdef int go_on(self, Operation op) except -1:
        # It is its turn.
        if op.place == LINED and self.attempt(op) == 1:  # else it was cancelled
            self.woken += 1
            op.landed()
        return 0

    # Giving away.

    cdef int fly(self, Operation op) except -1:
        if self.shut:
            raise RuntimeError("Event loop is closed")
        if not self.tried:
            self.open_ring()
        op.take_room()
        self.flying.add(op)
        op.place = FLYING
        if op.j.kind == JOB_CLOSE and op.descriptor.users:
            op.descriptor.closer = op  # not before they are back: its number may become another file's
            return 0
        self.hold(op)
        self.give_away(op)
        return 0

    cdef int give_away(self, Operation op) except -1:
        try:
            if self.ring.fd < 0 or not self.fly_by_ring(op):
                self.fly_by_thread(op)
        except BaseException:
            self.forget(op)
            op.place = LANDED
            op.taken = True
            raise
        return 0

    cdef int forget(self, Operation op) except -1:
        # It is not under way any more.
        self.flying.discard(op)
        self.let_go(op)
        return 0

    cdef int hold(self, Operation op) except -1:
        if op.descriptor is not None and op.j.kind != JOB_CLOSE and not op.holds:
            op.holds = True
            op.descriptor.users += 1
        return 0

    cdef int let_go(self, Operation op) except -1:
        # It uses its descriptor no more, which may be closed now if somebody wants that.
        cdef Descriptor descriptor = op.descriptor
        cdef Operation closer
        if not op.holds:
            return 0
        op.holds = False
        descriptor.users -= 1
        if descriptor.users == 0 and descriptor.closer is not None:
            closer, descriptor.closer = descriptor.closer, None
            if self.shut:
                self.flying.discard(closer)
                job_do(&closer.j)
                closer.place = GIVEN_UP
            else:
                self.give_away(closer)
        return 0

    cdef int fly_by_thread(self, Operation op) except -1:
        self.open_box()
        op.in_ring = False
        if op.j.stream and op.j.kick < 0:
            op.j.kick = eventfd(0, EFD_CLOEXEC)
        if op.j.kind == JOB_OPEN and self.ring.fd >= 0 and op.j.bounce == 0:
            op.j.bounce = 1
        op.j.next = NULL
        if self.out == NULL:
            self.out = &op.j
        else:
            self.last_out.next = &op.j
        self.last_out = &op.j
        self.enqueue()
        return 0

    cdef int hand_over(self) except -1:
        # What goes to the threads goes together.
        cdef job* first = self.out
        cdef Operation op
        self.out = self.last_out = NULL
        if first == NULL or pool_give(first, self.box) == 0:
            return 0
        while first != NULL:  # there is no thread
            op = <Operation>first.owner
            first = first.next
            if op.j.kind == JOB_CLOSE:
                job_do(&op.j)
            self.forget(op)
            op.place = LANDED if op.j.kind == JOB_CLOSE else STRANDED
            op.landed()
        return 0

    cdef bint fly_by_ring(self, Operation op) except -1:
        # Whether the ring takes it. Most of what is done to a path blocks, so it would be given to a thread of the
        # kernel's, which costs more than ours; not so what may wait for ever, since only the kernel's can be ended.
        cdef noria_sqe* sqe
        if op.j.kind == JOB_OPEN and op.j.bounce != 2:
            return False
        sqe = self.entry()
        if sqe == NULL:
            return False
        if not self.describe(&op.j, sqe):
            sqe.opcode = 0  # OP_NOP
            sqe.user_data = 0
            return False
        sqe.user_data = <uint64_t><size_t><PyObject*>op
        op.in_ring = True
        self.enqueue()
        return True

    cdef noria_sqe* entry(self) except? NULL:
        # A free entry, or NULL if the kernel takes none at the moment.
        cdef noria_sqe* sqe = noria_ring_sqe(&self.ring)
        if sqe == NULL:
            self.submit()
            sqe = noria_ring_sqe(&self.ring)
        return sqe

    cdef bint describe(self, job* j, noria_sqe* sqe) noexcept:
        # What an operation is to the kernel (io_uring_enter(2)); False if that is nothing.
        cdef size_t n
        cdef int opcode
        sqe.fd = j.fd
        if j.kind == JOB_READ or j.kind == JOB_WRITE:
            n = j.size - j.moved
            opcode = OP_READ if j.kind == JOB_READ else OP_WRITE
            sqe.addr = <uint64_t><size_t>(j.data + j.moved)
            sqe.len = <unsigned int>(n if n < MOST else MOST)
            sqe.off = <uint64_t>(-1 if j.offset < 0 else j.offset + <int64_t>j.moved)
            if n > LARGE:
                sqe.flags = SQE_ASYNC  # or it would be copied while we submit, if it is in memory
        elif j.kind == JOB_OPEN:
            # By a worker always: while we submit the kernel opens with O_NONBLOCK, and a FIFO would not wait.
            opcode = OP_OPENAT
            sqe.addr = <uint64_t><size_t>j.path
            sqe.len = <unsigned int>j.mode
            sqe.op_flags = <unsigned int>j.flags
            sqe.flags = SQE_ASYNC
        elif j.kind == JOB_FSYNC or j.kind == JOB_FDATASYNC:
            opcode = OP_FSYNC
            sqe.op_flags = FSYNC_DATASYNC if j.kind == JOB_FDATASYNC else 0
        elif j.kind == JOB_FTRUNCATE:
            opcode = OP_FTRUNCATE
            sqe.off = <uint64_t>j.offset
        elif j.kind == JOB_STAT:
            opcode = OP_STATX
            sqe.addr = <uint64_t><size_t>j.path
            sqe.len = STATX_BASIC_STATS
            sqe.off = <uint64_t><size_t>j.st
            sqe.op_flags = <unsigned int>j.flags
        elif j.kind == JOB_MKDIR:
            opcode = OP_MKDIRAT
            sqe.addr = <uint64_t><size_t>j.path
            sqe.len = <unsigned int>j.mode
        elif j.kind == JOB_UNLINK or j.kind == JOB_RMDIR:
            opcode = OP_UNLINKAT
            sqe.addr = <uint64_t><size_t>j.path
            sqe.op_flags = AT_REMOVEDIR if j.kind == JOB_RMDIR else 0
        elif j.kind == JOB_RENAME or j.kind == JOB_LINK:
            opcode = OP_RENAMEAT if j.kind == JOB_RENAME else OP_LINKAT
            sqe.addr = <uint64_t><size_t>j.path
            sqe.len = <unsigned int>AT_FDCWD
            sqe.off = <uint64_t><size_t>j.path2
            sqe.op_flags = <unsigned int>j.flags
        elif j.kind == JOB_SYMLINK:
            opcode = OP_SYMLINKAT
            sqe.addr = <uint64_t><size_t>j.path
            sqe.off = <uint64_t><size_t>j.path2
        else:
            return False
        sqe.opcode = <unsigned char>opcode
        return self.known[opcode] != 0

    cdef int submit(self) except -1:
        # What the kernel does not take now (it is short of memory, or of room for completions) stays for the next turn.
        cdef int n = noria_ring_submit(&self.ring)
        if n < 0 and n != -EAGAIN and n != -EBUSY and n != -EINTR:
            raise OSError(-n, os.strerror(-n))
        return 0

    cdef int recall(self, Operation op) except -1:
        cdef noria_sqe* sqe
        if op.j.stop:
            return 0
        if op.in_ring:
            op.j.stop = 1
            sqe = self.entry()
            if sqe != NULL:
                sqe.opcode = OP_ASYNC_CANCEL
                sqe.fd = -1
                sqe.addr = <uint64_t><size_t><PyObject*>op
                if self.ring.features & FEAT_CQE_SKIP:
                    sqe.flags = SQE_CQE_SKIP_SUCCESS
                self.enqueue()
            return 0
        self.hand_over()
        job_kick(&op.j)
        if pool_take_back(&op.j):
            self.forget(op)
            op.place = LANDED
            op.j.result = -ECANCELED
            op.landed()
        return 0

    cdef int open_box(self) except -1:
        if self.box == NULL:
            self.box = box_open()
            if self.box == NULL:
                raise OSError(errno, os.strerror(errno))
            self.the_loop().add_reader(self.box.fd, Arrival(self))
        return 0

    cdef int open_ring(self) except -1:
        cdef int error
        if self.tried or self.shut:
            return 0
        self.tried = True
        if self.refusal is not None:
            return 0
        error = noria_ring_open(
            &self.ring, ENTRIES, CQ_ENTRIES, 0, SETUP_COOP_TASKRUN | SETUP_SUBMIT_ALL | SETUP_NO_SQARRAY)
        if error == 0:
            error = noria_ring_probe(&self.ring, self.known)
            if error == 0 and not (self.known[OP_READ] and self.known[OP_ASYNC_CANCEL]):
                error = -ENOSYS
            if error < 0:
                noria_ring_close(&self.ring)
        if error < 0:
            self.refusal = OSError(-error, os.strerror(-error))
        else:
            self.the_loop().add_reader(self.ring.fd, Arrival(self))
        return 0

    # Coming back.

    cdef int come_back(self, bint called) except -1:
        cdef Operation op
        if self.ring.fd >= 0:
            self.reap()
        if self.back == NULL and self.box != NULL:
            self.back = box_empty(self.box, called)
        while self.back != NULL:
            if self.woken >= WAKES:
                self.enqueue()
                break
            op = <Operation>self.back.owner
            self.back = self.back.next
            if op.j.bounce == 1 and op.j.result == -EAGAIN and not op.j.stop and not self.shut:
                op.j.bounce = 2
                self.give_away(op)  # to the ring: it may wait for ever
                continue
            if op.j.kind == JOB_OPEN and op.j.result >= 0:
                job_ground_learned(&op.j)
            self.woken += 1
            self.forget(op)
            op.place = LANDED
            op.landed()
        return 0

    cdef int reap(self) except -1:
        cdef noria_cqe* cqe
        cdef Operation op
        cdef uint64_t who
        cdef int64_t result
        while self.woken < WAKES or self.shut:
            cqe = noria_ring_cqe(&self.ring)
            if cqe == NULL:
                if noria_ring_overflown(&self.ring):
                    noria_ring_enter(&self.ring, 0, 0)
                    if noria_ring_cqe(&self.ring) != NULL:
                        continue
                return 0
            who, result = cqe.user_data, cqe.res
            noria_ring_seen(&self.ring, 1)
            if who:
                op = <Operation><PyObject*><size_t>who  # a reference: the one in `flying` may be the last but this
                self.ended_in_ring(op, result)
        self.enqueue()
        return 0

    cdef int ended_in_ring(self, Operation op, int64_t result) except -1:
        cdef job* j = &op.j
        if j.kind == JOB_READ or j.kind == JOB_WRITE:
            if result > 0:
                j.moved += <size_t>result
                if j.moved < j.size and not (j.stream and j.kind == JOB_READ):
                    result = -EINTR  # there is more to do
                else:
                    result = <int64_t>j.moved
            elif result == 0 or (j.moved and j.kind == JOB_READ and result != -EINTR):
                result = <int64_t>j.moved
        if (result == -EINTR or (result == -EAGAIN and j.stream)) and not j.stop and not self.shut:
            # A part of it, a signal, or a stream that is O_NONBLOCK, which the kernel does not wait for and we do.
            if result == -EAGAIN or not self.fly_by_ring(op):
                self.fly_by_thread(op)
            return 0
        if result == -EINTR:
            result = -ECANCELED
        if j.kind == JOB_OPEN and result >= 0:
            job_stat_open(<int>result, j.st)
        j.result = result
        self.woken += 1
        self.forget(op)
        op.place = LANDED
        op.landed()
        return 0

    # The end.

    def close(self):
        """Cancel what can be cancelled, wait for the rest, and let everything go. Idempotent."""
        cdef Operation op
        if self.shut:
            return
        self.shut = True
        for op in [*self.line, *self.openings]:
            if op.place == LINED:
                if op.j.kind == JOB_CLOSE:
                    job_do(&op.j)
                op.place = GIVEN_UP
                self.let_go(op)
        self.line.clear()
        self.openings.clear()
        self.hand_over()
        for op in list(self.flying):
            if op.descriptor is not None and op.descriptor.closer is op:
                continue
            if op.in_ring:
                if op.j.kind != JOB_CLOSE and op.j.kind != JOB_WRITE:
                    self.recall(op)
            elif pool_take_back(&op.j):
                self.forget(op)
                op.place = GIVEN_UP
                if op.j.kind == JOB_CLOSE:
                    job_do(&op.j)
            elif op.j.kind != JOB_WRITE and op.j.kind != JOB_CLOSE or op.j.stream:
                job_kick(&op.j)
        # A thread that opens a FIFO without another end would keep us here for ever: it is left there.
        until = monotonic() + PATIENCE
        self.settle()
        while any([comes_back(op) for op in self.flying]) and monotonic() < until:
            if self.ring.fd >= 0:
                with nogil:
                    noria_ring_enter(&self.ring, 1, 0.01 if self.box != NULL else 0.1)
            if self.box != NULL:
                with nogil:
                    box_wait(self.box, 0.01 if self.ring.fd >= 0 else 0.1)
            self.settle()
        for op in self.flying:
            op.place = GIVEN_UP
        kept.extend(self.flying)
        self.flying.clear()
        noria_ring_close(&self.ring)
        if self.box != NULL:
            box_close(self.box)
            self.box = NULL

    cdef int settle(self) except -1:
        # What came back when nobody waits any more.
        self.woken = 0
        self.come_back(True)
        while self.back != NULL:
            self.woken = 0
            self.come_back(True)
        return 0

    def _abandon(self):
        # In a forked child.
        self.shut = True
        noria_ring_close(&self.ring)
        if self.box != NULL:
            box_abandon(self.box)
            self.box = NULL
        kept.extend(self.flying)
        self.flying.clear()
        self.line.clear()
        self.openings.clear()
        self.back = self.out = NULL


cdef bint comes_back(Operation op):
    if op.descriptor is not None and op.descriptor.closer is op:
        return False
    return op.in_ring or op.j.kick >= 0 or not job_endless(&op.j)


cdef class Arrival:
    """What the loop calls when operations have come back."""
    cdef Engine engine

    def __cinit__(self, Engine engine not None):
        self.engine = engine

    def __call__(self):
        self.engine.come_back(True)


def abandon_all():
    for engine in list(all_engines):
        (<Engine?>engine)._abandon()
    pool_forked()


os.register_at_fork(after_in_child=abandon_all)
