"""Loop: the compiled core, the network and the housekeeping put together."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar

from noria.core.house import Housekeeping
from noria.core.loop import CoreLoop
from noria.io.choice import choose
from noria.net.connect import Connecting
from noria.net.endpoints import Endpoints
from noria.process import Children
from noria.signals import Signals

_T = TypeVar("_T")


class Loop(CoreLoop, Connecting, Endpoints, Children, Signals, Housekeeping):
    """noria's event loop, an asyncio.AbstractEventLoop.

    driver: "epoll", "io_uring", or None to take the environment variable NORIA_DRIVER or else the default: io_uring
    where the kernel allows it and is Linux 6.12 or newer, else epoll (`noria info` tells which, and why). Where
    io_uring is asked for and not allowed the loop gets epoll. Raises ValueError for a driver there is not.
    """

    # Kept out of the instance's dict, which stays unmade until a program sets an attribute of its own: the interpreter
    # then finds the loop's methods without looking into a dict first (LOAD_ATTR specialised), in each `loop.call_soon`.
    __slots__ = (
        "_asyncgens",
        "_asyncgens_shut",
        "_default_executor",
        "_driver",
        "_exception_handler",
        "_executor_shut",
        "_files",
        "_outer_wakeup",
        "_signal_handlers",
    )

    def __init__(self, driver: str | None = None) -> None:
        kind, _ = choose(driver)
        self._driver = kind()  # first: it is what can fail, for want of descriptors
        self._files: Any = None  # files.engine.Engine, made for the first operation on a file
        self._furnish()
        self._furnish_signals()
        super().__init__(self._driver)
        self._driver.bind(self, self._signals_arrived)

    def run_forever(self) -> None:
        """Run until stop() is called. See CoreLoop.run_forever."""
        if self.is_running() or self.is_closed():
            return super().run_forever()  # which says why not
        self._hold_wakeup()
        try:
            super().run_forever()
        finally:
            self._release_wakeup()

    def run_until_complete(self, future: Generator[Any, None, _T] | Awaitable[_T]) -> _T:
        """Run until the future, or the coroutine wrapped in a task, is done. See CoreLoop.run_until_complete."""
        if self.is_running() or self.is_closed():
            return super().run_until_complete(future)
        self._hold_wakeup()
        try:
            return super().run_until_complete(future)
        finally:
            self._release_wakeup()

    def close(self) -> None:
        """Close the loop: drop what is queued, let descriptors go. Idempotent; RuntimeError if it runs."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._drop_signal_handlers()
        if self._files is not None:
            self._files.close()
        self._close_core()
        self._close_executor()

    # nest_asyncio looks for this before it replaces a loop's methods: runs nest here without its help.
    _nest_patched = True

    def __del__(self) -> None:
        if hasattr(self, "_signal_handlers") and not self.is_closed():
            warnings.warn(f"unclosed event loop {self!r}", ResourceWarning, source=self, stacklevel=2)
            if not self.is_running():
                self.close()


def new_event_loop(driver: str | None = None) -> Loop:
    """A new noria event loop. driver: see Loop."""
    return Loop(driver)
