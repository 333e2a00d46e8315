from collections.abc import Coroutine
from typing import Any, TypeVar, overload

_T = TypeVar("_T")

@overload
def sleep(delay: float) -> Coroutine[Any, Any, None]: ...
@overload
def sleep(delay: float, result: _T) -> Coroutine[Any, Any, _T]: ...
