"""Streams over real connections: TCP, Unix-domain sockets, TLS and pipes, on noria's loop and on asyncio's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import socket
import subprocess
import sys
import textwrap
import warnings
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import new_loop, on_noria, reports, until
from net.peers import pattern
from support.certs import Authority, Identity
from sync.loops import Run, turns

Pair = tuple[Any, Any]


@contextlib.asynccontextmanager
async def connection(limit: int = 2**16, **options: Any) -> AsyncIterator[tuple[Pair, Pair]]:
    """Two ends of a TCP connection, the client's and the server's, each (reader, writer)."""
    accepted: asyncio.Future[Pair] = asyncio.get_running_loop().create_future()
    server = await noria.start_server(lambda *ends: accepted.set_result(ends), "127.0.0.1", 0, limit=limit)
    client = await noria.open_connection(*server.sockets[0].getsockname(), limit=limit, **options)
    ends = await accepted
    try:
        yield client, ends
    finally:
        for _, writer in (client, ends):
            writer.close()
        for _, writer in (client, ends):
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await close(server)


async def close(server: Any) -> None:
    """Close a server and wait for its connections, which asyncio's own before 3.12 does not."""
    server.close()
    await server.wait_closed()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    await turns(3)


async def echo(reader: Any, writer: Any) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


# Reading and writing.


def test_what_one_end_writes_the_other_reads_in_every_way(run: Run) -> None:
    async def main() -> None:
        async with connection() as ((_, writer), (reader, _)):
            writer.write(b"line\n")
            writer.writelines([b"exactly", bytearray(b"until;"), memoryview(b"some")])
            assert await reader.readline() == b"line\n"
            assert await reader.readexactly(7) == b"exactly"
            assert await reader.readuntil((b"?", b";")) == b"until;"
            assert await reader.read(100) == b"some"
            writer.write(b"1\n2\n3")
            writer.write_eof()
            assert [line async for line in reader] == [b"1\n", b"2\n", b"3"]
            assert reader.at_eof()
            assert await reader.read() == b""

    run(main())


def test_much_data_comes_through_whole_while_the_reader_is_slow(run: Run) -> None:
    data = pattern(5_000_000)

    async def main() -> None:
        async with connection(limit=1000) as ((_, writer), (reader, _)):

            async def send() -> None:
                for start in range(0, len(data), 100_000):
                    writer.write(data[start : start + 100_000])
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            got = bytearray()
            while piece := await reader.read(7777):
                got += piece
                assert len(reader._buffer) < 600_000
            await sending
            assert got == data

    run(main())


def test_a_reader_that_nobody_reads_from_pauses_the_transport_and_goes_on_when_read(run: Run) -> None:
    async def main() -> None:
        async with connection(limit=100) as ((_, writer), (reader, _)):
            transport = reader._transport
            writer.write(b"x" * 200)
            await until(lambda: len(reader._buffer) == 200)
            assert transport.is_reading()
            writer.write(b"x")
            await until(lambda: len(reader._buffer) == 201)
            assert not transport.is_reading()
            assert len(await reader.readexactly(100)) == 100
            assert not transport.is_reading()
            assert await reader.read(1) == b"x"
            assert transport.is_reading()

    run(main())


def test_who_waits_for_more_than_twice_the_limit_gets_it(run: Run) -> None:
    data = pattern(1_000_000)

    async def main() -> None:
        async with connection(limit=100) as ((_, writer), (reader, _)):
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data

    run(main())


def test_drain_waits_while_the_transport_is_behind_and_all_who_wait_go_on(run: Run) -> None:
    async def main() -> None:
        async with connection() as ((_, writer), (reader, _)):
            writer.transport.set_write_buffer_limits(high=1000)
            size = 0
            while writer.transport.get_write_buffer_size() <= 1000:
                writer.write(bytes(100_000))
                size += 100_000
            waiting = [asyncio.create_task(writer.drain()) for _ in range(3)]
            await turns(3)
            assert not any(task.done() for task in waiting)
            waiting[1].cancel()
            await reader.readexactly(size)
            assert await waiting[0] is await waiting[2] is None
            assert waiting[1].cancelled()

    run(main())


def test_what_can_be_done_at_once_is_done_without_suspending() -> None:
    @on_noria
    async def main() -> None:
        async with connection() as ((_, writer), _):
            reader = noria.StreamReader()
            reader.feed_data(b"line\n12345abcde")
            for coro, result in (
                (reader.readline(), b"line\n"),
                (reader.readexactly(5), b"12345"),
                (reader.read(5), b"abcde"),
                (writer.drain(), None),
            ):
                with pytest.raises(StopIteration) as end:
                    coro.send(None)
                assert end.value.value == result

    main()


def test_what_comes_in_the_size_that_was_asked_for_is_handed_out_itself() -> None:
    @on_noria
    async def main() -> None:
        reader = noria.StreamReader()
        for read in (lambda: reader.read(100), lambda: reader.readexactly(5), reader.readline):
            data = bytes(bytearray(b"1234\n"))
            reader.feed_data(data)
            assert await read() is data

    main()


# Waiting.


def test_a_reader_is_woken_only_when_what_it_waits_for_is_there() -> None:
    @on_noria
    async def main() -> None:
        reader = noria.StreamReader()
        for read, result in ((reader.readline(), b"abcd\n"), (reader.readexactly(5), b"abcd\n")):
            assert read.send(None) is read
            for byte in b"abcd":
                reader.feed_data(bytes([byte]))
                assert not read.done()
            reader.feed_data(b"\n")
            assert read.done()
            with pytest.raises(StopIteration) as end:
                read.send(None)
            assert end.value.value == result

    main()


def test_a_second_who_would_have_to_wait_is_refused(run: Run) -> None:
    async def main() -> None:
        reader = noria.StreamReader()
        first = asyncio.create_task(reader.readexactly(3))
        await turns(1)
        reader.feed_data(b"ab")
        with pytest.raises(RuntimeError) as caught:
            await reader.readline()
        assert str(caught.value) == (
            "readuntil() called while another coroutine is already waiting for incoming data"
        )
        reader.feed_data(b"c")
        assert await first == b"abc"

    run(main())


def test_one_who_is_cancelled_in_the_turn_he_is_woken_has_taken_nothing(run: Run) -> None:
    async def main() -> None:
        for read in ("readline", "read"):
            reader = noria.StreamReader()
            task = asyncio.create_task(getattr(reader, read)())
            await turns(1)
            reader.feed_data(b"a\n")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await reader.readline() == b"a\n"

    run(main())


def test_a_read_to_the_end_that_is_cancelled_loses_nothing(run: Run) -> None:
    async def main() -> None:
        async with connection(limit=10) as ((_, writer), (reader, _)):
            task = asyncio.create_task(reader.read())
            writer.write(b"x" * 1000)
            await until(lambda: len(reader._buffer) == 1000)
            with pytest.raises(RuntimeError, match="another coroutine"):
                await reader.read(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await reader.readexactly(1000) == b"x" * 1000

    run(main())


def test_who_finds_that_somebody_else_was_there_first_waits_on(run: Run) -> None:
    async def main() -> None:
        reader = noria.StreamReader()
        first = asyncio.create_task(reader.read(10))
        await turns(1)
        reader.feed_data(b"taken")
        assert await reader.read(10) == b"taken"
        await turns(2)
        assert not first.done()
        reader.feed_data(b"left")
        assert await first == b"left"

    run(main())


def test_a_connection_that_breaks_is_an_error_for_who_reads_drains_and_waits(run: Run) -> None:
    async def main() -> None:
        async with connection() as ((_, theirs), (reader, writer)):
            reading = asyncio.create_task(reader.readline())
            await turns(1)
            theirs.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )
            theirs.transport.abort()
            with pytest.raises(ConnectionResetError):
                await reading
            for wait in (reader.read, writer.drain, writer.wait_closed):
                with pytest.raises(ConnectionResetError):
                    await wait()

    run(main())


def test_drain_on_a_closed_connection_gives_the_loop_a_turn_and_says_so(run: Run) -> None:
    async def main() -> None:
        async with connection() as ((_, writer), _):
            writer.close()
            assert writer.is_closing()
            with pytest.raises(ConnectionResetError, match="Connection lost"):
                for _ in range(10):
                    writer.write(b"x")
                    await writer.drain()

    run(main())


# Servers.


def test_a_clients_handler_may_be_a_function_or_a_coroutine_function(run: Run) -> None:
    async def main() -> None:
        async def coroutine(reader: Any, writer: Any) -> None:
            writer.write(b"coroutine")
            writer.close()

        def function(reader: Any, writer: Any) -> None:
            writer.write(b"function")
            writer.close()

        for handler in (coroutine, function):
            server = await noria.start_server(handler, "127.0.0.1", 0)
            reader, writer = await noria.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == handler.__name__.encode()
            writer.close()
            await writer.wait_closed()
            await close(server)

    run(main())


def test_an_error_of_a_clients_handler_is_reported_and_closes_the_connection(run: Run) -> None:
    async def main() -> None:
        async def fails(reader: Any, writer: Any) -> None:
            raise ZeroDivisionError

        async def ends(reader: Any, writer: Any) -> None:
            await reader.read()
            raise ZeroDivisionError  # when the connection is lost already

        async def is_cancelled(reader: Any, writer: Any) -> None:
            raise asyncio.CancelledError

        for handler, expected in ((fails, True), (ends, True), (is_cancelled, False)):
            with reports() as seen:
                server = await noria.start_server(handler, "127.0.0.1", 0)
                reader, writer = await noria.open_connection(*server.sockets[0].getsockname())
                if handler is ends:
                    writer.close()
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()
                await close(server)
                await until(lambda expected=expected, seen=seen: bool(seen) >= expected)
            assert len(seen) == expected
            for report in seen:
                assert report["message"] == "Unhandled exception in client_connected_cb"
                assert isinstance(report["exception"], ZeroDivisionError)
                assert report["transport"].is_closing()

    run(main())


def test_a_handler_and_its_streams_live_although_nobody_refers_to_them(run: Run) -> None:
    async def main() -> None:
        server = await noria.start_server(echo, "127.0.0.1", 0)
        reader, writer = await noria.open_connection(*server.sockets[0].getsockname())
        for _ in range(3):
            gc.collect()
            writer.write(b"still there?")
            assert await reader.readexactly(12) == b"still there?"
        writer.close()
        await writer.wait_closed()
        await close(server)

    run(main())


def test_streams_over_unix_sockets(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "socket")
        server = await noria.start_unix_server(echo, path)
        reader, writer = await noria.open_unix_connection(path)
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        writer.close()
        await writer.wait_closed()
        await close(server)

    run(main())


# TLS.


def test_streams_over_tls(run: Run, ca: Authority, identity: Identity) -> None:
    data = pattern(1_000_000)

    async def main() -> None:
        server = await noria.start_server(echo, "127.0.0.1", 0, ssl=ca.server_context(identity))
        reader, writer = await noria.open_connection(
            *server.sockets[0].getsockname(), ssl=ca.client_context(), server_hostname="localhost"
        )
        assert not writer.can_write_eof()
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.write(b"line\nmore")
        assert await reader.readline() == b"line\n"
        assert await reader.readexactly(4) == b"more"
        writer.close()
        await writer.wait_closed()
        await close(server)

    run(main())


def test_start_tls_in_the_middle_of_a_conversation(run: Run, ca: Authority, identity: Identity) -> None:
    async def main() -> None:
        async def serve(reader: Any, writer: Any) -> None:
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go on\n")
            await writer.start_tls(ca.server_context(identity))
            await echo(reader, writer)

        server = await noria.start_server(serve, "127.0.0.1", 0)
        reader, writer = await noria.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go on\n"
        plain = writer.transport
        await writer.start_tls(ca.client_context(), server_hostname="localhost")
        assert writer.transport is not plain
        assert writer.get_extra_info("sslcontext") is not None
        data = pattern(500_000)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await writer.wait_closed()
        await close(server)

    run(main())


# Pipes.


@pytest.mark.parametrize("why", ["cancelled", "out of time"])
def test_a_start_tls_that_comes_to_nothing_ends_the_streams(why: str, run: Run, ca: Authority) -> None:
    # The other end says nothing. In asyncio whoever reads or waits for the end of such a connection hangs.
    async def main() -> None:
        async with connection() as ((reader, writer), _):
            context = ca.client_context()
            if why == "cancelled":
                starting = asyncio.ensure_future(writer.start_tls(context, server_hostname="localhost"))
                await turns(5)
                starting.cancel()
                await asyncio.wait([starting])
                assert starting.cancelled()
            else:
                with pytest.raises(ConnectionAbortedError):
                    await writer.start_tls(context, server_hostname="localhost", ssl_handshake_timeout=0.01)
            assert writer.is_closing()
            for wait in (reader.read, reader.readline, writer.drain, writer.wait_closed):
                with pytest.raises(ConnectionAbortedError, match="start_tls|handshake"):
                    await asyncio.wait_for(wait(), 10)

    run(main())


def test_a_start_tls_with_a_wrong_argument_leaves_the_connection_as_it_is(run: Run) -> None:
    async def main() -> None:
        async with connection() as ((reader, _), (_, writer)):
            with pytest.raises(TypeError):
                await writer.start_tls("not a context")
            writer.write(b"line\n")
            assert await reader.readline() == b"line\n"

    run(main())


def test_streams_over_pipes(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        output, input_ = os.pipe()
        reader = noria.StreamReader()
        protocol = noria.StreamReaderProtocol(reader)
        readable, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(output, "rb", 0))
        writable, pauses = await loop.connect_write_pipe(
            lambda: noria.StreamReaderProtocol(None), os.fdopen(input_, "wb", 0)
        )
        writer = noria.StreamWriter(writable, pauses, None, loop)
        data = pattern(300_000)
        writer.write(data + b"last line\n")
        sending = asyncio.create_task(writer.drain())
        assert await reader.readexactly(len(data)) == data
        assert await reader.readline() == b"last line\n"
        await sending
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""
        readable.close()

    run(main())


# Programs' classes, and others'.


def test_methods_that_a_subclass_overrides_are_called(run: Run) -> None:
    class Reader(noria.StreamReader):
        fed = 0

        def feed_data(self, data: Any) -> None:
            self.fed += len(data)
            super().feed_data(data)

        async def readuntil(self, separator: Any = b"\n") -> bytes:
            return (await super().readuntil(separator)).upper()

    class Protocol(noria.StreamReaderProtocol):
        received = 0
        made = 0

        def connection_made(self, transport: Any) -> None:
            self.made += 1
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            self.received += len(data)
            super().data_received(data)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await noria.start_server(echo, "127.0.0.1", 0)
        for reader_type, protocol_type in (
            (Reader, noria.StreamReaderProtocol),
            (noria.StreamReader, Protocol),
        ):
            reader = reader_type()
            protocol = protocol_type(reader)
            transport, _ = await loop.create_connection(
                lambda protocol=protocol: protocol, *server.sockets[0].getsockname()
            )
            writer = noria.StreamWriter(transport, protocol, reader, loop)
            writer.write(b"line\nline\nmore\n" * 2)
            if isinstance(reader, Reader):
                assert await reader.readline() == b"LINE\n"
                assert await anext(reader) == b"LINE\n"
                assert len(await reader.readexactly(20)) == 20
                assert reader.fed == 30
            else:
                assert await reader.readexactly(30) == b"line\nline\nmore\n" * 2
                assert (protocol.received, protocol.made) == (30, 1)
            writer.close()
            await writer.wait_closed()
        await close(server)

    run(main())


def test_standard_and_own_streams_mix(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await noria.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for readers, protocols, writers in (
            (noria, asyncio, noria),
            (asyncio, noria, noria),
            (noria, noria, asyncio),
            (asyncio, asyncio, noria),
        ):
            reader: Any = readers.StreamReader()
            protocol = protocols.StreamReaderProtocol(reader)
            transport, _ = await loop.create_connection(lambda protocol=protocol: protocol, *address)
            writer = writers.StreamWriter(transport, protocol, reader, loop)
            writer.write(b"hello\n")
            await writer.drain()
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()
        await close(server)

    run(main())


def test_programs_may_put_another_transport_under_the_streams(
    run: Run, ca: Authority, identity: Identity
) -> None:
    """The way to TLS before StreamWriter.start_tls, which many programs go."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def serve(reader: Any, writer: Any) -> None:
            await reader.readline()
            writer.write(b"go on\n")
            await writer.start_tls(ca.server_context(identity))
            await echo(reader, writer)

        server = await noria.start_server(serve, "127.0.0.1", 0)
        reader, writer = await noria.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        await reader.readline()
        secured = await loop.start_tls(
            writer._transport, writer._protocol, ca.client_context(), server_hostname="localhost"
        )
        writer._transport = reader._transport = secured
        writer._protocol._over_ssl = True
        assert writer.transport is secured
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        writer.close()
        await writer.wait_closed()
        await close(server)

    run(main())


def test_they_pass_for_asyncios_and_for_coroutines() -> None:
    @on_noria
    async def main() -> None:
        async with connection() as ((reader, writer), _):
            assert isinstance(reader, asyncio.StreamReader)
            assert isinstance(writer, asyncio.StreamWriter)
            assert isinstance(writer._protocol, asyncio.StreamReaderProtocol)
            assert isinstance(writer._protocol, asyncio.Protocol)
            assert not isinstance(writer._protocol, asyncio.BufferedProtocol)
            for method in (reader.read, reader.readexactly, reader.readline, reader.readuntil, writer.drain):
                assert asyncio.iscoroutinefunction(method)
            drain = writer.drain()
            assert asyncio.iscoroutine(drain)
            assert inspect.isawaitable(drain)
            await drain
            reader.colour = writer.colour = writer._protocol.colour = "green"
            assert reader.colour == writer.colour == writer._protocol.colour
            assert weakref.ref(reader)() is reader
            assert weakref.ref(writer)() is writer

    main()


def test_what_is_not_awaited_warns() -> None:
    with new_loop() as loop:
        reader = noria.StreamReader(loop=loop)
        with pytest.warns(RuntimeWarning, match=r"coroutine 'StreamReader.readline' was never awaited"):
            reader.readline()


# What is left behind.


def test_a_connection_is_freed_without_the_collector(run: Run) -> None:
    async def main() -> None:
        gone: list[Callable[[], object]] = []

        async def serve(reader: Any, writer: Any) -> None:
            gone.extend(weakref.ref(thing) for thing in (reader, writer, writer._protocol, writer.transport))
            await echo(reader, writer)

        server = await noria.start_server(serve, "127.0.0.1", 0)
        reader, writer = await noria.open_connection(*server.sockets[0].getsockname())
        gone.extend(weakref.ref(thing) for thing in (reader, writer, writer._protocol))
        if isinstance(asyncio.get_running_loop(), noria.Loop):
            gone.append(weakref.ref(writer.transport))
        writer.write(b"hello\n")
        await reader.readline()
        writer.close()
        await writer.wait_closed()
        del reader, writer
        await close(server)
        own = isinstance(asyncio.get_running_loop(), noria.Loop)
        left = [ref() for ref in gone if own or not isinstance(ref(), asyncio.Transport)]
        assert not any(thing is not None for thing in left), left

    gc.collect()
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_a_writer_that_is_forgotten_warns_and_closes_the_connection(run: Run) -> None:
    async def main() -> None:
        async with connection() as ((reader, writer), (theirs, _)):
            transport = writer.transport
            again = noria.StreamWriter(transport, writer._protocol, reader, asyncio.get_running_loop())
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                del again
            (warning,) = seen
            assert str(warning.message).startswith("unclosed <StreamWriter transport=<")
            assert transport.is_closing()
            assert await theirs.read() == b""

    run(main())


def test_a_connection_that_a_client_forgets_is_collected_and_closed(run: Run) -> None:
    async def main() -> None:
        server = await noria.start_server(echo, "127.0.0.1", 0)
        ends = await noria.open_connection(*server.sockets[0].getsockname())
        refs = [weakref.ref(end) for end in ends]
        with pytest.warns(ResourceWarning, match="unclosed"):
            del ends
            gc.collect()
        await turns(5)
        assert all(ref() is None for ref in refs)
        await close(server)

    run(main())


def test_a_program_with_connections_open_at_its_end_ends_in_peace() -> None:
    program = textwrap.dedent("""
        import noria
        async def main():
            global ends
            server = await noria.start_server(lambda reader, writer: reader.read(), "127.0.0.1", 0)
            ends = await noria.open_connection(*server.sockets[0].getsockname())
            ends[1].write(b"x" * 100)
            await ends[1].drain()
            print("done")
        noria.run(main())
    """)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == "done\n"
    assert "Traceback" not in ended.stderr, ended.stderr
