"""Streams leave nothing, and lose no wake-up and no byte.

The statements of sync/test_no_leaks.py, about everything in streams that a task can wait for: used as usual, cancelled or
out of time it is gone without the collector; what comes in the turn in which a reader is cancelled, or its time is
up, is there for the next one, once; who waits for room or for the end is woken though another who waits there is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import noria
from support.certs import Authority, Identity
from sync.loops import Run, turns
from sync.test_no_leaks import Refs, cancelled, ends_with, leaves_nothing, no_time, spawned, watch

# What is left.


def new_reader(refs: Refs) -> Any:
    return watch(refs, noria.StreamReader(limit=100))


def reading(*reads: Callable[[Any], Any]) -> Any:
    """A piece that reads in this way from a reader that is fed by hand."""

    async def piece(refs: Refs) -> None:
        for read in reads:
            reader = new_reader(refs)
            reader.feed_data(b"at once\n")
            assert await read(reader) == b"at once\n"
            await cancelled(await spawned(refs, read(reader)))
            await no_time(partial(read, reader), refs)
            task = await spawned(refs, read(reader))
            reader.feed_data(b"in ")
            reader.feed_data(b"time")
            await turns(1)
            reader.feed_data(b"\nmore")
            reader.feed_eof()
            assert (await task).startswith(b"in ")
            assert reader._waiter is None

            failing = new_reader(refs)
            waiting = [await spawned(refs, read(failing))]
            failing.set_exception(ConnectionResetError())
            await ends_with(ConnectionResetError, waiting)
            # asyncio's reader keeps the exception, and with it the frames it was raised through: ours is the test's.
            failing.set_exception(None)

    return piece


async def lines(reader: Any) -> bytes:
    async for line in reader:
        return bytes(line)
    return b""


async def what_ends_too_soon(refs: Refs) -> None:
    for read in (
        lambda r: r.readexactly(10),
        lambda r: r.readuntil(b"x"),
        lambda r: r.readuntil((b"x", b"yy")),
    ):
        reader = new_reader(refs)
        waiting = [await spawned(refs, read(reader))]
        reader.feed_data(b"short")
        reader.feed_eof()
        await ends_with(asyncio.IncompleteReadError, waiting)
        reader = new_reader(refs)
        reader.feed_data(bytes(1000))
        await ends_with(asyncio.LimitOverrunError, [reader.readuntil(b"x")])
        await ends_with(ValueError, [reader.readline()])


async def echo(reader: Any, writer: Any) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def connections(refs: Refs) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        note(refs, reader, writer)
        await echo(reader, writer)

    server = await noria.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for _ in range(2):
        reader, writer = await noria.open_connection(*address)
        note(refs, reader, writer)
        writer.writelines([b"hello", b"\n"])
        await writer.drain()
        assert await reader.readline() == b"hello\n"
        await cancelled(await spawned(refs, reader.read(1)))
        await no_time(partial(reader.readexactly, 1), refs)
        await cancelled(await spawned(refs, writer.wait_closed()))
        await no_time(writer.wait_closed, refs)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        del reader, writer
    server.close()
    await server.wait_closed()


def note(refs: Refs, reader: Any, writer: Any) -> None:
    watch(refs, reader, writer, writer._protocol)
    if isinstance(asyncio.get_running_loop(), noria.Loop):
        watch(refs, writer.transport)


async def opening_that_is_cancelled(refs: Refs) -> None:
    server = await noria.start_server(echo, "127.0.0.1", 0)
    task = asyncio.create_task(noria.open_connection(*server.sockets[0].getsockname()))
    await turns(1)
    await cancelled(task)
    server.close()
    await server.wait_closed()
    await settled()


async def settled() -> None:
    """Until the tasks of a server have ended."""
    while len(asyncio.all_tasks()) > 2:  # the test's, and the one that watches over it
        await asyncio.sleep(0.001)
    await turns(3)


async def draining(refs: Refs) -> None:
    accepted: list[Any] = []
    server = await noria.start_server(lambda *ends: accepted.extend(ends), "127.0.0.1", 0)
    _, writer = await noria.open_connection(*server.sockets[0].getsockname())
    size = 0
    while writer.transport.get_write_buffer_size() == 0:
        writer.write(bytes(300_000))
        size += 300_000
    # More than the server, which reads ahead, and the buffers of a connection that is read take in the turns to come.
    writer.write(bytes(16_000_000))
    size += 16_000_000
    writer.transport.set_write_buffer_limits(high=0)
    writer.write(b"x")
    first, second = [await spawned(refs, writer.drain()) for _ in range(2)]
    await cancelled(first)
    await no_time(writer.drain, refs)
    while not accepted:
        await turns(1)
    await accepted[0].readexactly(size + 1)
    await second
    for each in (writer, accepted.pop()):
        each.close()
        await each.wait_closed()
    server.close()
    await server.wait_closed()
    del each
    accepted.clear()


async def communicating(refs: Refs) -> None:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), noria.subprocess.PIPE)
    process: Any = watch(refs, await noria.create_subprocess_exec("cat", **pipes))
    watch(refs, process.stdin, process.stdout, process.stderr)
    assert await process.communicate(b"there and back") == (b"there and back", b"")
    process = await noria.create_subprocess_exec("cat", **pipes)
    watch(refs, process, process.stdin, process.stdout, process.stderr)
    await cancelled(asyncio.create_task(process.stdout.read()))
    await ends_with(TimeoutError, [noria.wait_for(process.stdout.readline(), 0.001)])
    waiting = [asyncio.create_task(process.wait())]
    await turns(2)
    await cancelled(waiting)
    process.kill()
    await process.communicate()
    del process


PIECES: dict[str, Any] = {
    "read": reading(lambda reader: reader.read(50)),
    "readexactly": reading(lambda reader: reader.readexactly(8)),
    "readline": reading(lambda reader: reader.readline(), lines),
    "readuntil": reading(
        lambda reader: reader.readuntil(), lambda reader: reader.readuntil((b"\n", b"\r\n"))
    ),
    "ends too soon": what_ends_too_soon,
    "open_connection and start_server": connections,
    "a cancelled open_connection": opening_that_is_cancelled,
    "drain": draining,
    "communicate": communicating,
}


CONNECTIONS = {"open_connection and start_server", "a cancelled open_connection", "drain"}


@pytest.mark.parametrize("name", PIECES)
def test_nothing_is_left_and_nothing_is_for_the_collector(name: str, run: Run) -> None:
    async def main() -> None:
        # asyncio's own connections are another matter: before 3.13 they need the collector, and of one whose opening was
        # cancelled the server's end stays open.
        own = isinstance(asyncio.get_running_loop(), noria.Loop)
        if own or (
            name not in CONNECTIONS if sys.version_info < (3, 13) else name != "a cancelled open_connection"
        ):
            await leaves_nothing(PIECES[name], repeat=10)

    run(main())


def test_start_tls_leaves_nothing(run: Run, ca: Authority, identity: Identity) -> None:
    async def piece(refs: Refs) -> None:
        async def serve(reader: Any, writer: Any) -> None:
            note(refs, reader, writer)
            await reader.readline()
            writer.write(b"go on\n")
            await writer.start_tls(ca.server_context(identity))
            await echo(reader, writer)

        server = await noria.start_server(serve, "127.0.0.1", 0)
        reader, writer = await noria.open_connection(*server.sockets[0].getsockname())
        note(refs, reader, writer)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go on\n"
        await writer.start_tls(ca.client_context(), server_hostname="localhost")
        note(refs, reader, writer)
        writer.write(b"secret\n")
        assert await reader.readline() == b"secret\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        del reader, writer
        await settled()

    async def main() -> None:
        # The standard library's TLS, on asyncio's loop, is not what is asked about: it makes cycles.
        own = isinstance(asyncio.get_running_loop(), noria.Loop)
        if own:
            await leaves_nothing(piece, repeat=5)
        else:
            await piece([])

    run(main())


# Bytes that come together with a cancellation or a deadline.

READS: dict[str, Callable[[Any], Any]] = {
    "read": lambda reader: reader.read(100),
    "read to the end": lambda reader: reader.read(),
    "readexactly": lambda reader: reader.readexactly(5),
    "readline": lambda reader: reader.readline(),
    "readuntil": lambda reader: reader.readuntil(b"e\n"),
    "readuntil one of several": lambda reader: reader.readuntil((b"\r\n", b"\n")),
    "async for": lines,
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("script", [("feed", "cancel"), ("cancel", "feed")], ids=" then ".join)
def test_what_comes_as_a_reader_is_cancelled_is_there_for_the_next(name: str, script: Any, run: Run) -> None:
    async def main() -> None:
        for ends in (False, True):
            reader: Any = noria.StreamReader()
            task = asyncio.create_task(READS[name](reader))
            await turns(1)
            for step in script:
                if step == "cancel":
                    task.cancel()
                else:
                    reader.feed_data(b"line\n")
                    if ends:
                        reader.feed_eof()
            await turns(3)
            assert task.cancelled()
            assert reader._waiter is None
            if not ends:
                again = asyncio.create_task(READS[name](reader))
                await turns(1)
                reader.feed_eof()
            else:
                again = asyncio.create_task(READS[name](reader))
            assert await again == b"line\n"
            assert reader.at_eof()

    run(main())


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("first", ["the bytes", "the deadline"])
@pytest.mark.parametrize("way", ["wait_for", "timeout"])
def test_what_comes_as_the_time_is_up_is_read_or_there_for_the_next(
    name: str, first: str, way: str, run: Run
) -> None:
    """Both timers are due before the loop looks at them, so they run in one turn, in the order of their times."""

    async def limited(reader: Any) -> bytes | None:
        with contextlib.suppress(TimeoutError):
            if way == "wait_for":
                return bytes(await noria.wait_for(READS[name](reader), 0.02))
            async with noria.timeout(0.02):
                return bytes(await READS[name](reader))
        return None

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reader: Any = noria.StreamReader()
        began = loop.time()
        task = asyncio.create_task(limited(reader))
        await turns(1)
        loop.call_at(
            began + 0.001 if first == "the bytes" else loop.time() + 0.021, reader.feed_data, b"line\n"
        )
        time.sleep(0.025)  # noqa: ASYNC251  both times are to have come
        got = await task
        await turns(3)
        if first == "the deadline":
            assert got is None
        reader.feed_eof()
        assert (got or b"") + await reader.read() == b"line\n"
        assert reader._waiter is None

    run(main())


@pytest.mark.parametrize("script", [("room", "cancel"), ("cancel", "room")], ids=" then ".join)
@pytest.mark.parametrize("end", ["resume", "lost", "broken"])
def test_all_who_drain_are_woken_though_one_is_cancelled_in_that_turn(
    end: str, script: Any, run: Run
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for victim in range(3):
            protocol: Any = noria.StreamReaderProtocol(noria.StreamReader(), loop=loop)
            protocol.pause_writing()
            tasks = [asyncio.create_task(protocol._drain_helper()) for _ in range(3)]
            await turns(1)
            for step in script:
                if step == "cancel":
                    tasks[victim].cancel()
                elif end == "resume":
                    protocol.resume_writing()
                else:
                    protocol.connection_lost(None if end == "lost" else BrokenPipeError())
            await turns(3)
            assert [task.cancelled() for task in tasks] == [n == victim for n in range(3)]
            others = [task.exception() for n, task in enumerate(tasks) if n != victim]
            assert [type(error) for error in others] == [
                BrokenPipeError if end == "broken" else type(None)
            ] * 2
            assert not protocol._drain_waiters

    run(main())


class Closing(asyncio.Transport):
    """A transport that is about to close."""

    def is_closing(self) -> bool:
        return True


@pytest.mark.parametrize("script", [("lost", "cancel"), ("cancel", "lost"), ("cancel", "", "lost")])
@pytest.mark.parametrize("error", [None, ConnectionResetError])
def test_all_who_wait_for_the_end_are_woken_though_one_is_cancelled(
    error: Any, script: Any, run: Run
) -> None:
    """In asyncio they share a future, and the first to be cancelled cancels it for all."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for base in (noria.StreamReaderProtocol, asyncio.StreamReaderProtocol):
            for victim in range(3):
                protocol: Any = base(noria.StreamReader(), loop=loop)
                writer = noria.StreamWriter(Closing(), protocol, None, loop)
                tasks = [asyncio.create_task(writer.wait_closed()) for _ in range(3)]
                await turns(1)
                for step in script:
                    if step == "cancel":
                        tasks[victim].cancel()
                    elif step == "lost":
                        protocol.connection_lost(error and error())
                    else:
                        await turns(3)
                await turns(4)
                assert [task.cancelled() for task in tasks] == [n == victim for n in range(3)]
                others = [task.exception() for n, task in enumerate(tasks) if n != victim]
                assert [type(each) for each in others] == [error or type(None)] * 2
                if error is None:
                    await writer.wait_closed()
                else:
                    with pytest.raises(error):
                        await writer.wait_closed()

    run(main())


def test_waiting_for_a_childs_input_to_close_can_be_cancelled_by_one_alone(run: Run) -> None:
    async def main() -> None:
        process: Any = await noria.create_subprocess_exec(
            sys.executable, "-c", "import sys; sys.stdin.read()", stdin=noria.subprocess.PIPE
        )
        waiting = [asyncio.create_task(process.stdin.wait_closed()) for _ in range(2)]
        await turns(2)
        waiting[0].cancel()
        await turns(2)
        process.stdin.close()
        await waiting[1]
        assert waiting[0].cancelled()
        assert await process.wait() == 0

    run(main())


def test_a_unix_connection_leaves_nothing(run: Run, tmp_path: Path) -> None:
    async def piece(refs: Refs) -> None:
        server = await noria.start_unix_server(echo, tmp_path / "socket")
        reader, writer = await noria.open_unix_connection(tmp_path / "socket")
        note(refs, reader, writer)
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await settled()

    async def main() -> None:
        if isinstance(asyncio.get_running_loop(), noria.Loop) or sys.version_info >= (3, 13):
            await leaves_nothing(piece, repeat=10)
        else:
            await piece([])

    run(main())
