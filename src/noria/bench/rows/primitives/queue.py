"""`Queue`: two tasks that answer each other through two queues, and a bounded queue with a hundred producers."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def ping_pong(aio: Any, n: int) -> None:
    there, back = aio.Queue(), aio.Queue()

    async def ping() -> None:
        for i in range(n):
            await there.put(i)
            await back.get()

    async def pong() -> None:
        for _ in range(n):
            await back.put(await there.get())

    await aio.gather(ping(), pong())


async def ping_pong_trio(n: int) -> None:
    import trio

    there_send, there_receive = trio.open_memory_channel[int](1)
    back_send, back_receive = trio.open_memory_channel[int](1)

    async def ping() -> None:
        for i in range(n):
            await there_send.send(i)
            await back_receive.receive()

    async def pong() -> None:
        for _ in range(n):
            await back_send.send(await there_receive.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ping)
        nursery.start_soon(pong)


PRODUCERS = 100


async def bounded(aio: Any, n: int) -> None:
    """Ten places for a hundred producers: most of them wait."""
    queue = aio.Queue(10)

    async def produce() -> None:
        for i in range(n // PRODUCERS):
            await queue.put(i)

    async def consume() -> None:
        for _ in range(n):
            await queue.get()

    await aio.gather(consume(), *[produce() for _ in range(PRODUCERS)])


async def bounded_trio(n: int) -> None:
    import trio

    send, receive = trio.open_memory_channel[int](10)

    async def produce() -> None:
        for i in range(n // PRODUCERS):
            await send.send(i)

    async with trio.open_nursery() as nursery:
        for _ in range(PRODUCERS):
            nursery.start_soon(produce)
        for _ in range(n):
            await receive.receive()


ROWS = [
    Program(
        key="queue_ping_pong",
        title="two queues, round trip",
        run=ping_pong,
        trio=ping_pong_trio,
        batch=5_000,
        quick=True,
    ),
    Program(
        key="queue_bounded",
        title="queue of 10, 100 producers",
        run=bounded,
        trio=bounded_trio,
        batch=10_000,
        quick=True,
    ),
]
