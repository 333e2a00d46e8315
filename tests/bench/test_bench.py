"""The benchmark's harness: what rows say of themselves, that they measure, and what becomes of a loop that cannot.

Measurements are real ones and short: what is looked at is that there is a figure, not which. The loops that misbehave
are written here and stand in files of their own, since each measurement is a process that imports its loop.
"""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from noria.bench.loops import LOOPS, named
from noria.bench.row import GROUPS, Gauge, Program, Service, find
from noria.bench.rows.applications import _web, websockets_echo
from noria.bench.run import Bench
from support.tools import require

ROWS = find()

SECONDS = 0.1  # of each measurement; the harness goes on to three batches
PATIENCE = 3.0  # seconds in addition, after which a measurement counts as hanging

SPAWN = ROWS["subprocess_spawn"]
ECHO = ROWS["websockets_echo"]

# A loop of asyncio's, with something wrong. What is put in place of {} stands in the class.
LOOP = """\
import asyncio, os, signal, subprocess, sys, time

class Loop(asyncio.SelectorEventLoop):
{}
"""

CRASHES = """\
    def run_forever(self):
        os.kill(os.getpid(), signal.SIGSEGV)
"""

HANGS_WITH_A_CHILD = """\
    def run_forever(self):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        time.sleep(600)
"""

REFUSES = """\
    async def subprocess_exec(self, *args, **kwargs):
        raise NotImplementedError("no child processes here")

    async def create_server(self, *args, **kwargs):
        raise NotImplementedError("no servers here")
"""

CRASHES_ON_DATA = """\
    async def create_server(self, factory, *args, **kwargs):
        self.call_later(0.2, os.abort)
        return await super().create_server(factory, *args, **kwargs)
"""

DIES_WHEN_CLOSED = """\
    def close(self):
        os.abort()
"""

NEVER_ANSWERS = """\
    async def create_server(self, factory, *args, **kwargs):
        return await super().create_server(asyncio.Protocol, *args, **kwargs)
"""


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench(patience=PATIENCE) as bench:
        yield bench


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """A word in the environment of every process that is started from now on."""
    word = f"started-by-{os.getpid()}-{time.monotonic_ns()}"
    monkeypatch.setenv("NORIA_BENCH_TEST", word)
    return word


def marked(word: str) -> list[str]:
    """The command lines of the processes that have `word` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except (OSError, UnicodeDecodeError):
            pass  # it has ended, or is another user's
    return found


def wait_until_gone(word: str) -> None:
    end = time.monotonic() + 5
    while left := marked(word):
        assert time.monotonic() < end, f"left running: {left}"
        time.sleep(0.01)


def loop_with(fault: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a loop with `fault`, importable by what is started from now on."""
    (directory / "faulty_loop.py").write_text(LOOP.format(fault))
    path = [str(directory), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    return "faulty_loop:Loop"


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_is_named_after_its_file_and_fits_into_a_table(row: object) -> None:
    assert isinstance(row, Program | Service | Gauge)
    _, group, file = row.module.split(".")
    assert group in GROUPS
    assert file in row.key
    assert re.fullmatch(r"[a-z][a-z0-9_]*", row.key)
    assert 0 < len(row.title) <= 40
    assert row.unit


def test_titles_tell_the_rows_of_a_group_apart() -> None:
    titles = [(row.group, row.title) for row in ROWS.values()]
    assert sorted(titles) == sorted(set(titles))


def test_two_rows_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websockets_echo, "ROWS", [*websockets_echo.ROWS, *websockets_echo.ROWS])
    with pytest.raises(ValueError, match="two rows are called 'websockets_echo'"):
        find()


def test_listing_the_rows_imports_no_library_and_no_other_loop() -> None:
    code = """
import sys
from noria.bench.row import find
find()
print({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1:]))
"""
    names = {"aiohttp", "uvicorn", "websockets", "trio", *(loop.package for loop in LOOPS.values())}
    command = [sys.executable, "-c", code, *sorted(names - {"asyncio", "noria"})]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert said.strip() == "set()"


@pytest.mark.parametrize("loop", ["noria", "noria-asyncio", "asyncio"])
@pytest.mark.parametrize("key", ["subprocess_spawn", "subprocess_pipe"])
def test_a_program_gives_a_rate_and_cpu_time(bench: Bench, key: str, loop: str) -> None:
    result = bench.measure(ROWS[key], loop, SECONDS)
    assert set(result) == {"rate", "cpu"}, result
    assert result["rate"] > 0 and result["cpu"] > 0


@pytest.mark.parametrize("loop", ["noria", "asyncio"])
def test_a_server_under_load_gives_a_rate_and_cpu_time(bench: Bench, loop: str, mark: str) -> None:
    assert bench.able(ECHO, loop) is None
    result = bench.measure(ECHO, loop, 4 * SECONDS)
    assert set(result) == {"rate", "cpu"}, result
    # A core at most, apart from connecting, whose CPU time counts and whose wall time does not.
    assert result["rate"] > 0
    assert 0 < result["cpu"] * result["rate"] < 1.5
    wait_until_gone(mark)


@pytest.mark.parametrize("loop", ["noria", "asyncio"])
@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        ("pending_future_memory", 50, 1_000),
        ("sleeping_task_memory", 300, 5_000),
        ("queued_item_memory", 8, 40),  # a table that doubles may be half empty
        ("idle_connection_memory", 100, 20_000),
    ],
)
def test_memory_is_given_in_bytes_for_each_thing(
    bench: Bench, key: str, low: float, high: float, loop: str, mark: str
) -> None:
    result = bench.measure(ROWS[key], loop, SECONDS)
    assert low <= result["value"] <= high, result
    wait_until_gone(mark)


@pytest.mark.parametrize("loop", ["noria", "asyncio"])
def test_the_time_of_an_import_is_given_in_seconds(loop: str) -> None:
    with Bench() as patient:  # twenty interpreters start for it
        result = patient.measure(ROWS["import_time"], loop, SECONDS)
    assert 0.005 < result["value"] < 5, result


def test_what_stands_beside_a_program_is_there_for_it_and_gone_after(tmp_path: Path) -> None:
    require("nginx")
    with _web.small_files() as url:
        with urllib.request.urlopen(f"{url}/{_web.FILES - 1}", timeout=10) as answer:
            assert len(answer.read()) == _web.FILE_SIZE
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"{url}/0", timeout=10)


def test_a_loop_that_is_not_installed_is_said_to_be_missing(bench: Bench) -> None:
    assert not named("no_such_loop:Loop").installed()
    result = bench.measure(SPAWN, "no_such_loop:Loop", SECONDS)
    assert result == {"error": "error", "why": "ModuleNotFoundError: No module named 'no_such_loop'"}


def test_a_row_says_beforehand_what_it_lacks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.able(SPAWN, "noria") is None
    assert bench.able(ECHO, "trio") == "the row has no version for trio's API"
    monkeypatch.setenv("PATH", "")
    lacking = bench.able(ROWS["aiohttp_client"], "noria")
    assert lacking is not None
    assert lacking.startswith("needs ") and lacking.endswith("nginx")  # aiohttp may be lacking too


@pytest.mark.parametrize("row", [SPAWN, ECHO, ROWS["pending_future_memory"]], ids=lambda row: row.key)
def test_a_loop_that_crashes_is_shown_with_the_signal(
    bench: Bench, row: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bench.measure(row, loop_with(CRASHES, tmp_path, monkeypatch), SECONDS)
    assert result["error"] == "crash"
    assert result["why"].startswith("SIGSEGV: ")


def test_a_server_that_crashes_under_load_is_shown_with_the_signal(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bench.measure(ECHO, loop_with(CRASHES_ON_DATA, tmp_path, monkeypatch), 1.0)
    assert result["error"] == "crash"
    assert result["why"].startswith("SIGABRT: ")


@pytest.mark.parametrize("row", [SPAWN, ECHO], ids=lambda row: row.key)
def test_a_loop_that_hangs_is_ended_after_a_while_with_its_children(
    bench: Bench, row: Program, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bench.measure(row, loop_with(HANGS_WITH_A_CHILD, tmp_path, monkeypatch), SECONDS)
    assert result["error"] == "hang", result
    wait_until_gone(mark)


def test_a_server_that_does_not_answer_is_an_error_with_the_loads_reason(
    bench: Bench, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websockets_echo, "PATIENCE", 0.5)
    result = bench.measure(ECHO, loop_with(NEVER_ANSWERS, tmp_path, monkeypatch), SECONDS)
    assert result == {"error": "error", "why": "the connection failed: timed out"}
    wait_until_gone(mark)


@pytest.mark.parametrize(
    ("row", "what"), [(SPAWN, "child processes"), (ECHO, "servers")], ids=["program", "service"]
)
def test_a_loop_that_refuses_is_shown_with_its_words(
    bench: Bench, row: Program, what: str, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bench.measure(row, loop_with(REFUSES, tmp_path, monkeypatch), SECONDS)
    assert result == {"error": "error", "why": f"NotImplementedError: no {what} here"}
    wait_until_gone(mark)


def test_a_loop_that_dies_when_it_is_closed_has_been_measured(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bench.measure(SPAWN, loop_with(DIES_WHEN_CLOSED, tmp_path, monkeypatch), SECONDS)
    assert result["rate"] > 0


def test_the_process_under_test_imports_nothing_of_noria_on_other_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    fault = """\
    def run_forever(self):
        found = [name for name in sys.modules if name.partition(".")[0] == "noria"]
        raise RuntimeError(f"imported: {found}")
"""
    result = bench.measure(SPAWN, loop_with(fault, tmp_path, monkeypatch), SECONDS)
    assert result["why"] == "RuntimeError: imported: []"
