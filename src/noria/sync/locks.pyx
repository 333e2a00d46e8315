"""Lock, Event, Semaphore, BoundedSemaphore and Condition.

They promise what asyncio's of CPython 3.13 do, on every interpreter and on any loop: who is woken, in which order and
in which turn of the loop; that a wake-up which comes too late for a cancelled waiter goes on to the next one.
What can be done at once is done without suspending. Not thread-safe, as asyncio's.

`isinstance(lock, asyncio.Lock)` holds by `__class__`, since programs check what they are given. In a program's own
subclass it is the subclass, as usual. Where one overrides `acquire` or `release`, those are what is called.
"""

from cpython.object cimport PyObject

cimport cython

from noria.core.capi cimport noria_let_be_patched
from noria.core.waits cimport DONE, RAISE, WAIT, done
from noria.sync.lines cimport Line, LoopBound, Parked, alone, inherits, shown_as

import asyncio.exceptions
import asyncio.locks

from noria.core._marks import mark_coroutine_functions

cdef object CancelledError = asyncio.exceptions.CancelledError


cdef str described(object self, str state, Line waiters):
    if waiters.count:
        state = f"{state}, waiters:{waiters.count}"
    return f"<{object.__repr__(self)[1:-1]} [{state}]>"


async def acquire_of(lock):
    """Enter a lock whose `acquire` a program has overridden."""
    await lock.acquire()


# Lock

cdef class Lock(LoopBound):
    """Lock()\n--

    One task at a time: who acquires it has it until somebody releases it.

    Those who wait get it in the order they came. `async with lock:` acquires and releases.

    Source: asyncio.Lock.
    """

    def __cinit__(self):
        self.waiters = Line.__new__(Line)
        self.plain = inherits(self, ("acquire", "release", "locked"))

    def __init__(self):
        self.taken = False

    @property
    def __class__(self):
        return shown_as(self, asyncio.locks.Lock)

    @property
    def _locked(self):
        return self.taken

    @property
    def _waiters(self):
        return self.waiters.members()

    def __repr__(self):
        return described(self, "locked" if self.taken else "unlocked", self.waiters)

    def locked(self):
        """Whether somebody has it."""
        return self.taken

    def acquire(self):
        """Wait until it is free, and take it. Returns True. A coroutine."""
        cdef Acquire wait = <Acquire>acquires_new()
        wait.lock = self
        wait.value = True
        return wait

    def release(self):
        """Give it back, and wake the first who waits. Raises RuntimeError if nobody has it."""
        self.give_back()

    def __aenter__(self):
        cdef Acquire wait
        if not self.plain:
            return acquire_of(self)
        wait = <Acquire>acquires_new()
        wait.lock = self
        return wait

    def __aexit__(self, exc_type, exc, tb):
        if self.plain:
            self.give_back()
        else:
            self.release()
        return done

    cdef bint take(self) noexcept:
        # Who was woken has not run yet and comes first; a line of cancelled ones can be passed.
        if self.taken or (self.waiters.count and not self.waiters.all_cancelled()):
            return False
        self.taken = True
        return True

    cdef int replaced(self, str name) except -1:
        if name in ("acquire", "release", "locked"):
            self.plain = False
        return 0

    cdef object content(self):
        alone(self, self.waiters)
        return self.taken

    cdef int fill(self, object content) except -1:
        self.taken = content
        return 0

    def _wake_up_first(self):
        self.waiters.wake_first()

    cdef int give_back(self) except -1:
        if not self.taken:
            raise RuntimeError("Lock is not acquired.")
        self.taken = False
        return self.waiters.wake_first()


@cython.internal
cdef class Acquire(Parked):
    cdef Lock lock

    @property
    def __qualname__(self):
        return "Lock.acquire"

    cdef int begin(self) except -1:
        if self.lock.take():
            return DONE
        self.park(self.lock, self.lock.waiters)
        return WAIT

    cdef int again(self) except -1:
        self.leave()
        self.lock.taken = True
        return DONE

    cdef int dropped(self, object error) except -1:
        self.leave()
        if not self.lock.taken:
            self.lock.waiters.wake_first()
        return RAISE


# Event

cdef class Event(LoopBound):
    """Event()\n--

    A flag to wait for. `set()` wakes everybody who waits; while it is set nobody has to.

    Source: asyncio.Event.
    """

    def __cinit__(self):
        self.waiters = Line.__new__(Line)

    def __init__(self):
        self.value = False

    @property
    def __class__(self):
        return shown_as(self, asyncio.locks.Event)

    @property
    def _value(self):
        return self.value

    @property
    def _waiters(self):
        return self.waiters.members()

    def __repr__(self):
        return described(self, "set" if self.value else "unset", self.waiters)

    def is_set(self):
        """Whether the flag is set."""
        return self.value

    def set(self):
        """Set the flag, and wake everybody who waits for it."""
        self.turn_on()

    def clear(self):
        """Take the flag down: from now on `wait` waits."""
        self.value = False

    def wait(self):
        """Wait until the flag is set. Returns True. A coroutine."""
        cdef EventWait wait = <EventWait>events_new()
        wait.event = self
        wait.answer = True
        return wait

    cdef object content(self):
        alone(self, self.waiters)
        return self.value

    cdef int fill(self, object content) except -1:
        self.value = content
        return 0

    cdef int turn_on(self) except -1:
        if not self.value:
            self.value = True
            while self.waiters.wake_next():
                pass
        return 0


cdef class EventWait(Parked):
    """What `Event.wait` returns."""

    @property
    def __qualname__(self):
        return "Event.wait"

    cdef int begin(self) except -1:
        if self.event.value:
            self.value = self.answer
            return DONE
        self.park(self.event, self.event.waiters)
        return WAIT

    cdef int again(self) except -1:
        self.leave()
        self.value = self.answer
        return DONE

    cdef int dropped(self, object error) except -1:
        self.leave()
        return RAISE


# Semaphore

cdef class Semaphore(LoopBound):
    """Semaphore(value=1)\n--

    So many tasks at a time: a counter that `acquire` takes down, waiting while it is 0, and `release` takes up.

    Those who wait get in in the order they came. `async with semaphore:` acquires and releases.

    value: where the counter starts. Raises ValueError if it is negative.

    Source: asyncio.Semaphore.
    """

    def __cinit__(self):
        self.waiters = Line.__new__(Line)
        self.plain = inherits(self, ("acquire", "release"))

    def __init__(self, value=1):
        if value < 0:
            raise ValueError("Semaphore initial value must be >= 0")
        self._value = value

    @property
    def __class__(self):
        return shown_as(self, asyncio.locks.Semaphore)

    @property
    def _waiters(self):
        return self.waiters.members()

    def __repr__(self):
        return described(self, "locked" if self.locked() else f"unlocked, value:{self._value}", self.waiters)

    def locked(self):
        """Whether `acquire` would have to wait: the counter is 0, or others came first."""
        return self.full()

    def acquire(self):
        """Wait until the counter is above 0 and everybody who came first had theirs, and take it down by one.

        Returns True. A coroutine.
        """
        cdef Enter wait = <Enter>enters_new()
        wait.semaphore = self
        wait.value = True
        return wait

    def release(self):
        """Take the counter up by one, and wake the first who waits. A BoundedSemaphore raises ValueError if the counter
        is where it started."""
        self.give_back()

    def __aenter__(self):
        cdef Enter wait
        if not self.plain:
            return acquire_of(self)
        wait = <Enter>enters_new()
        wait.semaphore = self
        return wait

    def __aexit__(self, exc_type, exc, tb):
        if self.plain:
            self.give_back()
        else:
            self.release()
        return done

    cdef int replaced(self, str name) except -1:
        if name in ("acquire", "release"):
            self.plain = False
        return 0

    cdef object content(self):
        alone(self, self.waiters)
        return self._value

    cdef int fill(self, object content) except -1:
        self._value = content
        return 0

    def _wake_up_next(self):
        # For subclasses that change the counter by themselves. Whether somebody was woken.
        if not self.waiters.wake_next():
            return False
        self._value -= 1
        return True

    cdef bint full(self) except -1:
        return self._value == 0 or (self.waiters.count and not self.waiters.all_cancelled())

    cdef int give_back(self) except -1:
        # Whom it wakes has his place already: the counter goes up by one and down again.
        if not self.waiters.wake_next():
            self._value += 1
        return 0

    cdef int pass_on(self) except -1:
        # Those who came while somebody was woken had to wait even if the counter was above 0.
        while self._value > 0 and self.waiters.wake_next():
            self._value -= 1
        return 0


@cython.internal
cdef class Enter(Parked):
    cdef Semaphore semaphore

    @property
    def __qualname__(self):
        return "Semaphore.acquire"

    cdef int begin(self) except -1:
        if not self.semaphore.full():
            self.semaphore._value -= 1
            return DONE
        self.park(self.semaphore, self.semaphore.waiters)
        return WAIT

    cdef int again(self) except -1:
        self.leave()
        self.semaphore.pass_on()
        return DONE

    cdef int dropped(self, object error) except -1:
        if self.leave():
            self.semaphore._value += 1
        self.semaphore.pass_on()
        return RAISE


cdef class BoundedSemaphore(Semaphore):
    """BoundedSemaphore(value=1)\n--

    A semaphore whose counter may not go above where it started: `release` raises ValueError then.

    Source: asyncio.BoundedSemaphore.
    """

    def __init__(self, value=1):
        self._bound_value = value
        Semaphore.__init__(self, value)

    @property
    def __class__(self):
        return shown_as(self, asyncio.locks.BoundedSemaphore)

    cdef object content(self):
        return Semaphore.content(self), self._bound_value

    cdef int fill(self, object content) except -1:
        self._value, self._bound_value = content
        return 0

    cdef int give_back(self) except -1:
        if self._value >= self._bound_value:
            raise ValueError("BoundedSemaphore released too many times")
        return Semaphore.give_back(self)


# Condition

cdef class Condition(LoopBound):
    """Condition(lock=None)\n--

    Tasks that share a lock wait for a notice from one another. `async with condition:` takes the lock.

    lock: the Lock to use; by default one of its own.

    Source: asyncio.Condition.
    """

    def __cinit__(self):
        self.waiters = Line.__new__(Line)

    def __init__(self, lock=None):
        if lock is None:
            lock = Lock()
        self.fill(lock)

    @property
    def __class__(self):
        return shown_as(self, asyncio.locks.Condition)

    @property
    def _lock(self):
        return self.lock

    @property
    def _waiters(self):
        return self.waiters.members()

    def __repr__(self):
        return described(self, "locked" if self.locked() else "unlocked", self.waiters)

    def locked(self):
        """Whether somebody has the lock."""
        return self.lock.locked()

    def acquire(self):
        """Acquire the lock. A coroutine."""
        return self.lock.acquire()

    def release(self):
        """Release the lock."""
        return self.lock.release()

    def __aenter__(self):
        if self.native is not None:
            return self.native.__aenter__()
        return acquire_of(self)

    def __aexit__(self, exc_type, exc, tb):
        if self.native is not None:
            self.native.give_back()
        else:
            self.release()
        return done

    def wait(self):
        """Release the lock, wait for a notice, and acquire the lock again. Returns True. A coroutine.

        Raises RuntimeError if nobody has the lock. It may return without a notice meant for it: look again at what you
        wait for. When it is cancelled it still acquires the lock first, and passes on a notice it may have got.
        """
        cdef Wait wait
        if self.native is None:
            return wait_for_notice(self)
        wait = <Wait>waits_new()
        wait.condition = self
        return wait

    def wait_for(self, predicate):
        """`wait` until predicate() is true. Returns what it returned. A coroutine."""
        cdef Wait wait
        if self.native is None:
            return wait_for_truth(self, predicate)
        wait = <Wait>waits_new()
        wait.condition = self
        wait.predicate = predicate
        wait.asks = True
        return wait

    def notify(self, n=1):
        """Give a notice to the first n who wait. They go on when they get the lock.

        Raises RuntimeError if nobody has the lock.
        """
        if not (self.native.taken if self.native is not None else self.locked()):
            raise RuntimeError("cannot notify on un-acquired lock")
        self.wake(n)

    def _notify(self, n):
        self.wake(n)

    def notify_all(self):
        """Give a notice to everybody who waits. Raises RuntimeError if nobody has the lock."""
        self.notify(self.waiters.count)

    cdef int replaced(self, str name) except -1:
        if name in ("locked", "acquire", "release", "wait"):
            self.native = None
        return 0

    cdef object content(self):
        alone(self, self.waiters)
        return self.lock

    cdef int fill(self, object lock) except -1:
        if not isinstance(lock, Lock):
            lock.locked, lock.acquire, lock.release  # AttributeError now rather than later
        self.lock = lock
        self.native = None
        if isinstance(lock, Lock) and (<Lock>lock).plain:
            if inherits(self, ("locked", "acquire", "release", "wait")):
                self.native = <Lock>lock
        return 0

    cdef int wake(self, object n) except -1:
        cdef Py_ssize_t woken = 0
        while woken < n and self.waiters.wake_next():
            woken += 1
        return 0


@cython.internal
cdef class Wait(Parked):
    """Waits in the line of the condition, then in that of the lock."""
    cdef Condition condition
    cdef object predicate
    cdef object failure          # what to raise as soon as the lock is ours again
    cdef bint asks               # wait_for: there is a predicate
    cdef bint returning          # on the way back to the lock

    @property
    def __qualname__(self):
        return "Condition.wait_for" if self.asks else "Condition.wait"

    cdef int begin(self) except -1:
        if self.asks:
            self.value = self.predicate()
            if self.value:
                return DONE
        return self.let_go()

    cdef int let_go(self) except -1:
        cdef Condition condition = self.condition
        if not condition.native.taken:
            raise RuntimeError("cannot wait on un-acquired lock")
        condition.bind()
        condition.native.give_back()
        self.returning = False
        self.park(condition, condition.waiters)
        return WAIT

    cdef int again(self) except -1:
        self.leave()
        if not self.returning:
            return self.come_back()
        self.condition.native.taken = True
        return self.go_on()

    cdef int come_back(self) except -1:
        cdef Lock lock = self.condition.native
        self.returning = True
        if lock.take():
            return self.go_on()
        self.park(lock, lock.waiters)
        return WAIT

    cdef int go_on(self) except -1:
        # The lock is ours.
        if self.failure is not None:
            failure, self.failure = self.failure, None
            self.condition.wake(1)
            raise failure
        if not self.asks:
            self.value = True
            return DONE
        self.value = self.predicate()
        return DONE if self.value else self.let_go()

    cdef int dropped(self, object error) except -1:
        cdef Lock lock = self.condition.native
        self.leave()
        if self.returning:
            if not lock.taken:
                lock.waiters.wake_first()
            if not isinstance(error, CancelledError):
                self.condition.wake(1)
                return RAISE
        self.failure = error
        return self.come_back()


# The same with a lock of another make, or methods overridden: through Python, as written.

@cython.internal
cdef class Notice(Parked):
    cdef Condition condition

    cdef int begin(self) except -1:
        self.condition.waiters.join(self)
        return WAIT

    cdef int again(self) except -1:
        self.leave()
        return DONE

    cdef int dropped(self, object error) except -1:
        self.leave()
        return RAISE


async def wait_for_notice(Condition condition):
    """Condition.wait by the public methods of the condition."""
    cdef Notice notice
    if not condition.locked():
        raise RuntimeError("cannot wait on un-acquired lock")
    notice = Notice.__new__(Notice)
    notice.condition = condition
    notice.arm(condition.bind())
    condition.release()
    try:
        try:
            await notice
            return True
        finally:
            await acquire_in_any_case(condition)
    except BaseException:
        condition.wake(1)
        raise


async def acquire_in_any_case(condition):
    """Acquire, even if cancelled meanwhile; that is raised afterwards."""
    cancelled = None
    while True:
        try:
            await condition.acquire()
            break
        except CancelledError as error:
            cancelled = error
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            cancelled = None  # no cycle through the traceback


async def wait_for_truth(condition, predicate):
    """Condition.wait_for by the public methods of the condition."""
    while not (answer := predicate()):
        await condition.wait()
    return answer


mark_coroutine_functions(
    Lock.acquire, Lock.__aenter__, Lock.__aexit__, Event.wait,
    Semaphore.acquire, Semaphore.__aenter__, Semaphore.__aexit__,
    Condition.acquire, Condition.__aenter__, Condition.__aexit__, Condition.wait, Condition.wait_for,
)
noria_let_be_patched(Lock)
noria_let_be_patched(Event)
noria_let_be_patched(Semaphore)
noria_let_be_patched(BoundedSemaphore)
noria_let_be_patched(Condition)


cdef extern from *:
    """
    #include "pool.h"
    NORIA_STOCK(acquires, 128)
    NORIA_STOCK(enters, 128)
    NORIA_STOCK(events, 128)
    NORIA_STOCK(waits, 128)
    """
    void acquires_stock(object type, int (*empty)(PyObject*) noexcept)
    object acquires_new()
    void enters_stock(object type, int (*empty)(PyObject*) noexcept)
    object enters_new()
    void events_stock(object type, int (*empty)(PyObject*) noexcept)
    object events_new()
    void waits_stock(object type, int (*empty)(PyObject*) noexcept)
    object waits_new()


cdef int renew_acquire(PyObject* o) noexcept:
    cdef Acquire waiter = <Acquire>o
    if not Parked.renew(waiter):
        return 0
    waiter.lock = None
    return 1

acquires_stock(Acquire, renew_acquire)


cdef int renew_enter(PyObject* o) noexcept:
    cdef Enter waiter = <Enter>o
    if not Parked.renew(waiter):
        return 0
    waiter.semaphore = None
    return 1

enters_stock(Enter, renew_enter)


cdef int renew_eventwait(PyObject* o) noexcept:
    cdef EventWait waiter = <EventWait>o
    if not Parked.renew(waiter):
        return 0
    waiter.event = None
    return 1

events_stock(EventWait, renew_eventwait)


cdef int renew_wait(PyObject* o) noexcept:
    cdef Wait waiter = <Wait>o
    if not Parked.renew(waiter):
        return 0
    waiter.condition = None
    waiter.predicate = waiter.failure = None
    waiter.asks = waiter.returning = False
    return 1

waits_stock(Wait, renew_wait)
