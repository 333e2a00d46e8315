"""`timeout` around something that is done in time, as nearly everything is."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def timeout(aio: Any, n: int) -> None:
    for _ in range(n):
        async with aio.timeout(30):
            await aio.sleep(0)


async def timeout_trio(n: int) -> None:
    import trio

    for _ in range(n):
        with trio.fail_after(30):
            await trio.sleep(0)


ROWS = [
    Program(
        key="timeout",
        title="timeout around sleep(0)",
        run=timeout,
        trio=timeout_trio,
        batch=5_000,
        quick=True,
    ),
]
