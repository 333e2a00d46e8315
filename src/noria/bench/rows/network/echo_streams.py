"""TCP echo by streams: read what is there, write, drain."""

from __future__ import annotations

from typing import Any

from ...row import Load, Service
from ._servers import (
    BACKLOG,
    HOST,
    NAMES,
    SIZES,
    allow_connections,
    echo_stream,
    serve_trio,
    tcp,
)


async def serve(aio: Any) -> str:
    allow_connections()
    return tcp(await aio.start_server(echo_stream, HOST, 0, backlog=BACKLOG))


async def serve_with_trio() -> str:
    import trio

    allow_connections()
    listeners = await trio.open_tcp_listeners(0, host=HOST, backlog=BACKLOG)
    serve_trio(listeners)
    return f"tcp:{listeners[0].socket.getsockname()[1]}"


ROWS = [
    Service(
        key=f"echo_streams_{size}_{connections}",
        title=f"streams, {connections:,} x {NAMES[size]}",
        quick=(connections, size) == (50, "1k"),
        serve=serve,
        trio=serve_with_trio,
        load=Load(connections=connections, size=SIZES[size]),
        floor=True,
    )
    for connections, size in [(50, "1k"), (50, "100k"), (500, "64b")]
]
