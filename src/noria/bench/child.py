"""The process under test: one loop, one row, one measurement.

    python child.py CORE LOOP MODULE ROW SECONDS [GIVEN]

CORE is the core to stay on, or -1 for any. The last line printed is a JSON object: for a program its figures
(`rate`: operations a second, `cpu`: seconds of CPU time an operation), for a gauge {"value": ...}, for a service
{"address": ...}, after which it serves until it is killed or its standard input ends.

Run by its path and not as a module, so that `noria` is not imported where another loop is measured: this package is
known here by another name.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loops import Loop
    from .row import Gauge, Program, Service

PACKAGE = "noria_bench"


def load_package() -> None:
    """Make the directory of this file importable as PACKAGE."""
    here = Path(__file__).parent
    spec = importlib.util.spec_from_file_location(
        PACKAGE, here / "__init__.py", submodule_search_locations=[str(here)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def enter(loop: Loop, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run `main()` on a loop of the kind that is measured."""
    if loop.name == "trio":
        trio: Any = importlib.import_module("trio")
        return trio.run(main)

    async def outer() -> Any:
        return await main()

    with asyncio.Runner(loop_factory=loop.make()) as runner:
        return runner.run(outer())


async def time_batches(run: Callable[[], Awaitable[None]], batch: int, seconds: float) -> dict[str, float]:
    """Repeat `run` for about `seconds`, at least three times.

    The first batch warms up and is not counted. The rate is the median batch's, the CPU time is over all.
    """
    await run()
    walls: list[float] = []
    cpu_start = time.process_time()
    end = time.perf_counter() + seconds
    while len(walls) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        await run()
        walls.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu_start) / (batch * len(walls))
    return {"rate": batch / statistics.median(walls), "cpu": cpu}


def run_program(loop: Loop, row: Program, seconds: float, given: tuple[str, ...]) -> None:
    aio = importlib.import_module(loop.names)
    program = row.run
    leading: tuple[Any, ...] = (aio,)
    if loop.name == "trio":
        assert row.trio is not None
        program, leading = row.trio, ()
    report(loop, lambda: time_batches(lambda: program(*leading, row.batch, *given), row.batch, seconds))


def run_service(loop: Loop, row: Service) -> None:
    if loop.name == "trio":
        trio: Any = importlib.import_module("trio")

        async def serve() -> None:
            assert row.trio is not None
            say({"address": await row.trio()})
            await trio.to_thread.run_sync(sys.stdin.read)
            os._exit(0)
    else:
        aio = importlib.import_module(loop.names)

        async def serve() -> None:
            say({"address": await row.serve(aio)})
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            os._exit(0)  # how a loop closes is not what is measured

    enter(loop, serve)


async def value(read: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    return {"value": await read()}


def report(loop: Loop, measure: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Run `measure()` on the loop, print its result, and end: how a loop closes is not what is measured, and some die
    or hang of it."""

    async def main() -> None:
        say(await measure())
        os._exit(0)

    enter(loop, main)


def read_gauge(loop: Loop, row: Gauge) -> None:
    if row.bare:
        say({"value": row.read(loop)})
    elif loop.name == "trio":
        assert row.trio is not None
        read = row.trio
        report(loop, lambda: value(read))
    else:
        aio = importlib.import_module(loop.names)
        report(loop, lambda: value(lambda: row.read(aio)))


def say(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


def main() -> None:
    core, loop_name, module, key, seconds, *given = sys.argv[1:]
    if int(core) >= 0:
        os.sched_setaffinity(0, {int(core)})
    load_package()
    loops = importlib.import_module(f"{PACKAGE}.loops")
    rows = importlib.import_module(f"{PACKAGE}.row")
    loop = loops.named(loop_name)
    row = next(row for row in rows.rows_of(module) if row.key == key)
    if isinstance(row, rows.Program):
        run_program(loop, row, float(seconds), tuple(given))
    elif isinstance(row, rows.Service):
        run_service(loop, row)
    else:
        read_gauge(loop, row)


if __name__ == "__main__":
    sys.path.pop(0)  # our directory, which Python put there
    main()
