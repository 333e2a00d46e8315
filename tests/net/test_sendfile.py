"""sendfile and sock_sendfile when things go otherwise: slow readers, cancelling, closing, resets, odd files.

That files arrive whole and that wrong arguments are refused is shown in test_files_and_others.py.
"""

import asyncio
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.running import DEADLINE, on_noria, turns
from net.peers import connected, nothing_left_open, pair, pattern, read_all
from net.test_connections import loop_
from support.tools import require

SIZE = 8_000_001  # more than the kernel keeps for one connection
DATA = pattern(SIZE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


both = pytest.mark.parametrize("by", ["transport", "socket"])


class Way:
    """A connection to send a file over: `send(file, ...)`, then `write(data)`, and `far`, the socket it arrives at."""

    def __init__(self, far: socket.socket, send: Callable[..., Any], write: Callable[[bytes], Any]) -> None:
        self.far = far
        self.send = send
        self.write = write


@asynccontextmanager
async def way(by: str) -> AsyncIterator[Way]:
    """A TCP connection as a transport, for loop.sendfile(), or as a plain socket, for loop.sock_sendfile()."""
    loop = loop_()
    async with nothing_left_open():
        if by == "transport":
            async with connected() as (transport, protocol, far):

                async def write(data: bytes) -> None:
                    assert transport.get_protocol() is protocol
                    assert transport.is_reading()
                    transport.write(data)

                yield Way(far, partial(loop.sendfile, transport), write)
        else:
            near, far = pair("tcp")
            with near, far:
                yield Way(far, partial(loop.sock_sendfile, near), partial(loop.sock_sendall, near))


class Only:
    """As much of a file as sendfile(2) needs."""

    def __init__(self, file: Any) -> None:
        self.fileno = file.fileno
        self.seek = file.seek

    def read(self, *_: Any) -> bytes:
        raise AssertionError("read by hand")

    readinto = read


@both
def test_the_kernel_sends_regular_files_and_nobody_reads_them(path: Path, by: str) -> None:
    @on_noria
    async def program() -> None:
        async with way(by) as here:
            with path.open("rb") as file:
                receiving = asyncio.create_task(read_all(here.far, SIZE))
                assert await here.send(Only(file), fallback=False) == SIZE
                assert await receiving == DATA

    program()


@both
def test_a_slow_reader_gets_everything_and_the_loop_goes_on(path: Path, by: str) -> None:
    @on_noria
    async def program() -> None:
        async with way(by) as here:
            with path.open("rb") as file:
                sending = asyncio.create_task(here.send(file))
                got = bytearray()
                while len(got) < SIZE:
                    await turns(3)
                    assert len(got) > 0 or not sending.done()
                    with suppress(BlockingIOError):
                        got += here.far.recv(100_000)
                assert await sending == SIZE
                assert got == DATA
                assert file.tell() == SIZE

    program()


def test_the_loop_turns_between_pieces_however_fast_the_reader_is(tmp_path: Path) -> None:
    # Seen from outside: after each piece the kernel is asked what else has happened.
    program = """
import asyncio, noria, socket, sys, threading

async def main():
    near, far = socket.socketpair()
    near.setblocking(False)
    def drain():
        while far.recv(1 << 20):
            pass
    thread = threading.Thread(target=drain)
    thread.start()
    with open(sys.argv[1], "rb") as file:
        assert await asyncio.get_running_loop().sock_sendfile(near, file) == 1 << 25
    near.close()
    thread.join()
    far.close()

noria.run(main())
"""
    trace, file = tmp_path / "trace", tmp_path / "sparse"
    file.touch()
    os.truncate(file, 1 << 25)
    calls = "trace=sendfile,epoll_wait,epoll_pwait,epoll_pwait2"
    strace = [require("strace"), "-f", "-qq", "-o", str(trace), "-e", calls]
    able = subprocess.run([*strace, "true"], capture_output=True, check=False)
    if able.returncode != 0:
        pytest.skip(f"strace may not trace here: {able.stderr.decode().strip()}")
    subprocess.run([*strace, sys.executable, "-c", program, str(file)], check=True, timeout=DEADLINE)
    sent = 0
    before = ""
    for line in trace.read_text().splitlines():
        call = line.split()[1].partition("(")[0]
        if call == "sendfile" and " = -1 " not in line:
            count = int(line.rpartition("= ")[2])
            assert count <= 1 << 20
            assert before != "sendfile" or count == 0, "two pieces without a turn"
            sent += count
        before = call
    assert sent == 1 << 25


@both
def test_an_empty_file_and_an_offset_behind_the_end_send_nothing(tmp_path: Path, by: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"short")

    @on_noria
    async def program() -> None:
        async with way(by) as here:
            with (tmp_path / "empty").open("rb") as file:
                assert await here.send(file) == 0
                assert await here.send(file, 0, 10) == 0
            with (tmp_path / "short").open("rb") as file:
                file.seek(2)
                assert await here.send(file, 5) == 0
                assert await here.send(file, 100, 7) == 0
                assert file.tell() == 2

    program()


@both
def test_a_file_that_grows_meanwhile_is_sent_to_its_new_end(path: Path, by: str) -> None:
    @on_noria
    async def program() -> None:
        async with way(by) as here:
            with path.open("rb") as file, path.open("ab") as more:
                sending = asyncio.create_task(here.send(file))
                await turns(5)
                assert not sending.done()
                more.write(b"grown")
                more.flush()
                assert await read_all(here.far, SIZE + 5) == DATA + b"grown"
                assert await sending == SIZE + 5

    program()


@both
def test_the_position_is_right_though_the_file_was_read_before(path: Path, by: str) -> None:
    # a buffered file is ahead of what the program read
    @on_noria
    async def program() -> None:
        async with way(by) as here:
            with path.open("rb") as file:
                assert file.read(10) == DATA[:10]
                assert await here.send(file, 100, 50) == 50
                assert file.tell() == 150
                assert file.read(5) == DATA[150:155]

    program()


@both
@pytest.mark.parametrize("steps", [0, 1, 2, 5, 20])
def test_cancelling_leaves_the_position_behind_what_was_sent(path: Path, by: str, steps: int) -> None:
    @on_noria
    async def program() -> None:
        async with way(by) as here:
            with path.open("rb") as file:
                sending = asyncio.create_task(here.send(file))
                await turns(steps)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                sent = file.tell()
                assert (sent > 0) == (steps > 0)
                # the connection goes on behind what was sent
                receiving = asyncio.create_task(read_all(here.far, sent + 5))
                await here.write(b"after")
                assert await receiving == DATA[:sent] + b"after"

    program()


@both
def test_a_reset_is_a_connection_error_and_the_position_tells_how_far_it_got(path: Path, by: str) -> None:
    @on_noria
    async def program() -> None:
        async with way(by) as here:
            with path.open("rb") as file:
                sending = asyncio.create_task(here.send(file, fallback=False))
                await turns(5)
                here.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                here.far.close()
                with pytest.raises(ConnectionError):
                    await sending
                assert 0 < file.tell() < SIZE

    program()


@pytest.mark.parametrize("method", ["close", "abort"])
@pytest.mark.parametrize("before", [0, 8_000_000])
def test_closing_the_transport_ends_the_sending(path: Path, method: str, before: int) -> None:
    # The peer reads nothing: the kernel alone would never say that it is over.
    @on_noria
    async def program() -> None:
        async with nothing_left_open(), connected() as (transport, protocol, far):
            transport.write(bytes(before))
            with path.open("rb") as file:
                sending = asyncio.create_task(loop_().sendfile(transport, file))
                await turns(5)
                assert not sending.done()
                getattr(transport, method)()
                if method == "close" and before:
                    await read_all(far, before)  # what was written before is still sent
                with pytest.raises(ConnectionError):
                    await sending
            assert await protocol.lost is None

    program()


@both
def test_closing_the_file_meanwhile_does_not_send_another(path: Path, by: str) -> None:
    @on_noria
    async def program() -> None:
        async with way(by) as here:
            file = path.open("rb")
            number = file.fileno()
            sending = asyncio.create_task(here.send(file))
            await turns(5)
            assert not sending.done()
            file.close()
            with open("/dev/zero", "rb") as zeros:
                assert zeros.fileno() == number
                assert await read_all(here.far, SIZE) == DATA
                assert await sending == SIZE

    program()


def test_a_second_file_on_a_connection_has_to_wait_for_the_first(path: Path) -> None:
    @on_noria
    async def program() -> None:
        async with connected() as (transport, _, far):
            with path.open("rb") as file, path.open("rb") as other:
                sending = asyncio.create_task(loop_().sendfile(transport, file))
                await turns(5)
                with pytest.raises(RuntimeError, match="another sendfile is in progress"):
                    await loop_().sendfile(transport, other)
                with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
                    transport.write(b"in the middle")
                assert await read_all(far, SIZE) == DATA
                assert await sending == SIZE

    program()


@both
def test_files_that_the_kernel_cannot_send_are_read_and_sent(by: str) -> None:
    @on_noria
    async def program() -> None:
        async with way(by) as here:
            with open("/proc/sys/kernel/ostype", "rb") as file:  # its size is said to be 0
                sent = await here.send(file)
                assert await read_all(here.far, sent) == b"Linux\n"
            out, into = os.pipe()
            with open(out, "rb") as file:
                os.write(into, b"through a pipe")
                os.close(into)
                with pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular file"):
                    await here.send(file, fallback=False)
                assert await here.send(file) == 14
                assert await read_all(here.far, 14) == b"through a pipe"

    program()


@on_noria
async def test_sockets_that_are_no_streams_or_block_are_refused() -> None:
    with open("/dev/null", "rb") as file, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.setblocking(False)
        with pytest.raises(ValueError, match="only SOCK_STREAM type sockets are supported"):
            await loop_().sock_sendfile(datagrams, file)
        near, far = socket.socketpair()
        with near, far, pytest.raises(ValueError, match="the socket must be non-blocking"):
            await loop_().sock_sendfile(near, file)
