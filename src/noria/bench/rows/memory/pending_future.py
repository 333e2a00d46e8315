"""Bytes for a future that nobody waits for yet, as the loop's `create_future` makes it."""

from __future__ import annotations

from typing import Any

from ...row import Gauge
from ._size import memory

FIRST = 20_000
COUNT = 200_000


async def measure(aio: Any) -> float:
    create_future = aio.get_running_loop().create_future
    futures: list[Any] = [None] * (FIRST + COUNT)
    for i in range(FIRST):
        futures[i] = create_future()
    before = memory()
    for i in range(FIRST, FIRST + COUNT):
        futures[i] = create_future()
    return (memory() - before) / COUNT


ROWS = [Gauge(key="pending_future_memory", title="pending future", read=measure)]
