"""Happy Eyeballs (RFC 8305): try a host's addresses one after another, overlapping, and keep the first that works."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from noria.net.resolve import AddressInfo

_T = TypeVar("_T")


def interleave(found: Sequence[AddressInfo], first_family_count: int) -> list[AddressInfo]:
    """Order addresses so that the families take turns, the first family with a head start of that many."""
    families: dict[int, list[AddressInfo]] = {}
    for info in found:
        families.setdefault(info[0], []).append(info)
    lists = list(families.values())
    ordered: list[AddressInfo] = []
    if first_family_count > 1:
        ordered, lists[0] = lists[0][: first_family_count - 1], lists[0][first_family_count - 1 :]
    ordered += [info for group in itertools.zip_longest(*lists) for info in group if info is not None]
    return ordered


async def race(
    attempts: Iterable[Callable[[], Awaitable[_T]]], delay: float
) -> tuple[_T | None, list[Exception]]:
    """Start the attempts in order, each `delay` seconds after the one before or as soon as that one failed.

    The first to succeed wins and the others are cancelled and waited for. Returns (result or None, the failures).
    What succeeds too late is the attempts' own to clean up, by handling their cancellation.
    """
    waiting = list(attempts)
    running: set[asyncio.Task[_T]] = set()
    failures: list[Exception] = []

    async def run(attempt: Callable[[], Awaitable[_T]]) -> _T:
        return await attempt()

    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(run(waiting.pop(0))))
            done, running = await asyncio.wait(
                running, timeout=delay if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            winner: asyncio.Task[_T] | None = None
            for task in done:
                error = task.exception()
                if error is None and winner is None:
                    winner = task
                elif error is None:
                    running.add(task)  # a tie: the caller gets one, the other is discarded below
                elif isinstance(error, Exception):
                    failures.append(error)
                else:
                    raise error
            if winner is not None:
                return winner.result(), failures
        return None, failures
    finally:
        for task in running:
            task.cancel()
        if running:
            for late in await asyncio.gather(*running, return_exceptions=True):
                if hasattr(late, "close"):
                    late.close()
