"""Every installed event loop side by side on small jobs: the table of docs/design.md, section 1.

Each measurement runs in a process of its own: one loop, one row, one round. Rounds are interleaved, loop
after loop on the same row, and the loop that goes first changes each round, so that a machine that slows down
does so for every loop. A cell is the median over the rounds. A loop that crashes, hangs or raises on a row is
shown so, with the reason below the tables, and the others go on.

The programs are the same plain asyncio code for every loop; only the loop is made by the package's own
factory. "noria-names" is that code once more with the names `sleep`, `gather`, `Queue` and so on taken from
`noria`, as in a program that says `import noria as asyncio`. It runs only when asked for.

On a machine that does other work too, the table of CPU time is the one to read.

Not measured here: sockets (bench/echo.py), memory, latency.

    python bench/quick.py
    python bench/quick.py --loops noria uvloop --only create_task future --rounds 9 --json out.json
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

# name: (module, the attribute that makes a loop, the module the programs take their asyncio names from)
LOOPS: dict[str, tuple[str, str, str]] = {
    "noria": ("noria", "new_event_loop", "asyncio"),
    "asyncio": ("asyncio", "SelectorEventLoop", "asyncio"),
    "uvloop": ("uvloop", "new_event_loop", "asyncio"),
    "rloop": ("rloop", "new_event_loop", "asyncio"),
    "zloop": ("zloop", "new_event_loop", "asyncio"),
    "blazio": ("blazio", "new_event_loop", "asyncio"),
    "talyn": ("talyn", "Loop", "asyncio"),
    "noria-names": ("noria", "new_event_loop", "noria"),
}
DEFAULT_LOOPS = [name for name in LOOPS if name != "noria-names"]
OURS = ("noria", "noria-names")

Program = Callable[[Any, int], Awaitable[None]]


# The programs. Each does `n` operations; `aio` is the module that gives the asyncio names.


async def call_soon(aio: Any, n: int) -> None:
    loop = aio.get_running_loop()
    done = loop.create_future()
    left = n

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            done.set_result(None)

    loop.call_soon(step)
    await done


async def sleep0(aio: Any, n: int) -> None:
    for _ in range(n):
        await aio.sleep(0)


async def create_task(aio: Any, n: int) -> None:
    async def nothing() -> None:
        pass

    for _ in range(n):
        await aio.create_task(nothing())


async def future(aio: Any, n: int) -> None:
    loop = aio.get_running_loop()
    for _ in range(n):
        fut = loop.create_future()
        loop.call_soon(fut.set_result, None)
        await fut


async def gather(aio: Any, n: int) -> None:
    async def nothing() -> None:
        pass

    for _ in range(n // 1000):
        await aio.gather(*[nothing() for _ in range(1000)])


async def queues(aio: Any, n: int) -> None:
    there, back = aio.Queue(), aio.Queue()

    async def ping() -> None:
        for i in range(n):
            await there.put(i)
            await back.get()

    async def pong() -> None:
        for _ in range(n):
            await back.put(await there.get())

    await aio.gather(ping(), pong())


async def timers(aio: Any, n: int) -> None:
    loop = aio.get_running_loop()
    for _ in range(n // 100):
        for _ in range(100):
            loop.call_later(10.0, print, "never").cancel()
        await aio.sleep(0)


async def timers_pending(aio: Any, n: int) -> None:
    loop = aio.get_running_loop()
    for _ in range(n // 1000):
        for handle in [loop.call_later(10.0 + i * 0.001, print, "never") for i in range(1000)]:
            handle.cancel()
        await aio.sleep(0)


ROWS: dict[str, tuple[str, Program, int]] = {
    # key: (what one operation is, the program, operations in one batch)
    "call_soon": ("call_soon chain", call_soon, 20_000),
    "sleep0": ("sleep(0)", sleep0, 20_000),
    "create_task": ("await create_task(f())", create_task, 10_000),
    "future": ("future set + await", future, 10_000),
    "gather": ("gather of 1,000, per task", gather, 10_000),
    "queues": ("two queues, round trip", queues, 5_000),
    "timers": ("call_later + cancel", timers, 10_000),
    "timers_pending": ("the same, 1,000 pending", timers_pending, 10_000),
}


# The child: one loop, one row.


def measure(loop_name: str, row: str, seconds: float) -> dict[str, float]:
    """Run `row` on `loop_name` for about `seconds`: operations a second (`rate`), seconds of CPU for one (`cpu`).

    The first batch warms up and is not counted. The rate is the median batch's, the CPU time is over all.
    """
    module, attribute, names = LOOPS[loop_name]
    factory = getattr(importlib.import_module(module), attribute)
    aio = importlib.import_module(names)
    _, program, batch = ROWS[row]

    async def main() -> dict[str, float]:
        await program(aio, batch)
        walls: list[float] = []
        cpu_start = time.process_time()
        end = time.perf_counter() + seconds
        while len(walls) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            await program(aio, batch)
            walls.append(time.perf_counter() - start)
        cpu = (time.process_time() - cpu_start) / (batch * len(walls))
        return {"rate": batch / statistics.median(walls), "cpu": cpu}

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


# The parent: start the children, collect, print.


def one_run(loop_name: str, row: str, seconds: float) -> dict[str, Any]:
    """Measure in a fresh process. The result has `rate` and `cpu`, or `error` and `why`, in a few words."""
    command = [sys.executable, __file__, "--child", loop_name, row, "--seconds", str(seconds)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    environment.pop("PYTHONASYNCIODEBUG", None)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30 + 20 * seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired as late:
        return {"error": "hang", "why": f"no result after {late.timeout:.0f} s"}
    lines = done.stdout.splitlines()
    if lines and lines[-1].startswith('{"rate"'):
        # A loop that measures well and dies while closing has still done the row.
        result: dict[str, Any] = json.loads(lines[-1])
        return result
    why = (done.stderr.strip() or "no message").splitlines()[-1]
    if done.returncode < 0:
        return {"error": "crash", "why": f"{signal.Signals(-done.returncode).name}: {why}"}
    return {"error": "error", "why": why}


def installed(name: str) -> bool:
    return importlib.util.find_spec(LOOPS[name][0]) is not None


def version(name: str) -> str:
    module = LOOPS[name][0]
    if module == "asyncio":
        return platform.python_version()
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "source tree"


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds of one cell; the first error if any round had one."""
    for run in runs:
        if "error" in run:
            return run
    return {key: statistics.median(run[key] for run in runs) for key in ("rate", "cpu")}


def best_peer(cells: dict[str, dict[str, Any]], key: str) -> tuple[str, float] | None:
    """The other loop with the highest rate (or lowest CPU time) in a row, and its figure."""
    peers = {name: cell[key] for name, cell in cells.items() if name not in OURS and key in cell}
    if not peers:
        return None
    name = (max if key == "rate" else min)(peers, key=lambda peer: peers[peer])
    return name, peers[name]


def print_table(title: str, key: str, table: dict[str, dict[str, dict[str, Any]]], loops: list[str]) -> None:
    """A figure for each loop, its ratio to asyncio in brackets, and at the end ours over the best peer's."""
    print(f"\n{title}")
    ours = [name for name in loops if name in OURS]
    print(
        " " * 28
        + "".join(f"{name:>16}" for name in loops)
        + "".join(f"   {n} against best peer" for n in ours)
    )
    for row, cells in table.items():
        line = f"{ROWS[row][0]:28}"
        base = cells.get("asyncio", {}).get(key)
        for name in loops:
            cell = cells[name]
            if key not in cell:
                line += f"{cell['error']:>16}"
                continue
            figure = f"{cell[key] / 1e3:,.0f}" if key == "rate" else f"{cell[key] * 1e6:.2f}"
            ratio = f" ({cell[key] / base:.2f})" if base else ""
            line += f"{figure + ratio:>16}"
        peer = best_peer(cells, key)
        for name in ours:
            if peer is None or key not in cells[name]:
                line += "   -"
            else:
                line += f"   {cells[name][key] / peer[1]:.2f} x {peer[0]}".ljust(len(name) + 21)
        print(line.rstrip())


def say(progress: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{progress}\x1b[K", end="", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Every installed event loop side by side on small jobs.")
    parser.add_argument("--loops", nargs="+", choices=list(LOOPS), metavar="LOOP", help=", ".join(LOOPS))
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5, help="processes per loop and row (default 5)")
    parser.add_argument("--seconds", type=float, default=0.3, help="measured time in each (default 0.3)")
    parser.add_argument("--json", metavar="FILE", help="also write every round and the medians to FILE")
    parser.add_argument("--child", nargs=2, metavar=("LOOP", "ROW"), help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.child:
        loop_name, row = args.child
        print(json.dumps(measure(loop_name, row, args.seconds)), flush=True)
        return 0

    loops = [name for name in args.loops or DEFAULT_LOOPS if installed(name)]
    missing = [name for name in args.loops or DEFAULT_LOOPS if name not in loops]
    rows = args.only or list(ROWS)
    print(
        f"CPython {platform.python_version()}, {platform.system()} {platform.release()}, {os.cpu_count()} cores"
    )
    print("loops: " + ", ".join(f"{name} {version(name)}" for name in loops))
    if missing:
        print("not installed: " + ", ".join(missing))

    runs: dict[str, dict[str, list[dict[str, Any]]]] = {row: {name: [] for name in loops} for row in rows}
    for turn in range(args.rounds):
        for row in rows:
            first = turn % len(loops)
            for name in loops[first:] + loops[:first]:
                say(f"round {turn + 1} of {args.rounds}: {row}, {name}")
                runs[row][name].append(one_run(name, row, args.seconds))
    say("")

    table = {row: {name: summarise(cell) for name, cell in cells.items()} for row, cells in runs.items()}
    print_table("thousand operations a second (times asyncio)", "rate", table, loops)
    print_table("CPU time an operation, microseconds (times asyncio; less is better)", "cpu", table, loops)
    for row, cells in table.items():
        for name, cell in cells.items():
            if "error" in cell:
                print(f"{cell['error']}: {name}, {ROWS[row][0]}: {cell['why']}")
    if args.json:
        report = {"loops": {name: version(name) for name in loops}, "median": table, "rounds": runs}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
