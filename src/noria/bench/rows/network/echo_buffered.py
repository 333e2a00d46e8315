"""TCP echo by a BufferedProtocol: what is received lies in a buffer of the program's own."""

from __future__ import annotations

from typing import Any

from ...row import Load, Service
from ._servers import BACKLOG, CHUNK, HOST, NAMES, SIZES, allow_connections, tcp


async def serve(aio: Any) -> str:
    class Echo(aio.BufferedProtocol):  # type: ignore[misc]
        def __init__(self) -> None:
            self.buffer = memoryview(bytearray(CHUNK))

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def get_buffer(self, sizehint: int) -> memoryview:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            # A copy, since the buffer is used again while the write may be under way: asyncio's own transports have
            # kept what they are given as it is since 3.12, and other loops do too.
            self.transport.write(bytes(self.buffer[:nbytes]))

    allow_connections()
    return tcp(await aio.get_running_loop().create_server(Echo, HOST, 0, backlog=BACKLOG))


ROWS = [
    Service(
        key=f"echo_buffered_{size}_{connections}",
        title=f"buffered protocol, {connections:,} x {NAMES[size]}",
        serve=serve,
        load=Load(connections=connections, size=SIZES[size]),
        floor=True,
    )
    for connections, size in [(50, "1k"), (50, "100k"), (500, "64b")]
]
