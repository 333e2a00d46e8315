"""A future that a callback resolves while a task awaits it."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def set_and_await(aio: Any, n: int) -> None:
    loop = aio.get_running_loop()
    for _ in range(n):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future


ROWS = [Program(key="future", title="future, set and awaited", run=set_and_await, batch=10_000, quick=True)]
