"""The live display on a terminal, by rich. Nothing else of `noria get` imports rich."""

from collections import deque
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from noria.get.failures import printable, shown_url
from noria.get.results import Transfer
from noria.get.tally import Tally
from noria.get.words import duration_text, size_text

_MOST_BARS = 8
_REFRESHES = 8  # per second
_SPEED_WINDOW = 3.0  # seconds over which the shown speed is taken


def live(tally: Tally, total: Callable[[], tuple[int | None, bool]]) -> Live | None:
    """The display on standard error, to be started; None if the terminal can move no cursor."""
    console = Console(stderr=True)
    if console.is_dumb_terminal:
        return None
    return Live(
        get_renderable=Display(tally, total, console).render,
        console=console,
        refresh_per_second=_REFRESHES,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class Display:
    """The live display: two lines about everything, one for each of the oldest transfers."""

    def __init__(self, tally: Tally, total: Callable[[], tuple[int | None, bool]], console: Console) -> None:
        self._tally = tally
        self._total = total
        self._console = console
        self._history: deque[tuple[float, int, int]] = deque([(0.0, 0, 0)])

    def render(self) -> Group:
        """The display now. Called in rich's thread, so it reads what the loop's thread changes."""
        tally, activity = self._tally, self._tally.activity
        transfers = list(activity.transfers)  # a copy in one step
        ended = activity.done + activity.failed + activity.skipped
        total, exact = self._total()
        speed, pace = self._speed(ended)
        words = [f"{ended:,} files" if total is None else f"{ended:,}/{'' if exact else '~'}{total:,} files"]
        words.append(f"{len(transfers)} active")
        counted = Text("  ".join(words), style="bold")
        if activity.failed:
            counted.append(f"  {activity.failed:,} failed", style="bold red")
        rest = [size_text(activity.received), f"{size_text(speed)}/s", duration_text(tally.seconds)]
        left = self._left(transfers, ended, total, speed, pace)
        if left is not None:
            rest.append(f"ETA {'' if exact else '~'}{duration_text(left)}")
        counted.append("  " + "  ".join(rest), style="bold")
        lines: list[Any] = [counted]
        if total:
            lines.append(ProgressBar(total=total, completed=ended, width=min(60, self._console.width - 1)))
        bars = Table.grid(padding=(0, 1))
        bars.add_column(max_width=max(10, self._console.width // 3), no_wrap=True, overflow="ellipsis")
        bars.add_column(width=max(10, self._console.width // 4))
        bars.add_column(justify="right", no_wrap=True)
        room = max(0, min(_MOST_BARS, self._console.height - 4))
        for transfer in transfers[:room]:
            if transfer.waiting:
                state = f"attempt {transfer.attempts} failed, waiting"
            elif transfer.size:
                state = f"{size_text(transfer.received)} of {size_text(transfer.size)}"
            else:
                state = size_text(transfer.received) if transfer.received else "connecting"
            bar = ProgressBar(total=transfer.size or None, completed=transfer.received)
            bars.add_row(Text(printable(transfer.name) or shown_url(transfer.url)), bar, Text(state))
        if len(transfers) > room:
            bars.add_row(Text(f"and {len(transfers) - room} more", style="dim"))
        return Group(*lines, bars)

    def _speed(self, ended: int) -> tuple[float, float]:
        """Bytes and files a second, lately."""
        now = self._tally.seconds
        received = self._tally.activity.received
        self._history.append((now, received, ended))
        while now - self._history[0][0] > _SPEED_WINDOW and len(self._history) > 2:
            self._history.popleft()
        then, received_then, ended_then = self._history[0]
        seconds = max(now - then, 1 / _REFRESHES)
        return (received - received_then) / seconds, (ended - ended_then) / seconds

    def _left(
        self, transfers: list[Transfer], ended: int, total: int | None, speed: float, pace: float
    ) -> float | None:
        """Seconds until all is done, or None without an idea: by the bytes that active files lack, if nothing
        waits behind them; else by how many files there are and how fast they ended so far.
        """
        if total is None or total <= ended:
            return None
        if total - ended <= len(transfers) and all(transfer.size for transfer in transfers):
            lacking = sum((transfer.size or 0) - transfer.received for transfer in transfers)
            return lacking / speed if speed else None
        overall = ended / self._tally.seconds if self._tally.seconds else 0.0
        pace = max(pace, overall / 4) if overall else pace
        return (total - ended) / pace if pace else None
