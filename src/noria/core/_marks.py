"""Let functions that return awaitable objects pass for coroutine functions, where programs ask."""

import asyncio.coroutines
import inspect
import sys
from typing import Any


def mark_coroutine_functions(*functions: Any) -> None:
    """From now on `inspect.iscoroutinefunction` (3.12 and later) and `asyncio.iscoroutinefunction` are true of them."""
    for function in functions:
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
        if sys.version_info >= (3, 12):
            inspect.markcoroutinefunction(function)
