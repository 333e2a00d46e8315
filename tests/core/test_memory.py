"""Nothing is left behind: tasks, futures, handles, timers and contexts are freed as soon as nobody refers to them.

Each piece is repeated and the interpreter's own count of allocated blocks, and of objects known to the garbage
collector, must not grow with the repetitions. Most pieces may not even need the collector.
"""

import asyncio
import contextlib
import contextvars
import gc
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import noria
from core.running import on_noria, python, reports, turns

Piece = Callable[[], Coroutine[Any, Any, None]]
REPEAT = 300


async def leaves_nothing(piece: Piece, repeat: int = REPEAT) -> None:
    """Fail if each repetition of the piece leaves an object, or an allocated block, behind.

    What caches and stocks of freed objects take is taken once, so of several rounds the one that left least counts.
    """

    async def growth() -> tuple[int, int]:
        gc.collect()
        objects, blocks = len(gc.get_objects()), sys.getallocatedblocks()
        for _ in range(repeat):
            await piece()
        gc.collect()
        return len(gc.get_objects()) - objects, sys.getallocatedblocks() - blocks

    rounds: list[tuple[int, int]] = []
    while len(rounds) < 4 and (not rounds or max(rounds[-1]) >= repeat / 2):
        rounds.append(await growth())
    assert max(rounds[-1]) < repeat / 2, f"{repeat} repetitions left (objects, blocks): {rounds}"


async def callbacks() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(10):
        loop.call_soon(len, "x")
        loop.call_soon_threadsafe(len, "x").cancel()
    await turns(1)


async def timers() -> None:
    loop = asyncio.get_running_loop()
    for n in range(10):
        loop.call_later(0, len, "x")
        loop.call_later(100 + n, len, "x").cancel()
    await turns(2)


async def futures() -> None:
    loop = asyncio.get_running_loop()
    done, cancelled, failed = loop.create_future(), loop.create_future(), loop.create_future()
    for future in (done, cancelled, failed):
        future.add_done_callback(id)
        future.label = "x"  # type: ignore[attr-defined]
    done.set_result(object())
    cancelled.cancel()
    failed.set_exception(KeyError())
    for future in (done, cancelled, failed):
        with contextlib.suppress(KeyError, asyncio.CancelledError):
            await future
    await turns(1)


async def tasks() -> None:
    async def work(n: int) -> int:
        await asyncio.sleep(0)
        return n

    await asyncio.gather(*(work(n) for n in range(10)))
    async with asyncio.TaskGroup() as group:
        group.create_task(work(1), name="named")
        group.create_task(work(2))


async def failing_tasks() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError

    with contextlib.suppress(KeyError):
        await asyncio.create_task(fail())
    await asyncio.gather(fail(), fail(), return_exceptions=True)


async def cancelled_tasks() -> None:
    task = asyncio.create_task(asyncio.sleep(1000))
    early = asyncio.create_task(asyncio.sleep(0))
    early.cancel()
    await turns(1)
    task.cancel("m")
    for each in (task, early):
        with contextlib.suppress(asyncio.CancelledError):
            await each


async def stock_tasks() -> None:
    future: asyncio.Future[int] = asyncio.Future()

    async def wait() -> int:
        return await future

    task, native = asyncio.Task(wait()), asyncio.create_task(wait())
    await turns(1)
    future.set_result(1)
    assert await task == await native == 1


async def eager_tasks() -> None:
    async def work(n: int) -> None:
        for _ in range(n):
            await asyncio.sleep(0)

    for n in range(3):
        await noria.Task(work(n), eager_start=True)


async def timeouts() -> None:
    async with asyncio.timeout(100):
        await asyncio.sleep(0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.sleep(1000)
    await asyncio.wait_for(asyncio.sleep(0), 100)


async def contexts() -> None:
    context = contextvars.copy_context()
    await asyncio.get_running_loop().create_task(asyncio.sleep(0), context=context)
    asyncio.get_running_loop().call_soon(int, context=context)
    await turns(1)


async def nested() -> None:
    asyncio.get_running_loop().run_until_complete(asyncio.sleep(0))
    noria.run(asyncio.sleep(0))


async def threads() -> None:
    await asyncio.get_running_loop().run_in_executor(None, int)


async def by_hand() -> None:
    future = asyncio.get_running_loop().create_future()
    step = future.__await__()
    next(step)
    future.set_result(1)
    with contextlib.suppress(StopIteration):
        next(step)
    repr(future)


PIECES = [
    callbacks, timers, futures, tasks, failing_tasks, cancelled_tasks, stock_tasks, eager_tasks, timeouts, contexts, nested,
    threads, by_hand,
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
def test_repeating_a_piece_of_a_program_allocates_nothing_for_good(piece: Piece) -> None:
    on_noria(leaves_nothing)(piece)


@pytest.mark.parametrize(
    "piece", [callbacks, timers, tasks, stock_tasks, contexts], ids=lambda piece: piece.__name__
)
def test_ordinary_work_makes_no_garbage_for_the_collector(piece: Piece) -> None:
    @on_noria
    async def program() -> None:
        for _ in range(5):
            await piece()
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                await piece()
            assert gc.collect() < 50
        finally:
            gc.enable()

    program()


@on_noria
async def test_none_keeps_its_reference_count() -> None:
    # Immortal since 3.12; on 3.11 a reference dropped once too often per step would end in a crash.
    loop = asyncio.get_running_loop()
    before = sys.getrefcount(None)
    for _ in range(20_000):
        loop.call_soon(id, None)
        await asyncio.sleep(0)
    assert abs(sys.getrefcount(None) - before) < 5000


@on_noria
async def test_arguments_and_results_keep_their_reference_counts() -> None:
    loop = asyncio.get_running_loop()
    thing = object()

    async def give(x: object) -> object:
        await asyncio.sleep(0)
        return x

    async def use() -> None:
        loop.call_soon(id, thing)
        loop.call_soon(lambda *a: None, thing, thing)
        future = loop.create_future()
        future.add_done_callback(id)
        future.set_result(thing)
        assert await future is thing
        assert await asyncio.create_task(give(thing)) is thing
        assert await noria.Task(give(thing), eager_start=True) is thing

    await use()
    await turns(2)
    before = sys.getrefcount(thing)
    for _ in range(100):
        await use()
    await turns(2)
    gc.collect()
    assert sys.getrefcount(thing) == before


def test_many_loops_leave_nothing() -> None:
    async def work() -> None:
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))
        asyncio.get_running_loop().call_later(100, print)

    for _ in range(5):
        noria.run(work())
    gc.collect()
    objects, blocks = len(gc.get_objects()), sys.getallocatedblocks()
    for _ in range(50):
        noria.run(work())
    gc.collect()
    assert len(gc.get_objects()) - objects < 25
    assert sys.getallocatedblocks() - blocks < 100


@on_noria
async def test_a_pending_task_in_a_cycle_is_collected_and_reported() -> None:
    async def wait() -> None:
        future = asyncio.get_running_loop().create_future()
        future.me = asyncio.current_task()  # type: ignore[attr-defined]
        await future

    with reports() as seen:
        for _ in range(20):
            asyncio.create_task(wait())
            await turns(1)
        gc.collect()
    assert [report["message"] for report in seen] == ["Task was destroyed but it is pending!"] * 20
    seen.clear()
    gc.collect()
    assert len(asyncio.all_tasks()) == 1


def test_a_long_chain_of_futures_or_tasks_is_freed_without_a_deep_stack() -> None:
    done = python(
        """
import asyncio, noria
loop = noria.new_event_loop()
future = loop.create_future()
future.set_result(None)
for _ in range(200_000):
    next_ = loop.create_future()
    next_.set_result(future)
    future = next_
del future, next_

async def wait(what):
    await what

async def main():
    last = loop.create_future()
    for _ in range(50_000):
        last = loop.create_task(wait(last))
        last._log_destroy_pending = False
    await asyncio.sleep(0)

loop.run_until_complete(main())
loop.close()
print("freed")
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "freed\n"
