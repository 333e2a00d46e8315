"""An echo server on the library websockets, 50 connections with one message of 1 KiB under way on each.

The load is a client of our own that sends a frame made beforehand and compares the answer byte for byte: a client on
the library would be slower than the server, and its speed would be the figure. The CPU time includes the handshakes,
which are about one part in twenty of it in a measurement of 0.8 s.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import select
import socket
import struct
import time
from typing import Any

from ...row import Service

CONNECTIONS = 50
MESSAGE = bytes(range(256)) * 4
PATIENCE = 10.0  # seconds without any answer, after which the server is taken to hang

serving: list[Any] = []


async def serve(aio: Any) -> str:
    from websockets.asyncio.server import serve

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    server = await serve(echo, "127.0.0.1", 0, compression=None, ping_interval=None, backlog=1024)
    serving.append(server)
    return f"tcp:{server.sockets[0].getsockname()[1]}"


def load(address: str, seconds: float) -> tuple[int, float]:
    """Requests answered in about `seconds`, and the seconds they took. One thread, epoll."""
    port = int(address.removeprefix("tcp:"))
    key = os.urandom(4)
    masked = bytes(byte ^ key[i % 4] for i, byte in enumerate(MESSAGE))
    # RFC 6455, section 5.2: FIN and opcode 2 (binary), then the length; what a client sends is masked.
    request = b"\x82" + struct.pack(">BH", 0x80 | 126, len(MESSAGE)) + key + masked
    answer = b"\x82" + struct.pack(">BH", 126, len(MESSAGE)) + MESSAGE
    connections: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        try:
            for _ in range(CONNECTIONS):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
                _shake_hands(connection, port)
                connections[connection.fileno()] = connection
            done = _exchange(connections, request, answer, seconds)
            for connection in connections.values():
                _take_leave(connection, key)
            return done
        except OSError as error:  # TimeoutError is one
            raise RuntimeError(f"the connection failed: {error}") from None


def _shake_hands(connection: socket.socket, port: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ["GET / HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket"]
    lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
    connection.sendall("\r\n".join(lines).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # the server says nothing more until it is spoken to
        piece = connection.recv(4096)
        if not piece:
            raise RuntimeError("the server closed the connection during the handshake")
        head += piece
    # RFC 6455, section 1.3
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    if b" 101 " not in head or base64.b64encode(digest) not in head:
        raise RuntimeError(f"the server refused the handshake: {head[:60]!r}")


def _take_leave(connection: socket.socket, key: bytes) -> None:
    """The closing handshake, until the server has closed the connection: it has nothing left to do for it then.

    A message may still be under way; it is read and forgotten.
    """
    code = bytes(byte ^ key[i] for i, byte in enumerate(struct.pack(">H", 1000)))
    connection.sendall(b"\x88\x82" + key + code)
    while connection.recv(65536):
        pass


def _exchange(
    connections: dict[int, socket.socket], request: bytes, answer: bytes, seconds: float
) -> tuple[int, float]:
    got = dict.fromkeys(connections, b"")
    done = 0
    with select.epoll() as ready:
        for fd in connections:
            ready.register(fd, select.EPOLLIN)
        start = now = time.perf_counter()
        for connection in connections.values():
            connection.send(request)
        while now < start + seconds:
            events = ready.poll(PATIENCE)
            if not events:
                raise RuntimeError(f"no answer for {PATIENCE:.0f} s")
            for fd, _ in events:
                connection = connections[fd]
                piece = connection.recv(65536)
                if not piece:
                    raise RuntimeError("the server closed a connection")
                if got[fd]:
                    piece = got[fd] + piece
                if piece == answer:
                    done += 1
                    got[fd] = b""
                    connection.send(request)  # a kilobyte: it fits into the empty buffer
                elif len(piece) < len(answer):
                    got[fd] = piece
                else:
                    raise RuntimeError(f"the answer is not what was sent: {piece[:20]!r}")
            now = time.perf_counter()
    if not done:
        raise RuntimeError(f"not one answer in {seconds} s")
    return done, now - start


ROWS = [
    Service(
        key="websockets_echo",
        title="websockets, echo, 50 x 1 KiB",
        serve=serve,
        load=load,
        needs=("websockets",),
        unit="message",
    )
]
