"""Streams used by hand, piece by piece: noria's say and do what asyncio's of CPython 3.13 do.

Each case is a small program that is run on asyncio's streams and on noria's, on both loops, and must leave the same
account: results, exceptions with their messages and fields, reprs, warnings, what a transport was asked for.

The transport is a plain object, so that a case sees each call made to it; real connections are in test_connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import noria
from sync.loops import turns

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 13), reason="asyncio's streams are others before CPython 3.13"
)


class Account:
    """What a case has seen, in words."""

    def __init__(self, aio: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.aio = aio
        self.loop = loop
        self.lines: list[str] = []

    def note(self, *what: object) -> None:
        self.lines.append(plain(" ".join(map(str, what))))

    async def tell(self, what: Any) -> None:
        """Note what an awaitable, or a function that is called, comes to."""
        try:
            got = what() if callable(what) else what
            if isinstance(got, Awaitable):
                got = await got
        except asyncio.CancelledError:
            self.note("cancelled")
        except asyncio.IncompleteReadError as error:
            self.note("incomplete", repr(error.partial), error.expected, error)
        except asyncio.LimitOverrunError as error:
            self.note("limit", error.consumed, error)
        except BaseException as error:
            self.note(type(error).__name__, error, "from", type(error.__cause__).__name__)
        else:
            self.note(repr(got))

    def reader(self, **options: Any) -> Any:
        return self.aio.StreamReader(loop=self.loop, **options)

    def connected(self, callback: Any = None, **options: Any) -> tuple[Any, Any, Any, Transport]:
        """Reader, writer, protocol and transport."""
        reader = self.reader(**options)
        protocol = self.aio.StreamReaderProtocol(reader, callback, loop=self.loop)
        transport = Transport(self)
        protocol.connection_made(transport)
        return reader, self.aio.StreamWriter(transport, protocol, reader, self.loop), protocol, transport


def plain(text: str) -> str:
    """Without addresses in memory, and without what is known to have another name."""
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    return re.sub(r"\b(noria|asyncio)\.[a-z_.]+\.", "", text)


class Transport(asyncio.Transport):
    def __init__(self, account: Account) -> None:
        super().__init__({"peername": "nobody"})
        self.account = account
        self.closing = False
        self.protocol: Any = None

    def __repr__(self) -> str:
        return "<Transport>"

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True
        self.account.note("close()")

    def abort(self) -> None:
        self.closing = True
        self.account.note("abort()")

    def write(self, data: Any) -> None:
        self.account.note("write", data)

    def writelines(self, data: Any) -> None:
        self.account.note("writelines", list(data))

    def write_eof(self) -> None:
        self.account.note("write_eof")

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.account.note("pause_reading")

    def resume_reading(self) -> None:
        self.account.note("resume_reading")


class Unpausable(Transport):
    def pause_reading(self) -> None:
        self.account.note("cannot be paused")
        raise NotImplementedError


Case = Callable[[Account], Awaitable[None]]
CASES: dict[str, Case] = {}


def case(test: Case) -> Case:
    CASES[test.__name__] = test
    return test


# Readers.


@case
async def limits(a: Account) -> None:
    for limit in (1, 0, -1, 2.5, float("inf")):
        await a.tell(lambda limit=limit: repr(a.reader(limit=limit)))  # type: ignore[misc]
    await a.tell(lambda: a.aio.StreamReader("x"))
    await a.tell(lambda: a.aio.StreamReader(limit=None))
    a.note(a.reader()._limit)


@case
async def reprs(a: Account) -> None:
    reader = a.reader(limit=10)
    a.note(reader)
    reader.feed_data(b"abc")
    a.note(reader)
    reader.set_transport(Transport(a))
    reader.feed_data(bytes(30))
    a.note(reader)
    reader.feed_eof()
    a.note(reader)
    reader.set_exception(ValueError("v"))
    a.note(reader)
    other = a.reader()
    task = asyncio.create_task(other.read(1))
    await turns(1)
    a.note(re.sub("waiter=<.*", "waiter", repr(other)))
    task.cancel()
    await turns(2)
    a.note(other)


@case
async def set_transport_twice(a: Account) -> None:
    reader = a.reader()
    reader.set_transport(Transport(a))
    await a.tell(lambda: reader.set_transport(Transport(a)))


@case
async def feeding(a: Account) -> None:
    reader = a.reader()
    for data in (b"", b"a", bytearray(b"b"), memoryview(b"c"), memoryview(b"")):
        await a.tell(lambda data=data: reader.feed_data(data))  # type: ignore[misc]
        a.note(bytes(reader._buffer), reader.at_eof())
    for wrong in (5, "text", None, 1.5):
        await a.tell(lambda wrong=wrong: a.reader().feed_data(wrong))  # type: ignore[misc]
    reader.feed_eof()
    reader.feed_eof()
    a.note(reader.at_eof())
    await a.tell(lambda: reader.feed_data(b"late"))
    await a.tell(reader.read(2))
    a.note(reader.at_eof())
    await a.tell(reader.read())
    a.note(reader.at_eof())
    await a.tell(reader.read())
    await a.tell(reader.readline())
    await a.tell(reader.readexactly(0))
    await a.tell(reader.readexactly(1))
    await a.tell(reader.readuntil())


@case
async def fed_data_is_copied(a: Account) -> None:
    data = bytearray(b"before")
    reader = a.reader()
    reader.feed_data(data)
    data[:] = b"after!"
    await a.tell(reader.read(10))


@case
async def sizes(a: Account) -> None:
    for n in (0, 1, 3, 100, -1, -5, True):
        reader = a.reader()
        reader.feed_data(b"abc")
        reader.feed_eof()
        await a.tell(reader.read(n))
        await a.tell(reader.readexactly(n))
    reader = a.reader()
    await a.tell(reader.read(0))
    await a.tell(reader.readexactly(0))
    await a.tell(reader.readexactly(-1))


@case
async def exceptions_of_a_reader(a: Account) -> None:
    reader = a.reader()
    a.note(reader.exception())
    reader.feed_data(b"data\n")
    reader.set_exception(ConnectionResetError("gone"))
    a.note(repr(reader.exception()))
    for read in (reader.read, reader.readline, reader.readuntil):
        await a.tell(read)
    await a.tell(reader.readexactly(1))
    await a.tell(reader.readexactly(0))
    await a.tell(reader.readexactly(-1))
    await a.tell(reader.read(0))
    await a.tell(reader.readuntil(b""))
    await a.tell(anext(reader))
    a.note(bytes(reader._buffer))
    reader.set_exception(None)
    await a.tell(reader.readline())


@case
async def an_exception_for_who_waits(a: Account) -> None:
    for read in (
        lambda r: r.read(), lambda r: r.read(5), lambda r: r.readline(), lambda r: r.readexactly(3),
        lambda r: r.readuntil(b"x"), anext,
    ):  # fmt: skip
        for data in (b"", b"a"):
            reader = a.reader()
            task = asyncio.create_task(a.tell(read(reader)))
            await turns(1)
            if data:
                reader.feed_data(data)
                await turns(2)
            reader.set_exception(ConnectionResetError("gone"))
            await task
            a.note(reader._waiter)


@case
async def the_end_and_an_exception(a: Account) -> None:
    reader = a.reader()
    task = asyncio.create_task(a.tell(reader.readline()))
    await turns(1)
    reader.feed_eof()
    reader.set_exception(ValueError("after the end"))
    await task
    await a.tell(reader.read())


@case
async def lines(a: Account) -> None:
    reader = a.reader(limit=5)
    reader.feed_data(b"12345\n123456\nab\n\ncd")
    for _ in range(3):
        await a.tell(reader.readline())
    a.note([line async for line in reader] if reader.feed_eof() is None else "")
    await a.tell(anext(reader))
    reader = a.reader(limit=5)
    reader.feed_data(b"1234567")
    await a.tell(reader.readline())
    a.note(bytes(reader._buffer))
    reader.feed_data(b"\nnext\n")
    await a.tell(reader.readline())
    await a.tell(reader.readline())


@case
async def iterating_over_too_long_a_line(a: Account) -> None:
    reader = a.reader(limit=3)
    reader.feed_data(b"abcdef\nok\n")
    reader.feed_eof()
    await a.tell(anext(reader))
    await a.tell(anext(reader))
    await a.tell(anext(reader))
    a.note(aiter(reader) is reader)


async def until(a: Account, separator: Any) -> None:
    """What readuntil says of a short stream that has ended."""
    reader = a.reader(limit=8)
    reader.feed_data(b"xxab\nyy")
    reader.feed_eof()
    try:
        got = await reader.readuntil(separator)
    except (ValueError, asyncio.IncompleteReadError) as error:
        got = repr(error)
    except TypeError:
        got = "TypeError"
    a.note(separator, got, bytes(reader._buffer))


@case
async def separators(a: Account) -> None:
    for separator in (b"\n", b"ab", b"", bytearray(b"ab"), memoryview(b"ab"), "x", 5, None):
        await until(a, separator)


@case
async def several_separators(a: Account) -> None:
    for separator in (
        (b"\n",), (b"ab", b"b"), (b"b", b"ab"), (b"xab", b"ab"), (b"zz", b"\n"), (b"", b"a"), (), (b"zz", b"yyyy"),
        (b"a", "b"),
    ):  # fmt: skip
        await until(a, separator)


@case
async def several_separators_and_the_limit(a: Account) -> None:
    for data in (b"123456789", b"12345678\n", b"123456789\n", b"1234567890ab", b"12345678ab"):
        for separator in (b"\n", b"ab", (b"\n", b"ab"), (b"ab", b"long one")):
            reader = a.reader(limit=8)
            reader.feed_data(data)
            task = asyncio.create_task(a.tell(reader.readuntil(separator)))
            await turns(3)
            a.note(data, separator, task.done(), bytes(reader._buffer))
            reader.feed_eof()
            await task


@case
async def a_separator_in_pieces(a: Account) -> None:
    reader = a.reader(limit=8)
    task = asyncio.create_task(a.tell(reader.readuntil(b"abc")))
    for piece in (b"xa", b"b", b"ab", b"c!"):
        await turns(2)
        a.note(task.done())
        reader.feed_data(piece)
    await task
    a.note(bytes(reader._buffer))


@case
async def two_who_wait(a: Account) -> None:
    for read in ("read", "readline", "readuntil"):
        reader = a.reader()
        task = asyncio.create_task(a.tell(getattr(reader, read)()))
        await turns(1)
        await a.tell(reader.readexactly(1))
        await a.tell(reader.read(1))
        await a.tell(reader.readline())
        await a.tell(anext(reader))
        await a.tell(reader._wait_for_data("mine"))
        task.cancel()
        await turns(2)


@case
async def pausing(a: Account) -> None:
    reader = a.reader(limit=4)
    reader.set_transport(Transport(a))
    for data in (b"12345678", b"9", b"0"):
        reader.feed_data(data)
        a.note(reader._paused)
    for n in (1, 4, 1, 1, 3):
        await a.tell(reader.read(n))
        a.note(reader._paused)
    reader = a.reader(limit=4)
    reader.set_transport(Unpausable(a))
    reader.feed_data(bytes(9))
    a.note(reader._paused, reader._transport)
    reader.feed_data(bytes(9))


@case
async def pausing_while_somebody_waits(a: Account) -> None:
    reader = a.reader(limit=4)
    reader.set_transport(Transport(a))
    reader.feed_data(b"123456789")
    task = asyncio.create_task(a.tell(reader.readexactly(12)))
    await turns(2)
    a.note(reader._paused)
    reader.feed_data(b"abc")
    await task
    a.note(reader._paused)
    reader.feed_data(b"123456789")
    await a.tell(reader.readline())
    a.note(reader._paused, bytes(reader._buffer))


# Protocols and writers.


@case
async def what_a_writer_has(a: Account) -> None:
    reader, writer, protocol, transport = a.connected()
    a.note(writer, writer.transport is transport)
    another = a.aio.StreamWriter(transport, protocol, None, a.loop)
    a.note(another)
    a.note(writer.get_extra_info("peername"), writer.get_extra_info("nothing"), writer.get_extra_info("x", 1))
    a.note(writer.can_write_eof(), writer.is_closing())
    a.note(writer.write(b"abc"), writer.writelines([b"d", b"e"]), writer.writelines(iter([b"f"])))
    a.note(writer.write_eof())
    a.note(writer.close(), writer.is_closing())
    await a.tell(lambda: a.aio.StreamWriter(transport, protocol, "no reader", a.loop))
    with contextlib.suppress(AttributeError):
        writer.transport = transport
        a.note("can be set")
    a.note(reader.at_eof())


@case
async def draining(a: Account) -> None:
    reader, writer, protocol, transport = a.connected()
    await a.tell(writer.drain())
    protocol.pause_writing()
    await a.tell(protocol.pause_writing)
    tasks = [asyncio.create_task(a.tell(writer.drain())) for _ in range(2)]
    await turns(3)
    a.note([task.done() for task in tasks])
    protocol.resume_writing()
    await a.tell(protocol.resume_writing)
    await asyncio.wait(tasks)
    reader.set_exception(ValueError("of the reader"))
    await a.tell(writer.drain())
    reader.set_exception(None)
    transport.close()
    await a.tell(writer.drain())
    protocol.connection_lost(None)
    await a.tell(writer.drain())
    await a.tell(protocol._drain_helper())


@case
async def drains_of_a_lost_connection(a: Account) -> None:
    for error in (None, BrokenPipeError("broken")):
        _, writer, protocol, transport = a.connected()
        protocol.pause_writing()
        task = asyncio.create_task(a.tell(writer.drain()))
        await turns(2)
        transport.closing = True
        protocol.connection_lost(error)
        await task
        await a.tell(writer.drain())
        await a.tell(writer.wait_closed())
        await a.tell(writer.wait_closed())


@case
async def a_drain_that_waits_while_it_is_closed(a: Account) -> None:
    _, writer, protocol, transport = a.connected()
    transport.closing = True
    task = asyncio.create_task(a.tell(writer.drain()))
    await turns(1)
    protocol.connection_lost(None)
    await task


@case
async def waiting_for_the_end(a: Account) -> None:
    for error in (None, ConnectionResetError("reset")):
        reader, writer, protocol, transport = a.connected()
        tasks = [asyncio.create_task(a.tell(writer.wait_closed())) for _ in range(2)]
        reading = asyncio.create_task(a.tell(reader.read(1)))
        await turns(2)
        transport.closing = True
        protocol.connection_lost(error)
        await asyncio.wait([*tasks, reading])
        await a.tell(reader.read(1))
        a.note(protocol._closed.done())


@case
async def end_of_what_comes(a: Account) -> None:
    reader, writer, protocol, transport = a.connected()
    protocol.data_received(b"last")
    a.note(protocol.eof_received())
    a.note(reader.at_eof(), bytes(reader._buffer))
    await a.tell(lambda: protocol.data_received(b"more"))
    protocol.connection_lost(None)
    a.note(protocol._stream_reader, protocol._transport)
    a.note(protocol.eof_received())
    a.note(protocol.data_received(b"to nobody"))
    transport.closing = True
    writer.close()


@case
async def a_reader_that_is_gone(a: Account) -> None:
    reader, writer, protocol, transport = a.connected()
    transport.closing = True
    del reader, writer
    gc.collect()
    a.note(protocol._stream_reader)
    protocol.data_received(b"to nobody")
    a.note(protocol.eof_received())
    protocol.connection_lost(None)


@case
async def a_rejected_connection(a: Account) -> None:
    seen: list[dict[str, Any]] = []
    a.loop.set_exception_handler(lambda _, report: seen.append(report))
    protocol = a.aio.StreamReaderProtocol(a.reader(), loop=a.loop)
    protocol._reject_connection = True
    protocol.connection_made(Transport(a))
    a.note([report["message"] for report in seen])


@case
async def callbacks(a: Account) -> None:
    seen: list[dict[str, Any]] = []
    a.loop.set_exception_handler(lambda _, report: seen.append(report))
    event = asyncio.Event()
    kept = []

    def plain_function(reader: Any, writer: Any) -> str:
        a.note("plain", type(reader).__name__, type(writer).__name__)
        kept.append(writer)
        return "ignored"

    async def that_returns(reader: Any, writer: Any) -> str:
        kept.append(writer)
        return "ignored"

    async def that_raises(reader: Any, writer: Any) -> None:
        kept.append(writer)
        raise ValueError("of the callback")

    async def that_waits(reader: Any, writer: Any) -> None:
        kept.append(writer)
        await event.wait()

    def that_raises_at_once(reader: Any, writer: Any) -> None:
        kept.append(writer)
        raise KeyError("at once")

    for callback in (plain_function, that_returns, that_raises, that_waits, that_raises_at_once):
        seen.clear()
        reader = a.reader()
        protocol = a.aio.StreamReaderProtocol(reader, callback, loop=a.loop)
        transport = Transport(a)
        await a.tell(lambda protocol=protocol, transport=transport: protocol.connection_made(transport))  # type: ignore[misc]
        await turns(3)
        a.note(callback.__name__, transport.closing, protocol._strong_reader is None, protocol._task is None)
        if callback is that_waits:
            protocol._task.cancel()
            await turns(3)
            a.note(transport.closing)
        a.note([(report["message"], repr(report["exception"]), report["transport"]) for report in seen])
        transport.closing = True


@case
async def warnings_of_a_forgotten_writer(a: Account) -> None:
    for closing in (False, True):
        _, writer, _, transport = a.connected()
        transport.closing = closing
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            del writer
            gc.collect()
        a.note([(warning.category.__name__, str(warning.message)) for warning in seen])


@case
async def starting_tls(a: Account) -> None:
    made: list[Any] = []

    async def start_tls(transport: Any, protocol: Any, context: Any, **options: Any) -> Any:
        a.note("start_tls", transport, context, sorted(options.items()))
        made.append(Transport(a))
        return made[-1]

    class Loop:
        """The loop, and a start_tls that only says what it was asked for."""

        def __getattr__(self, name: str) -> Any:
            return start_tls if name == "start_tls" else getattr(a.loop, name)

    kept: list[Any] = []
    for callback in (None, lambda *ends: kept.extend(ends)):
        reader = a.reader()
        protocol = a.aio.StreamReaderProtocol(reader, callback, loop=a.loop)
        protocol.connection_made(first := Transport(a))
        writer = a.aio.StreamWriter(first, protocol, reader, Loop())
        first.closing = True
        await a.tell(writer.start_tls("context", server_hostname="name"))
        first.closing = False
        await a.tell(writer.start_tls("context", ssl_handshake_timeout=3))
        a.note(writer.transport is made[-1], protocol._over_ssl, protocol._transport is made[-1])
        first.closing = made[-1].closing = True
        a.note(protocol.eof_received())


@pytest.mark.parametrize("name", CASES)
def test_what_is_done_by_hand_comes_to_the_same(name: str) -> None:
    def account(aio: Any, make: Callable[[], asyncio.AbstractEventLoop]) -> list[str]:
        async def main() -> list[str]:
            account = Account(aio, asyncio.get_running_loop())
            async with asyncio.timeout(30):
                await CASES[name](account)
            return account.lines

        with asyncio.Runner(loop_factory=make) as runner:
            return runner.run(main())

    expected = account(asyncio, asyncio.new_event_loop)
    assert account(noria, noria.new_event_loop) == expected
    assert account(noria, asyncio.new_event_loop) == expected
