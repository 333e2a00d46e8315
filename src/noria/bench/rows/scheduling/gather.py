"""`gather`, a thousand coroutines at a time."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def nothing() -> None:
    pass


async def gather(aio: Any, n: int) -> None:
    for _ in range(n // 1000):
        await aio.gather(*[nothing() for _ in range(1000)])


ROWS = [
    Program(key="gather", title="gather of 1,000, per task", run=gather, batch=10_000, quick=True),
]
