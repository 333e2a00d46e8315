"""Small files on their way to a directory, all that become ready in one turn of the loop handed over at once.

A hand-over to a thread and back costs more than the few system calls that make a small file; `smallfiles` does those
without holding up the loop, and without the interpreter.

With a journal every file is recorded twice, once its part is written and once it has its name, and all records that
have come together go with one commit; while one is under way, the next gathers. No file gets its name before the first
is committed, and nobody is told of it before the second, so the journal's promises hold for each of the files.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from noria.get.journal import Journal, Whole
from noria.get.names import PART_ENDING
from noria.get.smallfiles import PUBLISH, REMOVE, WRITE, Writer
from noria.get.store import Stamp

_PART = PART_ENDING.encode()
_ENOUGH = 16  # files that are worth a commit while others are being written


class Record(NamedTuple):
    """What the journal is to know of a file: its row, and what the answer said."""

    row: int
    etag: str | None
    modified: str | None


class Receipt(Protocol):
    """Has the future that tells what became of a file, another one in the end than in the beginning if somebody has
    cancelled that and waits on. settled: it is known, and no future will be told any more.
    """

    future: "asyncio.Future[Stamp]"
    settled: bool


class _Receipt:
    __slots__ = ("future", "settled")

    def __init__(self, future: "asyncio.Future[Stamp]") -> None:
        self.future = future
        self.settled = False


class _Entry:
    """A file with a record."""

    __slots__ = ("overwrite", "path", "receipt", "record", "stamp", "whole")

    def __init__(self, path: bytes, overwrite: bool, receipt: Receipt, record: Record) -> None:
        self.path = path
        self.overwrite = overwrite
        self.receipt = receipt
        self.record = record
        self.stamp: Stamp
        self.whole: Whole


class FileBatch:
    """Writes whole files in threads, and records in `journal` those that come with a record.

    Each future gets the file's stamp or OSError with what the file system answered, FileExistsError if the name is
    taken, JournalError; then nothing is left of the file, unless its record is all that is missing. A cancelled waiter
    does not undo the file.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._journal = journal
        self._writer: Writer | None = None
        self._starting = False
        # Of files with records:
        self._being_written = 0
        self._written: list[_Entry] = []
        self._named: list[_Entry] = []
        self._recording = False

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
        """Make the file `path` of `data`; the future of `receipt` tells. Raises OSError if there are no threads."""
        writer = self._writer
        if writer is None:
            writer = self._writer = Writer()
            self._loop.add_reader(writer.fileno(), self._take)
        name = os.fsencode(path)
        if record is None:
            writer.add(name + _PART, name, data, overwrite, WRITE | PUBLISH, receipt)
        else:
            writer.add(name + _PART, name, data, overwrite, WRITE, _Entry(name, overwrite, receipt, record))
            self._being_written += 1
        if not self._starting:
            self._starting = True
            self._loop.call_soon(self._start)  # by then, the others of this turn are here

    def _start(self) -> None:
        self._starting = False
        assert self._writer is not None
        self._writer.start()

    def _take(self) -> None:
        """Something is done."""
        assert self._writer is not None
        for owner, path, steps, error, size, inode, mtime in self._writer.take():
            if steps == WRITE:
                self._being_written -= 1
            if error:
                receipt = owner.receipt if isinstance(owner, _Entry) else owner
                _fail(receipt, OSError(error, os.strerror(error), os.fsdecode(path)))
            elif steps == WRITE:
                record = owner.record
                owner.stamp = Stamp(size, inode, mtime)
                owner.whole = Whole(record.row, size, inode, record.etag, record.modified)
                self._written.append(owner)
            elif steps == PUBLISH:
                self._named.append(owner)
            elif steps != REMOVE:
                _succeed(owner, Stamp(size, inode, mtime))
        self._record()

    def _record(self) -> None:
        """Have recorded what there is to record, unless that is under way or will soon be more."""
        gathered = len(self._written) + len(self._named)
        if self._recording or not gathered or (self._being_written and gathered < _ENOUGH):
            return
        written, self._written = self._written, []
        named, self._named = self._named, []
        self._recording = True
        assert self._journal is not None
        recording = self._journal.record([e.whole for e in written], [e.whole for e in named])

        def tell(recording: Future[None]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                self._loop.call_soon_threadsafe(self._recorded, recording.exception(), written, named)

        recording.add_done_callback(tell)

    def _recorded(self, error: BaseException | None, written: list[_Entry], named: list[_Entry]) -> None:
        self._recording = False
        assert self._writer is not None
        for entry in written:
            step = PUBLISH if error is None else REMOVE
            self._writer.add(entry.path + _PART, entry.path, b"", entry.overwrite, step, entry)
            if error is not None:
                _fail(entry.receipt, error)
        self._writer.start()
        for entry in named:
            if error is None:
                _succeed(entry.receipt, entry.stamp)
            else:
                _fail(entry.receipt, error)
        self._record()


def _succeed(receipt: Receipt, stamp: Stamp) -> None:
    receipt.settled = True
    if not receipt.future.done():
        receipt.future.set_result(stamp)


def _fail(receipt: Receipt, error: BaseException) -> None:
    receipt.settled = True
    if not receipt.future.done():
        receipt.future.set_exception(error)
