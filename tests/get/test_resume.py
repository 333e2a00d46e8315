"""Going on: after a broken connection, after a kill, in segments; and never with the wrong bytes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import noria
from get.fault_server import Exchange, FaultServer
from noria.get import Activity, Result, Target, download, download_all
from noria.get.journal import DONE, Journal
from noria.get.store import Stamp
from support.nginx import Nginx

BODY = os.urandom(1_500_000)
DB = ".noria-get.db"
LONG_AGO = "Mon, 01 Jan 2024 00:00:00 GMT"
NOW = "Tue, 02 Jan 2024 00:00:00 GMT"


def get(url: str | Target, directory: Path, **options: Any) -> Result:
    options = {"retries": 0, "longest_wait": 0.01, "journal": directory / DB, **options}
    result: Result = noria.run(download(url, directory, **options))
    return result


def ranged(
    body: Callable[[int], bytes] = lambda number: BODY,
    cut: Callable[[int], int | None] = lambda number: None,
    validator: Callable[[int], str] = lambda number: 'ETag: "v1"',
    content_range: Callable[[int, int, int], str] = lambda start, end, total: f"bytes {start}-{end}/{total}",
) -> Any:
    """A server of one file that knows Range and If-Range and breaks off as `cut` says."""

    async def answer(exchange: Exchange) -> None:
        content, valid = body(exchange.number), validator(exchange.number)
        start, end, status = 0, len(content) - 1, "200 OK"
        fields = [valid, f"Date: {NOW}", "Accept-Ranges: bytes"]
        asked = exchange.headers.get("range")
        if asked and exchange.headers.get("if-range") == valid.partition(": ")[2].lower():
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(int(last or end), end), "206 Partial Content"
            fields.append("Content-Range: " + content_range(start, end, len(content)))
        fields.append(f"Content-Length: {end + 1 - start}")
        head = "".join(f"{field}\r\n" for field in fields if field)
        most = cut(exchange.number)
        part = content[start : end + 1]
        await exchange.send(
            f"HTTP/1.1 {status}\r\n{head}Connection: close\r\n\r\n".encode()
            + (part if most is None else part[:most])
        )

    return answer


@pytest.mark.parametrize("validator", ['ETag: "v1"', f"Last-Modified: {LONG_AGO}"])
@pytest.mark.parametrize("journal", [True, False])
def test_a_broken_connection_is_gone_on_with(
    faults: FaultServer, tmp_path: Path, validator: str, journal: bool
) -> None:
    answer = ranged(cut=lambda n: 700_000 if n == 1 else None, validator=lambda n: validator)
    options = {} if journal else {"journal": None}
    result = get(faults.on("/x", answer), tmp_path, retries=1, **options)
    assert (result.ok, result.attempts, result.status) == (True, 2, 206)
    assert 600_000 < result.resumed < 700_000
    assert (tmp_path / "x").read_bytes() == BODY


def test_the_next_run_goes_on_and_the_one_after_asks_for_nothing(faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/x", ranged(cut=lambda n: 700_000 if n == 1 else None))
    assert not get(url, tmp_path).ok
    assert (tmp_path / "x.part").stat().st_size == 700_000
    second = get(url, tmp_path)
    assert (second.ok, second.resumed, second.etag) == (True, 699_999, '"v1"')
    assert (tmp_path / "x").read_bytes() == BODY
    third = get(url, tmp_path)
    assert (third.ok, third.skipped, third.attempts, len(faults.seen)) == (True, True, 0, 2)


def test_a_file_that_changed_is_fetched_anew(faults: FaultServer, tmp_path: Path) -> None:
    new = BODY[::-1]
    url = faults.on(
        "/x",
        ranged(
            body=lambda n: BODY if n == 1 else new,
            cut=lambda n: 700_000 if n == 1 else None,
            validator=lambda n: f'ETag: "v{n}"',
        ),
    )
    assert not get(url, tmp_path).ok
    assert get(url, tmp_path).ok
    assert (tmp_path / "x").read_bytes() == new


@pytest.mark.parametrize("validator", ["", 'ETag: W/"weak"', f"Last-Modified: {NOW}"])
def test_without_a_strong_validator_nothing_is_kept(
    faults: FaultServer, tmp_path: Path, validator: str
) -> None:
    url = faults.on("/x", ranged(cut=lambda n: 700_000 if n == 1 else None, validator=lambda n: validator))
    assert not get(url, tmp_path).ok
    assert not (tmp_path / "x.part").exists()
    result = get(url, tmp_path)
    assert (result.ok, result.resumed) == (True, 0)


def test_a_part_of_unknown_origin_is_not_trusted(faults: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(b"evil" * 1000)
    result = get(faults.on("/x", ranged()), tmp_path)
    assert (result.ok, result.resumed) == (True, 0)
    assert (tmp_path / "x").read_bytes() == BODY


@pytest.mark.parametrize(
    "lie",
    [
        lambda start, end, total: f"bytes 0-{end}/{total}",
        lambda start, end, total: f"bytes {start + 1}-{end}/{total}",
        lambda start, end, total: f"bytes {start}-{end - 1}/{total}",
        lambda start, end, total: f"bytes {start}-{end}/*",
        lambda start, end, total: f"bytes {start}-{end}/{total + 5}",
        lambda start, end, total: "nonsense",
    ],
)
def test_a_lying_content_range_is_refused_and_the_file_fetched_whole(
    faults: FaultServer, tmp_path: Path, lie: Any
) -> None:
    answer = ranged(cut=lambda n: 700_000 if n == 1 else None, content_range=lie)
    result = get(faults.on("/x", answer), tmp_path, retries=2)
    assert (result.ok, result.attempts, result.status) == (True, 3, 200)
    assert (tmp_path / "x").read_bytes() == BODY


@pytest.mark.parametrize("journal", [True, False])
def test_a_part_of_no_more_use_is_removed(faults: FaultServer, tmp_path: Path, journal: bool) -> None:
    answer = ranged(
        cut=lambda n: 700_000 if n == 1 else None,
        content_range=lambda start, end, total: f"bytes {start + 1}-{end}/{total}",
    )
    options = {} if journal else {"journal": None}
    result = get(faults.on("/x", answer), tmp_path, retries=1, **options)
    assert result.error == "the server sent another part than the one asked for"
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == []


@pytest.mark.parametrize("both_names", [False, True])
@pytest.mark.parametrize("renamed", [False, True])
def test_a_death_around_the_rename_is_understood(
    faults: FaultServer, tmp_path: Path, renamed: bool, both_names: bool
) -> None:
    url = faults.on("/x", ranged())
    (tmp_path / "x.part").write_bytes(BODY)
    inode = (tmp_path / "x.part").stat().st_ino
    with Journal(tmp_path / DB) as journal:
        journal.begin()
        (row,) = journal.register([(Target(url), "x")])
        journal.finishing(row.id, Stamp(len(BODY), inode), '"v1"', None)
    if both_names:
        os.link(tmp_path / "x.part", tmp_path / "x")
    elif renamed:
        os.rename(tmp_path / "x.part", tmp_path / "x")
    result = get(url, tmp_path)
    assert (result.ok, result.skipped, faults.seen) == (True, True, [])
    assert (tmp_path / "x").read_bytes() == BODY
    assert not (tmp_path / "x.part").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_cluster_was_at_is_understood(faults: FaultServer, tmp_path: Path, overwrite: bool) -> None:
    """It enters no inodes, and a file has its name there before its client knows."""
    url = faults.on("/x", lambda exchange: exchange.reply(b"right"))
    with Journal(tmp_path / DB) as journal:
        journal.begin()
        (row,) = journal.register([(Target(url), "x")])
        journal.finishing(row.id, Stamp(-1, 0), None, None)
    (tmp_path / "x").write_bytes(b"right")
    result = get(url, tmp_path, overwrite=overwrite)
    assert (result.error, result.skipped) == (None, not overwrite)
    # To be replaced, it may be the one that was there before.
    assert len(faults.seen) == overwrite
    with Journal(tmp_path / DB, read_only=True) as journal:
        assert (journal.status().done, journal.status().bytes) == (1, 5)


def test_somebody_elses_file_is_not_taken_for_ours(faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/x", ranged())
    with Journal(tmp_path / DB) as journal:
        journal.begin()
        (row,) = journal.register([(Target(url), "x")])
        journal.finishing(row.id, Stamp(len(BODY), 1), '"v1"', None)
    (tmp_path / "x").write_bytes(bytes(len(BODY)))
    assert get(url, tmp_path).error == f"{tmp_path / 'x'} exists already"


def test_a_recorded_file_that_is_gone_is_fetched_again(faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/x", ranged())
    assert get(url, tmp_path).ok
    (tmp_path / "x").unlink()
    assert not get(url, tmp_path).skipped
    assert (tmp_path / "x").read_bytes() == BODY


@pytest.mark.parametrize("count", [2, 4])
def test_segments_make_one_file(start_nginx: Callable[..., Nginx], tmp_path: Path, count: int) -> None:
    docs, out = tmp_path / "docs", tmp_path / "out"
    docs.mkdir()
    body = os.urandom(9_000_001)
    (docs / "big").write_bytes(body)
    os.utime(docs / "big", (1e9, 1e9))
    server = start_nginx(docs)
    out.mkdir()
    result = get(server.url("big"), out, segments=count)
    assert result.ok, result.error
    assert (out / "big").read_bytes() == body
    assert [request.status for request in server.requests(count)].count(206) == count - 1


def test_segments_are_gone_on_with(faults: FaultServer, tmp_path: Path) -> None:
    body = os.urandom(4_000_000)
    answer = ranged(body=lambda n: body, cut=lambda n: 600_000 if n <= 4 else None)
    url = faults.on("/x", answer)
    first = get(url, tmp_path, segments=4)
    assert not first.ok
    assert (tmp_path / "x.part").stat().st_size == len(body)
    second = get(url, tmp_path, segments=4, retries=4)
    assert second.ok, second.error
    assert second.resumed > 500_000
    assert (tmp_path / "x").read_bytes() == body


def test_segments_of_two_versions_do_not_meet(faults: FaultServer, tmp_path: Path) -> None:
    old, new = os.urandom(4_000_000), os.urandom(4_000_000)
    url = faults.on(
        "/x",
        ranged(body=lambda n: old if n < 3 else new, validator=lambda n: f'ETag: "{int(n < 3)}"'),
    )
    result = get(url, tmp_path, segments=4, retries=3)
    assert result.ok, result.error
    assert (tmp_path / "x").read_bytes() == new


@pytest.mark.parametrize("tells", [True, False])
def test_a_file_that_changes_in_the_middle_of_its_segments_is_one_version(
    faults: FaultServer, tmp_path: Path, tells: bool
) -> None:
    """The server changes it when all segments are under way and have brought something, and breaks off; asked again,
    it honours If-Range (tells), or goes on with a part of the new version under its new ETag.
    """
    old, new = os.urandom(5_000_000), os.urandom(5_000_000)
    changed = asyncio.Event()
    asked: list[str | None] = []

    async def answer(exchange: Exchange) -> None:
        body, tag = (new, '"new"') if changed.is_set() else (old, '"old"')
        span = exchange.headers.get("range")
        condition = exchange.headers.get("if-range")
        asked.append(condition)
        start, end, status, extra = 0, len(body) - 1, "200 OK", ""
        if span and (condition == tag or not tells):
            first, _, last = span.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(int(last or end), end), "206 Partial Content"
            extra = f"Content-Range: bytes {start}-{end}/{len(body)}\r\n"
        head = (
            f"HTTP/1.1 {status}\r\nETag: {tag}\r\nDate: {NOW}\r\nAccept-Ranges: bytes\r\n{extra}"
            f"Content-Length: {end + 1 - start}\r\nConnection: close\r\n\r\n"
        )
        was_new = changed.is_set()
        await exchange.send(head.encode() + body[start : end + 1][: None if was_new else 400_000])
        if not was_new:
            if len(asked) == 4:
                changed.set()
            await changed.wait()

    result = get(faults.on("/x", answer), tmp_path, segments=4, retries=4)
    assert result.ok, result.error
    assert (tmp_path / "x").read_bytes() == new
    assert '"old"' in asked[4:]  # it was gone on with under the old one, as far as that went
    assert result.etag == '"new"'


def test_cancellation_leaves_a_part_that_is_gone_on_with(faults: FaultServer, tmp_path: Path) -> None:
    plain = ranged(cut=lambda n: 700_000 if n == 1 else None)

    async def answer(exchange: Exchange) -> None:
        await plain(exchange)
        if exchange.number == 1:
            await exchange.hang()

    url = faults.on("/x", answer)

    async def main() -> None:
        task = asyncio.create_task(download(url, tmp_path, journal=tmp_path / DB))
        end = time.monotonic() + 20
        while not (tmp_path / "x.part").exists():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    noria.run(main())
    result = get(url, tmp_path)
    assert result.ok
    assert result.resumed > 0
    assert (tmp_path / "x").read_bytes() == BODY


def test_cancelled_while_it_waits_without_a_journal_it_leaves_no_part(
    faults: FaultServer, tmp_path: Path
) -> None:
    url = faults.on("/x", ranged(cut=lambda n: 700_000))

    async def main() -> None:
        task: asyncio.Task[Result]
        activity = Activity(observer=lambda event, _: task.cancel() if event == "retry" else None)
        task = asyncio.create_task(download(url, tmp_path, activity=activity))
        with pytest.raises(asyncio.CancelledError):
            await task

    noria.run(main())
    assert os.listdir(tmp_path) == []


PROGRAM = """
import sys, noria
from noria.get import download_all
async def main():
    urls = [f"{sys.argv[1]}/{n:03}" for n in range(200)]
    async for result in download_all(urls, sys.argv[2], concurrency=20, journal=sys.argv[2] + "/.noria-get.db"):
        assert result.ok, result
        print("done", flush=True)
noria.run(main())
"""


def test_killed_again_and_again_it_comes_to_the_end_and_fetches_nothing_recorded_twice(
    start_nginx: Callable[..., Nginx], tmp_path: Path
) -> None:
    docs, out = tmp_path / "docs", tmp_path / "out"
    docs.mkdir()
    out.mkdir()
    for number in range(200):
        (docs / f"{number:03}").write_bytes(bytes([number]) * 5_000)
    server = start_nginx(docs)
    recorded: list[set[str]] = []
    logged = [0]
    for lines in [1, 40, 30, 50, None]:
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, server.base, str(out)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            if lines is None:
                process.stdout.read()
                assert process.wait(60) == 0
            else:
                for _ in range(lines):
                    process.stdout.readline()
                process.send_signal(signal.SIGKILL)
                process.wait(60)
        with Journal(out / DB) as journal:
            recorded.append({record.url for record in journal.records(DONE)})
        logged.append(len(server.requests()))
    assert len(recorded[-1]) == 200
    for number in range(200):
        assert (out / f"{number:03}").read_bytes() == bytes([number]) * 5_000
    assert sorted(os.listdir(out))[0:3] == [DB, DB + "-lock", "000"]
    targets = [request.target for request in server.requests()]
    for done, since in zip(recorded[:-1], logged[1:-1], strict=True):
        again = {server.base + target for target in targets[since:]} & done
        assert not again


def test_a_thousand_of_one_name_are_numbered_in_order_again_in_the_next_run(
    faults: FaultServer, tmp_path: Path
) -> None:
    urls = [faults.on(f"/{number}/x", ranged(body=lambda n: b"abc")) for number in range(50)]

    async def names() -> dict[str, str]:
        results = download_all(urls, tmp_path, journal=tmp_path / DB)
        return {result.url: result.path.name async for result in results if result.path}

    first = noria.run(names())
    assert [first[url] for url in urls] == ["x"] + [f"x-{number}" for number in range(2, 51)]
    assert noria.run(names()) == first
    with Journal(tmp_path / DB, read_only=True) as journal:
        assert {record.state for record in journal.records()} == {DONE}
