"""From measurements to figures: medians, spreads, ratios, and tables of them as text and as Markdown."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .loops import FLOORS, LOOPS
from .row import Row
from .run import Result


@dataclass
class Cell:
    """One loop on one row: medians over the rounds, or what was wrong."""

    medians: dict[str, float] = field(default_factory=dict)
    spreads: dict[str, float] = field(
        default_factory=dict
    )  # half of highest minus lowest, as a part of the median
    error: str = ""  # in a word; then there are no figures
    why: str = ""

    @classmethod
    def of(cls, runs: list[Result]) -> Cell:
        wrong = [run for run in runs if "error" in run]
        if wrong:
            times = f" ({len(wrong)} of {len(runs)} rounds)" if len(wrong) < len(runs) else ""
            return cls(error=wrong[0]["error"], why=wrong[0]["why"] + times)
        cell = cls()
        for key in ("rate", "cpu", "value"):
            values = [run[key] for run in runs if key in run]
            if not values:
                continue
            middle = cell.medians[key] = statistics.median(values)
            cell.spreads[key] = (max(values) - min(values)) / 2 / middle if middle else 0.0
        return cell


@dataclass
class Line:
    """One row of a table."""

    key: str
    title: str
    group: str
    unit: str
    figure: str  # "rate" or "value"
    more_is_better: bool
    cells: dict[str, Cell]

    def peer(self, figure: str) -> tuple[str, float] | None:
        """The best of the loops that are not noria's, by a figure."""
        peers = {
            name: cell.medians[figure]
            for name, cell in self.cells.items()
            if name in LOOPS and not LOOPS[name].ours and figure in cell.medians
        }
        if not peers:
            return None
        best = (max if self.better(figure) else min)(peers, key=lambda name: peers[name])
        return best, peers[best]

    def better(self, figure: str) -> bool:
        """Whether more of a figure is better."""
        return self.more_is_better and figure == self.figure

    def ratio(self, loop: str, other: str, figure: str) -> float | None:
        mine = self.cells[loop].medians.get(figure) if loop in self.cells else None
        theirs = self.cells[other].medians.get(figure) if other in self.cells else None
        return mine / theirs if mine and theirs else None


class Report:
    """All measurements of one run, and where and when they were made."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.about = about
        self.rows: dict[str, dict[str, Any]] = {}

    def add(self, row: Row, loop: str, result: Result) -> None:
        described = self.rows.setdefault(
            row.key,
            {
                "title": row.title,
                "group": row.group,
                "unit": getattr(row, "unit", ""),
                "figure": row.figure,
                "more_is_better": row.more_is_better,
                "loops": {},
            },
        )
        described["loops"].setdefault(loop, []).append(result)

    def lines(self) -> list[Line]:
        found = []
        for key, described in self.rows.items():
            cells = {loop: Cell.of(runs) for loop, runs in described["loops"].items()}
            facts = {name: described[name] for name in ("title", "group", "unit", "figure", "more_is_better")}
            found.append(Line(key=key, cells=cells, **facts))
        return found

    def to_json(self) -> dict[str, Any]:
        medians = {
            line.key: {
                name: {
                    "median": cell.medians,
                    "spread": cell.spreads,
                    "to_asyncio": _present({f: line.ratio(name, "asyncio", f) for f in cell.medians}),
                    "to_best_peer": _present(
                        {f: line.ratio(name, peer[0], f) for f in cell.medians if (peer := line.peer(f))}
                    ),
                }
                if not cell.error
                else {"error": cell.error, "why": cell.why}
                for name, cell in line.cells.items()
            }
            for line in self.lines()
        }
        return {**self.about, "summary": medians, "rows": self.rows}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Report:
        """Raises KeyError if it is not what to_json made."""
        report = cls({key: value for key, value in stored.items() if key not in ("summary", "rows")})
        report.rows = stored["rows"]
        return report


def _present(ratios: dict[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in ratios.items() if value is not None}


def machine() -> dict[str, str]:
    """What the figures depend on besides the code."""
    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "processor": processor,
        "cores": str(os.cpu_count()),
    }


# How figures are written.


def amount(value: float, unit: str) -> str:
    """A figure to three digits with the prefix that suits it: 4.97M, 0.23µs, 1.44kB."""
    if unit == "seconds":
        scale = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
    elif unit == "bytes":
        scale = ((1e6, "MB"), (1e3, "kB"), (1.0, "B"))
    else:
        scale = ((1e6, "M"), (1e3, "k"), (1.0, ""))
    factor, name = next((step for step in scale if abs(value) >= step[0]), scale[-1])
    scaled = value / factor
    digits = 0 if scaled >= 100 or (unit == "bytes" and name == "B") else 1 if scaled >= 10 else 2
    return f"{scaled:.{digits}f}{name}"


HEADS = {
    "rate": "a second (more is better)",
    "cpu": "CPU time of the process under test for each (less is better)",
    "value": "bytes, or seconds (less is better)",
}


def figure_unit(line: Line, figure: str) -> str:
    return {"rate": "", "cpu": "seconds", "value": line.unit}[figure]


def columns(lines: list[Line]) -> list[str]:
    """The loops in the order of the tables; the servers in C last."""
    return [name for name in (*LOOPS, *FLOORS) if any(name in line.cells for line in lines)]


def table(lines: list[Line], figure: str, alone: bool = False) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: the loops' figures with their spread unless there was one round `alone`, then noria's ratios."""
    loops = columns(lines)
    ours = [name for name in loops if name in LOOPS and LOOPS[name].ours]
    heads = ["", *loops]
    for name in ours:
        short = "" if len(ours) == 1 else f"{name} "
        heads += [f"{short}to asyncio", f"{short}to best peer"]
    body = []
    for line in lines:
        cells = [line.title]
        for name in loops:
            cell = line.cells.get(name)
            if cell is None:
                cells.append("-")
            elif figure not in cell.medians:
                cells.append(cell.error)
            else:
                written = amount(cell.medians[figure], figure_unit(line, figure))
                # One round has no spread.
                cells.append(written if alone else f"{written} ±{100 * cell.spreads[figure]:.0f}%")
        peer = line.peer(figure)
        for name in ours:
            to_asyncio = line.ratio(name, "asyncio", figure)
            to_peer = line.ratio(name, peer[0], figure) if peer else None
            cells.append("-" if to_asyncio is None else f"{to_asyncio:.2f}")
            cells.append("-" if to_peer is None or peer is None else f"{to_peer:.2f} {peer[0]}")
        body.append(cells)
    return heads, body


def tables(report: Report) -> list[tuple[str, str, list[Line]]]:
    """(group, figure, rows) of every table that has something in it."""
    lines = report.lines()
    found = []
    for group in dict.fromkeys(line.group for line in lines):
        for figure in ("rate", "cpu", "value"):
            fitting = [
                line
                for line in lines
                if line.group == group
                and (figure == line.figure or (figure == "cpu" and line.figure == "rate"))
            ]
            if fitting:
                found.append((group, figure, fitting))
    return found


def failures(report: Report) -> list[str]:
    """What loops could not do, or did not do in every round, and why: a line for each reason."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for line in report.lines():
        wrong: dict[tuple[str, str], list[str]] = {}
        for name, cell in line.cells.items():
            if cell.error:
                wrong.setdefault((cell.error, cell.why), []).append(name)
        for (error, why), names in wrong.items():
            reasons.setdefault((", ".join(names), error, why), []).append(f"{line.title} ({line.group})")
    return [
        f"{names}: {error}: {why}: {'; '.join(titles)}" for (names, error, why), titles in reasons.items()
    ]


def head(report: Report) -> list[str]:
    about = report.about
    where = about["machine"]
    lines = [
        f"{about['date']}: {where['python']}, {where['kernel']}, {where['processor']}, {where['cores']} cores; "
        f"{about['rounds']} rounds of {about['seconds']} s, servers twice as long",
        "loops: " + ", ".join(f"{name} {version}" for name, version in about["loops"].items()),
    ]
    if about["missing"]:
        lines.append("not installed: " + ", ".join(about["missing"]))
    return lines


def text(report: Report) -> str:
    """The whole report for a terminal."""
    out = head(report)
    for group, figure, lines in tables(report):
        heads, body = table(lines, figure, report.about["rounds"] == 1)
        widths = [max(len(row[i]) for row in [heads, *body]) for i in range(len(heads))]
        out.append(f"\n{group}: {HEADS[figure]}")
        for row in [heads, *body]:
            first = row[0].ljust(widths[0])
            rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            out.append("  ".join([first, *rest]).rstrip())
    wrong = failures(report)
    if wrong:
        out += ["\nwhat a loop cannot do:", *wrong]
    return "\n".join(out)


def markdown(report: Report) -> str:
    """The same for a page of documentation."""
    out = ["  \n".join(head(report))]
    for group, figure, lines in tables(report):
        heads, body = table(lines, figure, report.about["rounds"] == 1)
        out.append(f"\n### {group.capitalize()}: {HEADS[figure]}\n")
        out.append("| " + " | ".join(heads) + " |")
        out.append("|---" * len(heads) + "|")
        out += ["| " + " | ".join(row) + " |" for row in body]
    wrong = failures(report)
    if wrong:
        out += ["\n### What a loop cannot do\n", *(f"- {line}" for line in wrong)]
    return "\n".join(out) + "\n"
