"""Bytes for an item in a queue without a bound: the queue's own, since all items are the same object."""

from __future__ import annotations

import math
from typing import Any

from ...row import Gauge
from ._size import memory

FIRST = 100_000
COUNT = 1_000_000


def measure_with(put: Any) -> float:
    for _ in range(FIRST):
        put(None)
    before = memory()
    for _ in range(COUNT):
        put(None)
    return (memory() - before) / COUNT


async def measure(aio: Any) -> float:
    queue = aio.Queue()
    return measure_with(queue.put_nowait)


async def measure_trio() -> float:
    import trio

    send, receive = trio.open_memory_channel[None](math.inf)
    with send, receive:
        return measure_with(send.send_nowait)


ROWS = [Gauge(key="queued_item_memory", title="queued item", read=measure, trio=measure_trio)]
