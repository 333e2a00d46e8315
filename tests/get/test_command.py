"""`noria get` as a child process: what it saves, prints and returns, and what it survives."""

import hashlib
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from get.fault_server import Exchange, FaultServer
from support.certs import Authority
from support.nginx import Nginx

GET = [sys.executable, "-m", "noria", "get"]
MEMORY_LIMIT = 150 * 1024  # KiB
GIB = 1 << 30


def get(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GET, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **{"stdin": subprocess.DEVNULL, **options},  # type: ignore[call-overload]
    )


def files(directory: Path) -> list[str]:
    """The names in `directory`, without the journal that every run keeps there."""
    return [name for name in os.listdir(directory) if not name.startswith(".noria-get.db")]


def wait_for(what: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def test_all_arrived_is_0(pdf_server: Nginx, pdfs: Path, tmp_path: Path) -> None:
    done = get("-o", tmp_path, *(pdf_server.url(path.name) for path in pdfs.iterdir()))
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 6
    assert lines[-1].startswith("5 downloaded, 583.8 KiB in ")
    for path in pdfs.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_some_failed_is_1_and_each_has_a_line(pdf_server: Nginx, tmp_path: Path) -> None:
    urls = [pdf_server.url("f1040.pdf"), pdf_server.url("missing.pdf"), "gopher://x/", "http://[bad"]
    done = get("-o", tmp_path, *urls)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("noria get: ")]
    assert f"noria get: {urls[1]}: the server answered 404 Not Found" in errors
    assert len(errors) == 3
    assert files(tmp_path) == ["f1040.pdf"]
    assert done.stderr.splitlines()[-1].startswith("1 downloaded, 3 failed, ")


def test_quiet_says_only_what_went_wrong(pdf_server: Nginx, tmp_path: Path) -> None:
    assert get("-q", "--no-journal", "-o", tmp_path, pdf_server.url("f1040.pdf")).stderr == ""
    done = get("-q", "--no-journal", "-o", tmp_path, pdf_server.url("f1040.pdf"))
    assert done.returncode == 1
    assert done.stderr == f"noria get: {pdf_server.url('f1040.pdf')}: {tmp_path}/f1040.pdf exists already\n"


def test_files_go_to_the_current_directory_by_default(pdf_server: Nginx, tmp_path: Path) -> None:
    assert get(pdf_server.url("f1040.pdf"), cwd=tmp_path).returncode == 0
    assert files(tmp_path) == ["f1040.pdf"]


def test_a_list_from_a_file_has_blank_lines_and_comments(pdf_server: Nginx, tmp_path: Path) -> None:
    urls = tmp_path / "urls.txt"
    urls.write_bytes(
        b"\xef\xbb\xbf# forms\r\n\r\n  " + pdf_server.url("f1040.pdf").encode() + b"\r\n"
        b"#" + pdf_server.url("f1040a.pdf").encode() + b"\n" + pdf_server.url("f1040ez.pdf").encode()
    )
    assert get("-i", urls, "-o", tmp_path / "out").returncode == 0
    assert sorted(files(tmp_path / "out")) == ["f1040.pdf", "f1040ez.pdf"]


def test_a_list_from_a_pipe_is_worked_on_while_it_comes(pdf_server: Nginx, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*GET, "-i", "-", "-o", str(tmp_path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        for name in ["f1040.pdf", "f1040a.pdf"]:
            process.stdin.write(pdf_server.url(name).encode() + b"\n")
            process.stdin.flush()
            wait_for((tmp_path / name).exists)  # while the pipe is open and silent
        process.stdin.close()
        assert process.wait(20) == 0


def test_an_empty_list_is_all_of_it(tmp_path: Path) -> None:
    done = get("-i", "-", "-o", tmp_path)  # standard input is /dev/null
    assert (done.returncode, done.stderr.split(",")[0]) == (0, "0 downloaded")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no URL, and no list of them (-i FILE)"),
        (["-i", "no-such-list"], "noria get: cannot read no-such-list: No such file or directory"),
        (["-i", "."], "noria get: cannot read .: Is a directory"),
        (
            ["-o", "/dev/null/x", "http://127.0.0.1/"],
            "noria get: cannot write to /dev/null/x: Not a directory",
        ),
        (["-o", "/proc/self/x", "http://127.0.0.1/"], "noria get: cannot write to /proc/self/x: "),
        (["--cacert", "no-such.pem", "https://127.0.0.1/"], "cannot use the certificates in no-such.pem: "),
        (["--cacert", "/dev/null", "https://127.0.0.1/"], "cannot use the certificates in /dev/null: "),
        (["-j", "0", "http://127.0.0.1/"], "argument -j/--jobs: invalid number value: '0'"),
        (["--timeout", "-1", "http://127.0.0.1/"], "argument --timeout: "),
        (["--timeout", "nan", "http://127.0.0.1/"], "argument --timeout: invalid seconds value: 'nan'"),
        (["--retries", "many", "http://127.0.0.1/"], "argument --retries: invalid count value: 'many'"),
        (["--overwrite", "--skip-existing", "http://127.0.0.1/"], "not allowed with argument"),
        (["--frobnicate"], "frobnicate"),
    ],
)
def test_wrong_usage_is_2_and_says_what(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = get(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_without_permission_is_2(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        # Root may write everywhere, save where the kernel says no.
        where = "/sys/kernel"
    else:
        tmp_path.chmod(0o500)
        where = str(tmp_path)
    done = get("-o", where, "http://127.0.0.1:9/")
    assert done.returncode == 2
    assert done.stderr.startswith(f"noria get: cannot write to {where}: ")


def test_what_comes_from_outside_cannot_steer_the_terminal(faults: FaultServer, tmp_path: Path) -> None:
    async def evil(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 404 \x9b31mRed\r\nContent-Length: 0\r\n\r\n")

    done = get("-o", tmp_path, faults.on("/x", evil), "http://h\x1b]0;title\x07/\x1b[2J")
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert "\x9b" not in done.stderr


def test_passwords_are_not_shown(faults: FaultServer, tmp_path: Path) -> None:
    done = get("-o", tmp_path, f"http://me:geheim@127.0.0.1:{faults.port}/x")
    assert done.returncode == 1
    assert "geheim" not in done.stderr
    assert "http://me:***@127.0.0.1" in done.stderr
    done = get(
        "-o",
        tmp_path,
        "--json",
        "--report",
        tmp_path / "r.html",
        f"http://me:geheim@127.0.0.1:{faults.port}/y",
    )
    assert "geheim" not in done.stdout + done.stderr + (tmp_path / "r.html").read_text()
    assert "http://me:***@127.0.0.1" in done.stdout.splitlines()[-1]  # among the examples of the summary
    done = get("status", tmp_path / ".noria-get.db")
    assert "geheim" not in done.stdout + done.stderr


def test_a_full_disk_fails_what_does_not_fit_and_nothing_else(pdf_server: Nginx, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    names = ["f1040.pdf", "f1040a.pdf", "f1040es.pdf", "f1040ez.pdf", "f1040sb.pdf"]
    done = get("-o", tmp_path, *map(pdf_server.url, names), preexec_fn=limit)
    assert done.returncode == 1
    assert sorted(files(tmp_path)) == ["f1040a.pdf", "f1040ez.pdf", "f1040sb.pdf"]
    for name in ["f1040.pdf", "f1040es.pdf"]:
        assert f"{pdf_server.url(name)}: cannot write {tmp_path}/{name}: File too large" in done.stderr


def test_an_interrupt_is_130_soon_with_a_summary_and_no_remains(
    pdf_server: Nginx, faults: FaultServer, tmp_path: Path
) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 3_000_000)
        await exchange.hang()

    urls = [pdf_server.url("f1040.pdf"), faults.on("/half.bin", half), faults.on("/hang", Exchange.hang)]
    with subprocess.Popen(
        [*GET, "-o", str(tmp_path), *urls], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process:
        wait_for(lambda: (tmp_path / "half.bin.part").exists() and (tmp_path / "f1040.pdf").exists())
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
        assert time.monotonic() - start < 3
    assert process.returncode == 130
    # The file that is there may not have been counted yet.
    assert re.match(r"interrupted: [01] downloaded, ", stderr.splitlines()[-1])
    assert "Traceback" not in stderr
    assert files(tmp_path) == ["f1040.pdf"]


def test_an_interrupt_while_the_list_is_awaited_ends_at_once(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*GET, "-i", "-", "-o", str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for((tmp_path / "out").exists)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: process.poll() is not None, 5)
        assert process.returncode == 130
        process.communicate()


def test_nobody_reading_the_report_does_not_stop_the_downloads(
    pdf_server: Nginx, pdfs: Path, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    urls = [pdf_server.url(path.name) for path in pdfs.iterdir()]
    with open(writing, "wb") as stderr:
        done = subprocess.run([*GET, "-o", str(tmp_path), *urls], stderr=stderr, timeout=60)
    assert done.returncode == 0
    assert len(files(tmp_path)) == 5


def test_a_terminal_gets_a_live_display(pdf_server: Nginx, pdfs: Path, tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    os.set_blocking(screen, True)
    urls = [pdf_server.url(path.name) for path in pdfs.iterdir()] + [pdf_server.url("missing")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "30"}
    with subprocess.Popen(
        [*GET, "-o", str(tmp_path), *urls], stderr=terminal, stdin=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(terminal)
        shown = b""
        try:
            while data := os.read(screen, 65536):
                shown += data
        except OSError:  # EIO: the terminal has been left
            pass
        finally:
            os.close(screen)
        assert process.wait(20) == 1
    assert b"6/6 files" in shown or b"0/6 files" in shown
    assert b"\x1b[" in shown
    assert b"404 Not Found" in shown
    assert b"5 downloaded, 1 failed, 583.8 KiB in " in shown


def test_https_with_cacert(tls_pdf_server: Nginx, ca: Authority, tmp_path: Path) -> None:
    url = tls_pdf_server.url("f1040.pdf")
    assert get("--cacert", ca.cert, "-o", tmp_path, url).returncode == 0
    refused = get("-o", tmp_path / "other", url)
    assert refused.returncode == 1
    assert "certificate problem: " in refused.stderr


@pytest.fixture
def big_directory() -> Iterator[Path]:
    """Space for a few GiB: memory if there is enough of it, else the disk of temporary files."""
    shm = "/dev/shm"
    roomy = os.path.isdir(shm) and shutil.disk_usage(shm).free > 6 * GIB
    with tempfile.TemporaryDirectory(prefix="noria-get-", dir=shm if roomy else None) as directory:
        yield Path(directory)


# Run a command; print its exit code and the most memory it had, in KiB.
MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(process.returncode, usage.ru_maxrss)
"""


def make_files(docs: Path, big: int) -> list[str]:
    """1,000 files of 4 KiB and one of `big` bytes, all different."""
    docs.mkdir()
    for number in range(1000):
        (docs / f"small-{number}.bin").write_bytes(os.urandom(4096))
    with open(docs / "big.bin", "wb") as file:
        for _ in range(big >> 20):
            file.write(os.urandom(1 << 20))
    return ["big.bin", *(f"small-{number}.bin" for number in range(1000))]


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.once
def test_a_thousand_small_files_and_a_huge_one_in_little_memory(
    start_nginx: Callable[..., Nginx], big_directory: Path
) -> None:
    docs, out = big_directory / "docs", big_directory / "out"
    names = make_files(docs, GIB)
    server = start_nginx(docs)
    urls = big_directory / "urls"
    urls.write_text("".join(server.url(name) + "\n" for name in names))
    # From a small process: at exec(2) the kernel counts the parent's memory into a child's maximum, and pytest is big.
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *GET, "-i", str(urls), "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        check=True,
        text=True,
    )
    code, kib = map(int, measured.stdout.split()[-2:])
    assert code == 0
    assert kib < MEMORY_LIMIT
    assert sorted(files(out)) == sorted(names)
    for name in names:
        assert digest(out / name) == digest(docs / name)


def test_a_server_killed_and_started_again_loses_nothing_that_was_finished(
    start_nginx: Callable[..., Nginx], big_directory: Path
) -> None:
    docs, out = big_directory / "docs", big_directory / "out"
    names = make_files(docs, 64 << 20)
    server = start_nginx(docs, extra="limit_rate_after 8k; limit_rate 1m;")  # so the big file is under way
    urls = [server.url(name) for name in names]
    process = subprocess.Popen(
        [*GET, "-j", "4", "--retries", "0", "-i", "-", "-o", str(out)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    try:
        process.stdin.write("".join(url + "\n" for url in urls[:500]))
        process.stdin.flush()
        wait_for(lambda: all((out / name).exists() for name in ["big.bin.part", *names[1:500]]))
        server.kill()
        process.stdin.write("".join(url + "\n" for url in urls[500:600]))  # nobody is there to answer these
        process.stdin.flush()
        failed = []
        while len(failed) < 101:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line, "it ended early"
            if line.startswith("noria get: "):
                failed.append(line.split(": ")[1])
        server.start()
        process.stdin.write("".join(url + "\n" for url in urls[600:]))
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert sorted(failed) == sorted([urls[0], *urls[500:600]])
    assert stderr.splitlines()[-1].startswith("900 downloaded, 101 failed, ")
    arrived = names[1:500] + names[600:]
    assert sorted(files(out)) == sorted(["big.bin.part", *arrived])  # a part can be gone on with
    for name in arrived:
        assert digest(out / name) == digest(docs / name)
    # A second run, with the server in health, brings the rest and leaves alone what is there.
    again = get("--skip-existing", "-q", "-o", out, "-j", "50", *(url for url in urls[1:]))
    assert again.returncode == 0
    assert sorted(files(out)) == sorted(["big.bin.part", *names[1:]])


def test_retries_bridge_a_restart(start_nginx: Callable[..., Nginx], big_directory: Path) -> None:
    docs, out = big_directory / "docs", big_directory / "out"
    names = make_files(docs, 16 << 20)
    server = start_nginx(docs, extra="limit_rate_after 8k; limit_rate 20m;")
    urls = big_directory / "urls"
    urls.write_text("".join(server.url(name) + "\n" for name in names))
    process = subprocess.Popen(
        [*GET, "-j", "4", "--retries", "20", "--max-wait", "0.5", "-i", str(urls), "-o", str(out)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for((out / "big.bin.part").exists)
        server.kill()
        server.start()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert sorted(files(out)) == sorted(names)
    for name in names:
        assert digest(out / name) == digest(docs / name)
