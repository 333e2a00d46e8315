"""TLS: many bytes both ways, flow control, the end of a connection from either side, and callbacks that do anything."""

import asyncio
import gc
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import noria
from core.running import on_noria, reports, turns, until
from net.peers import Buffered, BufferedEcho, Echo, Recorder, nothing_left_open, pair, pattern
from net.test_connections import loop_
from support.certs import Authority, Identity
from support.leaks import no_descriptors_left

MIB = 1024 * 1024


@asynccontextmanager
async def tls_pair(
    ca: Authority,
    identity: Identity,
    near: Callable[[], Any] = Recorder,
    far: Callable[[], Any] = Recorder,
    **options: Any,
) -> AsyncIterator[tuple[Any, Any, Any, Any]]:
    """(client's transport, its protocol, server's transport, its protocol), both on this loop."""
    left, right = pair("tcp")
    (client, client_protocol), (server, server_protocol) = await asyncio.gather(
        loop_().create_connection(
            near, sock=left, ssl=ca.client_context(), server_hostname="localhost", **options
        ),
        loop_().connect_accepted_socket(far, right, ssl=ca.server_context(identity), **options),
    )
    try:
        yield client, client_protocol, server, server_protocol
    finally:
        client.abort()
        server.abort()
        await turns(4)


class Peer:
    """The server's side in a thread: an SSLObject over a blocking socket, so that each step can be said."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.sslobj = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def do(self, step: Callable[..., Any], *args: Any) -> Any:
        """Call step until it wants nothing of the wire any more."""
        while True:
            try:
                return step(*args)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(65536)
                if not data:
                    raise EOFError from None
                self.incoming.write(data)
            finally:
                self.flush()

    def flush(self) -> None:
        if self.outgoing.pending:
            self.sock.sendall(self.outgoing.read())

    def read(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            data = self.do(self.sslobj.read, count - len(found))
            assert data, f"the end after {len(found)} of {count} bytes"
            found += data
        return bytes(found)

    def write(self, data: bytes) -> None:
        self.do(self.sslobj.write, data)

    def notify(self) -> None:
        """Send close_notify, and do not wait for an answer."""
        with pytest.raises(ssl.SSLWantReadError):
            self.sslobj.unwrap()
        self.flush()

    def notified(self) -> bool:
        """Whether the next thing the peer says is close_notify."""
        try:
            return bool(self.do(self.sslobj.read, 1) == b"")
        except ssl.SSLZeroReturnError:
            return True


@asynccontextmanager
async def peer(
    ca: Authority,
    identity: Identity,
    talk: Callable[[Peer], None],
    factory: Callable[[], Any] = Recorder,
    **options: Any,
) -> AsyncIterator[tuple[Any, Any]]:
    """(transport, protocol) of a client whose server runs talk(Peer) in a thread, which must not fail."""
    near, far = pair("tcp")
    far.setblocking(True)
    far.settimeout(20)
    failed: list[BaseException] = []
    context = ca.server_context(identity)

    def serve() -> None:
        try:
            server = Peer(far, context)
            server.do(server.sslobj.do_handshake)
            talk(server)
        except BaseException as error:
            failed.append(error)
        finally:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        transport, protocol = await loop_().create_connection(
            factory, sock=near, ssl=ca.client_context(), server_hostname="localhost", **options
        )
        yield transport, protocol
        await protocol.lost
    finally:
        await asyncio.to_thread(thread.join)
    if failed:
        raise failed[0]


# Bytes.


@pytest.mark.parametrize("echo", [Echo, BufferedEcho])
@pytest.mark.parametrize("mine", [Recorder, Buffered])
def test_many_bytes_both_ways_arrive_whole_and_in_order(
    ca: Authority, identity: Identity, echo: type, mine: type
) -> None:
    @on_noria
    async def program() -> None:
        async with nothing_left_open(), tls_pair(ca, identity, mine, echo) as (client, protocol, _, _):
            data = pattern(8 * MIB)
            dice = random.Random(7)
            at = 0
            while at < len(data):  # pieces of all sizes, of all kinds, some together
                size = dice.choice([1, 100, 5000, 16384, 16385, 70_000, 300_000])
                piece = data[at : at + size]
                at += size
                kind = dice.randrange(4)
                if kind == 0:
                    client.write(piece)
                elif kind == 1:
                    client.write(bytearray(piece))
                elif kind == 2:
                    client.write(memoryview(piece))
                else:
                    client.writelines([piece[: size // 2], bytearray(piece[size // 2 :]), b""])
                if dice.random() < 0.2:
                    await turns(1)
            assert await protocol.got(len(data)) == data
            assert client.get_write_buffer_size() == 0

    program()


def test_what_the_caller_changes_after_write_is_not_what_is_sent(ca: Authority, identity: Identity) -> None:
    @on_noria
    async def program() -> None:
        async with tls_pair(ca, identity) as (client, _, server, protocol):
            server.pause_reading()
            data = bytearray(b"a" * (8 * MIB))
            client.write(data)
            assert client.get_write_buffer_size() > MIB
            data[:] = b"b" * len(data)
            server.resume_reading()
            assert await protocol.got(len(data)) == b"a" * len(data)

    program()


def test_small_writes_of_one_turn_share_records(ca: Authority, identity: Identity) -> None:
    class Counts(Recorder):
        pieces = 0

        def data_received(self, data: bytes) -> None:
            self.pieces += 1
            super().data_received(data)

    @on_noria
    async def program() -> None:
        async with tls_pair(ca, identity, Recorder, Counts) as (client, _, _, protocol):
            expected = b"".join(n.to_bytes(2, "big") for n in range(1000))
            for n in range(1000):
                client.write(n.to_bytes(2, "big"))
            # the first goes at once
            assert client.get_write_buffer_size() == 1998
            assert await protocol.got(2000) == expected
            assert protocol.pieces <= 2
            client.write(b"one")
            assert client.get_write_buffer_size() == 0
            client.write(b"two")
            client.abort()  # what was written is sent where it can be
            assert await protocol.got(2006) == expected + b"onetwo"

    program()


def test_bytes_come_one_at_a_time(ca: Authority, identity: Identity) -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        near, far = pair("tcp")
        task = asyncio.create_task(loop.connect_accepted_socket(Echo, near, ssl=ca.server_context(identity)))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = ca.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        async def until_done(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    result = None
                data = outgoing.read()
                for i in range(len(data)):
                    await loop.sock_sendall(far, data[i : i + 1])
                    await turns(1)
                if result is not None:
                    return result
                incoming.write(await loop.sock_recv(far, 1))

        with far:
            await until_done(lambda: client.do_handshake() or True)
            transport, _ = await task
            for text in (b"drip", b"drop" * 100):
                await until_done(lambda text=text: client.write(text))  # type: ignore[misc]
                found = b""
                while len(found) < len(text):
                    found += await until_done(lambda: client.read(1000))
                assert found == text
            transport.abort()
            await turns(3)

    program()


# Flow control.


def test_writing_is_paused_while_the_peer_does_not_read_and_resumed_after(
    ca: Authority, identity: Identity
) -> None:
    @on_noria
    async def program() -> None:
        async with tls_pair(ca, identity) as (client, near, server, far):
            assert client.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
            server.pause_reading()
            sent = 0
            while near.events[-1] != "pause":
                client.write(bytes(100_000))
                sent += 100_000
                await turns(1)
            assert client.get_write_buffer_size() > 512 * 1024
            await turns(50)
            assert near.events[-1] == "pause"
            server.resume_reading()
            await until(lambda: near.events[-1] == "resume")
            assert client.get_write_buffer_size() <= 128 * 1024
            assert len(await far.got(sent)) == sent

    program()


def test_limits_of_zero_pause_as_soon_as_something_waits_and_resume_when_nothing_does(
    ca: Authority, identity: Identity
) -> None:
    @on_noria
    async def program() -> None:
        async with tls_pair(ca, identity) as (client, near, server, far):
            client.set_write_buffer_limits(high=0)
            assert client.get_write_buffer_limits() == (0, 0)
            assert near.events == ["made"]
            client.write(b"goes at once")
            assert near.events == ["made"]
            await turns(2)
            server.pause_reading()
            client.write(bytes(16 * MIB))
            assert near.events == ["made", "pause"]
            server.resume_reading()
            await far.got(16 * MIB)
            await until(lambda: near.events == ["made", "pause", "resume"])
            assert client.get_write_buffer_size() == 0
            with pytest.raises(ValueError, match="high"):
                client.set_write_buffer_limits(high=1, low=2)
            with pytest.raises(ValueError, match="high"):
                client.set_read_buffer_limits(high=1, low=2)

    program()


def test_a_paused_reader_holds_the_peer_back(ca: Authority, identity: Identity) -> None:
    @on_noria
    async def program() -> None:
        async with tls_pair(ca, identity) as (client, _, server, far):
            assert server.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
            server.pause_reading()
            assert not server.is_reading()
            data = pattern(16 * MIB)
            client.write(data)
            last = -1
            while client.get_write_buffer_size() != last:  # until nothing moves any more
                last = client.get_write_buffer_size()
                await asyncio.sleep(0.05)
            assert last > 4 * MIB
            assert 256 * 1024 <= server.get_read_buffer_size() <= 512 * 1024
            assert not far.received
            server.resume_reading()
            assert await far.got(len(data)) == data

    program()


def test_a_reader_that_pauses_in_each_callback_gets_all(ca: Authority, identity: Identity) -> None:
    class Sips(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    @on_noria
    async def program() -> None:
        async with tls_pair(ca, identity, Recorder, Sips) as (client, _, _, far):
            data = pattern(3 * MIB)
            client.write(data)
            assert await far.got(len(data)) == data

    program()


@pytest.mark.parametrize("factory", [Recorder, Buffered])
def test_the_beginning_of_a_record_does_not_hold_back_its_end(
    ca: Authority, identity: Identity, factory: Callable[[], Any]
) -> None:
    """Limits below a record's length: what has begun to come is more than may wait, and still not all of it."""
    begun = threading.Event()

    def in_two_pieces(server: Peer) -> None:
        server.sslobj.write(bytes(10_000))
        record = server.outgoing.read()
        server.sock.sendall(record[:5_000])
        assert begun.wait(20)
        server.sock.sendall(record[5_000:])
        server.do(server.sslobj.unwrap)

    @on_noria
    async def program() -> None:
        async with peer(ca, identity, in_two_pieces, factory) as (transport, protocol):
            await until(lambda: transport.get_read_buffer_size() >= 5_000)
            transport.set_read_buffer_limits(1)
            begun.set()
            assert await protocol.got(10_000) == bytes(10_000)

    program()


def test_a_lost_connection_has_nobody_to_tell_of_room(ca: Authority, identity: Identity) -> None:
    @on_noria
    async def program() -> None:
        async with tls_pair(ca, identity) as (client, near, server, _):
            server.pause_reading()
            client.write(bytes(16 * MIB))
            assert near.events == ["made", "pause"]
            client.abort()
            assert await near.lost is None
            await turns(2)
            client.set_write_buffer_limits(1000)
            assert near.events == ["made", "pause", "lost"]

    program()


# The end.


def test_close_sends_what_is_buffered_and_close_notify_and_waits_for_the_peers(
    ca: Authority, identity: Identity
) -> None:
    data = pattern(16 * MIB)
    closed, answer = threading.Event(), threading.Event()

    def slow(server: Peer) -> None:
        assert closed.wait(10)
        assert server.read(len(data)) == data
        assert server.notified()
        assert answer.wait(10)
        server.do(server.sslobj.unwrap)

    @on_noria
    async def program() -> None:
        async with nothing_left_open(), peer(ca, identity, slow) as (transport, protocol):
            transport.write(data)
            transport.close()
            assert transport.is_closing()
            transport.write(b"lost")
            closed.set()
            await until(lambda: not transport.get_write_buffer_size())
            await asyncio.sleep(0.05)
            assert protocol.events == ["made", "pause", "resume"]
            answer.set()
            assert await protocol.lost is None
            assert protocol.events == ["made", "pause", "resume", "eof", "lost"]

    program()


@pytest.mark.parametrize("how", ["close_notify", "end of stream"])
def test_what_is_buffered_still_goes_to_a_peer_that_has_ended(
    ca: Authority, identity: Identity, how: str
) -> None:
    data = pattern(16 * MIB)
    written = threading.Event()

    def ends(server: Peer) -> None:
        server.write(b"go")  # until then nothing but the handshake is on its way
        assert written.wait(10)
        if how == "close_notify":
            server.notify()
        else:
            server.sock.shutdown(socket.SHUT_WR)
        assert server.read(len(data)) == data
        if how == "close_notify":
            assert server.notified()
        else:
            assert server.sock.recv(1) == b""

    @on_noria
    async def program() -> None:
        async with nothing_left_open(), peer(ca, identity, ends) as (transport, protocol):
            await protocol.got(2)
            transport.write(data)
            written.set()
            assert await protocol.lost is None
            assert [event for event in protocol.events if event != "resume"] == [
                "made",
                "data",
                "pause",
                "eof",
                "lost",
            ]

    program()


def test_what_a_peer_sends_after_we_closed_is_not_delivered_and_no_error(
    ca: Authority, identity: Identity
) -> None:
    def goes_on(server: Peer) -> None:
        server.write(b"before")
        assert server.notified()
        server.write(pattern(MIB))
        server.do(server.sslobj.unwrap)

    @on_noria
    async def program() -> None:
        async with nothing_left_open(), peer(ca, identity, goes_on) as (transport, protocol):
            assert await protocol.got(6) == b"before"
            transport.close()
            assert await protocol.lost is None
            assert protocol.received == b"before"

    program()


@pytest.mark.parametrize("factory", [Recorder, Buffered])
@pytest.mark.parametrize("paused", [False, True])
def test_a_connection_that_ends_in_the_middle_of_a_record_is_an_error(
    ca: Authority, identity: Identity, factory: Any, paused: bool
) -> None:
    ready = threading.Event()

    def is_cut_off(server: Peer) -> None:
        server.write(b"first")
        assert ready.wait(10)
        server.write(b"second")
        server.sslobj.write(bytes(10_000))
        server.sock.sendall(server.outgoing.read()[:9_000])
        server.sock.shutdown(socket.SHUT_WR)
        server.sock.recv(100)

    @on_noria
    async def program() -> None:
        async with nothing_left_open(), peer(ca, identity, is_cut_off, factory) as (transport, protocol):
            await protocol.got(5)
            if paused:
                transport.pause_reading()
            ready.set()
            if paused:
                await until(lambda: transport.get_read_buffer_size() > 9_000)
                await asyncio.sleep(0.01)
                transport.resume_reading()
            with pytest.raises(ssl.SSLEOFError, match="data was cut off"):
                raise await protocol.lost
            assert protocol.received == b"firstsecond"
            assert protocol.events == ["made", "data", "lost"]
            assert transport.get_extra_info("close_notify") is False

    program()


@pytest.mark.parametrize("how", ["close_notify", "end of stream"])
def test_whether_the_peer_ended_its_stream_properly_can_be_asked(
    ca: Authority, identity: Identity, how: str
) -> None:
    def ends(server: Peer) -> None:
        server.write(b"all")
        if how == "close_notify":
            server.notify()
        server.sock.shutdown(socket.SHUT_WR)
        server.sock.recv(100)

    @on_noria
    async def program() -> None:
        async with nothing_left_open(), peer(ca, identity, ends) as (transport, protocol):
            assert await protocol.lost is None
            assert protocol.events == ["made", "data", "eof", "lost"]
            assert transport.get_extra_info("close_notify") is (how == "close_notify")

    program()


def test_a_paused_reader_that_closes_does_not_hold_the_peers_end_back(
    ca: Authority, identity: Identity
) -> None:
    @on_noria
    async def program() -> None:
        async with nothing_left_open(), tls_pair(ca, identity) as (client, near, server, far):
            server.pause_reading()
            client.write(pattern(16 * MIB))
            await until(lambda: server.get_read_buffer_size() >= 256 * 1024)
            server.close()  # what the client still has to send is in the way of its close_notify
            assert await far.lost is None
            assert await near.lost is None
            assert not far.received

    program()


@pytest.mark.parametrize("factory", [Recorder, Buffered])
@pytest.mark.parametrize("how", ["close_notify", "end of stream"])
def test_a_paused_reader_gets_what_came_before_the_end_and_then_the_end(
    ca: Authority, identity: Identity, factory: Any, how: str
) -> None:
    data = pattern(100_000)
    paused = threading.Event()

    def ends(server: Peer) -> None:
        server.write(b"first")
        assert paused.wait(10)
        server.write(data)
        if how == "close_notify":
            server.notify()
        else:
            server.sock.shutdown(socket.SHUT_WR)
        server.sock.recv(100)

    @on_noria
    async def program() -> None:
        async with nothing_left_open(), peer(ca, identity, ends, factory) as (transport, protocol):
            await protocol.got(5)
            transport.pause_reading()
            paused.set()
            await until(lambda: transport.get_read_buffer_size() > len(data))
            await asyncio.sleep(0.02)
            assert protocol.received == b"first"
            assert not protocol.lost.done()
            transport.resume_reading()
            assert await protocol.lost is None
            assert protocol.received == b"first" + data
            assert protocol.events == ["made", "data", "eof", "lost"]

    program()


def test_a_peer_that_never_answers_close_notify_is_left_after_the_timeout(
    ca: Authority, identity: Identity
) -> None:
    left = threading.Event()

    def mute(server: Peer) -> None:
        assert left.wait(10)

    @on_noria
    async def program() -> None:
        async with (
            nothing_left_open(),
            peer(ca, identity, mute, ssl_shutdown_timeout=0.05) as (transport, protocol),
        ):
            transport.close()
            error = await protocol.lost
            left.set()
            assert isinstance(error, TimeoutError)
            assert str(error) == "SSL shutdown timed out"

    program()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_broken_record_is_an_error_after_what_came_before_it(
    ca: Authority, identity: Identity, version: ssl.TLSVersion
) -> None:
    def breaks(server: Peer) -> None:
        server.sslobj.write(b"good")
        server.sslobj.write(b"bad record")
        records = bytearray(server.outgoing.read())
        records[-1] ^= 1
        server.sock.sendall(records)
        server.sock.settimeout(10)
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            server.do(server.sslobj.read, 1)

    @on_noria
    async def program() -> None:
        async with nothing_left_open(), peer(ca, identity, breaks) as (transport, protocol):
            error = await protocol.lost
            assert isinstance(error, ssl.SSLError)
            assert "DECRYPTION_FAILED" in str(error)
            assert protocol.received == b"good"
            assert transport.is_closing()

    ca_client = ca.client_context

    def limited(identity: Identity | None = None) -> ssl.SSLContext:
        context = ca_client(identity)
        context.maximum_version = version
        return context

    ca.client_context = limited  # type: ignore[method-assign]
    try:
        program()
    finally:
        del ca.client_context  # type: ignore[method-assign]


def test_a_handshake_that_takes_too_long_says_so(ca: Authority) -> None:
    @on_noria
    async def program() -> None:
        near, far = pair("tcp")
        with far:
            with pytest.raises(ConnectionAbortedError) as caught:
                await loop_().create_connection(
                    Recorder, sock=near, ssl=ca.client_context(), server_hostname="localhost",
                    ssl_handshake_timeout=0.05,
                )  # fmt: skip
            assert str(caught.value) == (
                "SSL handshake is taking longer than 0.05 seconds: aborting the connection"
            )

    program()


def test_timeouts_that_are_not_positive_are_refused_and_the_socket_closed(ca: Authority) -> None:
    @on_noria
    async def program() -> None:
        for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
            near, far = pair("tcp")
            with far:
                with pytest.raises(ValueError, match=f"{name} should be a positive number, got 0"):
                    await loop_().create_connection(
                        Recorder, sock=near, ssl=ca.client_context(), server_hostname="localhost", **{name: 0}
                    )
                assert near.fileno() == -1

    program()


# Looking at it.


def test_a_tls_transport_shows_what_asyncios_shows(ca: Authority, identity: Identity) -> None:
    @on_noria
    async def program() -> None:
        async with tls_pair(ca, identity) as (client, protocol, server, _):
            assert isinstance(client, asyncio.Transport)
            assert "SSL" in client.__class__.__name__
            assert client.get_protocol() is protocol
            assert not client.can_write_eof()
            with pytest.raises(NotImplementedError):
                client.write_eof()
            with pytest.raises(TypeError, match="data: expecting a bytes-like instance, got str"):
                client.write("text")
            with pytest.raises(TypeError, match="data: expecting a bytes-like instance, got int"):
                client.writelines([b"not sent", 1])
            assert client.get_extra_info("sslcontext").check_hostname
            assert client.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert client.get_extra_info("cipher")[1] == "TLSv1.3"
            assert client.get_extra_info("compression", 1) is None
            assert client.get_extra_info("peercert")["subject"]
            assert server.get_extra_info("peercert") is None
            assert client.get_extra_info("socket").getpeername() == server.get_extra_info("sockname")
            assert client.get_extra_info("no such thing", 7) == 7
            assert repr(client).startswith("<TLSTransport over <StreamTransport fd=")
            client.close()
            assert repr(client).startswith("<TLSTransport closing over")
            await protocol.lost
            assert repr(client).startswith("<TLSTransport closed over")
            assert client.get_protocol() is None

    program()


def test_names_chosen_in_the_handshake(ca: Authority, identity: Identity) -> None:
    asked: list[str] = []

    @on_noria
    async def program() -> None:
        server_context, client_context = ca.server_context(identity), ca.client_context()
        server_context.set_alpn_protocols(["h2", "http/1.1"])
        client_context.set_alpn_protocols(["http/1.1"])
        server_context.sni_callback = lambda sslobj, name, context: asked.append(name)
        server = await loop_().create_server(Echo, "127.0.0.1", 0, ssl=server_context)
        transport, protocol = await loop_().create_connection(
            Recorder, *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
        )
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        assert asked == ["localhost"]
        transport.close()
        await protocol.lost
        server.close()
        await server.wait_closed()

    program()


def test_an_unclosed_transport_warns_and_closes_its_socket(ca: Authority, identity: Identity) -> None:
    with no_descriptors_left():
        loop = noria.new_event_loop()

        async def connect() -> None:
            loop = loop_()
            left, right = pair("tcp")
            await asyncio.gather(
                loop.create_connection(
                    asyncio.Protocol, sock=left, ssl=ca.client_context(), server_hostname="localhost"
                ),
                loop.connect_accepted_socket(asyncio.Protocol, right, ssl=ca.server_context(identity)),
            )

        loop.run_until_complete(connect())
        loop.close()
        del loop
        with pytest.warns(ResourceWarning) as warned:
            gc.collect()
        said = [str(warning.message) for warning in warned]
        assert sum(text.startswith("unclosed transport <TLSTransport over <Stream") for text in said) == 2


# Callbacks that do anything.


def test_tls_in_tls(ca: Authority, identity: Identity) -> None:
    @on_noria
    async def program() -> None:
        async with nothing_left_open(), tls_pair(ca, identity) as (client, near, server, far):
            inner_client, inner_server = await asyncio.gather(
                loop_().start_tls(client, near, ca.client_context(), server_hostname="localhost"),
                loop_().start_tls(server, far, ca.server_context(identity), server_side=True),
            )
            there, back = pattern(5 * MIB, 1), pattern(5 * MIB, 2)
            for i in range(0, len(there), 50_000):
                inner_client.write(there[i : i + 50_000])
                inner_server.write(memoryview(back)[i : i + 50_000])
            assert inner_client.get_write_buffer_size() > 0
            assert await far.got(len(there)) == there
            assert await near.got(len(back)) == back
            inner_server.pause_reading()
            for _ in range(400):
                inner_client.write(bytes(50_000))
            await until(lambda: server.get_read_buffer_size() >= 256 * 1024)
            inner_server.resume_reading()
            assert len(await far.got(len(there) + 20_000_000)) == len(there) + 20_000_000
            assert inner_client.get_extra_info("ssl_object") is not client.get_extra_info("ssl_object")
            assert inner_client.get_extra_info("peername") == client.get_extra_info("peername")
            inner_client.write(b"last")
            inner_client.close()
            assert await near.lost is None
            assert await far.lost is None
            assert far.received.endswith(b"last")
            assert far.events[-2:] == ["eof", "lost"]

    program()


def test_closing_the_transport_below_loses_nothing_that_was_written(
    ca: Authority, identity: Identity
) -> None:
    @on_noria
    async def program() -> None:
        left, right = pair("tcp")
        near = await loop_().create_connection(Recorder, sock=left)
        far = await loop_().connect_accepted_socket(Recorder, right)
        client, _ = await asyncio.gather(
            loop_().start_tls(*near, ca.client_context(), server_hostname="localhost"),
            loop_().start_tls(*far, ca.server_context(identity), server_side=True),
        )
        data = pattern(8 * MIB)
        client.write(data)
        near[0].close()
        assert await far[1].got(len(data)) == data
        assert await near[1].lost is None
        await far[1].lost

    program()


@pytest.mark.parametrize("seed", range(12))
def test_any_method_in_any_callback(ca: Authority, identity: Identity, seed: int) -> None:
    """Whatever the callbacks do: no crash, no report, connection_lost once and last, bytes in order, nothing left."""
    dice = random.Random(seed)
    data = pattern(1 << 16, seed)
    stream = data * 64

    class Wild(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.sent = 0
            self.act()

        def act(self) -> None:
            transport = self.transport
            for _ in range(dice.randrange(4)):
                what = dice.randrange(40)
                if what < 22:
                    size = dice.choice([1, 50, 1000, 16384, 40_000, 400_000])
                    if not transport.is_closing() and self.sent + size < len(stream):
                        at = self.sent
                        self.sent += size  # before: write() may call pause_writing(), which comes here again
                        transport.write(stream[at : at + size])
                elif what < 26:
                    transport.pause_reading()
                    loop_().call_later(dice.random() / 500, transport.resume_reading)
                elif what < 30:
                    transport.resume_reading()
                elif what < 33:
                    high = dice.choice([0, 1000, 100_000])
                    transport.set_write_buffer_limits(high)
                elif what < 36:
                    transport.set_read_buffer_limits(dice.choice([0, 1000, 100_000]))
                elif what == 36:
                    transport.set_protocol(self)
                elif what == 37 and dice.random() < 0.2:
                    transport.close()
                elif what == 38 and dice.random() < 0.1:
                    transport.abort()
                elif what == 39 and dice.random() < 0.3:
                    loop_().run_until_complete(asyncio.sleep(0.001))

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.act()

        def pause_writing(self) -> None:
            self.act()

        def resume_writing(self) -> None:
            self.act()

        def eof_received(self) -> bool:
            self.events.append("eof")
            self.act()
            return False

        def connection_lost(self, exc: BaseException | None) -> None:
            assert not self.lost.done()
            self.act()
            super().connection_lost(exc)

    @on_noria
    async def program() -> None:
        async with nothing_left_open():
            for _ in range(8):
                async with tls_pair(ca, identity, Wild, Wild, ssl_shutdown_timeout=0.5) as (
                    client,
                    near,
                    server,
                    far,
                ):
                    for _ in range(200):
                        if near.lost.done():
                            break
                        near.act()
                        await turns(2)
                    client.close()
                    server.resume_reading()
                    client.resume_reading()
                    await near.lost
                    server.abort()
                    await far.lost
                    for one, other in ((near, far), (far, near)):
                        assert one.received == stream[: len(one.received)]
                        assert len(one.received) <= other.sent
                        assert one.events[0] == "made"
                        assert one.events[-1] == "lost"

    program()


def test_an_error_in_a_callback_is_reported_and_ends_the_connection(
    ca: Authority, identity: Identity
) -> None:
    class Fails(Recorder):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

    @on_noria
    async def program() -> None:
        async with tls_pair(ca, identity, Recorder, Fails) as (client, near, _, far):
            with reports() as seen:
                client.write(b"go")
                assert isinstance(await far.lost, ZeroDivisionError)
                assert [report["message"] for report in seen] == ["Fatal error on SSL protocol"]
                assert isinstance(seen[0]["exception"], ZeroDivisionError)
                await near.lost
                seen.clear()

    program()
