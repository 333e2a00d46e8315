import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

from noria.core.handles import Handle

class TimerHandle(Handle, asyncio.TimerHandle):
    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        context: Context | None = None,
    ) -> None: ...
    def when(self) -> float: ...
    def cancel(self) -> None: ...
    def __hash__(self) -> int: ...
