"""Faults while a ring has operations in flight: cancellation, peers that reset, the end of the loop, a fork.

Where dice decide when, their seed is printed; NORIA_TEST_SEED=... throws the same ones again.
"""

import asyncio
import contextlib
import gc
import os
import random
import socket
import struct
import warnings
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import python, until
from net.peers import pair, pattern
from net.rings import DEADLINE, Echo, Peer, end, needs_ring, nothing_left, on_ring, pairs, run

STREAM = pattern(400_000, 7)


def dice() -> random.Random:
    seed = int(os.environ.get("NORIA_TEST_SEED") or random.randrange(1 << 32))
    print(f"NORIA_TEST_SEED={seed}")
    return random.Random(seed)


class Scissors:
    """Cuts operations off at random points: before they begin, in the middle, just when they are done."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.cut = 0
        self.done = 0

    async def __call__(self, operation: Coroutine[Any, Any, Any]) -> Any:
        """What the operation returned, or None if it was cut off."""
        task = asyncio.ensure_future(operation)
        for _ in range(self.rng.choice((0, 0, 1, 2, 3, 8))):
            await asyncio.sleep(0)
        if self.rng.random() < 0.1:
            await asyncio.sleep(0.001)
        task.cancel()
        try:
            result = await task
        except asyncio.CancelledError:
            self.cut += 1
            return None
        self.done += 1
        return result


async def receive_cut_off(scissors: Scissors, kind: str, streams: bool) -> None:
    """What a cancelled reception would have brought, the next one brings."""
    loop = asyncio.get_running_loop()
    near, far = pair(kind)
    total = 400_000
    got = bytearray()

    async def feed() -> None:
        at = 0
        while at < total:
            step = scissors.rng.choice((1, 500, 3000, 4160, 20_000))
            await loop.sock_sendall(far, STREAM[at : min(total, at + step)])
            at += step
            await asyncio.sleep(0)

    feeding = asyncio.ensure_future(feed())
    if streams:
        reader, writer = await asyncio.open_connection(sock=near)
        while len(got) < total:
            got += await scissors(reader.read(scissors.rng.choice((10, 500, 3000)))) or b""
        writer.close()
        await writer.wait_closed()
    else:
        while len(got) < total:
            got += await scissors(loop.sock_recv(near, scissors.rng.choice((10, 500, 3000)))) or b""
    await feeding
    near.close()
    far.close()
    assert got == STREAM[:total]


async def send_cut_off(scissors: Scissors, kind: str) -> None:
    """A stream's drain() cut off loses nothing that was written; sock_sendall() cut off has sent a beginning."""
    loop = asyncio.get_running_loop()
    for streams in (True, False):
        near, far = pair(kind)
        got = bytearray()

        async def collect(sock: socket.socket = far, into: bytearray = got) -> None:
            while data := await loop.sock_recv(sock, 50_000):
                into += data
                if scissors.rng.random() < 0.3:
                    await asyncio.sleep(0.0005)

        collecting = asyncio.ensure_future(collect())
        if streams:
            _, writer = await asyncio.open_connection(sock=near)
            at = 0
            while at < len(STREAM):
                step = scissors.rng.choice((1, 900, 16_000, 30_000))
                writer.write(STREAM[at : at + step])
                at += step
                await scissors(writer.drain())
            writer.close()
            await writer.wait_closed()
        else:
            await scissors(loop.sock_sendall(near, STREAM))
        near.close()
        await collecting
        far.close()
        assert got == (STREAM if streams else STREAM[: len(got)])


async def accept_cut_off(scissors: Scissors, count: int) -> None:
    """No connection is lost by a sock_accept() that was cut off."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=count) as listener:
        listener.setblocking(False)
        waiting = [socket.create_connection(listener.getsockname()) for _ in range(count)]
        while waiting:
            accepted = await scissors(loop.sock_accept(listener))
            if accepted is None:
                continue
            accepted[0].close()
            waiting.pop().close()


async def connect_cut_off(scissors: Scissors, count: int, path: Path) -> None:
    """Transports over TCP and Unix-domain sockets, and plain sockets: connected and of use, or gone."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
    unix_server = await loop.create_unix_server(Echo, path, backlog=1024)
    address = server.sockets[0].getsockname()

    async def connect() -> None:
        kind = scissors.rng.randrange(3)
        if kind == 2:
            with socket.socket() as sock:
                sock.setblocking(False)
                await scissors(loop.sock_connect(sock, address))
            return
        made = await scissors(
            loop.create_connection(Peer, *address) if kind else loop.create_unix_connection(Peer, path)
        )
        if made is not None:
            transport, peer = made
            transport.write(b"hello")
            await until(lambda: peer.got == b"hello")
            transport.close()
            await until(lambda: peer.closed)

    for _ in range(count // 20):
        await asyncio.gather(*(connect() for _ in range(20)))
    server.close()
    unix_server.close()
    await asyncio.wait_for(server.wait_closed(), DEADLINE)
    await asyncio.wait_for(unix_server.wait_closed(), DEADLINE)


@needs_ring
def test_thousands_of_operations_cut_off_at_random_points(tmp_path: Path) -> None:
    rng = dice()
    scissors = Scissors(rng)

    async def program() -> None:
        await asyncio.gather(
            *(
                receive_cut_off(scissors, kind, streams)
                for kind in ("tcp", "unix")
                for streams in (True, False)
            ),
            *(send_cut_off(scissors, kind) for kind in ("tcp", "unix") for _ in range(8)),
            accept_cut_off(scissors, 500),
            connect_cut_off(scissors, 600, tmp_path / "socket"),
        )

    with nothing_left():
        run(program)
    assert scissors.cut > 1000
    assert scissors.done > 500


@needs_ring
def test_peers_that_reset_at_random_points() -> None:
    """Whatever their connection was doing, it ends once, with an error of the socket's or none, and only it."""
    rng = dice()

    class Victim(Peer):
        lost = 0
        mood = "reading"

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.mood = rng.choice(("reading", "paused", "writing", "half closed", "echoing"))
            if self.mood == "paused":
                self.transport.pause_reading()
            elif self.mood == "writing":
                self.transport.write(bytes(10_000_000))
            elif self.mood == "half closed":
                self.transport.write_eof()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.mood == "echoing":
                self.transport.write(data)

        def eof_received(self) -> bool:
            return True

        def connection_lost(self, exc: BaseException | None) -> None:
            assert exc is None or isinstance(exc, ConnectionError)
            self.lost += 1
            super().connection_lost(exc)

    async def program() -> None:
        loop = asyncio.get_running_loop()
        steady = await pairs(1, Echo)
        victims: list[Victim] = []

        def made() -> Victim:
            victims.append(Victim())
            return victims[-1]

        server = await loop.create_server(made, "127.0.0.1", 0, backlog=1024)
        for turn in range(20):
            socks = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(20)]
            for sock in socks:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            while socks:
                sock = socks[rng.randrange(len(socks))]
                match rng.randrange(6):
                    case 0:
                        socks.remove(sock)
                        sock.close()  # resets
                    case 1:
                        await asyncio.sleep(0)
                    case 2:
                        await asyncio.sleep(0.0005)
                    case _:
                        with contextlib.suppress(BlockingIOError):
                            sock.send(bytes(rng.choice((1, 4160, 30_000))))
            steady[1][0].transport.write(b"%2d" % turn)
        await until(lambda: len(victims) == 400)
        for victim in victims:
            victim.transport.resume_reading()
        await until(lambda: all(victim.lost for victim in victims))
        await until(lambda: len(steady[1][0].got) == 40)
        assert all(victim.lost == 1 for victim in victims)
        assert steady[1][0].got == b"".join(b"%2d" % turn for turn in range(20))
        server.close()
        await end(steady[0], *steady[1], *steady[2])

    with nothing_left():
        run(program)


@needs_ring
def test_a_loop_that_is_closed_with_operations_of_every_kind_in_flight_leaves_nothing(
    tmp_path: Path,
) -> None:
    class Writing(Peer):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.write(bytes(10_000_000))

    for at in range(12):  # so many turns after all of them began
        with nothing_left(), contextlib.ExitStack() as ours, warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of the transports that nobody closed
            loop = noria.new_event_loop(driver="io_uring")
            loop.set_exception_handler(lambda *_: None)  # and of the tasks

            async def program(ours: contextlib.ExitStack = ours, at: int = at) -> list[Any]:
                loop = asyncio.get_running_loop()
                _, near, far = await pairs(20, Echo)
                unix = await loop.create_unix_server(Writing, tmp_path / f"socket{at}")
                full = ours.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
                deaf = [ours.enter_context(socket.socket()) for _ in range(4)]
                sock, other = (ours.enter_context(one) for one in pair())
                for peer in near:
                    peer.transport.write(bytes(5000))
                near[0].transport.pause_reading()
                tasks: list[Any] = []
                for one in deaf:
                    one.setblocking(False)
                    tasks.append(asyncio.ensure_future(loop.sock_connect(one, full.getsockname())))
                for begun in (
                    loop.sock_recv(sock, 100),
                    loop.sock_sendall(other, bytes(10_000_000)),
                    loop.create_connection(Peer, *full.getsockname()),
                ):
                    tasks.append(asyncio.ensure_future(begun))
                await loop.create_unix_connection(Peer, tmp_path / f"socket{at}")
                await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
                for _ in range(at):
                    await asyncio.sleep(0)
                for peer in far[:10]:
                    peer.transport.write(b"last words")
                return [*tasks, unix]

            held: list[Any] = loop.run_until_complete(program())
            loop.close()
            held.clear()
            del loop, program
            while gc.collect():  # tasks that are thrown away end, and let go of transports
                pass


@needs_ring
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_a_reception_is_delivered_leaves_the_parent_what_is_in_flight() -> None:
    parent = os.getpid()
    children: list[int] = []

    class Forking(Echo):
        def data_received(self, data: bytes) -> None:
            if not children:
                children.append(os.fork())
            super().data_received(data)  # in the child: goes nowhere

    async def program() -> None:
        server, near, far = await pairs(30, Forking)
        for peer in near:
            peer.transport.write(b"both of you")
        await until(lambda: all(peer.got == b"both of you" for peer in near))
        loop = asyncio.get_running_loop()
        _, status = await loop.run_in_executor(None, os.waitpid, children[0], 0)
        assert os.waitstatus_to_exitcode(status) == 7
        await end(server, *near, *far)

    with nothing_left():
        try:
            run(program)
        except BaseException as error:
            if os.getpid() == parent:
                raise
            os._exit(7 if "the parent process's" in str(error) else 8)
        finally:
            if os.getpid() != parent:
                os._exit(9)


@on_ring
async def test_connections_that_come_as_their_listener_closes_are_closed() -> None:
    """The ring accepts of its own accord: those that nobody can be told of any more must not stay."""
    loop = asyncio.get_running_loop()
    made: list[Peer] = []

    class Last(Peer):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            made.append(self)
            server.close()

    for early in (True, False):
        server = await loop.create_server(Last, "127.0.0.1", 0, backlog=100)
        await asyncio.sleep(0.001)  # the ring listens
        clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(30)]
        if early:
            server.close()
        else:
            await until(lambda: made)
            made[0].transport.close()
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(ConnectionResetError):
                assert await loop.sock_recv(client, 1) == b""
            client.close()
        assert len(made) == (0 if early else 1)


@on_ring
async def test_the_last_callback_of_a_run_may_leave_everything_in_flight_to_the_next() -> None:
    """Runs that end at once, nested in each other, with sends posted and receptions armed."""
    loop: Any = asyncio.get_running_loop()
    server, near, far = await pairs(10, Echo)

    async def nothing() -> None:
        pass

    for _ in range(200):
        for peer in near:
            peer.transport.write(b"abc")
        loop.run_until_complete(nothing())
    await until(lambda: all(len(peer.got) == 600 for peer in near))
    assert all(peer.got == b"abc" * 200 for peer in near)
    await end(server, *near, *far)


@needs_ring
@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="AddressSanitizer keeps what was freed from being used again",
)
def test_loops_that_come_and_go_leave_no_memory() -> None:
    done = python(
        "import asyncio, noria, re\n"
        "def size(): return int(re.search(r'VmSize:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "async def main():\n"
        "    server = await asyncio.start_server(lambda r, w: w.close(), '127.0.0.1', 0)\n"
        "    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())\n"
        "    await reader.read()\n"
        "    writer.close()\n"
        "    server.close()\n"
        "def once():\n"
        "    loop = noria.new_event_loop(driver='io_uring')\n"
        "    assert loop._driver.name == 'io_uring'\n"
        "    loop.run_until_complete(main())\n"
        "    loop.close()\n"
        "for _ in range(10): once()\n"
        "before = size()\n"
        "for _ in range(100): once()\n"
        "print(size() - before)\n"  # KiB; the buffers of one loop are 260
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 10 * 260
