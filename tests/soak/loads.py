"""The loads of a soak. Each is a coroutine that does one operation after the other until the phase is over.

Servers and clients live on the same loop, so that every callback of one kind runs between callbacks of all the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

import noria
from soak.ledger import Ledger

Where = tuple[str, int]
KEPT: list[object] = []  # where the defects "object" and "descriptor" put what they leak


@dataclass(frozen=True)
class Servers:
    """Where the servers of a run are."""

    http: Where
    plain: Where
    tls: Where
    udp: Where
    unix: str
    trust: ssl.SSLContext


# Servers


class Mirror(asyncio.Protocol):
    """Sends back what it gets, and asks its peer to wait when it gets more than the peer takes."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.ledger.has("byte"):
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.ledger.has("object"):
            KEPT.append([self])
        if self.ledger.has("descriptor"):
            KEPT.append(os.dup(0))
        if self.ledger.has("timer"):
            noria.get_running_loop().call_later(3600, print, data)
        if self.ledger.has("hang"):
            return
        if self.ledger.has("exception"):
            noria.get_running_loop().call_soon(int, "a defect that was asked for")
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class BufferedMirror(asyncio.BufferedProtocol):
    """The same by a buffer of its own."""

    def __init__(self) -> None:
        self.buffer = bytearray(8192)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(memoryview(self.buffer)[:nbytes])

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class DatagramMirror(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Where) -> None:
        self.transport.sendto(data, addr)


async def mirrored(request: web.Request) -> web.StreamResponse:
    """Answers with the request's body, piece by piece while it comes."""
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(
        ConnectionError
    ):  # vanishing() is not to fill the log with what it does on purpose
        async for piece in request.content.iter_any():
            await response.write(piece)
        await response.write_eof()
    return response


async def mirror_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what it reads, until the end or until the peer is gone."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


# Loads


async def http(ledger: Ledger, servers: Servers) -> None:
    """Bodies go up and come back, over connections that are used again."""
    url = f"http://{servers.http[0]}:{servers.http[1]}/mirror"
    async with aiohttp.ClientSession() as session:
        while not ledger.over:
            body = ledger.bytes(300_000)
            async with session.post(url, data=body) as response:
                ledger.account("http", body, await response.read())


async def streams(ledger: Ledger, servers: Servers) -> None:
    """Streams over TCP, Unix sockets and TLS: a few exchanges, then the end from either side."""
    kind = ledger.random.choice(("tcp", "unix", "tls"))
    while not ledger.over:
        if kind == "unix":
            reader, writer = await noria.open_unix_connection(servers.unix)
        elif kind == "tls":
            reader, writer = await noria.open_connection(
                *servers.tls, ssl=servers.trust, server_hostname="localhost"
            )
        else:
            reader, writer = await noria.open_connection(*servers.plain)
        try:
            for _ in range(ledger.random.randrange(1, 6)):
                data = ledger.bytes(400_000)
                writer.write(data)
                back, _ = await noria.gather(reader.readexactly(len(data)), writer.drain())
                ledger.account(kind, data, back)
            if kind != "tls" and ledger.random.random() < 0.5:
                data = ledger.bytes(1_000_000)
                writer.write(data)
                writer.write_eof()
                ledger.account(kind, data, await reader.read())
        finally:
            writer.close()
            await writer.wait_closed()


class Asker(asyncio.DatagramProtocol):
    """Puts what comes into a queue."""

    def __init__(self) -> None:
        self.came: noria.Queue[bytes] = noria.Queue()

    def datagram_received(self, data: bytes, addr: Where) -> None:
        self.came.put_nowait(data)


async def udp(ledger: Ledger, servers: Servers) -> None:
    """A few datagrams under way at a time, few enough that the kernel drops none."""
    loop = noria.get_running_loop()
    while not ledger.over:
        transport, asker = await loop.create_datagram_endpoint(Asker, remote_addr=servers.udp)
        for _ in range(20):
            sent = [ledger.bytes(1200) for _ in range(ledger.random.randrange(1, 9))]
            for data in sent:
                transport.sendto(data)
            for data in sent:
                ledger.account("udp", data, await asker.came.get())
        transport.close()


async def children(ledger: Ledger, servers: Servers) -> None:
    """Children that copy their input, that end with a number, and that are killed."""
    clean = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "ASAN_OPTIONS")}
    pipe = asyncio.subprocess.PIPE
    while not ledger.over:
        what = ledger.random.randrange(3)
        if what == 0:
            data = ledger.bytes(500_000)
            child = await noria.create_subprocess_exec("cat", stdin=pipe, stdout=pipe, env=clean)
            out, _ = await child.communicate(data)
            ledger.account("children", data, out)
            expected = 0
        elif what == 1:
            expected = ledger.random.randrange(256)
            child = await noria.create_subprocess_shell(f"exit {expected}", env=clean)
        else:
            child = await noria.create_subprocess_exec("sleep", "1000", env=clean)
            await noria.sleep(ledger.random.random() * 0.01)
            child.kill()
            expected = -signal.SIGKILL
        code = await child.wait()
        ledger.done["children"] += what != 0
        if code != expected:
            ledger.problem(f"children: the exit status is {code} and should be {expected}")


async def timers(ledger: Ledger, servers: Servers) -> None:
    """Timers set, cancelled and run, in the order of their times."""
    loop = noria.get_running_loop()
    while not ledger.over:
        came: list[float] = []
        now = loop.time()
        times = [now + ledger.random.random() * 0.02 for _ in range(100)]
        handles = [loop.call_at(when, came.append, when) for when in times]
        cancelled = set(ledger.random.sample(range(100), 30))
        for index in cancelled:
            handles[index].cancel()
        await noria.sleep(0.03)
        expected = sorted(when for index, when in enumerate(times) if index not in cancelled)
        ledger.done["timers"] += 100
        if came != expected:
            ledger.problem(
                f"timers: {len(came)} ran, {len(expected)} should have, in the order of their times"
            )


async def cancellations(ledger: Ledger, servers: Servers) -> None:
    """Tasks cancelled at random moments of all they may wait for; what they held must be free again."""
    lock, queue = noria.Lock(), noria.Queue[int](2)
    got: list[int] = []

    async def hold() -> None:
        async with lock:
            await noria.sleep(ledger.random.random() * 0.003)

    async def take() -> None:
        got.append(await queue.get())

    async def read() -> None:
        reader, writer = await noria.open_connection(*servers.plain)
        try:
            writer.write(b"x")
            await reader.readexactly(2)
        finally:
            writer.close()

    async def deadline() -> None:
        with contextlib.suppress(TimeoutError):
            await noria.wait_for(noria.gather(noria.sleep(1), noria.sleep(0)), 0.002)

    async def group() -> None:
        async with noria.TaskGroup() as members:
            for _ in range(3):
                members.create_task(noria.sleep(ledger.random.random() * 0.01))

    kinds: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (hold, take, read, deadline, group)
    put = 0
    while not ledger.over:
        tasks = [noria.ensure_future(ledger.random.choice(kinds)()) for _ in range(12)]
        for _ in range(4):
            if not queue.full():
                queue.put_nowait(put)
                put += 1
            await noria.sleep(ledger.random.random() * 0.002)
            ledger.random.choice(tasks).cancel()
        for task in tasks:
            task.cancel()
        for outcome in await noria.gather(*tasks, return_exceptions=True):
            if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                ledger.problem(f"cancellations: {outcome!r}")
        ledger.done["cancellations"] += len(tasks)
        if lock.locked():
            ledger.problem("cancellations: the lock is held, and nobody is there")
            lock = noria.Lock()
    while not queue.empty():
        got.append(queue.get_nowait())
    if sorted(got) != list(range(put)):
        ledger.problem(f"cancellations: of {put} items {len(set(got))} came out of the queue")


def _hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


async def vanishing(ledger: Ledger, servers: Servers) -> None:
    """Peers that go away: in the midst of a request, of a handshake, of a large answer; politely or by a reset."""
    loop = noria.get_running_loop()
    request = b"POST /mirror HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(1000)
    while not ledger.over:
        what: tuple[tuple[Where, bytes], ...] = (
            (servers.http, request),
            (servers.plain, bytes(500_000)),
            (servers.tls, _hello()),
            (servers.tls, b"GET / HTTP/1.1\r\n\r\n"),
            (servers.tls, b""),
        )
        where, data = ledger.random.choice(what)
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, where)
            with contextlib.suppress(TimeoutError, ConnectionError):
                part = data[: ledger.random.randrange(len(data) + 1)]
                await noria.wait_for(loop.sock_sendall(sock, part), 0.05)
                if ledger.random.random() < 0.5:
                    await noria.wait_for(loop.sock_recv(sock, 100), 0.005)
            if ledger.random.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ledger.done["vanishing"] += 1


# name -> the load, and how many do it at once
LOADS: dict[str, tuple[Callable[[Ledger, Servers], Coroutine[Any, Any, None]], int]] = {
    "http": (http, 4),
    "streams": (streams, 6),
    "udp": (udp, 2),
    "children": (children, 2),
    "timers": (timers, 2),
    "cancellations": (cancellations, 2),
    "vanishing": (vanishing, 4),
}
