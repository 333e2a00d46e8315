"""Echo servers on every installed event loop: requests a second, and the server's CPU time for one.

The server is a process of its own on one loop; bench/load.c, compiled here with `cc`, keeps one message under way on
each connection and checks what comes back. Rounds are interleaved as in bench/quick.py, whose list of loops this
uses; a cell is the median over the rounds. With two cores, server and load have one each: CPU time for a request is
then the steadier figure of the two, since the load's own speed has no part in it.

    python bench/echo.py
    python bench/echo.py --loops noria uvloop --only protocol --rounds 5 --seconds 3
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from quick import DEFAULT_LOOPS, LOOPS, installed, say, summarise, version

HERE = Path(__file__).parent

ROWS: dict[str, tuple[str, str, int, int]] = {
    # key: (title, kind of server, connections, bytes in a message)
    "protocol": ("Protocol, 50 x 1 KiB", "protocol", 50, 1024),
    "small": ("Protocol, 500 x 64 B", "protocol", 500, 64),
    "large": ("Protocol, 50 x 100 KiB", "protocol", 50, 100 * 1024),
    "streams": ("streams, 50 x 1 KiB", "streams", 50, 1024),
}


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.write(data)


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(kind: str) -> None:
    """Serve on a port of 127.0.0.1 that is printed first, until standard input ends."""
    loop = asyncio.get_running_loop()
    if kind == "protocol":
        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
    else:
        server = await asyncio.start_server(echo_stream, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # how a loop closes is not what is measured


def cpu_seconds(pid: int) -> float:
    """CPU time that the threads of a process have used, in seconds (/proc/PID/task/TID/schedstat, nanoseconds)."""
    return (
        sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    )


def one_run(load: str, loop_name: str, row: str, seconds: float) -> dict[str, Any]:
    """Measure once: `rate` (requests a second) and `cpu` (seconds for one), or `error` with the reason."""
    _, kind, connections, size = ROWS[row]
    command = [sys.executable, __file__, "--server", loop_name, kind]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            port = server.stdout.readline().decode().strip()
            if not port:
                why = server.stderr.read().decode().strip().splitlines() or ["no message"]
                return {"error": "error", "why": why[-1]}
            subprocess.run([load, port, str(connections), str(size), "0.3"], capture_output=True, check=False)
            before = cpu_seconds(server.pid)
            try:
                done = subprocess.run(
                    [load, port, str(connections), str(size), str(seconds)],
                    capture_output=True,
                    text=True,
                    timeout=seconds + 30,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return {"error": "hang", "why": f"the load did not end within {seconds + 30} s"}
            if server.poll() is not None:
                return {"error": "crash", "why": f"the server ended with {server.returncode}"}
            if done.returncode != 0:
                return {"error": "error", "why": done.stderr.strip()}
            used = cpu_seconds(server.pid) - before
            requests, took = done.stdout.split()
            return {"rate": int(requests) / float(took), "cpu": used / int(requests)}
        finally:
            server.kill()


def print_table(
    title: str, key: str, scale: float, form: str, table: dict[str, Any], loops: list[str]
) -> None:
    print(f"\n{title}")
    print(" " * 24 + "".join(f"{name:>12}" for name in loops))
    for row, cells in table.items():
        line = f"{ROWS[row][0]:24}"
        for name in loops:
            cell = cells[name]
            line += f"{cell['error'] if key not in cell else format(cell[key] * scale, form):>12}"
        print(line)


def main() -> int:
    parser = argparse.ArgumentParser(description="Echo servers on every installed event loop.")
    parser.add_argument("--loops", nargs="+", choices=list(LOOPS), metavar="LOOP", help=", ".join(LOOPS))
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3, help="servers per loop and row (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time in each (default 2)")
    parser.add_argument("--json", metavar="FILE", help="also write every round and the medians to FILE")
    parser.add_argument("--server", nargs=2, metavar=("LOOP", "KIND"), help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.server:
        module, attribute, _ = LOOPS[args.server[0]]
        factory = getattr(importlib.import_module(module), attribute)
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(args.server[1]))
        return 0

    loops = [name for name in args.loops or DEFAULT_LOOPS if installed(name)]
    rows = args.only or list(ROWS)
    print(
        f"CPython {platform.python_version()}, {platform.system()} {platform.release()}, {os.cpu_count()} cores"
    )
    print("loops: " + ", ".join(f"{name} {version(name)}" for name in loops))

    runs: dict[str, dict[str, list[dict[str, Any]]]] = {row: {name: [] for name in loops} for row in rows}
    with tempfile.TemporaryDirectory() as directory:
        load = str(Path(directory) / "load")
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", load, str(HERE / "load.c")], check=True)
        for turn in range(args.rounds):
            for row in rows:
                first = turn % len(loops)
                for name in loops[first:] + loops[:first]:
                    say(f"round {turn + 1} of {args.rounds}: {row}, {name}")
                    runs[row][name].append(one_run(load, name, row, args.seconds))
    say("")

    table = {row: {name: summarise(cell) for name, cell in cells.items()} for row, cells in runs.items()}
    print_table("requests a second", "rate", 1.0, ",.0f", table, loops)
    print_table("the server's CPU time for a request, microseconds", "cpu", 1e6, ".1f", table, loops)
    for row, medians in table.items():
        for name, cell in medians.items():
            if "error" in cell:
                print(f"{cell['error']}: {name}, {ROWS[row][0]}: {cell['why']}")
    if args.json:
        report = {"loops": {name: version(name) for name in loops}, "median": table, "rounds": runs}
        Path(args.json).write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
