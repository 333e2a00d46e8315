# cython: boundscheck=False, wraparound=False
"""Queue, PriorityQueue and LifoQueue.

They promise what asyncio's of CPython 3.13 do, `shutdown` included, on every interpreter and on any loop. What can be
done at once is done without suspending.

The items of a Queue lie in a ring of their own until somebody looks at `_queue`, which programs do although it is
private, and may change what they find: from then on it is a deque, as in asyncio. Programs' subclasses may override
`_init`, `_put`, `_get` and the public methods; then everything goes through those.
"""

from collections import deque
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from types import GenericAlias

cimport cython

from noria.core.capi cimport noria_let_be_patched
from noria.core.waits cimport DONE, RAISE, WAIT
from noria.sync.lines cimport Line, LoopBound, Parked, alone, inherits, shown_as
from noria.sync.locks cimport Event, EventWait

import asyncio.queues
import heapq
import sys
from math import ceil

from noria.core._marks import mark_coroutine_functions
from noria.sync._shutdown import QueueShutDown
from noria.sync.lines import Members

cdef object QueueEmpty = asyncio.queues.QueueEmpty
cdef object QueueFull = asyncio.queues.QueueFull
cdef object heappush = heapq.heappush
cdef object heappop = heapq.heappop
cdef Py_ssize_t KEPT = 1024  # the places a ring keeps when it gets empty; more are given back
cdef tuple HOOKS = ("_get", "_put", "_init", "qsize", "empty", "full", "get_nowait", "put_nowait")


cdef class Queue(LoopBound):
    """Queue(maxsize=0)\n--

    First in, first out, between tasks.

    maxsize: how many items it holds at most; while it is full `put` waits. 0 or less for no limit.

    Source: asyncio.Queue.
    """

    __class_getitem__ = classmethod(GenericAlias)

    def __cinit__(self):
        self.getters = Line.__new__(Line)
        self.putters = Line.__new__(Line)
        self.plain = inherits(self, HOOKS)

    def __init__(self, maxsize=0):
        self._maxsize = maxsize
        self.unfinished = 0
        self.finished = None
        self.ended = False
        self._init(maxsize)

    @property
    def __class__(self):
        return shown_as(self, asyncio.queues.Queue)

    # What subclasses override.

    def _init(self, maxsize):
        self.ring = None
        self.head = self.count = 0
        self.store = None

    def _get(self):
        return self.take_item()

    def _put(self, item):
        self.store_item(item)

    # What they look at.

    @property
    def _queue(self):
        if self.store is None:
            store = deque()
            while self.count:
                store.append(self.take_item())
            self.ring = None
            self.store = store
        return self.store

    @_queue.setter
    def _queue(self, value):
        self.ring = None
        self.head = self.count = 0
        self.store = value

    @property
    def _maxsize(self):
        return self.given

    @_maxsize.setter
    def _maxsize(self, value):
        # Any number, as in asyncio: inf for no limit, too.
        if value <= 0 or value > sys.maxsize:
            self.limit = 0
        else:
            self.limit = ceil(value)
        self.given = value

    @property
    def _unfinished_tasks(self):
        return self.unfinished

    @_unfinished_tasks.setter
    def _unfinished_tasks(self, value):
        self.unfinished = value

    @property
    def _finished(self):
        return self.finish_line()

    @property
    def _is_shutdown(self):
        return self.ended

    @_is_shutdown.setter
    def _is_shutdown(self, value):
        self.ended = bool(value)

    @property
    def _getters(self):
        return Members(self.getters)

    @property
    def _putters(self):
        return Members(self.putters)

    def _wakeup_next(self, waiters):
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    def _format(self):
        shown = f"maxsize={self._maxsize!r}"
        if not self.nothing_left():
            shown += f" _queue={list(self._queue)!r}"
        if self.getters.count:
            shown += f" _getters[{self.getters.count}]"
        if self.putters.count:
            shown += f" _putters[{self.putters.count}]"
        if self.unfinished:
            shown += f" tasks={self.unfinished}"
        if self.ended:
            shown += " shutdown"
        return shown

    def __repr__(self):
        return f"<{type(self).__name__} at {id(self):#x} {self._format()}>"

    def __str__(self):
        return f"<{type(self).__name__} {self._format()}>"

    # The public interface.

    @property
    def maxsize(self):
        """How many items it holds at most; 0 or less: no limit."""
        return self.given

    def qsize(self):
        """How many items are in it."""
        return self.length()

    def empty(self):
        """Whether nothing is in it."""
        return self.nothing_left()

    def full(self):
        """Whether it holds as many items as it may."""
        if self.limit == 0:
            return False
        return (self.length() if self.plain else self.qsize()) >= self.limit

    def put(self, item):
        """Put an item in; wait while the queue is full. A coroutine.

        Raises QueueShutDown if the queue was shut down.
        """
        cdef Put put = <Put>puts_new()
        put.queue = self
        put.item = item
        return put

    def put_nowait(self, item):
        """Put an item in. Raises QueueFull if there is no room, QueueShutDown if the queue was shut down."""
        self.put_now(item)

    def get(self):
        """Take an item out and return it; wait while the queue is empty. A coroutine.

        Raises QueueShutDown if the queue was shut down and nothing is left.
        """
        cdef Get get = <Get>gets_new()
        get.queue = self
        return get

    def get_nowait(self):
        """Take an item out and return it. Raises QueueEmpty if there is none, QueueShutDown if there will be none."""
        return self.get_now()

    def task_done(self):
        """Say that what was to be done about an item taken out is done: see `join`.

        Raises ValueError if that was said of all items put in already.
        """
        if self.unfinished <= 0:
            raise ValueError("task_done() called too many times")
        self.unfinished -= 1
        if self.unfinished == 0 and self.finished is not None:
            self.finished.turn_on()

    def join(self):
        """Wait until `task_done` was called once for each item that was put in. A coroutine."""
        cdef Join join = Join.__new__(Join)
        join.queue = self
        return join

    def shutdown(self, immediate=False):
        """Nothing can be put in any more, and who waits for room gets QueueShutDown; who gets, when nothing is left.

        immediate: throw away what is in the queue, as if it had been taken out and done with.
        """
        self.ended = True
        if immediate:
            while not self.is_empty():
                self.take_item() if self.plain else self._get()
                if self.unfinished > 0:
                    self.unfinished -= 1
            if self.unfinished == 0 and self.finished is not None:
                self.finished.turn_on()
        while self.getters.wake_and_drop():
            pass
        while self.putters.wake_and_drop():
            pass

    # Inside.

    cdef int replaced(self, str name) except -1:
        if name in HOOKS:
            self.plain = False
        return 0

    cdef object content(self):
        alone(self, self.getters)
        alone(self, self.putters)
        if self.finished is not None:
            alone(self, self.finished.waiters)
        return self._maxsize, self._queue, self.unfinished, self.ended

    cdef int fill(self, object content) except -1:
        self._maxsize, self.store, self.unfinished, self.ended = content
        return 0

    cdef Py_ssize_t length(self) except -1:
        return self.count if self.store is None else len(self.store)

    cdef bint nothing_left(self) except -1:
        return self.count == 0 if self.store is None else not self.store

    cdef int store_item(self, object item) except -1:
        cdef Py_ssize_t place
        if self.store is not None:
            self.store.append(item)
            return 0
        if self.ring is None or self.count == PyList_GET_SIZE(self.ring):
            self.grow()
        place = (self.head + self.count) & (PyList_GET_SIZE(self.ring) - 1)
        self.ring[place] = item
        self.count += 1
        return 0

    cdef object take_item(self):
        cdef Py_ssize_t place = self.head
        if self.store is not None:
            return self.store.popleft()
        if self.count == 0:
            raise IndexError("pop from an empty deque")
        item = self.ring[place]
        self.ring[place] = None
        self.head = (place + 1) & (PyList_GET_SIZE(self.ring) - 1)
        self.count -= 1
        if self.count == 0 and PyList_GET_SIZE(self.ring) > KEPT:
            self.ring = None
            self.head = 0
        return item

    cdef int grow(self) except -1:
        # The size is a power of 2. Doubled in place, so that there are never two tables: then everything stands there
        # twice, and of each item the place stays that follows on the one before.
        cdef list ring = self.ring
        cdef Py_ssize_t size, i
        if ring is None:
            self.ring = [None] * 8
            self.head = 0
            return 0
        size = len(ring)
        ring *= 2
        for i in range(self.head):
            ring[i] = None
        for i in range(size + self.head, 2 * size):
            ring[i] = None
        return 0

    cdef bint is_empty(self) except -1:
        return self.nothing_left() if self.plain else bool(self.empty())

    cdef bint is_full(self) except -1:
        if self.plain:
            return self.limit != 0 and self.length() >= self.limit
        return bool(self.full())

    cdef int put_now(self, object item) except -1:
        if self.ended:
            raise QueueShutDown
        if self.is_full():
            raise QueueFull
        if self.plain:
            self.store_item(item)
        else:
            self._put(item)
        self.unfinished += 1
        if self.finished is not None:
            self.finished.value = False
        if self.getters.count:
            self.getters.wake_and_drop()
        return 0

    cdef object get_now(self):
        if self.is_empty():
            if self.ended:
                raise QueueShutDown
            raise QueueEmpty
        item = self.take_item() if self.plain else self._get()
        if self.putters.count:
            self.putters.wake_and_drop()
        return item

    cdef Event finish_line(self):
        if self.finished is None:
            self.finished = Event()
            self.finished.value = self.unfinished == 0
        return self.finished


cdef class PriorityQueue(Queue):
    """PriorityQueue(maxsize=0)\n--

    A Queue that gives the smallest item first. Items are typically tuples (priority, data).

    Source: asyncio.PriorityQueue.
    """

    @property
    def __class__(self):
        return shown_as(self, asyncio.queues.PriorityQueue)

    def _init(self, maxsize):
        self.store = []

    cdef int store_item(self, object item) except -1:
        heappush(self.store, item)
        return 0

    cdef object take_item(self):
        return heappop(self.store)


cdef class LifoQueue(Queue):
    """LifoQueue(maxsize=0)\n--

    A Queue that gives the item first that was put in last.

    Source: asyncio.LifoQueue.
    """

    @property
    def __class__(self):
        return shown_as(self, asyncio.queues.LifoQueue)

    def _init(self, maxsize):
        self.store = []

    cdef int store_item(self, object item) except -1:
        self.store.append(item)
        return 0

    cdef object take_item(self):
        return self.store.pop()


@cython.internal
cdef class Put(Parked):
    cdef Queue queue
    cdef object item

    @property
    def __qualname__(self):
        return "Queue.put"

    cdef int begin(self) except -1:
        return self.look()

    cdef int again(self) except -1:
        self.leave()
        return self.look()

    cdef int look(self) except -1:
        cdef Queue queue = self.queue
        if queue.is_full():
            if queue.ended:
                raise QueueShutDown
            self.park(queue, queue.putters)
            return WAIT
        if queue.plain:
            queue.put_now(self.item)
            self.value = None
        else:
            self.value = queue.put_nowait(self.item)
        return DONE

    cdef int dropped(self, object error) except -1:
        if self.leave() and not self.queue.is_full():
            self.queue.putters.wake_and_drop()
        return RAISE


@cython.internal
cdef class Get(Parked):
    cdef Queue queue

    @property
    def __qualname__(self):
        return "Queue.get"

    cdef int begin(self) except -1:
        return self.look()

    cdef int again(self) except -1:
        self.leave()
        return self.look()

    cdef int look(self) except -1:
        cdef Queue queue = self.queue
        if queue.is_empty():
            if queue.ended:
                raise QueueShutDown
            self.park(queue, queue.getters)
            return WAIT
        self.value = queue.get_now() if queue.plain else queue.get_nowait()
        return DONE

    cdef int dropped(self, object error) except -1:
        if self.leave() and not self.queue.is_empty():
            self.queue.getters.wake_and_drop()
        return RAISE


@cython.internal
cdef class Join(EventWait):
    cdef Queue queue

    @property
    def __qualname__(self):
        return "Queue.join"

    cdef int begin(self) except -1:
        if self.queue.unfinished <= 0:
            return DONE
        self.event = self.queue.finish_line()
        return EventWait.begin(self)


mark_coroutine_functions(Queue.put, Queue.get, Queue.join)
noria_let_be_patched(Queue)
noria_let_be_patched(PriorityQueue)
noria_let_be_patched(LifoQueue)


cdef extern from *:
    """
    #include "pool.h"
    NORIA_STOCK(puts, 128)
    NORIA_STOCK(gets, 128)
    """
    void puts_stock(object type, int (*empty)(PyObject*) noexcept)
    object puts_new()
    void gets_stock(object type, int (*empty)(PyObject*) noexcept)
    object gets_new()

cdef int renew_put(PyObject* o) noexcept:
    cdef Put waiter = <Put>o
    if not Parked.renew(waiter):
        return 0
    waiter.queue = None
    waiter.item = None
    return 1

puts_stock(Put, renew_put)


cdef int renew_get(PyObject* o) noexcept:
    cdef Get waiter = <Get>o
    if not Parked.renew(waiter):
        return 0
    waiter.queue = None
    return 1

gets_stock(Get, renew_get)
