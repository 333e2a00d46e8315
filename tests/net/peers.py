"""The protocols and plain sockets that the tests of transports talk with.

`Recorder` notes what happened to it and in which order; `Buffered` is the same as a BufferedProtocol. `connected` gives a
noria transport and a plain socket at its other end, over TCP or a Unix-domain pair.
"""

import asyncio
import contextlib
import gc
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from core.running import turns, until
from support.leaks import open_descriptors


class Base(asyncio.BaseProtocol):
    """What both kinds of protocol note down."""

    keep_open = False  # what eof_received answers

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.events: list[str] = []
        self.received = bytearray()
        self.transport: Any = None
        self.made: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append("made")
        self.transport = transport
        self.made.set_result(None)

    def eof_received(self) -> bool:
        self.events.append("eof")
        self.ended.set_result(None)
        return self.keep_open

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)

    async def got(self, count: int) -> bytes:
        """Wait until so many bytes have come; returns all there are."""
        while len(self.received) < count:
            await asyncio.sleep(0.0005)
        return bytes(self.received)


class Recorder(Base, asyncio.Protocol):
    """A Protocol that notes what happens."""

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        if self.events[-1:] != ["data"]:
            self.events.append("data")
        self.received += data


class Buffered(Base, asyncio.BufferedProtocol):
    """A BufferedProtocol that notes what happens; its buffer is `size` bytes."""

    size = 10_000

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray(self.size)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes: int) -> None:
        if self.events[-1:] != ["data"]:
            self.events.append("data")
        self.received += self.buffer[:nbytes]


class Echo(asyncio.Protocol):
    """Sends back what comes, and heeds its own peer's slowness: it stops reading while writing is paused."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class BufferedEcho(asyncio.BufferedProtocol):
    """Echo as a BufferedProtocol; one buffer, used again and again."""

    def __init__(self) -> None:
        self.buffer = bytearray(70_000)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(memoryview(self.buffer)[:nbytes])  # the transport must copy what it keeps

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


def pair(kind: str = "unix") -> tuple[socket.socket, socket.socket]:
    """Two connected non-blocking sockets, "unix" or "tcp"."""
    if kind == "unix":
        near, far = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            far = socket.create_connection(listener.getsockname())
            near, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


@asynccontextmanager
async def connected(
    factory: Callable[[], Any] = Recorder, kind: str = "tcp"
) -> AsyncIterator[tuple[Any, Any, socket.socket]]:
    """(transport, its protocol, the plain non-blocking socket at the other end); all closed at the end."""
    near, far = pair(kind)
    transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(factory, near)
    with far:
        try:
            yield transport, protocol, far
        finally:
            transport.abort()
            await turns(2)


@asynccontextmanager
async def nothing_left_open() -> AsyncIterator[None]:
    """Fail if descriptors opened in the block are open after it, once the loop had time to close them."""
    async with connected():
        await turns(2)  # io_uring's driver opens its ring with the first connection, and keeps it
    gc.collect()
    before = open_descriptors()
    yield
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            await until(lambda: gc.collect() < 0 or open_descriptors() == before)
    left = {fd: what for fd, what in open_descriptors().items() if before.get(fd) != what}
    assert not left, f"left open: {left}"


async def read_all(sock: socket.socket, limit: int = 1 << 30) -> bytes:
    """Everything that comes on a plain non-blocking socket until the peer's end, or until `limit` bytes are there."""
    loop = asyncio.get_running_loop()
    found = bytearray()
    while len(found) < limit:
        data = await loop.sock_recv(sock, min(1 << 16, limit - len(found)))
        if not data:
            break
        found += data
    return bytes(found)


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes in which no two places look alike."""
    return random.Random(seed).randbytes(size)
