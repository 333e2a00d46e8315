"""Echo over Unix sockets, by a Protocol and by streams."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ...row import Load, Service
from ._servers import BACKLOG, KIB, allow_connections, echo_protocol, echo_stream, keep


def free_path() -> str:
    """In a directory that the parent of this process removes with its other temporary files."""
    return str(Path(tempfile.mkdtemp(prefix="noria-bench-"), "echo"))


async def serve_protocol(aio: Any) -> str:
    allow_connections()
    path = free_path()
    loop = aio.get_running_loop()
    keep(await loop.create_unix_server(echo_protocol(aio), path, backlog=BACKLOG))
    return f"unix:{path}"


async def serve_streams(aio: Any) -> str:
    allow_connections()
    path = free_path()
    keep(await aio.start_unix_server(echo_stream, path, backlog=BACKLOG))
    return f"unix:{path}"


ROWS = [
    Service(
        key="echo_unix_protocol_1k_50",
        title="Unix socket, protocol, 50 x 1 KiB",
        serve=serve_protocol,
        load=Load(connections=50, size=KIB),
    ),
    Service(
        key="echo_unix_streams_1k_50",
        title="Unix socket, streams, 50 x 1 KiB",
        serve=serve_streams,
        load=Load(connections=50, size=KIB),
    ),
]
