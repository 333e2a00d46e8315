import asyncio
from collections.abc import Awaitable, Coroutine
from contextvars import Context
from typing import Any, TypeGuard, TypeVar, overload

from noria.core.tasks import _TaskCoroutine

_T = TypeVar("_T")
_FT = TypeVar("_FT", bound=asyncio.Future[Any])

def create_task(
    coro: _TaskCoroutine[_T], *, name: str | None = None, context: Context | None = None
) -> asyncio.Task[_T]: ...
def current_task(loop: asyncio.AbstractEventLoop | None = None) -> asyncio.Task[Any] | None: ...
def isfuture(obj: object) -> TypeGuard[asyncio.Future[Any]]: ...
@overload
def ensure_future(coro_or_future: _FT, *, loop: asyncio.AbstractEventLoop | None = None) -> _FT: ...
@overload
def ensure_future(
    coro_or_future: Awaitable[_T], *, loop: asyncio.AbstractEventLoop | None = None
) -> asyncio.Task[_T]: ...
