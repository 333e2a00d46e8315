"""What a run has done so far, in a SQLite file, so that the next one goes on where it ended.

One thread writes. Calls from other threads wait for it; whatever has come together meanwhile goes into one
transaction, and a call returns when its transaction is committed. Committed (write-ahead log, synchronous
NORMAL) survives the death of the process at any moment; to survive the machine's as well, `durable=True`
(synchronous FULL) makes each commit wait for the disk.

Memory does not grow with the number of rows: names are given out, duplicates told apart and totals kept by
the file itself (each transaction adds what it changed to them, so `status` reads a handful of rows).

A row's way: pending -> finishing -> done, or -> failed. `finishing` is committed before a file gets its
final name and holds its inode; a run that finds it later knows whether the rename happened.
"""

import contextlib
import fcntl
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from noria.get.names import PART_ENDING, numbered
from noria.get.smallfiles import file_system
from noria.get.store import Stamp
from noria.get.target import Target

FILE_NAME = ".noria-get.db"
PENDING, FINISHING, DONE, FAILED = range(4)
STATES = ("pending", "finishing", "done", "failed")
# These may carry secrets, which do not belong into a file: `failed` gives targets back without them.
SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "x-auth-token"})

_COPYING = (0x9123683E, 0xCA451A4E, 0x2FC12FC1, 0xF2F52010)  # btrfs, bcachefs, zfs, f2fs
_VERSION = 2
_OLD_VERSION = 1  # had triggers to keep the totals, which took longer than all the rest
_MOST_IN_A_BATCH = 1000
_MOST_IN_A_STATEMENT = 64  # rows; of old SQLite, 999 values
_PAGE = 1000
_T = TypeVar("_T")

_SCHEMA = f"""
CREATE TABLE files(
    id INTEGER PRIMARY KEY, key INTEGER NOT NULL, url TEXT NOT NULL, given TEXT, name TEXT UNIQUE,
    state INTEGER NOT NULL, seen INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, status INTEGER,
    size INTEGER NOT NULL DEFAULT 0, inode INTEGER NOT NULL DEFAULT 0, etag TEXT, modified TEXT,
    checksum TEXT, error TEXT, kind TEXT, segments TEXT, time REAL,
    want_checksum TEXT, want_size INTEGER, headers TEXT);
CREATE INDEX files_key ON files(key);
CREATE INDEX files_failed ON files(id) WHERE state = {FAILED};
CREATE TABLE numbers(name TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE totals(state INTEGER, kind TEXT, count INTEGER NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY(state, kind)) WITHOUT ROWID;
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
_FIELDS = "id, url, name, state, attempts, status, size, inode, etag, modified, checksum, error, kind, segments, time"


class Record(NamedTuple):
    """A row. state: one of PENDING, FINISHING, DONE, FAILED. segments: [[start, end, done], ...] of a file that
    was fetched in several parts, all in bytes. time: Unix time of the last change.
    """

    id: int
    url: str
    name: str
    state: int
    attempts: int = 0
    status: int | None = None
    size: int = 0
    inode: int = 0
    etag: str | None = None
    modified: str | None = None
    checksum: str | None = None
    error: str | None = None
    kind: str | None = None
    segments: list[list[int]] | None = None
    time: float | None = None
    is_new: bool = False  # made by this run


class Whole(NamedTuple):
    """A file that is whole and about to get its name; the first answer with status 200 brought it."""

    row: int
    size: int
    inode: int
    etag: str | None
    modified: str | None


@dataclass(frozen=True)
class JournalStatus:
    """Counts of rows, bytes of the files that are done, failures by kind. finished: the last run came to the
    end of its list.
    """

    done: int = 0
    failed: int = 0
    pending: int = 0
    bytes: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    finished: bool = False

    @property
    def total(self) -> int:
        """All rows."""
        return self.done + self.failed + self.pending


class JournalError(OSError):
    """The journal cannot be used: another run has it, or it is none. full: something could not be written, for lack of
    room (a full disk, a quota) or by another error of the disk; reading goes on, and so may writing, later.
    """

    full = False


class Journal:
    """The journal in the file `path`, made if it is missing, readable by its owner only (URLs may hold
    passwords). Raises JournalError, also from every method.

    `read_only` is for looking on, also while a run goes on; then the file must be there.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, read_only: bool = False, durable: bool = False
    ) -> None:
        import sqlite3  # a run without a journal does without

        self.path = os.fspath(path)
        self._read_only = read_only
        self._lock_fd = -1
        self._made_lock = False
        self._run = 0
        self._older: int | None = None  # the last row of an earlier run; None if there is no run
        self._parts = False  # some name ends like those of parts
        self._changes: dict[tuple[int, str], list[int]] = {}  # of totals, in the transaction: count, bytes
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._gate = threading.Lock()  # or a job comes behind the end, and is waited for for ever
        try:
            if read_only:
                os.stat(self.path)
            else:
                self._lock()
            self._db = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=2 if read_only else 10
            )
        except (OSError, sqlite3.Error) as error:
            self._unlock()
            if isinstance(error, JournalError):
                raise
            raise self._error(error) from None
        try:
            self._open(durable)
        except sqlite3.Error as error:
            self._db.close()
            if self._made_lock:
                os.unlink(self.path + "-lock")
            self._unlock()
            raise self._error(error) from None
        if not read_only:
            self._thread = threading.Thread(target=self._write, name="noria-get-journal", daemon=True)
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Commit what is waiting and close the file. Further calls do nothing."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()
        self._db.close()
        self._unlock()

    # For a run.

    def begin(self, *, again: bool = False) -> None:
        """A run begins. again: if the last one came to its end, everything is to be done anew."""

        def change() -> None:
            if again and self._meta("finished", 0):
                kinds = self._db.execute(
                    "SELECT ifnull(kind, ''), count(*), sum(size) FROM files"
                    f" WHERE state = {DONE} GROUP BY ifnull(kind, '')"
                ).fetchall()
                for kind, count, size in kinds:
                    self._count(DONE, kind, -count, -size)
                    self._count(PENDING, kind, count, size)
                self._db.execute(
                    f"UPDATE files SET state = {PENDING}, etag = NULL, modified = NULL WHERE state = {DONE}"
                )
            self._run = self._meta("run", 0) + 1
            self._db.execute("INSERT OR REPLACE INTO meta VALUES('run', ?)", (self._run,))
            self._db.execute("INSERT OR REPLACE INTO meta VALUES('finished', 0)")
            self._older = self._last()

        self._do(change)

    def finished(self) -> None:
        """The run has come to the end of its list."""
        self._do(lambda: self._db.execute("INSERT OR REPLACE INTO meta VALUES('finished', 1)"))

    def register(self, targets: Sequence[tuple[Target, str]]) -> list[Record]:
        """The rows of `targets`, each with the name it would like, in the order of the list.

        A target that an earlier run registered has its row of then; the second of equal targets has the
        second row. A new one gets a new row, and the name or the first numbered form of it that is free.
        """
        return self._do(lambda: self._register_all(targets))

    def rename(self, row: int, name: str) -> str:
        """Give `row` the name `name`, or the first numbered form of it that is free; the name it got."""

        def change() -> str:
            claimed = self._claim(name)
            self._db.execute("UPDATE files SET name = ? WHERE id = ?", (claimed, row))
            return claimed

        return self._do(change)

    def started(self, row: int, etag: str | None, modified: str | None) -> None:
        """A part is about to be written, of the representation with these validators."""
        self._update(row, f"state = {PENDING}, etag = ?, modified = ?, segments = NULL", etag, modified)

    def progress(self, row: int, segments: Sequence[Sequence[int]] | None) -> None:
        """How far each segment has come; for a file that is fetched in several."""
        import json

        self._update(row, "segments = ?", None if segments is None else json.dumps(segments))

    def finishing(self, row: int, stamp: Stamp, etag: str | None, modified: str | None) -> None:
        """The file is whole and about to get its name."""
        self._update(
            row,
            f"state = {FINISHING}, size = ?, inode = ?, etag = ?, modified = ?, segments = NULL",
            stamp.size,
            stamp.inode,
            etag,
            modified,
        )

    def done(
        self, row: int, *, attempts: int = 0, status: int | None = None, checksum: str | None = None
    ) -> None:
        """The file has its name."""
        self._update(
            row,
            f"state = {DONE}, attempts = attempts + ?, status = ?, checksum = ?, error = NULL, kind = NULL,"
            " segments = NULL",
            attempts,
            status,
            checksum,
        )

    def record(self, finishing: Sequence[Whole], done: Sequence[Whole]) -> Future[None]:
        """As `finishing` and `done` for many files, with one commit, and without waiting for it: the future tells,
        with JournalError if it failed. The rows of `finishing` must be as `register` made them; of `done`, this must
        be the only other record.
        """
        now = time.time()

        def change() -> None:
            self._db.executemany(
                f"UPDATE files SET time = ?, state = {FINISHING}, size = ?, inode = ?, etag = ?, modified = ?"
                " WHERE id = ?",
                [(now, file.size, file.inode, file.etag, file.modified, file.row) for file in finishing],
            )
            for part in _parts(done):
                self._db.execute(
                    f"UPDATE files SET time = ?, state = {DONE}, attempts = attempts + 1, status = 200"
                    f" WHERE id IN ({', '.join('?' * len(part))})",
                    [now, *(file.row for file in part)],
                )
            size, done_size = (sum(file.size for file in files) for files in (finishing, done))
            self._count(PENDING, "", -len(finishing), 0)
            self._count(FINISHING, "", len(finishing) - len(done), size - done_size)
            self._count(DONE, "", len(done), done_size)

        future: Future[None] = Future()
        if self._closed:
            future.set_exception(JournalError(f"the journal {self.path} is closed"))
        else:
            self._jobs.put((change, future))
        return future

    def together(self, changes: Sequence[Callable[[], None]]) -> None:
        """Call `changes`, which call methods of this journal, and commit it all at once; or nothing, if one raises."""
        if changes:
            self._do(lambda: [change() for change in changes])

    def adopt(self, row: int, size: int) -> None:
        """A file that is there is taken for done."""
        self._update(row, f"state = {DONE}, size = ?, error = NULL, kind = NULL, segments = NULL", size)

    def failed_row(
        self,
        row: int,
        error: str,
        kind: str,
        *,
        attempts: int = 0,
        status: int | None = None,
        part: bool = False,
    ) -> None:
        """The download failed for good. part: something was kept that a later run can go on with."""
        self._update(
            row,
            f"state = {FAILED}, error = ?, kind = ?, attempts = attempts + ?, status = ?, size = 0"
            + ("" if part else ", etag = NULL, modified = NULL, segments = NULL"),
            error,
            kind,
            attempts,
            status,
        )

    # For whoever looks on.

    def status(self) -> JournalStatus:
        """The totals."""

        def read() -> JournalStatus:
            if not self._read_only:
                self._add_up()
            counts = [0, 0, 0, 0]
            kinds: dict[str, int] = {}
            size = 0
            for state, kind, count, total in self._db.execute("SELECT state, kind, count, bytes FROM totals"):
                counts[state] += count
                if state == DONE:
                    size += total
                elif state == FAILED and count:
                    kinds[kind] = kinds.get(kind, 0) + count
            return JournalStatus(
                counts[DONE],
                counts[FAILED],
                counts[PENDING] + counts[FINISHING],
                size,
                kinds,
                bool(self._meta("finished", 0)),
            )

        return self._do(read)

    def failed(self) -> Iterator[Target]:
        """What failed, in the order of the list, as targets to try again; without headers that may hold
        secrets. May be read while a run changes the rows.
        """
        import json

        last = 0
        while rows := self._page(
            f"SELECT id, url, given, want_checksum, want_size, headers FROM files WHERE state = {FAILED}"
            " AND id > ? ORDER BY id LIMIT ?",
            last,
        ):
            for row, url, name, checksum, size, headers in rows:
                last = row
                yield Target(url, name, checksum, size, json.loads(headers) if headers else None)

    def records(self, state: int | None = None) -> Iterator[Record]:
        """All rows, or those in `state`, in the order of the list."""
        last = 0
        condition = "" if state is None else f"state = {int(state)} AND "
        while rows := self._page(
            f"SELECT {_FIELDS} FROM files WHERE {condition}id > ? ORDER BY id LIMIT ?", last
        ):
            for row in rows:
                last = row[0]
                yield _record(row)

    # The writer's side.

    def _register_all(self, targets: Sequence[tuple[Target, str]]) -> list[Record]:
        import sqlite3

        if self._older == 0 and not self._parts and not any(n.endswith(PART_ENDING) for _, n in targets):
            # All rows are this run's, and names are only in each other's way if they are the same.
            first, now = self._last() + 1, time.time()
            row = first
            self._db.execute("SAVEPOINT many")
            try:
                for part in _parts(targets):
                    values: list[object] = []
                    for target, name in part:
                        values += row, _key(target), target.url, target.name, name, self._run, now
                        values += _wants(target)
                        row += 1
                    self._db.execute(
                        "INSERT INTO files(id, key, url, given, name, state, seen, time, want_checksum, want_size,"
                        " headers) VALUES "
                        + ", ".join([f"(?, ?, ?, ?, ?, {PENDING}, ?, ?, ?, ?, ?)"] * len(part)),
                        values,
                    )
            except sqlite3.IntegrityError:  # a name is taken
                self._db.execute("ROLLBACK TO many")
            else:
                self._count(PENDING, "", len(targets), 0)
                return [
                    Record(row, target.url, name, PENDING, is_new=True)
                    for row, (target, name) in enumerate(targets, first)
                ]
            finally:
                self._db.execute("RELEASE many")
        return [self._register(target, name) for target, name in targets]

    def _register(self, target: Target, wanted: str) -> Record:
        key = _key(target)
        found = self._db.execute(
            f"SELECT {_FIELDS} FROM files WHERE key = ? AND url = ? AND given IS ? AND seen < ?"
            " ORDER BY id LIMIT 1",
            (key, target.url, target.name, self._run),
        ).fetchone()
        wants = _wants(target)
        if found is not None:
            self._db.execute(
                "UPDATE files SET seen = ?, want_checksum = ?, want_size = ?, headers = ? WHERE id = ?",
                (self._run, *wants, found[0]),
            )
            return _record(found)
        name = self._claim(wanted)
        cursor = self._db.execute(
            "INSERT INTO files(key, url, given, name, state, seen, time, want_checksum, want_size, headers)"
            f" VALUES(?, ?, ?, ?, {PENDING}, ?, ?, ?, ?, ?)",
            (key, target.url, target.name, name, self._run, time.time(), *wants),
        )
        assert cursor.lastrowid is not None
        self._count(PENDING, "", 1, 0)
        return Record(cursor.lastrowid, target.url, name, PENDING, is_new=True)

    def _claim(self, name: str) -> str:
        claimed = name
        number = 0
        while self._is_taken(claimed):
            if not number:
                row = self._db.execute("SELECT last FROM numbers WHERE name = ?", (name,)).fetchone()
                number = row[0] if row else 1
            number += 1
            claimed = numbered(name, number)
        if number:
            self._db.execute("INSERT OR REPLACE INTO numbers VALUES(?, ?)", (name, number))
        if claimed.endswith(PART_ENDING) and not self._parts:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES('parts', 1)")
            self._parts = True
        return claimed

    def _is_taken(self, name: str) -> bool:
        # The part of one file must not have the name of another one either.
        names = [name, name + PART_ENDING, name.removesuffix(PART_ENDING)]
        query = "SELECT 1 FROM files WHERE name IN (?, ?, ?) LIMIT 1"
        return self._db.execute(query, names).fetchone() is not None

    def _update(self, row: int, assignments: str, *values: object) -> None:
        query = f"UPDATE files SET time = ?, {assignments} WHERE id = ?"
        look = "SELECT state, ifnull(kind, ''), size FROM files WHERE id = ?"

        def change() -> None:
            for state, kind, size in self._db.execute(look, (row,)).fetchall():
                self._count(state, kind, -1, -size)
            self._db.execute(query, (time.time(), *values, row))
            for state, kind, size in self._db.execute(look, (row,)).fetchall():
                self._count(state, kind, 1, size)

        self._do(change)

    def _count(self, state: int, kind: str, count: int, size: int) -> None:
        change = self._changes.setdefault((state, kind), [0, 0])
        change[0] += count
        change[1] += size

    def _add_up(self) -> None:
        self._db.executemany(
            "INSERT INTO totals VALUES(?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET count = count + excluded.count, bytes = bytes + excluded.bytes",
            [(*place, *change) for place, change in self._changes.items() if any(change)],
        )
        self._changes.clear()

    def _last(self) -> int:
        (row,) = self._db.execute("SELECT ifnull(max(id), 0) FROM files").fetchone()
        return int(row)

    def _page(self, query: str, last: int) -> list[Any]:
        return self._do(lambda: self._db.execute(query, (last, _PAGE)).fetchall())

    def _meta(self, name: str, default: int) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else default

    def _do(self, job: Callable[[], _T]) -> _T:
        """The result of `job`, called in the writer's thread and committed."""
        if threading.current_thread() is self._thread:
            return job()  # part of what is committed `together`
        import sqlite3

        future: Future[_T] = Future()
        with self._gate:
            if self._closed:
                raise JournalError(f"the journal {self.path} is closed")
            if not self._read_only:
                self._jobs.put((job, future))
        try:
            return job() if self._read_only else future.result()
        except sqlite3.Error as error:
            raise self._error(error) from None

    def _write(self) -> None:
        while (entry := self._jobs.get()) is not None:
            batch = [entry]
            ended = False
            while len(batch) < _MOST_IN_A_BATCH:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ended = True
                    break
                batch.append(more)
            self._commit(batch)
            if ended:
                return

    def _commit(self, batch: list[tuple[Callable[[], Any], Future[Any]]]) -> None:
        import sqlite3

        results: list[tuple[Future[Any], Any]] = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for job, future in batch:
                results.append((future, job()))
            self._add_up()
            self._db.execute("COMMIT")
        except BaseException as error:  # a full disk, for one: nobody may think that his change was kept
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                error = self._error(error)
            for _, future in batch:
                future.set_exception(error)
        else:
            for future, result in results:
                future.set_result(result)
        finally:
            self._changes.clear()

    def _open(self, durable: bool) -> None:
        import sqlite3

        db = self._db
        if _copies_on_write(self.path):
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
        if self._read_only:
            db.execute("PRAGMA query_only = 1")
        else:
            # Nothing is done to a file that is something else: the name may be a slip of the user's.
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            if tables and not tables >= {"files", "numbers", "meta"}:
                raise sqlite3.DatabaseError("it is no journal of noria get")
            os.chmod(self.path, 0o600)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("PRAGMA cache_size = -16384")  # KiB
            if not tables:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == _OLD_VERSION:
            if not self._read_only:
                db.executescript(
                    "BEGIN IMMEDIATE; DROP TRIGGER files_in; DROP TRIGGER files_change;"
                    f" INSERT INTO meta SELECT 'parts', 1 FROM files WHERE name LIKE '%{PART_ENDING}' LIMIT 1;"
                    f" PRAGMA user_version = {_VERSION}; COMMIT;"
                )
        elif version != _VERSION:
            raise sqlite3.DatabaseError(f"it is no journal of this version of noria get ({version})")
        self._parts = bool(self._meta("parts", 0))

    def _lock(self) -> None:
        # A file of its own: closing any descriptor of the database would drop SQLite's locks on it (POSIX).
        self._made_lock = not os.path.lexists(self.path + "-lock")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock_fd = os.open(self.path + "-lock", flags, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(f"the journal {self.path} is in use by another run") from None

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            fd, self._lock_fd = self._lock_fd, -1
            os.close(fd)

    def _error(self, error: Exception) -> JournalError:
        import sqlite3

        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY and self._read_only:
            reason = "a run has it to itself, as it must on this file system; look again when it has ended"
        failure = JournalError(f"cannot use the journal {self.path}: {reason}")
        # The lowest byte is the kind; SQLite has a full disk as FULL, a quota and a file too large as IOERR.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        failure.full = code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
        return failure


def _copies_on_write(path: str) -> bool:
    """Whether the file system of `path` needs room for each change of what is there already. SQLite shares the index of
    its log through a file that is mapped into memory; to change that without room (a full disk, a quota) ends a process
    there by SIGBUS. Alone with the database, it does without the file, and nobody can look on.
    """
    return file_system(os.fsencode(path)) in _COPYING


def _parts(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """`items` in parts that fit into one statement. A statement lets go of the interpreter, and may wait for it when it
    ends, so that one for many rows is better than many for one.
    """
    for start in range(0, len(items), _MOST_IN_A_STATEMENT):
        yield items[start : start + _MOST_IN_A_STATEMENT]


def _wants(target: Target) -> tuple[str | None, int | None, str | None]:
    """What a row keeps of `target` for another try: checksum, size, and the headers that are no secret."""
    if not target.headers:
        return target.checksum, target.size, None
    import json

    headers = {k: v for k, v in target.headers.items() if k.lower() not in SECRET_HEADERS}
    return target.checksum, target.size, json.dumps(headers) if headers else None


def _key(target: Target) -> int:
    """A number for what makes two targets the same; 64 bits, for an index that stays small."""
    import hashlib

    text = f"{target.url}\0{target.name or ''}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


def _record(row: Sequence[Any]) -> Record:
    record = Record(*row)
    if not row[13]:
        return record
    import json

    return record._replace(segments=json.loads(row[13]))
