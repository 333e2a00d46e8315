"""What the user sees while files arrive, on two streams that are each written to by one thread at a time.

On standard error: a live display on a terminal, lines elsewhere, errors only if quiet. On standard output, if
asked for: events, a JSON object a line. A slow or stopped reader holds up the report and not the downloads, until
too much is unwritten: then `show` waits.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from noria.get.failures import printable, shown_url, without_password
from noria.get.results import Result, Transfer
from noria.get.sources import BadRow
from noria.get.tally import Tally
from noria.get.words import duration_text, size_text

if TYPE_CHECKING:
    from rich.live import Live

_MOST_UNWRITTEN = 2_000  # lines
_SAMPLES = 0.25  # seconds from one look at the activity to the next


class Progress:
    """Shows results, and what goes on between them. An asynchronous context manager; on leaving, all is
    written.

    total: gives the number of downloads, or None while it is unknown, and whether the number is exact.
    """

    def __init__(
        self,
        tally: Tally,
        total: Callable[[], tuple[int | None, bool]],
        *,
        quiet: bool = False,
        events: bool = False,
    ) -> None:
        self._tally = tally
        self._quiet = quiet
        self._count = 0
        self._live: Live | None = None
        self._sampler: asyncio.Task[None] | None = None
        both = events and sys.stdout is not None and sys.stdout.isatty()  # events would run into the display
        if not quiet and not both and sys.stderr is not None and sys.stderr.isatty():
            from noria.get.display import live  # which takes as long to import as all the rest

            self._live = live(tally, total)
        self._lines = _Lines(self._write_line)
        self._events = _Lines(_write_event) if events else None
        tally.activity.observer = self._observe

    async def show(self, result: Result) -> None:
        """Tell how a download ended; it has been counted already."""
        self._count += 1
        if not result.ok:
            self._lines.add(error_line(result))
        elif self._live is None and self._events is None and not self._quiet:
            self._lines.add(f"[{self._count}] {_arrival(result)}")
        await self._lines.room()
        if self._events is not None:
            await self._events.room()

    async def show_bad_row(self, row: BadRow) -> None:
        """Tell about, and count, a row of a list that leads to no download."""
        tally = self._tally
        tally.bad_rows += 1
        tally.add_failure("bad row", f"{row.source}, line {row.line}", row.error)
        self._lines.add(f"noria get: {printable(row.source)}, line {row.line}: {printable(row.error)}")
        self._event("bad_row", source=row.source, line=row.line, error=row.error)
        await self._lines.room()

    async def __aenter__(self) -> Self:
        self._sampler = asyncio.create_task(self._sample())
        if self._live is not None:
            self._live.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sampler is not None
        self._sampler.cancel()
        self._tally.sample()
        try:
            if self._events is not None:
                interrupted = kind is not None and issubclass(kind, asyncio.CancelledError)
                self._events.add(_json(self._tally.as_event(interrupted=interrupted)))
                await self._events.written()
            await self._lines.written()
        finally:
            if self._live is not None:
                self._live.stop()

    async def _sample(self) -> None:
        while True:
            self._tally.sample()
            await asyncio.sleep(_SAMPLES)

    def _observe(self, event: str, what: Transfer | Result) -> None:
        """The engine's word of what happens. In the loop's thread."""
        if isinstance(what, Result):
            self._tally.add(what)
            if self._events is not None:
                self._event("done", **_done(what))
            return
        if event == "retry":
            self._tally.retries += 1
        if self._events is not None:
            fields: dict[str, Any] = {"url": without_password(what.url), "name": what.name or None}
            if event == "retry":
                fields.update(attempt=what.attempts, status=what.status)
            self._event(event, **fields)

    def _event(self, event: str, /, **fields: Any) -> None:
        if self._events is not None:
            self._events.add(_json({"event": event, "time": round(time.time(), 6), **fields}))

    def _write_line(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more; the files still matter
            if self._live is not None:
                self._live.console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)
            elif sys.stderr is not None:
                print(text, file=sys.stderr, flush=True)


class _Lines:
    """Lines on their way to `write`, which a thread calls with all that have gathered."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._waiting: list[str] = []
        self._writer: asyncio.Task[None] | None = None

    def add(self, line: str) -> None:
        self._waiting.append(line)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())

    async def room(self) -> None:
        """Wait while too many lines are unwritten."""
        while len(self._waiting) > _MOST_UNWRITTEN and self._writer is not None:
            await asyncio.shield(self._writer)

    async def written(self) -> None:
        """Wait until all are."""
        if self._writer is not None:
            await self._writer

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                text, self._waiting = "\n".join(self._waiting), []
                await loop.run_in_executor(None, self._write, text)
        finally:
            self._writer = None


def summary(tally: Tally, *, interrupted: bool = False) -> str:
    """What a run came to: the errors by kind with an example each, the slowest hosts, and a last line with
    the figures.
    """
    activity, seconds = tally.activity, tally.seconds
    lines = []
    groups = tally.failures()
    if sum(group.count for group in groups) > 1:
        lines.append("failures:")
        for group in groups[:10]:
            where, error = group.examples[0]
            such = "such as" if group.count > 1 else "at"
            lines.append(f"  {group.count:,} {group.label}, {such} {shown_url(where)}: {printable(error)}")
        if len(groups) > 10:
            lines.append(f"  and {len(groups) - 10} other kinds")
    if len(tally.hosts) > 1 and (hosts := tally.slowest_hosts(3)):
        slowest = ", ".join(f"{printable(host.name)} {duration_text(host.latency or 0.0)}" for host in hosts)
        lines.append(f"slowest hosts, to the first byte: {slowest}")
    speed = activity.size / seconds if seconds > 0 else 0.0
    parts = [
        f"{activity.done} downloaded",
        f"{size_text(activity.size)} in {seconds:.1f} s ({size_text(speed)}/s)",
    ]
    if activity.skipped:
        parts.insert(1, f"{activity.skipped} there already")
    if tally.bad_rows:
        parts.insert(1, f"{tally.bad_rows} bad {'row' if tally.bad_rows == 1 else 'rows'}")
    if activity.failed:
        parts.insert(1, f"{activity.failed} failed")
    lines.append(("interrupted: " if interrupted else "") + ", ".join(parts))
    return "\n".join(lines)


def error_line(result: Result) -> str:
    """One line about a download that failed: which, why, and after how many attempts if there were several."""
    attempts = f" ({result.attempts} attempts)" if result.attempts > 1 else ""
    return f"noria get: {shown_url(result.url)}: {printable(result.error or '', 2000)}{attempts}"


def _arrival(result: Result) -> str:
    path = printable(result.where or "", 2000)
    if result.skipped:
        return f"{path} is there already"
    return f"{path}  {size_text(result.size)}  {result.seconds:.2f} s"


def _done(result: Result) -> dict[str, Any]:
    return {
        "url": without_password(result.url),
        "ok": result.ok,
        "skipped": result.skipped,
        "path": result.where,
        "size": result.size,
        "resumed": result.resumed,
        "status": result.status,
        "kind": result.kind,
        "error": result.error,
        "attempts": result.attempts,
        "host": result.host,
        "etag": result.etag,
        "checksum": result.checksum,
        "started": result.started,
        "first_byte": result.first_byte,
        "seconds": round(result.seconds, 6),
    }


def _json(event: dict[str, Any]) -> str:
    import json

    return json.dumps(
        event, ensure_ascii=True, allow_nan=False
    )  # ASCII: no encoding can fail, no terminal obey


def _write_event(text: str) -> None:
    with contextlib.suppress(OSError):  # as with lines
        if sys.stdout is not None:
            print(text, flush=True)
