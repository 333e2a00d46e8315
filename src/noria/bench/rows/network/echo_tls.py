"""TCP echo over TLS, by a Protocol and by streams. The handshakes are done before the clock starts."""

from __future__ import annotations

from typing import Any

from ...row import Load, Service
from ._servers import (
    BACKLOG,
    HOST,
    NAMES,
    SIZES,
    allow_connections,
    echo_protocol,
    echo_stream,
    keep,
    serve_trio,
    tls_context,
)


def tls(server: Any) -> str:
    return f"tls:{keep(server).sockets[0].getsockname()[1]}"


async def serve_protocol(aio: Any) -> str:
    allow_connections()
    loop = aio.get_running_loop()
    return tls(await loop.create_server(echo_protocol(aio), HOST, 0, backlog=BACKLOG, ssl=tls_context()))


async def serve_streams(aio: Any) -> str:
    allow_connections()
    return tls(await aio.start_server(echo_stream, HOST, 0, backlog=BACKLOG, ssl=tls_context()))


async def serve_with_trio() -> str:
    import trio

    allow_connections()
    listeners: Any = await trio.open_ssl_over_tcp_listeners(0, tls_context(), host=HOST, backlog=BACKLOG)
    serve_trio(listeners)
    return f"tls:{listeners[0].transport_listener.socket.getsockname()[1]}"


ROWS = [
    Service(
        key=f"echo_tls_protocol_{size}_{connections}",
        title=f"TLS, protocol, {connections:,} x {NAMES[size]}",
        serve=serve_protocol,
        load=Load(connections=connections, size=SIZES[size]),
    )
    for connections, size in [(50, "1k"), (50, "100k"), (500, "64b")]
] + [
    Service(
        key="echo_tls_streams_1k_50",
        title="TLS, streams, 50 x 1 KiB",
        serve=serve_streams,
        trio=serve_with_trio,
        load=Load(connections=50, size=SIZES["1k"]),
    )
]
