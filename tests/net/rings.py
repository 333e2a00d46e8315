"""How the tests of the io_uring driver run a program on a ring, and what must not be left of it."""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import until
from noria.io.choice import refusal
from support.leaks import no_descriptors_left

refused = refusal()
needs_ring = pytest.mark.skipif(refused is not None, reason=f"io_uring: {refused}")
DEADLINE = 30

# A filter that answers an error (EPERM) to a system call (io_uring_setup(2)), as container runtimes' do, for this process
# and its children: seccomp(2). `deny` needs no privilege. 426 is io_uring_enter(2), 427 io_uring_register(2).
DENY = """
import ctypes, struct
def deny(call=425, error=1):
    def op(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
    code = [op(0x20, 0, 0, 0), op(0x15, 0, 1, call), op(0x06, 0, 0, 0x00050000 | error), op(0x06, 0, 0, 0x7fff0000)]
    text = ctypes.create_string_buffer(b"".join(code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(text)))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
    assert libc.prctl(22, ctypes.c_ulong(2), program) == 0, ctypes.get_errno()
"""


def held() -> dict[str, int]:
    """The memory that the kernel shares with rings or holds for them: mappings of rings; KiB that are locked or pinned."""
    status = Path("/proc/self/status").read_text()
    sizes = dict(line.split(":", 1) for line in status.splitlines() if line.startswith(("VmLck:", "VmPin:")))
    found = {name: int(size.split()[0]) for name, size in sizes.items()}
    found["rings"] = Path("/proc/self/maps").read_text().count("[io_uring]")
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Raises AssertionError when the block is left with descriptors, mappings of rings or locked memory more than before."""
    gc.collect()
    before = held()
    with no_descriptors_left():
        yield
    assert held() == before


def on_ring(program: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test `program`, run by a loop on io_uring; fails on any report of the loop, and if anything is left."""

    @needs_ring
    def test() -> None:
        with nothing_left():
            run(program)

    test.__name__, test.__doc__ = program.__name__, program.__doc__
    return test


def run(program: Callable[[], Coroutine[Any, Any, None]], driver: str = "io_uring") -> None:
    """Run the program on a loop of its own; fails on any report of the loop."""
    seen: list[dict[str, Any]] = []
    loop = noria.new_event_loop(driver=driver)
    loop.set_exception_handler(lambda _, report: seen.append(report))
    try:
        loop.run_until_complete(asyncio.wait_for(program(), DEADLINE))
    finally:
        loop.close()
        gc.collect()
    assert not seen


class Peer(asyncio.Protocol):
    """Keeps what comes; `echo`: sends it back."""

    echo = False

    def __init__(self) -> None:
        self.got = bytearray()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.got += data
        if self.echo:
            self.transport.write(data)

    def connection_lost(self, _: BaseException | None) -> None:
        self.closed = True


class Echo(Peer):
    echo = True


def in_company() -> None:
    """Have something ready behind the caller: only then the io_uring driver gathers what is written."""
    asyncio.get_running_loop().call_soon(int)


async def pairs(count: int, kind: type[Peer] = Peer) -> tuple[asyncio.AbstractServer, list[Peer], list[Peer]]:
    """A server with so many connections, and the protocols at both ends in the same order."""
    loop = asyncio.get_running_loop()
    near: list[Peer] = []
    far: list[Peer] = []

    def made() -> Peer:
        far.append(kind())
        return far[-1]

    server = await loop.create_server(made, "127.0.0.1", 0, backlog=1024)
    for _ in range(count):
        _, protocol = await loop.create_connection(Peer, *server.sockets[0].getsockname())
        near.append(protocol)
        await until(lambda: len(far) == len(near))
    return server, near, far


async def end(server: asyncio.AbstractServer, *peers: Peer) -> None:
    for peer in peers:
        peer.transport.close()
    server.close()
    await until(lambda: all(peer.closed for peer in peers))
