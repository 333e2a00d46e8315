"""Files when things go wrong: cancellations at random, loops that end with everything under way, forks, a kernel that
gives no ring, threads that are stuck."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import random
import resource
import signal
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import python
from files.loops import WAYS, Run, runner
from noria import files
from noria.files import engine
from support.leaks import no_descriptors_left
from test_forks import ended, forked

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


async def all_back() -> None:
    """Wait until the running loop's files have nothing under way."""
    found = engine.engine_for(asyncio.get_running_loop())
    while found.under_way:
        await asyncio.sleep(0.001)


# Cancelling.


@pytest.mark.usefixtures("no_leaks")
def test_thousands_of_operations_cancelled_at_random_leave_nothing(run: Run, tmp_path: Path) -> None:
    chance = random.Random(7)
    content = os.urandom(100_000)
    for i in range(10):
        (tmp_path / str(i)).write_bytes(content)

    async def one(i: int) -> None:
        path = tmp_path / str(i % 10)
        kind = i % 5
        if kind == 0:
            async with noria.open(path, "rb") as f:
                assert await f.read() == content
        elif kind == 1:
            async with noria.open(tmp_path / f"new{i}", "wb") as f:
                await f.write(content)
                await f.flush()
        elif kind == 2:
            assert (await files.stat(path)).st_size == len(content)
        elif kind == 3:
            await files.write_bytes(tmp_path / f"saved{i % 7}", content, atomic=True)
        else:
            assert await files.pread(plain, 5000, 77) == content[77:5077]

    async def main() -> None:
        for _ in range(20):
            tasks = [asyncio.ensure_future(one(i)) for i in range(100)]
            for task in tasks:
                if chance.random() < 0.7:
                    for _ in range(chance.randrange(3)):
                        await asyncio.sleep(0)
                    task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), repr(result)
        await all_back()
        for path in tmp_path.glob("saved*"):
            assert path.read_bytes() == content
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

    with open(tmp_path / "0", "rb") as plain:
        run(main())


@pytest.mark.usefixtures("no_leaks")
def test_what_is_written_while_its_task_is_cancelled_stays_in_order(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with noria.open(tmp_path / "a", "wb", buffering=1000) as f:
            for i in range(200):
                task = asyncio.ensure_future(f.write(b"%04d" % i * 250))
                await asyncio.sleep(0)
                if i % 3 == 0:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        data = (tmp_path / "a").read_bytes()
        blocks = [data[at : at + 1000] for at in range(0, len(data), 1000)]
        numbers = [int(block[:4]) for block in blocks]
        assert all(block == block[:4] * 250 for block in blocks)
        assert numbers == sorted(set(numbers)) and len(numbers) > 100

    run(main())


@pytest.mark.usefixtures("no_leaks")
def test_a_cancelled_readinto_keeps_its_buffer_until_the_kernel_is_done_with_it(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(bytes(4_000_000))

    async def main() -> None:
        with open(tmp_path / "a", "rb") as plain:
            for _ in range(20):
                room = bytearray(4_000_000)
                task = asyncio.ensure_future(files.readinto(plain, room, 0))
                await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                del room
            await all_back()

    run(main())


# The loop's end.


@pytest.mark.parametrize("way", WAYS[:3])
def test_a_loop_closes_with_everything_under_way(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    os.mkfifo(tmp_path / "fifo")
    r, w = os.pipe()
    fd = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)

    async def main() -> None:
        f = await noria.open(r, "rb")
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(f.read())]
        tasks += [asyncio.ensure_future(files.pwrite(fd, bytes(2_000_000), i * 2_000_000)) for i in range(10)]
        tasks += [asyncio.ensure_future(files.pread(fd, 2_000_000, i * 1000)) for i in range(10)]
        tasks += [asyncio.ensure_future(files.write_bytes(tmp_path / f"{i}", b"x")) for i in range(100)]
        tasks += [asyncio.ensure_future(files.stat(tmp_path)) for i in range(100)]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in tasks:  # or each would be reported as destroyed
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        kept.append((f, tasks))

    kept: list[Any] = []
    began = time.monotonic()
    with pytest.warns(ResourceWarning, match="unclosed file"):
        runner(way, monkeypatch)(main())
        assert time.monotonic() - began < 30
        kept.clear()
        import gc

        gc.collect()
    os.close(w)
    os.close(fd)


@pytest.mark.parametrize("way", WAYS)
def test_neither_a_silent_pipe_nor_a_lonely_fifo_holds_up_the_end_of_the_process(
    way: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    runs = "asyncio.run" if "asyncio" in way else "noria.run"
    done = python(f"""
import asyncio, os, noria
async def main():
    f = await noria.open(os.pipe()[0], "rb")
    reading = asyncio.ensure_future(f.read())
    opening = asyncio.ensure_future(noria.open({str(tmp_path / "fifo")!r}).__aenter__())
    await asyncio.sleep(0.05)
    print("over")
os.environ["NORIA_FILES"] = {way if way == "threads" else ""!r}
{runs}(main())
""")
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr


def test_two_loops_in_two_threads(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def one(name: str) -> None:
        async def main() -> None:
            for i in range(100):
                await files.write_bytes(tmp_path / name, b"%d" % i * 1000)
                async with noria.open(tmp_path / name, "rb") as f:
                    assert await f.read() == b"%d" % i * 1000

        try:
            noria.run(main())
        except BaseException as error:
            failures.append(error)

    with no_descriptors_left():
        threads = [threading.Thread(target=one, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


# Forks.


@pytest.mark.parametrize("way", WAYS[:2])
def test_a_fork_leaves_the_parents_files_alone(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)

    def child() -> None:
        async def main() -> None:
            assert await files.read_bytes(tmp_path / "a") == content
            await files.write_bytes(tmp_path / "child", b"written")

        asyncio.set_event_loop(None)
        asyncio._set_running_loop(None)
        noria.run(main())

    async def main() -> None:
        r, w = os.pipe()
        f = await noria.open(r, "rb")
        reading = asyncio.ensure_future(f.read(3))
        others = [asyncio.ensure_future(files.read_bytes(tmp_path / "a")) for _ in range(5)]
        await asyncio.sleep(0)
        pid = forked(child)
        assert await ended(pid) == 0
        assert (tmp_path / "child").read_bytes() == b"written"
        assert await asyncio.gather(*others) == [content] * 5
        os.write(w, b"abc")
        assert await reading == b"abc"
        await f.close()
        os.close(w)

    runner(way, monkeypatch)(main())


# A system that refuses.


def refuse_io_uring() -> None:
    """From now on io_uring_setup(2) fails with EPERM in this process, as container runtimes have it (seccomp(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, 425),
        (0x06, 0, 0, 0x00050000 | errno.EPERM),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, header, 0, 0) == 0, os.strerror(ctypes.get_errno())  # PR_SET_SECCOMP, a filter


async def use_files(directory: Path) -> None:
    async with noria.open(directory / "a", "w") as f:
        await f.write("text\n" * 10_000)
    async with noria.open(directory / "a") as f:
        assert [line async for line in f] == ["text\n"] * 10_000
    await files.write_bytes(directory / "b", b"b", fsync=True)
    assert await files.read_bytes(directory / "b") == b"b"
    assert (await files.stat(directory / "b")).st_size == 1


def test_where_the_kernel_gives_no_ring_threads_do_it(tmp_path: Path) -> None:
    def child() -> None:
        refuse_io_uring()

        async def main() -> None:
            found = engine.engine_for(asyncio.get_running_loop())
            found.at_once = False
            assert found.kind == "threads"
            assert found.refused.errno == errno.EPERM
            await use_files(tmp_path)

        noria.run(main())

    assert asyncio.run(ended(forked(child))) == 0


def test_a_file_larger_than_the_limit_is_an_error(tmp_path: Path) -> None:
    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

        async def main() -> None:
            f = await noria.open(tmp_path / "a", "wb")
            with pytest.raises(OSError) as raised:
                for _ in range(3):
                    await f.write(bytes(70_000))
                await f.flush()
            assert raised.value.errno == errno.EFBIG
            with pytest.raises(OSError):
                await f.close()
            assert f.closed and (tmp_path / "a").stat().st_size == 100_000

        for way in ("threads", "io_uring"):
            os.environ["NORIA_FILES"] = way
            noria.run(main())

    assert asyncio.run(ended(forked(child))) == 0


def test_what_is_not_permitted_is_a_permission_error(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, who can become nobody")
    secret = Path(os.path.realpath("/")) / "dev" / "shm" / f"noria-secret-{os.getpid()}"
    secret.write_bytes(b"secret")
    secret.chmod(0o600)

    def child() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

        async def main() -> None:
            for mode in ("rb", "wb", "ab", "r+"):
                with pytest.raises(PermissionError) as raised:
                    await noria.open(secret, mode)
                assert raised.value.filename == str(secret)
            with pytest.raises(PermissionError):
                await files.unlink(secret)

        noria.run(main())

    try:
        assert asyncio.run(ended(forked(child))) == 0
    finally:
        secret.unlink()


def test_without_descriptors_opening_fails_and_then_works_again(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")

    async def main() -> None:
        assert await files.read_bytes(tmp_path / "a") == b"content"
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, limits[1]))
        try:
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            with pytest.raises(OSError) as raised:
                await noria.open(tmp_path / "a")
            assert raised.value.errno == errno.EMFILE
        finally:
            for fd in held:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert await files.read_bytes(tmp_path / "a") == b"content"

    run(main())


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no /dev/shm to write to")
def test_a_file_system_in_memory_is_served_alike(run: Run) -> None:
    content = os.urandom(700_000)

    async def main() -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            for _ in range(3):  # the first one finds out what the file lies on
                async with noria.open(f"{directory}/a", "wb") as f:
                    await f.write(content)
                    await f.flush()
                    await f.write(b"the end")
                async with noria.open(f"{directory}/a", "rb") as f:
                    assert await f.read() == content + b"the end"
            os.mkfifo(f"{directory}/fifo")
            holder = os.open(f"{directory}/fifo", os.O_RDWR)
            async with noria.open(f"{directory}/fifo", "rb") as f:  # not in memory by that: reading it waits
                reading = asyncio.ensure_future(f.read1(4))
                await asyncio.sleep(0.01)
                os.write(holder, b"late")
                assert await reading == b"late"
            os.close(holder)

    run(main())


@pytest.mark.usefixtures("no_leaks")
def test_a_close_that_is_cancelled_writes_and_closes_nevertheless(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        for i in range(200):
            f = await noria.open(tmp_path / f"{i}", "wb")
            await f.write(b"%d" % i * 1000)
            task = asyncio.ensure_future(f.close())
            for _ in range(i % 4):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if not f.closed:  # it was cancelled before it began
                await f.close()
        await all_back()
        for i in range(200):
            assert (tmp_path / f"{i}").read_bytes() == b"%d" % i * 1000

    run(main())


@pytest.mark.usefixtures("no_leaks")
def test_what_stands_in_line_is_done_before_its_file_is_closed(run: Run, tmp_path: Path) -> None:
    content = os.urandom(
        1_000_000
    )  # as much as is read on the spot: there is no time for a second one in a turn
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "other").write_bytes(bytes(1_000_000))

    async def main() -> None:
        for _ in range(20):
            descriptor = engine.Descriptor(os.open(tmp_path / "a", os.O_RDONLY), True)
            reads = [engine.read(descriptor, len(content), 0, False).start() for _ in range(9)]
            closing = engine.close(descriptor).start()
            others = []
            while not closing.done():  # one of them would get the number, were it free
                if len(others) < 20:
                    others.append(os.open(tmp_path / "other", os.O_RDONLY))
                await asyncio.sleep(0)
            for read in reads:
                assert await read == content
            for fd in others:
                os.close(fd)

    run(main())


def test_without_locked_memory_files_work(tmp_path: Path) -> None:
    def child() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)  # root may lock what it likes

        async def main() -> None:
            found = engine.engine_for(asyncio.get_running_loop())
            found.at_once = False
            # Kernels before 5.12 count a ring as locked memory and refuse it; later ones count it elsewhere.
            assert found.kind == "io_uring" or found.refused.errno in (errno.ENOMEM, errno.EPERM)
            await use_files(shared)

        noria.run(main())

    with tempfile.TemporaryDirectory() as directory:
        shared = Path(directory)
        shared.chmod(0o777)
        assert asyncio.run(ended(forked(child))) == 0


def test_without_a_ring_and_on_epoll_a_thousand_files_come_and_go(tmp_path: Path) -> None:
    def child() -> None:
        refuse_io_uring()
        os.environ["NORIA_DRIVER"] = "io_uring"  # refused as well

        async def one(i: int) -> None:
            async with noria.open(tmp_path / f"{i}", "wb") as f:
                await f.write(b"%d" % i * 100)
            assert await files.read_bytes(tmp_path / f"{i}") == b"%d" % i * 100

        async def main() -> None:
            await asyncio.gather(*[one(i) for i in range(300)])
            assert engine.engine_for(asyncio.get_running_loop()).kind == "threads"

        noria.run(main())

    assert asyncio.run(ended(forked(child))) == 0


@pytest.mark.parametrize("way", WAYS[:2])
def test_the_descriptor_of_a_cancelled_open_is_closed_and_no_thread_stays_stuck(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    for i in range(20):
        (tmp_path / f"{i}").write_bytes(b"content")
    chance = random.Random(11)

    async def one(i: int) -> None:
        f = await noria.open(tmp_path / f"{i % 20}", "r+b")
        try:
            await f.read()
            await f.seek(0)
            await f.write(b"CONTENT")
        finally:
            await f.close()

    async def main() -> None:
        for _ in range(40):
            tasks = [asyncio.ensure_future(one(i)) for i in range(50)]
            for task in tasks:
                for _ in range(chance.randrange(2)):
                    await asyncio.sleep(0)
                if chance.random() < 0.8:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await all_back()
        assert await asyncio.wait_for(files.read_bytes(tmp_path / "0"), 10) in (b"content", b"CONTENT")

    runner(way, monkeypatch)(main())
