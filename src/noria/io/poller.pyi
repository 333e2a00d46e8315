# For the loop's add_reader() and add_writer(). `loop` is a noria loop: any other raises TypeError.

import asyncio
from collections.abc import Callable
from typing import Any

from noria.core.handles import Handle
from noria.io.driver import Channel

class Poller(Channel):
    def is_closing(self) -> bool: ...

def add(
    loop: asyncio.AbstractEventLoop,
    fd: int,
    writing: bool,
    callback: Callable[..., object],
    args: tuple[Any, ...],
) -> Handle: ...
def remove(loop: asyncio.AbstractEventLoop, fd: int, writing: bool) -> bool: ...
def user(loop: asyncio.AbstractEventLoop, fd: int) -> Channel | None: ...
