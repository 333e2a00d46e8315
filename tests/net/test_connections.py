"""Making connections: create_connection with all its options, sockets given or refused, cancellation, Unix-domain paths."""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import on_noria, turns, until
from net.peers import Echo, Recorder, nothing_left_open, pair, read_all
from support.leaks import no_descriptors_left, open_descriptors


def loop_() -> noria.Loop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, noria.Loop)
    return loop


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@contextmanager
def deaf() -> Iterator[tuple[str, int]]:
    """The address of a listening socket whose backlog is full: a connection attempt there stays pending."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.05)
            try:
                filler.connect(address)
            except TimeoutError:
                break
        yield address


def refused_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@on_noria
async def test_a_connection_is_made_and_its_protocol_called_first() -> None:
    loop = loop_()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    transport, protocol = await loop.create_connection(Recorder, host, port)
    assert protocol.events == ["made"]
    assert protocol.transport is transport
    transport.write(b"echo")
    assert await protocol.got(4) == b"echo"
    transport.close()
    await protocol.lost
    server.close()
    await server.wait_closed()


@on_noria
async def test_a_refused_connection_says_where() -> None:
    loop, port = loop_(), refused_port()
    async with nothing_left_open():
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.create_connection(Recorder, "127.0.0.1", port)
        assert str(port) in str(caught.value)
        assert caught.value.errno == errno.ECONNREFUSED


@contextmanager
def names(*addresses: tuple[str, int]) -> Iterator[noria.Loop]:
    """A loop on which every name has these addresses."""

    class Names(noria.Loop):
        async def getaddrinfo(self, host: Any, port: Any, **kwargs: Any) -> Any:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    loop = Names()
    try:
        yield loop
    finally:
        loop.close()


@pytest.mark.parametrize("delay", [None, 0.001, 10])
def test_several_failures_are_told_together(delay: float | None) -> None:
    port = refused_port()
    hosts = [f"127.0.0.{n}" for n in (1, 2, 3)]
    with no_descriptors_left(), names(*((host, port) for host in hosts)) as loop:
        with pytest.raises(OSError, match="Multiple exceptions") as caught:
            loop.run_until_complete(
                loop.create_connection(Recorder, "x.example", 1, happy_eyeballs_delay=delay)
            )
        assert all(host in str(caught.value) for host in hosts)
        with pytest.raises(ExceptionGroup) as group:
            loop.run_until_complete(
                loop.create_connection(Recorder, "x.example", 1, happy_eyeballs_delay=delay, all_errors=True)
            )
        assert [type(error) for error in group.value.exceptions] == [ConnectionRefusedError] * 3


def test_happy_eyeballs_does_not_wait_for_a_dead_address() -> None:
    with (
        deaf() as dead,
        socket.create_server(("127.0.0.1", 0)) as listener,
        no_descriptors_left(),
        names(dead, listener.getsockname()) as loop,
    ):

        async def main() -> None:
            began = loop.time()
            transport, protocol = await loop.create_connection(
                Recorder, "two.example", 1, happy_eyeballs_delay=0.02
            )
            assert 0.015 < loop.time() - began < 5
            assert transport.get_extra_info("peername") == listener.getsockname()
            transport.abort()
            await protocol.lost

        loop.run_until_complete(asyncio.wait_for(main(), 20))


def test_happy_eyeballs_goes_on_at_once_when_an_address_refuses() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        no_descriptors_left(),
        names(("127.0.0.1", refused_port()), listener.getsockname()) as loop,
    ):

        async def main() -> None:
            transport, protocol = await loop.create_connection(
                Recorder, "two.example", 1, happy_eyeballs_delay=100
            )
            transport.abort()
            await protocol.lost

        loop.run_until_complete(asyncio.wait_for(main(), 20))


def test_without_happy_eyeballs_the_addresses_are_tried_in_turn() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        no_descriptors_left(),
        names(("127.0.0.1", refused_port()), ("127.0.0.2", refused_port()), listener.getsockname()) as loop,
    ):

        async def main() -> None:
            transport, protocol = await loop.create_connection(Recorder, "three.example", 1)
            assert transport.get_extra_info("peername") == listener.getsockname()
            transport.abort()
            await protocol.lost

        loop.run_until_complete(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("delay", [None, 0.005])
def test_a_cancelled_connect_closes_its_descriptors_once(delay: float | None) -> None:
    # A descriptor closed twice would close whatever has got the number meanwhile: so numbers are taken at once.
    with deaf() as dead, names(dead, dead, dead) as loop:

        async def main() -> None:
            for _ in range(20):
                before = open_descriptors()
                task = asyncio.create_task(
                    loop.create_connection(Recorder, "dead.example", 1, happy_eyeballs_delay=delay)
                )
                await asyncio.sleep(0.008)
                assert len(open_descriptors()) > len(before)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                taken = [socket.socketpair() for _ in range(4)]
                await turns(3)
                for near, far in taken:
                    near.send(b"x")
                    assert far.recv(1) == b"x"
                    near.close()
                    far.close()
                assert open_descriptors().keys() == before.keys()

        loop.run_until_complete(asyncio.wait_for(main(), 20))


@on_noria
async def test_a_connection_attempt_can_be_given_up_at_any_turn() -> None:
    loop = loop_()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    async with nothing_left_open():
        for delay in (None, 0.1):
            for count in range(12):
                made: list[Any] = []

                class Notes(Recorder):
                    def connection_made(self, transport: Any, made: list[Any] = made) -> None:
                        super().connection_made(transport)
                        made.append(transport)

                task = asyncio.create_task(
                    loop.create_connection(Notes, *address, happy_eyeballs_delay=delay)
                )
                await turns(count)
                task.cancel()
                try:
                    transport, _ = await task
                    transport.abort()
                except asyncio.CancelledError:
                    assert all(transport.is_closing() for transport in made)  # nobody else has it
                await turns(3)
        await until(lambda: not server._transports)
    server.close()
    await server.wait_closed()


@on_noria
async def test_the_local_address_can_be_chosen() -> None:
    loop = loop_()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    transport, protocol = await loop.create_connection(Recorder, *address, local_addr=("127.0.0.5", 0))
    assert transport.get_extra_info("sockname")[0] == "127.0.0.5"
    transport.abort()
    await protocol.lost
    async with nothing_left_open():
        with pytest.raises(OSError, match=r"error while attempting to bind on address \('192\.0\.2\.1', 0\)"):
            await loop.create_connection(Recorder, *address, local_addr=("192.0.2.1", 0))
        with pytest.raises(OSError, match="no matching local address"):
            await loop.create_connection(Recorder, *address, local_addr=("::1", 0))
    server.close()
    await server.wait_closed()


@ipv6
@on_noria
async def test_a_connection_by_ipv6() -> None:
    loop = loop_()
    server = await loop.create_server(Echo, "::1", 0)
    transport, protocol = await loop.create_connection(Recorder, "::1", server.sockets[0].getsockname()[1])
    assert transport.get_extra_info("peername") == server.sockets[0].getsockname()
    assert transport.get_extra_info("sockname") == transport.get_extra_info("socket").getsockname()
    transport.write(b"six")
    assert await protocol.got(3) == b"six"
    transport.close()
    await protocol.lost
    server.close()
    await server.wait_closed()


@on_noria
async def test_a_connected_socket_may_be_given() -> None:
    near, far = pair("tcp")
    with far:
        transport, protocol = await loop_().create_connection(Recorder, sock=near)
        far.send(b"given")
        assert await protocol.got(5) == b"given"
        transport.close()
        await protocol.lost
        await turns(1)
        assert near.fileno() == -1


@on_noria
async def test_a_blocking_socket_given_is_made_non_blocking() -> None:
    near, far = socket.socketpair()
    with far:
        transport, protocol = await loop_().create_unix_connection(Recorder, sock=near)
        assert near.gettimeout() == 0
        transport.abort()
        await protocol.lost


@on_noria
async def test_wrong_arguments_are_refused_before_anything_is_opened() -> None:
    loop = loop_()
    near, far = pair()
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with near, far, datagram, no_descriptors_left():
        for wrong in (
            {},
            {"host": "127.0.0.1", "port": 1, "sock": near},
            {"sock": datagram},
            {"sock": near, "server_hostname": "x"},
            {"sock": near, "ssl": True},
            {"sock": near, "ssl_handshake_timeout": 1},
            {"sock": near, "ssl_shutdown_timeout": 1},
        ):
            with pytest.raises(ValueError):
                await loop.create_connection(Recorder, **wrong)  # type: ignore[arg-type]
        for wrong in (
            {},
            {"path": "/x", "sock": near},
            {"sock": datagram},
            {"path": "/x", "server_hostname": "x"},
        ):
            with pytest.raises(ValueError):
                await loop.create_unix_connection(Recorder, **wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            await loop.connect_accepted_socket(Recorder, datagram)
        with pytest.raises((ValueError, TypeError, AttributeError)):
            await loop.create_connection(Recorder, sock=5)  # type: ignore[arg-type]


@on_noria
async def test_a_protocol_factory_that_fails_leaves_nothing_open() -> None:
    loop = loop_()
    server = await loop.create_server(Echo, "127.0.0.1", 0)

    def broken() -> Any:
        raise ZeroDivisionError

    async with nothing_left_open():
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(broken, *server.sockets[0].getsockname())
    await until(lambda: not server._transports)
    server.close()
    await server.wait_closed()


# Unix-domain sockets.


@pytest.mark.parametrize("kind", ["str", "Path", "bytes", "abstract"])
def test_unix_servers_are_reached_by_every_kind_of_path(kind: str, tmp_path: Path) -> None:
    path: Any = {
        "str": str(tmp_path / "s"),
        "Path": tmp_path / "s",
        "bytes": os.fsencode(tmp_path / "s"),
        "abstract": f"\0noria-test-{os.getpid()}",
    }[kind]

    @on_noria
    async def program() -> None:
        loop = loop_()
        server = await loop.create_unix_server(Echo, path)
        assert (tmp_path / "s").exists() is (kind != "abstract")
        transport, protocol = await loop.create_unix_connection(Recorder, path)
        transport.write(b"by path")
        assert await protocol.got(7) == b"by path"
        name = transport.get_extra_info("peername")
        assert name == transport.get_extra_info("socket").getpeername()
        transport.close()
        await protocol.lost
        server.close()
        await server.wait_closed()
        assert not (tmp_path / "s").exists()

    program()


@on_noria
async def test_unix_paths_that_lead_nowhere() -> None:
    loop = loop_()
    async with nothing_left_open():
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(Recorder, "/nonexistent/socket")
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_server(Echo, "/nonexistent/socket")
        with pytest.raises(NotADirectoryError):  # after a word in the log, as in asyncio
            await loop.create_unix_server(Echo, "/dev/null/socket")
        with pytest.raises(OSError, match="too long"):
            await loop.create_unix_connection(Recorder, "x" * 200)


def test_a_watchdog_in_the_place_of_os_stat_is_not_set_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As blockbuster does, with which aiohttp and anyio look for calls that block the loop."""

    def bark(*arguments: object) -> Any:
        raise AssertionError(f"called on the loop with {arguments}")

    @on_noria
    async def program() -> None:
        loop = loop_()
        with monkeypatch.context() as patched:
            for name in ("stat", "remove", "unlink"):
                patched.setattr(os, name, bark)
            for _ in range(2):
                with socket.socket(socket.AF_UNIX) as stale:
                    stale.bind(str(path))
                server = await loop.create_unix_server(Echo, str(path))
                server.close()
                await server.wait_closed()
        assert not path.exists()

    path = tmp_path / "s"
    program()


def test_a_stale_socket_file_is_replaced_and_a_living_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"

    @on_noria
    async def program() -> None:
        loop = loop_()
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        server = await loop.create_unix_server(Echo, path)
        server.close()
        assert not path.exists()
        path.write_text("a file of somebody's")
        async with nothing_left_open():
            with pytest.raises(OSError, match="already in use"):
                await loop.create_unix_server(Echo, path)
        assert path.read_text() == "a file of somebody's"
        path.unlink()
        server = await loop.create_unix_server(Echo, path)
        path.unlink()
        path.write_text("the next one's")
        server.close()
        assert path.exists()  # not ours any more
        path.unlink()
        server = await loop.create_unix_server(Echo, path, cleanup_socket=False)
        server.close()
        assert path.exists()

    program()


# Accepted sockets and the peer.


@on_noria
async def test_a_socket_accepted_elsewhere_is_served() -> None:
    loop = loop_()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        client = socket.socket()
        client.setblocking(False)
        with client:
            accepting = asyncio.create_task(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            accepted, address = await accepting
            assert address == client.getsockname()
            transport, _ = await loop.connect_accepted_socket(Echo, accepted)
            await loop.sock_sendall(client, b"served")
            assert await read_all(client, 6) == b"served"
            transport.close()
            assert await read_all(client) == b""


@on_noria
async def test_a_peer_that_resets_while_it_waits_in_the_backlog_does_no_harm() -> None:
    loop = loop_()
    server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
    server.sockets[0]._sock.listen(10)
    for _ in range(5):
        client = socket.create_connection(server.sockets[0].getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.setblocking(False)
        await server.start_serving()
        await loop.sock_sendall(client, b"well")
        assert await read_all(client, 4) == b"well"
    await until(lambda: not server._transports)
    server.close()
    await server.wait_closed()
