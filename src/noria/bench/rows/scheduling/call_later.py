"""`call_later`: timers that run, spread or all at one time, and timers that are cancelled, as most timeouts are."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def spread(aio: Any, n: int) -> None:
    """Deadlines over 20 ms, set in an order that is not theirs."""
    loop = aio.get_running_loop()
    done = loop.create_future()
    left = n

    def fire() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    for i in range(n):
        loop.call_later((i * 7919 % n) / n * 0.02, fire)
    await done


async def same(aio: Any, n: int) -> None:
    loop = aio.get_running_loop()
    done = loop.create_future()
    left = n

    def fire() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    deadline = loop.time()
    for _ in range(n):
        loop.call_at(deadline, fire)
    await done


def nothing() -> None:
    pass


async def cancelled(aio: Any, n: int) -> None:
    loop = aio.get_running_loop()
    for i in range(n):
        loop.call_later(30.0, nothing).cancel()
        if i % 100 == 99:
            await aio.sleep(0)  # some loops tidy up between turns


async def cancelled_among(aio: Any, n: int) -> None:
    """A thousand at a time, the first set is cancelled first."""
    loop = aio.get_running_loop()
    for _ in range(n // 1000):
        timers = [loop.call_later(30.0 + i * 0.001, nothing) for i in range(1000)]
        await aio.sleep(0)
        for timer in timers:
            timer.cancel()
        await aio.sleep(0)


ROWS = [
    Program(key="call_later_spread", title="call_later, spread over 20 ms", run=spread, batch=20_000),
    Program(key="call_later_same", title="call_at, one deadline", run=same, batch=10_000),
    Program(key="call_later_cancel", title="call_later and cancel", run=cancelled, batch=10_000, quick=True),
    Program(
        key="call_later_cancel_1000",
        title="call_later and cancel, 1,000 pending",
        run=cancelled_among,
        batch=10_000,
    ),
]
