"""Large bodies past the loop: a thread of its own brings each from its connection into its file (`largefiles`).

For what is plainly to be copied: a body whose length is known, over TCP without TLS, kept as it comes, without a
checksum to be computed on the way or a rate to be kept to. The loop looks in now and then and tells how far it has
come. Everything else, and what comes while all threads are taken, goes the ordinary way.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from noria.get import failures
from noria.get.client import Response
from noria.get.failures import Failure
from noria.get.largefiles import Intake
from noria.get.partfile import PartFile
from noria.get.sink import Sink

if TYPE_CHECKING:
    from noria.get.response import LeanResponse

_LEAST = 4 * 1024 * 1024  # bytes; below it a thread's own beginning and end count
_THREADS = 8  # a slow server keeps one as long as it likes
_LOOK = 0.1  # seconds


class Receivers:
    """The threads. stall: seconds without a byte after which a body is given up, None for no limit."""

    def __init__(self, stall: float | None) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="noria-get-large")
        self._busy = 0
        self._stall = stall

    async def receive(
        self,
        response: Response,
        sink: Sink,
        offset: int,
        size: int,
        tell: Callable[[int], Awaitable[None]],
    ) -> None:
        """Bring the next `size` bytes of the body to `sink`, whose first byte is the file's at `offset`, if they are
        worth it; else, and where the server ends it early, what is left is there to be read from `response` as ever.

        tell: awaited now and then with how many more bytes have arrived. Raises Failure and what `tell` raises.
        """
        part = sink.part
        if size < _LEAST or self._busy >= _THREADS or sink.digests:
            return
        from noria.get.response import LeanResponse  # with httptools, which small files can do without

        if not isinstance(response, LeanResponse) or not isinstance(part, PartFile):
            return
        source = response.take_over()
        if source is None:
            return
        self._busy += 1
        try:
            early = 0
            for data in response.buffered():
                sink.add(data)
                early += len(data)
            await sink.write()  # be it nothing: the file is opened
            await sink.settle()
            await tell(early)
            try:
                intake = part.intake(source.fileno(), offset + sink.written, size - early, self._stall)
            except OSError as error:
                raise failures.disk_failure(error, sink.where) from None
            await self._see_to(intake, response, sink, tell)
        finally:
            self._busy -= 1

    async def _see_to(
        self,
        intake: Intake,
        response: "LeanResponse",
        sink: Sink,
        tell: Callable[[int], Awaitable[None]],
    ) -> None:
        running = asyncio.get_running_loop().run_in_executor(self._threads, intake.run)
        seen = 0
        try:
            ended = False
            while not ended:
                ended = bool((await asyncio.wait([running], timeout=_LOOK))[0])
                come = intake.received - seen
                seen += come
                sink.took(come)
                await tell(come)
        finally:
            intake.stop()
            await _over(running)  # the part is the caller's again only then
            sink.took(intake.received - seen)
            response.give_back(intake.received)
        ending, number = running.result()
        if ending in ("closed", "lost"):
            response.close()  # and whoever reads it is told
        elif ending == "unwritten":
            raise failures.disk_failure(OSError(number, os.strerror(number)), sink.where)
        elif ending == "stalled":
            raise Failure(
                f"stalled: no data for {self._stall:g} s", again=True, kind="timeout", congested=True
            )

    def shutdown(self) -> None:
        """Let the threads end. None is at work: each is waited for by the download that it serves."""
        self._threads.shutdown(wait=False)


async def _over(running: "asyncio.Future[Any]") -> None:
    """Wait until `running` is done, however often the caller is cancelled meanwhile."""
    cancelled = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
