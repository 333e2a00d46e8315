# What noria.Loop inherits from the compiled core.

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import Any, TypeAlias, TypeVar, TypeVarTuple, Unpack

from noria.core.futures import Future
from noria.core.handles import Handle
from noria.core.tasks import Task, _TaskCoroutine
from noria.core.timers import TimerHandle
from noria.core.wheel import Driver, Wheel

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

# A task factory is called with the loop, the coroutine, and context and eager_start by keyword where given; a name is
# given to the task afterwards.
_TaskFactory: TypeAlias = Callable[..., asyncio.Future[Any]]

class CoreLoop(Wheel):
    slow_callback_duration: float
    def __init__(self, driver: Driver) -> None: ...
    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> Handle: ...
    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> Handle: ...
    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> TimerHandle: ...
    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> TimerHandle: ...
    def time(self) -> float: ...
    def create_future(self) -> Future[Any]: ...
    def create_task(
        self,
        coro: _TaskCoroutine[_T],
        *,
        name: str | None = None,
        context: Context | None = None,
        eager_start: bool | None = None,
    ) -> Task[_T]: ...
    def set_task_factory(self, factory: _TaskFactory | None) -> None: ...
    def get_task_factory(self) -> _TaskFactory | None: ...
    def is_running(self) -> bool: ...
    def is_closed(self) -> bool: ...
    def get_debug(self) -> bool: ...
    def set_debug(self, enabled: bool) -> None: ...
    def stop(self) -> None: ...
    def run_forever(self) -> None: ...
    def run_until_complete(self, future: Generator[Any, None, _T] | Awaitable[_T]) -> _T: ...
    # For the Python half of the loop.
    def _close_core(self) -> None: ...
    def _tasks(self) -> list[Task[Any]]: ...
