"""How callbacks and stacks are shown in reprs and reports: in asyncio's words, by asyncio's own formatter where it
has one, so that logs look the same on either loop. As in 3.13 a callback's arguments are shown in debug mode only, on
every interpreter: they may be secrets."""

from __future__ import annotations

import functools
import inspect
import reprlib
import traceback
from asyncio import constants, format_helpers
from collections.abc import Callable
from types import FrameType
from typing import Any

# From 3.13 on asyncio's formatter can leave the arguments out.
_CAN_HIDE = "debug" in inspect.signature(format_helpers._format_callback_source).parameters


def callback(func: Callable[..., object], args: tuple[Any, ...], debug: bool) -> str:
    """Describe a callback and where it is defined, in debug mode with its arguments."""
    if _CAN_HIDE:
        return format_helpers._format_callback_source(func, args, debug=debug)
    if debug:
        return format_helpers._format_callback_source(func, args)
    calls, called = "()", func
    while isinstance(called, functools.partial):
        calls, called = calls + "()", called.func
    name = getattr(called, "__qualname__", None) or getattr(called, "__name__", None) or repr(called)
    source = format_helpers._get_function_source(func)
    return f"{name}{calls}" + (f" at {source[0]}:{source[1]}" if source else "")


def extract_stack(frame: FrameType | None) -> traceback.StackSummary:
    """The stack that ends in frame, at most as deep as asyncio records it in debug mode."""
    return format_helpers.extract_stack(frame, limit=constants.DEBUG_STACK_DEPTH)


@reprlib.recursive_repr()
def future(fut: Any) -> str:
    """The repr of a future or task. A result may hold the future itself, hence the guard."""
    return f"<{type(fut).__name__} {' '.join(fut._repr_info())}>"
