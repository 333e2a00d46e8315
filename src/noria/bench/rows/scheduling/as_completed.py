"""`as_completed` over a hundred coroutines."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def nothing() -> None:
    pass


async def as_completed(aio: Any, n: int) -> None:
    for _ in range(n // 100):
        for earliest in aio.as_completed([nothing() for _ in range(100)]):
            await earliest


ROWS = [
    Program(key="as_completed", title="as_completed of 100, per task", run=as_completed, batch=10_000),
]
