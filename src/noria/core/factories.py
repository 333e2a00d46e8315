"""Task factories that make eager tasks.

Made by asyncio's own function where there is one: libraries know asyncio's factories by their code, and find the
constructor in their closure (anyio's task groups do).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from noria.core.tasks import Task

_TaskT = TypeVar("_TaskT", bound="asyncio.Future[Any]")

if sys.version_info >= (3, 12):
    create_eager_task_factory = asyncio.create_eager_task_factory
else:

    def create_eager_task_factory(custom_task_constructor: Callable[..., _TaskT]) -> Callable[..., _TaskT]:
        """A task factory that makes eager tasks by the given constructor: their first step runs inside create_task().

        The constructor is called with the coroutine, and loop, name, context and eager_start by keyword.

        Source: asyncio.create_eager_task_factory (3.12).
        """

        def factory(
            loop: asyncio.AbstractEventLoop,
            coro: Coroutine[Any, Any, Any],
            *,
            name: str | None = None,
            context: Context | None = None,
        ) -> _TaskT:
            return custom_task_constructor(coro, loop=loop, name=name, context=context, eager_start=True)

        return factory


eager_task_factory: Callable[..., Task[Any]] = create_eager_task_factory(Task)
eager_task_factory.__module__ = __name__
