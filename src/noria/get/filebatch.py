"""Small files on their way to a directory, all that are ready together handed to a thread at once.

A hand-over to a thread and back costs more than the few system calls that make a small file. So those that become
ready in one turn of the loop go in one batch, and while batches are under way the next one gathers; `smallfiles` does
each without holding up the loop. No more than `_MOST_BATCHES` are under way, for disks that take long.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from noria.get import smallfiles
from noria.get.names import PART_ENDING
from noria.get.store import Stamp

_MOST_BATCHES = 4
_ENOUGH = 8  # files that are worth a batch of their own while another is under way

_Task = tuple[bytes, bytes | None, bytes | None, bool]


class FileBatch:
    """Writes whole files with the threads of `pool`, one call for each file or for each of its two steps.

    Each awaitable raises OSError with what the file system answered, FileExistsError if the name is taken; then
    nothing is left of the file. A cancelled waiter does not undo the file.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._tasks: list[_Task] = []
        self._futures: list[asyncio.Future[Stamp]] = []
        self._batches = 0
        self._starting = False

    def whole(self, path: str, chunks: Sequence[bytes], *, overwrite: bool) -> "asyncio.Future[Stamp]":
        """Make the file `path` of `chunks`."""
        return self._add(path, path, _joined(chunks), overwrite)

    def finish(self, path: str, chunks: Sequence[bytes]) -> "asyncio.Future[Stamp]":
        """Make the part of `path`, of `chunks`, and leave it at that."""
        return self._add(path, None, _joined(chunks), False)

    def publish(self, path: str, *, overwrite: bool) -> "asyncio.Future[Stamp]":
        """Give the finished part of `path` its name. The stamp has no meaning."""
        return self._add(path, path, None, overwrite)

    def _add(
        self, path: str, name: str | None, data: bytes | None, overwrite: bool
    ) -> "asyncio.Future[Stamp]":
        self._tasks.append(
            (os.fsencode(path + PART_ENDING), None if name is None else os.fsencode(name), data, overwrite)
        )
        future: asyncio.Future[Stamp] = self._loop.create_future()
        self._futures.append(future)
        if not self._starting and (not self._batches or len(self._tasks) >= _ENOUGH):
            self._starting = True
            self._loop.call_soon(self._start)  # by then, the others of this turn are here
        return future

    def _start(self) -> None:
        self._starting = False
        if not self._tasks or self._batches >= _MOST_BATCHES:
            return
        tasks, self._tasks = self._tasks, []
        futures, self._futures = self._futures, []
        self._batches += 1
        batch = self._pool.submit(smallfiles.run, tasks)

        def report(batch: Future[list[tuple[int, int, int, float]]]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                self._loop.call_soon_threadsafe(self._done, batch, tasks, futures)

        batch.add_done_callback(report)

    def _done(
        self,
        batch: Future[list[tuple[int, int, int, float]]],
        tasks: list[_Task],
        futures: "list[asyncio.Future[Stamp]]",
    ) -> None:
        self._batches -= 1
        error = batch.exception()
        results = [None] * len(tasks) if error is not None else batch.result()
        for task, future, result in zip(tasks, futures, results, strict=True):
            if future.done():
                continue
            if result is None:
                assert error is not None
                future.set_exception(error)
            elif result[0]:
                name = os.fsdecode(task[1] or task[0])
                future.set_exception(OSError(result[0], os.strerror(result[0]), name))
            else:
                future.set_result(Stamp(*result[1:]))
        self._start()


def _joined(chunks: Sequence[bytes]) -> bytes:
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
