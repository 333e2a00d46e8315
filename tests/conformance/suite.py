"""Runs the modules, compares with exceptions.toml and makes the table (README.md says how to read both)."""

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
from conformance import reference

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


VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Entry:
    """A line of exceptions.toml. name: a case, an owner, or a whole class."""

    name: str
    why: str
    kills: bool = False


@dataclass
class Exceptions:
    """What exceptions.toml says about one module on this interpreter."""

    excluded: list[Entry] = field(default_factory=list)
    differs: list[Entry] = field(default_factory=list)
    wrong: list[Entry] = field(default_factory=list)

    def to_fail(self) -> list[Entry]:
        """The entries whose cases are run and have to fail."""
        return self.differs + self.wrong


def exceptions_of(module: str, version: str | None = None) -> Exceptions:
    """Read exceptions.toml for a module of this interpreter's tests, or of those of that version."""
    with (HERE / "exceptions.toml").open("rb") as file:
        tables: dict[str, dict[str, Any]] = tomllib.load(file)
    parts = [(tables.get(module, {}), version or VERSION)]
    if version is not None:
        parts.append((tables["reference"].get(module, {}), VERSION))
    found = Exceptions()
    for part, python in parts:
        found.excluded += entries(part.get("excluded", {}), python)
        found.differs += entries(part.get("differs", {}), python)
        found.wrong += entries(part.get("wrong", {}), python)
    return found


def entries(table: dict[str, Any], python: str) -> list[Entry]:
    """The entries of a table that hold on that version of Python."""
    found = []
    for name, value in table.items():
        entry: dict[str, Any] = {"why": value} if isinstance(value, str) else value
        needs = entry.get("needs", [])
        if python in entry.get("python", [python]) and not (needs and all(map(reference.own, needs))):
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


@dataclass(frozen=True)
class Numbers:
    """Counts of cases."""

    passed: int = 0
    wrong: int = 0
    differs: int = 0
    excluded: int = 0
    skipped: int = 0

    @property
    def functional(self) -> int:
        """The cases that state a behaviour noria could have: all but those excluded and those CPython skips."""
        return self.passed + self.wrong + self.differs

    @property
    def share(self) -> float:
        """Per cent of the functional cases that pass."""
        return 100 * self.passed / self.functional if self.functional else 100.0

    def __add__(self, other: Numbers) -> Numbers:
        return Numbers(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass
class Result:
    """One module on this interpreter."""

    module: str
    exceptions: Exceptions
    reference: bool = False  # these are the tests of `reference.NAME`, not this interpreter's
    cases: list[Case] = field(default_factory=list)
    excluded: list[tuple[Case, Entry]] = field(default_factory=list)

    def by_outcome(self, outcome: str) -> list[Case]:
        """The cases that ended so."""
        return [case for case in self.cases if case.outcome == outcome]

    def expected(self, case: Case) -> Entry | None:
        """The entry that says that a case fails."""
        return next((entry for entry in self.exceptions.to_fail() if case.is_called(entry)), None)

    def differs(self) -> list[Case]:
        """The failed cases of which exceptions.toml says that noria does otherwise on purpose."""
        return [case for case in self.by_outcome("failed") if self.expected(case) in self.exceptions.differs]

    def numbers(self) -> Numbers:
        """What there is to count."""
        differs = len(self.differs())
        return Numbers(
            passed=len(self.by_outcome("passed")),
            wrong=len(self.by_outcome("failed")) - differs,
            differs=differs,
            excluded=len(self.excluded),
            skipped=len(self.by_outcome("skipped")),
        )

    def surprises(self) -> list[str]:
        """What differs from exceptions.toml: failures it does not name, and entries that no longer hold."""
        found = []
        for case in self.by_outcome("failed"):
            if self.expected(case) is None:
                found.append(f"{self.module} {case.name} (of {case.owner}) fails:\n{case.why}")
        for entry in self.exceptions.to_fail():
            of = [case for case in self.cases if case.is_called(entry)]
            if not of or (not entry.kills and all(case.outcome == "passed" for case in of)):
                state = "passes" if of else "does not exist"
                found.append(f"{self.module} {entry.name} {state}: take it out of exceptions.toml")
        for entry in self.exceptions.excluded:
            if not any(matched is entry for _, matched in self.excluded):
                found.append(f"{self.module} {entry.name} does not exist: take it out of exceptions.toml")
        return found


def run(module: str, tests: Path | None = None) -> Result:
    """Run a module in child processes: one, and one more after each case that ends its process.

    tests: the directory of the reference's tests (`reference.directory`), to run these instead of the interpreter's.
    """
    exceptions = exceptions_of(module, reference.NAME if tests else None)
    result = Result(module, exceptions, reference=tests is not None)
    kills = [entry for entry in exceptions.to_fail() if entry.kills]
    skip = {entry.name for entry in (*exceptions.excluded, *kills)}
    entry_of = {entry.name: entry for entry in exceptions.excluded}
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        for attempt in range(DEATHS + 1):
            skip |= {case.name for case in result.cases}
            lines, died = run_child(module, tests, skip, Path(scratch) / str(attempt))
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
    case.outcome, case.why = "failed", "not run: it would end the process, or not end"
    result.cases.append(case)


def run_child(
    module: str, tests: Path | None, skip: set[str], scratch: Path
) -> tuple[list[dict[str, Any]], Case | None]:
    """One child process: the lines it reported, and the case that ended it, if one did."""
    scratch.mkdir()
    report, skip_file, errors = scratch / "report", scratch / "skip", scratch / "errors"
    skip_file.write_text("\n".join(sorted(skip)))
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    roots = (HERE.parent, Path(noria.__file__).parent.parent)
    env["PYTHONPATH"] = os.pathsep.join(str(root) for root in roots)
    command = [sys.executable, "-X", "faulthandler", "-m", "conformance.child", module, str(report)]
    command += ["--skip", str(skip_file)]
    if tests is not None:
        command += ["--tests", str(tests)]
    with errors.open("wb") as output:
        try:
            code = subprocess.run(
                command,
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


HEAD = ("module", "cases", "functional", "passed", "%", "wrong", "differs", "excluded", "skipped")
LEGEND = f"""\
functional: all but the excluded and what CPython itself skips. wrong, differs: functional, and fail; a bug of noria's,
or done otherwise on purpose. @{reference.NAME}: the tests of that version, for what is noria's own."""


def table(results: list[Result]) -> str:
    """The results as text: numbers a module, then every case that fails or is excluded, with its reason."""
    rows: list[tuple[str, ...]] = [HEAD]
    for of_reference in (False, True):
        part = [result for result in results if result.reference is of_reference]
        rows += [row(name_of(result), result.numbers()) for result in part]
        if part:
            rows.append(row(f"all @{reference.NAME}" if of_reference else "all", total(part)))
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(HEAD))]
    text = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        text.append("  ".join([first.ljust(widths[0]), *cells]))
    text.append(LEGEND)
    failed = [(r, case, r.expected(case)) for r in results for case in r.by_outcome("failed")]
    text += listing("noria is wrong", [f for f in failed if f[2] not in f[0].exceptions.differs])
    text += listing("noria differs on purpose", [f for f in failed if f[2] in f[0].exceptions.differs])
    text += listing("Excluded", [(r, case, entry) for r in results for case, entry in r.excluded])
    return "\n".join(text)


def name_of(result: Result) -> str:
    """How the table calls a module."""
    return f"{result.module} @{reference.NAME}" if result.reference else result.module


def row(name: str, of: Numbers) -> tuple[str, ...]:
    """A line of the table."""
    cases = of.functional + of.excluded + of.skipped
    counts = (of.wrong, of.differs, of.excluded, of.skipped)
    return (name, str(cases), str(of.functional), str(of.passed), f"{of.share:.1f}", *map(str, counts))


def total(results: list[Result]) -> Numbers:
    """The sum."""
    return sum((result.numbers() for result in results), Numbers())


def listing(title: str, found: list[tuple[Result, Case, Entry | None]]) -> list[str]:
    """Reasons with the cases they hold for."""
    if not found:
        return []
    reasons: dict[tuple[str, str], dict[str, int]] = {}
    for result, case, entry in found:
        why = entry.why if entry is not None else "NOT IN exceptions.toml: " + last_line(case.why)
        names = reasons.setdefault((name_of(result), why), {})
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
