"""What a run comes to, in bounded memory, and the page that shows it, in a real browser."""

import html
import json
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from noria.get.report import page, write_report
from noria.get.results import Activity, Result, Transfer
from noria.get.tally import OTHER, Tally
from noria.get.words import duration_text, size_text
from support.tools import require

EVIL = "<script>document.title='caught'</script><img src=x onerror=alert(1)>\u202e\x1b[31m"


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def recorded_run(seconds: float = 60.0, files: int = 3000, hosts: int = 4) -> Tally:
    """A run as the engine would tell it: slow at first, a server in trouble in the middle."""
    chance = random.Random(7)
    clock = Clock()
    activity = Activity(limit=32)
    tally = Tally(activity, clock)
    active = [Transfer(str(number)) for number in range(32)]
    for number in range(files):
        clock.now = 1000 + seconds * number / files
        share = number / files
        activity.transfers = dict.fromkeys(active[: 8 + int(24 * min(1.0, share * 4))])
        trouble = 0.4 < share < 0.5
        ok = chance.random() > (0.3 if trouble else 0.01)
        host = f"host{number % hosts}.example"
        result = Result(
            f"https://{host}/file-{number}.bin",
            size=chance.randrange(1, 2_000_000) if ok else 0,
            status=200 if ok else 503,
            error=None if ok else "the server answered 503 Service Unavailable",
            kind=None if ok else "http",
            attempts=1 if ok else 5,
            seconds=chance.expovariate(2.0),
            host=host,
            first_byte=chance.lognormvariate(-3, 0.5) * (8 if trouble else 1) * (1 + number % hosts),
        )
        activity.done += ok
        activity.failed += not ok
        activity.size += result.size
        activity.received += result.size
        tally.add(result)
        tally.sample()
    tally.retries = 4 * activity.failed
    return tally


@pytest.fixture(scope="module")
def tally() -> Tally:
    return recorded_run()


def test_a_run_is_cut_into_a_bounded_number_of_buckets_that_lose_nothing() -> None:
    tally = recorded_run(seconds=5000.0, files=20_000)
    assert len(tally.buckets) <= 240
    assert tally.width * len(tally.buckets) >= 5000 - tally.width
    assert sum(bucket.received for bucket in tally.buckets) == tally.activity.received
    assert sum(bucket.done for bucket in tally.buckets) == tally.activity.done
    assert sum(bucket.failed for bucket in tally.buckets) == tally.activity.failed
    assert sum(bucket.measured for bucket in tally.buckets) == 20_000
    assert max(len(bucket.latencies) for bucket in tally.buckets) <= 48
    calm = [bucket.quantile(0.5) for bucket in tally.buckets[: len(tally.buckets) // 3]]
    trouble = [bucket.quantile(0.5) for bucket in tally.buckets[len(tally.buckets) * 42 // 100 :][:5]]
    assert min(value or 0 for value in trouble) > 2 * max(value or 0 for value in calm)


def test_hosts_and_failures_without_number_are_counted_together() -> None:
    tally = Tally(Activity())
    for number in range(3000):
        tally.add(Result(f"http://h{number}/", host=f"h{number}", error="no", kind=f"kind{number}"))
    assert len(tally.hosts) == 1001
    assert tally.hosts[OTHER].failed == 2000
    assert len(tally.groups) == 51
    assert tally.groups["other"].count == 2950
    assert all(len(group.examples) <= 3 for group in tally.failures())
    assert len(tally.slowest_files()) == 15


def test_the_slowest_come_first(tally: Tally) -> None:
    hosts = [host.name for host in tally.slowest_hosts(3)]
    assert hosts == ["host3.example", "host2.example", "host1.example"]
    seconds = [result.seconds for result in tally.slowest_files()]
    assert seconds == sorted(seconds, reverse=True)
    assert len(seconds) == 15


def test_words() -> None:
    assert [size_text(size) for size in (0, 1023, 4096, 1.5 * 2**30, 2**50)] == [
        "0 B",
        "1023 B",
        "4.0 KiB",
        "1.5 GiB",
        "1024.0 TiB",
    ]
    assert [duration_text(s) for s in (0.0014, 0.9999, 2.5, 59.999, 60, 200, 7500, 300_000)] == [
        "1 ms",
        "1 s",
        "2.5 s",
        "60 s",
        "1 min",
        "3 min 20 s",
        "2 h 05 min",
        "3 d 11 h",
    ]


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.0, 3.0, 100.0, 200_000.0])
def test_charts_of_any_length_are_whole(seconds: float) -> None:
    text = page(recorded_run(seconds, files=100 if seconds else 1), interrupted=False)
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        ET.fromstring(chart)
        assert "nan" not in chart and "inf" not in chart
    assert len(text) < 400_000


def test_an_empty_run_has_a_page() -> None:
    assert "0</b><span>downloaded" in page(Tally(Activity()), interrupted=True)


def test_what_comes_from_outside_stays_text() -> None:
    tally = Tally(Activity())
    tally.add(Result(f"http://h/{EVIL}", error=EVIL, kind=EVIL, host=EVIL))
    tally.add(Result(f"http://me:geheim@h/{EVIL}", host=EVIL, seconds=1.0))
    text = page(tally, interrupted=False)
    assert "<script" not in text and "<img" not in text
    assert "\u202e" not in text and "\x1b" not in text
    assert "geheim" not in text


def test_the_page_replaces_its_file_whole_or_not_at_all(tmp_path: Path, tally: Tally) -> None:
    path = tmp_path / "run.html"
    path.write_text("before")
    write_report(str(path), tally, interrupted=False)
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.html"]
    with pytest.raises(OSError):
        write_report(str(tmp_path / "none" / "run.html"), tally, interrupted=False)


def chromium(page: Path, profile: Path, *options: str) -> str:
    command = [
        require("chromium"),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--window-size=1100,1800",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


# What a reader sees, told by the browser itself: appended to a copy of the page, which forbids scripts of its own.
PROBE = """
<script>
const seen = {text: document.body.innerText, wide: document.documentElement.scrollWidth > innerWidth,
  back: getComputedStyle(document.body).backgroundColor, scripts: document.scripts.length, images: document.images.length,
  charts: [...document.querySelectorAll('svg')].map(svg => [svg.id, svg.getBoundingClientRect().width,
    [...svg.querySelectorAll('.path')].map(path => [getComputedStyle(path).stroke, path.getBBox().width])]),
  fetched: performance.getEntriesByType('resource').length, title: document.title};
document.body.replaceChildren(Object.assign(document.createElement('pre'), {textContent: JSON.stringify(seen)}));
</script>
"""


@pytest.fixture(scope="module")
def seen(tally: Tally, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("page")
    evil = Result(f"http://h/{EVIL}", error=EVIL, kind="other", host="evil.example", seconds=1e6)
    tally.add(evil)
    text = page(tally, interrupted=False)
    probed = folder / "probed.html"
    probed.write_text(re.sub(r"<meta http-equiv=Content-Security-Policy[^\n]*\n", "", text) + PROBE)
    dom = chromium(probed, folder / "profile", "--dump-dom")
    found = re.search(r"<pre>(.*)</pre>", dom, re.DOTALL)
    assert found, dom[-2000:]
    shown: dict[str, object] = json.loads(html.unescape(found[1]))
    return shown


def test_a_browser_shows_charts_hosts_failures_and_files(seen: dict[str, object], tally: Tally) -> None:
    text = str(seen["text"])
    for words in ("Throughput", "Latency", "Concurrency", "Failures", "Hosts", "Slowest files"):
        assert words in text
    assert f"{tally.activity.done:,}\ndownloaded" in text
    assert f"{tally.groups['http 503'].count:,} http 503" in text
    assert "host3.example" in text and "MiB/s" in text and "503 Service Unavailable" in text
    charts = seen["charts"]
    assert isinstance(charts, list)
    assert [name for name, _, _ in charts] == ["throughput", "latency", "concurrency"]
    for _, width, paths in charts:
        assert width > 800
        assert paths and all(stroke != "none" and length > 500 for stroke, length in paths)
    assert not seen["wide"]


def test_a_browser_runs_and_fetches_nothing(seen: dict[str, object]) -> None:
    assert "<script>document.title='caught'</script>" in str(seen["text"])
    assert seen["scripts"] == 1  # the test's own
    assert (seen["images"], seen["fetched"]) == (0, 0)
    assert str(seen["title"]).startswith("noria get, 20")


if __name__ == "__main__":  # to look at it: python -m get.test_report FILE
    write_report(sys.argv[1], recorded_run(), interrupted=False)
