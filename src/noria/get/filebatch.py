"""Small files on their way to a directory, all that become ready in one turn of the loop handed to a thread at once.

A hand-over to a thread and back costs more than the few system calls that make a small file; `smallfiles` does those
without holding up the loop.

With a journal a batch is recorded together as well, in a thread of the pool: all parts are written, one commit says what
they will be, all get their names, one commit says that they have them. So the journal's promises hold for each of the
files. While batches are under way the next one gathers; no more than `_MOST_BATCHES` are, for disks that take long.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from noria.get import smallfiles
from noria.get.journal import Journal, Whole
from noria.get.names import PART_ENDING
from noria.get.store import Stamp

_MOST_BATCHES = 4
_ENOUGH = 8  # files that are worth a batch of their own while another is under way

_Task = tuple[bytes, bytes, bytes, bool]


class Record(NamedTuple):
    """What the journal is to know of a file: its row, and what the answer said."""

    row: int
    etag: str | None
    modified: str | None


class Receipt(Protocol):
    """Has the future that tells what became of a file; it may be another one in the end than in the beginning."""

    future: "asyncio.Future[Stamp]"


class _Receipt:
    __slots__ = ("future",)

    def __init__(self, future: "asyncio.Future[Stamp]") -> None:
        self.future = future


class FileBatch:
    """Writes whole files in threads, and records in `journal` those that come with a record, in threads of `pool`.

    Each future gets the file's stamp or OSError with what the file system answered, FileExistsError if the name is
    taken, JournalError; then nothing is left of the file. A cancelled waiter does not undo the file.
    """

    def __init__(self, pool: ThreadPoolExecutor, journal: Journal | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._journal = journal
        self._writer: smallfiles.Writer | None = None
        self._tasks: list[_Task] = []
        self._records: list[Record] = []
        self._receipts: list[Receipt] = []
        self._batches = 0
        self._starting = False

    def close(self) -> None:
        """Let the threads end. Nothing may be under way."""
        if self._writer is not None:
            self._loop.remove_reader(self._writer.fileno())
            self._writer.close()

    def whole(self, path: str, chunks: Sequence[bytes], *, overwrite: bool) -> "asyncio.Future[Stamp]":
        """Make the file `path` of `chunks`, without a record."""
        receipt = _Receipt(self._loop.create_future())
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.add(path, data, receipt, overwrite=overwrite)
        return receipt.future

    def add(
        self, path: str, data: bytes, receipt: Receipt, *, overwrite: bool, record: Record | None = None
    ) -> None:
        """Make the file `path` of `data`; the future of `receipt` tells."""
        name = os.fsencode(path)
        if record is None:
            if self._writer is None:
                self._writer = smallfiles.Writer()
                self._loop.add_reader(self._writer.fileno(), self._take)
            self._writer.add(name + _PART, name, data, overwrite, receipt)
        else:
            self._tasks.append((name + _PART, name, data, overwrite))
            self._receipts.append(receipt)
            self._records.append(record)
            if self._batches and len(self._tasks) < _ENOUGH:
                return
        if not self._starting:
            self._starting = True
            self._loop.call_soon(self._start)  # by then, the others of this turn are here

    def _start(self) -> None:
        self._starting = False
        if self._writer is not None:
            self._writer.start()
        if not self._tasks or self._batches >= _MOST_BATCHES:
            return
        tasks, self._tasks = self._tasks, []
        receipts, self._receipts = self._receipts, []
        self._batches += 1
        records, self._records = self._records, []
        assert self._journal is not None
        batch = self._pool.submit(_record_and_run, self._journal, tasks, records)

        def report(batch: Future[list[tuple[int, int, int, float]]]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                self._loop.call_soon_threadsafe(self._done, batch, tasks, receipts)

        batch.add_done_callback(report)

    def _take(self) -> None:
        assert self._writer is not None
        for receipt, path, error, *stamp in self._writer.take():
            _settle(receipt, path, error, stamp)

    def _done(
        self,
        batch: Future[list[tuple[int, int, int, float]]],
        tasks: list[_Task],
        receipts: list[Receipt],
    ) -> None:
        self._batches -= 1
        error = batch.exception()
        results = [None] * len(tasks) if error is not None else batch.result()
        for task, receipt, result in zip(tasks, receipts, results, strict=True):
            if result is None:
                assert error is not None
                if not receipt.future.done():
                    receipt.future.set_exception(error)
            else:
                _settle(receipt, task[1], result[0], result[1:])
        self._start()


def _settle(receipt: Receipt, path: bytes, error: int, stamp: Sequence[Any]) -> None:
    future = receipt.future
    if future.done():
        return
    if error:
        future.set_exception(OSError(error, os.strerror(error), os.fsdecode(path)))
    else:
        future.set_result(Stamp(*stamp))


_PART = PART_ENDING.encode()


def _record_and_run(
    journal: Journal, tasks: list[_Task], records: list[Record]
) -> list[tuple[int, int, int, float]]:
    """In a thread. Raises JournalError, and then leaves no parts."""
    results = smallfiles.run(tasks, publish=False)
    written = [number for number, result in enumerate(results) if not result[0]]
    try:
        wholes = []
        for number in written:
            record, (_, size, inode, _) = records[number], results[number]
            wholes.append(Whole(record.row, size, inode, record.etag, record.modified))
        journal.all_finishing(wholes)
    except BaseException:
        for number in written:
            with contextlib.suppress(OSError):
                os.unlink(tasks[number][0])
        raise
    published = smallfiles.run([tasks[number] for number in written], write=False)
    named = []
    for number, whole, result in zip(written, wholes, published, strict=True):
        if result[0]:
            results[number] = result
        else:
            named.append(whole)
    journal.all_done(named)
    return results
