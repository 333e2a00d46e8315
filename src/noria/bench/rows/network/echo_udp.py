"""UDP echo by a DatagramProtocol. A datagram that is lost is sent again after 0.1 s and reported."""

from __future__ import annotations

import socket
from typing import Any

from ...row import Load, Service
from ._servers import HOST, NAMES, SIZES, keep


async def serve(aio: Any) -> str:
    class Echo(aio.DatagramProtocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.transport.sendto(data, address)

    loop = aio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, (HOST, 0), family=socket.AF_INET)
    return f"udp:{keep(transport).get_extra_info('sockname')[1]}"


async def serve_with_trio() -> str:
    import trio

    endpoint = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await endpoint.bind((HOST, 0))

    async def echo() -> None:
        while True:
            data, address = await endpoint.recvfrom(64 * 1024)
            await endpoint.sendto(data, address)

    trio.lowlevel.spawn_system_task(echo)
    return f"udp:{endpoint.getsockname()[1]}"


ROWS = [
    Service(
        key=f"echo_udp_{size}_{connections}",
        title=f"UDP, {connections:,} x {NAMES[size]}",
        serve=serve,
        trio=serve_with_trio,
        load=Load(connections=connections, size=SIZES[size]),
    )
    for connections, size in [(50, "64b"), (50, "1k")]
]
