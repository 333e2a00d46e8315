"""The two kinds of loop on which noria's primitives must do the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import noria

DEADLINE = 30.0  # seconds a test may take before it counts as hanging
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[noria.new_event_loop, asyncio.new_event_loop], ids=["noria's loop", "asyncio's loop"])
def run(request: pytest.FixtureRequest) -> Run:
    """A function that runs a coroutine on one of them, with a deadline; a report of the loop is a failure."""

    def run(coro: Coroutine[Any, Any, None]) -> None:
        async def watched() -> None:
            async with asyncio.timeout(DEADLINE):
                await coro

        with contextlib.closing(request.param()) as loop:
            seen: list[dict[str, Any]] = []
            loop.set_exception_handler(lambda _, report: seen.append(report))
            loop.run_until_complete(watched())
            assert not seen, f"reported by the loop: {seen}"

    return run


async def turns(count: int) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)
