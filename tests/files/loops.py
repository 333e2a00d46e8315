"""The ways in which files are served, each of which must do the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import noria
from noria.files import engine

DEADLINE = 60.0  # seconds a test may take before it counts as hanging
Run = Callable[[Coroutine[Any, Any, Any]], Any]
WAYS = ("io_uring", "threads", "at once", "on asyncio's loop")


def ring_refused() -> str:
    """Why the kernel gives no ring, or nothing."""
    with contextlib.closing(noria.new_event_loop()) as loop:
        found = engine.engine_for(loop)
        return "" if found.kind == "io_uring" else f"io_uring is not to be had: {found.refused}"


def runner(way: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs a coroutine, with a deadline, on a new loop whose files are served in that way.

    "io_uring" and "threads" give every operation away; the others do at once what can be done at once. A report of the
    loop is a failure.
    """
    if way in ("io_uring", "threads"):
        monkeypatch.setenv("NORIA_FILES", way)
    if way == "io_uring" and (reason := ring_refused()):
        pytest.skip(reason)

    def run(coro: Coroutine[Any, Any, Any]) -> Any:
        async def watched() -> Any:
            async with asyncio.timeout(DEADLINE):
                return await coro

        make = asyncio.new_event_loop if way == "on asyncio's loop" else noria.new_event_loop
        with contextlib.closing(make()) as loop:
            engine.engine_for(loop).at_once = way not in ("io_uring", "threads")
            seen: list[dict[str, Any]] = []
            loop.set_exception_handler(lambda _, report: seen.append(report))
            result = loop.run_until_complete(watched())
            assert not seen, f"reported by the loop: {seen}"
            return result

    return run


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """See runner()."""
    return runner(request.param, monkeypatch)
