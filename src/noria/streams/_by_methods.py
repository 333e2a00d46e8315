"""What goes through methods that a program's class may have overridden, or through somebody else's protocol: seldom
used, so in plain Python. As in asyncio.streams of CPython 3.13."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from noria.sync.gathering import shield
from noria.sync.tasks import isfuture


async def readline(reader: Any) -> bytes:
    """`readline` of a reader that has a `readuntil` of its own."""
    try:
        line: bytes = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        held = reader._buffer
        reader._buffer = held[error.consumed + 1 :] if held.startswith(b"\n", error.consumed) else b""
        reader._maybe_resume_transport()
        raise ValueError(error.args[0]) from None
    return line


async def next_line(reader: Any) -> bytes:
    """`__anext__` of a reader that has a `readline` or `readuntil` of its own."""
    line: bytes = await reader.readline()
    if line == b"":
        raise StopAsyncIteration
    return line


async def drain(writer: Any) -> None:
    """`drain` of a writer over a protocol that is not ours."""
    if writer._reader is not None:
        error = writer._reader.exception()
        if error is not None:
            raise error
    if writer._transport.is_closing():
        # connection_lost() is called in between: who writes and drains in a loop hears of it.
        await asyncio.sleep(0)
    await writer._protocol._drain_helper()


async def wait_closed(writer: Any) -> None:
    """`wait_closed` of a writer."""
    closed = writer._protocol._get_close_waiter(writer)
    # One future for all who wait: the first of them to be cancelled must not cancel it.
    await (shield(closed) if isfuture(closed) else closed)


async def start_tls(
    writer: Any,
    sslcontext: ssl.SSLContext,
    server_hostname: str | None,
    ssl_handshake_timeout: float | None,
    ssl_shutdown_timeout: float | None,
) -> None:
    """`start_tls` of a writer."""
    protocol = writer._protocol
    server_side = protocol._client_connected_cb is not None
    await writer.drain()
    below = writer._transport
    over = below.is_closing()
    try:
        transport = await writer._loop.start_tls(
            below,
            protocol,
            sslcontext,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
    except BaseException as error:
        # When it is out of time or cancelled the loop closes the connection and tells nobody: in asyncio whoever reads,
        # or waits until it is closed, waits for ever.
        if below.is_closing() and not over and not getattr(protocol, "_connection_lost", True):
            # Not the error itself, which holds this frame, and the frame the protocol.
            protocol.connection_lost(ConnectionAbortedError(str(error) or "start_tls() was cancelled"))
        raise
    if transport is None:
        raise ConnectionResetError("Connection lost")  # asyncio's writer would be without a transport
    writer._transport = transport
    if hasattr(protocol, "_replace_transport"):
        protocol._replace_transport(transport)
    else:
        protocol._replace_writer(writer)  # a protocol of the standard library before 3.13


for _function in (readline, next_line, drain, wait_closed, start_tls):
    _class = "StreamReader" if _function in (readline, next_line) else "StreamWriter"
    _function.__qualname__ = f"{_class}.{'__anext__' if _function is next_line else _function.__name__}"
