"""The command `noria bench`: which rows on which loops, in which order; then tables, JSON, charts."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import report as reports
from .loops import FLOORS, LOOPS
from .report import Report
from .row import GROUPS, Row, Service, find
from .run import Bench

QUICK_LOOPS = ("noria", "asyncio", "uvloop", "rloop", "blazio")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as `argv` says and return the exit status: 1 if noria could not do a row, 130 after Ctrl-C.

    Raises SystemExit with status 2 for wrong usage, as argparse does.
    """
    parser = make_parser()
    options = parser.parse_args(argv)
    rows = find()
    if options.list:
        for row in rows.values():
            print(f"{row.group:14} {row.key:28} {row.title}")
        return 0
    for path in (options.json, options.markdown):
        _check_writable(parser, path)
    if options.charts is not None:
        _check_charts(parser)
    interrupted = False
    if options.source is not None:
        report = _read(parser, options.source)
    else:
        report = Report({})
        interrupted = _measure(parser, options, list(rows.values()), report)
    print(reports.text(report))
    if options.json is not None:
        options.json.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    if options.markdown is not None:
        options.markdown.write_text(reports.markdown(report), encoding="utf-8")
    if options.charts is not None:
        from .charts import draw

        draw(report, options.charts)
    if interrupted:
        print("interrupted: the figures are of the rounds that were complete", file=sys.stderr)
        return 130
    wrong = any(
        cell.error not in ("", "not able")
        for line in report.lines()
        for name, cell in line.cells.items()
        if name in LOOPS and LOOPS[name].ours
    )
    return 1 if wrong else 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of `noria bench`, also for completion."""
    parser = argparse.ArgumentParser(
        prog="noria bench",
        description="Run the same programs on every event loop that is installed, side by side, and compare.",
        epilog="Each measurement is a process of its own; rounds are interleaved over the loops. All traffic is on"
        " 127.0.0.1. On a machine that does other work too, read the tables of CPU time.",
    )
    parser.add_argument("--loops", metavar="A,B", help=f"which loops: {', '.join([*LOOPS, *FLOORS])}")
    parser.add_argument(
        "--only",
        metavar="A,B",
        help=f"which rows: groups ({', '.join(GROUPS)}) or parts of rows' names (--list)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="the most telling rows, one short round: two minutes"
    )
    parser.add_argument("--rounds", type=_positive_int, help="processes for each loop and row (default 3)")
    parser.add_argument(
        "--seconds", type=_positive, help="measured time in each; servers twice as long (default 0.4)"
    )
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round and the medians")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--charts", type=Path, metavar="DIR", help="draw charts, SVG (needs noria[bench])")
    parser.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="FILE",
        help="measure nothing: show what --json has written",
    )
    return parser


def _positive(word: str) -> float:
    value = float(word)
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"{word} is not a time between 0 and 3600 seconds")
    return value


def _positive_int(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word} is less than 1")
    return value


def _check_writable(parser: argparse.ArgumentParser, path: Path | None) -> None:
    """Said now, and not after half an hour of measuring."""
    if path is None:
        return
    try:
        path.open("a").close()
    except OSError as error:
        parser.error(f"cannot write {path}: {error.strerror}")


def _check_charts(parser: argparse.ArgumentParser) -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        parser.error("charts need matplotlib: pip install 'noria[bench]'")


def _read(parser: argparse.ArgumentParser, path: Path) -> Report:
    try:
        report = Report.from_json(json.loads(path.read_text(encoding="utf-8")))
        reports.text(report)  # looks at all of it
    except OSError as error:
        parser.error(f"cannot read {path}: {error.strerror}")
    except (ValueError, KeyError, TypeError, AttributeError):
        parser.error(f"{path} is not what `noria bench --json` writes")
    return report


def choose_loops(asked: str | None, quick: bool) -> tuple[list[str], list[str]]:
    """The loops to measure, and those that would be but are not installed.

    Raises ValueError for a name that is none.
    """
    known = {**LOOPS, **FLOORS}
    if asked is None:
        usual = QUICK_LOOPS if quick else [name for name, loop in LOOPS.items() if loop.usual] + list(FLOORS)
        names = list(usual)
    else:
        names = [word.strip() for word in asked.split(",") if word.strip()]
        for name in names:
            if name not in known:
                raise ValueError(f"no loop is called {name!r}; there are {', '.join(known)}")
    missing = [name for name in names if name in LOOPS and not LOOPS[name].installed()]
    found = [name for name in names if name not in missing]
    if not found:
        raise ValueError(f"none of these loops is installed: {', '.join(missing)}")
    return found, missing


def choose_rows(rows: list[Row], asked: str | None, quick: bool) -> list[Row]:
    """The rows whose group or key is named; else those in whose key or file a word occurs (also in the singular).

    Raises ValueError for a word that finds nothing.
    """
    if asked is None:
        return [row for row in rows if row.quick or not quick]
    chosen: set[str] = set()
    for word in (word.strip() for word in asked.split(",") if word.strip()):
        fits = [row.key for row in rows if word in (row.group, row.key)]
        for form in (word, word.removesuffix("s")):
            fits = fits or [row.key for row in rows if form in row.key or form == row.module.split(".")[-1]]
        if not fits:
            raise ValueError(f"no row is called anything like {word!r}; `noria bench --list` prints them")
        chosen.update(fits)
    return [row for row in rows if row.key in chosen and (row.quick or not quick)]


def _measure(
    parser: argparse.ArgumentParser, options: argparse.Namespace, rows: list[Row], report: Report
) -> bool:
    """Fill the report. Returns whether Ctrl-C ended it early."""
    try:
        loops, missing = choose_loops(options.loops, options.quick)
        rows = choose_rows(rows, options.only, options.quick)
    except ValueError as error:
        parser.error(str(error))
    if not rows:
        parser.error("none of these rows is part of --quick")
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or (0.15 if options.quick else 0.4)
    about: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": reports.machine(),
        "loops": {name: LOOPS[name].version() if name in LOOPS else "(C)" for name in loops},
        "missing": missing,
        "rounds": rounds,
        "seconds": seconds,
    }
    report.about = about
    began = time.monotonic()
    hung: set[tuple[str, str]] = set()
    total, done = rounds * len(rows) * len(loops), 0
    with Bench() as bench:
        try:
            for turn in range(rounds):
                for row in rows:
                    first = turn % len(loops)
                    for name in loops[first:] + loops[:first]:
                        _progress(began, done, total, f"round {turn + 1} of {rounds}: {row.title}, {name}")
                        done += 1
                        reason = bench.able(row, name)
                        if reason is None and (row.key, name) in hung:
                            continue  # once is enough: it takes a minute
                        if reason is None:
                            length = 2 * seconds if isinstance(row, Service) else seconds
                            result = bench.measure(row, name, length)
                            report.add(row, name, result)
                            if result.get("error") == "hang":
                                hung.add((row.key, name))
                        elif turn == 0 and name not in FLOORS:
                            report.add(row, name, {"error": "not able", "why": reason})
        except KeyboardInterrupt:
            return True
        finally:
            _progress(began, total, total, "")
    return False


def _progress(began: float, done: int, total: int, what: str) -> None:
    if not sys.stderr.isatty():
        return
    left = (time.monotonic() - began) / done * (total - done) if done else 0.0
    line = f"{what} ({left / 60:.0f} min left)" if what and done else what
    print(f"\r{line[:110]}\x1b[K", end="", file=sys.stderr, flush=True)
