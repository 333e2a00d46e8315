"""`TaskGroup`, a hundred tasks in each."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def nothing() -> None:
    pass


async def task_group(aio: Any, n: int) -> None:
    for _ in range(n // 100):
        async with aio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(nothing())


async def nursery(n: int) -> None:
    import trio

    for _ in range(n // 100):
        async with trio.open_nursery() as group:
            for _ in range(100):
                group.start_soon(nothing)


ROWS = [
    Program(
        key="task_group",
        title="TaskGroup of 100, per task",
        run=task_group,
        trio=nursery,
        batch=10_000,
        quick=True,
    ),
]
