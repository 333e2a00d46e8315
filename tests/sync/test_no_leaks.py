"""Nothing is left by any of the primitives, and no wake-up is lost.

Three statements, each about every primitive, on noria's loop and on asyncio's:

- Used as usual, cancelled or timed out, it leaves nothing: what took part is gone without the help of the collector,
  and the collector, asked afterwards, finds nothing.
- A waiter that is cancelled, or whose time is up, in the turn in which it is woken hands on what it was woken for: of
  permits, items and places none is lost and none is there twice, whatever the order of the two.
- What waits for tasks or time ends in order when both come in the same turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import noria
from sync.loops import Run, turns

REPEAT = 40
Refs = list[Callable[[], object]]
Piece = Callable[[Refs], Awaitable[None]]


def watch(refs: Refs, *things: Any) -> Any:
    """Note the things, to ask later whether they are gone; returns the first."""
    refs.extend(weakref.ref(thing) for thing in things)
    return things[0]


async def ends_with(kind: type[BaseException], awaitables: list[Any]) -> None:
    """Each of the awaitables raises an exception of this kind. The list is emptied.

    (The exception of a future refers to the frames it came through, and these to the ones that called them. Were there
    one that refers to the future, that would be a cycle of the test's own making, in asyncio as here.)
    """
    while awaitables:
        try:
            await awaitables.pop()
        except kind:
            continue
        raise AssertionError(f"no {kind.__name__}")


async def cancelled(awaitable: list[asyncio.Future[Any]] | asyncio.Future[Any]) -> None:
    """Cancel somebody who waits, and see it through."""
    waiting = awaitable if isinstance(awaitable, list) else [awaitable]
    del awaitable
    waiting[0].cancel()
    await ends_with(asyncio.CancelledError, waiting)


async def spawned(refs: Refs, coro: Any) -> asyncio.Task[Any]:
    """A task for an operation that will have to wait, once it waits. Noted, and so is the operation."""
    task: asyncio.Task[Any] = asyncio.create_task(coro)
    watch(refs, task, coro)
    await turns(1)
    assert not task.done()
    return task


# What is left: the pieces. Each uses one primitive in every way there is, cancels one who waits and lets one run
# out of time.


async def lock(refs: Refs) -> None:
    lock = watch(refs, noria.Lock())
    async with lock:
        first, second, third = [await spawned(refs, lock.acquire()) for _ in range(3)]
        await cancelled(second)
        await no_time(lock.acquire, refs)
    assert await first is True
    lock.release()
    assert await third is True
    lock.release()
    assert not lock.locked()


async def event(refs: Refs) -> None:
    event = watch(refs, noria.Event())
    first, second = [await spawned(refs, event.wait()) for _ in range(2)]
    await cancelled(first)
    await no_time(event.wait, refs)
    event.set()
    assert await second is True
    assert await event.wait() is True


async def condition(refs: Refs) -> None:
    condition = watch(refs, noria.Condition())
    ready = False

    async def wait() -> None:
        async with condition:
            await condition.wait()

    async def wait_for() -> None:
        async with condition:
            await condition.wait_for(lambda: ready)

    first, second, third = [await spawned(refs, each()) for each in (wait, wait, wait_for)]
    await cancelled(first)
    await no_time(wait, refs)
    await no_time(wait_for, refs)
    ready = True
    async with condition:
        condition.notify_all()
    await second
    await third
    assert not condition.locked()


def semaphores(kind: Any) -> Piece:
    async def semaphore(refs: Refs) -> None:
        semaphore = watch(refs, kind(2))
        async with semaphore, semaphore:
            first, second = [await spawned(refs, semaphore.acquire()) for _ in range(2)]
            await cancelled(first)
            await no_time(semaphore.acquire, refs)
        await second
        semaphore.release()
        assert semaphore._value == 2

    return semaphore


async def barrier(refs: Refs) -> None:
    barrier = watch(refs, noria.Barrier(2))
    await cancelled(await spawned(refs, barrier.wait()))
    await no_time(barrier.wait, refs)
    task = await spawned(refs, barrier.wait())
    async with barrier as position:
        assert position == 1
    assert await task == 0
    broken = [await spawned(refs, barrier.wait())]
    await barrier.abort()
    await ends_with(asyncio.BrokenBarrierError, broken)


class Item:
    """To be put into a queue."""

    def __lt__(self, other: Item) -> bool:
        return False


def queues(kind: Any) -> Piece:
    async def queue(refs: Refs) -> None:
        queue = watch(refs, kind(1))
        first, second = [await spawned(refs, queue.get()) for _ in range(2)]
        await cancelled(first)
        await no_time(queue.get, refs)
        await queue.put(watch(refs, Item()))
        assert isinstance(await second, Item)
        queue.put_nowait(watch(refs, Item()))
        first, second = [await spawned(refs, queue.put(watch(refs, Item()))) for _ in range(2)]
        await cancelled(first)
        await no_time(lambda: queue.put(watch(refs, Item())), refs)
        queue.get_nowait()
        await second
        joining, cancelled_one = [await spawned(refs, queue.join()) for _ in range(2)]
        await cancelled(cancelled_one)
        await no_time(queue.join, refs)
        for _ in range(3):
            queue.task_done()
        await joining
        refused: list[Any] = [await spawned(refs, queue.put(watch(refs, Item())))]
        queue.shutdown(immediate=True)
        refused.append(queue.get())
        await ends_with(noria.QueueShutDown, refused)

    return queue


async def queue_that_is_shut_down(refs: Refs) -> None:
    queue: Any = watch(refs, noria.Queue())
    getting = [await spawned(refs, queue.get()) for _ in range(3)]
    queue.shutdown()
    await ends_with(noria.QueueShutDown, getting)


async def sleep(refs: Refs) -> None:
    await noria.sleep(0)
    await noria.sleep(0.0001, "result")
    await cancelled(await spawned(refs, noria.sleep(1000)))
    await no_time(lambda: noria.sleep(1000), refs)
    watch(refs, noria.sleep(1000)).close()


async def answer(value: int = 42) -> int:
    await noria.sleep(0)
    return value


async def fail() -> None:
    await noria.sleep(0)
    raise KeyError("failed")


async def forever() -> None:
    await noria.Event().wait()


async def gather(refs: Refs) -> None:
    gathering = watch(refs, noria.gather(answer(1), answer(2)))
    assert await gathering == [1, 2]
    answers = await noria.gather(answer(1), fail(), return_exceptions=True)
    assert answers[0] == 1
    await ends_with(KeyError, [noria.gather(fail(), answer(1))])
    gathering = [watch(refs, noria.gather(forever(), forever()))]
    await turns(1)
    await cancelled(gathering)
    await no_time(lambda: gathered(refs), refs)


async def gathered(refs: Refs) -> None:
    await watch(refs, noria.gather(forever(), forever()))


async def wait(refs: Refs) -> None:
    tasks = [asyncio.create_task(answer()) for _ in range(2)]
    done, pending = await noria.wait(tasks)
    assert len(done) == 2
    idle = await spawned(refs, forever())
    done, pending = await noria.wait([idle, asyncio.create_task(answer())], return_when=noria.FIRST_COMPLETED)
    assert (len(done), len(pending)) == (1, 1)
    done, pending = await noria.wait([idle], timeout=0.0001)
    assert pending == {idle}
    await cancelled(await spawned(refs, noria.wait([idle])))
    await no_time(lambda: noria.wait([idle]), refs)
    assert not (idle._callbacks or ())  # nobody of these has a foot in the door
    await cancelled(idle)


async def wait_for_(refs: Refs) -> None:
    assert await noria.wait_for(answer(), 10) == 42
    await ends_with(KeyError, [noria.wait_for(fail(), 10)])
    await cancelled(await spawned(refs, noria.wait_for(forever(), 10)))
    await ends_with(TimeoutError, [noria.wait_for(watch(refs, noria.wait_for(forever(), 10)), 0.0002)])
    loop = asyncio.get_running_loop()
    await ends_with(TimeoutError, [noria.wait_for(watch(refs, loop.create_future()), 0.0001)])
    await ends_with(TimeoutError, [noria.wait_for(loop.create_future(), 0), noria.wait_for(forever(), 0)])


async def as_completed(refs: Refs) -> None:
    for coming in watch(refs, noria.as_completed([answer(), answer()])):
        assert await coming == 42
    async for task in watch(refs, noria.as_completed([answer(), answer()])):
        assert await watch(refs, task) == 42
    idle = [await spawned(refs, forever()) for _ in range(2)]
    await ends_with(TimeoutError, [anext(aiter(noria.as_completed(idle, timeout=0.0001)))])
    await ends_with(TimeoutError, list(noria.as_completed(idle, timeout=0.0001)))
    coming = watch(refs, next(iter(watch(refs, noria.as_completed(idle)))))
    await cancelled(await spawned(refs, coming))
    await no_time(lambda: next(iter(noria.as_completed(idle))), refs)
    for task in idle:
        await cancelled(task)


async def shield(refs: Refs) -> None:
    assert await watch(refs, noria.shield(answer())) == 42
    inner = await spawned(refs, forever())
    await cancelled([watch(refs, noria.shield(inner))])
    await no_time(lambda: shielded(refs, inner), refs)
    assert not inner.done()
    await turns(1)
    assert not (inner._callbacks or ())
    await cancelled(inner)


async def shielded(refs: Refs, inner: Any) -> None:
    await watch(refs, noria.shield(inner))


async def timeout(refs: Refs) -> None:
    async with watch(refs, noria.timeout(10)):
        await noria.sleep(0)
    async with watch(refs, noria.timeout(None)) as deadline:
        deadline.reschedule(asyncio.get_running_loop().time() + 10)
        deadline.reschedule(None)
    del deadline

    async def within(timeout: Any, coro: Any) -> None:
        async with watch(refs, timeout):
            await coro

    await ends_with(TimeoutError, [within(noria.timeout_at(0), forever())])
    await ends_with(KeyError, [within(noria.timeout(10), fail())])
    await no_time(forever, refs)


async def task_group(refs: Refs) -> None:
    async with watch(refs, noria.TaskGroup()) as group:
        watch(refs, group.create_task(answer()))
        watch(refs, group.create_task(answer()))
    del group

    async def failing() -> None:
        async with noria.TaskGroup() as group:
            watch(refs, group, group.create_task(fail()), group.create_task(forever()))

    await ends_with(BaseExceptionGroup, [failing()])
    await cancelled(await spawned(refs, grouped(refs)))
    await no_time(lambda: grouped(refs), refs)


async def grouped(refs: Refs) -> None:
    async with noria.TaskGroup() as group:
        watch(refs, group, group.create_task(forever()))


async def to_thread(refs: Refs) -> None:
    watch(refs, await noria.to_thread(Item))
    await ends_with(ZeroDivisionError, [noria.to_thread(divmod, 1, 0)])
    await cancelled(await spawned(refs, noria.to_thread(time.sleep, 0.002)))
    await ends_with(TimeoutError, [noria.wait_for(noria.to_thread(time.sleep, 0.002), 0.0002)])
    await asyncio.sleep(0.004)  # until the threads are free, which cannot be stopped


async def run_coroutine_threadsafe(refs: Refs) -> None:
    loop = asyncio.get_running_loop()

    def from_elsewhere() -> None:
        future = watch(refs, noria.run_coroutine_threadsafe(answer(), loop))
        assert future.result(10) == 42
        failing = watch(refs, noria.run_coroutine_threadsafe(fail(), loop))
        assert isinstance(failing.exception(10), KeyError)
        idle = watch(refs, noria.run_coroutine_threadsafe(forever(), loop))
        idle.cancel()

    before = asyncio.all_tasks()
    await noria.to_thread(from_elsewhere)
    while asyncio.all_tasks() - before:
        await turns(1)
    await turns(1)


async def no_time(operation: Callable[[], Any], refs: Refs) -> None:
    """The operation, which has to wait, runs out of time, in both ways there are, and is closed unawaited."""

    async def limited() -> None:
        async with noria.timeout(0.0002):
            await watch(refs, operation())

    await ends_with(TimeoutError, [noria.wait_for(watch(refs, operation()), 0.0002), limited()])
    watch(refs, operation()).close()


PIECES: dict[str, Piece] = {
    "Lock": lock,
    "Event": event,
    "Condition": condition,
    "Semaphore": semaphores(noria.Semaphore),
    "BoundedSemaphore": semaphores(noria.BoundedSemaphore),
    "Barrier": barrier,
    "Queue": queues(noria.Queue),
    "PriorityQueue": queues(noria.PriorityQueue),
    "LifoQueue": queues(noria.LifoQueue),
    "Queue.shutdown": queue_that_is_shut_down,
    "sleep": sleep,
    "gather": gather,
    "wait": wait,
    "wait_for": wait_for_,
    "as_completed": as_completed,
    "shield": shield,
    "timeout": timeout,
    "TaskGroup": task_group,
    "to_thread": to_thread,
    "run_coroutine_threadsafe": run_coroutine_threadsafe,
}


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def living() -> Counter[str]:
    return Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())


async def leaves_nothing(piece: Piece, repeat: int = REPEAT) -> None:
    """Fail if the piece leaves something that took part, or grows in number, or only the collector can free."""
    for _ in range(3):  # caches and stocks fill
        await piece([])
    await turns(3)
    with without_collector():
        for _ in range(3):  # what is made once, such as the caches of abstract classes, is not made again
            before = living()
            for _ in range(repeat):
                refs: Refs = []
                await piece(refs)
                await turns(3)
                left = [ref() for ref in refs if ref() is not None]
                assert not left, left
                del refs, left
            more = {kind: n for kind, n in (living() - before).items() if n >= repeat}
            if not more:
                break
        if not isinstance(asyncio.get_running_loop(), noria.Loop):
            for kind in ("asyncio.events.TimerHandle", "_contextvars.Context", "traceback.FrameSummary"):
                more.pop(kind, None)  # asyncio keeps timers that were cancelled until their time has come
        assert not more, more
        assert gc.collect() == 0


@pytest.mark.parametrize("name", PIECES)
def test_nothing_is_left_and_nothing_is_for_the_collector(name: str, run: Run) -> None:
    run(leaves_nothing(PIECES[name]))


# Wake-ups that come together with a cancellation or a deadline.


class Place:
    """Where tasks wait for something of which there is one for each of them: how to wait, to give and to count."""

    thing: Any
    most = 3  # that many may be given before anybody has taken one
    kept = True  # what nobody waits for is there for whoever comes

    async def begin(self) -> None:
        """Make the thing, with nothing to be had."""
        raise NotImplementedError

    async def wait(self) -> None:
        """Wait for one, and keep it."""
        raise NotImplementedError

    def give(self) -> None:
        """Give one to whoever is first."""
        raise NotImplementedError

    def left(self) -> int:
        """How many were given that nobody got."""
        raise NotImplementedError


class ALock(Place):
    most = 1

    async def begin(self) -> None:
        self.thing = noria.Lock()
        await self.thing.acquire()

    async def wait(self) -> None:
        await self.thing.acquire()

    def give(self) -> None:
        self.thing.release()

    def left(self) -> int:
        return int(not self.thing.locked())


class ASemaphore(Place):
    kind: Any = noria.Semaphore

    async def begin(self) -> None:
        self.thing = self.kind(3)
        for _ in range(3):
            await self.thing.acquire()

    async def wait(self) -> None:
        await self.thing.acquire()

    def give(self) -> None:
        self.thing.release()

    def left(self) -> int:
        value: int = self.thing._value
        return value


class ABoundedSemaphore(ASemaphore):
    kind = noria.BoundedSemaphore


class AGet(Place):
    kind: Any = noria.Queue

    async def begin(self) -> None:
        self.thing = self.kind()
        self.given = 0
        self.items: list[int] = []

    async def wait(self) -> None:
        self.items.append(await self.thing.get())

    def give(self) -> None:
        self.thing.put_nowait(self.given)
        self.given += 1

    def left(self) -> int:
        held: list[int] = list(self.thing._queue)
        assert sorted(self.items + held) == list(range(self.given))  # none is lost, none there twice
        return len(held)


class APriorityGet(AGet):
    kind = noria.PriorityQueue


class ALifoGet(AGet):
    kind = noria.LifoQueue


class APut(Place):
    kind: Any = noria.Queue

    async def begin(self) -> None:
        self.thing = self.kind(3)
        for n in range(3):
            self.thing.put_nowait(n)

    async def wait(self) -> None:
        await self.thing.put(10)

    def give(self) -> None:
        self.thing.get_nowait()

    def left(self) -> int:
        room: int = 3 - self.thing.qsize()
        return room


class APriorityPut(APut):
    kind = noria.PriorityQueue


class ALifoPut(APut):
    kind = noria.LifoQueue


class ANotice(Place):
    kept = False

    async def begin(self) -> None:
        self.thing = noria.Condition()

    async def wait(self) -> None:
        async with self.thing:
            await self.thing.wait()

    def give(self) -> None:
        with pytest.raises(StopIteration):  # it is free: nothing to wait for
            self.thing.acquire().send(None)  # type: ignore[attr-defined]
        self.thing.notify()
        self.thing.release()

    def left(self) -> int:
        assert not self.thing.locked()
        return 0


class ANoticeByMethods(ANotice):
    """The other way through: a lock that is not noria's."""

    async def begin(self) -> None:
        self.thing = noria.Condition(asyncio.Lock())  # type: ignore[arg-type]


PLACES: list[Any] = [
    ALock, ASemaphore, ABoundedSemaphore, AGet, APriorityGet, ALifoGet, APut, APriorityPut, ALifoPut, ANotice,
    ANoticeByMethods,
]  # fmt: skip

# What happens in one turn, in this order: one is given; or so many of those who wait are cancelled, first come first.
WAITERS = 3
SCRIPTS = sorted({
    script
    for length in (2, 3, 4)
    for script in itertools.product(["give", "cancel 0", "cancel 1", "cancel 2"], repeat=length)
    if "give" in script and len(set(script) - {"give"}) == sum(step != "give" for step in script) > 0
})  # fmt: skip


def notices(script: tuple[str, ...]) -> int:
    """How many times somebody was there to be given a notice."""
    waiting = list(range(WAITERS))
    given = 0
    for step in script:
        if step != "give":
            with contextlib.suppress(ValueError):
                waiting.remove(int(step[-1]))
        elif waiting:
            waiting.pop(0)
            given += 1
    return given


@pytest.mark.parametrize("place_type", PLACES)
def test_a_wake_up_that_comes_with_a_cancellation_is_handed_on(place_type: Any, run: Run) -> None:
    async def act(script: tuple[str, ...]) -> None:
        place = place_type()
        await place.begin()
        tasks = [asyncio.create_task(place.wait()) for _ in range(WAITERS)]
        await turns(2)
        for step in script:
            place.give() if step == "give" else tasks[int(step[-1])].cancel()
        await turns(12)
        cancelled = {n for n, task in enumerate(tasks) if task.cancelled()}
        assert cancelled == {int(step[-1]) for step in script if step != "give"}
        got = {n for n, task in enumerate(tasks) if task.done() and not task.cancelled()}
        staying = [n for n in range(WAITERS) if n not in cancelled]
        if place.kept:
            given = script.count("give")
            left = max(0, given - len(staying))
        else:
            # A notice is for somebody who waits, or for nobody. Who is cancelled cannot know whether he was given one, and
            # hands one on in any case, as in asyncio: then somebody looks in vain.
            given = notices(script)
            left = 0
            assert len(got) <= given + len(cancelled)
        assert len(got) >= min(given, len(staying)) if not place.kept else got == set(staying[:given])
        assert place.left() == left
        for task in tasks:
            task.cancel()
        await turns(4)
        assert place.left() == left
        assert not getattr(place.thing, "_waiters", None)
        assert not getattr(place.thing, "_getters", None)
        assert not getattr(place.thing, "_putters", None)

    async def main() -> None:
        for script in SCRIPTS:
            if script.count("give") <= place_type.most:
                await act(script)

    run(main())


@pytest.mark.parametrize("place_type", PLACES)
@pytest.mark.parametrize("way", ["wait_for", "timeout"])
@pytest.mark.parametrize("first", ["the wake-up", "the deadline"])
def test_a_wake_up_that_comes_with_a_deadline_is_used_or_handed_on(
    place_type: Any, way: str, first: str, run: Run
) -> None:
    """Both timers are due before the loop looks at them, so they run in one turn, in the order of their times."""

    async def limited(place: Any) -> str:
        try:
            if way == "wait_for":
                await noria.wait_for(place.wait(), 0.02)
            else:
                async with noria.timeout(0.02):
                    await place.wait()
        except TimeoutError:
            return "late"
        return "got"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        place = place_type()
        await place.begin()
        began = loop.time()
        late = asyncio.create_task(limited(place))
        await turns(2)
        other = asyncio.create_task(place.wait())
        await turns(2)
        loop.call_at(began + 0.001 if first == "the wake-up" else loop.time() + 0.021, place.give)
        time.sleep(0.025)  # noqa: ASYNC251  nothing runs until both times have come
        await turns(12)
        outcome = await late
        # One was given, and one of the two has it.
        if first == "the deadline":
            assert outcome == "late"
        assert place.left() == 0
        assert other.done() == (outcome == "late")
        if not other.done():
            place.give()
        await other
        assert place.left() == 0
        assert not getattr(place.thing, "_waiters", None)

    run(main())


# What wakes everybody.


async def an_event() -> tuple[Any, Callable[[], Any], Callable[[], None]]:
    event = noria.Event()
    return event, event.wait, event.set


async def a_join() -> tuple[Any, Callable[[], Any], Callable[[], None]]:
    queue: noria.Queue[int] = noria.Queue()
    queue.put_nowait(1)
    return queue._finished, queue.join, queue.task_done  # type: ignore[attr-defined]


async def getters_of_a_shutdown() -> tuple[Any, Callable[[], Any], Callable[[], None]]:
    queue: Any = noria.Queue()

    async def get() -> None:
        await ends_with(noria.QueueShutDown, [queue.get()])

    return queue, get, queue.shutdown


async def putters_of_a_shutdown() -> tuple[Any, Callable[[], Any], Callable[[], None]]:
    queue: Any = noria.Queue(1)
    queue.put_nowait(1)

    async def put() -> None:
        await ends_with(noria.QueueShutDown, [queue.put(1)])

    return queue, put, queue.shutdown


@pytest.mark.parametrize("make", [an_event, a_join, getters_of_a_shutdown, putters_of_a_shutdown])
@pytest.mark.parametrize("script", [("wake", "cancel"), ("cancel", "wake")], ids=" then ".join)
def test_all_are_woken_though_one_is_cancelled_in_that_turn(make: Any, script: Any, run: Run) -> None:
    async def main() -> None:
        for victim in range(3):
            thing, wait, wake = await make()
            tasks = [asyncio.create_task(wait()) for _ in range(3)]
            await turns(2)
            for step in script:
                wake() if step == "wake" else tasks[victim].cancel()
            await turns(5)
            assert all(task.done() for task in tasks)
            assert [task.cancelled() for task in tasks] == [n == victim for n in range(3)]
            for line in ("_waiters", "_getters", "_putters"):
                assert not getattr(thing, line, None)

    run(main())


@pytest.mark.parametrize("script", [("come", "cancel"), ("cancel", "come")], ids=" then ".join)
def test_a_barrier_lets_go_though_one_is_cancelled_in_that_turn(script: Any, run: Run) -> None:
    async def main() -> None:
        barrier = noria.Barrier(3)
        for victim in range(2):
            tasks = [asyncio.create_task(barrier.wait()) for _ in range(2)]
            await turns(3)
            for step in script:
                if step == "come":
                    tasks.append(asyncio.create_task(barrier.wait()))
                    await turns(1)  # it is there, and has woken the others; none of them has run
                else:
                    tasks[victim].cancel()
            await turns(10)
            others = [task for n, task in enumerate(tasks) if n != victim]
            assert tasks[victim].cancelled()
            if script[0] == "come":
                assert sorted(task.result() for task in others) == [n for n in range(3) if n != victim]
            else:
                assert not any(task.done() for task in others)  # one is missing
                assert barrier.n_waiting == 2
                assert await barrier.wait() == 2
                await noria.wait(others)
            await turns(3)
            assert (barrier.n_waiting, barrier.broken) == (0, False)
            assert not barrier._cond._waiters

    run(main())


# What stands for tasks, futures and time. Cancelled in the turn in which it would have ended, it is cancelled, and what it
# waited for has its result all the same.


async def in_a_group(future: asyncio.Future[int]) -> None:
    async with noria.TaskGroup() as group:
        group.create_task(through(future))


async def within(future: asyncio.Future[int]) -> None:
    async with noria.timeout(10):
        await future


async def by_async_for(future: asyncio.Future[int]) -> None:
    async for _ in noria.as_completed([future]):
        pass


async def through(future: asyncio.Future[int]) -> None:
    await noria.shield(future)


async def gathering(future: asyncio.Future[int]) -> None:
    await noria.gather(noria.shield(future), noria.shield(future))


STANDING: dict[str, Callable[[asyncio.Future[int]], Any]] = {
    "gather": gathering,
    "wait": lambda future: noria.wait([future]),
    "wait_for": lambda future: noria.wait_for(noria.shield(future), 10),
    "as_completed": lambda future: next(iter(noria.as_completed([future]))),
    "as_completed, async": by_async_for,
    "shield": through,
    "timeout": lambda future: within(noria.shield(future)),
    "TaskGroup": in_a_group,
}


@pytest.mark.parametrize("name", STANDING)
@pytest.mark.parametrize(
    "script",
    [("wake", "cancel"), ("cancel", "wake"), ("wake", "turn", "cancel"), ("wake", "turn", "turn", "cancel")],
    ids=" then ".join,
)
def test_what_was_waited_for_is_not_lost_with_the_waiter(name: str, script: Any, run: Run) -> None:
    async def main() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(STANDING[name](future))
        await turns(3)
        assert not task.done()
        for step in script:
            if step == "turn":
                await turns(1)
            else:
                future.set_result(42) if step == "wake" else task.cancel()
        await turns(6)
        assert task.cancelled() or (script[1] == "turn" and task.exception() is None)
        assert future.result() == 42
        assert not (future._callbacks or ())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize(
    "script", [("wake", "cancel"), ("wake", "turn", "cancel"), ("cancel", "wake")], ids=" then ".join
)
def test_what_has_come_goes_to_the_next_who_waits_for_what_comes(kind: str, script: Any, run: Run) -> None:
    async def main() -> None:
        futures = [asyncio.get_running_loop().create_future() for _ in range(2)]
        coming = noria.as_completed(futures)
        take = (lambda: next(coming)) if kind == "plain" else (lambda: anext(coming))
        first, second = [asyncio.create_task(take()) for _ in range(2)]
        await turns(2)
        for step in script:
            if step == "turn":
                await turns(1)  # the first has been woken, and has not run
            else:
                futures[1].set_result("here") if step == "wake" else first.cancel()
        await turns(5)
        assert first.cancelled()
        got = second.result()
        assert (got if kind == "plain" else got.result()) == "here"

    run(main())


@pytest.mark.parametrize("first", ["the sleep", "the cancellation"])
def test_a_sleep_that_is_cancelled_when_its_time_comes_is_cancelled_once(first: str, run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ended: list[str] = []

        async def sleep() -> None:
            try:
                await noria.sleep(0.02)
                ended.append("slept")
            except asyncio.CancelledError:
                ended.append("cancelled")
            await noria.sleep(0.001)  # undisturbed
            ended.append("well")

        began = loop.time()
        task = asyncio.create_task(sleep())
        await turns(1)
        loop.call_at(began + 0.001 if first == "the cancellation" else loop.time() + 0.021, task.cancel)
        time.sleep(0.025)  # noqa: ASYNC251  both times are to have come
        await task
        assert ended == ["cancelled", "well"]

    run(main())


def test_a_call_from_another_thread_that_is_cancelled_as_it_ends_has_one_end(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for order in itertools.permutations(["wake", "cancel"]):
            future = loop.create_future()
            elsewhere = await noria.to_thread(noria.run_coroutine_threadsafe, through(future), loop)
            await turns(3)
            for step in order:
                future.set_result(42) if step == "wake" else elsewhere.cancel()
            await turns(6)
            assert elsewhere.cancelled()
            assert future.result() == 42
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())
