import asyncio
from typing import final

from noria.core.waits import Waiter

class Parked(Waiter): ...

@final
class Line: ...

class LoopBound:
    _loop: asyncio.AbstractEventLoop | None
    def _get_loop(self) -> asyncio.AbstractEventLoop: ...
