"""How the tests of the core run a piece of a program on noria, and see to it that nothing is reported unseen.

`on_noria` turns a coroutine function into a test. `reports` collects what the loop would have logged; outside such a
block any report of the loop fails the test. For programs that must start in a fresh interpreter there is `python`.
"""

import asyncio
import functools
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec

import noria

P = ParamSpec("P")
DEADLINE = 30.0  # seconds a test may take before it counts as hanging
Report = dict[str, Any]


def on_noria(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """The test `test`, run by noria.run; fails if the loop reports an error or the deadline passes."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        noria.run(watched(test(*args, **kwargs)))

    return run


async def watched(coro: Coroutine[Any, Any, None]) -> None:
    """Await the coroutine, with a deadline, and fail on any report of the loop."""
    with reports() as seen:
        async with asyncio.timeout(DEADLINE):
            await coro
    assert not seen, f"reported by the loop: {seen}"


@contextmanager
def reports(loop: asyncio.AbstractEventLoop | None = None) -> Iterator[list[Report]]:
    """A list of the reports that the loop (default: the running one) makes within the block, instead of logging them."""
    loop = loop or asyncio.get_running_loop()
    seen: list[Report] = []
    outer = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, report: seen.append(report))
    try:
        yield seen
    finally:
        loop.set_exception_handler(outer)


@contextmanager
def new_loop() -> Iterator[noria.Loop]:
    """A loop of its own for the block; closed at the end. Reports are a failure."""
    loop = noria.new_event_loop()
    try:
        with reports(loop) as seen:
            yield loop
        assert not seen, f"reported by the loop: {seen}"
    finally:
        loop.close()


async def turns(count: int) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(holds: Callable[[], object]) -> None:
    """Turn the loop until holds() is true; the test's deadline bounds it."""
    while not holds():
        await asyncio.sleep(0.001)


def python(program: str, *options: str, timeout: float = DEADLINE) -> subprocess.CompletedProcess[str]:
    """Run a program text in a fresh interpreter; returns what became of it."""
    return subprocess.run(
        [sys.executable, *options, "-c", program],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
