from collections.abc import Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Self, TypeVar

from noria.core.tasks import Task, _TaskCoroutine

_T = TypeVar("_T")

class TaskGroup:
    def __init__(self) -> None: ...
    def __aenter__(self) -> Coroutine[Any, Any, Self]: ...
    def __aexit__(
        self, et: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> Coroutine[Any, Any, None]: ...
    def create_task(
        self, coro: _TaskCoroutine[_T], *, name: str | None = None, context: Context | None = None
    ) -> Task[_T]: ...
