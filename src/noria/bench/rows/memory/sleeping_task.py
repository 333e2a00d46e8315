"""Bytes for a task asleep: its coroutine, the timer, and whatever lies between."""

from __future__ import annotations

from typing import Any

from ...row import Gauge
from ._size import memory

FIRST = 2_000
COUNT = 20_000
LONG = 3600.0  # seconds


async def measure(aio: Any) -> float:
    started = 0

    async def sleeper() -> None:
        nonlocal started
        started += 1
        await aio.sleep(LONG)

    async def make(count: int, place: int) -> None:
        aim = started + count
        for i in range(place, place + count):
            tasks[i] = aio.create_task(sleeper())
        while started < aim:
            await aio.sleep(0)

    tasks: list[Any] = [None] * (FIRST + COUNT)
    await make(FIRST, 0)
    before = memory()
    await make(COUNT, FIRST)
    return (memory() - before) / COUNT


async def measure_trio() -> float:
    import trio

    started = 0

    async def sleeper() -> None:
        nonlocal started
        started += 1
        await trio.sleep(LONG)

    async def make(count: int) -> None:
        aim = started + count
        for _ in range(count):
            nursery.start_soon(sleeper)
        while started < aim:
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await make(FIRST)
        before = memory()
        await make(COUNT)
        value = (memory() - before) / COUNT
        nursery.cancel_scope.cancel()
    return value


ROWS = [
    Gauge(key="sleeping_task_memory", title="sleeping task", read=measure, trio=measure_trio, quick=True),
]
