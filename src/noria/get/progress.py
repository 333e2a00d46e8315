"""What the user sees while files arrive: a live display on a terminal, lines elsewhere, errors only if quiet.

Everything goes to standard error. Writing happens in a thread, one text at a time, so that a slow or stopped
terminal holds up the report and not the downloads; if too much is unwritten, `show` waits.
"""

import asyncio
import contextlib
import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from noria.get.failures import printable, shown_url
from noria.get.results import Activity, Result

_MOST_BARS = 8
_MOST_UNWRITTEN = 2_000  # lines
_REFRESHES = 8  # of the live display, per second
_SPEED_WINDOW = 3.0  # seconds over which the shown speed is taken


class Report:
    """Shows results, and what goes on between them. An asynchronous context manager; on leaving, all is
    written.

    total: the number of downloads, if known.
    """

    def __init__(self, activity: Activity, *, quiet: bool = False, total: int | None = None) -> None:
        self._quiet = quiet
        self._lines: list[str] = []
        self._writer: asyncio.Task[None] | None = None
        self._count = 0
        self._live: Live | None = None
        if not quiet and sys.stderr.isatty():
            console = Console(stderr=True)
            if not console.is_dumb_terminal:
                display = _Display(activity, total, console)
                self._live = Live(
                    get_renderable=display.render,
                    console=console,
                    refresh_per_second=_REFRESHES,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )

    async def show(self, result: Result) -> None:
        """Tell how a download ended."""
        self._count += 1
        if not result.ok:
            self._add(error_line(result))
        elif self._live is None and not self._quiet:
            self._add(f"[{self._count}] {_arrival(result)}")
        while len(self._lines) > _MOST_UNWRITTEN and self._writer is not None:
            await asyncio.shield(self._writer)

    async def __aenter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._writer is not None:
                await self._writer
        finally:
            if self._live is not None:
                self._live.stop()

    def _add(self, line: str) -> None:
        self._lines.append(line)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._lines:
                text, self._lines = "\n".join(self._lines), []
                await loop.run_in_executor(None, self._write, text)
        finally:
            self._writer = None

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more; the files still matter
            if self._live is not None:
                self._live.console.print(Text(text), soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)


class _Display:
    """The live display: one line about everything, one for each of the oldest transfers."""

    def __init__(self, activity: Activity, total: int | None, console: Console) -> None:
        self._activity = activity
        self._total = total
        self._console = console
        self._start = time.monotonic()
        self._history: deque[tuple[float, int]] = deque([(self._start, 0)])

    def render(self) -> Group:
        """The display now. Called in rich's thread, so it reads what the loop's thread changes."""
        activity = self._activity
        transfers = list(activity.transfers)  # a copy in one step
        ended = activity.done + activity.failed + activity.skipped
        words = [
            f"{ended}/{self._total} files" if self._total else f"{ended} files",
            f"{len(transfers)} active",
        ]
        if activity.failed:
            words.append(f"{activity.failed} failed")
        words += [size_text(activity.received), f"{size_text(self._speed())}/s"]
        words.append(f"{time.monotonic() - self._start:.0f} s")
        bars = Table.grid(padding=(0, 1))
        bars.add_column(max_width=max(10, self._console.width // 3), no_wrap=True, overflow="ellipsis")
        bars.add_column(width=max(10, self._console.width // 4))
        bars.add_column(justify="right", no_wrap=True)
        room = max(0, min(_MOST_BARS, self._console.height - 3))
        for transfer in transfers[:room]:
            if transfer.waiting:
                state = f"attempt {transfer.attempts} failed, waiting"
            elif transfer.size:
                state = f"{size_text(transfer.received)} of {size_text(transfer.size)}"
            else:
                state = size_text(transfer.received) if transfer.received else "connecting"
            bar = ProgressBar(total=transfer.size or None, completed=transfer.received)
            bars.add_row(Text(transfer.name or shown_url(transfer.url)), bar, Text(state))
        return Group(Text("  ".join(words), style="bold"), bars)

    def _speed(self) -> float:
        """Bytes a second lately."""
        now = time.monotonic()
        self._history.append((now, self._activity.received))
        while now - self._history[0][0] > _SPEED_WINDOW and len(self._history) > 2:
            self._history.popleft()
        then, received = self._history[0]
        return (self._activity.received - received) / max(now - then, 1 / _REFRESHES)


def summary(activity: Activity, seconds: float, *, interrupted: bool = False) -> str:
    """One line about a whole run that took `seconds`."""
    speed = activity.size / seconds if seconds > 0 else 0.0
    parts = [
        f"{activity.done} downloaded",
        f"{size_text(activity.size)} in {seconds:.1f} s ({size_text(speed)}/s)",
    ]
    if activity.skipped:
        parts.insert(1, f"{activity.skipped} there already")
    if activity.failed:
        parts.insert(1, f"{activity.failed} failed")
    return ("interrupted: " if interrupted else "") + ", ".join(parts)


def error_line(result: Result) -> str:
    """One line about a download that failed: which, why, and after how many attempts if there were several."""
    attempts = f" ({result.attempts} attempts)" if result.attempts > 1 else ""
    return f"noria get: {shown_url(result.url)}: {printable(result.error or '', 2000)}{attempts}"


def size_text(size: float) -> str:
    """`size` bytes as people read it: '0 B', '4.0 KiB', '1.5 GiB'."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def _arrival(result: Result) -> str:
    if result.skipped:
        return f"{result.path} is there already"
    return f"{result.path}  {size_text(result.size)}  {result.seconds:.2f} s"
