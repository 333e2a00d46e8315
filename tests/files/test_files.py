"""noria.open and noria.files: what a program sees, in each of the ways in which files are served."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import os
import pty
import shutil
import stat
import tty
from pathlib import Path
from typing import Any

import pytest

import noria
from files.loops import Run
from noria import files


async def blocked(task: asyncio.Task[Any]) -> None:
    """Let the loop turn a few times; fail if the task ends."""
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not task.done(), f"{task!r} should be waiting"


# Opening.


def test_open_is_awaited_or_entered(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with noria.open(tmp_path / "a", "w") as f:
            assert (f.name, f.mode, f.closed, f.encoding.lower()) == (
                str(tmp_path / "a"),
                "w",
                False,
                "utf-8",
            )
            assert await f.write("ä\n") == 2
        assert f.closed
        g = await noria.open(str(tmp_path / "a").encode(), "rb")
        assert await g.read() == "ä\n".encode()
        assert os.fstat(g.fileno()).st_size == 3
        await g.close()
        await g.close()
        with pytest.raises(ValueError):
            g.fileno()
        assert isinstance(f, files.TextFile) and isinstance(g, files.BinaryFile)

    run(main())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("/dev/null", "rw"), ValueError),
        (("/dev/null", "rbt"), ValueError),
        (("/dev/null", ""), ValueError),
        (("/dev/null", "rb", -1, "utf-8"), ValueError),
        (("/dev/null", "r", 0), ValueError),
        (("/dev/null", "r", -1, "no such encoding"), LookupError),
        (("/dev/null", "r", -1, "hex"), LookupError),
        (("/dev/null", "r", -1, None, None, "\t"), ValueError),
        (("/dev/null", "r", -1, None, None, None, False), ValueError),
        ((-1,), ValueError),
        ((1.5,), TypeError),
        (("/dev/null", 3), TypeError),
    ],
)
def test_wrong_arguments_raise_what_io_raises(
    run: Run, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error) as theirs:
        open(*arguments)

    async def main() -> None:
        await noria.open(*arguments)

    with pytest.raises(error) as ours:
        run(main())
    if error is ValueError:
        assert str(ours.value) == str(theirs.value)


@pytest.mark.usefixtures("no_leaks")
def test_errors_are_those_of_the_system_and_name_the_path(run: Run, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"")

    async def main() -> None:
        for path, mode, error in (
            (tmp_path / "missing", "r", FileNotFoundError),
            (tmp_path, "rb", IsADirectoryError),
            (tmp_path, "wb", IsADirectoryError),
            (tmp_path / "there", "x", FileExistsError),
            (tmp_path / "there" / "below", "r", NotADirectoryError),
            (tmp_path / ("n" * 300), "r", OSError),
        ):
            with pytest.raises(error) as raised:
                await noria.open(path, mode)
            assert raised.value.filename == str(path)
        with pytest.raises(ValueError, match="null byte"):
            await noria.open("a\0b")

    run(main())


@pytest.mark.usefixtures("no_leaks")
def test_an_opener_and_a_descriptor(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    directory = os.open(tmp_path, os.O_RDONLY)

    async def main() -> None:
        async with noria.open("a", opener=lambda name, flags: os.open(name, flags, dir_fd=directory)) as f:
            assert await f.read() == "0123456789"
        fd = os.open(tmp_path / "a", os.O_RDWR)
        os.lseek(fd, 3, os.SEEK_SET)
        async with noria.open(fd, "rb", closefd=False) as g:
            assert await g.read(2) == b"34"
            assert g.name == fd
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5
        async with noria.open(fd, "rb"):
            pass
        with pytest.raises(OSError):
            os.fstat(fd)
        with pytest.raises(OSError) as raised:
            await noria.open(fd, "rb")
        assert raised.value.errno == errno.EBADF
        with pytest.raises(ValueError, match="opener returned"):
            await noria.open("a", opener=lambda name, flags: -1)

    try:
        run(main())
    finally:
        os.close(directory)


def test_what_it_cannot_do_is_an_unsupported_operation(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with noria.open(tmp_path / "a", "wb") as f:
            assert (
                await f.writable() and not await f.readable() and await f.seekable() and not await f.isatty()
            )
            for call in (f.read(), f.readline(), f.readinto(bytearray(1)), anext(f)):
                with pytest.raises(io.UnsupportedOperation):
                    await call
            with pytest.raises(TypeError):
                await f.write("text")  # type: ignore[arg-type]
        async with noria.open(tmp_path / "a") as g:
            with pytest.raises(io.UnsupportedOperation):
                await g.write("text")
            with pytest.raises(TypeError):
                await (await noria.open(tmp_path / "b", "w")).write(b"bytes")  # type: ignore[arg-type]
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed file"):
        run(main())


# Order, positions, buffers.


def test_operations_on_one_file_happen_in_the_order_in_which_they_were_begun(
    run: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with noria.open(tmp_path / "a", "w+b", buffering=64) as f:
            await asyncio.gather(*[f.write(b"%07d\n" % i) for i in range(500)])
            await f.seek(0)
            lines = await asyncio.gather(*[f.readline() for _ in range(500)])
            assert lines == [b"%07d\n" % i for i in range(500)]

    run(main())


@pytest.mark.usefixtures("no_leaks")
def test_large_files_come_and_go_whole(run: Run, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 5 + b"end"

    async def main() -> None:
        async with noria.open(tmp_path / "a", "wb") as f:
            for start in range(0, len(content), 77_777):
                await f.write(content[start : start + 77_777])
        assert (tmp_path / "a").read_bytes() == content
        async with noria.open(tmp_path / "a", "rb") as f:
            assert await f.read() == content
            assert await f.read() == b""
            await f.seek(0)
            parts = []
            while part := await f.read(77_777):
                parts.append(part)
            assert b"".join(parts) == content
            await f.seek(1)
            room = bytearray(len(content) + 10)
            assert await f.readinto(room) == len(content) - 1
            assert room[: len(content) - 1] == content[1:]
            await f.seek(0)
            assert b"".join([line async for line in f]) == content

    run(main())


def test_a_long_line_is_read_whole(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x" * 1_000_000 + "\n" + "y" * 9)

    async def main() -> None:
        async with noria.open(tmp_path / "a") as f:
            assert len(await f.readline()) == 1_000_001
            assert await f.readline() == "y" * 9
        async with noria.open(tmp_path / "a", "rb") as g:
            assert len(await g.readline()) == 1_000_001

    run(main())


def test_what_was_written_is_seen_by_others_after_a_flush_and_on_disk_after_fsync(
    run: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with noria.open(tmp_path / "a", "w") as f:
            await f.write("one")
            assert (tmp_path / "a").read_text() == ""
            await f.flush()
            assert (tmp_path / "a").read_text() == "one"
            await f.write("two")
            await f.fsync()
            assert (tmp_path / "a").read_text() == "onetwo"
        async with noria.open(tmp_path / "a", "w", buffering=1) as g:
            await g.write("a line\nand")
            assert (tmp_path / "a").read_text() == "a line\nand"

    run(main())


def test_appenders_do_not_overwrite_each_other(run: Run, tmp_path: Path) -> None:
    async def append(name: bytes) -> None:
        for _ in range(20):
            async with noria.open(tmp_path / "a", "ab") as f:
                await f.write(name * 99 + b"\n")

    async def main() -> None:
        await asyncio.gather(*[append(name) for name in (b"a", b"b", b"c")])

    run(main())
    lines = (tmp_path / "a").read_bytes().splitlines()
    assert sorted(lines) == sorted([name * 99 for name in (b"a", b"b", b"c")] * 20)


def test_an_unclosed_file_warns_and_loses_nothing(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        f = await noria.open(tmp_path / "a", "wb")
        await f.write(b"kept")

    with pytest.warns(ResourceWarning, match="unclosed file"):
        run(main())
        gc.collect()
    assert (tmp_path / "a").read_bytes() == b"kept"


# Errors of writing.


def test_a_full_disk_is_reported_and_the_file_is_closed(run: Run) -> None:
    async def main() -> None:
        f = await noria.open("/dev/full", "wb")
        await f.write(b"x")
        with pytest.raises(OSError) as raised:
            await f.flush()
        assert raised.value.errno == errno.ENOSPC
        with pytest.raises(OSError):
            await f.close()
        assert f.closed
        async with noria.open("/dev/full", "wb", buffering=0) as g:
            with pytest.raises(OSError):
                await g.write(b"x")
            with pytest.raises(OSError):
                await g.flush()
            g._pieces, g._gathered = [], 0  # or closing would raise it once more, as io's does

    run(main())


def test_an_error_of_writing_behind_comes_up_and_what_fits_is_written(
    run: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    import subprocess

    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path]).returncode
    ):
        pytest.skip("needs the right to mount a small tmpfs")
    request.addfinalizer(lambda: subprocess.run(["umount", tmp_path], check=True))

    async def main() -> None:
        f = await noria.open(tmp_path / "a", "wb", buffering=4096)
        with pytest.raises(OSError) as raised:
            for _ in range(200):
                await f.write(bytes(4096))
            await f.flush()
        assert raised.value.errno == errno.ENOSPC
        assert (tmp_path / "a").stat().st_size == 256 * 1024
        with pytest.raises(OSError):
            await f.close()

    run(main())


# What is no regular file.


@pytest.mark.usefixtures("no_leaks")
def test_a_pipe_is_read_as_it_comes_and_a_cancelled_read_takes_nothing(run: Run) -> None:
    async def main() -> None:
        r, w = os.pipe()
        async with noria.open(r, "rb") as f:
            assert not await f.seekable()
            for call in (f.tell(), f.seek(0)):
                with pytest.raises(OSError):
                    await call
            reading = asyncio.create_task(f.read(5))
            await blocked(reading)
            os.write(w, b"abc")
            await blocked(reading)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            os.write(w, b"defg\nrest")
            assert await f.readline() == b"abcdefg\n"
            assert await f.read1(2) == b"re"
            os.close(w)
            assert await f.read() == b"st"
            assert await f.read() == b""

    run(main())


@pytest.mark.usefixtures("no_leaks")
def test_a_read_of_a_silent_pipe_ends_with_its_file(run: Run) -> None:
    async def main() -> None:
        r, w = os.pipe()
        f = await noria.open(r, "r")
        reading = asyncio.create_task(f.readline())
        await blocked(reading)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await f.close()
        with pytest.raises(BrokenPipeError):
            os.write(w, b"nobody reads")
        os.close(w)

    run(main())


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])
def test_a_full_pipe_is_written_as_it_empties(run: Run, flags: int) -> None:
    content = os.urandom(300_000)

    async def main() -> None:
        r, w = os.pipe2(flags)
        async with noria.open(r, "rb") as reader, noria.open(w, "wb") as writer:

            async def write() -> None:
                await writer.write(content)
                await writer.close()

            writing = asyncio.create_task(write())
            await blocked(writing)
            assert await reader.read() == content
            await writing

    run(main())


@pytest.mark.usefixtures("no_leaks")
def test_a_fifo_waits_for_its_other_end(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    async def main() -> None:
        async def read() -> str:
            async with noria.open(tmp_path / "fifo") as f:
                return await f.read()

        reading = asyncio.create_task(read())
        await blocked(reading)
        async with noria.open(tmp_path / "fifo", "w") as f:
            await f.write("through")
        assert await reading == "through"
        alone = asyncio.create_task(read())
        await blocked(alone)
        alone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await alone
        if (tmp_path / "fifo").exists():  # a thread may be stuck in open(2): show it the other end
            with contextlib.suppress(OSError):
                os.close(os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK))

    run(main())


def test_a_terminal_is_line_buffered(run: Run) -> None:
    async def main() -> None:
        near, far = pty.openpty()
        tty.setraw(far)
        async with (
            noria.open(near, "r", closefd=False) as keys,
            noria.open(near, "w", closefd=False) as screen,
        ):
            assert await keys.isatty() and screen.line_buffering
            os.write(far, b"typed\n")
            assert await keys.readline() == "typed\n"
            await screen.write("shown\n")
            assert os.read(far, 100) == b"shown\n"
        os.close(near)
        os.close(far)

    run(main())


def test_devices_and_proc(run: Run) -> None:
    async def main() -> None:
        async with noria.open("/dev/zero", "rb") as f:
            assert await f.read(300_000) == bytes(300_000)
        async with noria.open("/dev/null", "r+b") as f:
            assert await f.read() == b""
            await f.write(b"x" * 200_000)
        async with noria.open("/proc/self/status") as g:
            assert (await g.readline()).startswith("Name:")
            assert "VmRSS" in await g.read()
        assert b"VmRSS" in await files.read_bytes("/proc/self/status")

    run(main())


# The page about it, and aiofiles.


def test_the_program_of_the_page_runs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    program = page.split("```python\n")[1].split("```")[0].replace("noria.run(main())", "")
    names: dict[str, Any] = {}
    exec(program, names)
    run(names["main"]())
    assert capsys.readouterr().out == (
        "The wheel turns,\nLIFTS WHAT IS READY,\nAND WAITS FOR THE RIVER.\nb'42' ['poem', 'state']\n"
    )


async def as_aiofiles_has_it(open_: Any, path: Path) -> list[Any]:
    """What a program for aiofiles does and sees, with either's open()."""
    seen: list[Any] = []
    async with open_(path, "w", encoding="utf-8", newline="") as f:
        seen += [f.name == path, f.mode, f.closed, f.encoding, f.errors, f.line_buffering, f.newlines]
        seen += [
            await f.write("ä1\r\n2\n"),
            await f.tell(),
            await f.writelines(["3\r", "4"]),
            await f.flush(),
        ]
        seen += [await f.seekable(), await f.writable(), await f.isatty(), isinstance(f.fileno(), int)]
        seen += [await f.truncate(9)]
    seen += [f.closed, path.read_bytes()]
    f = await open_(path, encoding="utf-8")
    seen += [
        await f.readline(),
        f.newlines,
        await f.read(1),
        await f.readlines(),
        await f.seek(0),
        await f.read(),
    ]
    await f.close()
    async with open_(path, "r+b") as f:
        seen += [
            await f.read(3),
            await f.tell(),
            await f.peek(2),
            await f.read1(2),
            await f.readinto(bytearray(2)),
        ]
        seen += [
            await f.seek(-1, 2),
            await f.write(b"end"),
            await f.seek(0),
            [line async for line in f],
            f.mode,
        ]
    for mode in ("rb", "wb", "ab", "x"):
        try:
            async with open_(path, mode) as f:
                seen += [await f.read()]
        except (OSError, ValueError) as error:
            seen.append(isinstance(error, ValueError))
    return seen


def test_a_program_for_aiofiles_sees_the_same(run: Run, tmp_path: Path) -> None:
    aiofiles = pytest.importorskip("aiofiles")

    async def main() -> None:
        theirs = await as_aiofiles_has_it(aiofiles.open, tmp_path / "theirs")
        ours = await as_aiofiles_has_it(noria.open, tmp_path / "ours")
        assert ours == theirs
        await asyncio.get_running_loop().shutdown_default_executor()

    run(main())


# noria.files.


def test_whole_files(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a"
        assert await files.write_bytes(path, b"one" * 99_999) == 299_997
        assert await files.read_bytes(path) == b"one" * 99_999
        assert await files.write_bytes(path, memoryview(b"two")) == 3
        assert await files.write_bytes(path, b"three", append=True) == 5
        assert await files.read_text(path) == "twothree"
        assert await files.write_text(path, "ä\n", "latin-1", newline="\r\n") == 2
        assert path.read_bytes() == b"\xe4\r\n"
        assert await files.read_text(path, "latin-1") == "ä\n"
        with pytest.raises(UnicodeDecodeError):
            await files.read_text(path, "utf-8")
        with pytest.raises(UnicodeEncodeError):
            await files.write_text(path, "ä", "ascii")
        assert path.read_bytes() == b"\xe4\r\n"
        with pytest.raises(FileNotFoundError) as raised:
            await files.read_bytes(tmp_path / "missing")
        assert raised.value.filename == tmp_path / "missing"
        with pytest.raises(IsADirectoryError):
            await files.read_bytes(tmp_path)

    run(main())


def test_an_atomic_write_is_seen_whole_or_not_at_all(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a"
        path.write_bytes(b"old")
        path.chmod(0o640)
        old = await noria.open(path, "rb")
        assert await files.write_bytes(path, b"new", atomic=True, fsync=True) == 3
        assert await old.read() == b"old" and path.read_bytes() == b"new"
        await old.close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        with pytest.raises(OSError):
            await files.write_bytes(tmp_path / "no" / "a", b"x", atomic=True)
        (tmp_path / "directory").mkdir()
        with pytest.raises(IsADirectoryError):
            await files.write_bytes(tmp_path / "directory", b"x", atomic=True)
        assert sorted(os.listdir(tmp_path)) == ["a", "directory"]
        with pytest.raises(ValueError):
            await files.write_bytes(path, b"x", atomic=True, append=True)

    run(main())


def test_bytes_at_an_offset(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        with open(tmp_path / "a", "w+b") as plain:
            assert await files.pwrite(plain, b"0123456789", 5) == 10
            assert await files.pread(plain.fileno(), 4, 5) == b"0123"
            assert await files.pread(plain, 100, 10) == b"56789"
            assert await files.pread(plain, 100, 100) == b""
            room = bytearray(20)
            assert await files.readinto(plain, room, 5) == 10
            assert room == b"0123456789" + bytes(10)
            await files.fsync(plain)
            await files.fdatasync(plain)
            assert plain.tell() == 0
            with pytest.raises(ValueError):
                files.pread(plain, -1, 0)
        with pytest.raises(ValueError):
            files.pread(plain, 1, 0)

    run(main())


@pytest.mark.usefixtures("no_leaks")
def test_names_and_directories(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        a, b, d = tmp_path / "a", tmp_path / "b", tmp_path / "d"
        await files.mkdir(d)
        await files.makedirs(d / "e" / "f")
        await files.makedirs(d / "e" / "f", exist_ok=True)
        for error, call in (
            (FileExistsError, files.mkdir(d)),
            (FileNotFoundError, files.unlink(a)),
            (FileNotFoundError, files.stat(a)),
            (FileNotFoundError, files.rename(a, b)),
            (OSError, files.rmdir(d)),
        ):
            with pytest.raises(error) as raised:
                await call
            assert raised.value.filename in (a, d)
        await files.write_bytes(a, b"content")
        await files.link(a, b)
        await files.symlink("a", tmp_path / "s")
        assert await files.readlink(tmp_path / "s") == "a"
        expected = os.stat(a)
        found = await files.stat(a)
        assert found == expected
        for name in (
            "st_atime",
            "st_mtime",
            "st_ctime_ns",
            "st_mtime_ns",
            "st_blksize",
            "st_blocks",
            "st_rdev",
        ):
            assert getattr(found, name) == getattr(expected, name)
        fd = os.open(a, os.O_RDONLY)
        assert await files.stat(fd) == expected
        os.close(fd)
        assert await files.stat(tmp_path / "s") == expected
        assert stat.S_ISLNK((await files.lstat(tmp_path / "s")).st_mode)
        assert await files.exists(a) and not await files.exists(tmp_path / "none")
        assert await files.isfile(a) and await files.isdir(d) and not await files.isfile(d)
        await files.replace(a, tmp_path / "c")
        await files.truncate(b, 3)
        assert (tmp_path / "c").read_bytes() == b"con"
        assert sorted(await files.listdir(tmp_path)) == ["b", "c", "d", "s"]
        entries = {entry.name: entry.is_dir() for entry in await files.scandir(tmp_path)}
        assert entries == {"b": False, "c": False, "d": True, "s": False}
        await files.remove(b)
        await files.rmdir(d / "e" / "f")
        assert not (d / "e" / "f").exists()

    run(main())


@pytest.mark.usefixtures("no_leaks")
def test_copies(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        a, b = tmp_path / "a", tmp_path / "b"
        a.write_bytes(os.urandom(3_000_000))
        b.write_bytes(bytes(5_000_000))
        assert await files.copyfile(a, b) == b
        assert a.read_bytes() == b.read_bytes()
        shm = Path("/dev/shm") / f"noria-{os.getpid()}"
        try:  # another file system
            await files.copyfile(a, shm)
            assert a.read_bytes() == shm.read_bytes()
        finally:
            shm.unlink()
        await files.copyfile("/proc/version", b)
        assert b.read_bytes() == Path("/proc/version").read_bytes()
        (tmp_path / "s").symlink_to("a")
        await files.copyfile(tmp_path / "s", tmp_path / "t", follow_symlinks=False)
        assert (tmp_path / "t").is_symlink()
        with pytest.raises(shutil.SameFileError):
            await files.copyfile(a, tmp_path / "s")
        with pytest.raises(FileNotFoundError):
            await files.copyfile(tmp_path / "none", b)
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(shutil.SpecialFileError):
            await files.copyfile(tmp_path / "fifo", b)

    run(main())
