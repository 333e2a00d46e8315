"""Random use of a StreamReader: noria's does what asyncio's does.

A machine of hypothesis feeds chunks, ends the stream or breaks it, starts tasks that read in every way there is, cancels
them, and turns the loop, in three worlds at a time: asyncio's reader on asyncio's loop, noria's on noria's, and noria's
on asyncio's. When the loop has come to rest the results of the tasks and the turn of the loop in which each came, the
buffer, and whether the transport is paused must be the same.

Where noria does otherwise on purpose (reader.pyx says where) the machine does not go: one task reads at a time until it is
done, except that a second one may try and be refused while there is nothing to take; and a `read(-1)` is not cancelled.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import noria

LIMIT = 8
TURNS = 4  # after which nothing moves any more


class Transport(asyncio.Transport):
    """Notes whether it is paused. A real one would add chance: what is compared here is the reader."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False


class World:
    """A reader on a loop, and what its tasks came to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, aio: Any) -> None:
        self.loop = loop
        self.transport = Transport()
        self.reader = aio.StreamReader(limit=LIMIT, loop=loop)
        self.reader.set_transport(self.transport)
        self.turns = 0
        self.results: list[tuple[object, ...]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, read: Callable[[Any], Any]) -> None:
        self.tasks.append(self.loop.create_task(self.record(len(self.tasks), read)))

    async def record(self, number: int, read: Callable[[Any], Any]) -> None:
        try:
            got = await read(self.reader)
            self.note(number, type(got), got)
        except asyncio.IncompleteReadError as error:
            self.note(number, "incomplete", error.partial, error.expected, str(error))
        except asyncio.LimitOverrunError as error:
            self.note(number, "limit", error.consumed, str(error))
        except asyncio.CancelledError:
            self.note(number, "cancelled")
            raise
        except Exception as error:
            self.note(number, type(error), str(error))

    def note(self, number: int, *result: object) -> None:
        self.results.append((self.turns, number, *result))

    def turn(self, count: int) -> None:
        async def turns() -> None:
            for _ in range(count):
                self.turns += 1
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def state(self) -> tuple[object, ...]:
        reader = self.reader
        return (
            self.results,
            [task.done() for task in self.tasks],
            bytes(reader._buffer),
            reader.at_eof(),
            repr(reader.exception()),
            self.transport.paused,
            reader._paused,
        )


async def lines(reader: Any) -> list[bytes]:
    return [line async for line in reader]


chunks = st.lists(st.sampled_from([b"a", b"b", b"\n", b"ab", b"\r\n", b"abcde"]), max_size=6).map(b"".join)
separators: st.SearchStrategy[Any] = st.sampled_from([b"\n", b"\r\n", b"ab", b"abc", b""])
if sys.version_info >= (3, 13):  # asyncio's takes several from then on
    separators |= st.sampled_from([(b"\n", b"ab"), (b"ba", b"a\n", b"\r"), ()])
numbers = st.integers(-1, 3 * LIMIT)
KINDS = {
    "readline": lambda n, s: lambda r: r.readline(),
    "readuntil": lambda n, s: lambda r: r.readuntil(s),
    "readexactly": lambda n, s: lambda r: r.readexactly(n),
    "read": lambda n, s: lambda r: r.read(abs(n)),
    "read all": lambda n, s: lambda r: r.read(),
    "lines": lambda n, s: lambda r: lines(r),
}


class Readers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.worlds = [
            World(asyncio.new_event_loop(), asyncio),
            World(noria.new_event_loop(), noria),
            World(asyncio.new_event_loop(), noria),
        ]
        self.ended = False
        self.reading_all = False

    def teardown(self) -> None:
        for world in self.worlds:
            for task in world.tasks:
                task.cancel()
            world.turn(TURNS)
            world.loop.close()

    def busy(self) -> bool:
        return any(not task.done() for task in self.worlds[0].tasks)

    @rule(kind=st.sampled_from(sorted(KINDS)), n=numbers, separator=separators)
    def read(self, kind: str, n: int, separator: Any) -> None:
        if self.busy() and (kind in ("read all", "lines") or self.worlds[0].reader._buffer):
            return  # asyncio's goes on looking for a line where it stopped, though another took bytes away since
        for world in self.worlds:
            world.start(KINDS[kind](n, separator))
            world.turn(TURNS)
        self.reading_all = self.busy() and (self.reading_all or kind in ("read all", "lines"))

    @precondition(lambda self: not self.ended)
    @rule(
        pieces=st.lists(chunks, min_size=1, max_size=3), kind=st.sampled_from([bytes, bytearray, memoryview])
    )
    def feed(self, pieces: list[bytes], kind: Any) -> None:
        for world in self.worlds:
            for piece in pieces:
                world.reader.feed_data(kind(piece))
            world.turn(TURNS)

    @precondition(lambda self: not self.ended)
    @rule(piece=chunks)
    def feed_and_cancel(self, piece: bytes) -> None:
        """The reader is woken and cancelled in the same turn."""
        if self.reading_all:
            return
        for world in self.worlds:
            world.reader.feed_data(piece)
            for task in world.tasks:
                task.cancel()
            world.turn(TURNS)

    @precondition(lambda self: not self.ended)
    @rule(piece=chunks)
    def cancel_and_feed(self, piece: bytes) -> None:
        if self.reading_all:
            return
        for world in self.worlds:
            for task in world.tasks:
                task.cancel()
            world.reader.feed_data(piece)
            world.turn(TURNS)

    @precondition(lambda self: not self.ended)
    @rule(piece=chunks)
    def end(self, piece: bytes) -> None:
        """The last bytes and the end come in the same turn."""
        self.ended = True
        for world in self.worlds:
            world.reader.feed_data(piece)
            world.reader.feed_eof()
            world.turn(TURNS)

    @rule()
    def fail(self) -> None:
        error = ConnectionResetError("gone")
        for world in self.worlds:
            world.reader.set_exception(error)
            world.turn(TURNS)

    @invariant()
    def they_are_in_the_same_state(self) -> None:
        if self.busy() and self.reading_all:
            return  # noria's keeps in its buffer what asyncio's has taken out
        first, *others = (world.state() for world in self.worlds)
        for other in others:
            assert other == first


Readers.TestCase.settings = settings(
    max_examples=40 if sys.flags.dev_mode else 150,  # asyncio's debug mode takes ten times as long
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestReaders = Readers.TestCase
