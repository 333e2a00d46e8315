"""How callbacks and stacks are shown in reprs and reports: in asyncio's words, by asyncio's own formatter where it
has one, so that logs look the same on either loop."""

from __future__ import annotations

import inspect
import reprlib
import traceback
from asyncio import constants, format_helpers
from collections.abc import Callable
from types import FrameType
from typing import Any

# From 3.13 on asyncio shows a callback's arguments in debug mode only.
_SHOW = inspect.signature(format_helpers._format_callback_source).parameters
_KEYWORDS = {"debug": True} if "debug" in _SHOW else {}


def callback(func: Callable[..., object], args: tuple[Any, ...], debug: bool) -> str:
    """Describe a callback with its arguments and where it is defined."""
    return format_helpers._format_callback_source(func, args, **(_KEYWORDS if debug else {}))


def extract_stack(frame: FrameType | None) -> traceback.StackSummary:
    """The stack that ends in frame, at most as deep as asyncio records it in debug mode."""
    return format_helpers.extract_stack(frame, limit=constants.DEBUG_STACK_DEPTH)


@reprlib.recursive_repr()
def future(fut: Any) -> str:
    """The repr of a future or task. A result may hold the future itself, hence the guard."""
    return f"<{type(fut).__name__} {' '.join(fut._repr_info())}>"
