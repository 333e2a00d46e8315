"""`run_in_executor`: a round trip to a thread of the default pool."""

from __future__ import annotations

from typing import Any

from ...row import Program


def nothing() -> None:
    pass


async def round_trip(aio: Any, n: int) -> None:
    loop = aio.get_running_loop()
    for _ in range(n):
        await loop.run_in_executor(None, nothing)


async def round_trip_trio(n: int) -> None:
    import trio

    for _ in range(n):
        await trio.to_thread.run_sync(nothing)


ROWS = [
    Program(
        key="run_in_executor",
        title="run_in_executor, round trip",
        run=round_trip,
        trio=round_trip_trio,
        batch=1_000,
    )
]
