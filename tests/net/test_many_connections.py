"""Ten thousand connections come, speak and go, and nothing of them stays: no descriptor, task or object.

Server and clients are noria's own, in one process and on one loop, in batches that keep the number of open
descriptors within the usual limits. Half of the connections may end with a reset instead of a farewell. A first
small batch lets whatever is made once (caches, pools, imports) be made before counting begins.
"""

import asyncio
import contextlib
import gc
import os
import resource
import socket
import struct
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import noria

BATCHES, BATCH = 5, 2_000
WARM_UP = 50
DEADLINE = 90.0  # seconds, for all of it
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, zero seconds; see socket(7)

Batch = Callable[[int], Coroutine[Any, Any, None]]


def reset(transport: asyncio.BaseTransport) -> None:
    """End a connection so that its peer receives a reset instead of an end of stream."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    assert isinstance(transport, asyncio.WriteTransport)
    transport.abort()


def census() -> Counter[str]:
    """How many descriptors are open, and how many objects of noria's, asyncio's, socket's and this module's
    types live.
    """
    gc.collect()
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in map(type, gc.get_objects()))
    rooms = (f"{__name__}.", "noria.", "asyncio.", "_asyncio.", "socket.", "ssl.")
    counted = Counter(name for name in names if name.startswith(rooms))
    counted["open descriptors"] = len(os.listdir("/proc/self/fd"))
    return counted


async def leaves_nothing_behind(batch: Batch) -> None:
    """Run a small batch, count, run the large batches, count again: the counts must be equal."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, noria.Loop)
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reports.append(context))
    async with asyncio.timeout(DEADLINE):
        await batch(WARM_UP)
        tasks = asyncio.all_tasks()
        before = census()
        for _ in range(BATCHES):
            await batch(BATCH)
    assert reports == []
    assert asyncio.all_tasks() == tasks
    assert census() - before == Counter()


@pytest.fixture(autouse=True)
def enough_descriptors() -> None:
    """Both ends of a batch are descriptors of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * BATCH + 500
    if soft < wanted:
        if hard < wanted and hard != resource.RLIM_INFINITY:
            pytest.skip(f"needs {wanted} open files, and the limit is {hard} (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Ends:
    """Counts connections of one side as they end, and by what."""

    def __init__(self) -> None:
        self.by: Counter[str] = Counter()
        self._waiter: tuple[int, asyncio.Future[None]] | None = None

    def count(self, error: BaseException | None) -> None:
        """One more has ended, with what `connection_lost` was given."""
        self.by[type(error).__name__] += 1
        if self._waiter is not None and self.by.total() == self._waiter[0]:
            self._waiter[1].set_result(None)

    async def wait_for(self, total: int) -> None:
        """Return once `total` connections have ended."""
        if self.by.total() < total:
            self._waiter = (total, asyncio.get_running_loop().create_future())
            await self._waiter[1]
        assert self.by.total() == total


class Echo(asyncio.Protocol):
    """The server's side: sends back what it receives."""

    alive: "weakref.WeakSet[Echo]" = weakref.WeakSet()

    def __init__(self, ends: Ends) -> None:
        self.ends = ends
        Echo.alive.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"reset me"):
            reset(self.transport)
        else:
            self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.count(exc)


class Speaker(asyncio.Protocol):
    """The client's side: says something, and knows when all of it has come back."""

    alive: "weakref.WeakSet[Speaker]" = weakref.WeakSet()

    def __init__(self, ends: Ends, words: bytes) -> None:
        self.ends = ends
        self.words = words
        self.heard = b""
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        Speaker.alive.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        transport.write(self.words)

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if len(self.heard) == len(self.words):
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.count(exc)
        if not self.answered.done():
            self.answered.set_exception(exc or EOFError("closed before the answer"))


async def protocols(number: int, who_resets: str) -> None:
    """Open `number` connections, speak on each, end them all; odd ones by a reset if somebody is to reset."""
    loop = asyncio.get_running_loop()
    served, spoken = Ends(), Ends()
    server = await loop.create_server(lambda: Echo(served), "127.0.0.1", 0, backlog=BATCH)
    address = server.sockets[0].getsockname()

    async def connect(index: int) -> Speaker:
        words = b"connection %d " % index * 20
        _, speaker = await loop.create_connection(lambda: Speaker(spoken, words), *address)
        return speaker

    async with server:
        speakers = await asyncio.gather(*map(connect, range(number)))
        await asyncio.gather(*(speaker.answered for speaker in speakers))
        for index, speaker in enumerate(speakers):
            assert speaker.heard == speaker.words
            if who_resets == "nobody" or index % 2 == 0:
                speaker.transport.close()
            elif who_resets == "client":
                reset(speaker.transport)
            else:
                speaker.transport.write(b"reset me")
        await served.wait_for(number)
        await spoken.wait_for(number)
    await server.wait_closed()

    hit = {"nobody": None, "client": served, "server": spoken}[who_resets]
    for ends in (served, spoken):
        expected = {"NoneType": number}
        if ends is hit:
            expected = {"NoneType": number // 2, "ConnectionResetError": number // 2}
        assert ends.by == expected


@pytest.mark.parametrize("who_resets", ["nobody", "client", "server"])
def test_ten_thousand_connections_of_protocols_leave_nothing_behind(who_resets: str) -> None:
    noria.run(leaves_nothing_behind(lambda number: protocols(number, who_resets)))
    gc.collect()
    assert len(Echo.alive) == 0
    assert len(Speaker.alive) == 0


async def streams(number: int, resets: bool) -> None:
    """As `protocols`, with stream readers and writers, and so with a task for each connection."""
    served = Ends()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        error: BaseException | None = None
        try:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        except ConnectionResetError as caught:
            error = caught
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()
        served.count(error)

    async def speak(index: int, may_leave: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection(*address)
        line = b"connection %d\n" % index
        writer.write(line)
        assert await reader.readline() == line
        await may_leave.wait()
        if resets and index % 2:
            reset(writer.transport)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=BATCH)
    address = server.sockets[0].getsockname()
    async with server:
        may_leave = asyncio.Event()
        speaking = asyncio.gather(*(speak(index, may_leave) for index in range(number)))
        may_leave.set()
        await speaking
        await served.wait_for(number)
    await server.wait_closed()
    if resets:
        assert served.by == {"NoneType": number // 2, "ConnectionResetError": number // 2}
    else:
        assert served.by == {"NoneType": number}


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "half-reset"])
def test_ten_thousand_connections_of_streams_leave_nothing_behind(resets: bool) -> None:
    noria.run(leaves_nothing_behind(lambda number: streams(number, resets)))
