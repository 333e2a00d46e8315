"""TLS clients that vanish, in the handshake and after it, leave a server as it was: memory, objects and descriptors."""

import asyncio
import gc
import logging
import os
import resource
import socket
import ssl
import struct
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

import noria
from core.running import on_noria, until
from core.test_memory import leaves_nothing
from net.peers import Echo, nothing_left_open
from net.test_connections import loop_
from support.certs import Authority, Identity
from support.leaks import open_descriptors

# Run in a process of its own, so that its memory is not the server's: KINDS in turn, COUNT clients.
CLIENTS = r"""
import socket, ssl, struct, sys
port, count, cafile = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile=cafile)
context.check_hostname = False

def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

def hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()

def shaken(sock):
    sock = context.wrap_socket(sock, suppress_ragged_eofs=True)
    sock.sendall(b"x" * 2000)
    left = 2000
    while left:
        left -= len(sock.recv(left))
    return sock

def silent(sock):
    waiting.append(sock)
    return True

def goes_at_once(sock): pass
def garbage(sock): sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
def half_a_hello(sock): sock.sendall(hello()[:100])
def half_a_hello_and_reset(sock): sock.sendall(hello()[:100]); reset(sock)
def hello_and_reset(sock): sock.sendall(hello()); sock.recv(100); reset(sock)
def hello_and_end(sock): sock.sendall(hello()); sock.recv(65536); sock.shutdown(socket.SHUT_WR)
def hello_then_garbage(sock): sock.sendall(hello()); sock.recv(65536); sock.sendall(b"\x17\x03\x03\x00\x05hello")
def drips(sock):
    for byte in hello()[:20]:
        sock.sendall(bytes([byte]))
def ends_without_notice(sock): shaken(sock).close(); return True
def resets(sock): sock = shaken(sock); reset(sock); sock.close(); return True
def resets_with_data_on_the_way(sock):
    sock = shaken(sock)
    sock.sendall(bytes(200_000))
    reset(sock)
    sock.close()
    return True
def half_a_record(sock):
    sock = shaken(sock)
    raw = socket.socket(fileno=sock.detach())
    raw.sendall(b"\x17\x03\x03\x40\x00" + bytes(1000))
    raw.close()
    return True
def broken_record(sock):
    sock = shaken(sock)
    raw = socket.socket(fileno=sock.detach())
    raw.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
    raw.close()
    return True
def says_good_bye(sock):
    sock = shaken(sock)
    sock.unwrap().close()
    return True

kinds = [goes_at_once, garbage, half_a_hello, half_a_hello_and_reset, hello_and_reset, hello_and_end,
    hello_then_garbage, drips, silent, ends_without_notice, resets, resets_with_data_on_the_way, half_a_record,
    broken_record, says_good_bye]
waiting = []
for i in range(count):
    sock = socket.create_connection(("127.0.0.1", port))
    sock.settimeout(20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        if not kinds[i % len(kinds)](sock):
            sock.close()
    except OSError as error:
        sys.exit(f"{kinds[i % len(kinds)].__name__}: {error!r}")
    if len(waiting) > 50:
        for old in waiting:
            old.recv(1)  # the server gives up
            old.close()
        waiting.clear()
print("done")
"""
KINDS = 15


def resident() -> int:
    """Bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def kinds_of_objects() -> Counter[str]:
    gc.collect()
    return Counter(type(thing).__name__ for thing in gc.get_objects())


@pytest.mark.parametrize(
    "count",
    [
        150 * KINDS,
        pytest.param(
            1400 * KINDS,
            marks=[
                pytest.mark.once,
                pytest.mark.skipif(
                    os.environ.get("NORIA_TEST_ALL") != "1", reason="takes a minute; NORIA_TEST_ALL=1 runs it"
                ),
            ],
        ),
    ],
)
def test_clients_that_vanish_leave_nothing(
    ca: Authority, identity: Identity, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="asyncio")  # what is logged in debug mode would be kept
    made: Counter[str] = Counter()
    reported: Counter[str] = Counter()

    class Counted(Echo):
        def connection_made(self, transport: Any) -> None:
            made["made"] += 1
            super().connection_made(transport)

        def connection_lost(self, exc: BaseException | None) -> None:
            made["lost"] += 1

    async def program() -> None:
        server = await loop_().create_server(
            Counted, "127.0.0.1", 0, ssl=ca.server_context(identity), ssl_handshake_timeout=0.5
        )
        port = server.sockets[0].getsockname()[1]

        async def clients(number: int) -> None:
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", CLIENTS, str(port), str(number), str(ca.cert)],
                capture_output=True, text=True, timeout=150, check=False,
            )  # fmt: skip
            assert done.stdout == "done\n", done.stderr
            await until(lambda: not server._transports)
            await until(lambda: made["made"] == made["lost"])

        # Only the messages: a report keeps its transport.
        loop_().set_exception_handler(lambda _, report: reported.update([report["message"]]))
        # 20 of each kind first: what is made once is made then.
        await clients(20 * KINDS)
        kinds_of_objects()  # has caches of its own to fill
        descriptors, objects, memory = open_descriptors(), kinds_of_objects(), resident()
        before = made["made"]
        await clients(count)
        assert made["made"] - before == count // KINDS * 6
        assert set(open_descriptors()) == set(descriptors)
        grown = kinds_of_objects() - objects
        assert all(number < count // KINDS // 2 for number in grown.values()), grown
        if "libasan" not in os.environ.get("LD_PRELOAD", ""):  # the sanitizer keeps what is freed for a while
            assert resident() - memory < 2_000_000 + 1000 * count  # a connection takes about 19,000
        # In debug mode each handshake that failed is reported, as asyncio does.
        if loop_().get_debug():
            assert set(reported) == {"Error on transport creation for incoming connection"}
        else:
            assert not reported
        server.close()
        await server.wait_closed()

    noria.run(asyncio.wait_for(program(), 110))


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def hello(context: ssl.SSLContext) -> bytes:
    """What a client sends first."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


# What one side sends before it goes, and how it goes.
BEFORE = {
    "nothing": lambda hello: b"",
    "half a hello": lambda hello: hello[:100],
    "a hello": lambda hello: hello,
    "garbage": lambda hello: b"GET / HTTP/1.1\r\n\r\n",
}
GOING = {"ends": socket.socket.close, "resets": reset}


@pytest.mark.parametrize("going", GOING)
@pytest.mark.parametrize("before", BEFORE)
def test_a_client_that_vanishes_in_the_handshake_leaves_neither_timer_nor_transport(
    ca: Authority, identity: Identity, before: str, going: str
) -> None:
    first = BEFORE[before](hello(ca.client_context()))

    @on_noria
    async def program() -> None:
        loop_().set_exception_handler(lambda _, report: None)  # in debug mode each is reported
        accepted = 0

        def factory() -> Echo:
            nonlocal accepted
            accepted += 1
            return Echo()

        # The timer of a handshake would outlast the test.
        server = await loop_().create_server(
            factory, "127.0.0.1", 0, ssl=ca.server_context(identity), ssl_handshake_timeout=1000
        )
        address = server.sockets[0].getsockname()

        async def vanish() -> None:
            already = accepted
            sock = socket.create_connection(address)
            sock.sendall(first)
            await until(lambda: accepted > already)
            GOING[going](sock)
            await until(lambda: not server._transports)

        async with nothing_left_open():
            await leaves_nothing(vanish, 60)
        server.close()
        await server.wait_closed()

    program()


@pytest.mark.parametrize("how", [*GOING, "is given up"])
def test_a_server_that_vanishes_in_the_handshake_leaves_neither_timer_nor_transport(
    ca: Authority, how: str
) -> None:
    context = ca.client_context()

    @on_noria
    async def program() -> None:
        loop = loop_()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)

            async def vanish() -> None:
                connecting = asyncio.create_task(
                    loop.create_connection(
                        Echo,
                        *listener.getsockname(),
                        ssl=context,
                        server_hostname="localhost",
                        ssl_handshake_timeout=1000,
                    )
                )
                sock, _ = await loop.sock_accept(listener)
                with sock:
                    await loop.sock_recv(sock, 1 << 16)
                    if how == "is given up":
                        connecting.cancel()
                    else:
                        GOING[how](sock)
                    with pytest.raises((ConnectionError, asyncio.CancelledError)):
                        await connecting

            async with nothing_left_open():
                await leaves_nothing(vanish, 60)

    program()
