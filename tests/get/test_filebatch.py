"""Small files in batches: right, whole, never over what is there unless told to, and each told its own error."""

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import noria
from noria.get import smallfiles
from noria.get.filebatch import FileBatch


def run(main: Callable[[FileBatch], Coroutine[Any, Any, None]]) -> None:
    async def with_pool() -> None:
        with ThreadPoolExecutor(2) as pool:
            batch = FileBatch(pool)
            await main(batch)
            batch.close()

    noria.run(with_pool())


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


def test_the_two_steps_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    task = (os.fsencode(path) + b".part", os.fsencode(path), b"abc", False)

    ((error, size, inode, _),) = smallfiles.run([task], publish=False)
    assert os.listdir(tmp_path) == ["x.part"]
    assert (error, size, inode) == (0, 3, os.stat(tmp_path / "x.part").st_ino)

    assert smallfiles.run([task], write=False)[0][0] == 0
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_bytes() == b"abc"


def test_a_name_taken_between_the_two_steps_stays_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "x"
    task = (os.fsencode(path) + b".part", os.fsencode(path), b"ours", False)
    assert smallfiles.run([task], publish=False)[0][0] == 0
    path.write_bytes(b"theirs")

    assert smallfiles.run([task], write=False)[0][0] == errno.EEXIST
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_bytes() == b"theirs"


def test_a_part_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x.part").symlink_to(tmp_path / "elsewhere")

    async def main(batch: FileBatch) -> None:
        with pytest.raises(OSError):
            await batch.whole(str(tmp_path / "x"), [b"new"], overwrite=False)

    run(main)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "task",
    [
        (None, None, b"", False),
        (b"a\0b", b"b", b"", False),
        (b"a", b"b", None, False),
        (b"a", "b", b"", False),
        (b"a", b"b", 5, False),
        (b"a",),
    ],
)
def test_what_is_no_task_is_refused_before_anything_is_done(task: Any, tmp_path: Path) -> None:
    good = (os.fsencode(tmp_path / "good.part"), os.fsencode(tmp_path / "good"), b"x", False)
    with pytest.raises((TypeError, ValueError)):
        smallfiles.run([good, task])
    assert os.listdir(tmp_path) == []
    assert smallfiles.run([]) == []
