"""What a long journal of `noria get` costs: `python -m noria.bench.journals --rows 10000000`.

Makes a journal as a run of so many URLs leaves it, by SQL and therefore in minutes instead of hours: most files done,
some failed, some still to be done. Then measures opening it and its totals, the scan of a run that goes on (each URL of
the list is looked up, and most are found to be done), a new URL's way in, and the two commands `status` and `retry`.
Everything is removed at the end.
"""

import argparse
import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from noria.bench.downloads import LONGEST, Run, measure
from noria.get.journal import DONE, FAILED, PENDING, Journal, _key
from noria.get.target import Target

_BATCH = 256  # what a run registers at once, at most
_FAILED_EVERY, _PENDING_EVERY = 1000, 500


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements and print a row for each; the exit status is 0."""
    parser = argparse.ArgumentParser(
        prog="python -m noria.bench.journals", description="Measure a long journal of noria get."
    )
    parser.add_argument("--rows", type=int, default=100_000, metavar="N", help="in the journal (100,000)")
    parser.add_argument(
        "--scan", type=int, default=100_000, metavar="N", help="of them to look up again (100,000)"
    )
    parser.add_argument("--directory", default=None, help="where to put it (the usual one for such files)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="noria-journals-", dir=options.directory) as name:
        _measure(Path(name) / "journal.db", options.rows, min(options.scan, options.rows))
    return 0


def _measure(path: Path, rows: int, scan: int) -> None:
    _say("making it", *_timed(lambda: fill(path, rows)))
    print(f"{rows:,} rows, {path.stat().st_size / 2**20:.0f} MiB")
    journals: list[Journal] = []
    _say("opening it", *_timed(lambda: journals.append(Journal(path))))
    journal = journals[0]
    try:
        _say("its totals", *_timed(journal.status))
        _say("beginning a run", *_timed(journal.begin))
        found = [(Target(_url(number)), f"{number:09}.bin") for number in range(rows - scan, rows)]
        batches = [found[start : start + _BATCH] for start in range(0, len(found), _BATCH)]
        states: list[int] = []

        def register(batch: list[tuple[Target, str]]) -> None:
            states.extend(row.state for row in journal.register(batch))

        _say(f"finding {len(found):,}", *_timed(lambda: list(map(register, batches))), count=len(found))
        assert states.count(DONE) > 0.9 * len(states)
        fresh = [(Target(_url(rows + number)), f"{rows + number:09}.bin") for number in range(10_000)]
        batches = [fresh[start : start + _BATCH] for start in range(0, len(fresh), _BATCH)]
        _say("entering 10,000", *_timed(lambda: list(map(register, batches))), count=len(fresh))
        _say("listing what failed", *_timed(lambda: sum(1 for _ in journal.failed())))
    finally:
        _say("closing it", *_timed(journal.close))
    command = [sys.executable, "-m", "noria", "get", "status", str(path), "--json"]
    _tell("noria get status", measure(command, path.parent, LONGEST))
    asyncio.run(_retry(path))


async def _retry(path: Path) -> None:
    """`noria get retry`, with a server that has one byte for each."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000)
    proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    command = [sys.executable, "-m", "noria", "get", "retry", str(path), "-q", "-x", proxy]
    command += ["-o", str(path.parent / "out")]
    (path.parent / "out").mkdir()
    run = await asyncio.to_thread(measure, command, path.parent, LONGEST)
    server.close()
    count = len(os.listdir(path.parent / "out"))
    _tell(f"noria get retry, {count:,} files by a proxy", run)


def _tell(what: str, run: Run | None) -> None:
    if run is None:
        print(f"{what}: killed after {LONGEST:.0f} s")
    else:
        print(f"{what}: {run.wall:.3f} s, CPU {run.cpu:.3f} s, {run.memory:.0f} MiB at most", flush=True)


def fill(path: Path, rows: int) -> None:
    """Make the journal `path` as if a run had gone through `rows` URLs."""
    with Journal(path) as journal:
        journal.begin()
    with sqlite3.connect(path, isolation_level=None) as db:
        db.create_function("noria_key", 1, lambda number: _key(Target(_url(number))), deterministic=True)
        db.executescript("PRAGMA synchronous = OFF; PRAGMA cache_size = -262144; DROP INDEX files_key;")
        db.execute("BEGIN")
        state = (
            f"CASE WHEN n % {_FAILED_EVERY} = 1 THEN {FAILED} WHEN n % {_PENDING_EVERY} = 2 THEN {PENDING}"
        )
        state += f" ELSE {DONE} END"
        db.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?)"
            " INSERT INTO files(key, url, name, state, seen, attempts, status, size, inode, etag, time)"
            f" SELECT noria_key(n), printf('{_url(0)[:-13]}%09d.bin', n), printf('%09d.bin', n), {state}, 1, 1,"
            " 200, 4096, n + 1000, printf('\"%x-1000\"', n), 1.8e9 + n / 1000.0 FROM numbers",
            (rows,),
        )
        db.execute(f"UPDATE files SET kind = 'http', error = 'no', size = 0 WHERE state = {FAILED}")
        db.execute(
            "INSERT INTO totals SELECT state, ifnull(kind, ''), count(*), sum(size) FROM files"
            " GROUP BY state, kind"
        )
        db.execute("COMMIT")
        db.execute("CREATE INDEX files_key ON files(key)")
    db.close()


def _url(number: int) -> str:
    return f"http://files.example/some/path/{number:09}.bin"


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall time and of CPU time that `call` took."""
    start, before = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - before


def _say(what: str, wall: float, cpu: float, *, count: int = 1) -> None:
    each = f", {wall / count * 1e6:.0f} us each" if count > 1 else ""
    print(f"{what}: {wall:.3f} s, CPU {cpu:.3f} s{each}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
