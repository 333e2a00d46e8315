"""FsspecStore on memory:// and on the real S3 protocol, spoken by moto's server in a process of its own."""

import gc
import logging
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from noria.get.objects import FsspecStore, ObjectPart, is_url, make_store
from noria.get.store import LocalStore, Stamp

MIB = 1 << 20
KEY, SECRET = "the-key-of-a-test", "the-secret-of-a-test"

Make = Callable[[], FsspecStore]


@pytest.fixture(params=["memory", "s3"])
def make(request: pytest.FixtureRequest) -> Make:
    """What makes a store of one and the same empty place."""
    if request.param == "memory":
        place = f"memory://{uuid.uuid4().hex}/deep"
        return lambda: FsspecStore(place)
    endpoint = request.getfixturevalue("s3_endpoint")
    options = {"endpoint_url": endpoint, "key": KEY, "secret": SECRET}
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", **options).mkdir(bucket)
    return lambda: FsspecStore(f"s3://{bucket}/deep", options)


def names(store: FsspecStore) -> list[str]:
    """Everything that can be seen at the place, asked anew."""
    store._fs.invalidate_cache()
    try:
        return sorted(path.rsplit("/", 1)[1] for path in store._fs.find(store._root))
    except FileNotFoundError:
        return []


def uploads(store: FsspecStore) -> int:
    """Uploads that are neither complete nor given up."""
    if not store._atomic:
        return 0
    return len(store._fs.list_multipart_uploads(store._root.split("/")[0]))


def content(store: FsspecStore, name: str) -> bytes:
    data = store._fs.cat_file(f"{store._root}/{name}")
    assert isinstance(data, bytes)
    return data


def complete(part: ObjectPart, chunks: list[bytes]) -> None:
    """Write the rest and have the file appear."""
    size = part.finish(chunks).size
    part.publish()
    assert part._store.stamp(part._name) == Stamp(size, 0)


def test_a_file_is_seen_when_it_is_complete_and_not_before(make: Make) -> None:
    store = make()
    store.prepare()
    part = store.open("a.bin", overwrite=False)
    body = os.urandom(6 * MIB)
    part.write([body])
    assert not make().exists("a.bin")
    part.write([b"more"])
    assert not make().exists("a.bin")
    complete(part, [b", and", b" the end"])
    assert make().exists("a.bin")
    assert content(store, "a.bin") == body + b"more, and the end"
    assert names(store) == ["a.bin"]
    assert uploads(store) == 0


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_small_file_takes_one_call(make: Make, size: int) -> None:
    store = make()
    store.prepare()
    complete(store.open("x", overwrite=False), [b"x" * size] if size else [])
    assert content(store, "x") == b"x" * size


@pytest.mark.parametrize("size", [0, 100, 6 * MIB])
def test_what_is_discarded_leaves_nothing(make: Make, size: int) -> None:
    store = make()
    store.prepare()
    part = store.open("x", overwrite=False)
    part.write([b"x" * size])
    part.discard()
    part.discard()
    del part
    gc.collect()  # a finalizer must not complete it either
    assert names(store) == []
    assert uploads(store) == 0


def test_after_its_end_a_part_takes_nothing(make: Make) -> None:
    store = make()
    store.prepare()
    for end in ("complete", "discard"):
        part = store.open(end, overwrite=False)
        complete(part, [b"x"]) if end == "complete" else part.discard()
        with pytest.raises(ValueError):
            part.write([b"y"])
    part = store.open("kept", overwrite=False)
    complete(part, [b"kept"])
    part.discard()
    assert content(store, "kept") == b"kept"


def test_what_is_there_is_not_replaced_unless_asked_for(make: Make) -> None:
    store = make()
    store.prepare()
    complete(store.open("x", overwrite=False), [b"mine"])
    part = make().open("x", overwrite=False)
    with pytest.raises(FileExistsError):
        part.write([b"theirs"])
    part.discard()
    assert content(store, "x") == b"mine"
    complete(make().open("x", overwrite=True), [b"theirs"])
    assert content(store, "x") == b"theirs"


@pytest.mark.parametrize("size", [10, 6 * MIB])
def test_of_two_who_write_the_same_name_the_second_is_told(make: Make, size: int) -> None:
    store = make()
    store.prepare()
    first, second = store.open("x", overwrite=False), make().open("x", overwrite=False)
    second.write([b"2" * size])
    if store._atomic:  # elsewhere both would write the one x.part, which is for the caller's names to avoid
        first.write([b"1" * size])
        complete(first, [])
    else:
        store._fs.pipe_file(f"{store._root}/x", b"1" * size)
    with pytest.raises(FileExistsError):
        complete(second, [])
    second.discard()
    assert content(store, "x") == b"1" * size
    assert names(store) == ["x"]
    assert uploads(store) == 0


def test_a_store_goes_to_another_process(make: Make) -> None:
    store = make()
    store.prepare()
    complete(pickle.loads(pickle.dumps(store)).open("x", overwrite=False), [b"x"])
    assert content(store, "x") == b"x"


def test_blocks_grow_with_the_file(make: Make) -> None:
    store = make()
    part = store.open("x", overwrite=False)
    part._size = 500 * 5 * MIB + 700 * MIB
    part.write([b"x"])
    if store._atomic:
        assert part._file is not None
        assert part._file.blocksize == 6 * MIB
    part.discard()


@pytest.mark.parametrize("url", ["s3://no-such-bucket-anywhere/x", "s3://"])
def test_what_cannot_be_written_is_an_oserror_without_credentials(
    s3_endpoint: str, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    caplog.set_level(logging.DEBUG, "noria")
    store = FsspecStore(url, {"endpoint_url": s3_endpoint, "key": KEY, "secret": SECRET})
    with pytest.raises(OSError) as caught:
        store.prepare()
        complete(store.open("x", overwrite=False), [b"x"])
    for text in (str(caught.value), repr(store), store.where("x"), caplog.text):
        assert SECRET not in text
        assert KEY not in text


def test_credentials_in_the_url_are_not_shown() -> None:
    store = FsspecStore("memory://user:hunter22@place/x")
    assert "hunter22" not in repr(store) + store.where("a") + store.open("a", overwrite=False).path
    assert store.where("a") == "memory://place/x/a"


def test_an_unknown_protocol_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="gopher"):
        FsspecStore("gopher://host/x")


def test_what_is_a_url_and_what_a_directory() -> None:
    assert all(map(is_url, ["s3://b/p", "gs://b", "memory://", "file:///tmp", "simplecache::s3://b"]))
    assert not any(map(is_url, ["out", "./a:b", "/tmp/x", "a/b://c", Path("s3://x")]))


def test_a_local_url_is_a_directory(tmp_path: Path) -> None:
    for output in ("out", tmp_path, f"file://{tmp_path}"):
        assert isinstance(make_store(output), LocalStore)
    assert make_store("file:///a%20b/c").where("x") == "/a b/c/x"
    assert isinstance(make_store("memory://x"), FsspecStore)


def test_it_is_written_from_beginning_to_end_only(make: Make) -> None:
    store = make()
    assert not store.seekable
    assert store.part_stamp("x") is None
    with pytest.raises(OSError):
        store.read_part("x", 0, 1)
    with pytest.raises(ValueError):
        store.open("x", overwrite=False, resume=5)
    with pytest.raises(OSError):
        store.open("x", overwrite=False).write_at(0, [b"x"])
