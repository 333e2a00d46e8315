"""`Event`: one sets, a hundred wake up."""

from __future__ import annotations

from typing import Any

from ...row import Program

WAITERS = 100


async def event(aio: Any, n: int) -> None:
    """A hundred tasks wait, one sets: again and again, with two events in turn."""
    events = [aio.Event(), aio.Event()]
    arrived = aio.Event()
    waiting = 0

    async def wait() -> None:
        nonlocal waiting
        for i in range(n // WAITERS):
            waiting += 1
            if waiting == WAITERS:
                arrived.set()
            await events[i % 2].wait()

    async def broadcast() -> None:
        nonlocal waiting
        for i in range(n // WAITERS):
            await arrived.wait()
            arrived.clear()
            waiting = 0
            events[(i + 1) % 2].clear()
            events[i % 2].set()

    await aio.gather(broadcast(), *[wait() for _ in range(WAITERS)])


ROWS = [
    Program(key="event", title="event, 100 waiting, per wake-up", run=event, batch=10_000, quick=True),
]
