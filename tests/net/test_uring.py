"""The io_uring driver: that it is chosen where it can be, and what only a ring can get wrong.

Everything else about connections is tested by the other files here, which run on it with NORIA_DRIVER=io_uring.
"""

import asyncio
import contextlib
import errno
import gc
import os
import random
import socket
import struct
import threading
from typing import Any

import pytest

import noria
from core.running import python, until
from net.peers import pair, read_all
from net.rings import (
    DEADLINE,
    DENY,
    Echo,
    Peer,
    end,
    in_company,
    needs_ring,
    nothing_left,
    on_ring,
    pairs,
    refused,
    run,
)
from noria.io.choice import choose

ECHO = """
import asyncio, noria
async def echo():
    async def serve(reader, writer):
        writer.write(await reader.read(100))
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    assert await asyncio.wait_for(reader.read(), 10) == b"hello"
    writer.close()
    await writer.wait_closed()
    server.close()
def run(driver):
    loop = noria.new_event_loop(driver=driver)
    loop.run_until_complete(echo())
    loop.close()
    return loop._driver.name
"""


def fresh(program: str) -> None:
    """Run the program in an interpreter of its own."""
    done = python("import warnings; warnings.simplefilter('error')\n" + program)
    assert done.returncode == 0, done.stderr


# The choice.


def test_a_driver_there_is_not_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is no driver 'uring'; choose one of: epoll, io_uring"):
        noria.new_event_loop(driver="uring")
    monkeypatch.setenv("NORIA_DRIVER", "iouring")
    with pytest.raises(ValueError, match=r"'iouring' \(asked for by NORIA_DRIVER\)"):
        noria.Loop()


def test_the_argument_comes_before_the_environment_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NORIA_DRIVER", raising=False)
    assert "the default" in choose()[1]
    monkeypatch.setenv("NORIA_DRIVER", "epoll")
    assert choose() == (choose("epoll")[0], "asked for by NORIA_DRIVER")
    monkeypatch.setenv("NORIA_DRIVER", "io_uring")
    assert choose()[0].name == ("epoll" if refused else "io_uring")
    assert choose("epoll") == (choose("epoll")[0], "asked for")
    assert choose("epoll")[0].name == "epoll"


def test_where_io_uring_is_refused_a_loop_gets_epoll() -> None:
    fresh(
        DENY + ECHO + "import logging\n"
        "logging.basicConfig(level='DEBUG')\n"
        "deny()\n"
        "assert run('io_uring') == 'epoll'\n"
        "from noria.io.choice import choose\n"
        "assert 'EPERM' in choose('io_uring')[1], choose('io_uring')\n"
        "from noria.cli import main\n"
        "main(['info'])\n"
    )


@needs_ring
@pytest.mark.parametrize("call", [425, 426, 427], ids=["setup", "enter", "register"])
@pytest.mark.parametrize("error", ["EPERM", "ENOMEM", "ENOSYS"])
def test_whichever_system_call_is_refused_with_whatever_error_a_loop_gets_epoll(
    call: int, error: str
) -> None:
    """ENOMEM is what the kernel says when locked memory has run out, before Linux 5.12 or by its control group."""
    reason = {"EPERM": "the system refuses it", "ENOMEM": "no memory", "ENOSYS": "this kernel lacks it"}[
        error
    ]
    fresh(
        DENY + ECHO + f"import errno\ndeny({call}, errno.{error})\n"
        "from noria.io.choice import choose\n"
        f"assert {reason!r} in choose('io_uring')[1], choose('io_uring')\n"
        "assert run('io_uring') == 'epoll'\n"
    )


@needs_ring
@pytest.mark.parametrize("call", [425, 427], ids=["setup", "register"])
@pytest.mark.parametrize("error", ["EPERM", "ENOMEM", "EMFILE"])
def test_a_loop_whose_ring_is_refused_later_goes_on_without_one(call: int, error: str) -> None:
    fresh(
        DENY + ECHO + "import errno\n"
        "assert run('io_uring') == 'io_uring'\n"
        "made = noria.new_event_loop(driver='io_uring')\n"
        f"deny({call}, errno.{error})\n"
        "run('io_uring')\n"
        "made.run_until_complete(echo())\n"  # its ring is there, and perhaps not to be enabled any more
        "made.close()\n"
    )


@needs_ring
@pytest.mark.parametrize("call", [425, 427], ids=["setup", "register"])
def test_a_loop_whose_second_thread_is_refused_a_ring_goes_on_without_one(call: int) -> None:
    """With connections whose bytes the first ring has received, sent and been given."""
    fresh(
        DENY + "import asyncio, errno, noria, threading\n"
        "async def begin():\n"
        "    async def serve(reader, writer):\n"
        "        while data := await reader.read(10000): writer.write(data)\n"
        "        writer.close()\n"
        "    server = await asyncio.start_server(serve, '127.0.0.1', 0)\n"
        "    ends = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(10)]\n"
        "    for _, writer in ends: writer.write(b'first')\n"
        "    await asyncio.sleep(0.01)\n"
        "    for _, writer in ends: writer.write(b'second')\n"
        "    return server, ends\n"
        "async def go_on(server, ends):\n"
        "    for _, writer in ends: writer.write(b'third')\n"
        "    for reader, writer in ends:\n"
        "        assert await asyncio.wait_for(reader.readexactly(16), 10) == b'firstsecondthird'\n"
        "        writer.close()\n"
        "        assert await reader.read() == b''\n"
        "    server.close()\n"
        "loop = noria.new_event_loop(driver='io_uring')\n"
        "began = loop.run_until_complete(begin())\n"
        "def run():\n"
        f"    deny({call}, errno.ENOMEM)\n"  # the filter is this thread's
        "    loop.run_until_complete(go_on(*began))\n"
        "    done.append(True)\n"
        "done = []\n"
        "thread = threading.Thread(target=run); thread.start(); thread.join()\n"
        "assert done\n"
        "loop.close()\n"
    )


@needs_ring
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer maps terabytes")
def test_where_a_ring_cannot_be_mapped_a_loop_gets_epoll() -> None:
    """Address space runs out (RLIMIT_AS) at each of the mappings in turn."""
    fresh(
        ECHO + "import re, resource\n"
        "from noria.io.choice import choose\n"
        "from noria.io.uring import probe\n"
        "run('epoll')\n"
        "got = set()\n"
        "spare = []\n"
        "for room in range(0, 1024, 16):\n"
        "    size = int(re.search(r'VmSize:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "    resource.setrlimit(resource.RLIMIT_AS, ((size + room) * 1024, resource.RLIM_INFINITY))\n"
        "    error = probe()[0]\n"
        "    chosen, why = choose('io_uring') if error else (None, '')\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "    got.add(error)\n"
        "    if error: assert chosen.name == 'epoll' and 'no memory' in why, why\n"
        "assert got == {0, 12}, got\n"
        "assert 'io_uring' not in open('/proc/self/maps').read()\n"
        "assert run('io_uring') == 'io_uring'\n"
    )


@needs_ring
def test_a_tiny_limit_on_locked_memory_does_no_harm() -> None:
    # Root's limit counts for nothing: the child becomes nobody if it can. Since Linux 5.12 rings are charged to the
    # control group and this limit is not asked for them: that they fail is tested above, by their system calls.
    fresh(
        ECHO + "import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))\n"
        "run('epoll')  # imports all that nobody may not read\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "from noria.io.choice import choose\n"
        "name, why = choose('io_uring')\n"
        "assert name.name == 'io_uring' or 'locked memory' in why or 'refuses' in why, why\n"
        "assert run('io_uring') == name.name\n"
    )


# What only a ring can get wrong.


@on_ring
async def test_bytes_of_every_size_arrive_in_order_whoever_pauses() -> None:
    """Sizes around a buffer's, and far above, so that connections go from the ring to readiness and back."""
    server, near, far = await pairs(8, Echo)
    rng = random.Random(6)
    sent = [bytearray() for _ in near]
    for _ in range(1500):
        i = rng.randrange(len(near))
        here, there = near[i].transport, far[i].transport
        match rng.randrange(10):
            case 0:
                here.pause_reading()
            case 1:
                there.pause_reading()
            case 2:
                here.resume_reading()
                there.resume_reading()
            case 3:
                await asyncio.sleep(0)
            case _:
                data = rng.randbytes(rng.choice((1, 60, 1000, 4095, 4159, 4160, 4161, 9000, 16384, 70000)))
                sent[i] += data
                if rng.randrange(3):
                    here.write(data)
                else:
                    here.writelines([data[:10], data[10:]])
    for peer in (*near, *far):
        peer.transport.resume_reading()
    await until(lambda: [len(p.got) for p in near] == [len(s) for s in sent])
    assert all(peer.got == data for peer, data in zip(near, sent, strict=True))
    await end(server, *near, *far)


@on_ring
async def test_more_at_once_than_there_are_buffers() -> None:
    """The pool runs empty: receptions end with ENOBUFS and are begun again."""
    server, near, far = await pairs(150)
    for peer in near:
        with socket.fromfd(
            peer.transport.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM
        ) as s:
            s.sendall(b"y" * 9000)
    await until(lambda: all(len(peer.got) == 9000 for peer in far))
    await end(server, *near, *far)


@on_ring
async def test_more_at_once_than_the_ring_has_entries() -> None:
    """Sends of one turn overflow both queues."""
    server, near, far = await pairs(1300)
    for peer in near:
        peer.transport.write(b"ping")
    await until(lambda: all(peer.got == b"ping" for peer in far))
    for peer in (*near, *far):
        peer.transport.write(b"pong")
    await until(lambda: all(peer.got.endswith(b"pong") for peer in (*near, *far)))
    await end(server, *near, *far)


@on_ring
async def test_what_comes_to_hundreds_of_connections_at_once_is_told_in_one_turn() -> None:
    """As on epoll, though the kernel brings it twenty at a time: programs count on turns when they end."""
    loop = asyncio.get_running_loop()
    server, near, far = await pairs(300)
    turn = 0
    told: list[int] = []

    def count() -> None:
        nonlocal turn
        turn += 1
        if len(told) < len(far):
            loop.call_soon(count)

    for peer in far:
        peer.data_received = lambda _: told.append(turn)  # type: ignore[method-assign]
    for peer in near:
        os.write(peer.transport.get_extra_info("socket").fileno(), b"x")
    loop.call_soon(count)
    await until(lambda: len(told) == len(far))
    assert max(told) - min(told) <= 1
    await end(server, *near, *far)


@needs_ring
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_what_is_written_when_writing_is_to_pause_comes_after_what_made_it_pause(kind: str) -> None:
    """With bytes posted to the ring that the kernel, when they are called back, has no room for."""

    class Rash(Peer):
        def pause_writing(self) -> None:
            self.transport.write(b"third")

        def resume_writing(self) -> None:
            pass

    async def program() -> None:
        loop = asyncio.get_running_loop()
        sock, other = pair(kind)
        transport, _ = await loop.connect_accepted_socket(Rash, sock)
        transport.set_write_buffer_limits(high=0)
        before = 0
        with (
            contextlib.suppress(BlockingIOError),
            socket.fromfd(sock.fileno(), sock.family, sock.type) as full,
        ):
            while True:
                before += full.send(b" " * 1000)
        second = b"2" * 50_000
        in_company()
        transport.write(b"first")
        transport.write(second)
        expected = b"first" + second + b"third"
        with other:
            got = await read_all(other, before + len(expected))
        assert got[before:] == expected
        transport.close()
        await asyncio.sleep(0)

    with nothing_left():
        run(program)


@needs_ring
@pytest.mark.parametrize("kind", ["protocol", "buffered", "streams"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_request_that_comes_with_the_end_of_the_stream_is_answered(kind: str, busy: bool) -> None:
    """By a program that takes one step for it. The end, told before that, would close the connection."""

    class Answering(Peer):
        def data_received(self, data: bytes) -> None:
            asyncio.get_running_loop().call_soon(self.transport.write, b"answer to " + data)

    class Buffered(asyncio.BufferedProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport
            self.buffer = bytearray(4)

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            if bytes(self.buffer[:nbytes]) == b"tion":
                asyncio.get_running_loop().call_soon(self.transport.write, b"answer to question")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"answer to " + await reader.read(100))
        writer.close()

    async def program() -> None:
        loop = asyncio.get_running_loop()
        if kind == "streams":
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
        else:
            server = await loop.create_server(Answering if kind == "protocol" else Buffered, "127.0.0.1", 0)
        asked = 30
        socks = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(asked)]
        await asyncio.sleep(0.01)  # all are accepted, and the ring receives
        for sock in socks:
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
        work = [True]

        def busily() -> None:
            if work:
                loop.call_soon(busily)

        if busy:
            busily()
        for sock in socks:
            sock.setblocking(False)
            with sock:
                assert await read_all(sock) == b"answer to question"
        work.clear()
        server.close()

    with nothing_left():
        run(program)


@needs_ring
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_lone_write_that_the_kernel_has_no_room_for_goes_out_later(kind: str) -> None:
    """It is the one thing to be sent in its turn, which the driver does by itself."""

    async def program() -> None:
        sock, other = pair(kind)
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(Peer, sock)
        before = 0
        with (
            contextlib.suppress(BlockingIOError),
            socket.fromfd(sock.fileno(), sock.family, sock.type) as full,
        ):
            while True:
                before += full.send(b" " * 1000)
        in_company()
        transport.write(b"alone")
        await asyncio.sleep(0.01)
        assert transport.get_write_buffer_size() == 5
        with other:
            assert (await read_all(other, before + 5))[before:] == b"alone"
            transport.write(b"again")
            assert await read_all(other, 5) == b"again"
        transport.close()
        await asyncio.sleep(0)

    with nothing_left():
        run(program)


@on_ring
async def test_thousands_of_connections_cut_off_at_random_points() -> None:
    """Closed, aborted and reset with bytes on their way, in both directions: none harms another, none is left."""
    rng = random.Random(7)
    server, steady, steady_far = await pairs(2, Echo)
    address = server.sockets[0].getsockname()
    loop = asyncio.get_running_loop()

    async def short_life() -> None:
        try:
            transport, peer = await loop.create_connection(Peer, *address)
        except OSError:
            return
        transport.write(rng.randbytes(rng.choice((1, 1000, 5000, 100_000))))
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        if rng.randrange(2):
            transport.write(b"more")
        match rng.randrange(4):
            case 0:
                transport.close()
            case 1:
                transport.abort()
            case 2:
                sock = transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                transport.abort()
            case 3:
                transport.pause_reading()
                await asyncio.sleep(0)
                transport.close()
        await until(lambda: peer.closed)

    for _ in range(25):
        tasks = [asyncio.ensure_future(short_life()) for _ in range(40)]
        await asyncio.sleep(0)
        for task in rng.sample(tasks, 10):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        steady[0].transport.write(b"still here")
    await until(lambda: len(steady[0].got) == 250)
    assert steady[0].got == b"still here" * 25
    await end(server, *steady, *steady_far[:2])


@on_ring
async def test_a_port_is_free_when_its_listener_is_closed() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Peer, "127.0.0.1", 0)
    await asyncio.sleep(0.01)
    address = server.sockets[0].getsockname()
    for _ in range(20):
        server.close()
        server = await loop.create_server(Peer, *address, reuse_address=False)
        await asyncio.sleep(0)
    server.close()


@on_ring
async def test_what_was_written_before_an_abort_or_the_end_of_a_file_counts_as_sent() -> None:
    server, near, far = await pairs(2)
    in_company()
    near[0].transport.write(b"last words")
    near[0].transport.abort()
    near[1].transport.write(b"last words")
    near[1].transport.write_eof()
    await until(lambda: far[0].closed and far[1].closed)
    assert far[0].got == far[1].got == b"last words"
    await end(server, *near, *far)


@needs_ring
def test_closing_a_loop_with_everything_in_flight_tells_the_peers() -> None:
    with nothing_left():
        ours: list[Any] = []
        theirs: list[socket.socket] = []

        async def program() -> None:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Peer, "127.0.0.1", 0)
            ours.append(server)
            for _ in range(50):
                theirs.append(socket.create_connection(server.sockets[0].getsockname()))
            await until(lambda: len(server._transports) == 50)  # type: ignore[attr-defined]
            for transport in list(server._transports):  # type: ignore[attr-defined]
                ours.append(transport)
                transport.write(b"good-bye")
            await loop.run_in_executor(None, lambda: None)
            for transport in ours[1:]:
                transport.write(b" at last")

        loop = noria.new_event_loop(driver="io_uring")
        loop.run_until_complete(program())
        ours[0].close()
        loop.close()
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            ours.clear()
            gc.collect()
        for sock in theirs:
            sock.settimeout(DEADLINE)
            data = b""
            while more := sock.recv(100):
                data += more
            assert data == b"good-bye at last"
            sock.close()


@needs_ring
def test_a_loop_may_be_run_by_one_thread_after_another() -> None:
    """A server is started in one thread and served in others: nothing that came in between is lost."""
    with nothing_left():
        loop = noria.new_event_loop(driver="io_uring")
        server, near, far = loop.run_until_complete(pairs(3, Echo))
        failed: list[BaseException] = []

        async def talk() -> None:
            before = [len(peer.got) for peer in near]
            for peer in near:
                peer.transport.write(b"x" * 5000)
            await until(lambda: [len(peer.got) for peer in near] == [n + 5000 for n in before])
            for peer in near:
                peer.transport.write(b"y" * 100)  # on its way when the run ends

        def serve() -> None:
            try:
                loop.run_until_complete(asyncio.wait_for(talk(), DEADLINE))
            except BaseException as error:
                failed.append(error)

        for _ in range(5):
            thread = threading.Thread(target=serve)
            thread.start()
            thread.join()
            # What was written last comes back in this thread.
            loop.run_until_complete(until(lambda: len({len(peer.got) for peer in near}) == 1))
            loop.run_until_complete(until(lambda: all(peer.got.endswith(b"y" * 100) for peer in near)))
        assert not failed
        assert all(len(peer.got) == 25_500 for peer in near)
        loop.run_until_complete(end(server, *near, *far))
        loop.close()


@needs_ring
def test_two_loops_in_two_threads() -> None:
    failed: list[BaseException] = []

    async def program() -> None:
        server, near, far = await pairs(20, Echo)
        for _ in range(50):
            for peer in near:
                peer.transport.write(b"x" * 100)
            await asyncio.sleep(0)
        await until(lambda: all(len(peer.got) == 5000 for peer in near))
        await end(server, *near, *far)

    def thread() -> None:
        try:
            run(program)
        except BaseException as error:
            failed.append(error)

    with nothing_left():
        threads = [threading.Thread(target=thread) for _ in range(2)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert not failed


@needs_ring
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_touches_no_ring() -> None:
    async def program() -> None:
        server, near, far = await pairs(5, Echo)
        loop = asyncio.get_running_loop()
        near[0].transport.write(b"before")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for peer in near:
                    peer.transport.write(b"from the child")  # goes nowhere
                    peer.transport.abort()
                del peer
                near.clear()
                far.clear()
                gc.collect()
                status = 0 if loop.is_closed() else 2
            finally:
                os._exit(status)
        near[0].transport.write(b" after")
        _, status = await loop.run_in_executor(None, os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        await until(lambda: near[0].got == b"before after")
        await end(server, *near, *far)

    with nothing_left():
        run(program)


@on_ring
async def test_a_loop_is_not_closed_from_its_own_callback() -> None:
    server, near, far = await pairs(1, Echo)
    loop = asyncio.get_running_loop()
    refusals: list[RuntimeError] = []

    def close() -> None:
        try:
            loop.close()
        except RuntimeError as error:
            refusals.append(error)

    loop.call_soon(close)
    near[0].transport.write(b"x")
    await until(lambda: bytes(near[0].got) == b"x" and len(refusals) == 1)
    await end(server, *near, *far)


@on_ring
async def test_nested_runs_receive_in_order() -> None:
    loop: Any = asyncio.get_running_loop()
    server, near, far = await pairs(1)
    order = bytearray()

    def nested(data: bytes) -> None:
        order.extend(data)
        if len(order) == 3:
            near[0].transport.write(b"def")
            loop.run_until_complete(until(lambda: len(order) == 6))
            order.extend(b"!")

    far[0].data_received = nested  # type: ignore[method-assign]
    near[0].transport.write(b"abc")
    await until(lambda: order.endswith(b"!"))
    assert order == b"abcdef!"
    await end(server, *near, *far)


@needs_ring
def test_no_locked_memory_is_left() -> None:
    # Locked memory is counted by user, and root's is not: of forty rings a user could have a few at a time. The kernel
    # takes a closed one apart a moment later, hence the patience.
    fresh(
        ECHO + "import os, resource, time\n"
        "from noria.io.uring import probe\n"
        "run('epoll')  # imports all that nobody may not read\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (512 * 1024, 512 * 1024))\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "for _ in range(40):\n"
        "    patience = time.monotonic() + 10\n"
        "    while probe()[0] and time.monotonic() < patience: time.sleep(0.01)\n"
        "    assert run('io_uring') == 'io_uring'\n"
    )


@needs_ring
def test_errors_of_the_ring_are_the_sockets_own() -> None:
    async def program() -> None:
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[BaseException | None] = loop.create_future()

        class Noting(Peer):
            def connection_lost(self, exc: BaseException | None) -> None:
                lost.set_result(exc)

        server = await loop.create_server(Noting, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await until(lambda: len(server._transports) == 1)  # type: ignore[attr-defined]
        error = await lost
        assert isinstance(error, ConnectionResetError)
        assert error.errno == errno.ECONNRESET
        server.close()

    run(program)
