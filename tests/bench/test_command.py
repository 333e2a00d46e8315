"""`noria bench` as users run it: what it measures, what it writes, what it says when asked for something wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from noria.bench.command import choose_loops, choose_rows
from noria.bench.report import Cell, Report, amount, failures, markdown, tables, text
from noria.bench.row import GROUPS, Program, Row, find

NORIA = [sys.executable, "-m", "noria", "bench"]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NORIA, *arguments], capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One short run that writes all it can write."""
    where = tmp_path_factory.mktemp("bench")
    done = bench(
        *("--loops", "noria,asyncio", "--only", "future,sleep_zero", "--rounds", "2", "--seconds", "0.02"),
        *(
            "--json",
            str(where / "out.json"),
            "--markdown",
            str(where / "out.md"),
            "--charts",
            str(where / "charts"),
        ),
    )
    return done, where


def test_it_prints_a_table_of_the_rows_asked_for(measured):
    done, _ = measured
    assert done.returncode == 0, done.stderr
    assert "future, set and awaited" in done.stdout
    assert "sleep(0)" in done.stdout
    assert "call_soon" not in done.stdout
    assert "to best peer" in done.stdout


def test_the_json_holds_every_round_and_the_medians(measured):
    _, where = measured
    report = json.loads((where / "out.json").read_text())
    assert report["rounds"] == 2
    assert set(report["loops"]) == {"noria", "asyncio"}
    assert report["machine"]["python"].startswith("CPython 3.")
    for row in ("future", "sleep_zero"):
        for loop in ("noria", "asyncio"):
            runs = report["rows"][row]["loops"][loop]
            assert len(runs) == 2
            assert all(run["rate"] > 0 and run["cpu"] > 0 for run in runs)
            summary = report["summary"][row][loop]
            assert summary["median"]["rate"] == pytest.approx(sum(run["rate"] for run in runs) / 2)
            assert summary["spread"]["rate"] >= 0
    ours = report["summary"]["future"]["noria"]
    theirs = report["summary"]["future"]["asyncio"]
    assert ours["to_asyncio"]["cpu"] == pytest.approx(ours["median"]["cpu"] / theirs["median"]["cpu"])


def test_the_markdown_has_the_same_figures(measured):
    done, where = measured
    page = (where / "out.md").read_text()
    heads = [line for line in page.splitlines() if line.startswith("|  | noria | asyncio |")]
    assert len(heads) == 2  # a table of rates and one of CPU time
    rate = next(line for line in page.splitlines() if line.startswith("| future")).split(" | ")[1]
    assert rate in done.stdout


def test_the_charts_are_svg(measured):
    _, where = measured
    charts = sorted(path.name for path in (where / "charts").iterdir())
    assert charts == ["scheduling-cpu.svg", "scheduling-rate.svg"]
    assert "future, set and awaited" in (where / "charts" / "scheduling-rate.svg").read_text()


def test_a_stored_run_is_shown_again_without_measuring(measured):
    done, where = measured
    again = bench("--from", str(where / "out.json"))
    assert again.returncode == 0
    assert again.stdout == done.stdout


def test_list_prints_every_row():
    done = bench("--list")
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(find())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loops", "tornado"], "no loop is called 'tornado'; there are noria"),
        (["--only", "nothing_like_it"], "no row is called anything like 'nothing_like_it'"),
        (["--rounds", "0"], "0 is less than 1"),
        (["--seconds", "-1"], "-1 is not a time"),
        (["--json", "/nowhere/out.json"], "cannot write /nowhere/out.json: No such file or directory"),
        (["--from", "/nowhere/in.json"], "cannot read /nowhere/in.json: No such file or directory"),
    ],
)
def test_wrong_usage_is_said_at_once(arguments: list[str], message: str):
    done = bench(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_report_is_refused(tmp_path: Path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"rows": 3}')
    done = bench("--from", str(wrong))
    assert done.returncode == 2
    assert "is not what `noria bench --json` writes" in done.stderr


def test_ctrl_c_shows_what_was_measured_so_far():
    command = [*NORIA, "--loops", "noria", "--only", "future", "--rounds", "10000", "--seconds", "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while _children_seen(process.pid) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "future, set and awaited" in out
    assert "interrupted" in errors


_seen: set[int] = set()


def _children_seen(pid: int) -> int:
    """How many children a process has had, as far as asking now and then shows."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if path.exists():
        _seen.update(int(child) for child in path.read_text().split())
    return len(_seen)


# Choosing.


def row(key: str, group: str, quick: bool = False) -> Row:
    async def nothing(_: object, n: int) -> None: ...

    return Program(key=key, title=key, run=nothing, batch=1, quick=quick, module=f"rows.{group}.{key}")


ROWS = [
    row("create_task", "scheduling", quick=True),
    row("echo_streams", "network"),
    row("lock", "primitives"),
]


def test_rows_are_chosen_by_group_or_by_part_of_the_name_also_in_the_plural():
    def keys(asked: str) -> list[str]:
        return [row.key for row in choose_rows(ROWS, asked, False)]

    assert keys("network") == ["echo_streams"]
    assert keys("tasks,echo") == ["create_task", "echo_streams"]
    assert keys("lock") == ["lock"]


def test_a_quick_run_has_only_quick_rows():
    assert [row.key for row in choose_rows(ROWS, None, True)] == ["create_task"]


def test_a_loop_that_is_not_installed_is_named_and_left_out(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "rloop" else object())
    assert choose_loops("noria,rloop", False) == (["noria"], ["rloop"])
    with pytest.raises(ValueError, match="none of these loops is installed: rloop"):
        choose_loops("rloop", False)


def test_every_group_has_rows_and_some_of_them_are_quick():
    rows = find().values()
    assert {row.group for row in rows} == set(GROUPS)
    assert {row.group for row in rows if row.quick} == set(GROUPS)


# Figures.


def report_of(**figures: list[dict[str, object]]) -> Report:
    about = {"date": "today", "machine": dict.fromkeys(("python", "kernel", "processor", "cores"), "x")}
    report = Report({**about, "loops": {}, "missing": [], "rounds": 1, "seconds": 1})
    for loop, results in figures.items():
        for result in results:
            report.add(ROWS[0], loop, result)
    return report


def test_a_cell_is_the_median_and_half_the_range():
    cell = Cell.of([{"rate": 10.0}, {"rate": 14.0}, {"rate": 11.0}])
    assert cell.medians == {"rate": 11.0}
    assert cell.spreads["rate"] == pytest.approx(2 / 11)


def test_the_best_peer_has_the_highest_rate_or_the_least_cpu_time_and_is_not_noria():
    report = report_of(
        noria=[{"rate": 40.0, "cpu": 1.0}],
        asyncio=[{"rate": 10.0, "cpu": 4.0}],
        uvloop=[{"rate": 20.0, "cpu": 3.0}],
        rloop=[{"rate": 15.0, "cpu": 2.0}],
    )
    (line,) = report.lines()
    assert line.peer("rate") == ("uvloop", 20.0)
    assert line.peer("cpu") == ("rloop", 2.0)
    assert "2.00 uvloop" in text(report)
    assert "0.50 rloop" in markdown(report)


def test_a_loop_that_fails_in_one_round_has_failed():
    report = report_of(
        noria=[{"rate": 1.0}], rloop=[{"rate": 2.0}, {"error": "crash", "why": "SIGSEGV: no message"}]
    )
    (line,) = report.lines()
    assert line.peer("rate") is None
    assert failures(report) == ["rloop: crash: SIGSEGV: no message (1 of 2 rounds): create_task (scheduling)"]
    assert "crash" in text(report)


def test_bytes_and_speeds_have_tables_of_their_own():
    report = report_of(noria=[{"rate": 1.0, "cpu": 1.0}])
    assert [(group, figure) for group, figure, _ in tables(report)] == [
        ("scheduling", "rate"),
        ("scheduling", "cpu"),
    ]


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (4_967_000.0, "", "4.97M"),
        (385_200.0, "", "385k"),
        (31.2, "", "31.2"),
        (0.23e-6, "seconds", "0.23µs"),
        (0.0123, "seconds", "12.3ms"),
        (712.3, "bytes", "712B"),
        (5_700.0, "bytes", "5.70kB"),
    ],
)
def test_amounts_are_written_with_three_digits(value: float, unit: str, written: str):
    assert amount(value, unit) == written


def test_what_a_row_measures_does_not_import_noria_for_other_loops():
    script = "import sys; import child; child.load_package(); from noria_bench.row import find; find(); "
    script += "sys.exit(any(name.split('.')[0] == 'noria' for name in sys.modules))"
    here = Path(sys.modules["noria.bench.command"].__file__ or "").parent
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(here)}, timeout=60, check=False
    )
    assert done.returncode == 0
