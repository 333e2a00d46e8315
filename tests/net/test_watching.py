"""add_reader and add_writer: callbacks for descriptors the program owns, and for nothing else."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from core.running import new_loop, on_noria, reports, turns, until
from net.peers import connected, pair


@on_noria
async def test_a_reader_is_called_as_long_as_there_is_something_to_read() -> None:
    loop = asyncio.get_running_loop()
    near, far = pair()
    seen: list[bytes] = []
    with near, far:
        loop.add_reader(near, lambda *a: seen.append(near.recv(1) + bytes(a)), 65)
        far.send(b"xyz")
        await until(lambda: len(seen) == 3)
        assert seen == [b"xA", b"yA", b"zA"]
        assert loop.remove_reader(near)
        assert not loop.remove_reader(near)
        far.send(b"more")
        await asyncio.sleep(0.002)
        assert len(seen) == 3


@on_noria
async def test_a_writer_is_called_while_there_is_room() -> None:
    loop = asyncio.get_running_loop()
    near, far = pair()
    calls: list[int] = []
    with near, far:
        loop.add_writer(near.fileno(), calls.append, 1)
        await until(lambda: len(calls) > 3)
        assert loop.remove_writer(near.fileno())
        count = len(calls)
        await asyncio.sleep(0.002)
        assert len(calls) == count
        assert not loop.remove_writer(near)


@on_noria
async def test_reader_and_writer_of_one_descriptor_come_and_go_by_themselves() -> None:
    loop = asyncio.get_running_loop()
    near, far = pair()
    seen: list[str] = []
    with near, far:
        loop.add_reader(near, lambda: seen.append(near.recv(10).decode()))
        loop.add_writer(near, seen.append, "room")
        await until(lambda: "room" in seen)
        loop.remove_writer(near)
        seen.clear()
        far.send(b"still read")
        await until(lambda: seen)
        assert seen == ["still read"]
        loop.add_writer(near, seen.append, "room")
        loop.remove_reader(near)
        seen.clear()
        far.send(b"not read")
        await until(lambda: len(seen) > 3)
        assert set(seen) == {"room"}
        loop.remove_writer(near)


@on_noria
async def test_adding_again_replaces_the_callback() -> None:
    loop = asyncio.get_running_loop()
    near, far = pair()
    seen: list[str] = []
    with near, far:
        far.send(b"x")
        loop.add_reader(near, seen.append, "old")
        loop.add_reader(near, seen.append, "new")
        await until(lambda: len(seen) > 2)
        assert set(seen) == {"new"}
        loop.remove_reader(near)


@on_noria
async def test_a_reader_may_remove_itself_or_another_that_is_ready_too() -> None:
    loop = asyncio.get_running_loop()
    pairs = [pair() for _ in range(10)]
    called: list[int] = []

    def only_one(n: int) -> None:
        called.append(n)
        for near, _ in pairs:
            loop.remove_reader(near)

    for n, (near, far) in enumerate(pairs):
        far.send(b"x")
        loop.add_reader(near, only_one, n)
    await asyncio.sleep(0.005)
    assert len(called) == 1
    for near, far in pairs:
        near.close()
        far.close()


@on_noria
async def test_an_event_of_a_closed_descriptor_does_not_reach_the_one_that_got_its_number() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(20):
        near, far = pair()
        first, first_far = pair()
        seen: list[str] = []
        number = near.fileno()

        def swap(near: Any = near, seen: Any = seen, first: Any = first) -> None:
            # in the same batch of events as near's own: near is closed, another socket gets its number
            loop.remove_reader(first)
            loop.remove_reader(near)
            near.close()
            replacement, other = pair()
            fresh.extend([replacement, other])
            loop.add_reader(replacement, seen.append, "event of another")

        fresh: list[socket.socket] = []
        loop.add_reader(first, swap)
        loop.add_reader(near, lambda: None)
        first_far.send(b"x")
        far.send(b"x")
        await until(lambda: fresh)
        await turns(5)
        assert fresh[0].fileno() == number or fresh[1].fileno() == number
        assert seen == []
        fresh[1].send(b"y")
        await until(lambda: seen)
        loop.remove_reader(fresh[0])
        for sock in (first, first_far, far, *fresh):
            sock.close()


@on_noria
async def test_nor_does_it_if_a_transport_closes_and_opens_them_while_events_are_handed_out() -> None:
    # Protocols are called while the kernel's list of events is being gone through, others from the ready queue.
    loop = asyncio.get_running_loop()
    seen: list[bytes] = []
    replaced: list[socket.socket] = []
    near, far = socket.socketpair()
    old, old_far = socket.socketpair()
    for sock in (near, old):
        sock.setblocking(False)

    class Replaces(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            number = old.fileno()
            loop.remove_reader(old)
            old.close()
            replaced.extend(socket.socketpair())
            assert replaced[0].fileno() == number
            replaced[0].setblocking(False)
            loop.add_reader(replaced[0], lambda: seen.append(replaced[0].recv(10)))

    transport, _ = await loop.create_connection(Replaces, sock=near)
    loop.add_reader(old, lambda: seen.append(b"old"))
    await asyncio.sleep(0.001)
    far.send(b"first")  # the kernel reports in the order of arrival
    old_far.send(b"second")
    await until(lambda: replaced)
    await turns(3)
    assert seen == []  # a call would have found nothing to read, and raised
    replaced[1].send(b"new")
    await until(lambda: seen)
    assert seen == [b"new"]
    loop.remove_reader(replaced[0])
    transport.close()
    for sock in (far, old_far, *replaced):
        sock.close()


@on_noria
async def test_a_descriptor_closed_without_remove_reader_and_opened_again_is_watched_anew() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    near, far = pair()
    number = near.fileno()
    loop.add_reader(near, seen.append, "old")
    near.close()
    far.close()
    near, far = pair()
    with near, far:
        assert near.fileno() == number
        loop.add_reader(near, seen.append, "new")
        await turns(3)
        assert seen == []
        far.send(b"x")
        await until(lambda: seen)
        assert set(seen) == {"new"}
        loop.remove_reader(near)


@on_noria
async def test_the_end_and_errors_of_a_descriptor_wake_its_reader_and_writer() -> None:
    loop = asyncio.get_running_loop()
    near, far = pair()
    seen: list[str] = []
    with near:
        loop.add_reader(near, lambda: (seen.append("read"), loop.remove_reader(near)))
        far.close()
        await until(lambda: seen)
    out, into = os.pipe()
    os.set_blocking(into, False)
    while True:
        try:
            os.write(into, bytes(4096))
        except BlockingIOError:
            break
    loop.add_writer(into, lambda: (seen.append("write"), loop.remove_writer(into)))
    await turns(2)
    assert seen == ["read"]
    os.close(out)
    await until(lambda: len(seen) == 2)
    os.close(into)


def test_what_the_kernel_cannot_watch_is_refused(tmp_path: Path) -> None:
    with new_loop() as loop, (tmp_path / "file").open("wb") as file:
        for add in (loop.add_reader, loop.add_writer):
            with pytest.raises(PermissionError):
                add(file, print)
        assert not loop.remove_reader(file)
        closed = socket.socket()
        number = closed.fileno()
        closed.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            loop.add_reader(number, print)
        for wrong in (-1, None, "text", object(), closed, 1.5):
            with pytest.raises((ValueError, TypeError)):
                loop.add_reader(wrong, print)  # type: ignore[arg-type]
            with pytest.raises((ValueError, TypeError)):
                loop.remove_writer(wrong)  # type: ignore[arg-type]


@on_noria
async def test_a_descriptor_of_a_transport_is_not_for_the_program() -> None:
    loop = asyncio.get_running_loop()
    async with connected() as (transport, _, _far):
        number = transport.get_extra_info("socket").fileno()
        for call in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                call(number, print)
        for remove in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                remove(number)


@on_noria
async def test_an_error_in_a_reader_is_reported_and_the_others_run() -> None:
    loop = asyncio.get_running_loop()
    near, far = pair()
    with near, far, reports() as seen:

        def broken() -> None:
            near.recv(1)
            raise ZeroDivisionError

        loop.add_reader(near, broken)
        far.send(b"x")
        await until(lambda: seen)
        loop.remove_reader(near)
        assert isinstance(seen.pop()["exception"], ZeroDivisionError)


@on_noria
async def test_high_descriptor_numbers_work() -> None:
    import fcntl
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    near, far = pair()
    high = fcntl.fcntl(near.fileno(), fcntl.F_DUPFD_CLOEXEC, min(limit - 1, 900))
    seen: list[int] = []
    asyncio.get_running_loop().add_reader(high, seen.append, 1)
    far.send(b"x")
    await until(lambda: seen)
    asyncio.get_running_loop().remove_reader(high)
    os.close(high)
    near.close()
    far.close()


@on_noria
async def test_hundreds_of_descriptors_ready_at_once_are_all_heard() -> None:
    loop = asyncio.get_running_loop()
    pairs = [pair() for _ in range(300)]
    seen: set[int] = set()

    def heard(n: int, near: socket.socket) -> None:
        near.recv(1)
        seen.add(n)

    for n, (near, far) in enumerate(pairs):
        loop.add_reader(near, heard, n, near)
        far.send(b"x")
    await until(lambda: len(seen) == 300)
    for near, far in pairs:
        loop.remove_reader(near)
        near.close()
        far.close()
