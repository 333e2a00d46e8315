"""`wait` for a hundred tasks."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def nothing() -> None:
    pass


async def wait(aio: Any, n: int) -> None:
    for _ in range(n // 100):
        await aio.wait([aio.create_task(nothing()) for _ in range(100)])


ROWS = [
    Program(key="wait", title="wait for 100, per task", run=wait, batch=10_000),
]
