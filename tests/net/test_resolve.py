"""Names to addresses: looked up in a thread, unless there is nothing to look up."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from core.running import on_noria
from net.test_connections import loop_


@on_noria
async def test_a_name_is_looked_up_and_a_literal_needs_no_thread() -> None:
    loop = loop_()
    for host, port, family in [
        ("127.0.0.1", 80, socket.AF_INET),
        ("::1", 80, socket.AF_INET6),
        ("127.0.0.1", "80", socket.AF_INET),
        (b"127.0.0.1", 80, socket.AF_INET),
        ("127.0.0.1", None, socket.AF_INET),
    ]:
        before = threading.active_count()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        assert threading.active_count() == before
        assert [info[0] for info in found] == [family]
        assert found == socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found = await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert ("127.0.0.1", 80) in [info[4] for info in found]
    assert found == socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)


@on_noria
async def test_what_cannot_be_found_raises_gaierror() -> None:
    with pytest.raises(socket.gaierror):
        await loop_().getaddrinfo("127.0.0.1", "no-such-service-anywhere")
    with pytest.raises(socket.gaierror):
        await loop_().getaddrinfo("::1", 80, family=socket.AF_INET)


@on_noria
async def test_connecting_by_literal_address_starts_no_thread() -> None:
    loop = loop_()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    before = threading.active_count()
    transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
    assert threading.active_count() == before
    transport.close()
    server.close()
    await server.wait_closed()


@on_noria
async def test_getnameinfo_turns_an_address_into_names() -> None:
    numeric: Any = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await loop_().getnameinfo(("127.0.0.1", 80), numeric) == ("127.0.0.1", "80")
    assert await loop_().getnameinfo(("127.0.0.1", 80)) == socket.getnameinfo(("127.0.0.1", 80), 0)
