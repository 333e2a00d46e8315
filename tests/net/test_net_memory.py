"""Connections, servers, readers and calls on sockets leave no object and no descriptor behind, however they end."""

import asyncio
import contextlib
import io
import socket
import struct
import sys
from typing import Any

import pytest

from core.running import on_noria, turns, until
from core.test_memory import Piece, leaves_nothing
from net.peers import Buffered, BufferedEcho, Echo, Recorder, connected, nothing_left_open, pair, read_all


async def echo_over_tcp(factory: Any = Echo) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    transport.write(b"hello")
    assert await protocol.got(5) == b"hello"
    transport.get_extra_info("peername")
    transport.get_extra_info("socket")
    transport.close()
    await protocol.lost
    server.close()
    await server.wait_closed()


async def echo_into_buffers() -> None:
    await echo_over_tcp(BufferedEcho)


async def streams() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"line\n")
    assert await reader.read() == b"line\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def aborted_with_bytes_buffered() -> None:
    async with connected(Buffered) as (transport, protocol, _far):
        transport.write(bytes(3_000_000))
        transport.writelines([bytearray(10_000)] * 5)
        transport.abort()
        await protocol.lost


async def reset_by_the_peer() -> None:
    async with connected() as (transport, protocol, far):
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        await protocol.lost
        transport.write(b"too late")


async def paused_and_dropped_by_the_peer() -> None:
    async with connected() as (transport, protocol, far):
        transport.pause_reading()
        far.close()
        transport.resume_reading()
        await protocol.lost


async def refused() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with contextlib.suppress(ConnectionRefusedError):
            await asyncio.get_running_loop().create_connection(Recorder, *sock.getsockname())


async def readers_and_writers() -> None:
    loop = asyncio.get_running_loop()
    near, far = pair()
    with near, far:
        loop.add_reader(near, print)
        loop.add_writer(near, int)
        loop.add_writer(near, int)
        await turns(2)
        loop.remove_reader(near)
        loop.remove_writer(near)
        loop.add_reader(far, print)  # and one that is closed without remove_reader


async def calls_on_sockets() -> None:
    loop = asyncio.get_running_loop()
    near, far = pair()
    with near, far:
        task = asyncio.create_task(loop.sock_recv(far, 10))
        await turns(2)
        await loop.sock_sendall(near, b"x")
        await task
        cancelled = asyncio.create_task(loop.sock_recv(far, 10))
        await turns(2)
        cancelled.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cancelled


async def files() -> None:
    async with connected() as (transport, _, _far):
        await asyncio.get_running_loop().sendfile(transport, io.BytesIO(b"x" * 1000))


async def changed_protocols() -> None:
    async with connected() as (transport, _, far):
        for kind in (Buffered, Recorder):
            protocol = kind()
            transport.set_protocol(protocol)
            far.send(b"x")
            await until(lambda protocol=protocol: protocol.received)  # type: ignore[misc]


PIECES = [
    echo_over_tcp, echo_into_buffers, streams, aborted_with_bytes_buffered, reset_by_the_peer, paused_and_dropped_by_the_peer,
    refused, readers_and_writers, calls_on_sockets, files, changed_protocols,
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
def test_repeating_it_leaves_nothing(piece: Piece) -> None:
    @on_noria
    async def program() -> None:
        async with nothing_left_open():
            await leaves_nothing(piece, 100)

    program()


@on_noria
async def test_a_buffer_of_the_programs_is_held_no_longer_than_the_call() -> None:
    class Shrinks(Buffered):
        def get_buffer(self, sizehint: int) -> bytearray:  # type: ignore[override]
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            del self.buffer[5000:]  # BufferError, if somebody still held a view of it
            self.buffer.extend(bytes(5000))

    async with connected(Shrinks) as (transport, protocol, far):
        for size in (100, 3_000_000):  # what the kernel takes at once, and what must wait
            data = bytearray(size)
            transport.write(data)
            data.clear()
            data = bytearray(size)
            transport.writelines([data])
            data.clear()
        far.send(b"x" * 100)
        await protocol.got(100)


@pytest.mark.parametrize("how", ["aborted", "reset", "closed"])
def test_what_was_written_is_let_go_when_the_connection_is_lost(how: str) -> None:
    @on_noria
    async def program() -> None:
        data = bytes(10_000_000)
        async with connected() as (transport, protocol, far):
            transport.write(data)
            assert transport.get_write_buffer_size()
            if how == "aborted":
                transport.abort()
            elif how == "reset":
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                far.close()
            else:
                transport.close()
                await read_all(far)
            await protocol.lost
            # The transport, which the program may keep, does not keep it.
            assert transport.get_write_buffer_size() == 0
            assert sys.getrefcount(data) == 2

    program()
