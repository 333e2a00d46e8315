"""`wait_for` something that is done in time."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def wait_for(aio: Any, n: int) -> None:
    for _ in range(n):
        await aio.wait_for(aio.sleep(0), 30)


ROWS = [
    Program(key="wait_for", title="wait_for(sleep(0))", run=wait_for, batch=5_000, quick=True),
]
