"""Signals: add_signal_handler and remove_signal_handler, and the wake-up descriptor while the loop runs.

While it runs in the main thread the loop has its pipe set as Python's wake-up descriptor (signal.set_wakeup_fd), so
that a signal that arrives just before the kernel is asked cannot be slept through. What was set before is put back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from noria.core.handles import Handle


class Signals(asyncio.AbstractEventLoop):
    """Signal handlers that run as callbacks of the loop."""

    _signal_handlers: dict[int, Handle]
    _outer_wakeup: int | None
    _driver: Any

    def _furnish_signals(self) -> None:
        self._signal_handlers = {}
        self._outer_wakeup = None

    def _hold_wakeup(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._outer_wakeup = signal.set_wakeup_fd(self._driver.wakeup_fd, warn_on_full_buffer=False)

    def _release_wakeup(self) -> None:
        if self._outer_wakeup is not None:
            signal.set_wakeup_fd(self._outer_wakeup)
            self._outer_wakeup = None

    def _signals_arrived(self, numbers: bytes) -> None:
        # The driver read these from the pipe; their Python handlers have run. Another loop in this thread, which
        # waits for us to finish, may have set its own descriptor: it wants to know too.
        if self._outer_wakeup is not None and self._outer_wakeup >= 0:
            with contextlib.suppress(OSError):
                os.write(self._outer_wakeup, numbers)

    def _on_signal(self, signum: int, frame: object) -> None:
        handle = self._signal_handlers.get(signum)
        if handle is not None and not self.is_closed():
            self.call_soon_threadsafe(handle._run)

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call callback(*args) in the loop when the signal arrives.

        Raises ValueError for a number that is no signal, RuntimeError outside the main thread or for a signal that
        cannot be caught (SIGKILL, SIGSTOP).
        """
        if asyncio.iscoroutine(callback) or asyncio.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()  # type: ignore[attr-defined]
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("set_wakeup_fd only works in main thread of the main interpreter")
        handle = Handle(callback, args, self)
        try:
            signal.signal(sig, self._on_signal)
            signal.siginterrupt(sig, False)
        except OSError as error:
            if error.errno == 22:
                raise RuntimeError(f"sig {sig} cannot be caught") from None
            raise
        self._signal_handlers[sig] = handle

    def remove_signal_handler(self, sig: int) -> bool:
        """Undo add_signal_handler(); returns whether there was one."""
        self._check_signal(sig)
        if self._signal_handlers.pop(sig, None) is None:
            return False
        default = signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL
        try:
            signal.signal(sig, default)
        except OSError as error:
            if error.errno == 22:
                raise RuntimeError(f"sig {sig} cannot be caught") from None
            raise
        return True

    def _check_signal(self, sig: int) -> None:
        if not isinstance(sig, int):
            raise TypeError(f"sig must be an int, not {sig!r}")
        if sig not in signal.valid_signals():
            raise ValueError(f"invalid signal number {sig}")

    def _drop_signal_handlers(self) -> None:
        for sig in list(self._signal_handlers):
            self.remove_signal_handler(sig)
