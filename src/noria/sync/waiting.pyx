"""wait and as_completed: for several futures, in the order in which they end.

`wait` is one object: what the task waits for, the timer's entry in the heap, and what each future tells that it is
done. Only the future that ends the wait has anything queued.
"""

cimport cython

from noria.core.capi cimport noria_monotonic
from noria.core.futures cimport FINISHED, PENDING, BaseFuture
from noria.core.loop cimport CoreLoop
from noria.core.waits cimport DONE, RAISE, WAIT, Waiter, running_loop
from noria.core.wheel cimport Ready, push
from noria.sync.tasks cimport to_future, unwatch, watch

import asyncio.coroutines
import asyncio.events
import asyncio.tasks
import inspect
from collections import deque

from noria.core._marks import mark_coroutine_functions
from noria.sync.tasks import isfuture

cdef object ALL_COMPLETED = asyncio.tasks.ALL_COMPLETED
cdef object FIRST_COMPLETED = asyncio.tasks.FIRST_COMPLETED
cdef object FIRST_EXCEPTION = asyncio.tasks.FIRST_EXCEPTION
cdef object iscoroutine = asyncio.coroutines.iscoroutine
cdef object get_event_loop = asyncio.events.get_event_loop


# wait.

cdef enum Until:
    ALL
    FIRST
    FIRST_ERROR


@cython.internal
cdef class Wait(Waiter):
    cdef object fs               # what was given; once begun, the set of futures
    cdef object timeout
    cdef object return_when
    cdef object handle           # the timer on a loop that is not ours, or keeps a time of its own
    cdef object callback         # for futures that cannot tell us themselves
    cdef Py_ssize_t place        # in the loop's heap of timers; -1 when not in it
    cdef Py_ssize_t left
    cdef char until
    cdef bint over               # queued, to wake who waits

    def __cinit__(self):
        self.place = -1

    @property
    def __qualname__(self):
        return "wait"

    cdef int begin(self) except -1:
        cdef CoreLoop core
        fs = self.fs
        if isfuture(fs) or (iscoroutine(fs) and not inspect.isgenerator(fs)):  # which 3.11 takes for coroutines
            raise TypeError(f"expect a list of futures, not {type(fs).__name__}")
        if not fs:
            raise ValueError("Set of Tasks/Futures is empty.")
        if self.return_when == ALL_COMPLETED:
            self.until = ALL
        elif self.return_when == FIRST_COMPLETED:
            self.until = FIRST
        elif self.return_when == FIRST_EXCEPTION:
            self.until = FIRST_ERROR
        else:
            raise ValueError(f"Invalid return_when value: {self.return_when}")
        fs = set(fs)
        for future in fs:
            if iscoroutine(future):
                raise TypeError("Passing coroutines is forbidden, use tasks explicitly.")
        self.fs = fs
        self.arm(running_loop())
        self.callback = self._told
        self.left = len(fs)
        if self.timeout is not None:
            if self.wheel is not None and (<CoreLoop>self.wheel).own_clock:
                core = <CoreLoop>self.wheel
                if self.timeout <= 0:
                    core.timer_due = True
                core.timers.add(noria_monotonic() + self.timeout, self, &self.place)
            else:
                self.handle = self.loop.call_later(self.timeout, self._wake)
        for future in fs:
            watch(future, self.loop, self, self.callback)
        return WAIT

    cdef int told(self, Ready future) except -1:
        cdef BaseFuture done = <BaseFuture>future
        cdef bint enough
        self.left -= 1
        enough = self.left <= 0 or self.until == FIRST
        if not enough and self.until == FIRST_ERROR and done.error is not None:
            done.unseen = False
            enough = True
        if enough and not self.over:
            self.over = True
            push(self.wheel, self)
        return 0

    def _told(self, future):
        self.left -= 1
        if (self.left <= 0 or self.until == FIRST or (
                self.until == FIRST_ERROR and not future.cancelled() and future.exception() is not None)):
            self.run()

    cdef int run(self) except -1:
        # Enough of them have ended, or the time is up.
        if self.state == PENDING:
            self.state = FINISHED
            self.finish()
        return 0

    def _wake(self):
        self.run()

    cdef int let_go(self) except -1:
        if self.place >= 0:
            (<CoreLoop>self.wheel).timers.drop(self.place)
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None
        callback, self.callback = self.callback, None
        if callback is not None:
            for future in self.fs:
                unwatch(future, self.loop, self, callback)
        return 0

    cdef int again(self) except -1:
        self.let_go()
        done = set()
        pending = set()
        for future in self.fs:
            if (<BaseFuture>future).state != PENDING if isinstance(future, BaseFuture) else future.done():
                done.add(future)
            else:
                pending.add(future)
        self.fs = None
        self.value = (done, pending)
        return DONE

    cdef int dropped(self, object error) except -1:
        self.let_go()
        return RAISE


def wait(fs, *, timeout=None, return_when=ALL_COMPLETED):
    """Wait until the futures or tasks in fs have ended; returns two sets, of those that have and those that have not.

    timeout: seconds, None for ever; no error is raised when it is up. return_when: FIRST_COMPLETED, FIRST_EXCEPTION or
    ALL_COMPLETED. Nothing is cancelled.

    A coroutine. Raises TypeError for coroutines, ValueError if there are none or for another return_when.

    Source: asyncio.wait.
    """
    cdef Wait waiter = Wait.__new__(Wait)
    waiter.fs = fs
    waiter.timeout = timeout
    waiter.return_when = return_when
    return waiter


mark_coroutine_functions(wait)


# as_completed.

cdef class _AsCompletedIterator(Ready):
    """What as_completed() returns: an iterator of coroutines, or an asynchronous iterator of futures."""
    cdef object __weakref__
    cdef object loop
    cdef set todo                # those that have not ended
    cdef object ended            # deque of the others, in order, while nobody has taken them; None: out of time
    cdef object news             # deque: told, and in the ready queue
    cdef object waiting          # deque of Next
    cdef object handle           # the timer
    cdef object callback
    cdef Py_ssize_t left         # not yet handed out

    cdef int start(self, object fs, object timeout) except -1:
        self.ended = deque()
        self.news = deque()
        self.waiting = deque()
        self.loop = get_event_loop()
        self.todo = {to_future(one, self.loop) for one in set(fs)}
        self.left = len(self.todo)
        self.callback = self._told
        for future in list(self.todo):
            watch(future, self.loop, self, self.callback)
        if self.todo and timeout is not None:
            self.handle = self.loop.call_later(timeout, self._out_of_time)
        return 0

    cdef int told(self, Ready future) except -1:
        self.news.append(future)
        push(<CoreLoop>self.loop, self)
        return 0

    cdef int run(self) except -1:
        self._told(self.news.popleft())
        return 0

    def _told(self, future):
        if future not in self.todo:
            return  # the time was up before
        self.todo.remove(future)
        self.put(future)
        if not self.todo:
            self.callback = None
            if self.handle is not None:
                self.handle.cancel()
                self.handle = None

    def _out_of_time(self):
        self.handle = None
        callback, self.callback = self.callback, None
        todo, self.todo = self.todo, set()
        for future in todo:
            unwatch(future, self.loop, self, callback)
            self.put(None)

    cdef int put(self, object future) except -1:
        self.ended.append(future)
        return self.wake()

    cdef int wake(self) except -1:
        # The one who has waited longest may look.
        cdef Next first
        while self.waiting:
            first = <Next>self.waiting.popleft()
            if first.state == PENDING:
                first.resolve(None)
                break
        return 0

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= 1
        return next_of(self, True)

    def __aiter__(self):
        return self

    def __anext__(self):
        return next_of(self, False)


@cython.internal
cdef class Next(Waiter):
    # The next to end.
    cdef _AsCompletedIterator of
    cdef bint plain              # of the plain iterator: the result is wanted

    @property
    def __qualname__(self):
        return "_AsCompletedIterator._wait_for_one" if self.plain else "_AsCompletedIterator.__anext__"

    cdef int begin(self) except -1:
        if not self.plain:
            if not self.of.left:
                raise StopAsyncIteration
            self.of.left -= 1
        if self.of.ended:
            return self.take()
        self.arm(running_loop())
        self.of.waiting.append(self)
        return WAIT

    cdef int again(self) except -1:
        if self.of.ended:
            return self.take()
        self.rearm()
        self.of.waiting.append(self)
        return WAIT

    cdef int take(self) except -1:
        future = self.of.ended.popleft()
        if future is None:
            raise TimeoutError
        self.value = future.result() if self.plain else future
        return DONE

    cdef int dropped(self, object error) except -1:
        if self in self.of.waiting:
            self.of.waiting.remove(self)
        elif self.of.ended:
            self.of.wake()  # it was our turn: the next one's, then
        return RAISE


cdef Next next_of(_AsCompletedIterator iterator, bint plain):
    cdef Next waiter = Next.__new__(Next)
    waiter.of = iterator
    waiter.plain = plain
    return waiter


def as_completed(fs, *, timeout=None):
    """The awaitables in fs, run at the same time, in the order in which they end.

    Asynchronous iteration yields the futures and tasks themselves (tasks made for what was none); plain iteration
    yields coroutines, each of which returns the result, or raises the exception, of the next to end. timeout: seconds
    until both raise TimeoutError; None: never. Raises TypeError if fs is itself awaitable.

    Source: asyncio.as_completed, as of 3.13.
    """
    cdef _AsCompletedIterator iterator
    if inspect.isawaitable(fs):
        raise TypeError(f"expects an iterable of awaitables, not {type(fs).__name__}")
    iterator = _AsCompletedIterator.__new__(_AsCompletedIterator)
    iterator.start(fs, timeout)
    return iterator


cdef extern from *:
    """
    #include "pool.h"
    NORIA_POOL(waits, 32)
    NORIA_POOL(nexts, 64)
    """
    void waits_pool(object type)
    void nexts_pool(object type)

waits_pool(Wait)
nexts_pool(Next)
