"""The tutorial's programs, each in a process of its own: with `noria run` and with plain Python, same output.

Under noria the processes cannot make a loop of the standard library (see no_stock_loop), so what passes there ran
on noria. Warnings are shown, and standard error must stay empty.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.nginx import Nginx
from support.slow_server import slow_server

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
LATENCY = 0.3  # seconds; three times what a loop in debug mode calls slow

WAYS = {
    "noria": [sys.executable, "-W", "default", "-m", "noria", "run"],
    "python": [sys.executable, "-W", "default"],
}
REPORT = re.compile(r"^Executing (.*) took ([0-9.]+) seconds$", re.MULTILINE)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """The program is run by `noria run` and then by Python alone."""
    name: str = request.param
    return name


def run(
    way: str, program: str, *arguments: str, cwd: Path, debug: bool = False
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDEVMODE": "", "PYTHONASYNCIODEBUG": "1" if debug else ""}
    if way == "noria":
        paths = [str(HERE / "no_stock_loop"), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return subprocess.run(
        [*WAYS[way], str(EXAMPLES / program), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def assert_printed(done: subprocess.CompletedProcess[str], *lines: str) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == list(lines)


def assert_same_files(downloaded: Path, served: Path) -> None:
    names = sorted(path.name for path in served.iterdir())
    assert sorted(path.name for path in downloaded.iterdir()) == names
    for name in names:
        assert (downloaded / name).read_bytes() == (served / name).read_bytes(), name


def slow_callbacks(done: subprocess.CompletedProcess[str]) -> list[tuple[str, float]]:
    """What the loop in debug mode reported: the callback in words, the seconds it took."""
    return [(what, float(seconds)) for what, seconds in REPORT.findall(done.stderr)]


def test_the_coroutine_waits_for_another(way: str, tmp_path: Path) -> None:
    assert_printed(run(way, "01_coroutine.py", cwd=tmp_path), "func is called", "func is done")


def test_the_blocking_downloader_fetches_five_files(way: str, pdf_server: Nginx, tmp_path: Path) -> None:
    done = run(way, "02_blocking_downloader.py", pdf_server.base, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    # It prints a set of tasks, so the order of the lines is anybody's.
    expected = sorted(f"Finished downloading {path.name}" for path in pdf_server.docs.iterdir())
    assert sorted(done.stdout.splitlines()) == expected
    assert_same_files(tmp_path, pdf_server.docs)


def test_the_aiohttp_downloader_fetches_five_files(way: str, pdf_server: Nginx, tmp_path: Path) -> None:
    done = run(way, "03_aiohttp_downloader.py", pdf_server.base, cwd=tmp_path)
    assert_printed(done, *["None"] * 5)
    assert_same_files(tmp_path, pdf_server.docs)


def test_its_session_uses_one_connection_for_all(way: str, pdf_server: Nginx, tmp_path: Path) -> None:
    run(way, "03_aiohttp_downloader.py", pdf_server.base, cwd=tmp_path)
    requests = pdf_server.requests(at_least=5)
    assert [request.status for request in requests] == [200] * 5
    assert len({request.connection for request in requests}) == 1


def test_call_soon_is_first_in_first_out_and_stop_ends_the_loop(way: str, tmp_path: Path) -> None:
    assert_printed(
        run(way, "04_call_soon.py", cwd=tmp_path),
        "starting event loop",
        "Event handler called",
        "Event handler called",
        "stopping the loop",
        "closing event loop",
    )


def test_the_task_sleeps_and_keeps_its_result(way: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    done = run(way, "05_task_result.py", cwd=tmp_path)
    assert time.monotonic() - begin > 2
    assert_printed(
        done,
        "task creation started",
        "This task is taking 2 seconds to complete",
        "The task's result was: task finished",
    )


def test_a_loop_in_debug_mode_names_the_coroutine_that_blocks_it(
    way: str, pdfs: Path, tmp_path: Path
) -> None:
    with slow_server(pdfs, LATENCY) as base:
        done = run(way, "02_blocking_downloader.py", base, cwd=tmp_path, debug=True)
    assert done.returncode == 0
    blocked = [what for what, seconds in slow_callbacks(done) if seconds >= LATENCY]
    assert len(blocked) == 5, done.stderr
    for what in blocked:
        assert "download_coroutine()" in what
        assert "02_blocking_downloader.py:" in what


def test_and_finds_nothing_that_waits_inside_the_aiohttp_downloader(
    way: str, pdfs: Path, tmp_path: Path
) -> None:
    with slow_server(pdfs, LATENCY) as base:
        done = run(way, "03_aiohttp_downloader.py", base, cwd=tmp_path, debug=True)
    assert_same_files(tmp_path, pdfs)
    assert [what for what, seconds in slow_callbacks(done) if seconds >= LATENCY] == []
