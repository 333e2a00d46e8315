"""Bytes for an idle connection on the server's side: with a protocol and with streams, plain and TLS.

The clients are another process. A connection counts from when the program has been told of it, with TLS after the
handshake; on the streams a task waits in `read`. Nothing has been sent over it but the handshake. What OpenSSL and the
event loop keep for it is counted; what the kernel keeps is not.
"""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from ...row import Gauge
from ._size import allow_descriptors, memory

PATIENCE = 30  # seconds


class Arrivals:
    """Counts connections, and keeps what belongs to them."""

    def __init__(self, aio: Any) -> None:
        self.kept: list[Any] = []
        self._aio = aio
        self._aim = 0
        self._reached: Any = None

    def add(self, thing: Any) -> None:
        self.kept.append(thing)
        if len(self.kept) == self._aim:
            self._reached.set_result(None)

    async def more(self, clients: subprocess.Popen[str], count: int) -> None:
        """Have so many more clients connect, and wait until they all have arrived."""
        self._aim = len(self.kept) + count
        self._reached = self._aio.get_running_loop().create_future()
        assert clients.stdin is not None
        clients.stdin.write(f"{count}\n")
        clients.stdin.flush()
        try:
            await self._aio.wait_for(self._reached, PATIENCE)
        except TimeoutError:
            missing = self._aim - len(self.kept)
            raise RuntimeError(f"{missing} of {count} clients had not arrived after {PATIENCE} s") from None


async def measure(aio: Any, streams: bool, tls: bool) -> float:
    # TLS costs hundreds of kilobytes on some loops and milliseconds for a handshake on all. One loop (blazio 0.1.0)
    # hangs with 2,000 connections: that is for the network rows to show.
    first, count = (20, 300) if tls else (300, 1_000)
    allow_descriptors(first + count + 100)
    arrivals = Arrivals(aio)
    start = with_streams if streams else with_protocol
    server = await start(aio, arrivals, self_signed() if tls else None)
    with connected(server.sockets[0].getsockname()[1], "tls" if tls else "plain") as clients:
        await arrivals.more(clients, first)
        before = memory()
        await arrivals.more(clients, count)
        return (memory() - before) / count


async def with_protocol(aio: Any, arrivals: Arrivals, context: ssl.SSLContext | None) -> Any:
    class Idle(aio.Protocol):  # type: ignore[misc]
        __slots__ = ()

        def connection_made(self, transport: Any) -> None:
            arrivals.add(transport)

    loop = aio.get_running_loop()
    return await loop.create_server(Idle, "127.0.0.1", 0, ssl=context, backlog=1024)


async def with_streams(aio: Any, arrivals: Arrivals, context: ssl.SSLContext | None) -> Any:
    async def serve(reader: Any, writer: Any) -> None:
        arrivals.add(writer)
        await reader.read(65536)

    return await aio.start_server(serve, "127.0.0.1", 0, ssl=context, backlog=1024)


@contextlib.contextmanager
def connected(port: int, kind: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("_clients.py")), str(port), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as clients:
        try:
            yield clients
        finally:
            clients.kill()


def self_signed() -> ssl.SSLContext:
    """A server's context with a certificate made by the program openssl for this one measurement."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory(prefix="noria-bench-tls-") as directory:
        key, certificate = Path(directory, "key.pem"), Path(directory, "certificate.pem")
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ]
        command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        context.load_cert_chain(certificate, key)
    return context


def row(key: str, title: str, streams: bool, tls: bool) -> Gauge:
    async def read(aio: Any) -> float:
        return await measure(aio, streams, tls)

    reader: Callable[[Any], Awaitable[float]] = read
    return Gauge(key=key, title=title, read=reader, programs=("openssl",) if tls else ())


ROWS = [
    row("idle_connection_memory", "idle connection, protocol", False, False),
    row("idle_connection_memory_streams", "idle connection, streams", True, False),
    row("idle_connection_memory_tls", "idle TLS connection, protocol", False, True),
    row("idle_connection_memory_tls_streams", "idle TLS connection, streams", True, True),
]
