"""A file of 1 GiB read from the beginning to the end, 256 KiB at a time; and the same with Python's own open(), which
blocks the loop all the while: the floor."""

from __future__ import annotations

from typing import Any

from ...row import Program
from ._disk import LARGE, MIB, check, one, opener

PIECE = 256 * 1024


async def read(aio: Any, n: int, path: str) -> None:
    moved = 0
    async with opener(aio)(path, "rb") as file:
        while piece := await file.read(PIECE):
            moved += len(piece)
    check(moved, n * MIB)


async def read_trio(n: int, path: str) -> None:
    import trio

    moved = 0
    async with await trio.open_file(path, "rb") as file:
        while piece := await file.read(PIECE):
            moved += len(piece)
    check(moved, n * MIB)


async def read_plainly(aio: Any, n: int, path: str) -> None:
    moved = 0
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            moved += len(piece)
    check(moved, n * MIB)


async def read_plainly_trio(n: int, path: str) -> None:
    await read_plainly(None, n, path)


ROWS = [
    Program(
        key="files_sequential",
        title="1 GiB read in order, per MiB",
        run=read,
        trio=read_trio,
        beside=one,
        batch=LARGE,
        needs=("aiofiles",),
        unit="MiB",
    ),
    Program(
        key="files_sequential_blocking",
        title="the same with plain open(), per MiB",
        run=read_plainly,
        trio=read_plainly_trio,
        beside=one,
        batch=LARGE,
        unit="MiB",
    ),
]
