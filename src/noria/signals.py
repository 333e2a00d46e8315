"""Signals: add_signal_handler and remove_signal_handler, and the wake-up descriptor while the loop runs.

While it runs in the main thread the loop has its pipe set as Python's wake-up descriptor (signal.set_wakeup_fd), so
that a signal that arrives just before the kernel is asked cannot be slept through. What was set before is put back,
unless the program set something else meanwhile.

A forked child does not run its parent's handlers, for want of the loop they ran in: its signals do by default what
they do without handlers, so that it can be interrupted and terminated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

from noria.core.handles import Handle

# The loops that have handlers, for a forked child to find.
_with_handlers: weakref.WeakSet[Signals] = weakref.WeakSet()


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
            with contextlib.suppress(ValueError):  # the main thread of another interpreter than the main one
                self._outer_wakeup = signal.set_wakeup_fd(self._driver.wakeup_fd, warn_on_full_buffer=False)

    def _release_wakeup(self) -> None:
        outer, self._outer_wakeup = self._outer_wakeup, None
        ours = self._driver.wakeup_fd
        if outer is None or ours < 0:  # not held, or no more since this is a forked child
            return
        try:
            found = signal.set_wakeup_fd(outer)
        except (ValueError, OSError):  # it was closed meanwhile
            outer, found = -1, signal.set_wakeup_fd(-1)
        if found not in (ours, outer, -1):
            signal.set_wakeup_fd(found)  # what the program set while we ran

    def _signals_arrived(self, numbers: bytes) -> None:
        # The driver read these from the pipe; their Python handlers have run. Another loop in this thread, which
        # waits for us to finish, may have set its own descriptor: it wants to know too.
        if self._outer_wakeup is not None and self._outer_wakeup >= 0:
            with contextlib.suppress(OSError):
                os.write(self._outer_wakeup, numbers)
        # Where the program has put a Python handler in the place of ours (uvicorn does while it serves) that one has
        # run, and the loop's runs too, as in asyncio, which goes by these numbers alone.
        for number in numbers if self._signal_handlers else b"":
            if number in self._signal_handlers and signal.getsignal(number) != self._on_signal:
                self._on_signal(number, None)

    def _on_signal(self, signum: int, frame: object) -> None:
        handle = self._signal_handlers.get(signum)
        if handle is None or self.is_closed():
            return
        if handle.cancelled():
            self.remove_signal_handler(signum)
        else:
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
        _with_handlers.add(self)

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


def _forget_handlers() -> None:
    # In a forked child.
    for loop in list(_with_handlers):
        for sig in list(loop._signal_handlers):
            with contextlib.suppress(ValueError, OSError):
                if signal.getsignal(sig) == loop._on_signal:
                    loop.remove_signal_handler(sig)


os.register_at_fork(after_in_child=_forget_handlers)
