# isinstance(transport, asyncio.DatagramTransport) holds by `__class__`, so to a type checker the class derives from it.

import asyncio
import socket
from typing import Any

from noria.net.stream import StreamTransport

class DatagramTransport(StreamTransport, asyncio.DatagramTransport):
    def sendto(self, data: bytes | bytearray | memoryview[Any], addr: Any = None) -> None: ...

def open_datagram(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    protocol: asyncio.BaseProtocol,
    address: Any = None,
) -> DatagramTransport: ...
