"""open_connection, start_server and their kin for Unix-domain sockets: connections and servers as streams."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from noria.streams.connection import StreamReaderProtocol, StreamWriter
from noria.streams.reader import StreamReader

LIMIT = 2**16

ClientConnected = Callable[[StreamReader, StreamWriter], Awaitable[None] | None]


async def open_connection(
    host: str | None = None, port: int | str | None = None, *, limit: int = LIMIT, **kwds: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connect by TCP; returns (reader, writer).

    limit: the reader's, in bytes. Everything else as `loop.create_connection`, which also says what is raised.

    Source: asyncio.open_connection.
    """
    loop: Any = asyncio.get_running_loop()
    reader = StreamReader(limit=limit, loop=loop)
    protocol = StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, host, port, **kwds)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: ClientConnected,
    host: Any = None,
    port: int | str | None = None,
    *,
    limit: int = LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Listen by TCP, and call `client_connected_cb` with (reader, writer) for each connection.

    client_connected_cb: a function or a coroutine function, which then runs as a task. limit: the readers', in bytes.
    Everything else, and what is returned, as `loop.create_server`.

    Source: asyncio.start_server.
    """
    loop: Any = asyncio.get_running_loop()
    factory = _protocols(client_connected_cb, limit, loop)
    server: asyncio.Server = await loop.create_server(factory, host, port, **kwds)
    return server


async def open_unix_connection(
    path: str | bytes | os.PathLike[Any] | None = None, *, limit: int = LIMIT, **kwds: Any
) -> tuple[StreamReader, StreamWriter]:
    """As `open_connection`, to a Unix-domain socket. Everything else as `loop.create_unix_connection`.

    Source: asyncio.open_unix_connection.
    """
    loop: Any = asyncio.get_running_loop()
    reader = StreamReader(limit=limit, loop=loop)
    protocol = StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_unix_connection(lambda: protocol, path, **kwds)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def start_unix_server(
    client_connected_cb: ClientConnected,
    path: str | bytes | os.PathLike[Any] | None = None,
    *,
    limit: int = LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """As `start_server`, on a Unix-domain socket. Everything else as `loop.create_unix_server`.

    Source: asyncio.start_unix_server.
    """
    loop: Any = asyncio.get_running_loop()
    factory = _protocols(client_connected_cb, limit, loop)
    server: asyncio.Server = await loop.create_unix_server(factory, path, **kwds)
    return server


def _protocols(
    client_connected_cb: ClientConnected, limit: int, loop: asyncio.AbstractEventLoop
) -> Callable[[], StreamReaderProtocol]:
    def factory() -> StreamReaderProtocol:
        return StreamReaderProtocol(StreamReader(limit=limit, loop=loop), client_connected_cb, loop=loop)

    return factory
