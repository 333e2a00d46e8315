"""TCP echo by a Protocol: all sizes at 50 connections, all numbers of connections at 1 KiB."""

from __future__ import annotations

from typing import Any

from ...row import Load, Service
from ._servers import BACKLOG, HOST, NAMES, SIZES, allow_connections, echo_protocol, tcp


async def serve(aio: Any) -> str:
    allow_connections()
    loop = aio.get_running_loop()
    return tcp(await loop.create_server(echo_protocol(aio), HOST, 0, backlog=BACKLOG))


ROWS = [
    Service(
        key=f"echo_protocol_{size}_{connections}",
        title=f"protocol, {connections:,} x {NAMES[size]}",
        quick=(connections, size) == (50, "1k"),
        serve=serve,
        load=Load(connections=connections, size=SIZES[size]),
        floor=True,
    )
    for connections, size in [
        (50, "64b"),
        (50, "1k"),
        (50, "16k"),
        (50, "100k"),
        (50, "1m"),
        (1, "1k"),
        (500, "1k"),
        (500, "64b"),
        (5000, "1k"),
    ]
]
