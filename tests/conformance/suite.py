"""Runs the modules, compares with exceptions.toml and makes the table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import noria

HERE = Path(__file__).parent
MODULE_SECONDS = 240  # for one module; the longest, test_tasks, takes about 20
DEATHS = 3  # times a module is started again after a case that ended its process

MODULES = (
    "test_base_events",
    "test_buffered_proto",
    "test_context",
    "test_eager_task_factory",
    "test_events",
    "test_futures",
    "test_futures2",
    "test_locks",
    "test_pep492",
    "test_queues",
    "test_runners",
    "test_sendfile",
    "test_server",
    "test_sock_lowlevel",
    "test_ssl",
    "test_sslproto",
    "test_staggered",
    "test_streams",
    "test_subprocess",
    "test_taskgroups",
    "test_tasks",
    "test_threads",
    "test_timeouts",
    "test_unix_events",
    "test_waitfor",
)


def available(module: str) -> bool:
    """Whether this interpreter has that module of tests (some distributions leave CPython's tests out)."""
    try:
        return find_spec(f"test.test_asyncio.{module}") is not None
    except ModuleNotFoundError:
        return False


@dataclass(frozen=True)
class Entry:
    """A line of exceptions.toml. name: a case, an owner, or a whole class."""

    name: str
    why: str
    kills: bool = False


@dataclass
class Exceptions:
    """What exceptions.toml says about one module on this interpreter."""

    excluded: list[Entry]
    wrong: list[Entry]


def exceptions_of(module: str) -> Exceptions:
    """Read exceptions.toml for a module."""
    with (HERE / "exceptions.toml").open("rb") as file:
        tables: dict[str, dict[str, dict[str, Any]]] = tomllib.load(file)
    mine = tables.get(module, {})
    return Exceptions(entries(mine.get("excluded", {})), entries(mine.get("wrong", {})))


def entries(table: dict[str, Any]) -> list[Entry]:
    """The entries of a table that hold on this interpreter."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = []
    for name, value in table.items():
        entry: dict[str, Any] = {"why": value} if isinstance(value, str) else value
        if version in entry.get("python", [version]):
            found.append(Entry(name, entry["why"], entry.get("kills", False)))
    return found


@dataclass
class Case:
    """One case's outcome: "passed", "failed", "skipped" by CPython, or "left out" by exceptions.toml."""

    name: str
    owner: str
    outcome: str
    why: str = ""
    seconds: float = 0.0

    def is_called(self, entry: Entry) -> bool:
        """Whether an entry speaks of this case."""
        return entry.name in (self.name, self.owner, self.name.partition(".")[0])


@dataclass
class Result:
    """One module on this interpreter."""

    module: str
    exceptions: Exceptions
    cases: list[Case] = field(default_factory=list)
    excluded: list[tuple[Case, Entry]] = field(default_factory=list)

    def by_outcome(self, outcome: str) -> list[Case]:
        """The cases that ended so."""
        return [case for case in self.cases if case.outcome == outcome]

    def wrong(self, case: Case) -> Entry | None:
        """The entry under `wrong` that speaks of a case."""
        return next((entry for entry in self.exceptions.wrong if case.is_called(entry)), None)

    def surprises(self) -> list[str]:
        """What differs from exceptions.toml: failures it does not name, and entries that no longer hold."""
        found = []
        for case in self.by_outcome("failed"):
            if self.wrong(case) is None:
                found.append(f"{self.module} {case.name} (of {case.owner}) fails:\n{case.why}")
        for entry in self.exceptions.wrong:
            of = [case for case in self.cases if case.is_called(entry)]
            if not of or (not entry.kills and all(case.outcome == "passed" for case in of)):
                state = "passes" if of else "does not exist"
                found.append(f"{self.module} {entry.name} {state}: take it out of exceptions.toml")
        for entry in self.exceptions.excluded:
            if not any(matched is entry for _, matched in self.excluded):
                found.append(f"{self.module} {entry.name} does not exist: take it out of exceptions.toml")
        return found


def run(module: str) -> Result:
    """Run a module in child processes: one, and one more after each case that ends its process."""
    exceptions = exceptions_of(module)
    result = Result(module, exceptions)
    kills = [entry for entry in exceptions.wrong if entry.kills]
    skip = {entry.name for entry in (*exceptions.excluded, *kills)}
    entry_of = {entry.name: entry for entry in exceptions.excluded}
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        for attempt in range(DEATHS + 1):
            skip |= {case.name for case in result.cases}
            lines, died = run_child(module, skip, Path(scratch) / str(attempt))
            for line in lines:
                if "end" in line:
                    case = Case(line["end"], line["owner"], line["outcome"], line["why"], line["seconds"])
                    result.cases.append(case)
                elif "left_out" in line and attempt == 0:
                    note_left_out(result, line, entry_of, kills)
            if died is None:
                return result
            result.cases.append(died)
    return result


def note_left_out(
    result: Result, line: dict[str, Any], entry_of: dict[str, Entry], kills: list[Entry]
) -> None:
    case = Case(line["left_out"], line["owner"], "left out")
    for name in line["names"]:
        if name in entry_of:
            result.excluded.append((case, entry_of[name]))
            return
    case.outcome, case.why = "failed", "not run: it ends the process"
    result.cases.append(case)


def run_child(module: str, skip: set[str], scratch: Path) -> tuple[list[dict[str, Any]], Case | None]:
    """One child process: the lines it reported, and the case that ended it, if one did."""
    scratch.mkdir()
    report, skip_file, errors = scratch / "report", scratch / "skip", scratch / "errors"
    skip_file.write_text("\n".join(sorted(skip)))
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    roots = (HERE.parent, Path(noria.__file__).parent.parent)
    env["PYTHONPATH"] = os.pathsep.join(str(root) for root in roots)
    command = [sys.executable, "-X", "faulthandler", "-m", "conformance.child", module]
    with errors.open("wb") as output:
        try:
            code = subprocess.run(
                [*command, str(report), "--skip", str(skip_file)],
                cwd=scratch,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=MODULE_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    if any("finished" in line for line in lines):
        return lines, None
    ended = {line["end"] for line in lines if "end" in line}
    running = [line["begin"] for line in lines if "begin" in line and line["begin"] not in ended]
    tail = errors.read_bytes().decode("utf-8", "replace")[-6000:]
    how = f"no end after {MODULE_SECONDS} s" if code is None else f"exit status {code}"
    name = running[-1] if running else f"{module} itself"
    return lines, Case(name, name, "failed", f"its process died ({how}):\n{tail}")


HEAD = ("module", "cases", "passed", "wrong", "skipped by CPython", "excluded")


def table(results: list[Result]) -> str:
    """The results as text: numbers a module, then every exclusion and every known wrong with its reason."""
    rows: list[tuple[str, ...]] = [HEAD]
    totals = [0] * 5
    for result in results:
        numbers = [
            len(result.cases) + len(result.excluded),
            len(result.by_outcome("passed")),
            len(result.by_outcome("failed")),
            len(result.by_outcome("skipped")),
            len(result.excluded),
        ]
        totals = [a + b for a, b in zip(totals, numbers, strict=True)]
        rows.append((result.module, *(str(n) for n in numbers)))
    rows.append(("all", *(str(n) for n in totals)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    text = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    ran = totals[1] + totals[2]
    text.append(f"{totals[1]} of the {ran} cases that ran pass ({100 * totals[1] / max(1, ran):.1f} %).")
    text += listing(
        "noria is wrong", [(r.module, c, r.wrong(c)) for r in results for c in r.by_outcome("failed")]
    )
    text += listing("Excluded", [(r.module, c, e) for r in results for c, e in r.excluded])
    return "\n".join(text)


def listing(title: str, found: list[tuple[str, Case, Entry | None]]) -> list[str]:
    """Reasons with the cases they hold for."""
    if not found:
        return []
    reasons: dict[tuple[str, str], dict[str, int]] = {}
    for module, case, entry in found:
        why = entry.why if entry is not None else "NOT IN exceptions.toml: " + last_line(case.why)
        names = reasons.setdefault((module, why), {})
        name = entry.name if entry is not None else case.name
        names[name] = names.get(name, 0) + 1
    text = ["", f"{title}:"]
    for (module, why), names in reasons.items():
        text.append(f"  {module}: {why}")
        text += [
            f"      {name}" + (f" ({count} cases)" if count > 1 else "") for name, count in names.items()
        ]
    return text


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if re.search(r"\w", line)]
    return lines[-1][:200] if lines else ""
