"""From the loop to the disk: bytes gather, and go to a thread piece by piece, one piece at a time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from noria.get import failures
from noria.get.digests import Digests
from noria.get.journal import JournalError
from noria.get.store import Part

_T = TypeVar("_T")


class Sink:
    """Takes the bytes of one body for `part`, appended, or from `offset` on if one is given. `where` names the
    file in errors. digests are computed along the way.
    """

    def __init__(
        self,
        part: Part,
        where: str,
        pool: Executor,
        piece: int,
        digests: Digests,
        offset: int | None = None,
    ) -> None:
        self.part = part
        self.where = where
        self.digests = digests
        self._pool = pool
        self._piece = piece
        self._offset = offset
        self._chunks: list[bytes] = []
        self._gathered = 0
        self._under_way = 0
        self._writing: asyncio.Future[Any] | None = None
        self.received = 0
        self.written = 0  # of it, what the part has
        self.touched = False  # the part may have come into being

    def add(self, data: bytes) -> bool:
        """Take `data`; true if it is time for `write`."""
        self._chunks.append(data)
        self._gathered += len(data)
        self.received += len(data)
        return self._gathered >= self._piece

    async def write(self) -> None:
        """Start writing what has gathered, once the piece before it is written. Raises Failure for that one."""
        await self.settle()
        chunks, self._chunks = self._chunks, []
        self._under_way, self._gathered = self._gathered, 0
        self.touched = True
        if self._offset is None:
            self._start(lambda: self._append(chunks))
        else:
            offset = self._offset + self.written
            self._start(lambda: self.part.write_at(offset, chunks))

    def took(self, size: int) -> None:
        """So many bytes have come into the part by another way."""
        self.received += size
        self.written += size

    async def settle(self) -> None:
        """Wait until nothing is on its way. Raises Failure if it did not arrive."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await self.outcome(writing)
            self.written += self._under_way
            self._under_way = 0

    async def conclude(self, ending: Callable[[list[bytes]], _T]) -> _T:
        """Call `ending` in a thread with what has not been written yet. Once begun it is seen through, even if the
        caller is cancelled meanwhile.
        """
        await self.settle()
        chunks, self._chunks, self._gathered = self._chunks, [], 0
        self.touched = True
        return await self.outcome(self._start(lambda: ending(chunks)))

    def take(self) -> list[bytes]:
        """What has not been written yet, for somebody else to write."""
        chunks, self._chunks, self._gathered = self._chunks, [], 0
        return chunks

    async def end(self, *, keep: bool) -> None:
        """Stop: keep what was written, with what has gathered, or remove it. Raises nothing."""
        if not self.touched:
            return  # nothing was opened
        writing, self._writing = self._writing, None
        chunks, self._chunks = self._chunks, []

        def last() -> None:
            if keep and self._offset is None and (writing is None or not _failed(writing)):
                try:
                    self.part.write(chunks)
                except (OSError, ValueError):
                    pass  # what is there is what counts
            if keep:
                self.part.keep()
            else:
                self.part.discard()

        if writing is not None:
            await asyncio.wait([writing])
        await _see_through(asyncio.get_running_loop().run_in_executor(self._pool, last))

    def _append(self, chunks: list[bytes]) -> None:
        if self.digests:
            self.digests.update(chunks)
        self.part.write(chunks)

    def _start(self, job: Callable[[], _T]) -> "asyncio.Future[_T]":
        future = asyncio.get_running_loop().run_in_executor(self._pool, job)
        self._writing = future
        return future

    async def outcome(self, future: "asyncio.Future[_T]") -> _T:
        """The result of `future`, waited for even if the caller is cancelled. Raises Failure for OSError."""
        try:
            return await _see_through(future)
        except JournalError:
            raise
        except OSError as error:
            raise failures.disk_failure(error, self.where) from None


def _failed(future: "asyncio.Future[Any]") -> bool:
    return future.cancelled() or future.exception() is not None


async def _see_through(future: "asyncio.Future[_T]") -> _T:
    """The result of `future`; if cancelled meanwhile, wait for it all the same."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.done():
            await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # it has been seen
        raise
