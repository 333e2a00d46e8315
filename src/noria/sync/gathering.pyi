import asyncio
from collections.abc import Awaitable
from typing import Any, Literal, TypeVar, overload

_T = TypeVar("_T")
_T1 = TypeVar("_T1")
_T2 = TypeVar("_T2")
_T3 = TypeVar("_T3")
_T4 = TypeVar("_T4")
_T5 = TypeVar("_T5")
_T6 = TypeVar("_T6")

@overload
def gather(a: Awaitable[_T1], /, *, return_exceptions: Literal[False] = False) -> asyncio.Future[tuple[_T1]]: ...
@overload
def gather(
    a: Awaitable[_T1], b: Awaitable[_T2], /, *, return_exceptions: Literal[False] = False
) -> asyncio.Future[tuple[_T1, _T2]]: ...
@overload
def gather(
    a: Awaitable[_T1], b: Awaitable[_T2], c: Awaitable[_T3], /, *, return_exceptions: Literal[False] = False
) -> asyncio.Future[tuple[_T1, _T2, _T3]]: ...
@overload
def gather(
    a: Awaitable[_T1],
    b: Awaitable[_T2],
    c: Awaitable[_T3],
    d: Awaitable[_T4],
    /,
    *,
    return_exceptions: Literal[False] = False,
) -> asyncio.Future[tuple[_T1, _T2, _T3, _T4]]: ...
@overload
def gather(
    a: Awaitable[_T1],
    b: Awaitable[_T2],
    c: Awaitable[_T3],
    d: Awaitable[_T4],
    e: Awaitable[_T5],
    /,
    *,
    return_exceptions: Literal[False] = False,
) -> asyncio.Future[tuple[_T1, _T2, _T3, _T4, _T5]]: ...
@overload
def gather(
    a: Awaitable[_T1],
    b: Awaitable[_T2],
    c: Awaitable[_T3],
    d: Awaitable[_T4],
    e: Awaitable[_T5],
    f: Awaitable[_T6],
    /,
    *,
    return_exceptions: Literal[False] = False,
) -> asyncio.Future[tuple[_T1, _T2, _T3, _T4, _T5, _T6]]: ...
@overload
def gather(
    *coros_or_futures: Awaitable[_T], return_exceptions: Literal[False] = False
) -> asyncio.Future[list[_T]]: ...
@overload
def gather(
    a: Awaitable[_T1], /, *, return_exceptions: bool
) -> asyncio.Future[tuple[_T1 | BaseException]]: ...
@overload
def gather(
    a: Awaitable[_T1], b: Awaitable[_T2], /, *, return_exceptions: bool
) -> asyncio.Future[tuple[_T1 | BaseException, _T2 | BaseException]]: ...
@overload
def gather(
    a: Awaitable[_T1], b: Awaitable[_T2], c: Awaitable[_T3], /, *, return_exceptions: bool
) -> asyncio.Future[tuple[_T1 | BaseException, _T2 | BaseException, _T3 | BaseException]]: ...
@overload
def gather(
    a: Awaitable[_T1], b: Awaitable[_T2], c: Awaitable[_T3], d: Awaitable[_T4], /, *, return_exceptions: bool
) -> asyncio.Future[
    tuple[_T1 | BaseException, _T2 | BaseException, _T3 | BaseException, _T4 | BaseException]
]: ...
@overload
def gather(
    *coros_or_futures: Awaitable[_T], return_exceptions: bool
) -> asyncio.Future[list[_T | BaseException]]: ...
def shield(arg: Awaitable[_T]) -> asyncio.Future[_T]: ...
