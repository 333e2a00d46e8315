"""Large bodies past the loop: what arrives, what a broken connection, a full disk or a cancellation leaves, and which
bodies go the ordinary way.
"""

import asyncio
import errno
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import noria
from get.fault_server import Exchange, FaultServer
from get.test_resume import ranged
from noria.get import Downloader, Result, Target, direct, download
from noria.get.largefiles import Intake

BODY = os.urandom(6 * 1024 * 1024)
DB = ".noria-get.db"
THREADS = "noria-get-large"


@pytest.fixture
def intakes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The offset and size of each body that went past the loop."""
    seen: list[tuple[int, int]] = []
    real = direct.PartFile.intake

    def intake(self: Any, source: int, offset: int, size: int, stall: float | None) -> Intake:
        seen.append((offset, size))
        return real(self, source, offset, size, stall)

    monkeypatch.setattr(direct.PartFile, "intake", intake)
    return seen


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    deadline = time.monotonic() + 5.0
    while True:  # threads end by themselves a moment after their pool is told
        threads = [thread.name for thread in threading.enumerate() if thread.name.startswith(THREADS)]
        left = len(os.listdir("/proc/self/fd")) - before
        if not threads and left <= 0:
            return
        assert time.monotonic() < deadline, (threads, left)
        time.sleep(0.01)


def get(url: str | Target, directory: Path, **options: Any) -> Result:
    options = {"retries": 0, "longest_wait": 0.01, "journal": directory / DB, "segments": 1, **options}
    result: Result = noria.run(download(url, directory, **options))
    return result


RUNNERS: list[Callable[[Any], Any]] = [noria.run, asyncio.run]
try:
    import uvloop

    RUNNERS.append(uvloop.run)
    uvloop.run(asyncio.sleep(0))  # it opens a pipe for the rest of the process
except ImportError:
    pass


@pytest.mark.parametrize("run", RUNNERS, ids=lambda run: run.__module__.partition(".")[0])
def test_it_is_the_same_file_and_the_connection_serves_on(
    faults: FaultServer, tmp_path: Path, intakes: list[tuple[int, int]], run: Callable[[Any], Any]
) -> None:
    connections = set()

    async def twice(exchange: Exchange) -> None:
        connections.add(exchange.writer)
        while True:
            await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
            if exchange.number == 2 or len(connections) > 1:
                return
            exchange.number += 1
            await asyncio.wait_for(_request(exchange), 10)

    async def _request(exchange: Exchange) -> None:
        transport: Any = exchange.writer.transport
        reader = transport.get_protocol()._stream_reader
        await reader.readuntil(b"\r\n\r\n")

    async def main() -> None:
        async with Downloader(tmp_path, segments=1) as downloader:
            for name in ("a", "b"):
                result = await downloader.download(Target(faults.on("/x", twice), name=name))
                assert (result.ok, result.size) == (True, len(BODY))

    run(main())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == BODY
    assert len(connections) == 1
    assert len(intakes) == 2
    assert all(offset >= 0 and offset + size == len(BODY) for offset, size in intakes)


@pytest.mark.parametrize("journal", [True, False])
@pytest.mark.parametrize("cut", [1, 4_900_000, len(BODY) - 1])
def test_what_a_broken_connection_brought_is_gone_on_with(
    faults: FaultServer, tmp_path: Path, journal: bool, cut: int
) -> None:
    asked = []

    async def answer(exchange: Exchange) -> None:
        asked.append(exchange.headers.get("range"))
        await ranged(body=lambda n: BODY, cut=lambda n: cut if n == 1 else None)(exchange)

    options = {} if journal else {"journal": None}
    result = get(faults.on("/x", answer), tmp_path, retries=1, **options)
    assert (result.ok, result.attempts) == (True, 2)
    assert (tmp_path / "x").read_bytes() == BODY
    # One byte is asked for again, see fetch.py.
    assert asked == [None, None if cut == 1 else f"bytes={cut - 1}-"]


def test_a_reset_leaves_what_came_before_it(faults: FaultServer, tmp_path: Path) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(
            b'HTTP/1.1 200 OK\r\nETag: "v"\r\nContent-Length: 6291456\r\n\r\n' + BODY[:5_000_000]
        )
        await asyncio.sleep(0.3)
        exchange.reset()

    result = get(faults.on("/x", answer), tmp_path)
    assert not result.ok
    part = (tmp_path / "x.part").read_bytes()
    assert str(result.error) == f"transfer closed with {len(part)} of 6291456 bytes received"
    assert 0 < len(part) <= 5_000_000
    assert part == BODY[: len(part)]


def test_segments_are_brought_side_by_side(
    faults: FaultServer, tmp_path: Path, intakes: list[tuple[int, int]]
) -> None:
    body = os.urandom(20_000_000)
    url = faults.on("/x", ranged(body=lambda n: body))
    result = get(url, tmp_path, segments=4)
    assert (result.ok, result.size) == (True, len(body))
    assert (tmp_path / "x").read_bytes() == body
    assert len(faults.seen) == 4
    assert len(intakes) >= 3


def test_silence_is_a_stall(faults: FaultServer, tmp_path: Path) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(
            b'HTTP/1.1 200 OK\r\nETag: "v"\r\nContent-Length: 6291456\r\n\r\n' + BODY[:5_000_000]
        )
        await exchange.hang()

    began = time.monotonic()
    result = get(faults.on("/x", answer), tmp_path, stall_timeout=0.5)
    assert not result.ok
    assert str(result.error) == "stalled: no data for 0.5 s"
    assert time.monotonic() - began > 0.5
    assert (tmp_path / "x.part").read_bytes() == BODY[:5_000_000]


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_who_stops_it_keeps_what_has_come(faults: FaultServer, tmp_path: Path, how: str) -> None:
    arrived = threading.Event()

    async def answer(exchange: Exchange) -> None:
        if exchange.number > 1:
            await ranged(body=lambda n: BODY)(exchange)
            return
        await exchange.send(
            b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: 6291456\r\n\r\n' + BODY[:5_000_000]
        )
        arrived.set()
        await exchange.hang()

    url = faults.on("/x", answer)

    async def cancelled() -> None:
        downloading = asyncio.create_task(download(url, tmp_path, journal=tmp_path / DB, segments=1))
        await asyncio.to_thread(arrived.wait, 10)
        await asyncio.sleep(0.3)
        downloading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await downloading

    if how == "cancel":
        noria.run(cancelled())
    else:
        result = get(url, tmp_path, timeout=1.0)
        assert str(result.error) == "not complete after 1 s"
    assert (tmp_path / "x.part").stat().st_size == 5_000_000
    again = get(url, tmp_path)
    assert (again.ok, again.resumed) == (True, 4_999_999)
    assert (tmp_path / "x").read_bytes() == BODY


@pytest.mark.parametrize("how", ["checksum", "rate", "small", "chunked"])
def test_what_goes_the_ordinary_way(
    faults: FaultServer, tmp_path: Path, intakes: list[tuple[int, int]], how: str
) -> None:
    body = BODY[:1_000_000] if how == "small" else BODY

    async def answer(exchange: Exchange) -> None:
        if how == "chunked":
            await exchange.send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body)
                + body
                + b"\r\n0\r\n\r\n"
            )
        else:
            await exchange.reply(body)

    url = faults.on("/x", answer)
    target: str | Target = url
    if how == "checksum":
        target = Target(url, checksum="sha256:" + hashlib.sha256(body).hexdigest())
    result = get(target, tmp_path, rate=50_000_000 if how == "rate" else None)
    assert result.ok, result.error
    assert (tmp_path / "x").read_bytes() == body
    assert not intakes


# The thread's part by itself.


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def run_in_thread(intake: Intake) -> tuple[threading.Thread, list[tuple[str, int]]]:
    endings: list[tuple[str, int]] = []
    thread = threading.Thread(target=lambda: endings.append(intake.run()), name=THREADS)
    thread.start()
    return thread, endings


def test_a_full_disk_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    with open("/dev/full", "wb") as full:
        intake = Intake(pair[0].fileno(), full.fileno(), 0, 100)
    pair[1].send(b"x")
    assert intake.run() == ("unwritten", errno.ENOSPC)
    assert intake.received == 0


def test_a_full_disk_fails_the_download_and_leaves_no_part(
    faults: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own answer: this file cannot be written at the place where the body belongs."""

    def intake(self: Any, source: int, offset: int, size: int, stall: float | None) -> Intake:
        with open("/dev/full", "wb") as full:
            return Intake(source, full.fileno(), offset, size, stall)

    monkeypatch.setattr(direct.PartFile, "intake", intake)

    async def answer(exchange: Exchange) -> None:
        await exchange.reply(BODY)

    result = get(faults.on("/x", answer), tmp_path)
    assert "No space left on device" in str(result.error)
    assert not list(tmp_path.glob("x*"))


def test_stopping_comes_through_whenever_it_comes(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    with open(tmp_path / "x", "w+b") as file:
        before = Intake(pair[0].fileno(), file.fileno(), 0, 100)
        before.stop()
        assert before.run() == ("stopped", 0)
        with pytest.raises(RuntimeError, match="runs once"):
            before.run()
        waiting = Intake(pair[0].fileno(), file.fileno(), 3, 100)
        thread, endings = run_in_thread(waiting)
        pair[1].send(b"abc")
        while waiting.received < 3:
            time.sleep(0.001)
        waiting.stop()
        waiting.stop()
        thread.join(5)
        assert endings == [("stopped", 0)]
        waiting.stop()  # and after its end too
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 6
        assert file.read() == b""
    assert (tmp_path / "x").read_bytes() == b"\0\0\0abc"


def test_it_takes_no_byte_of_what_follows(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    pair[1].send(b"0123456789")
    with open(tmp_path / "x", "wb") as file:
        assert Intake(pair[0].fileno(), file.fileno(), 0, 4).run() == ("whole", 0)
        assert pair[0].recv(100) == b"456789"
        assert Intake(pair[0].fileno(), file.fileno(), 0, 0).run() == ("whole", 0)
        pair[1].close()
        assert Intake(pair[0].fileno(), file.fileno(), 0, 1).run() == ("closed", 0)
    assert (tmp_path / "x").read_bytes() == b"0123"


def test_what_makes_no_sense_is_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ValueError, match="negative"):
        Intake(pair[0].fileno(), pair[1].fileno(), -1, 0)
    with pytest.raises(ValueError, match="negative"):
        Intake(pair[0].fileno(), pair[1].fileno(), 0, -1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Intake(pair[0].fileno(), 1_000_000, 0, 1)
    with pytest.raises(OverflowError):
        Intake(pair[0].fileno(), pair[1].fileno(), 1 << 70, 1)
    unreadable = Intake(pair[0].fileno(), pair[0].fileno(), 0, 1)  # a socket has no place to write at
    pair[1].send(b"x")
    assert unreadable.run() == ("unwritten", errno.ESPIPE)
