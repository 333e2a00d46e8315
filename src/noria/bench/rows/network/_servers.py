"""What the servers of these rows share: an echo by each of asyncio's interfaces, written as one would for production.

Each starts a server on a free port of 127.0.0.1 and leaves it running.
"""

from __future__ import annotations

import resource
import ssl
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
BACKLOG = 1024  # the load opens at most 64 connections at a time
CHUNK = 64 * 1024  # bytes to ask for at a time, where the interface wants a number

KIB = 1024
SIZES = {"64b": 64, "1k": KIB, "16k": 16 * KIB, "100k": 100 * KIB, "1m": 1024 * KIB}
NAMES = {"64b": "64 B", "1k": "1 KiB", "16k": "16 KiB", "100k": "100 KiB", "1m": "1 MiB"}


def allow_connections() -> None:
    """As many descriptors as the system lets us have; the usual limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


_kept: list[Any] = []


def keep(server: Any) -> Any:
    """Hold a server, transport or task, as a program would: not every loop does it for us."""
    _kept.append(server)
    return server


def tcp(server: Any) -> str:
    return f"tcp:{keep(server).sockets[0].getsockname()[1]}"


def echo_protocol(aio: Any) -> type:
    class Echo(aio.Protocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    return Echo


async def echo_stream(reader: Any, writer: Any) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # the client is gone
    finally:
        writer.close()


# trio: the same through its streams.


async def echo_trio(stream: Any) -> None:
    import trio

    try:
        async for data in stream:
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # the client is gone
    finally:
        await trio.aclose_forcefully(stream)


def serve_trio(listeners: Any) -> None:
    """In the background."""
    import trio

    trio.lowlevel.spawn_system_task(trio.serve_listeners, echo_trio, listeners)


# TLS.


def tls_context() -> ssl.SSLContext:
    """A server's, with a key and certificate for localhost that are made for this and used for nothing else.

    They lie beside this file so that every run has the same ones (a handshake's cost depends on the key) and needs no
    program to make them: openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500
    -subj /CN=localhost -addext subjectAltName=DNS:localhost
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("localhost.pem"))
    return context
