"""`Semaphore` with tasks waiting."""

from __future__ import annotations

from typing import Any

from ...row import Program

TASKS = 10


async def semaphore(aio: Any, n: int) -> None:
    """Three places for ten tasks."""
    places = aio.Semaphore(3)

    async def work() -> None:
        for _ in range(n // TASKS):
            async with places:
                await aio.sleep(0)

    await aio.gather(*[work() for _ in range(TASKS)])


async def semaphore_trio(n: int) -> None:
    import trio

    places = trio.Semaphore(3)

    async def work() -> None:
        for _ in range(n // TASKS):
            async with places:
                await trio.sleep(0)

    async with trio.open_nursery() as nursery:
        for _ in range(TASKS):
            nursery.start_soon(work)


ROWS = [
    Program(
        key="semaphore", title="semaphore of 3, 10 tasks", run=semaphore, trio=semaphore_trio, batch=5_000
    ),
]
