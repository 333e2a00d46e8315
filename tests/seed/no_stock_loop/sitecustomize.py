"""Put on PYTHONPATH, this makes every attempt to create one of the standard library's event loops an error.

So a program that ends well under it ran on another loop from beginning to end.
"""

import asyncio.base_events
from typing import NoReturn


def _refuse(cls: type, *_args: object, **_kwargs: object) -> NoReturn:
    raise RuntimeError(f"a {cls.__name__} of the standard library was made")


asyncio.base_events.BaseEventLoop.__new__ = _refuse  # type: ignore[method-assign]
