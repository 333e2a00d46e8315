"""What programs may count on, whichever driver: when written bytes leave, and who receives what comes.

On epoll most of it comes by itself. The io_uring driver gathers what is written, and its ring receives of its own accord.
"""

import asyncio
import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import noria
from core.running import python, until
from net.peers import pair, read_all
from net.rings import Peer, end, in_company, needs_ring, nothing_left, pairs, run

both = pytest.mark.parametrize("driver", ["epoll", pytest.param("io_uring", marks=needs_ring)])


@contextmanager
def connected(kind: str = "tcp") -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends: the first for a transport, which closes it; non-blocking, with a second end that is as well."""
    near, far = pair(kind)
    far.setblocking(False)
    with far:
        yield near, far


def fork(transport: Any) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def run_another_loop(transport: Any) -> None:
    loop = noria.new_event_loop(driver="epoll")
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


BEFORE: dict[str, Callable[[Any], Any]] = {
    "close": lambda transport: transport.close(),
    "write_eof": lambda transport: transport.write_eof(),
    "abort": lambda transport: transport.abort(),
    "fork": fork,
    "another loop's run": run_another_loop,
    "shutdown of the socket": lambda transport: transport.get_extra_info("socket").shutdown(socket.SHUT_WR),
    "write to its descriptor": lambda transport: os.write(transport.get_extra_info("socket").fileno(), b"!"),
    "the end of the run": None,  # type: ignore[dict-item]
}


@both
@pytest.mark.parametrize("what", BEFORE)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_what_was_written_has_left_before(driver: str, what: str) -> None:
    async def program() -> None:
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(Peer, near)
        kept.append(transport)
        await asyncio.sleep(0.001)
        in_company()
        transport.write(b"writ")
        transport.writelines([b"t", b"en"])
        if BEFORE[what] is not None:
            BEFORE[what](transport)
            assert far.recv(100) == b"written!"[: 8 if "descriptor" in what else 7]
            transport.close()
            await asyncio.sleep(0)

    kept: list[Any] = []
    with connected() as (near, far):
        loop = noria.new_event_loop(driver=driver)
        loop.run_until_complete(program())
        if BEFORE[what] is None:
            assert far.recv(100) == b"written"
            kept[0].abort()
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@both
def test_who_is_alone_in_a_turn_is_heard_at_once(driver: str) -> None:
    """A program may write and then wait, blocking, for the answer."""

    async def program() -> None:
        loop = asyncio.get_running_loop()
        first, _ = await loop.connect_accepted_socket(Peer, near)
        for i in range(3):
            await asyncio.sleep(0.001)  # a task is stepped from the ready queue
            first.write(b"%d" % i)
            assert far.recv(10) == b"%d" % i

        def answer(data: bytes) -> None:  # out of a completion
            first.write(data)
            answers.append(far.recv(10))

        answers: list[bytes] = []
        first.get_protocol().data_received = answer
        far.send(b"question")
        await until(lambda: answers)
        assert answers == [b"question"]
        first.abort()

    with nothing_left(), connected() as (near, far):
        far.settimeout(5)
        run(program, driver)


@both
def test_a_write_and_an_end_in_the_last_turn_of_a_run_are_both_done(driver: str) -> None:
    """connection_lost is called, and the descriptor is closed, though nobody waits for it."""

    async def program() -> None:
        transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(Peer, near)
        protocols.append(protocol)
        await asyncio.sleep(0.001)
        in_company()
        transport.write(b"bye")
        transport.close()

    protocols: list[Peer] = []
    with connected() as (near, far):
        loop = noria.new_event_loop(driver=driver)
        loop.run_until_complete(program())
        assert protocols[0].closed
        assert far.recv(10) == b"bye"
        assert far.recv(10) == b""
        loop.close()


@both
@pytest.mark.parametrize("where", ["callbacks", "receptions", "events"])
def test_what_was_written_does_not_wait_for_all_that_a_turn_does(driver: str, where: str) -> None:
    """It leaves about a millisecond later at most, when the callback that runs then is over."""
    seen: list[int] = []

    def slow(*_: object) -> None:
        time.sleep(0.002)
        if seen[-1:] == [-1]:
            return
        try:
            far.recv(10)
        except BlockingIOError:
            seen.append(len(seen))
        else:
            seen.append(-1)

    async def program() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(Peer, near)
        server, ours, theirs = await pairs(20)
        for peer in theirs:
            peer.data_received = slow  # type: ignore[method-assign]

        def write_first(_: object = None) -> None:
            theirs[0].data_received = slow  # type: ignore[method-assign]
            transport.write(b"x")

        if where == "receptions":
            theirs[0].data_received = write_first  # type: ignore[method-assign]
            for peer in ours:
                os.write(peer.transport._sock.fileno(), b"y")
            await until(lambda: seen[-1:] == [-1])
        elif where == "events":
            ends = [socket.socketpair() for _ in range(20)]
            for i, (one, other) in enumerate(ends):
                other.send(b"z")

                def readable(i: int = i, one: socket.socket = one) -> None:
                    loop.remove_reader(one)
                    write_first() if i == 0 else slow()

                loop.add_reader(one, readable)
            await until(lambda: seen[-1:] == [-1])
            for one, other in ends:
                loop.remove_reader(one)
                one.close()
                other.close()
        else:
            loop.call_soon(write_first)
            for _ in range(20):
                loop.call_soon(slow)
            await until(lambda: seen[-1:] == [-1])
        transport.abort()
        await end(server, *ours, *theirs)

    with nothing_left(), connected() as (near, far):
        run(program, driver)
    assert len(seen) <= 3, seen


@both
@pytest.mark.parametrize("by", ["dup", "fileno"])
def test_a_connection_that_is_handed_over_keeps_nothing_that_came_later(driver: str, by: str) -> None:
    """Reading is paused, the descriptor duplicated for somebody else, and the connection aborted: the rest is his."""

    class Handing(Peer):
        taken: socket.socket

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()
            sock = self.transport.get_extra_info("socket")
            self.taken = sock.dup() if by == "dup" else socket.socket(fileno=os.dup(sock.fileno()))
            far.send(b"second")

    async def program() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_accepted_socket(Handing, near)
        await asyncio.sleep(0.001)
        repr(transport.get_extra_info("socket"))  # is no sign of it
        far.send(b"first")
        await until(lambda: protocol.got)
        for data in b"third", b"fourth":
            await asyncio.sleep(0.005)
            far.send(data)
        await asyncio.sleep(0.005)
        transport.abort()
        await asyncio.sleep(0.001)
        assert protocol.got == b"first"
        with protocol.taken as taken:
            assert taken.recv(100) == b"secondthirdfourth"

    with nothing_left(), connected() as (near, far):
        run(program, driver)


@both
def test_a_connection_whose_descriptor_was_asked_for_works_on(driver: str) -> None:
    async def program() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_accepted_socket(Peer, near)
        sent = b""
        for i in range(100):
            if i == 3:
                transport.get_extra_info("socket").fileno()
            if i % 7 == 0:
                transport.pause_reading()
            data = b"%d," % i * (1 if i % 3 else 1000)
            far.send(data)
            sent += data
            transport.write(b"%d;" % i)
            transport.resume_reading()
            await until(lambda: len(protocol.got) == len(sent))
        assert protocol.got == sent
        expected = b"".join(b"%d;" % i for i in range(100))
        assert await read_all(far, len(expected)) == expected
        transport.close()
        await asyncio.sleep(0.001)

    with nothing_left(), connected() as (near, far):
        run(program, driver)


@both
@pytest.mark.parametrize("size", [3000, 4000, 12_000])
def test_a_buffer_smaller_than_what_comes_loses_nothing(driver: str, size: int) -> None:
    """What was brought and is read in part only, before and behind more that comes."""

    class Small(asyncio.BufferedProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.buffer = bytearray(701)
            self.got = bytearray()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.got += self.buffer[:nbytes]

    async def program() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_accepted_socket(Small, near)
        await asyncio.sleep(0.001)
        sent = b""
        for i in range(30):
            data = os.urandom(size)
            await loop.sock_sendall(far, data)
            sent += data
            for _ in range(i % 4):
                await asyncio.sleep(0)
        await until(lambda: len(protocol.got) >= len(sent))
        assert protocol.got == sent
        transport.close()
        await asyncio.sleep(0)

    with nothing_left(), connected("unix") as (near, far):
        run(program, driver)


@both
def test_what_comes_in_a_run_nested_in_a_part_of_a_reception_comes_behind_the_rest_of_it(driver: str) -> None:
    class Nesting(asyncio.BufferedProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.buffer = bytearray(100)
            self.got = bytearray()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            loop: Any = asyncio.get_running_loop()
            self.got += self.buffer[:nbytes]
            if len(self.got) == 100:
                far.send(b"b" * 50)
                loop.run_until_complete(asyncio.sleep(0.002))

    async def program() -> None:
        transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(Nesting, near)
        await asyncio.sleep(0.001)
        far.send(b"a" * 3000)
        await until(lambda: len(protocol.got) == 3050)
        assert protocol.got == b"a" * 3000 + b"b" * 50
        transport.close()
        await asyncio.sleep(0)

    with nothing_left(), connected("unix") as (near, far):
        run(program, driver)


@both
def test_a_protocol_that_takes_less_than_comes_holds_its_peer_back(driver: str) -> None:
    class Slow(asyncio.BufferedProtocol):
        taken = 0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.buffer = bytearray(1)

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.taken += nbytes

    async def program() -> None:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(Slow, near)
        await asyncio.sleep(0.001)
        sent = 0
        for _ in range(3000):
            with contextlib.suppress(BlockingIOError):
                sent += far.send(bytes(1000))
            await asyncio.sleep(0)
        assert sent - protocol.taken < 400_000
        transport.abort()
        await asyncio.sleep(0)

    with nothing_left(), connected() as (near, far):
        run(program, driver)


@both
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="asks glibc's malloc what it holds")
def test_connections_that_were_busy_once_hold_no_memory_for_it(driver: str) -> None:
    done = python(
        "import asyncio, ctypes, noria, socket\n"
        "class Info(ctypes.Structure): _fields_ = [(n, ctypes.c_size_t) for n in 'abcdefghij']\n"
        "libc = ctypes.CDLL(None); libc.mallinfo2.restype = Info\n"
        "def used(): return libc.mallinfo2().h + libc.mallinfo2().e\n"  # uordblks and hblkhd
        "class Taking(asyncio.Protocol):\n"
        "    taken = 0\n"
        "    def data_received(self, data): Taking.taken += len(data)\n"
        "async def main():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    ends = [socket.socketpair() for _ in range(300)]\n"
        "    for one, _ in ends: one.setblocking(False); await loop.connect_accepted_socket(Taking, one)\n"
        "    async def work():\n"
        "        while Taking.taken < 300 * 4000 * turn: await asyncio.sleep(0)\n"
        "    before = 0\n"
        "    for turn in range(1, 6):\n"
        "        for _, other in ends: other.send(bytes(4000))\n"
        "        await asyncio.gather(*(work() for _ in range(10)))\n"
        "        await asyncio.sleep(0.01)\n"
        "        before = before or used()\n"
        "        last = used()\n"
        "    for one, other in ends: other.close()\n"
        "    await asyncio.sleep(0.1)\n"
        "    print(last - baseline)\n"
        f"loop = noria.new_event_loop(driver={driver!r})\n"
        "baseline = used()\n"
        "loop.run_until_complete(main())\n"
        "loop.close()\n"
    )
    assert done.returncode == 0, done.stderr
    # A transport and its socket object take some 1,500 bytes.
    assert int(done.stdout) < 300 * 3000


@both
def test_a_loop_is_made_with_the_descriptors_that_epoll_needs(driver: str) -> None:
    done = python(
        "import asyncio, gc, noria, os, resource\n"
        f"loop = noria.new_event_loop(driver={driver!r}); loop.run_until_complete(asyncio.sleep(0)); loop.close()\n"
        "taken = []\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "while True:\n"
        "    try: taken.append(os.dup(0))\n"
        "    except OSError: break\n"
        "def left():\n"
        "    count = 0\n"
        "    try:\n"
        "        while True: taken.append(os.dup(0)); count += 1\n"
        "    except OSError: return count\n"
        "for spare in range(6):\n"
        "    for _ in range(spare): os.close(taken.pop())\n"
        f"    try: loop = noria.new_event_loop(driver={driver!r})\n"
        "    except OSError as error: print(spare, error.strerror); loop = None\n"
        "    else: loop.run_until_complete(asyncio.sleep(0)); loop.close(); print(spare, 'works')\n"
        "    del loop; gc.collect()\n"
        "    assert left() == spare\n"
    )
    assert done.returncode == 0, done.stderr
    short = "Too many open files"
    assert done.stdout.split("\n")[:-1] == [f"{i} {short if i < 3 else 'works'}" for i in range(6)]


@both
def test_a_listener_is_gone_when_it_is_closed_by_another_thread_than_ran_its_loop(driver: str) -> None:
    """The loop was stopped, and its thread has ended: the port is free at once."""

    def serve() -> None:
        servers.append(loop.run_until_complete(loop.create_server(Peer, "127.0.0.1", 0)))
        loop.run_until_complete(asyncio.sleep(0.01))

    servers: list[asyncio.Server] = []
    with nothing_left():
        loop = noria.new_event_loop(driver=driver)
        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
        address = servers[0].sockets[0].getsockname()
        servers[0].close()
        socket.create_server(address).close()
        loop.close()


@both
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_connection_that_is_surrendered_gives_up_all_that_came_and_was_not_told(
    driver: str, kind: str
) -> None:
    """By `_surrender`, for those who go on to receive from the descriptor."""

    async def program() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_accepted_socket(Peer, near)
        await asyncio.sleep(0.001)
        far.send(b"told")
        await until(lambda: protocol.got)
        transport.pause_reading()
        for i in range(10):
            far.send(b"%d" % i)
            if i % 3 == 0:
                await asyncio.sleep(0.002)
        early = transport._surrender()
        far.send(b" and more")
        await asyncio.sleep(0.002)
        with transport._sock.dup() as taken:
            assert early + taken.recv(100) == b"0123456789 and more"
        far.send(b" later")
        transport.resume_reading()
        await until(lambda: len(protocol.got) == 10)
        assert protocol.got == b"told later"
        transport.close()
        assert transport._surrender() is None
        await asyncio.sleep(0)

    with nothing_left(), connected(kind) as (near, far):
        run(program, driver)


@both
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_bytes_stay_in_order_whatever_the_protocols_do_when_they_get_some(driver: str, busy: bool) -> None:
    """Pause and resume at once, soon or later; become another protocol; run the loop from inside; ask for the descriptor."""
    rng = random.Random(86 + busy)
    nested = 0

    def trouble(peer: Any) -> None:
        nonlocal nested
        loop: Any = asyncio.get_running_loop()
        transport = peer.transport
        match rng.randrange(30):
            case 0:
                transport.pause_reading()
                loop.call_later(rng.choice((0, 0.001)), transport.resume_reading)
            case 1:
                transport.pause_reading()
                loop.call_soon(transport.resume_reading)
            case 2:
                transport.pause_reading()
                transport.resume_reading()
            case 3 | 4 | 5 | 6:
                other = rng.choice((Plain, Plain, Through17, Through701, Through20000))()
                other.transport, other.got = transport, peer.got
                transport.set_protocol(other)
            case 7 if nested < 2:
                nested += 1
                loop.run_until_complete(asyncio.sleep(rng.choice((0, 0.001))))
                nested -= 1
            case 8 if rng.randrange(10) == 0:
                transport.get_extra_info("socket").fileno()

    class Plain(Peer):
        def data_received(self, data: bytes) -> None:
            self.got += data
            trouble(self)

    class Through17(asyncio.BufferedProtocol):
        size = 17
        transport: Any
        got: bytearray

        def get_buffer(self, sizehint: int) -> bytearray:
            self.buffer = bytearray(self.size)
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.got += self.buffer[:nbytes]
            trouble(self)

    class Through701(Through17):
        size = 701

    class Through20000(Through17):
        size = 20000

    async def program() -> None:
        loop = asyncio.get_running_loop()
        peers: list[Peer] = []
        for near, _ in ends:
            _, peer = await loop.connect_accepted_socket(Plain, near)
            peers.append(peer)
        sent = [bytearray() for _ in ends]
        working = True

        async def work() -> None:
            while working:
                await asyncio.sleep(0)

        workers = [asyncio.ensure_future(work()) for _ in range(3 * busy)]
        for _ in range(1500):
            i = rng.randrange(len(ends))
            data = rng.randbytes(rng.choice((1, 30, 700, 1402, 4159, 4160, 4161, 8320, 30_000)))
            with contextlib.suppress(BlockingIOError):
                sent[i] += data[: ends[i][1].send(data)]
            if rng.randrange(3) == 0:
                await asyncio.sleep(0)
        await until(lambda: [len(peer.got) for peer in peers] == [len(data) for data in sent])
        assert all(peer.got == data for peer, data in zip(peers, sent, strict=True))
        working = False
        await asyncio.gather(*workers)
        for peer in peers:
            peer.transport.abort()
        await asyncio.sleep(0)

    with nothing_left(), contextlib.ExitStack() as stack:
        ends = [stack.enter_context(connected(("tcp", "unix")[i % 2])) for i in range(8)]
        run(program, driver)
