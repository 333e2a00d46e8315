"""Lock, Event, Semaphore, Condition and Barrier: what a random comparison with asyncio's does not show."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

import noria
from core.running import new_loop, reports
from sync.loops import Run, turns


def test_what_is_free_is_taken_without_suspending() -> None:
    event = noria.Event()
    event.set()
    for coro in (noria.Lock().acquire(), noria.Semaphore().acquire(), event.wait()):
        with pytest.raises(StopIteration) as end:
            coro.send(None)
        assert end.value.value is True
        assert end.value.args == (True,)


@pytest.mark.parametrize("make", [noria.Lock, noria.Semaphore, noria.Condition])
def test_a_block_holds_it_and_an_exception_leaves_it(make: Callable[[], Any], run: Run) -> None:
    async def main() -> None:
        lock = make()
        with pytest.raises(ZeroDivisionError):
            async with lock as given:
                assert given is None
                assert lock.locked()
                raise ZeroDivisionError
        assert not lock.locked()

    run(main())


@pytest.mark.parametrize("make", [noria.Lock, noria.Semaphore])
def test_a_wake_up_that_comes_with_a_cancellation_goes_to_the_next(make: Callable[[], Any], run: Run) -> None:
    async def main() -> None:
        lock = make()
        await lock.acquire()
        first, second = (asyncio.create_task(lock.acquire()) for _ in range(2))
        await turns(1)
        lock.release()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second is True

    run(main())


def test_a_notice_that_comes_with_a_cancellation_goes_to_the_next(run: Run) -> None:
    async def main() -> None:
        condition = noria.Condition()

        async def wait() -> bool:
            async with condition:
                return await condition.wait()

        first, second = (asyncio.create_task(wait()) for _ in range(2))
        await turns(2)
        async with condition:
            condition.notify()
            first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second is True

    run(main())


def test_a_cancelled_wait_on_a_condition_has_the_lock_again(run: Run) -> None:
    async def main() -> None:
        condition = noria.Condition()
        held = []

        async def wait() -> None:
            async with condition:
                try:
                    await condition.wait()
                finally:
                    held.append(condition.locked())

        task = asyncio.create_task(wait())
        await turns(1)
        await condition.acquire()
        for _ in range(3):
            task.cancel("again")
            await turns(2)
            assert not task.done(), "it must not go on while we have the lock"
        condition.release()
        with pytest.raises(asyncio.CancelledError, match="again"):
            await task
        assert held == [True]
        assert not condition.locked()

    run(main())


def test_a_coroutine_that_is_closed_leaves_the_line(run: Run) -> None:
    async def main() -> None:
        lock, event, semaphore = noria.Lock(), noria.Event(), noria.Semaphore(0)
        await lock.acquire()
        for waited_for, coro in (
            (lock, lock.acquire()),
            (event, event.wait()),
            (semaphore, semaphore.acquire()),
        ):
            coro.send(None)
            assert "waiters:1" in repr(waited_for)
            coro.close()
            assert "waiters" not in repr(waited_for)
        lock.release()
        assert await lock.acquire() is True

    run(main())


def test_three_thousand_who_wait_can_be_cancelled_last_come_first_gone(run: Run) -> None:
    async def main() -> None:
        event = noria.Event()
        tasks = [asyncio.create_task(event.wait()) for _ in range(3_000)]
        await turns(1)
        for task in reversed(tasks):
            task.cancel()
        await asyncio.wait(tasks)
        assert "waiters" not in repr(event)

    run(main())


def test_what_is_not_awaited_warns_and_does_nothing() -> None:
    lock = noria.Lock()
    with pytest.warns(RuntimeWarning, match=r"coroutine 'Lock\.acquire' was never awaited"):
        lock.acquire()
    assert not lock.locked()


def test_it_belongs_to_the_loop_on_which_a_task_first_waited() -> None:
    lock = noria.Lock()

    async def hold() -> None:
        await lock.acquire()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(lock.acquire(), 0.001)

    noria.run(hold())
    lock.release()
    with pytest.raises(RuntimeError, match=r"Lock object at .* is bound to a different event loop"):
        asyncio.run(hold())


def test_for_isinstance_it_is_one_of_asyncios() -> None:
    for name in ("Lock", "Event", "Semaphore", "BoundedSemaphore", "Condition"):
        made = getattr(noria, name)()
        assert isinstance(made, getattr(asyncio, name))
        assert type(made) is getattr(noria, name)
    assert isinstance(noria.Barrier(1), asyncio.Barrier)


def test_a_subclass_is_itself_and_what_it_overrides_is_called(run: Run) -> None:
    class Loud(noria.Lock):
        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []

        async def acquire(self) -> Any:
            self.said.append("acquire")
            return await super().acquire()

        def release(self) -> None:
            self.said.append("release")
            super().release()

    async def main() -> None:
        lock = Loud()
        assert lock.__class__ is Loud
        async with lock:
            pass
        condition = noria.Condition(lock)
        async with condition:
            waiting = asyncio.create_task(condition.wait_for(lambda: True))
            assert await waiting is True
            waiting = asyncio.create_task(condition.wait())  # lets our lock go and takes it back
            await turns(1)
            assert not condition.locked()
            await condition.acquire()
            condition.notify()
            condition.release()
            assert await waiting is True
        assert lock.said == [
            "acquire",
            "release",
            "acquire",
            "release",
            "acquire",
            "release",
            "acquire",
            "release",
        ]

    run(main())


@pytest.mark.parametrize("lock", [asyncio.Lock, noria.Lock])
def test_a_condition_takes_a_lock_of_either_make(lock: Callable[[], Any], run: Run) -> None:
    async def main() -> None:
        condition = noria.Condition(lock())

        async def wait() -> bool:
            async with condition:
                return await condition.wait()

        waiting = [asyncio.create_task(wait()) for _ in range(3)]
        await turns(3)
        async with condition:
            condition.notify_all()
        assert await asyncio.gather(*waiting) == [True] * 3

    run(main())


def test_programs_may_hang_attributes_on_it() -> None:
    for made in (noria.Lock(), noria.Event(), noria.Semaphore(), noria.Condition(), noria.Queue()):
        made.note = "hello"
        assert made.note == "hello"
        assert vars(made) == {"note": "hello"}


def test_a_semaphore_counts_in_whatever_number_it_is_given(run: Run) -> None:
    async def main() -> None:
        unlimited = noria.Semaphore(math.inf)  # type: ignore[arg-type]
        for _ in range(100):
            assert await unlimited.acquire() is True
        assert not unlimited.locked()
        grown = noria.Semaphore(0)
        grown._value += 1  # programs do
        assert await grown.acquire() is True

    run(main())


def test_they_pass_for_coroutine_functions() -> None:
    lock, event, condition = noria.Lock(), noria.Event(), noria.Condition()
    for method in (lock.acquire, event.wait, condition.wait, condition.wait_for, noria.Queue().put):
        assert asyncio.iscoroutinefunction(method)


def test_nothing_is_left_once_it_is_dropped(run: Run) -> None:
    async def use(event: noria.Event, *locks: Any) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for lock in locks:
                await stack.enter_async_context(lock)
            await event.wait()

    async def main() -> None:
        things: list[Any] = [noria.Event(), noria.Lock(), noria.Semaphore(), noria.Condition()]
        tasks = [asyncio.create_task(use(*things)) for _ in range(3)]
        await turns(2)
        things[0].set()
        tasks[2].cancel()
        await asyncio.wait(tasks)
        left = [weakref.ref(thing) for thing in (*things, *tasks)]
        tasks.clear()
        things.clear()
        await turns(1)
        assert not [ref() for ref in left if ref() is not None]

    gc.disable()  # without its help
    try:
        run(main())
    finally:
        gc.enable()


def test_a_task_and_the_lock_it_waits_for_are_collected_if_nobody_else_knows_them() -> None:
    with new_loop() as loop, reports(loop) as seen:

        async def wait() -> None:
            lock = noria.Lock()
            await lock.acquire()
            await lock.acquire()

        gone = weakref.ref(loop.create_task(wait()))
        loop.run_until_complete(turns(2))
        gc.collect()
        assert gone() is None
        assert [report["message"] for report in seen] == ["Task was destroyed but it is pending!"]
        seen.clear()


def test_an_exit_stack_enters_and_leaves_it(run: Run) -> None:
    async def main() -> None:
        lock = noria.Lock()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(lock)
            assert lock.locked()
        assert not lock.locked()
        left: tuple[type[BaseException] | None, BaseException | None, TracebackType | None] = (
            None,
            None,
            None,
        )
        await lock.__aenter__()
        assert await asyncio.create_task(lock.__aexit__(*left)) is None
        assert not lock.locked()

    run(main())


def test_a_barrier_lets_go_when_all_have_come(run: Run) -> None:
    async def main() -> None:
        barrier = noria.Barrier(3)
        assert repr(barrier).endswith("[filling, waiters:0/3]>")
        assert sorted(await asyncio.gather(*(barrier.wait() for _ in range(6)))) == [0, 0, 1, 1, 2, 2]
        waiting = asyncio.create_task(barrier.wait())
        await turns(2)
        await barrier.abort()
        with pytest.raises(asyncio.BrokenBarrierError):
            await waiting
        assert barrier.broken
        await barrier.reset()
        assert not barrier.broken

    run(main())
