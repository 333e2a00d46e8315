"""A file on its way to the disk: there under its name only when it is whole."""

import os
from pathlib import Path

import pytest

from noria.get.partfile import PartFile


def test_the_name_appears_with_the_whole_content(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    file = PartFile(str(target), overwrite=False)
    file.write([b"one", b"two"])
    assert not target.exists()
    assert (tmp_path / "x.bin.part").read_bytes() == b"onetwo"
    file.complete([b"three"])
    assert target.read_bytes() == b"onetwothree"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    PartFile(str(tmp_path / "empty"), overwrite=False).complete([])
    assert (tmp_path / "empty").read_bytes() == b""


def test_more_pieces_than_one_system_call_takes_are_all_written(tmp_path: Path) -> None:
    pieces = [b"%04d" % number for number in range(5000)]
    PartFile(str(tmp_path / "x"), overwrite=False).complete(pieces)
    assert (tmp_path / "x").read_bytes() == b"".join(pieces)


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    file = PartFile(str(tmp_path / "x"), overwrite=False)
    file.write([b"half"])
    file.discard()
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="closed"):
        file.write([b"more"])
    with pytest.raises(ValueError, match="closed"):
        file.complete([])


def test_discard_after_complete_leaves_the_file(tmp_path: Path) -> None:
    file = PartFile(str(tmp_path / "x"), overwrite=False)
    file.complete([b"whole"])
    file.discard()
    assert (tmp_path / "x").read_bytes() == b"whole"


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        PartFile(str(tmp_path / "x"), overwrite=False).write([b"theirs"])
    assert (tmp_path / "x").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["x"]


def test_a_file_that_came_into_being_meanwhile_is_not_replaced_either(tmp_path: Path) -> None:
    file = PartFile(str(tmp_path / "x"), overwrite=False)
    file.write([b"theirs"])
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        file.complete([])
    file.discard()
    assert (tmp_path / "x").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["x"]


def test_overwrite_replaces_and_only_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    file = PartFile(str(tmp_path / "x"), overwrite=True)
    file.write([b"new"])
    assert (tmp_path / "x").read_bytes() == b"old"
    file.complete([])
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_stale_part_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(b"left by a run that was killed")
    PartFile(str(tmp_path / "x"), overwrite=False).complete([b"new"])
    assert (tmp_path / "x").read_bytes() == b"new"


@pytest.mark.parametrize("link", ["x", "x.part"])
def test_symbolic_links_are_not_followed(tmp_path: Path, link: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / link).symlink_to(victim)
    with pytest.raises(OSError):
        PartFile(str(tmp_path / "x"), overwrite=False).complete([b"evil"])
    assert victim.read_bytes() == b"precious"
