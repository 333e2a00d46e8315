"""A frame and a code object for coroutines that are compiled objects: what `inspect.getcoroutinestate`, and whoever
prints the stacks of tasks, expects of a coroutine that has not ended. They name it, and hold nothing."""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from types import CodeType, FrameType, FunctionType


def _never() -> Generator[None]:
    yield


@cache
def _likeness(qualname: str) -> Generator[None]:
    # Never started, so its frame stays what it is, for ever.
    code = _never.__code__.replace(
        co_name=qualname.rpartition(".")[2], co_qualname=qualname, co_filename="<noria>", co_firstlineno=1
    )
    generator: Generator[None] = FunctionType(code, {})()
    return generator


def frame_of(qualname: str) -> FrameType:
    """The frame of a coroutine of this name."""
    return _likeness(qualname).gi_frame  # type: ignore[attr-defined, no-any-return]


def code_of(qualname: str) -> CodeType:
    """Its code object."""
    return _likeness(qualname).gi_code  # type: ignore[attr-defined, no-any-return]
