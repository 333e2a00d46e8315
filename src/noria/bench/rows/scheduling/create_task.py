"""`await create_task(f())`, as usual and with the eager task factory (Python 3.12)."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def nothing() -> None:
    pass


async def one_by_one(aio: Any, n: int) -> None:
    for _ in range(n):
        await aio.create_task(nothing())


async def eager(aio: Any, n: int) -> None:
    loop = aio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(aio.eager_task_factory)
    try:
        for _ in range(n):
            await aio.create_task(nothing())
    finally:
        loop.set_task_factory(before)


async def nursery(n: int) -> None:
    import trio

    for _ in range(n):
        async with trio.open_nursery() as group:
            group.start_soon(nothing)


ROWS = [
    Program(
        key="create_task",
        title="create_task, awaited",
        run=one_by_one,
        trio=nursery,
        batch=10_000,
        quick=True,
    ),
    Program(key="create_task_eager", title="create_task, eager", run=eager, batch=10_000),
]
