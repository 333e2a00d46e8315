"""Servers: where they listen, when they serve, how they end, and what happens when descriptors run out."""

import asyncio
import contextlib
import contextvars
import socket
from typing import Any

import pytest

import noria
from core.running import on_noria, python, reports, turns, until
from net.peers import Echo, Recorder, nothing_left_open
from net.test_connections import ipv6, loop_
from support.leaks import no_descriptors_left


async def say(address: Any, words: bytes = b"hello") -> bytes:
    """Connect, say something to an echo server, return the answer."""
    reader, writer = await asyncio.open_connection(*address[:2])
    try:
        writer.write(words)
        return await reader.readexactly(len(words))
    finally:
        writer.close()
        await writer.wait_closed()


async def end(server: asyncio.AbstractServer) -> None:
    server.close()
    await server.wait_closed()


@on_noria
async def test_a_server_listens_on_several_hosts() -> None:
    server = await loop_().create_server(Echo, ["127.0.0.1", "127.0.0.2", "127.0.0.1"], 0)
    hosts = sorted(sock.getsockname()[0] for sock in server.sockets)
    assert hosts == ["127.0.0.1", "127.0.0.2"]
    for sock in server.sockets:
        assert await say(sock.getsockname()) == b"hello"
    assert isinstance(server, asyncio.AbstractServer)
    assert server.get_loop() is asyncio.get_running_loop()
    assert "127.0.0.2" in repr(server)
    await end(server)
    assert server.sockets == ()


@ipv6
@on_noria
async def test_no_host_means_every_interface() -> None:
    for nobody in (None, ""):
        server = await loop_().create_server(Echo, nobody, 0)
        families = sorted(sock.family for sock in server.sockets)
        assert families == [socket.AF_INET, socket.AF_INET6]
        for sock in server.sockets:
            host = "127.0.0.1" if sock.family == socket.AF_INET else "::1"
            assert await say((host, sock.getsockname()[1])) == b"hello"
        await end(server)


@on_noria
async def test_an_address_in_use_is_named_and_nothing_stays_open() -> None:
    loop = loop_()
    with socket.create_server(("127.0.0.1", 0)) as taken, no_descriptors_left():
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"bind on address \('127.0.0.1', {port}\).*in use"):
            await loop.create_server(Echo, ["127.0.0.3", "127.0.0.1"], port)
        with pytest.raises(OSError, match="could not bind on any address"):
            await loop.create_server(Echo, "192.0.2.1", 0)


@on_noria
async def test_reuse_port_lets_two_servers_share_one() -> None:
    loop = loop_()
    first = await loop.create_server(Echo, "127.0.0.1", 0, reuse_port=True)
    address = first.sockets[0].getsockname()
    second = await loop.create_server(Echo, *address, reuse_port=True, backlog=5)
    for _ in range(10):
        assert await say(address) == b"hello"
    await end(first)
    await end(second)


@on_noria
async def test_keep_alive_is_inherited_by_connections() -> None:
    made: list[Any] = []

    class Notes(Echo):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            sock = transport.get_extra_info("socket")
            made.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            made.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    server = await loop_().create_server(Notes, "127.0.0.1", 0, keep_alive=True)
    assert await say(server.sockets[0].getsockname()) == b"hello"
    assert made == [1, 1]
    await end(server)


@on_noria
async def test_a_bound_socket_may_be_given() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = await loop_().create_server(Echo, sock=sock)
    assert await say(sock.getsockname()) == b"hello"
    await end(server)
    assert sock.fileno() == -1


@on_noria
async def test_wrong_arguments_are_refused() -> None:
    loop = loop_()
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream = socket.socket()
    with datagram, stream, no_descriptors_left():
        for wrong in (
            {},
            {"host": "127.0.0.1", "sock": stream},
            {"sock": datagram},
            {"port": 0, "ssl_handshake_timeout": 1},
        ):
            with pytest.raises(ValueError):
                await loop.create_server(Echo, **wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await loop.create_server(Echo, "127.0.0.1", 0, ssl=True)  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            await loop.create_unix_server(Echo, sock=stream)
        with pytest.raises(ValueError):
            await loop.create_unix_server(Echo)


@on_noria
async def test_a_server_may_wait_with_serving() -> None:
    server = await loop_().create_server(Echo, "127.0.0.1", 0, start_serving=False)
    assert not server.is_serving()
    address = server.sockets[0].getsockname()
    with pytest.raises(ConnectionRefusedError):
        await say(address)
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()
    assert await say(address) == b"hello"
    await end(server)
    assert not server.is_serving()


@on_noria
async def test_serve_forever_serves_until_cancelled_and_closes() -> None:
    server = await loop_().create_server(Echo, "127.0.0.1", 0, start_serving=False)
    address = server.sockets[0].getsockname()
    task = asyncio.create_task(server.serve_forever())
    await turns(2)
    assert await say(address) == b"hello"
    with pytest.raises(RuntimeError, match="already being awaited"):
        await server.serve_forever()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()
    with pytest.raises(RuntimeError, match="is closed"):
        await server.serve_forever()


@on_noria
async def test_closing_a_server_ends_serve_forever() -> None:
    server = await loop_().create_server(Echo, "127.0.0.1", 0)
    task = asyncio.create_task(server.serve_forever())
    await turns(2)
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await task


@on_noria
async def test_a_server_is_an_asynchronous_context_manager() -> None:
    async with await loop_().create_server(Echo, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        assert await say(address) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        await say(address)


@on_noria
async def test_close_leaves_connections_alone_and_wait_closed_waits_for_them() -> None:
    server = await loop_().create_server(Echo, "127.0.0.1", 0)
    transport, protocol = await loop_().create_connection(Recorder, *server.sockets[0].getsockname())
    transport.write(b"1")
    await protocol.got(1)
    server.close()
    server.close()
    waiting = asyncio.create_task(server.wait_closed())
    transport.write(b"2")
    assert await protocol.got(2) == b"12"
    assert not waiting.done()
    transport.close()
    await waiting
    await server.wait_closed()
    await protocol.lost


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_a_server_can_end_its_connections(how: str) -> None:
    @on_noria
    async def program() -> None:
        class Talks(Echo):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transport.write(bytes(20_000_000))

        server = await loop_().create_server(Talks, "127.0.0.1", 0)
        clients = [
            await loop_().create_connection(Recorder, *server.sockets[0].getsockname()) for _ in range(3)
        ]
        for transport, protocol in clients:
            await protocol.got(1)
            transport.pause_reading()
        await turns(3)
        server.close()
        getattr(server, how)()
        if how == "abort_clients":
            await server.wait_closed()
        for transport, protocol in clients:
            transport.resume_reading()
            error = await protocol.lost
            if how == "close_clients":
                assert len(protocol.received) == 20_000_000
                assert error is None
            else:
                assert len(protocol.received) < 20_000_000
        await server.wait_closed()

    program()


@on_noria
async def test_wait_closed_waits_for_close() -> None:
    server = await loop_().create_server(Echo, "127.0.0.1", 0)
    waiting = asyncio.create_task(server.wait_closed())
    await turns(5)
    assert not waiting.done()
    server.close()
    await waiting


@on_noria
async def test_a_factory_that_fails_is_reported_and_the_server_goes_on() -> None:
    fails = True

    def factory() -> Any:
        if fails:
            raise ZeroDivisionError
        return Echo()

    server = await loop_().create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    with reports() as seen:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await say(address)
        await until(lambda: seen)
    assert isinstance(seen[0]["exception"], ZeroDivisionError)
    seen.clear()
    fails = False
    assert await say(address) == b"hello"
    await end(server)


@on_noria
async def test_connections_run_in_the_context_the_server_was_made_in_each_in_a_copy() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")
    seen: list[str] = []

    class Notes(Echo):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            seen.append(var.get())
            var.set("changed by one")

        def data_received(self, data: bytes) -> None:
            seen.append(var.get())
            super().data_received(data)

    var.set("server's")
    server = await loop_().create_server(Notes, "127.0.0.1", 0)
    var.set("later")
    for _ in range(2):
        assert await say(server.sockets[0].getsockname()) == b"hello"
    assert seen == ["server's", "changed by one"] * 2
    assert var.get() == "later"
    await end(server)


@on_noria
async def test_a_thousand_connections_through_a_short_backlog() -> None:
    server = await loop_().create_server(Echo, "127.0.0.1", 0, backlog=10)
    address = server.sockets[0].getsockname()
    limit = asyncio.Semaphore(10)

    async def client(n: int) -> None:
        async with limit:
            words = f"client {n}".encode()
            assert await say(address, words) == words

    async with nothing_left_open():
        await asyncio.gather(*(client(n) for n in range(1000)))
        await until(lambda: not server._transports)
    await end(server)


def test_running_out_of_descriptors_is_survived() -> None:
    done = python(
        """
import asyncio, noria, resource, socket

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def main():
    loop = asyncio.get_running_loop()
    seen = []
    loop.set_exception_handler(lambda loop, report: seen.append(report))
    clients = [socket.socket() for _ in range(10)]
    for client in clients:
        client.setblocking(False)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await asyncio.sleep(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (clients[-1].fileno() + 10, 4096))
    spare = []
    try:
        while True:
            spare.append(socket.socket())
    except OSError:
        pass  # none left
    for client in clients:
        await loop.sock_connect(client, address)
    while not seen:
        await asyncio.sleep(0.01)
    began, calls = loop.time(), len(seen)
    spent = __import__("time").process_time()
    await asyncio.sleep(0.3)
    assert __import__("time").process_time() - spent < 0.2, "it spins"
    assert len(seen) == calls
    assert seen[0]["exception"].errno == 24, seen
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
    for client in clients:
        await loop.sock_sendall(client, b"at last")
        assert await loop.sock_recv(client, 100) == b"at last"
    for sock in (*clients, *spare):
        sock.close()
    server.close()
    await server.wait_closed()
    print("survived")

noria.run(asyncio.wait_for(main(), 20))
"""
    )
    assert done.stdout == "survived\n", done.stderr


def test_processes_that_share_a_socket_share_its_connections() -> None:
    # As servers with several workers do. Each is busy for a while with every connection; were one asked by the kernel all
    # the same, the others would have nothing to do.
    done = python(
        """
import asyncio, collections, noria, os, signal, socket, threading, time

listening = socket.create_server(("127.0.0.1", 0), backlog=100)

class Worker(asyncio.Protocol):
    def connection_made(self, transport):
        time.sleep(0.02)
        transport.write(b"%d" % os.getpid())
        transport.close()

async def serve():
    server = await asyncio.get_running_loop().create_server(Worker, sock=listening)
    await server.serve_forever()

workers = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        noria.run(serve())
    workers.append(pid)

served = collections.Counter()

def client():
    with socket.create_connection(listening.getsockname(), timeout=20) as sock:
        served[sock.recv(100)] += 1

try:
    clients = [threading.Thread(target=client) for _ in range(45)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
finally:
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
assert sum(served.values()) == 45, served
assert len(served) == 3, served
print("shared")
"""
    )
    assert done.stdout == "shared\n", done.stderr


@on_noria
async def test_cancelling_create_server_leaves_nothing_listening() -> None:
    loop = loop_()
    async with nothing_left_open():
        for count in range(5):
            task = asyncio.create_task(loop.create_server(Echo, "127.0.0.1", 0))
            await turns(count)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await end(await task)


def test_a_loop_closed_with_a_server_open_does_not_crash() -> None:
    loop = noria.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))
    loop.close()
    server.close()
