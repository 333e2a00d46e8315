"""Small files in batches: right, whole, never over what is there unless told to, and each told its own error."""

import asyncio
import errno
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import noria
from noria.get import smallfiles
from noria.get.filebatch import FileBatch


def run(main: Callable[[FileBatch], Coroutine[Any, Any, None]]) -> None:
    async def with_batch() -> None:
        batch = FileBatch()
        await main(batch)
        batch.close()

    noria.run(with_batch())


def test_many_files_at_once_are_each_right(tmp_path: Path) -> None:
    async def main(batch: FileBatch) -> None:
        names = [str(tmp_path / f"f{number}") for number in range(300)]
        stamps = await asyncio.gather(
            *(batch.whole(name, [name.encode(), b"!" * 5000], overwrite=False) for name in names)
        )
        for name, stamp in zip(names, stamps, strict=True):
            assert Path(name).read_bytes() == name.encode() + b"!" * 5000
            found = os.stat(name)
            assert (stamp.size, stamp.inode) == (found.st_size, found.st_ino)
            assert stamp.mtime == pytest.approx(found.st_mtime, abs=1e-3)
        assert len(os.listdir(tmp_path)) == 300

    run(main)


def test_a_name_that_is_taken_fails_alone_and_stays(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"old")
    (tmp_path / "link").symlink_to("nowhere")

    async def main(batch: FileBatch) -> None:
        names = ["a", "taken", "link", "no/directory", "b"]
        results = await asyncio.gather(
            *(batch.whole(str(tmp_path / name), [b"new"], overwrite=False) for name in names),
            return_exceptions=True,
        )
        assert [type(result).__name__ for result in results] == [
            "Stamp",
            "FileExistsError",
            "FileExistsError",
            "FileNotFoundError",
            "Stamp",
        ]
        await batch.whole(str(tmp_path / "taken"), [], overwrite=True)

    run(main)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "link", "taken"]
    assert (tmp_path / "taken").read_bytes() == b""


def do(path: Path, data: bytes, steps: int, *, overwrite: bool = False) -> tuple[int, int, int]:
    """Error number, size and inode of what a writer made of it."""
    writer = smallfiles.Writer()
    writer.add(os.fsencode(path) + b".part", os.fsencode(path), data, overwrite, steps, "receipt")
    writer.start()
    assert select.select([writer], [], [], 10)[0]
    ((receipt, name, done, error, size, inode, _),) = writer.take()
    assert (receipt, name, done) == ("receipt", os.fsencode(path), steps)
    assert not select.select([writer], [], [], 0)[0]
    writer.close()
    return error, size, inode


def test_the_two_steps_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    error, size, inode = do(path, b"abc", smallfiles.WRITE)
    assert os.listdir(tmp_path) == ["x.part"]
    assert (error, size, inode) == (0, 3, os.stat(tmp_path / "x.part").st_ino)

    assert do(path, b"", smallfiles.PUBLISH)[0] == 0
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_bytes() == b"abc"


def test_a_part_can_be_taken_back(tmp_path: Path) -> None:
    assert do(tmp_path / "x", b"abc", smallfiles.WRITE)[0] == 0
    assert do(tmp_path / "x", b"", smallfiles.REMOVE)[0] == 0
    assert os.listdir(tmp_path) == []


def test_a_name_taken_between_the_two_steps_stays_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert do(path, b"ours", smallfiles.WRITE)[0] == 0
    path.write_bytes(b"theirs")

    assert do(path, b"", smallfiles.PUBLISH)[0] == errno.EEXIST
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_bytes() == b"theirs"

    assert do(path, b"ours", smallfiles.WRITE | smallfiles.PUBLISH, overwrite=True)[0] == 0
    assert path.read_bytes() == b"ours"


def test_a_writer_that_is_dropped_with_work_leaves_no_threads_and_no_memory(tmp_path: Path) -> None:
    data = b"x" * 100
    before = sys.getrefcount(data)
    writer = smallfiles.Writer()
    for number in range(1000):
        name = os.fsencode(tmp_path / str(number))
        writer.add(name + b".part", name, data, False, smallfiles.WRITE, None)
        if number == 500:
            writer.start()
    writer.close()
    del writer
    deadline = time.monotonic() + 10
    while sys.getrefcount(data) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sys.getrefcount(data) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "noria-get-writer"]


def test_a_part_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x.part").symlink_to(tmp_path / "elsewhere")

    async def main(batch: FileBatch) -> None:
        with pytest.raises(OSError):
            await batch.whole(str(tmp_path / "x"), [b"new"], overwrite=False)

    run(main)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("part", "path", "data"),
    [(None, b"b", b""), (b"a\0b", b"b", b""), (b"a", b"b\0", b""), (b"a", "b", b""), (b"a", b"b", 5)],
)
def test_what_is_no_task_is_refused(part: Any, path: Any, data: Any) -> None:
    writer = smallfiles.Writer()
    with pytest.raises((TypeError, ValueError)):
        writer.add(part, path, data, False, smallfiles.WRITE, None)
    writer.close()
