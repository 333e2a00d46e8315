"""`call_soon`: one callback that schedules the next, and many scheduled at once."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def chain(aio: Any, n: int) -> None:
    loop = aio.get_running_loop()
    done = loop.create_future()
    left = n

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            done.set_result(None)

    loop.call_soon(step)
    await done


async def burst(aio: Any, n: int) -> None:
    loop = aio.get_running_loop()
    done = loop.create_future()

    def nothing() -> None:
        pass

    for _ in range(n - 1):
        loop.call_soon(nothing)
    loop.call_soon(done.set_result, None)
    await done


ROWS = [
    Program(key="call_soon_chain", title="call_soon, chain", run=chain, batch=20_000, quick=True),
    Program(key="call_soon_burst", title="call_soon, 10,000 at once", run=burst, batch=10_000),
]
