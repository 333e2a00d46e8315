"""`noria get` beside curl, wget2, aria2, parfive and plain aiohttp: `python -m noria.bench.downloads`.

Starts an nginx of its own on loopback, makes the files to serve, and has each client fetch them into an empty
directory, by default on a tmpfs so that no disk is measured. The rounds are interleaved, and the client that goes first
changes with each round. What arrived is counted and measured after each run; a run that is not whole has no figures.

The defaults take a few seconds; `--full` is 5,000 files of 4 KiB and one of 1 GiB. `--many N` lets noria alone fetch N
files of one byte, for the memory that takes. Everything started here ends here.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import importlib.util
import json
import os
import random
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

LONGEST = 900.0  # seconds for one run of one client, and 4 ms for each file; then it is killed
SAMPLING = 0.02  # seconds between looks at the memory of a client
# Programs written in Python start from bytecode, as they do where they are installed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

NGINX = """\
{user}
daemon off;
worker_processes 1;  # of two cores, the other one is the client's
pid {root}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 10000000;
    client_body_temp_path {root}/temp;
    proxy_temp_path {root}/temp;
    fastcgi_temp_path {root}/temp;
    uwsgi_temp_path {root}/temp;
    scgi_temp_path {root}/temp;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        root {root}/www;
        location /many/ {{ return 200 "x"; }}
    }}
}}
"""


@dataclass(frozen=True)
class Job:
    """What is to be fetched, the same for every client. `listing` holds a URL a line, `config` the same for curl."""

    title: str
    listing: Path
    config: Path
    count: int
    size: int  # bytes of each file
    connections: int


@dataclass(frozen=True)
class Client:
    """A way to download. `needs`: what must be installed. `command` is run in the directory where files go."""

    name: str
    needs: tuple[str, ...]
    command: Callable[[Job], list[str]]
    version: Callable[[], str]


@dataclass(frozen=True)
class Run:
    """One run: seconds of wall time, seconds of CPU, peak memory in MiB."""

    wall: float
    cpu: float
    memory: float


def _first_line(*command: str) -> Callable[[], str]:
    def version() -> str:
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        return " ".join(lines[0].split()[:3]) if lines else "?"

    return version


def _package(*names: str) -> Callable[[], str]:
    def version() -> str:
        from importlib.metadata import version as installed

        return ", ".join(f"{name} {installed(name)}" for name in names)

    return version


def _script(which: str) -> Callable[[Job], list[str]]:
    script = str(Path(__file__).with_name("downloads_clients.py"))
    return lambda job: [sys.executable, script, which, str(job.listing), ".", str(job.connections)]


def _curl(job: Job) -> list[str]:
    return ["curl", "-s", "--parallel", "--parallel-max", str(job.connections), "-K", str(job.config)]


def _wget2(job: Job) -> list[str]:
    return ["wget2", "-q", f"--max-threads={job.connections}", "-i", str(job.listing)]


def _aria2(job: Job) -> list[str]:
    # Several connections a file are of use where there is one file only. Without `none`, it writes zeroes first.
    split = ["-x8", "-s8", "-k1M"] if job.count == 1 else ["-x1"]
    return ["aria2c", "-q", "--file-allocation=none", f"-j{job.connections}", *split, "-i", str(job.listing)]


def _noria(job: Job) -> list[str]:
    return [*_noria_with_journal(job), "--no-journal"]  # as none of the others keeps one


def _noria_with_journal(job: Job) -> list[str]:
    return [sys.executable, "-m", "noria", "get", "-q", "-j", str(job.connections), "-i", str(job.listing)]


CLIENTS = (
    Client("noria get", ("aiohttp",), _noria, _package("noria", "aiohttp")),
    Client("noria get, journal", ("aiohttp",), _noria_with_journal, _package("noria")),
    Client("curl --parallel", ("curl",), _curl, _first_line("curl", "--version")),
    Client("wget2", ("wget2",), _wget2, _first_line("wget2", "--version")),
    Client("aria2", ("aria2c",), _aria2, _first_line("aria2c", "--version")),
    Client("aiohttp on uvloop", ("aiohttp", "uvloop"), _script("aiohttp"), _package("aiohttp", "uvloop")),
    Client("parfive", ("parfive",), _script("parfive"), _package("parfive")),
)


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print it; 0, or 1 if a client did not bring every file."""
    options = _parse(arguments)
    if shutil.which("nginx", path=_search_path()) is None:
        print("nginx is missing (Debian package nginx-light)", file=sys.stderr)
        return 2
    clients = []
    for client in CLIENTS:
        missing = [name for name in client.needs if not _is_installed(name)]
        if missing:
            print(f"left out: {client.name}, which needs {', '.join(missing)}")
        elif not options.clients or any(word in client.name for word in options.clients.split(",")):
            clients.append(client)
            print(f"{client.name}: {client.version()}")
    compileall.compile_dir(Path(__file__).parent.parent, quiet=2)
    whole = True
    with tempfile.TemporaryDirectory(prefix="noria-downloads-", dir=options.directory) as name:
        root = Path(name)
        with _nginx(root) as base:
            for job in _jobs(options, root, base):
                chosen = clients
                if job.title.startswith("many"):
                    chosen = [client for client in clients if client.name.startswith("noria")]
                whole &= _compare(job, chosen, root, options.rounds, options.json)
    return 0 if whole else 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m noria.bench.downloads", description="Compare noria get with other downloaders."
    )
    shm = "/dev/shm"
    parser.add_argument("--files", type=int, metavar="N", help="small files (500)")
    parser.add_argument("--size", type=int, default=4096, metavar="BYTES", help="of each (4096)")
    parser.add_argument("--large", type=int, metavar="MIB", help="one large file (64; 0: none)")
    parser.add_argument(
        "--many", type=int, default=0, metavar="N", help="files of one byte for noria alone (0)"
    )
    parser.add_argument(
        "--full", action="store_true", help="by default 5,000 small files and a large one of 1024 MiB"
    )
    parser.add_argument("--connections", type=int, default=50, metavar="N", help="for the small files (50)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each client (3)")
    parser.add_argument(
        "--clients", metavar="WORD,...", help="only those with one of the words in their name"
    )
    parser.add_argument(
        "--directory",
        default=shm if os.access(shm, os.W_OK) else tempfile.gettempdir(),
        help="where everything is put, and removed again (%(default)s)",
    )
    parser.add_argument(
        "--json", type=argparse.FileType("a"), metavar="FILE", help="append each run as a line"
    )
    options = parser.parse_args(arguments)
    if options.files is None:
        options.files = 5000 if options.full else 500
    if options.large is None:
        options.large = 1024 if options.full else 64
    return options


def _jobs(options: argparse.Namespace, root: Path, base: str) -> Iterator[Job]:
    """The jobs, each with its files made."""
    www = root / "www"
    if options.files:
        names = [f"f{number:06}.bin" for number in range(options.files)]
        for name in names:
            (www / name).write_bytes(os.urandom(options.size))
        title = f"{options.files} files of {options.size} bytes, {options.connections} connections"
        yield _job(root, title, [f"{base}/{name}" for name in names], options.size, options.connections)
    if options.large:
        block = os.urandom(2**20)
        with open(www / "large.bin", "wb") as file:
            for _ in range(options.large):
                file.write(block)
        title = f"one file of {options.large} MiB"
        yield _job(root, title, [f"{base}/large.bin"], options.large * 2**20, 8)
        (www / "large.bin").unlink()
    if options.many:
        urls = [f"{base}/many/{number:07}" for number in range(options.many)]
        yield _job(root, f"many: {options.many} files of 1 byte", urls, 1, options.connections)


def _job(root: Path, title: str, urls: list[str], size: int, connections: int) -> Job:
    listing, config = root / "list", root / "list.curl"
    listing.write_text("".join(f"{url}\n" for url in urls))
    config.write_text("".join(f'url="{url}"\noutput="{url.rsplit("/", 1)[1]}"\n' for url in urls))
    return Job(title, listing, config, len(urls), size, connections)


def _compare(job: Job, clients: list[Client], root: Path, rounds: int, log: TextIO | None) -> bool:
    runs: dict[str, list[Run]] = {client.name: [] for client in clients}
    wrong: dict[str, str] = {}
    for number in range(rounds):
        order = clients[number % len(clients) :] + clients[: number % len(clients)]
        for client in order:
            if client.name in wrong:
                continue
            out = root / "out"
            out.mkdir()
            run = measure(client.command(job), out, LONGEST + 0.004 * job.count)
            fault = _fault(out, job) if run else "killed after too long a time"
            shutil.rmtree(out)
            if run is None or fault:
                wrong[client.name] = fault
                continue
            runs[client.name].append(run)
            if log is not None:
                line = {"job": job.title, "client": client.name, **vars(run)}
                print(json.dumps(line), file=log, flush=True)
    print(f"\n{job.title}, median of {rounds}:\n")
    print("| client | wall s | CPU s | peak MiB | noria's wall time to it |")
    print("|---|--:|--:|--:|--:|")
    ours = _median(runs[CLIENTS[0].name], "wall") if runs.get(CLIENTS[0].name) else None
    for client in clients:
        if client.name in wrong:
            print(f"| {client.name} | {wrong[client.name]} |||")
            continue
        wall, cpu, memory = (_median(runs[client.name], figure) for figure in ("wall", "cpu", "memory"))
        ratio = f"{ours / wall:.2f}" if ours is not None else ""
        print(f"| {client.name} | {wall:.2f} | {cpu:.2f} | {memory:.0f} | {ratio} |", flush=True)
    return not wrong


def _median(runs: list[Run], figure: str) -> float:
    value: float = statistics.median(getattr(run, figure) for run in runs)
    return value


def _fault(out: Path, job: Job) -> str:
    """What is wrong with the files that arrived; the empty string if nothing is."""
    sizes = [entry.stat().st_size for entry in os.scandir(out) if not entry.name.startswith(".")]
    right = sum(size == job.size for size in sizes)
    return (
        ""
        if right == job.count == len(sizes)
        else f"{right} of {job.count} files, {len(sizes) - right} others"
    )


def measure(command: list[str], directory: Path, longest: float) -> Run | None:
    """Run `command`; None if it had to be killed."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    fd = os.pidfd_open(process.pid)
    memory = 0
    try:
        # The peak that wait4 reports is at least that of this process, which is not what is asked.
        while not select.select([fd], [], [], SAMPLING)[0]:
            memory = max(memory, _peak(process.pid))
            if time.perf_counter() - start > longest:
                process.kill()
                process.wait()
                return None
        wall = time.perf_counter() - start
    finally:
        os.close(fd)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Run(wall, usage.ru_utime + usage.ru_stime, memory / 1024)


def _peak(pid: int) -> int:
    """KiB of memory that the process has had at most, so far; 0 if it has just ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


@contextlib.contextmanager
def _nginx(root: Path) -> Iterator[str]:
    """An nginx that serves `root`/www for the length of the block; its URL."""
    (root / "www").mkdir()
    os.chmod(root, 0o755)
    program = shutil.which("nginx", path=_search_path())
    assert program is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", random.randint(20_000, 30_000)))  # below the range of outgoing connections
        port = probe.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""
    (root / "nginx.conf").write_text(NGINX.format(user=user, root=root, port=port))
    process = subprocess.Popen(
        [program, "-p", str(root), "-c", str(root / "nginx.conf")], start_new_session=True
    )
    try:
        for _ in range(500):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if process.poll() is not None:
                raise RuntimeError("nginx did not start")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _is_installed(name: str) -> bool:
    if name in ("aiohttp", "uvloop", "parfive"):
        return importlib.util.find_spec(name) is not None
    return shutil.which(name) is not None


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


if __name__ == "__main__":
    sys.exit(main())
