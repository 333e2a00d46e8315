import asyncio

from noria.core.waits import Waiter

class Parked(Waiter): ...
class Line: ...

class LoopBound:
    _loop: asyncio.AbstractEventLoop | None
    def _get_loop(self) -> asyncio.AbstractEventLoop: ...
