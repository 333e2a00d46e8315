"""1,000 files of 64 KiB, all at the same time: each opened, read or written whole, and closed."""

from __future__ import annotations

from typing import Any

from ...row import Program
from ._disk import COUNT, SIZE, check, many, opener

DATA = bytes(SIZE)


async def read(aio: Any, n: int, directory: str) -> None:
    open_ = opener(aio)

    async def one(i: int) -> None:
        async with open_(f"{directory}/{i}", "rb") as file:
            check(len(await file.read()), SIZE)

    await aio.gather(*[one(i) for i in range(n)])


async def write(aio: Any, n: int, directory: str) -> None:
    open_ = opener(aio)

    async def one(i: int) -> None:
        async with open_(f"{directory}/{i}", "wb") as file:
            await file.write(DATA)

    await aio.gather(*[one(i) for i in range(n)])


async def read_trio(n: int, directory: str) -> None:
    import trio

    async def one(i: int) -> None:
        async with await trio.open_file(f"{directory}/{i}", "rb") as file:
            check(len(await file.read()), SIZE)

    async with trio.open_nursery() as nursery:
        for i in range(n):
            nursery.start_soon(one, i)


async def write_trio(n: int, directory: str) -> None:
    import trio

    async def one(i: int) -> None:
        async with await trio.open_file(f"{directory}/{i}", "wb") as file:
            await file.write(DATA)

    async with trio.open_nursery() as nursery:
        for i in range(n):
            nursery.start_soon(one, i)


ROWS = [
    Program(
        key="many_files_read",
        title="1,000 files of 64 KiB read",
        run=read,
        trio=read_trio,
        beside=many,
        batch=COUNT,
        needs=("aiofiles",),
        unit="file",
        quick=True,
    ),
    Program(
        key="many_files_write",
        title="1,000 files of 64 KiB written",
        run=write,
        trio=write_trio,
        beside=many,
        batch=COUNT,
        needs=("aiofiles",),
        unit="file",
    ),
]
