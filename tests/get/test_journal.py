"""The journal: rows, names, totals, and what survives."""

import os
import queue
import random
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from noria.get.journal import DONE, FAILED, PENDING, Journal, JournalError, Whole
from noria.get.names import Names
from noria.get.store import Stamp
from noria.get.target import Target


def entries(*names: str) -> list[tuple[Target, str]]:
    return [(Target(f"http://host/{number}/{name}"), name) for number, name in enumerate(names)]


@pytest.mark.parametrize("together", [1, 2, 3, 99])
def test_equal_names_are_numbered_as_they_are_without_a_journal(tmp_path: Path, together: int) -> None:
    wanted = ["a.pdf", "y", "b.pdf", "a.pdf", "a.pdf", "a-2.pdf", "b", "x", "x.part", "a.pdf", "b", "y.part"]
    wanted += ["x.tar.gz", "x.tar.gz", "z.part", "z", "z"]
    names = Names()
    for runs in range(2):
        with Journal(tmp_path / "db") as journal:
            journal.begin()
            given = entries(*wanted)
            rows = []
            for start in range(0, len(given), together):
                rows += journal.register(given[start : start + together])
        if not runs:
            expected = [names.claim(name) for name in wanted]
        assert [row.name for row in rows] == expected
        assert [row.is_new for row in rows] == [not runs] * len(rows)


def recounted(path: Path) -> list[tuple[int, str, int, int]]:
    with closing(sqlite3.connect(path)) as database:
        kept = database.execute("SELECT * FROM totals WHERE count ORDER BY 1, 2").fetchall()
        counted = database.execute(
            "SELECT state, ifnull(kind, ''), count(*), sum(size) FROM files GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()
    assert kept == counted
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_the_totals_are_what_the_rows_add_up_to(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        with Journal(tmp_path / "db") as journal:
            journal.begin(again=True)
            fresh = []
            rows = []
            for start in range(0, 60, 20):
                new = journal.register(
                    entries(*(f"{chance.randrange(50)}" for _ in range(start, start + 20)))
                )
                (fresh if chance.random() < 0.5 else rows).extend(row.id for row in new if row.is_new)
                rows.extend(row.id for row in new if not row.is_new)
            wholes = [Whole(row, chance.randrange(1000), row, None, None) for row in fresh]
            recording = [journal.record(wholes[:7], []), journal.record(wholes[7:], wholes[:3])]
            assert journal.status().done >= min(3, len(wholes))
            for future in recording:
                future.result(10)
            for row in rows:
                action = chance.randrange(6)
                if action <= 1:
                    journal.finishing(row, Stamp(chance.randrange(1000), 1), None, None)
                if action == 0:
                    journal.done(row)
                elif action == 2:
                    journal.failed_row(row, "no", chance.choice(["http", "disk"]))
                elif action == 3:
                    journal.adopt(row, chance.randrange(1000))
                elif action == 4:
                    journal.started(row, None, None)
            journal.finished()
        assert recounted(tmp_path / "db")


def test_many_are_recorded_as_one_by_one(tmp_path: Path) -> None:
    with Journal(tmp_path / "db") as journal:
        journal.begin()
        rows = journal.register(entries("a", "b", "c"))
        for row in rows[:2]:
            journal.finishing(row.id, Stamp(7, row.id), '"e"', "m")
        journal.done(rows[0].id, attempts=1, status=200)
        one_by_one = [record._replace(time=None) for record in journal.records()]
    with Journal(tmp_path / "other") as journal:
        journal.begin()
        journal.register(entries("a", "b", "c"))
        wholes = [Whole(row.id, 7, row.id, '"e"', "m") for row in rows[:2]]
        journal.record(wholes, []).result(10)
        journal.record([], wholes[:1]).result(10)
        assert [record._replace(time=None) for record in journal.records()] == one_by_one
    with pytest.raises(JournalError):
        journal.record([], []).result(10)


def test_a_journal_of_the_first_version_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with Journal(path) as journal:
        journal.begin()
        rows = journal.register(entries("a", "b.part"))
        journal.adopt(rows[0].id, 5)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TRIGGER files_in AFTER INSERT ON files BEGIN UPDATE totals SET count = count + 1; END;"
            "CREATE TRIGGER files_change AFTER UPDATE ON files BEGIN UPDATE totals SET count = 9; END;"
            "DELETE FROM meta WHERE name = 'parts'; PRAGMA user_version = 1;"
        )
    with Journal(path, read_only=True) as journal:
        assert journal.status().done == 1
    with Journal(path) as journal:
        journal.begin()
        assert [row.name for row in journal.register(entries("a", "b.part", "b"))] == ["a", "b.part", "b-2"]
    assert recounted(path) == [(PENDING, "", 2, 0), (DONE, "", 1, 5)]


def test_the_next_run_finds_its_rows_and_equal_targets_in_their_order(tmp_path: Path) -> None:
    twice = [(Target("http://host/x"), "x")] * 3
    with Journal(tmp_path / "db") as journal:
        journal.begin()
        first = journal.register(twice)
        journal.finishing(first[1].id, Stamp(7, 99), '"e"', None)
        journal.done(first[1].id, attempts=2, status=200, checksum="sha256:00")
    with Journal(tmp_path / "db") as journal:
        journal.begin()
        second = journal.register(twice)
        assert [row.id for row in second] == [row.id for row in first]
        assert [row.name for row in second] == ["x", "x-2", "x-3"]
        assert [row.state for row in second] == [PENDING, DONE, PENDING]
        assert (second[1].size, second[1].etag, second[1].attempts) == (7, '"e"', 2)


def test_status_counts_what_records_show(tmp_path: Path) -> None:
    with Journal(tmp_path / "db") as journal:
        rows = journal.register(entries("a", "b", "c", "d"))
        for row in rows[:2]:
            journal.finishing(row.id, Stamp(10, 1), None, None)
            journal.done(row.id)
        journal.failed_row(rows[2].id, "no", "http", attempts=1, status=404)
        status = journal.status()
        assert (status.done, status.failed, status.pending, status.bytes) == (2, 1, 1, 20)
        assert (status.kinds, status.total, status.finished) == ({"http": 1}, 4, False)
        journal.finished()
        with Journal(tmp_path / "db", read_only=True) as other:
            assert other.status().finished
            assert [record.error for record in other.records(FAILED)] == ["no"]
            assert len(list(other.records())) == 4


def test_what_failed_comes_back_as_targets_without_secrets(tmp_path: Path) -> None:
    target = Target("http://h/x", "n", "md5:" + "0" * 32, 5, {"Authorization": "Bearer s", "X-Kind": "k"})
    with Journal(tmp_path / "db") as journal:
        (row,) = journal.register([(target, "n")])
        journal.failed_row(row.id, "no", "http")
        assert list(journal.failed()) == [Target(target.url, "n", target.checksum, 5, {"X-Kind": "k"})]
    assert b"Bearer" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert os.stat(tmp_path / "db").st_mode & 0o077 == 0


def test_two_runs_do_not_share_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "db"), pytest.raises(JournalError, match="in use by another run"):
        Journal(tmp_path / "db")
    Journal(tmp_path / "db").close()


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(JournalError, match="cannot use the journal"):
        Journal(tmp_path / "db")
    with pytest.raises(JournalError, match="No such file"):
        Journal(tmp_path / "missing", read_only=True)


def test_done_is_durable_once_it_is_told(tmp_path: Path) -> None:
    program = (
        "import os, sys; from noria.get.journal import Journal; from noria.get.store import Stamp;"
        "from noria.get.target import Target\n"
        "journal = Journal(sys.argv[1])\n"
        "(row,) = journal.register([(Target('http://h/x'), 'x')])\n"
        "journal.finishing(row.id, Stamp(3, 4), None, None)\n"
        "journal.done(row.id)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "db")], timeout=60)
    assert killed.returncode == -9
    with Journal(tmp_path / "db") as journal:
        assert journal.status().done == 1


class Slow(queue.SimpleQueue[object]):
    """A queue whose first entry, on the way into it, lets another thread go on first."""

    def __init__(self) -> None:
        super().__init__()
        self.coming, self.closed = threading.Event(), threading.Event()

    def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
        if not self.coming.is_set():
            self.coming.set()
            self.closed.wait(0.5)  # seconds; nobody who has to wait for this may be waited for
        super().put(item)


def test_who_comes_when_it_is_closed_waits_for_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "db")
    journal._jobs, before = Slow(), journal._jobs  # type: ignore[assignment]
    before.put(None)
    assert journal._thread is not None
    journal._thread.join()
    journal._thread = threading.Thread(target=journal._write, daemon=True)
    journal._thread.start()
    answers: list[object] = []
    late = threading.Thread(target=lambda: answers.append(journal.status().total), daemon=True)
    late.start()
    assert journal._jobs.coming.wait(20)  # type: ignore[attr-defined]
    closing = threading.Thread(target=journal.close, daemon=True)
    closing.start()
    closing.join(0.2)
    journal._jobs.closed.set()  # type: ignore[attr-defined]
    late.join(20)
    closing.join(20)
    assert answers == [0]
    with pytest.raises(JournalError, match="is closed"):
        journal.status()


@pytest.mark.parametrize("kind", ["text", "database"])
def test_a_file_that_is_something_else_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    """The name may be a slip: `noria get --journal urls.txt`."""
    path = tmp_path / "mine"
    if kind == "text":
        path.write_text("http://example.org/\n" * 1000)
    else:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE notes(text)")
            db.commit()
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(JournalError):
        Journal(path)
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["mine"]


def test_changes_made_together_are_committed_together_or_not_at_all(tmp_path: Path) -> None:
    def wrong() -> None:
        raise RuntimeError("in the middle")

    with Journal(tmp_path / "db") as journal:
        journal.begin()
        rows = [record.id for record in journal.register(entries("a", "b", "c"))]
        seen: list[int] = []

        def look() -> None:
            """What somebody else sees while it goes on."""
            seen.extend(state for (state,) in other.execute("SELECT state FROM files ORDER BY id"))

        with closing(sqlite3.connect(tmp_path / "db", check_same_thread=False)) as other:
            journal.together([lambda: journal.adopt(rows[0], 5), look, lambda: journal.adopt(rows[1], 7)])
        assert seen == [PENDING] * 3
        status = journal.status()
        assert (status.done, status.pending, status.bytes) == (2, 1, 12)
        with pytest.raises(RuntimeError):
            journal.together([lambda: journal.adopt(rows[2], 5), wrong])
        journal.together([])
        assert journal.status() == status
        assert [record.state for record in journal.records()] == [DONE, DONE, PENDING]
