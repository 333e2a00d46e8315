"""`sleep(0)`, and 50,000 tasks asleep at once."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def yields(aio: Any, n: int) -> None:
    for _ in range(n):
        await aio.sleep(0)


async def yields_trio(n: int) -> None:
    import trio

    for _ in range(n):
        await trio.sleep(0)


async def sleepers(aio: Any, n: int) -> None:
    """Made, put to sleep for 10 to 60 ms, woken, ended."""
    tasks = [aio.create_task(aio.sleep(0.01 + (i * 7919 % n) / n * 0.05)) for i in range(n)]
    for task in tasks:
        await task


async def sleepers_trio(n: int) -> None:
    import trio

    async with trio.open_nursery() as nursery:
        for i in range(n):
            nursery.start_soon(trio.sleep, 0.01 + (i * 7919 % n) / n * 0.05)


ROWS = [
    Program(key="sleep_zero", title="sleep(0)", run=yields, trio=yields_trio, batch=10_000, quick=True),
    Program(
        key="sleepers", title="50,000 sleepers, per task", run=sleepers, trio=sleepers_trio, batch=50_000
    ),
]
