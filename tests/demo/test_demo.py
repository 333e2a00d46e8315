"""`noria demo` and the heartbeat it measures with."""

import asyncio
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

import noria
from noria.demo.heartbeat import Heartbeat
from noria.demo.server import FileServer


def test_the_demo_shows_three_ways_and_what_they_took() -> None:
    for _ in range(4):  # on a busy machine any loop may be held up for a moment, and the demo says so
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "noria", "demo"], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        if done.stdout.count("loop blocked never") == 2 and time.monotonic() - start < 10:
            break
    assert time.monotonic() - start < 10
    assert "\x1b" not in done.stdout  # colours are for terminals
    blocking, in_turn, together = (
        float(found) for found in re.findall(r"^ +(\d\.\d\d) s: ", done.stdout, re.M)
    )
    assert blocking > 1.9
    assert in_turn > 1.9
    assert 0.35 < together < blocking / 2
    words = " ".join(done.stdout.split())
    assert re.search(r"Held by download_with_urllib \(ways\.py line \d+\), in \S+ \(socket\.py\)", words)
    assert words.count("loop blocked never") == 2
    assert done.stdout.count("f1040sb.pdf") == 3


def hold_the_loop(seconds: float) -> None:
    time.sleep(seconds)


async def guilty() -> None:
    hold_the_loop(0.3)


@pytest.mark.parametrize("run", [noria.run, asyncio.run])
def test_a_blocked_loop_is_noticed_measured_and_traced(run: object) -> None:
    async def main() -> Heartbeat:
        async with Heartbeat() as heartbeat:
            await asyncio.sleep(0.05)
            await asyncio.create_task(guilty())
            await asyncio.sleep(0.05)
        return heartbeat

    heartbeat = run(main())  # type: ignore[operator]
    assert len(heartbeat.blocked) == 1
    assert 0.29 < heartbeat.longest < 1.0
    assert heartbeat.total == heartbeat.longest
    assert heartbeat.culprit.coroutine == "guilty"
    assert heartbeat.culprit.inside == "hold_the_loop (test_demo.py)"
    assert heartbeat.beats > 3


def test_a_free_loop_has_no_culprit() -> None:
    async def main() -> Heartbeat:
        async with Heartbeat() as heartbeat:
            await asyncio.sleep(0.3)
        return heartbeat

    heartbeat = noria.run(main())
    assert heartbeat.culprit is None or heartbeat.blocked  # a busy machine may hold any loop for a moment
    assert heartbeat.beats > 5


def test_the_server_serves_late_and_ends_with_its_block(no_leaks: None) -> None:
    with FileServer({"x": b"abcdefg"}, latency=0.1, pieces=3, pause=0.01) as server:
        start = time.monotonic()
        with urllib.request.urlopen(server.url("x")) as response:
            assert response.read() == b"abcdefg"
        assert time.monotonic() - start >= 0.12
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(server.url("y"))
        caught.value.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server.url("x"))
