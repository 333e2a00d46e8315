"""What the compiled modules of `sync` leave to coroutines of Python, because it is rare."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def awaited(awaitable: Awaitable[_T]) -> _T:
    """A coroutine that awaits it, with the interpreter's own checks."""
    return await awaitable


async def at_once(future: asyncio.Future[_T]) -> _T:
    """`wait_for` without any time: the result if it is there; else cancel, wait for the end, and TimeoutError."""
    if future.done():
        return future.result()
    ended = asyncio.get_running_loop().create_future()

    def end(_: object) -> None:
        if not ended.done():
            ended.set_result(None)

    future.add_done_callback(end)
    try:
        future.cancel()
        # Not the future itself: a second cancellation is to reach us, not it.
        await ended
    finally:
        future.remove_done_callback(end)
    try:
        return future.result()
    except asyncio.CancelledError as error:
        raise TimeoutError from error
