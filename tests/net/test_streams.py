"""Stream transports: bytes arrive as they were sent, in order, whole; connections open, half-close, break and end as asyncio's do."""

import asyncio
import contextlib
import logging
import random
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import on_noria, python, reports, turns, until
from net.peers import Base, Buffered, BufferedEcho, Echo, Recorder, connected, pair, pattern, read_all

both_kinds = pytest.mark.parametrize("kind", ["tcp", "unix"])
both_protocols = pytest.mark.parametrize(
    "factory", [Recorder, Buffered], ids=["Protocol", "BufferedProtocol"]
)

BIG = 4_000_000  # more than the kernel buffers


# Bytes.


@both_kinds
@pytest.mark.parametrize("factory", [Echo, BufferedEcho], ids=["Protocol", "BufferedProtocol"])
def test_fifty_megabytes_come_back_unchanged(factory: Any, kind: str, tmp_path: Path) -> None:
    size = 50_000_000
    data = memoryview(pattern(1 << 20, 7) * (size // (1 << 20) + 1))[:size]
    rng = random.Random(3)

    @on_noria
    async def program() -> None:
        loop = asyncio.get_running_loop()
        if kind == "tcp":
            server = await loop.create_server(factory, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1 << 20)
        else:
            path = str(tmp_path / "echo")
            server = await loop.create_unix_server(factory, path)
            reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)

        async def send() -> None:
            at = 0
            while at < size:
                count = rng.choice((1, 100, 1500, 70_000, 300_000, 2_000_000))
                writer.write(data[at : at + count])
                at += count
                await writer.drain()
            writer.write_eof()

        async def receive() -> None:
            at = 0
            while chunk := await reader.read(rng.choice((1000, 65_536, 1 << 20))):
                assert chunk == data[at : at + len(chunk)], f"differs after {at} bytes"
                at += len(chunk)
                if rng.random() < 0.01:
                    await asyncio.sleep(0.001)  # a slow reader
            assert at == size

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            group.create_task(receive())
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    program()


@both_kinds
def test_random_pieces_by_every_way_of_writing_arrive_in_order(kind: str) -> None:
    @on_noria
    async def program() -> None:
        rng = random.Random(11)
        async with connected(Recorder, kind) as (transport, protocol, far):
            sent = bytearray()
            reading = asyncio.create_task(read_all(far))
            for n in range(600):
                pieces = [
                    rng.randbytes(rng.choice((0, 1, 10, 1000, 30_000))) for _ in range(rng.randrange(1, 5))
                ]
                how = rng.randrange(5)
                if how == 0:
                    transport.writelines(pieces)
                elif how == 1:
                    transport.writelines([bytearray(piece) for piece in pieces])
                else:
                    make: Any = (bytes, bytearray, memoryview)[how - 2]
                    for piece in pieces:
                        transport.write(make(piece))
                sent += b"".join(pieces)
                if n % 7 == 0:
                    await asyncio.sleep(0)
            transport.close()
            assert await reading == sent
            assert await protocol.lost is None

    program()


@both_kinds
@pytest.mark.parametrize("how", ["write", "writelines"])
def test_what_the_caller_may_change_is_copied_before_write_returns(kind: str, how: str) -> None:
    @on_noria
    async def program() -> None:
        async with connected(Recorder, kind) as (transport, _, far):
            expected = bytearray()
            for n in range(40):
                data = bytearray(pattern(100_001, n))
                view = memoryview(data)[n:]
                expected += view
                if how == "write":
                    transport.write(view if n % 2 else data[n:])
                else:
                    transport.writelines([view[:5], view[5:]])
                data[:] = bytes(len(data))
                view.release()
                data.clear()  # no buffer is exported any more
            transport.write_eof()
            assert await read_all(far) == expected

    program()


@on_noria
async def test_views_of_other_items_than_bytes_are_sent_as_bytes() -> None:
    import array

    numbers = array.array("I", range(50_000))
    async with connected() as (transport, _, far):
        transport.write(memoryview(numbers))
        transport.writelines([memoryview(numbers)])
        transport.write_eof()
        assert await read_all(far) == numbers.tobytes() * 2


@both_protocols
def test_received_bytes_stay_as_they_were(factory: Any) -> None:
    @on_noria
    async def program() -> None:
        loop = asyncio.get_running_loop()
        async with connected(factory) as (_, protocol, far):
            data = pattern(3_000_000)
            await loop.sock_sendall(far, data)
            assert await protocol.got(len(data)) == data

    program()


@on_noria
async def test_what_is_no_buffer_cannot_be_written() -> None:
    async with connected() as (transport, _, far):
        for wrong in (5, "text", None, [1, 2]):
            with pytest.raises(TypeError):
                transport.write(wrong)
        with pytest.raises(TypeError):
            transport.writelines([b"good", "bad"])
        with pytest.raises(TypeError):
            transport.writelines(5)
        transport.write(b"")
        transport.writelines([])
        transport.writelines([b"", b""])
        transport.write(b"end")
        assert await read_all(far, 3) == b"end"


# Flow control.


@both_kinds
def test_writing_is_paused_above_the_high_mark_and_resumed_at_the_low_one(kind: str) -> None:
    @on_noria
    async def program() -> None:
        async with connected(Recorder, kind) as (transport, protocol, far):
            transport.set_write_buffer_limits(high=100_000, low=20_000)
            assert transport.get_write_buffer_limits() == (20_000, 100_000)
            while not transport.get_write_buffer_size():
                transport.write(bytes(100_000))  # until the kernel is full
            room = 100_000 - transport.get_write_buffer_size()
            if room > 0:
                transport.write(bytes(room))
                assert "pause" not in protocol.events
                transport.write(b"x")
            assert protocol.events == ["made", "pause"]
            transport.write(bytes(1000))
            assert protocol.events == ["made", "pause"]
            while "resume" not in protocol.events:
                assert transport.get_write_buffer_size() > 20_000
                await read_all(far, 1000)
                await turns(1)
            assert transport.get_write_buffer_size() <= 20_000
            assert protocol.events == ["made", "pause", "resume"]

    program()


@on_noria
async def test_limits_have_defaults_and_are_checked() -> None:
    async with connected() as (transport, _, _far):
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=1000)
        assert transport.get_write_buffer_limits() == (1000, 4000)
        transport.set_write_buffer_limits(high=0)
        assert transport.get_write_buffer_limits() == (0, 0)
        for high, low in ((1, 2), (-1, None), (5, -1), (None, -4)):
            with pytest.raises(ValueError):
                transport.set_write_buffer_limits(high=high, low=low)


@on_noria
async def test_lowering_the_marks_below_what_is_buffered_pauses() -> None:
    async with connected() as (transport, protocol, far):
        transport.set_write_buffer_limits(high=100_000_000)
        transport.write(bytes(BIG * 4))
        buffered = transport.get_write_buffer_size()
        assert buffered > 0
        assert "pause" not in protocol.events
        transport.set_write_buffer_limits(high=0)
        assert protocol.events[-1] == "pause"
        await read_all(far, BIG * 4)
        await until(lambda: protocol.events[-1] == "resume")
        assert transport.get_write_buffer_size() == 0


@on_noria
async def test_errors_in_pause_and_resume_are_reported_and_the_bytes_flow() -> None:
    class Bad(Recorder):
        def pause_writing(self) -> None:
            raise KeyError("pause")

        def resume_writing(self) -> None:
            raise KeyError("resume")

    async with connected(Bad) as (transport, _, far):
        with reports() as seen:
            transport.write(bytes(BIG * 4))
            transport.write_eof()
            assert len(await read_all(far)) == BIG * 4
        assert [type(report["exception"]) for report in seen] == [KeyError, KeyError]


@on_noria
async def test_writing_from_inside_resume_writing_keeps_the_order() -> None:
    class More(Recorder):
        left = 20

        def resume_writing(self) -> None:
            super().resume_writing()
            self.left -= 1
            if self.left == 0:
                self.transport.close()
            while self.left > 0 and self.events[-1] != "pause":
                self.transport.write(bytes([self.left]) * 200_000)

    async with connected(More) as (transport, protocol, far):
        transport.write(b"\xff" * BIG)
        while "pause" not in protocol.events:
            transport.write(b"\xff" * BIG)
        found = await read_all(far)
        order = []
        while found:
            order.append(found[0])
            found = found.lstrip(found[:1])
        assert order == [255, *range(19, 0, -1)]
        assert await protocol.lost is None


@on_noria
async def test_what_resume_writing_of_a_closing_connection_writes_goes_out_as_well() -> None:
    class Last(Recorder):
        def resume_writing(self) -> None:
            super().resume_writing()
            if self.events.count("resume") == 1:
                self.transport.write(b"y" * BIG * 8)

    async with connected(Last) as (transport, protocol, far):
        transport.set_write_buffer_limits(0)
        while "pause" not in protocol.events:
            transport.write(b"x" * BIG)
        transport.close()
        assert (await read_all(far)).count(b"y") == BIG * 8
        assert await protocol.lost is None


# Reading: pause and resume.


@both_protocols
@both_kinds
def test_a_paused_transport_receives_nothing_and_fills_the_kernels_buffers(factory: Any, kind: str) -> None:
    @on_noria
    async def program() -> None:
        async with connected(factory, kind) as (transport, protocol, far):
            assert transport.is_reading()
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            sent = 0
            refused = 0
            while refused < 20:  # the kernel takes no more, and nothing is taken from it meanwhile
                try:
                    sent += far.send(bytes(100_000))
                    refused = 0
                except BlockingIOError:
                    refused += 1
                    await asyncio.sleep(0.001)
            assert protocol.received == b""
            transport.resume_reading()
            transport.resume_reading()
            assert transport.is_reading()
            assert len(await protocol.got(sent)) == sent

    program()


@on_noria
async def test_pausing_inside_data_received_stops_at_once() -> None:
    class OneByOne(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    loop = asyncio.get_running_loop()
    async with connected(OneByOne) as (transport, protocol, far):
        sending = asyncio.create_task(loop.sock_sendall(far, pattern(3_000_000)))
        rounds = 0
        while len(protocol.received) < 3_000_000:
            size = len(protocol.received)
            await turns(3)
            if transport.is_reading():
                continue
            assert len(protocol.received) >= size
            held = len(protocol.received)
            await turns(3)
            assert len(protocol.received) == held
            rounds += 1
            transport.resume_reading()
        await sending
        assert rounds > 3
        assert protocol.received == pattern(3_000_000)


@on_noria
async def test_a_peer_that_goes_while_reading_is_paused_is_noticed_on_resume() -> None:
    async with connected() as (transport, protocol, far):
        transport.pause_reading()
        far.send(b"last words")
        far.close()
        await asyncio.sleep(0.005)
        assert protocol.events == ["made"]
        transport.resume_reading()
        assert await protocol.lost is None
        assert protocol.received == b"last words"
        assert protocol.events == ["made", "data", "eof", "lost"]


@on_noria
async def test_a_paused_transport_whose_peer_resets_costs_no_processor_time() -> None:
    import time

    async with connected() as (transport, protocol, far):
        transport.pause_reading()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        began = time.process_time()
        await asyncio.sleep(0.1)
        assert time.process_time() - began < 0.05
        transport.resume_reading()
        assert isinstance(await protocol.lost, ConnectionResetError)


# Half-close and end.


@both_protocols
@both_kinds
def test_write_eof_closes_one_half_after_everything_written(factory: Any, kind: str) -> None:
    @on_noria
    async def program() -> None:
        loop = asyncio.get_running_loop()
        async with connected(factory, kind) as (transport, protocol, far):
            assert transport.can_write_eof()
            transport.write(bytes(BIG))
            transport.write_eof()
            transport.write_eof()
            with pytest.raises(RuntimeError, match="write_eof"):
                transport.write(b"more")
            with pytest.raises(RuntimeError, match="write_eof"):
                transport.writelines([b"more"])
            assert len(await read_all(far)) == BIG
            await loop.sock_sendall(far, b"still heard")
            assert await protocol.got(11) == b"still heard"

    program()


@both_protocols
@pytest.mark.parametrize("keep_open", [True, False])
def test_the_answer_of_eof_received_decides_whether_the_connection_stays(
    factory: Any, keep_open: bool
) -> None:
    @on_noria
    async def program() -> None:
        async with connected(factory) as (transport, protocol, far):
            protocol.keep_open = keep_open
            far.send(b"data")
            far.shutdown(socket.SHUT_WR)
            await protocol.ended
            await turns(2)
            assert transport.is_closing() is not keep_open
            if keep_open:
                transport.write(b"answer")
                transport.close()
                assert await read_all(far) == b"answer"
            assert await protocol.lost is None
            assert protocol.events == ["made", "data", "eof", "lost"]

    program()


@on_noria
async def test_eof_is_received_once_even_across_pause_and_resume() -> None:
    async with connected() as (transport, protocol, far):
        protocol.keep_open = True
        far.shutdown(socket.SHUT_WR)
        await protocol.ended
        transport.pause_reading()
        transport.resume_reading()
        await turns(5)
        assert protocol.events == ["made", "eof"]


@both_kinds
def test_close_sends_what_is_buffered_first(kind: str) -> None:
    @on_noria
    async def program() -> None:
        async with connected(Recorder, kind) as (transport, protocol, far):
            data = pattern(BIG)
            transport.write(data)
            transport.close()
            transport.close()
            assert transport.is_closing()
            assert not transport.is_reading()
            assert await read_all(far) == data
            assert await protocol.lost is None
            await turns(3)
            assert protocol.events.count("lost") == 1

    program()


@on_noria
async def test_a_closing_transport_receives_nothing_more() -> None:
    loop = asyncio.get_running_loop()
    async with connected() as (transport, protocol, far):
        transport.write(bytes(BIG * 4))
        transport.close()
        far.send(b"too late")
        await asyncio.sleep(0.005)
        assert protocol.received == b""
        transport.resume_reading()
        transport.pause_reading()
        await asyncio.sleep(0.001)
        assert protocol.received == b""
        with contextlib.suppress(ConnectionResetError):  # the kernel's answer to what nobody received
            while await loop.sock_recv(far, 1 << 20):
                pass
        assert protocol.received == b""


@both_kinds
def test_abort_throws_away_what_is_buffered(kind: str) -> None:
    @on_noria
    async def program() -> None:
        async with connected(Recorder, kind) as (transport, protocol, far):
            transport.write(bytes(BIG * 4))
            transport.abort()
            assert transport.get_write_buffer_size() == 0
            assert transport.is_closing()
            assert "lost" not in protocol.events  # from the queue, never from inside the call
            assert await protocol.lost is None
            with contextlib.suppress(ConnectionResetError):
                assert len(await read_all(far)) < BIG * 4
            transport.abort()
            transport.close()
            await turns(2)
            assert protocol.events.count("lost") == 1

    program()


@on_noria
async def test_writing_to_a_lost_connection_warns_at_last(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (transport, protocol, _far):
        transport.abort()
        await protocol.lost
        for _ in range(4):
            transport.write(b"x")
        assert not caplog.records
        transport.write(b"x")
        transport.writelines([b"x"])
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
        assert "socket.send() raised exception" in caplog.text


@both_kinds
def test_a_peer_that_vanishes_is_an_error_for_connection_lost(kind: str) -> None:
    @on_noria
    async def program() -> None:
        async with connected(Recorder, kind) as (transport, protocol, far):
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            protocol.keep_open = True
            transport.write(bytes(BIG * 4))
            far.close()
            assert isinstance(await protocol.lost, ConnectionResetError | BrokenPipeError)
            assert transport.is_closing()
            assert transport.get_write_buffer_size() == 0

    program()


@on_noria
async def test_a_write_that_fails_at_once_is_heard_of_by_connection_lost_only() -> None:
    async with connected(Recorder, "unix") as (transport, protocol, far):
        transport.pause_reading()
        far.close()
        transport.write(b"x")
        assert isinstance(await protocol.lost, BrokenPipeError)


# Errors of the protocol.


class Failing(Base):
    """Fails in the method named by `bad`."""

    bad = ""

    def fail(self, name: str) -> None:
        if self.bad == name:
            raise ZeroDivisionError(name)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.fail("connection_made")

    def eof_received(self) -> bool:
        super().eof_received()
        self.fail("eof_received")
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.fail("connection_lost")


class FailingProtocol(Failing, Recorder):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.fail("data_received")


class FailingBuffered(Failing, Buffered):
    def get_buffer(self, sizehint: int) -> memoryview:
        self.fail("get_buffer")
        if self.bad == "empty":
            return memoryview(bytearray())
        if self.bad == "no buffer":
            return 5  # type: ignore[return-value]
        if self.bad == "read-only":
            return memoryview(b"constant")
        return super().get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self.fail("buffer_updated")


@pytest.mark.parametrize(
    ("factory", "bad"),
    [
        (FailingProtocol, "data_received"),
        (FailingProtocol, "eof_received"),
        (FailingBuffered, "get_buffer"),
        (FailingBuffered, "empty"),
        (FailingBuffered, "no buffer"),
        (FailingBuffered, "read-only"),
        (FailingBuffered, "buffer_updated"),
    ],
)
def test_an_error_in_a_protocol_is_reported_and_ends_the_connection(factory: Any, bad: str) -> None:
    @on_noria
    async def program() -> None:
        async with connected(factory) as (transport, protocol, far):
            protocol.bad = bad
            with reports() as seen:
                far.send(b"data")
                far.shutdown(socket.SHUT_WR)
                error = await protocol.lost
            (report,) = seen
            assert report["exception"] is error
            assert report["transport"] is transport
            assert report["protocol"] is protocol

    program()


@on_noria
async def test_an_error_in_connection_made_or_lost_is_reported_and_goes_no_further() -> None:
    loop = asyncio.get_running_loop()
    for bad in ("connection_made", "connection_lost"):
        kind = type("Kind", (FailingProtocol,), {"bad": bad})
        with reports() as seen:
            async with connected(kind) as (_, protocol, far):
                await loop.sock_sendall(far, b"data")
                assert await protocol.got(4) == b"data"
            await protocol.lost
        assert [str(report["exception"]) for report in seen] == [bad]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_data_received_ends_the_run(error: type[BaseException]) -> None:
    class Interrupts(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise error

    loop = noria.new_event_loop()
    near, far = pair()
    try:
        transport, _ = loop.run_until_complete(loop.connect_accepted_socket(Interrupts, near))
        far.send(b"x")
        with pytest.raises(error):
            loop.run_forever()
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        far.close()
        loop.close()


# Looking at it, changing the protocol, callbacks calling back.


@on_noria
async def test_a_transport_is_an_asyncio_transport_and_knows_its_addresses() -> None:
    near, far = pair("tcp")
    addresses = near.getsockname(), near.getpeername()
    async with connected() as (transport, _, _far):
        assert isinstance(transport, asyncio.Transport)
    near.close()
    transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(Recorder, far)
    sock = transport.get_extra_info("socket")
    assert transport.get_extra_info("sockname") == addresses[1] == sock.getsockname()
    assert transport.get_extra_info("peername") == addresses[0]
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert sock.fileno() == far.fileno()
    assert transport.get_extra_info("nothing") is None
    assert transport.get_extra_info("nothing", 5) == 5
    assert "fd=" in repr(transport)
    transport.close()
    assert "closing" in repr(transport)
    await protocol.lost
    await turns(1)
    assert "closed" in repr(transport)
    assert transport.get_extra_info("sockname") == addresses[1]
    assert transport.get_extra_info("peername") == addresses[0]


@on_noria
async def test_set_protocol_sends_what_follows_to_the_new_one() -> None:
    loop = asyncio.get_running_loop()
    async with connected() as (transport, first, far):
        assert transport.get_protocol() is first
        far.send(b"one")
        await first.got(3)
        for second in (Buffered(), Recorder()):
            transport.set_protocol(second)
            assert transport.get_protocol() is second
            await loop.sock_sendall(far, b"two")
            assert await second.got(3) == b"two"
        assert first.received == b"one"
        transport.abort()
        assert await second.lost is None
        assert "lost" not in first.events


@on_noria
async def test_a_protocol_that_replaces_itself_while_it_runs_may_be_freed() -> None:
    class Passing(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.set_protocol(last)
            del self.transport

    near, far = pair()
    last = Recorder()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(Passing, near)
    del _
    with far:
        far.send(b"first")
        await until(lambda: transport.get_protocol() is last)
        far.send(b"second")
        assert await last.got(6) == b"second"
        transport.abort()
        await last.lost


@pytest.mark.parametrize("method", ["close", "abort", "pause_reading", "write_eof"])
@both_protocols
def test_any_method_may_be_called_from_any_callback(factory: Any, method: str) -> None:
    class Calls(factory):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(b"hello")
            getattr(transport, method)()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            getattr(self.transport, method)()

        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            getattr(self.transport, method)()

        def get_buffer(self, sizehint: int) -> Any:
            getattr(self.transport, method)()
            return super().get_buffer(sizehint)

        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)
            getattr(self.transport, method)()

    @on_noria
    async def program() -> None:
        async with connected(Calls) as (transport, protocol, far):
            try:
                far.send(b"x" * 1000)
                await asyncio.sleep(0.002)
                transport.resume_reading()
                far.shutdown(socket.SHUT_WR)
            except OSError:
                assert method in ("close", "abort")
            await asyncio.sleep(0.002)
            transport.abort()
            await protocol.lost
            assert protocol.events[0] == "made"
            assert protocol.events[-1] == "lost"
            assert protocol.events.count("lost") == 1

    program()


@on_noria
async def test_callbacks_of_a_connection_run_in_the_context_it_was_made_in() -> None:
    import contextvars

    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")
    seen: dict[str, str] = {}

    class Looks(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            seen["made"] = var.get()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            seen["data"] = var.get()

        def eof_received(self) -> bool:
            seen["eof"] = var.get()
            return super().eof_received()

        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)
            seen["lost"] = var.get()

    var.set("connector")
    async with connected(Looks) as (_, protocol, far):
        var.set("later")
        far.send(b"x")
        await protocol.got(1)
        far.shutdown(socket.SHUT_WR)
        await protocol.lost
    assert seen == dict.fromkeys(("made", "data", "eof", "lost"), "connector")


@on_noria
async def test_no_task_is_current_inside_a_protocol() -> None:
    seen: list[object] = []

    class Looks(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            seen.append(asyncio.current_task())

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            seen.append(asyncio.current_task())

    async with connected(Looks) as (_, protocol, far):
        far.send(b"x")
        await protocol.got(1)
    assert seen == [None, None]


@on_noria
async def test_asyncio_streams_work() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for n in range(200):
            writer.write(f"line {n}\n".encode())
            assert await reader.readline() == f"LINE {n}\n".encode()
        writer.write(b"x" * 50_000 + b"\n")
        assert await reader.readexactly(50_001) == b"X" * 50_000 + b"\n"
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


def test_a_transport_not_made_by_a_loop_refuses_and_does_not_crash() -> None:
    done = python(
        """
from noria.net.stream import Listener, StreamTransport

def attempt(function, *args):
    try:
        function(*args)
    except (TypeError, RuntimeError, AttributeError):
        pass

attempt(StreamTransport)
for kind in (StreamTransport, Listener):
    for name in dir(kind):
        if not name.startswith("__"):
            for args in ((), (b"data",)):
                attempt(lambda: getattr(kind.__new__(kind), name)(*args))
print("alive")
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "alive\n"


def test_an_unclosed_transport_warns_when_it_is_dropped() -> None:
    import gc

    loop = noria.new_event_loop()
    near, far = pair()
    transport, protocol = loop.run_until_complete(loop.connect_accepted_socket(asyncio.Protocol, near))
    loop.close()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del transport, protocol, near
        gc.collect()
    assert far.recv(1) == b""
    far.close()
