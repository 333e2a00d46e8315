"""`call_soon_threadsafe` from other threads: callbacks a second, from the first call to the last callback."""

from __future__ import annotations

import threading
from typing import Any

from ...row import Program


async def from_threads(aio: Any, n: int, threads: int) -> None:
    loop = aio.get_running_loop()
    done = loop.create_future()
    left = n

    def one() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    def post() -> None:
        for _ in range(n // threads):
            loop.call_soon_threadsafe(one)

    posting = [threading.Thread(target=post) for _ in range(threads)]
    for thread in posting:
        thread.start()
    await done
    for thread in posting:
        thread.join()


async def from_one(aio: Any, n: int) -> None:
    await from_threads(aio, n, 1)


async def from_four(aio: Any, n: int) -> None:
    await from_threads(aio, n, 4)


ROWS = [
    Program(
        key="call_soon_threadsafe_1",
        title="call_soon_threadsafe, 1 thread",
        run=from_one,
        batch=10_000,
        quick=True,
    ),
    Program(
        key="call_soon_threadsafe_4", title="call_soon_threadsafe, 4 threads", run=from_four, batch=10_000
    ),
]
