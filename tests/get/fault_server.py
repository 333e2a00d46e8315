"""A real HTTP server on a real socket that answers as it is told to, mostly badly.

It runs in a thread on the standard library's own loop, so that nothing of noria can help or hinder it. A path
is given a function that gets the `Exchange` and writes whatever it likes; the connection is closed when it
returns.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass
class Exchange:
    """One request. `number` counts the requests for this path from 1; header names are in lower case."""

    path: str
    number: int
    headers: dict[str, str]
    writer: asyncio.StreamWriter
    closing: asyncio.Event

    async def send(self, data: bytes) -> None:
        """Send `data` as it is."""
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, body: bytes = b"", status: str = "200 OK", **headers: str) -> None:
        """Send a complete and correct answer; headers are written with _ for -."""
        fields = {"Content_Length": str(len(body)), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        await self.send(f"HTTP/1.1 {status}\r\nConnection: close\r\n{head}\r\n".encode() + body)

    async def hang(self) -> None:
        """Say nothing more until the server ends."""
        await self.closing.wait()

    def reset(self) -> None:
        """End the connection as a crash does, by RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Answer = Callable[[Exchange], Awaitable[None]]


class FaultServer:
    """Runs for the length of a `with` block. `seen` lists the paths asked for, in order. tls: serve https."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.seen: list[str] = []
        self.most_at_once = 0
        self.port = 0
        self.always: Answer | None = None  # serves every path that has no other
        self._answers: dict[str, Answer] = {}
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="fault-server")

    def on(self, path: str, answer: Answer) -> str:
        """Have `answer` serve `path`; the URL for it."""
        self._answers[path] = answer
        return self.url(path)

    def url(self, path: str) -> str:
        """The URL of `path`, which begins with a slash."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        async with server:
            await self._closing.wait()
            # A connection accepted just now needs four turns of the loop to become a task, and must not find the
            # server closed meanwhile: CPython 3.11 then drops it unclosed.
            self._loop.remove_reader(server.sockets[0].fileno())
            for _ in range(10):
                await asyncio.sleep(0)
        while self._open:
            for writer in self._open.values():
                writer.transport.abort()
            await asyncio.wait(self._open, timeout=1)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            path = head[0].split()[1]
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            self.seen.append(path)
            self.most_at_once = max(self.most_at_once, len(self._open))
            exchange = Exchange(path, self.seen.count(path), headers, writer, self._closing)
            await self._answers.get(path, self.always or _not_found)(exchange)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            del self._open[task]


async def _not_found(exchange: Exchange) -> None:
    await exchange.reply(b"no such page", "404 Not Found")
