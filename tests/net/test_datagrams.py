"""Datagram endpoints: what is sent arrives whole, once, in order and from where it came; errors belong to what failed."""

import asyncio
import contextvars
import errno
import gc
import hashlib
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import on_noria, reports, turns, until
from core.test_memory import Piece, leaves_nothing
from net.peers import nothing_left_open
from net.test_connections import loop_

FAMILIES = ["ipv4", "ipv6", "unix"]


class Datagrams(asyncio.DatagramProtocol):
    """Notes what happens."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.flow: list[str] = []
        self.lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert type(data) is bytes
        self.received.append((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def pause_writing(self) -> None:
        self.flow.append("pause")

    def resume_writing(self) -> None:
        self.flow.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    @property
    def data(self) -> list[bytes]:
        return [data for data, _ in self.received]


def local(family: str, directory: Path, name: str = "near") -> dict[str, Any]:
    """Arguments for an endpoint that can be reached."""
    if family == "unix":
        return {"family": socket.AF_UNIX, "local_addr": str(directory / name)}
    return {"local_addr": ("127.0.0.1" if family == "ipv4" else "::1", 0)}


def plain(family: str, directory: Path, name: str = "far") -> socket.socket:
    """A non-blocking socket of the standard library that can be reached."""
    kind = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6, "unix": socket.AF_UNIX}[family]
    sock = socket.socket(kind, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(str(directory / name) if family == "unix" else ("127.0.0.1" if family == "ipv4" else "::1", 0))
    return sock


@asynccontextmanager
async def endpoint(**options: Any) -> AsyncIterator[tuple[Any, Datagrams]]:
    """(transport, protocol), closed at the end."""
    transport, protocol = await loop_().create_datagram_endpoint(Datagrams, **options)
    try:
        yield transport, protocol
    finally:
        transport.abort()
        await protocol.lost


@pytest.fixture
def unix_pair(tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected Unix-domain datagram sockets without names. Their queue is short, so the sender meets a full one."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


def numbered(count: int, size: int = 0) -> list[bytes]:
    return [struct.pack("!I", n) + bytes([n & 0xFF]) * size for n in range(count)]


# What arrives.


@pytest.mark.parametrize("family", FAMILIES)
def test_datagrams_arrive_whole_and_from_where_they_came(family: str, tmp_path: Path) -> None:
    @on_noria
    async def program() -> None:
        async with nothing_left_open():
            with plain(family, tmp_path) as far:
                async with endpoint(**local(family, tmp_path)) as (near, protocol):
                    here = near.get_extra_info("sockname")
                    assert here == near.get_extra_info("socket").getsockname()
                    assert near.get_extra_info("peername") is None
                    assert isinstance(near, asyncio.DatagramTransport)
                    for data in (b"one", b"", b"\0" * 1000, b"x" * 60_000):
                        far.sendto(data, here)
                    await until(lambda: len(protocol.received) == 4)
                    assert protocol.data == [b"one", b"", b"\0" * 1000, b"x" * 60_000]
                    # the very form that the socket module gives
                    assert {addr for _, addr in protocol.received} == {far.getsockname()}
                    for answer in (b"back", b"", bytearray(b"y" * 60_000), memoryview(b"view")):
                        near.sendto(answer, protocol.received[0][1])
                    got = [await loop_().sock_recvfrom(far, 70_000) for _ in range(4)]
                    assert got == [(d, here) for d in (b"back", b"", b"y" * 60_000, b"view")]
                    assert near.get_write_buffer_size() == 0

    program()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_connected_endpoint_talks_to_its_peer_alone(family: str, tmp_path: Path) -> None:
    @on_noria
    async def program() -> None:
        with plain(family, tmp_path) as far, plain(family, tmp_path, "stranger") as stranger:
            options = local(family, tmp_path) | {
                "remote_addr": far.getsockname()[:2] if family != "unix" else far.getsockname()
            }
            async with endpoint(**options) as (near, protocol):
                assert near.get_extra_info("peername") == far.getsockname()
                near.sendto(b"a")
                near.sendto(b"b", far.getsockname())
                with pytest.raises(ValueError, match="Invalid address: must be None or"):
                    near.sendto(b"c", stranger.getsockname())
                assert [await loop_().sock_recv(far, 9) for _ in "ab"] == [b"a", b"b"]
                here = near.get_extra_info("sockname")
                if family != "unix":
                    stranger.sendto(b"not for you", here)
                far.sendto(b"yes", here)
                await until(lambda: protocol.received)
                assert protocol.received == [(b"yes", far.getsockname())]

    program()


def test_the_sender_of_a_unix_datagram_may_have_no_name_or_an_abstract_one(tmp_path: Path) -> None:
    @on_noria
    async def program() -> None:
        async with endpoint(**local("unix", tmp_path)) as (near, protocol):
            here = near.get_extra_info("sockname")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unnamed:
                unnamed.sendto(b"1", here)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
                abstract.bind(b"\0noria-test-%d" % os.getpid())
                abstract.sendto(b"2", here)
                await until(lambda: len(protocol.received) == 2)
                assert protocol.received == [(b"1", None), (b"2", b"\0noria-test-%d" % os.getpid())]
                near.sendto(b"3", protocol.received[1][1])
                assert abstract.recv(9) == b"3"

    program()


@on_noria
async def test_ipv6_addresses_have_four_parts_both_ways() -> None:
    async with endpoint(local_addr=("::1", 0)) as (near, protocol):
        with plain("ipv6", Path()) as far:
            port = near.get_extra_info("sockname")[1]
            for address in (("::1", port), ("::1", port, 0), ("::1", port, 0, 0)):
                far.sendto(b"x", address)
            await until(lambda: len(protocol.received) == 3)
            assert {addr for _, addr in protocol.received} == {("::1", far.getsockname()[1], 0, 0)}
            for address in (
                ("::1", far.getsockname()[1]),
                ("::1", far.getsockname()[1], 0),
                far.getsockname(),
            ):
                near.sendto(b"y", address)
                assert far.recv(9) == b"y"


@pytest.mark.parametrize("family", ["ipv4", "unix"])
def test_a_hundred_thousand_datagrams_in_bursts_keep_order_and_content(family: str, tmp_path: Path) -> None:
    total, window, size = 100_000, 100, 60

    @on_noria
    async def program() -> None:
        expected, digest = hashlib.sha256(), hashlib.sha256()
        seen = 0

        class Sink(Datagrams):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                nonlocal seen
                digest.update(data)
                assert struct.unpack_from("!I", data)[0] == seen
                seen += 1
                if seen % window == 0:  # room in the receiver's buffer for the next burst
                    self.transport.sendto(data[:4], addr)

        class Source(Datagrams):
            sent = 0

            def burst(self) -> None:
                for _ in range(window):
                    data = struct.pack("!I", self.sent) + bytes([self.sent & 0xFF]) * (self.sent % size)
                    expected.update(data)
                    self.transport.sendto(data)
                    self.sent += 1

            def datagram_received(self, data: bytes, addr: Any) -> None:
                if self.sent < total:
                    self.burst()

        sink, receiver = await loop_().create_datagram_endpoint(Sink, **local(family, tmp_path, "sink"))
        source, sender = await loop_().create_datagram_endpoint(
            Source, **local(family, tmp_path, "source") | {"remote_addr": sink.get_extra_info("sockname")}
        )
        sender.burst()
        await until(lambda: seen == total)
        assert digest.digest() == expected.digest()
        assert not sender.errors
        assert not receiver.errors
        for transport, protocol in ((sink, receiver), (source, sender)):
            transport.close()
            assert await protocol.lost is None

    program()


@on_noria
async def test_the_largest_datagram_arrives_whole_in_any_place_of_a_batch() -> None:
    async with endpoint(local_addr=("127.0.0.1", 0)) as (near, protocol):
        near.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        with plain("ipv4", Path()) as far:
            sizes = [10, 65_507, 0, 65_507, 1, 65_506, 2000, 65_507]
            for _ in range(3):  # what came the last time decides how many are asked for at once
                protocol.received.clear()
                for n, size in enumerate(sizes):
                    far.sendto(bytes([n]) * size, near.get_extra_info("sockname"))
                await until(lambda: len(protocol.received) == len(sizes))
                assert protocol.data == [bytes([n]) * size for n, size in enumerate(sizes)]


@on_noria
async def test_what_is_too_long_to_be_received_is_an_error_and_not_cut_short() -> None:
    near_sock, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with far:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2_000_000)
        async with endpoint(sock=near_sock) as (_, protocol):
            far.send(b"a" * 200_000)
            far.send(b"b" * 300_000)
            far.send(b"c")
            await until(lambda: len(protocol.received) == 2)
            assert protocol.data == [b"a" * 200_000, b"c"]
            assert [error.errno for error in protocol.errors] == [errno.EMSGSIZE]  # type: ignore[attr-defined]


# Flow control.


def test_a_full_kernel_queue_is_waited_for_and_order_kept(
    unix_pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = unix_pair

    @on_noria
    async def program() -> None:
        async with endpoint(sock=near) as (transport, protocol):
            transport.set_write_buffer_limits(high=2000, low=500)
            assert transport.get_write_buffer_limits() == (500, 2000)
            buffer = bytearray(b"?" * 40)
            sent = []
            while "pause" not in protocol.flow:
                buffer[:4] = struct.pack("!I", len(sent))
                sent.append(bytes(buffer))
                transport.sendto(buffer)  # may be changed as soon as sendto() returns
            for data in numbered(150)[100:]:
                sent.append(data)
                transport.sendto(data)
            sent.append(b"")
            transport.sendto(b"")
            queued = transport.get_write_buffer_size()
            assert queued > 2000
            assert "write=<polling" in repr(transport)
            got = [await loop_().sock_recv(far, 100)]
            while len(got) < len(sent):
                got.append(await loop_().sock_recv(far, 100))
            assert got == sent
            await until(lambda: transport.get_write_buffer_size() == 0)
            assert protocol.flow == ["pause", "resume"]
            assert "write=<idle, bufsize=0>" in repr(transport)

    program()


def test_a_queued_datagram_counts_eight_bytes_more_than_its_data(
    unix_pair: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = unix_pair

    @on_noria
    async def program() -> None:
        async with endpoint(sock=near) as (transport, _):
            while transport.get_write_buffer_size() == 0:
                transport.sendto(b"12345")
            assert transport.get_write_buffer_size() == 13
            transport.sendto(b"")
            assert transport.get_write_buffer_size() == 21

    program()


def test_close_sends_what_is_queued_and_abort_drops_it(
    unix_pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = unix_pair

    @on_noria
    async def program() -> None:
        for closing in (True, False):
            transport, protocol = await loop_().create_datagram_endpoint(Datagrams, sock=near.dup())
            count = 0
            while transport.get_write_buffer_size() < 1000:
                transport.sendto(struct.pack("!I", count))
                count += 1
            if closing:
                transport.close()
                assert transport.is_closing()
                transport.sendto(struct.pack("!I", count))  # as in asyncio, behind the rest
                got = [await loop_().sock_recv(far, 9) for _ in range(count + 1)]
                assert got == numbered(count + 1)
            else:
                transport.abort()
                transport.sendto(b"too late")
            assert await protocol.lost is None
            if not closing:
                left = 0
                while True:
                    try:
                        far.recv(9)
                    except BlockingIOError:
                        break
                    left += 1
                assert 0 < left < count
            assert transport.get_write_buffer_size() == 0

    program()


def test_a_queue_to_several_peers_goes_to_each_in_order(tmp_path: Path) -> None:
    @on_noria
    async def program() -> None:
        with plain("unix", tmp_path, "a") as one, plain("unix", tmp_path, "b") as two:
            async with endpoint(**local("unix", tmp_path)) as (transport, protocol):
                expected: dict[str, list[bytes]] = {"a": [], "b": []}
                count = 0
                while transport.get_write_buffer_size() < 5000:
                    name = "ab"[count % 2]
                    data = struct.pack("!I", count)
                    expected[name].append(data)
                    transport.sendto(data, str(tmp_path / name))
                    count += 1
                got: dict[str, list[bytes]] = {"a": [], "b": []}
                for sock, name in ((one, "a"), (two, "b")):
                    sock.setblocking(False)

                    def take(sock: socket.socket = sock, name: str = name) -> None:
                        got[name].append(sock.recv(99))

                    loop_().add_reader(sock, take)
                await until(lambda: sum(map(len, got.values())) == count)
                assert got == expected
                assert not protocol.errors
                loop_().remove_reader(one)
                loop_().remove_reader(two)

    program()


# Errors.


@on_noria
async def test_a_refused_datagram_is_told_by_error_received_and_the_endpoint_lives_on() -> None:
    with plain("ipv4", Path()) as gone:
        address = gone.getsockname()
    async with endpoint(remote_addr=address) as (transport, protocol):
        for n in range(1, 4):
            transport.sendto(b"nobody there")
            await until(lambda n=n: len(protocol.errors) >= n)  # type: ignore[misc]
        assert {type(error) for error in protocol.errors} == {ConnectionRefusedError}
        assert not transport.is_closing()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.bind(address)
            back.setblocking(False)
            transport.sendto(b"now")
            transport.sendto(b"now")  # the first may be told of an earlier one's fate
            assert await loop_().sock_recv(back, 9) == b"now"


@on_noria
async def test_what_cannot_be_sent_is_told_at_once_and_the_rest_goes_on() -> None:
    with plain("ipv4", Path()) as far:
        async with endpoint(local_addr=("127.0.0.1", 0)) as (transport, protocol):
            transport.sendto(b"1", far.getsockname())
            transport.sendto(b"x" * 66_000, far.getsockname())
            assert [error.errno for error in protocol.errors] == [errno.EMSGSIZE]  # type: ignore[attr-defined]
            transport.sendto(b"2", far.getsockname())
            transport.sendto(b"3", ("255.255.255.255", 9))  # needs allow_broadcast
            assert isinstance(protocol.errors[1], PermissionError)
            transport.sendto(b"4", ("::1", 9))  # no IPv4 address
            assert isinstance(protocol.errors[2], OSError)
            transport.sendto(b"5", ("localhost", far.getsockname()[1]))
            assert [far.recv(9) for _ in range(3)] == [b"1", b"2", b"5"]
            async with endpoint(local_addr=("::1", 0)) as (v6, v6_protocol):
                v6.sendto(b"6", to := far.getsockname())  # no IPv6 address
                transport.sendto(b"7", to)
                v6.sendto(b"8", to)  # the same object
                assert [type(error) for error in v6_protocol.errors] == [socket.gaierror] * 2
                assert far.recv(9) == b"7"
            for wrong in ("text", 5, None, [1]):
                with pytest.raises(TypeError, match="data argument must be a bytes-like object, not"):
                    transport.sendto(wrong, far.getsockname())


@pytest.mark.parametrize("address", [None, "x", ("127.0.0.1",), ("127.0.0.1", "http"), ("127.0.0.1", 70_000)])
def test_an_address_that_is_none_is_a_fatal_error(address: Any) -> None:
    @on_noria
    async def program() -> None:
        transport, protocol = await loop_().create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
        with reports() as seen:
            transport.sendto(b"x", address)
            assert isinstance(await protocol.lost, (TypeError, OverflowError))
        assert [report["message"] for report in seen] == ["Fatal write error on datagram transport"]
        assert not protocol.errors

    program()


def test_each_error_within_a_queue_belongs_to_its_datagram(tmp_path: Path) -> None:
    @on_noria
    async def program() -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        with far:
            far.setblocking(False)
            order: list[Any] = []

            class Keeper(Datagrams):
                def error_received(self, exc: Exception) -> None:
                    order.append(exc)
                    self.transport.sendto(b"from error_received")

            transport, protocol = await loop_().create_datagram_endpoint(Keeper, sock=near)
            while transport.get_write_buffer_size() == 0:
                transport.sendto(b"fill")
            for n in range(30):
                # the socket's send buffer is too small for every tenth
                transport.sendto(b"x" * 100_000 if n % 10 == 9 else b"%d" % n)
            got: list[bytes] = []
            while b"28" not in got or got.count(b"from error_received") < 3:
                got.append(await loop_().sock_recv(far, 1000))
            rest = [data for data in got if data != b"fill"]
            assert rest == [b"%d" % n for n in range(30) if n % 10 != 9] + [b"from error_received"] * 3
            assert [error.errno for error in order] == [errno.EMSGSIZE] * 3
            transport.abort()
            await protocol.lost

    program()


@on_noria
async def test_a_protocol_that_raises_is_reported_and_the_next_datagram_delivered() -> None:
    class Raising(Datagrams):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            raise ZeroDivisionError(data)

    transport, protocol = await loop_().create_datagram_endpoint(Raising, local_addr=("127.0.0.1", 0))
    with plain("ipv4", Path()) as far, reports() as seen:
        for data in numbered(20):
            far.sendto(data, transport.get_extra_info("sockname"))
        await until(lambda: len(protocol.received) == 20)
    assert [report["exception"].args[0] for report in seen] == numbered(20)
    assert not transport.is_closing()
    transport.close()
    await protocol.lost


# Protocols that do things in the middle of a batch.


async def fed(protocol_class: type[Datagrams], count: int = 40) -> tuple[Any, Any]:
    """An endpoint that has been sent so many datagrams, at a time when it asks for many at once."""
    transport, protocol = await loop_().create_datagram_endpoint(protocol_class, local_addr=("127.0.0.1", 0))
    with plain("ipv4", Path()) as far:
        here = transport.get_extra_info("sockname")
        for n in range(1, 9):  # it learns to expect many
            for _ in range(64):
                far.sendto(b"", here)
            await until(lambda n=n: protocol.heard == 64 * n)  # type: ignore[misc]
        protocol.ready = True
    feed(transport, count)
    return transport, protocol


def feed(transport: Any, count: int) -> None:
    """Send it so many numbered datagrams. Also while the loop does not run, so that nothing comes before its time."""
    with plain("ipv4", Path()) as far:
        for data in numbered(count):
            far.sendto(data, transport.get_extra_info("sockname"))


class Doing(Datagrams):
    """After so many datagrams of the second part, does something."""

    ready = False
    after = 5
    heard = 0

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.heard += 1
        if self.ready and data:
            super().datagram_received(data, addr)
            if len(self.received) == self.after:
                self.act()

    def act(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("how", ["close", "abort"])
def test_after_closing_within_a_batch_no_more_is_delivered(how: str) -> None:
    class Closing(Doing):
        def act(self) -> None:
            getattr(self.transport, how)()

    @on_noria
    async def program() -> None:
        _, protocol = await fed(Closing)
        assert await protocol.lost is None
        await turns(5)
        assert protocol.data == numbered(5)

    program()


# 38: in the last batch, so that the kernel has nothing more that would remind the loop of the rest.
@pytest.mark.parametrize("after", [5, 38])
def test_pausing_within_a_batch_holds_back_the_rest_until_resumed(after: int) -> None:
    class Pausing(Doing):
        def act(self) -> None:
            self.transport.pause_reading()

    Pausing.after = after

    @on_noria
    async def program() -> None:
        transport, protocol = await fed(Pausing)
        await until(lambda: len(protocol.received) == after)
        await asyncio.sleep(0.005)
        assert protocol.data == numbered(after)
        assert not transport.is_reading()
        protocol.after = 39
        transport.resume_reading()
        await until(lambda: len(protocol.received) == 39)
        await asyncio.sleep(0.005)
        assert protocol.data == numbered(39)
        transport.resume_reading()
        await until(lambda: len(protocol.received) == 40)
        assert protocol.data == numbered(40)
        transport.close()
        await protocol.lost

    program()


@pytest.mark.parametrize("after", [5, 38])
def test_a_nested_run_within_a_batch_gets_the_next_datagrams(after: int) -> None:
    class Nesting(Doing):
        def act(self) -> None:
            loop_().run_until_complete(until(lambda: len(self.received) == 40))

    Nesting.after = after

    @on_noria
    async def program() -> None:
        transport, protocol = await fed(Nesting)
        await until(lambda: len(protocol.received) == 40)
        assert protocol.data == numbered(40)
        transport.close()
        await protocol.lost

    program()


@pytest.mark.parametrize("after", [5, 38])
def test_an_interrupt_within_a_batch_loses_no_datagram(after: int) -> None:
    class Interrupted(Doing):
        def act(self) -> None:
            raise KeyboardInterrupt

    Interrupted.after = after
    loop = noria.new_event_loop()
    try:
        transport, protocol = loop.run_until_complete(fed(Interrupted, 0))
        feed(transport, 40)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(until(lambda: len(protocol.received) == 40))
        assert protocol.data == numbered(after)
        loop.run_until_complete(until(lambda: len(protocol.received) == 40))
        assert protocol.data == numbered(40)
        transport.close()
        loop.run_until_complete(protocol.lost)
    finally:
        loop.close()


# What is sent in the middle of a batch goes out together with the rest of it, and nobody can tell.


@pytest.mark.parametrize("then", ["nothing", "close", "abort", "pause", "interrupt", "nested"])
def test_what_is_answered_within_a_batch_goes_out_in_order_whatever_comes_then(then: str) -> None:
    class Answering(Doing):
        far: socket.socket

        def datagram_received(self, data: bytes, addr: Any) -> None:
            if data:
                self.transport.sendto(data, self.far.getsockname())
                self.transport.sendto(bytearray(data), self.far.getsockname())
            super().datagram_received(data, addr)

        def act(self) -> None:
            if then == "interrupt":
                raise KeyboardInterrupt
            if then == "nested":  # the answers are on their way although the batch is not through
                loop_().run_until_complete(arrived(self.far, 5))
            elif then != "nothing":
                getattr(self.transport, "pause_reading" if then == "pause" else then)()

    async def arrived(far: socket.socket, count: int) -> None:
        async with asyncio.timeout(10):
            for data in numbered(count):
                assert await loop_().sock_recv(far, 100) == data
                assert await loop_().sock_recv(far, 100) == data

    loop = noria.new_event_loop()
    try:
        with plain("ipv4", Path()) as far:
            Answering.far = far
            transport, protocol = loop.run_until_complete(fed(Answering, 0))
            feed(transport, 40)
            if then == "interrupt":
                with pytest.raises(KeyboardInterrupt):
                    loop.run_until_complete(until(lambda: len(protocol.received) == 40))
            loop.run_until_complete(until(lambda: len(protocol.received) >= 5))
            if then == "nested":
                loop.run_until_complete(until(lambda: len(protocol.received) == 40))
                for data in numbered(40)[5:]:
                    assert far.recv(100) == far.recv(100) == data
            else:
                loop.run_until_complete(arrived(far, 5 if then in ("close", "abort", "pause") else 40))
            assert transport.get_write_buffer_size() == 0
            transport.close()
            assert loop.run_until_complete(protocol.lost) is None
    finally:
        loop.close()


def test_what_is_sent_on_hearing_of_an_error_within_a_batch_stands_behind_what_was_being_sent() -> None:
    class Sends(Doing):
        far: socket.socket
        refused = 0

        def act(self) -> None:
            port = self.far.getsockname()[1]
            self.transport.sendto(b"refused", ("127.0.0.1", 0))  # gathered
            self.transport.sendto(
                b"second", ("localhost", port)
            )  # a name cannot be: what was gathered goes first

        def error_received(self, error: Exception) -> None:
            assert isinstance(error, OSError) and error.errno == errno.EINVAL
            self.refused += 1
            self.transport.sendto(b"third", self.far.getsockname())

    @on_noria
    async def program() -> None:
        with plain("ipv4", Path()) as far:
            Sends.far = far
            transport, protocol = await fed(Sends, 0)
            feed(transport, 20)
            async with asyncio.timeout(10):
                assert await loop_().sock_recv(far, 100) == b"second"
                assert await loop_().sock_recv(far, 100) == b"third"
            assert protocol.refused == 1
            transport.close()
            assert await protocol.lost is None

    program()


def test_a_datagram_that_cannot_be_sent_from_within_a_batch_is_told_and_the_others_go_out() -> None:
    class Answering(Doing):
        far: socket.socket

        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data:
                bad = len(self.received) % 10 == 3
                self.transport.sendto(data, ("127.0.0.1", 0) if bad else self.far.getsockname())

        def act(self) -> None:
            pass

    @on_noria
    async def program() -> None:
        with plain("ipv4", Path()) as far:
            Answering.far = far
            transport, protocol = await fed(Answering)
            expected = [data for n, data in enumerate(numbered(40), 1) if n % 10 != 3]
            async with asyncio.timeout(10):
                assert [await loop_().sock_recv(far, 100) for _ in expected] == expected
            assert [type(error) for error in protocol.errors] == [OSError] * 4
            assert {error.errno for error in protocol.errors} == {errno.EINVAL}
            transport.close()
            await protocol.lost

    program()


@on_noria
async def test_a_protocol_changed_within_a_batch_gets_the_rest() -> None:
    class Changing(Doing):
        def act(self) -> None:
            self.transport.set_protocol(heir)

    transport, protocol = await loop_().create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    heir = protocol
    transport.close()
    await protocol.lost
    heir.lost = loop_().create_future()
    transport, protocol = await fed(Changing)
    await until(lambda: len(heir.received) == 35)
    assert protocol.data + heir.data == numbered(40)
    assert transport.get_protocol() is heir
    transport.close()
    await heir.lost


@on_noria
async def test_the_protocol_is_called_in_the_context_the_endpoint_was_made_in() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []

    class Looking(Datagrams):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            seen.append(variable.get())
            variable.set(f"received {len(seen)}")

    variable.set("made")
    async with endpoint(local_addr=("127.0.0.1", 0)) as (near, _):
        transport, protocol = await loop_().create_datagram_endpoint(
            Looking, remote_addr=near.get_extra_info("sockname")
        )
        variable.set("later")
        for _ in range(3):
            near.sendto(b"x", transport.get_extra_info("sockname"))
        await until(lambda: len(seen) == 3)
        assert seen == ["made", "received 1", "received 2"]
        assert variable.get() == "later"
        transport.close()
        await protocol.lost


# Arguments.


@on_noria
async def test_wrong_arguments_are_refused_in_asyncios_words(tmp_path: Path) -> None:
    make = loop_().create_datagram_endpoint
    with (
        socket.socket() as stream,
        pytest.raises(ValueError, match="A datagram socket was expected, got <socket"),
    ):
        await make(Datagrams, sock=stream)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        message = (
            r"can not be used when sock is specified. \(local_addr=\('127.0.0.1', 0\), reuse_port=True\)"
        )
        with pytest.raises(ValueError, match=message):
            await make(Datagrams, local_addr=("127.0.0.1", 0), reuse_port=True, sock=sock)
    with pytest.raises(ValueError, match="unexpected address family"):
        await make(Datagrams)
    with pytest.raises(TypeError, match="2-tuple is expected"):
        await make(Datagrams, local_addr="127.0.0.1")
    with pytest.raises(TypeError, match="string is expected"):
        await make(Datagrams, local_addr=("127.0.0.1", 0), family=socket.AF_UNIX)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="can not get address information"):
        await make(Datagrams, local_addr=("127.0.0.1", 0), remote_addr=("::1", 9))
    with plain("ipv4", tmp_path) as taken, pytest.raises(OSError, match="in use"):
        await make(Datagrams, local_addr=taken.getsockname())


@on_noria
async def test_a_factory_that_raises_leaves_no_descriptor() -> None:
    async with nothing_left_open():
        with pytest.raises(ZeroDivisionError):
            await loop_().create_datagram_endpoint(lambda: 1 / 0, local_addr=("127.0.0.1", 0))  # type: ignore[arg-type, return-value]


@on_noria
async def test_an_endpoint_may_have_neither_address() -> None:
    with plain("ipv4", Path()) as far:
        async with endpoint(family=socket.AF_INET) as (transport, protocol):
            transport.sendto(b"x", far.getsockname())
            _, addr = far.recvfrom(9)
            far.sendto(b"y", ("127.0.0.1", addr[1]))
            await until(lambda: protocol.received)
            assert protocol.received == [(b"y", far.getsockname())]


@on_noria
async def test_two_endpoints_may_share_a_port_and_broadcast_may_be_allowed() -> None:
    async with endpoint(local_addr=("127.0.0.1", 0), reuse_port=True) as (one, _):
        here = one.get_extra_info("sockname")
        async with endpoint(local_addr=here, reuse_port=True) as (two, _):
            assert two.get_extra_info("sockname") == here
    with plain("ipv4", Path()) as far:
        options = {"allow_broadcast": True, "remote_addr": far.getsockname()}
        async with endpoint(**options) as (transport, protocol):
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
            assert transport.get_extra_info("peername") is None  # not connected: answers come from elsewhere
            transport.sendto(b"hello")
            data, addr = far.recvfrom(9)
            assert data == b"hello"
            with plain("ipv4", Path()) as other:
                other.sendto(b"from elsewhere", ("127.0.0.1", addr[1]))
                await until(lambda: protocol.received)


@on_noria
async def test_a_stale_unix_socket_is_replaced_and_another_file_is_not(tmp_path: Path) -> None:
    for _ in range(2):
        async with endpoint(**local("unix", tmp_path)):
            pass
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(OSError, match="in use"):
        await loop_().create_datagram_endpoint(Datagrams, **local("unix", tmp_path, "file"))
    assert (tmp_path / "file").read_text() == "keep me"


@on_noria
async def test_sockets_that_are_neither_ip_nor_unix_datagrams_work_too() -> None:
    netlink = getattr(socket, "AF_NETLINK", None)
    assert netlink is not None
    sock = socket.socket(netlink, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    sock.bind((0, 0))
    async with endpoint(sock=sock) as (transport, protocol):
        # RTM_GETLINK, dump: the kernel answers with the list of interfaces
        transport.sendto(struct.pack("=IHHIIBxHiII", 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0), (0, 0))
        await until(lambda: protocol.received)
        assert protocol.received[0][1] == (0, 0)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far:
        async with endpoint(sock=near) as (transport, protocol):
            transport.sendto(b"packet")
            assert far.recv(9) == b"packet"
            far.send(b"one")
            far.send(b"two")
            await until(lambda: len(protocol.received) == 2)
            assert protocol.data == [b"one", b"two"]


# Ends.


@on_noria
async def test_a_lost_endpoint_takes_datagrams_in_silence_and_then_warns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with plain("ipv4", Path()) as far:
        async with endpoint(remote_addr=far.getsockname()) as (transport, _):
            transport.close()
            for _ in range(5):
                transport.sendto(b"x")
            assert not caplog.records
            transport.sendto(b"x")
    assert [record.message for record in caplog.records] == ["socket.send() raised exception."]


def test_a_dropped_endpoint_warns_and_closes_its_socket() -> None:
    loop = noria.new_event_loop()
    with pytest.warns(ResourceWarning, match="unclosed transport <DatagramTransport fd="):
        transport, _ = loop.run_until_complete(
            loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        )
        fd = transport.get_extra_info("socket").fileno()
        loop.close()
        loop = transport = _ = None  # type: ignore[assignment]
        gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@on_noria
async def test_a_stream_has_methods_that_datagrams_have_not() -> None:
    async with endpoint(local_addr=("127.0.0.1", 0)) as (transport, _):
        for call in (lambda: transport.write(b""), lambda: transport.writelines([]), transport.write_eof):
            with pytest.raises(NotImplementedError):
                call()
        with pytest.raises(RuntimeError, match="sendfile is not supported"):
            await loop_().sendfile(transport, sys.stdin)
        transport.note = "programs may set attributes"
        assert transport.note


# Memory.


async def talk() -> None:
    async with endpoint(local_addr=("127.0.0.1", 0)) as (one, _):
        here = one.get_extra_info("sockname")
        async with endpoint(remote_addr=here) as (two, protocol):
            for data in numbered(5):
                two.sendto(data)
            two.sendto(bytearray(b"x"))
            one.sendto(b"back", two.get_extra_info("sockname"))
            one.sendto(b"x" * 70_000, two.get_extra_info("sockname"))
            await until(lambda: protocol.received)


async def full_queue() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with far:
        async with endpoint(sock=near) as (transport, _):
            while transport.get_write_buffer_size() < 100:
                transport.sendto(b"x")
            far.recv(9)
            await turns(2)


async def closed_in_a_batch() -> None:
    class Closing(Doing):
        def act(self) -> None:
            self.transport.abort()

    _, protocol = await fed(Closing, 10)
    await protocol.lost


@pytest.mark.parametrize("piece", [talk, full_queue, closed_in_a_batch], ids=lambda piece: piece.__name__)
def test_repeating_it_leaves_nothing(piece: Piece) -> None:
    @on_noria
    async def program() -> None:
        async with nothing_left_open():
            await leaves_nothing(piece, 300)  # so many fill the tables of known addresses

    program()
