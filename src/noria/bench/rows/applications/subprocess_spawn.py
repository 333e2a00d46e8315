"""A child process started and waited for: one after the other, and 50 at a time.

CPU time is that of the process that starts them, not theirs. They share its core.
"""

from __future__ import annotations

from typing import Any

from ...row import Program

COMMAND = "/bin/true"
TOGETHER = 50


async def spawn(aio: Any) -> None:
    process = await aio.create_subprocess_exec(COMMAND)
    code = await process.wait()
    if code != 0:
        raise RuntimeError(f"{COMMAND} ended with {code}")


async def one_by_one(aio: Any, n: int) -> None:
    for _ in range(n):
        await spawn(aio)


async def together(aio: Any, n: int) -> None:
    for _ in range(n // TOGETHER):
        await aio.gather(*[spawn(aio) for _ in range(TOGETHER)])


async def one_by_one_trio(n: int) -> None:
    import trio

    for _ in range(n):
        await trio.run_process([COMMAND])


async def together_trio(n: int) -> None:
    import trio

    for _ in range(n // TOGETHER):
        async with trio.open_nursery() as nursery:
            for _ in range(TOGETHER):
                nursery.start_soon(trio.run_process, [COMMAND])


ROWS = [
    Program(
        key="subprocess_spawn",
        title="spawn and wait",
        run=one_by_one,
        trio=one_by_one_trio,
        batch=50,
        unit="process",
    ),
    Program(
        key="subprocess_spawn_50",
        title="spawn and wait, 50 at a time",
        run=together,
        trio=together_trio,
        batch=50,
        unit="process",
    ),
]
