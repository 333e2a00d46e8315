"""aiohttp's client fetching small files from nginx: 5,000 files of 4 KiB, 50 at a time over connections kept alive.

A batch is a thousand of them, the next batch the next thousand, each with a session of its own as a program would have.
"""

from __future__ import annotations

import itertools
from typing import Any

from ...row import Program
from ._web import CONNECTIONS, FILE_SIZE, FILES, small_files

numbers = itertools.cycle(range(FILES))


async def fetch(aio: Any, n: int, given: str) -> None:
    import aiohttp

    urls = iter([f"{given}/{next(numbers)}" for _ in range(n)])

    async def worker() -> None:
        for url in urls:
            async with session.get(url) as response:
                body = await response.read()
                if response.status != 200 or len(body) != FILE_SIZE:
                    raise RuntimeError(f"{url} gave {response.status} and {len(body)} bytes")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:
        await aio.gather(*[worker() for _ in range(CONNECTIONS)])


ROWS = [
    Program(
        key="aiohttp_client",
        title="aiohttp client, 4 KiB files",
        run=fetch,
        batch=1_000,
        beside=small_files,
        needs=("aiohttp",),
        programs=("nginx",),
        unit="file",
    )
]
