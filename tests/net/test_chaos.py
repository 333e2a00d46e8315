"""Connections whose protocols do anything at any moment, from inside every callback, by the dice of a seed.

Whatever they do, each byte that arrives is the next one that was sent, all arrive unless a side closed, connection_lost
comes exactly once after connection_made, nothing is reported, and no descriptor stays open.
"""

import asyncio
import gc
import random
from typing import Any

import pytest

import noria
from core.running import on_noria, turns, until
from net.peers import nothing_left_open, pair, pattern

SIZE = 1 << 20
STREAM = pattern(SIZE, 99) * 2  # what everybody sends, over and over: from any place there is SIZE to take


class Side:
    """One end of a connection: what it has sent and received, whichever protocol it has at the moment."""

    def __init__(self, rng: random.Random, world: "World") -> None:
        self.rng = rng
        self.world = world
        self.sent = 0
        self.received = 0
        self.made = 0
        self.lost = 0
        self.eof = False  # write_eof was called
        self.closed = False  # close or abort was called, or eof_received answered so
        self.ended = 0  # eof_received calls
        self.transport: Any = None

    def next_bytes(self, count: int) -> bytes:
        at = self.sent % SIZE
        self.sent += count
        return STREAM[at : at + count]

    def check(self, data: Any) -> None:
        at = self.received % SIZE
        assert data == STREAM[at : at + len(data)], f"wrong bytes after {self.received}"
        assert not self.ended
        assert not self.lost
        self.received += len(data)

    def new_protocol(self) -> Any:
        return self.rng.choice((Plain, Into))(self)

    def act(self) -> None:
        """Do something, or nothing."""
        rng, transport = self.rng, self.transport
        if self.world.quiet or transport is None or (self.lost and rng.random() < 0.95):
            return
        dice = rng.randrange(100)
        if dice < 30:
            self.write(rng.choice((1, 100, 5000, 100_000)))
        elif dice < 40 and not self.eof:
            transport.writelines(
                [self.next_bytes(rng.choice((0, 3, 4000, 70_000))) for _ in range(rng.randrange(1, 9))]
            )
        elif dice < 48:
            transport.pause_reading()
        elif dice < 62:
            transport.resume_reading()
        elif dice < 66:
            transport.set_protocol(self.new_protocol())
        elif dice < 70:
            transport.set_write_buffer_limits(high=rng.choice((0, 1, 1000, 1_000_000)))
        elif dice < 71 and rng.random() < 0.3:
            self.eof = True
            transport.write_eof()
        elif dice < 72 and rng.random() < 0.1:
            self.closed = True
            rng.choice((transport.close, transport.close, transport.abort))()
        elif dice < 74 and self.world.depth < 3:
            self.world.depth += 1
            noria.run(asyncio.sleep(0))
            self.world.depth -= 1
        elif dice < 76:
            gc.collect(0)
        elif dice < 80:
            asyncio.get_running_loop().call_soon(self.act)
        elif dice < 82:
            asyncio.get_running_loop().call_later(0, self.act)
        elif dice < 84:
            self.act()
            self.act()

    def write(self, count: int) -> None:
        if self.eof:
            return
        data: Any = self.next_bytes(count)
        kind = self.rng.randrange(3)
        if kind == 1:
            data = bytearray(data)
        elif kind == 2:
            data = memoryview(bytearray(data))
        self.transport.write(data)
        if kind == 1:
            data[:] = b"!" * len(data)


class Common(asyncio.BaseProtocol):
    def __init__(self, side: Side) -> None:
        self.side = side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.side.made += 1
        self.side.transport = transport
        self.side.act()

    def eof_received(self) -> bool:
        self.side.ended += 1
        self.side.act()
        stay = self.side.rng.random() < 0.7
        self.side.closed |= not stay
        return stay

    def pause_writing(self) -> None:
        self.side.act()

    def resume_writing(self) -> None:
        self.side.act()

    def connection_lost(self, exc: BaseException | None) -> None:
        assert exc is None or isinstance(exc, OSError)
        self.side.lost += 1
        self.side.act()


class Plain(Common, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.side.check(data)
        self.side.act()


class Into(Common, asyncio.BufferedProtocol):
    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self.buffer = bytearray(side.rng.choice((1000, 20_000, 200_000)))

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.side.check(self.buffer[:nbytes])
        self.side.act()


class World:
    """What all sides of one test share."""

    quiet = False
    depth = 0


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_no_behaviour_of_protocols_breaks_a_connection(kind: str) -> None:
    @on_noria
    async def program() -> None:
        loop = asyncio.get_running_loop()
        whole = 0
        async with nothing_left_open():
            for seed in range(12):
                rng, world = random.Random(seed), World()
                couples = []
                for _ in range(8):
                    near, far = pair(kind)
                    couple = Side(rng, world), Side(rng, world)
                    for side, sock in zip(couple, (near, far), strict=True):
                        await loop.connect_accepted_socket(side.new_protocol, sock)
                    couples.append(couple)
                sides = [side for couple in couples for side in couple]
                for _ in range(150):
                    for side in sides:
                        side.act()
                    await asyncio.sleep(0)
                world.quiet = True
                for side in sides:
                    side.transport.resume_reading()
                for one, other in couples:
                    if not one.closed and not other.closed:
                        await until(lambda a=one, b=other: a.received == b.sent and b.received == a.sent)  # type: ignore[misc]
                        whole += 1
                for side in sides:
                    side.transport.abort()
                await until(lambda sides=sides: all(side.lost for side in sides))  # type: ignore[misc]
                await turns(2)
                for one, other in couples:
                    for side, peer in ((one, other), (other, one)):
                        assert (side.made, side.lost) == (1, 1)
                        assert side.ended <= 1
                        assert side.received <= peer.sent
        assert whole > 20

    program()
