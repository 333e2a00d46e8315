"""TCP echo line by line: readline, write, drain."""

from __future__ import annotations

from typing import Any

from ...row import Load, Service
from ._servers import BACKLOG, HOST, NAMES, SIZES, allow_connections, tcp


async def echo_lines(reader: Any, writer: Any) -> None:
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    except ConnectionError:
        pass  # the client is gone
    finally:
        writer.close()


async def serve(aio: Any) -> str:
    allow_connections()
    return tcp(await aio.start_server(echo_lines, HOST, 0, backlog=BACKLOG))


ROWS = [
    Service(
        key=f"echo_readline_{size}_{connections}",
        title=f"readline, {connections:,} x {NAMES[size]}",
        serve=serve,
        load=Load(connections=connections, size=SIZES[size], lines=True),
    )
    for connections, size in [(50, "64b"), (50, "1k")]
]
