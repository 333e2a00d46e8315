"""`noria get` as its user meets it: lists and dry runs, events, summary, report, live display, secrets, journal."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from get.fault_server import Exchange, FaultServer
from support.nginx import Nginx
from support.tools import require

GET = [sys.executable, "-m", "noria", "get"]


def get(*arguments: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GET, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def wait_for(what: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def files(directory: Path) -> list[str]:
    return sorted(name for name in os.listdir(directory) if not name.startswith(".noria-get"))


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# Lists.


def test_a_table_gives_names_and_bad_rows_are_told_without_stopping(
    pdf_server: Nginx, tmp_path: Path
) -> None:
    table = tmp_path / "list.csv"
    url = pdf_server.url("f1040.pdf")
    table.write_text(f"link,name,size\n{url},tax.pdf,150001\n,x,\n{url},short.pdf,many\n{url},again.pdf,\n")
    done = get("-i", table, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert files(tmp_path / "out") == ["again.pdf", "tax.pdf"]
    assert f"noria get: {table}, line 3: it has no URL" in done.stderr
    assert f"noria get: {table}, line 4: its size is no number of bytes: 'many'" in done.stderr
    assert "  2 bad row, such as" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("2 downloaded, 2 bad rows, ")


def test_several_lists_and_standard_input(pdf_server: Nginx, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"url": pdf_server.url("f1040.pdf")}))
    done = get(
        "-q",
        *("-i", tmp_path / "a.jsonl", "-i", "-", "-o", tmp_path / "out"),
        stdin=pdf_server.url("f1040a.pdf"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert files(tmp_path / "out") == ["f1040.pdf", "f1040a.pdf"]


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"a,b\nx,y\n", 2, "no column is named url, but only 'a', 'b'"),
        (b"\x1f\x8b\x08\x00junk", 1, "breaks off: "),
        (b"\xff\xfeu\0", 2, "is UTF-16"),
    ],
)
def test_a_list_that_does_not_fit_is_2_and_a_broken_one_1(
    tmp_path: Path, content: bytes, code: int, words: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    done = get("-i", path, "-o", tmp_path / "out")
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert words in done.stderr


# Dry runs.


def test_a_dry_run_tells_the_names_that_the_real_run_gives(pdf_server: Nginx, tmp_path: Path) -> None:
    urls = [
        pdf_server.url("f1040.pdf"),
        pdf_server.url("f1040.pdf?again"),
        pdf_server.url("%2e%2e%2ff1040a.pdf"),
    ]
    (tmp_path / "list.csv").write_text(
        "url,name\n" + "".join(f"{url},\n" for url in urls) + f"{urls[0]},../x.pdf\n"
    )
    out = tmp_path / "out"
    planned = get("-n", "-i", tmp_path / "list.csv", "-o", out)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert not out.exists()
    rows = [line.split("\t") for line in planned.stdout.splitlines()]
    assert [url for url, _ in rows] == [*urls, urls[0]]
    assert get("-q", "--dry-run", "--json", "gopher://x").returncode == 1
    get("-q", "-j", "1", "-i", tmp_path / "list.csv", "-o", out)
    arrived = set(files(out))
    assert arrived <= {os.path.basename(path) for _, path in rows}
    assert {"f1040.pdf", "f1040-2.pdf", "x.pdf"} <= arrived


def test_a_dry_run_as_events(tmp_path: Path) -> None:
    done = get("-n", "--json", "http://me:geheim@h/a", "--checksum", "md5:" + "0" * 32)
    assert events(done.stdout) == [
        {
            "event": "plan",
            "url": "http://me:***@h/a",
            "path": "a",
            "size": None,
            "checksum": "md5:" + "0" * 32,
        }
    ]


# Events.


def test_events_tell_the_whole_run(pdf_server: Nginx, faults: FaultServer, tmp_path: Path) -> None:
    async def second_time(exchange: Exchange) -> None:
        if exchange.number == 1:
            await exchange.reply(status="503 Busy")
        else:
            await exchange.reply(b"at last")

    good, late, bad = pdf_server.url("f1040.pdf"), faults.on("/late.txt", second_time), faults.url("/none")
    (tmp_path / "list.jsonl").write_text(
        "\n".join([json.dumps(good), "{", json.dumps(late), json.dumps(bad)])
    )
    done = get("--json", "-i", tmp_path / "list.jsonl", "-o", tmp_path / "out")
    assert done.returncode == 1
    told = events(done.stdout)
    assert all(abs(event["time"] - time.time()) < 120 for event in told)
    of = {url: [event for event in told if event.get("url") == url] for url in (good, late, bad)}
    assert [event["event"] for event in of[good]] == ["start", "done"]
    assert [event["event"] for event in of[late]] == ["start", "retry", "done"]
    assert (of[late][1]["attempt"], of[late][1]["status"]) == (1, 503)
    ended = of[good][1]
    assert (ended["ok"], ended["size"], ended["status"], ended["kind"]) == (True, 150_001, 200, None)
    assert ended["path"] == str(tmp_path / "out" / "f1040.pdf")
    assert 0 < ended["first_byte"] < ended["seconds"] + 0.01
    assert (of[late][2]["attempts"], of[late][2]["host"]) == (2, f"127.0.0.1:{faults.port}")
    assert (of[bad][1]["ok"], of[bad][1]["kind"], of[bad][1]["status"]) == (False, "http", 404)
    (row,) = (event for event in told if event["event"] == "bad_row")
    assert (row["source"], row["line"]) == (str(tmp_path / "list.jsonl"), 2)
    summary = told[-1]
    assert (summary["event"], summary["interrupted"]) == ("summary", False)
    assert (summary["done"], summary["failed"], summary["bad_rows"], summary["retries"]) == (2, 1, 1, 1)
    assert summary["bytes"] == 150_001 + 7
    assert {group["kind"]: group["count"] for group in summary["failures"]} == {"http 404": 1, "bad row": 1}
    assert "f1040.pdf" not in done.stderr  # files are told once


def test_events_of_an_interrupted_run_end_with_a_summary(faults: FaultServer, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*GET, "--json", "-o", str(tmp_path), faults.on("/hang", Exchange.hang)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for(lambda: faults.seen)
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (events(stdout)[-1]["event"], events(stdout)[-1]["interrupted"]) == ("summary", True)


def test_a_reader_of_events_who_leaves_stops_nothing(pdf_server: Nginx, pdfs: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    urls = [pdf_server.url(path.name) for path in pdfs.iterdir()]
    with open(writing, "wb") as stdout:
        done = subprocess.run(
            [*GET, "--json", "-o", str(tmp_path), *urls], stdout=stdout, stderr=subprocess.PIPE, timeout=60
        )
    assert (done.returncode, b"Traceback" in done.stderr, len(files(tmp_path))) == (0, False, 5)


# Summary and report.


def test_the_summary_groups_failures_and_names_slow_hosts(
    pdf_server: Nginx, faults: FaultServer, tmp_path: Path
) -> None:
    async def slow(exchange: Exchange) -> None:
        import asyncio

        await asyncio.sleep(0.3)
        await exchange.reply(b"x")

    slow_url = faults.on("/slow", slow).replace("127.0.0.1", "localhost")
    missing = [faults.url(f"/none-{number}") for number in range(5)]
    done = get("-q", "-o", tmp_path, pdf_server.url("f1040.pdf"), slow_url, *missing, "gopher://x")
    assert "downloaded" not in done.stderr
    done = get("--overwrite", "-o", tmp_path, pdf_server.url("f1040.pdf"), slow_url, *missing, "gopher://x")
    assert done.returncode == 1
    tail = done.stderr[done.stderr.index("failures:") :].splitlines()
    assert re.match(
        r"  5 http 404, such as http://127.0.0.1:\d+/none-\d: the server answered 404 Not Found", tail[1]
    )
    assert re.match(r"  1 \w+, at gopher://x: ", tail[2])
    assert re.match(r"slowest hosts, to the first byte: localhost:\d+ [3-9]\d\d ms", tail[3])
    assert tail[4].startswith("2 downloaded, 6 failed, ")


def test_report_writes_the_page_also_after_an_interrupt(faults: FaultServer, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    done = get("--report", page, "-o", tmp_path / "out", faults.url("/none"))
    assert done.returncode == 1
    assert "the server answered 404 Not Found" in page.read_text()
    with subprocess.Popen(
        [*GET, "--report", str(page), "-o", str(tmp_path), faults.on("/hang", Exchange.hang)],
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for(lambda: "/hang" in faults.seen)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert "It was interrupted." in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--report", "/no/such/run.html"], "cannot write /no/such/run.html"),
        (["--report", "."], "cannot write .: Is a directory"),
        (["--checksum", "sha256:12"], "is not 64 hexadecimal digits"),
        (["--checksum", "md5:" + "0" * 32, "http://127.0.0.1/2"], "--checksum is for a single URL"),
        (["--name", "a", "http://127.0.0.1/2"], "--name is for a single URL"),
        (["--name", "a/b"], "--name is the name of a file; its directory goes with -o"),
        (["--rate", "0"], "argument --rate/--limit-rate: invalid rate value: '0'"),
        (["--max-size", "1X"], "argument --max-size: invalid size value: '1X'"),
        (["-H", "no colon"], "a header is not of the form 'Name: value'"),
        (["-H", "@/no/such"], "cannot read /no/such: No such file or directory"),
        (["--key", "x"], "--key needs --cert"),
        (["--cert", "/no/such.pem"], "cannot use the client certificate in /no/such.pem"),
        (["--cookies", "/no/such"], "cannot use the cookies in /no/such"),
        (["--bearer-file", "/dev/null"], "/dev/null does not hold a bearer token"),
        (["--user", "me"], "no password for me: set NORIA_GET_PASSWORD"),
        (["--update", "--overwrite"], "argument --update: not allowed with argument --overwrite"),
        (["-i", "-", "-i", "-"], "standard input can be read once only"),
        (["--journal", "x", "--no-journal"], "not allowed with argument --journal"),
        (["--skip"], "unrecognized arguments: --skip"),  # abbreviations would change with new options
    ],
)
def test_wrong_usage_is_2_and_says_what(arguments: list[str], words: str) -> None:
    done = get(*arguments, "http://127.0.0.1/")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


# What servers get to see.


def test_credentials_come_from_environment_and_files_and_appear_nowhere(
    faults: FaultServer, tmp_path: Path
) -> None:
    seen: list[dict[str, str]] = []

    async def keep(exchange: Exchange) -> None:
        seen.append(exchange.headers)
        await exchange.reply(b"x")

    url = faults.on("/x", keep)
    (tmp_path / "token").write_text("Geheim123\n")
    (tmp_path / "headers").write_text("X-A: 1\n\nX-B: 2\n")
    report = tmp_path / "run.html"
    for arguments in (
        ["--bearer-file", tmp_path / "token", "-H", f"@{tmp_path / 'headers'}", "-A", "me/1"],
        ["--user", "me"],
    ):
        done = get(
            "--overwrite",
            "--no-journal",
            "--json",
            "--report",
            report,
            "-o",
            tmp_path,
            *arguments,
            url,
            NORIA_GET_PASSWORD="Geheim123",
        )
        assert done.returncode == 0, done.stderr
        assert "Geheim123" not in done.stdout + done.stderr + report.read_text()
    first, second = seen
    assert (first["authorization"], first["x-a"], first["x-b"]) == (
        "bearer geheim123",
        "1",
        "2",
    )  # in lower case here
    assert first["user-agent"] == "me/1"
    assert second["authorization"].startswith("basic ")


def test_the_one_file_may_have_a_name(faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/x", lambda exchange: exchange.reply(b"x", Content_Disposition="a; filename=theirs"))
    assert get("-O", "mine.txt", "-o", tmp_path / "out", url).returncode == 0
    assert (tmp_path / "out" / "mine.txt").read_bytes() == b"x"
    planned = get("-n", "-O", "mine.txt", url)
    assert planned.stdout == f"{url}\tmine.txt\n"


def test_headers_of_a_row_go_with_its_request_only(faults: FaultServer, tmp_path: Path) -> None:
    seen: dict[str, str | None] = {}

    async def keep(exchange: Exchange) -> None:
        seen[exchange.path] = exchange.headers.get("x-row")
        await exchange.reply(b"x")

    rows = [{"url": faults.on("/a", keep), "headers": {"X-Row": "1"}}, {"url": faults.on("/b", keep)}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert get("-i", tmp_path / "list.jsonl", "-o", tmp_path / "out").returncode == 0
    assert seen == {"/a": "1", "/b": None}


# Journal.


def test_status_and_retry(faults: FaultServer, tmp_path: Path) -> None:
    well = False

    async def later(exchange: Exchange) -> None:
        await exchange.reply(b"x" * 5, "200 OK" if well else "404 Not Found")

    urls = [faults.on(f"/later-{number}", later) for number in range(3)]

    async def fine(exchange: Exchange) -> None:
        await exchange.reply(b"fine")

    assert get("-o", tmp_path, faults.on("/fine", fine), *urls).returncode == 1
    journal = tmp_path / ".noria-get.db"
    told = get("status", journal)
    assert told.returncode == 1
    assert told.stdout.splitlines()[0] == "1 done (4 B), 3 failed, 0 to be done"
    assert "  3 http" in told.stdout
    assert f"{urls[0]}: the server answered 404 Not Found" in told.stdout
    again = get("retry", journal)
    assert again.returncode == 1
    well = True
    again = get("retry", journal)
    assert again.returncode == 0, again.stderr
    assert again.stderr.splitlines()[-1].startswith("3 downloaded, ")
    assert files(tmp_path) == ["fine", "later-0", "later-1", "later-2"]
    assert faults.seen.count("/fine") == 1
    told = get("status", journal, "--json")
    assert told.returncode == 0
    assert json.loads(told.stdout)["done"] == 4


@pytest.mark.parametrize("command", ["status", "retry"])
def test_no_journal_is_2(command: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no journal, but long enough to be taken for something else" * 20)
    for path in (tmp_path / "none", tmp_path / "text"):
        done = get(command, path)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert f"noria get: cannot use the journal {path}: " in done.stderr
    assert get(command).returncode == 2


# The live display.


class Screen:
    """A real terminal emulator, tmux, with `command` in it."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self._tmux = [require("tmux"), "-S", str(folder / "socket"), "-f", "/dev/null"]
        line = f"{shlex.join(command)}; echo the end $?; exec sleep 60"
        subprocess.run(
            [*self._tmux, "new-session", "-d", "-x", "150", "-y", "30", line],
            check=True,
            timeout=30,
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
        )

    def text(self) -> str:
        return subprocess.run(
            [*self._tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True, timeout=30
        ).stdout

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], timeout=30)


def test_the_display_shows_total_active_files_speed_time_left_and_failures(
    faults: FaultServer, tmp_path: Path
) -> None:
    release = False

    async def half(exchange: Exchange) -> None:
        import asyncio

        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 1_000_000)
        sent = 1_000_000
        while not release and sent < 3_500_000:
            await asyncio.sleep(0.05)
            await exchange.send(b"x" * 4000)
            sent += 4000
        await exchange.send(b"x" * (4_000_000 - sent))

    async def evil(exchange: Exchange) -> None:
        await exchange.reply(status="404 \x1b[2J\x9b31mRed")

    urls = [faults.on("/half.bin", half), faults.on("/evil", evil)]
    screen = Screen(tmp_path, [*GET, "-s", "1", "-o", str(tmp_path / "out"), *urls])
    try:
        wait_for(lambda: re.search(r"half.bin .* [\d.]+ [KM]iB of 3.8 MiB", screen.text()))
        wait_for(lambda: "ETA" in screen.text())
        shown = screen.text()
        assert re.search(r"1/2 files  1 active  1 failed  .* [KM]iB/s  .*ETA ", shown)
        assert f"noria get: {urls[1]}: the server answered 404 \\x1b[2J\\x9b31mRed" in shown
        release = True
        wait_for(lambda: "the end 1" in screen.text())
        ended = screen.text()
        assert "active" not in ended  # the display has made room for the summary
        assert "1 downloaded, 1 failed, 3.8 MiB in " in ended
    finally:
        screen.close()


def test_a_terminal_that_can_do_nothing_gets_lines(pdf_server: Nginx, tmp_path: Path) -> None:
    reading, terminal = pty.openpty()
    with subprocess.Popen(
        [*GET, "-o", str(tmp_path), pdf_server.url("f1040.pdf")],
        stderr=terminal,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TERM": "dumb"},
    ) as process:
        os.close(terminal)
        shown = b""
        try:
            while data := os.read(reading, 65536):
                shown += data
        except OSError:  # EIO: the terminal has been left
            pass
        finally:
            os.close(reading)
        assert process.wait(30) == 0
    assert b"\x1b" not in shown
    assert b"[1] " in shown and b"f1040.pdf  146.5 KiB" in shown
