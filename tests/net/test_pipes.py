"""Pipes, FIFOs, sockets and terminals: bytes pass, the other end's going is seen, the file object is closed with the transport."""

import asyncio
import errno
import gc
import os
import socket
import subprocess
import sys
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import on_noria, reports, turns, until
from core.test_memory import Piece, leaves_nothing
from net.peers import Base, Recorder, nothing_left_open, pattern
from net.test_connections import loop_

BIG = 20_000_001


class Writer(Base):
    """A protocol for a writing end."""


def files() -> tuple[Any, Any]:
    """Both ends of a pipe as file objects."""
    out, into = os.pipe()
    return open(out, "rb", 0), open(into, "wb", 0)


def terminal() -> tuple[Any, Any]:
    """Master and slave of a pseudo terminal in raw mode."""
    master, slave = os.openpty()
    tty.setraw(slave)
    return open(master, "r+b", 0), open(slave, "r+b", 0)


async def reader(file: Any, factory: Callable[[], Any] = Recorder) -> tuple[Any, Any]:
    return await loop_().connect_read_pipe(factory, file)


async def writer(file: Any, factory: Callable[[], Any] = Writer) -> tuple[Any, Any]:
    return await loop_().connect_write_pipe(factory, file)


# What passes.


@on_noria
async def test_pipes_carry_bytes_both_ways() -> None:
    async with nothing_left_open():
        out, into = files()
        read_end, protocol = await reader(out)
        write_end, writing = await writer(into)
        assert isinstance(read_end, asyncio.ReadTransport)
        assert isinstance(write_end, asyncio.WriteTransport)
        assert read_end.get_extra_info("pipe") is out
        assert write_end.get_extra_info("pipe") is into
        assert read_end.get_extra_info("peername", "none") == "none"
        data = pattern(1_000_000)
        write_end.write(data)
        write_end.close()
        assert await protocol.got(len(data)) == data
        assert await protocol.lost is None
        assert await writing.lost is None
        assert protocol.events == ["made", "data", "eof", "lost"]
        assert writing.events[-1] == "lost"
        assert read_end.is_closing()
        assert out.closed
        assert into.closed


@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])
def test_megabytes_pass_whole_between_two_loops(kind: str, tmp_path: Path) -> None:
    data = pattern(BIG)

    def ends() -> tuple[Any, Any]:
        if kind == "pipe":
            return files()
        if kind == "fifo":
            os.mkfifo(tmp_path / "fifo")
            out = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
            return open(out, "rb", 0), (tmp_path / "fifo").open("wb", 0)
        one, two = socket.socketpair()
        return open(one.detach(), "rb", 0), open(two.detach(), "wb", 0)

    out, into = ends()

    async def write() -> None:
        transport, protocol = await writer(into)
        for at in range(0, len(data), 300_007):
            transport.write(bytearray(data[at : at + 300_007]))
            while transport.get_write_buffer_size() > 1_000_000:
                await asyncio.sleep(0.001)
        transport.close()
        assert await protocol.lost is None

    async def read() -> None:
        transport, protocol = await reader(out)
        writing = asyncio.create_task(asyncio.to_thread(noria.run, write()))
        while len(protocol.received) < len(data):
            transport.pause_reading()
            await asyncio.sleep(0.0005)
            transport.resume_reading()
            await asyncio.sleep(0.002)
        assert await protocol.lost is None
        assert protocol.received == data
        assert protocol.events == ["made", "data", "eof", "lost"]
        await writing

    noria.run(read())


@on_noria
async def test_one_file_may_have_a_reader_and_a_writer() -> None:
    async with nothing_left_open():
        master, slave = terminal()
        read_end, received = await reader(master)
        write_end, writing = await writer(master)
        far_read, far = await reader(slave)
        far_write, far_writing = await writer(slave)
        there, back = pattern(100_000, 1), pattern(100_000, 2)
        write_end.write(there)
        far_write.write(back)
        assert await far.got(len(there)) == there
        assert await received.got(len(back)) == back
        for transport in (read_end, write_end, far_read, far_write):
            transport.close()
        for protocol in (received, writing, far, far_writing):
            assert await protocol.lost is None
    near, peer = socket.socketpair()
    with peer:
        file = open(near.detach(), "r+b", 0)
        read_end, received = await reader(file)
        write_end, writing = await writer(file)
        peer.send(b"to you")
        assert await received.got(6) == b"to you"  # and the writer does not take it for the peer's end
        write_end.write(b"to me")
        assert peer.recv(9) == b"to me"
        assert not write_end.is_closing()
        peer.shutdown(socket.SHUT_RDWR)
        assert await received.lost is None
        assert await writing.lost is None


@on_noria
async def test_devices_that_cannot_be_watched_are_read_all_the_same() -> None:
    read_end, protocol = await reader(open("/dev/null", "rb", 0))
    assert await protocol.lost is None
    assert protocol.events == ["made", "eof", "lost"]
    read_end, protocol = await reader(open("/dev/zero", "rb", 0))
    await protocol.got(1_000_000)
    read_end.pause_reading()
    await turns(3)
    count = len(protocol.received)
    await turns(10)
    assert len(protocol.received) == count
    read_end.resume_reading()
    await protocol.got(count + 1)
    read_end.close()
    assert await protocol.lost is None
    write_end, writing = await writer(open("/dev/null", "wb", 0))
    write_end.write(bytes(1_000_000))
    assert write_end.get_write_buffer_size() == 0
    write_end.close()
    assert await writing.lost is None


@on_noria
async def test_streams_on_pipes() -> None:
    out, into = files()
    stream = asyncio.StreamReader()
    await loop_().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), out)
    transport, protocol = await loop_().connect_write_pipe(asyncio.streams.FlowControlMixin, into)
    sink = asyncio.StreamWriter(transport, protocol, None, loop_())
    lines = [b"%d\n" % n * 1000 for n in range(300)]

    async def send() -> None:
        for line in lines:
            sink.writelines([line[:7], line[7:]])
            await sink.drain()
        sink.close()

    sending = asyncio.create_task(send())
    assert await stream.read() == b"".join(lines)
    await sending


# The other end goes.


@on_noria
async def test_a_writer_sees_its_reader_go_while_it_is_idle() -> None:
    for close_both in (False, True):
        out, into = files()
        write_end, protocol = await writer(into)
        if close_both:
            write_end.write(b"never read")
        out.close()
        assert await protocol.lost is None
        assert protocol.events == ["made", "lost"]
        assert into.closed
        assert write_end.is_closing()


@on_noria
async def test_a_writer_with_something_unsent_gets_broken_pipe() -> None:
    for closing in (False, True):
        out, into = files()
        write_end, protocol = await writer(into)
        write_end.write(bytes(1_000_000))
        assert write_end.get_write_buffer_size() > 0
        if closing:
            write_end.close()
        out.close()
        assert isinstance(await protocol.lost, BrokenPipeError)
        assert write_end.get_write_buffer_size() == 0


@on_noria
async def test_a_write_that_fails_at_once_gets_broken_pipe() -> None:
    out, into = files()
    write_end, protocol = await writer(into)
    out.close()
    write_end.write(b"x")
    error = await protocol.lost
    assert isinstance(error, BrokenPipeError)
    assert error.errno == errno.EPIPE


@on_noria
async def test_the_master_of_a_terminal_ends_with_eio_when_its_last_user_leaves() -> None:
    master, slave = terminal()
    _, protocol = await reader(master)
    slave.write(b"last words")
    slave.close()
    error = await protocol.lost
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO
    assert protocol.received == b"last words"
    assert protocol.events == ["made", "data", "lost"]


@on_noria
async def test_a_read_error_is_reported_and_closes() -> None:
    near, far = socket.socketpair()
    with far:
        near.sendall(b"unread, so closing resets")
        far_file = open(os.dup(far.fileno()), "rb", 0)
        _, protocol = await reader(open(near.detach(), "rb", 0))
        with reports() as seen:
            far_file.close()
            far.close()
            assert isinstance(await protocol.lost, ConnectionResetError)
        assert [report["message"] for report in seen] == ["Fatal read error on pipe transport"]


@on_noria
async def test_a_reader_of_a_fifo_goes_on_while_one_writer_is_left(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    out = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with (tmp_path / "fifo").open("wb", 0) as one, (tmp_path / "fifo").open("wb", 0) as two:
        _, protocol = await reader(open(out, "rb", 0))
        one.write(b"1")
        one.close()
        two.write(b"2")
        assert await protocol.got(2) == b"12"
        await turns(3)
        assert not protocol.lost.done()
    assert await protocol.lost is None


# Flow control and closing.


@on_noria
async def test_the_writer_is_paused_and_resumed() -> None:
    out, into = files()
    write_end, protocol = await writer(into)
    assert write_end.get_write_buffer_limits() == (16_384, 65_536)
    write_end.set_write_buffer_limits(high=100_000, low=10)
    write_end.write(pattern(300_000))
    assert protocol.events == ["made", "pause"]
    os.set_blocking(out.fileno(), False)
    got = b""
    while len(got) < 300_000:
        got += out.read(70_000) or b""
        await asyncio.sleep(0)
    assert got == pattern(300_000)
    await until(lambda: write_end.get_write_buffer_size() == 0)
    assert protocol.events == ["made", "pause", "resume"]
    assert "idle bufsize=0" in repr(write_end)
    write_end.close()
    await protocol.lost
    assert "closed" in repr(write_end)
    out.close()


@pytest.mark.parametrize("how", ["close", "write_eof"])
def test_closing_a_writer_sends_what_is_buffered_first(how: str) -> None:
    @on_noria
    async def program() -> None:
        out, into = files()
        write_end, protocol = await writer(into)
        assert write_end.can_write_eof()
        data = pattern(500_000)
        write_end.write(data)
        getattr(write_end, how)()
        getattr(write_end, how)()
        assert write_end.is_closing()
        write_end.write(b"thrown away")
        _, received = await reader(out)
        assert await protocol.lost is None
        assert await received.lost is None
        assert received.received == data

    program()


@on_noria
async def test_aborting_a_writer_throws_away_what_is_buffered() -> None:
    out, into = files()
    write_end, protocol = await writer(into)
    write_end.write(pattern(500_000))
    write_end.abort()
    write_end.abort()
    assert await protocol.lost is None
    _, received = await reader(out)
    assert await received.lost is None
    assert 0 < len(received.received) < 500_000


@on_noria
async def test_writes_to_a_closed_pipe_warn_after_five(caplog: pytest.LogCaptureFixture) -> None:
    out, into = files()
    with out:
        write_end, protocol = await writer(into)
        write_end.close()
        for _ in range(5):
            write_end.write(b"x")
        write_end.write(b"")
        assert not caplog.records
        write_end.writelines([b"x", b"y"])
        assert ["pipe closed by peer" in record.message for record in caplog.records] == [True]
        with pytest.raises(TypeError, match="bytes-like"):
            write_end.write("text")
        await protocol.lost


@on_noria
async def test_a_paused_reader_hears_neither_data_nor_the_end_until_resumed() -> None:
    out, into = files()
    read_end, protocol = await reader(out)
    assert read_end.is_reading()
    assert "polling" in repr(read_end)
    read_end.pause_reading()
    read_end.pause_reading()
    assert not read_end.is_reading()
    into.write(b"data")
    into.close()
    await asyncio.sleep(0.01)
    assert protocol.events == ["made"]
    read_end.resume_reading()
    assert await protocol.lost is None
    assert protocol.events == ["made", "data", "eof", "lost"]
    read_end.resume_reading()
    read_end.pause_reading()
    assert not read_end.is_reading()


@pytest.mark.parametrize("method", ["pause_reading", "close"])
def test_a_protocol_may_pause_or_close_when_it_is_made(method: str) -> None:
    class Shy(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            getattr(transport, method)()

    @on_noria
    async def program() -> None:
        out, into = files()
        with into:
            into.write(b"x")
            transport, protocol = await reader(out, Shy)
            await asyncio.sleep(0.005)
            assert protocol.received == b""
            transport.close()
            assert await protocol.lost is None

    program()


@on_noria
async def test_a_protocol_that_raises_is_reported_and_goes_on() -> None:
    class Raising(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            raise ZeroDivisionError

        def eof_received(self) -> bool:
            super().eof_received()
            raise ZeroDivisionError

    out, into = files()
    with reports() as seen:
        _, protocol = await reader(out, Raising)
        into.write(b"1")
        await protocol.got(1)
        into.write(b"2")
        await protocol.got(2)
        into.close()
        assert await protocol.lost is None
    assert [type(report["exception"]) for report in seen] == [ZeroDivisionError] * 3


# Files.


@on_noria
async def test_regular_files_and_directories_are_refused_and_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file:
        with pytest.raises(ValueError, match=r"^Pipe transport is for pipes/sockets only\.$"):
            await reader(file)
        with pytest.raises(
            ValueError, match="^Pipe transport is only for pipes, sockets and character devices$"
        ):
            await writer(file)
        assert not file.closed
        file.write(b"usable")


@on_noria
async def test_the_descriptor_becomes_non_blocking_and_the_file_is_closed_with_the_transport() -> None:
    out, into = files()
    read_end, protocol = await reader(out)
    assert not os.get_blocking(out.fileno())
    read_end.close()
    assert not out.closed  # connection_lost comes first
    await protocol.lost
    await turns(1)
    assert out.closed
    into.close()


@on_noria
async def test_a_file_that_cannot_be_closed_is_reported() -> None:
    out, into = os.pipe()
    file = open(into, "wb", 4096)
    write_end, protocol = await writer(file)
    file.write(b"kept in the file object's own buffer")
    os.close(out)
    with reports() as seen:
        await protocol.lost
        await turns(2)
    assert [type(report["exception"]) for report in seen] == [BrokenPipeError]
    assert write_end.is_closing()


def test_a_dropped_pipe_warns_and_closes_its_file() -> None:
    async def program() -> tuple[Any, Any]:
        out, into = files()
        (one, _), (two, _) = await reader(out), await writer(into)
        return one, two

    loop = noria.new_event_loop()
    with pytest.warns(ResourceWarning) as seen:
        both = loop.run_until_complete(program())
        pipes = [transport.get_extra_info("pipe") for transport in both]
        loop.close()
        assert "open" in repr(both[0])
        loop = both = None  # type: ignore[assignment]
        gc.collect()
    assert sorted(str(warning.message).split(" fd=")[0] for warning in seen) == [
        "unclosed transport <ReadPipeTransport",
        "unclosed transport <WritePipeTransport",
    ]
    assert all(pipe.closed for pipe in pipes)


@on_noria
async def test_a_reader_cannot_write_and_a_writer_cannot_read() -> None:
    out, into = files()
    (read_end, received), (write_end, writing) = await reader(out), await writer(into)
    for call in (
        lambda: read_end.write(b""),
        lambda: read_end.writelines([]),
        read_end.write_eof,
        write_end.pause_reading,
        write_end.resume_reading,
    ):
        with pytest.raises(NotImplementedError):
            call()
    assert not write_end.is_reading()
    assert not read_end.can_write_eof()
    with pytest.raises(RuntimeError, match="sendfile is not supported"):
        await loop_().sendfile(write_end, sys.stdin)
    write_end.close()
    await received.lost
    await writing.lost


def test_standard_streams_of_a_program_are_pipes() -> None:
    program = """
import asyncio, noria, sys

async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
    transport.write((await reader.read()).upper() + b"done")
    transport.close()

noria.run(main())
"""
    for data, stdin in ((b"", subprocess.DEVNULL), (b"words, ", subprocess.PIPE)):
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = child.communicate(data or None, timeout=30)
        assert (out, err) == (data.upper() + b"done", b"")


# Memory.


async def there_and_back() -> None:
    out, into = files()
    (_, received), (write_end, writing) = await reader(out), await writer(into)
    write_end.write(pattern(1000))
    write_end.writelines([bytearray(1000)] * 3)
    write_end.close()
    await received.lost
    await writing.lost


async def broken() -> None:
    out, into = files()
    write_end, protocol = await writer(into)
    write_end.write(bytes(100_000))
    out.close()
    await protocol.lost


async def hung_up() -> None:
    master, slave = terminal()
    _, protocol = await reader(master)
    write_end, writing = await writer(master)
    slave.close()
    await protocol.lost
    write_end.abort()
    await writing.lost


@pytest.mark.parametrize("piece", [there_and_back, broken, hung_up], ids=lambda piece: piece.__name__)
def test_repeating_it_leaves_nothing(piece: Piece) -> None:
    @on_noria
    async def program() -> None:
        async with nothing_left_open():
            await leaves_nothing(piece, 100)

    program()
