"""Charts of a report: one SVG a group, every loop a mark on every row, relative to asyncio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .loops import LOOPS
from .report import Line, Report, columns, tables

# Colours that can be told apart with any kind of colour vision (Okabe and Ito), and a shape each for print.
STYLES: dict[str, tuple[str, str]] = {
    "noria": ("#D55E00", "D"),
    "noria-asyncio": ("#D55E00", "d"),
    "asyncio": ("#000000", "|"),
    "uvloop": ("#0072B2", "o"),
    "rloop": ("#009E73", "s"),
    "zloop": ("#56B4E9", "^"),
    "blazio": ("#CC79A7", "v"),
    "talyn": ("#999999", "X"),
    "trio": ("#B8A800", "P"),
    "c-epoll": ("#555555", "1"),
    "c-io_uring": ("#555555", "2"),
}

TITLES = {"rate": "operations a second", "cpu": "CPU time an operation", "value": "size"}


def draw(report: Report, directory: Path) -> list[Path]:
    """Write GROUP-FIGURE.svg for each table of the report into `directory`; returns the paths."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "noria"  # the same figures give the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for group, figure, lines in tables(report):
        path = directory / f"{group}-{figure}.svg"
        if _draw(lines, figure, f"{group}: {TITLES[figure]}", path):
            paths.append(path)
    return paths


def _draw(lines: list[Line], figure: str, title: str, path: Path) -> bool:
    from matplotlib import pyplot
    from matplotlib.ticker import NullLocator

    def speed(line: Line, loop: str) -> float | None:
        """Times asyncio, turned so that to the right is better."""
        ratio = line.ratio(loop, "asyncio", figure)
        if ratio is None:
            return None
        return ratio if line.better(figure) else 1 / ratio

    drawn = [line for line in lines if any(speed(line, loop) is not None for loop in line.cells)]
    if not drawn:
        return False
    plot: Any
    picture, plot = pyplot.subplots(figsize=(9, 1.3 + 0.3 * len(drawn)), layout="constrained")
    heights = list(range(len(drawn)))[::-1]
    for loop in columns(drawn):
        points = [
            (x, y) for line, y in zip(drawn, heights, strict=True) if (x := speed(line, loop)) is not None
        ]
        colour, mark = STYLES[loop]
        ours = loop in LOOPS and LOOPS[loop].ours
        plot.plot(
            [x for x, _ in points],
            [y for _, y in points],
            linestyle="none",
            marker=mark,
            color=colour,
            markersize=9 if ours else 7,
            zorder=3 if ours else 2,
            label=loop,
        )
    plot.set_yticks(heights, [line.title for line in drawn])
    plot.set_xscale("log")
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if _within(tick, plot.get_xlim())]
    plot.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    plot.xaxis.set_minor_locator(NullLocator())
    plot.margins(y=0.5 / len(drawn))
    plot.grid(axis="both", color="#DDDDDD", zorder=0)
    plot.set_xlabel("times asyncio; to the right is better")
    plot.set_title(title)
    plot.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    picture.savefig(path, metadata={"Date": None})
    pyplot.close(picture)
    return True


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]
