"""Bytes copied through a child: `cat`'s standard input written and its output read at the same time, through streams.

The rate is in MiB a second and includes cat's work, which shares the core; the CPU time for a MiB does not.
"""

from __future__ import annotations

from typing import Any

from ...row import Program

MIB = 1024 * 1024
PIECE = bytes(65536)


def check(copied: int, n: int) -> None:
    if copied != n * MIB:
        raise RuntimeError(f"{copied} bytes came back of {n * MIB}")


async def copy(aio: Any, n: int) -> None:
    pipe = aio.subprocess.PIPE
    process = await aio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)

    async def write() -> None:
        for _ in range(n * MIB // len(PIECE)):
            process.stdin.write(PIECE)
            await process.stdin.drain()
        process.stdin.close()

    async def read() -> int:
        copied = 0
        while piece := await process.stdout.read(65536):
            copied += len(piece)
        return copied

    _, copied = await aio.gather(write(), read())
    await process.wait()
    check(copied, n)


async def copy_trio(n: int) -> None:
    import subprocess

    import trio

    process: Any = await trio.lowlevel.open_process(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    async def write() -> None:
        for _ in range(n * MIB // len(PIECE)):
            await process.stdin.send_all(PIECE)
        await process.stdin.aclose()

    copied = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while piece := await process.stdout.receive_some(65536):
            copied += len(piece)
    await process.wait()
    check(copied, n)


ROWS = [
    Program(
        key="subprocess_pipe",
        title="copy through cat, per MiB",
        run=copy,
        trio=copy_trio,
        batch=16,
        unit="MiB",
    )
]
