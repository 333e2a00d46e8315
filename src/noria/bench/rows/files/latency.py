"""The loop's own latency while 1,000 tasks read and write a file each, over and over: how late a timer of a millisecond
comes, at the 99th percentile. The first half second, in which all begin at once, does not count."""

from __future__ import annotations

import time
from typing import Any

from ...row import Gauge
from ._disk import SIZE, many, opener

SECONDS = 2.0
SETTLING = 0.5
TICK = 0.001
DATA = bytes(SIZE)
TOGETHER = 1_000


def late(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


async def measure(aio: Any) -> float:
    open_ = opener(aio)
    times: list[float] = []
    end = time.perf_counter() + SECONDS

    async def one(directory: str, i: int) -> None:
        while time.perf_counter() < end:
            async with open_(f"{directory}/{i}", "r+b") as file:
                await file.read()
                await file.seek(0)
                await file.write(DATA)

    async def tick() -> None:
        await aio.sleep(SETTLING)
        while time.perf_counter() < end:
            start = time.perf_counter()
            await aio.sleep(TICK)
            times.append(time.perf_counter() - start - TICK)

    with many() as directory:
        await aio.gather(tick(), *[one(directory, i) for i in range(TOGETHER)])
    return late(times)


async def measure_trio() -> float:
    import trio

    times: list[float] = []
    end = time.perf_counter() + SECONDS

    async def one(directory: str, i: int) -> None:
        while time.perf_counter() < end:
            async with await trio.open_file(f"{directory}/{i}", "r+b") as file:
                await file.read()
                await file.seek(0)
                await file.write(DATA)

    with many() as directory:
        async with trio.open_nursery() as nursery:
            for i in range(TOGETHER):
                nursery.start_soon(one, directory, i)
            await trio.sleep(SETTLING)
            while time.perf_counter() < end:
                start = time.perf_counter()
                await trio.sleep(TICK)
                times.append(time.perf_counter() - start - TICK)
    return late(times)


ROWS = [
    Gauge(
        key="files_latency",
        title="timer's delay under 1,000 files, p99",
        read=measure,
        trio=measure_trio,
        needs=("aiofiles",),
        unit="seconds",
    )
]
