"""`Lock`: ten tasks that take turns, and one task that has it to itself."""

from __future__ import annotations

from typing import Any

from ...row import Program

TASKS = 10


async def lock(aio: Any, n: int) -> None:
    """Ten tasks take turns, each gives way while it holds the lock."""
    mutex = aio.Lock()

    async def work() -> None:
        for _ in range(n // TASKS):
            async with mutex:
                await aio.sleep(0)

    await aio.gather(*[work() for _ in range(TASKS)])


async def lock_trio(n: int) -> None:
    import trio

    mutex = trio.Lock()

    async def work() -> None:
        for _ in range(n // TASKS):
            async with mutex:
                await trio.sleep(0)

    async with trio.open_nursery() as nursery:
        for _ in range(TASKS):
            nursery.start_soon(work)


async def lock_free(aio: Any, n: int) -> None:
    mutex = aio.Lock()
    for _ in range(n):
        async with mutex:
            pass


async def lock_free_trio(n: int) -> None:
    import trio

    mutex = trio.Lock()
    for _ in range(n):
        async with mutex:
            pass


ROWS = [
    Program(key="lock", title="lock, 10 tasks", run=lock, trio=lock_trio, batch=5_000, quick=True),
    Program(key="lock_free", title="lock, nobody waits", run=lock_free, trio=lock_free_trio, batch=20_000),
]
