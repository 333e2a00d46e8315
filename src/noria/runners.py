"""Ways in: run, Runner, install, EventLoopPolicy.

`run` and `Runner.run` may be called while a loop runs in the same thread. Inside a running noria loop they run the
coroutine on that loop, nested, and its other tasks go on; inside another loop (a notebook's) they use their own, and
the other waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import os
import signal
import threading
from asyncio import events, exceptions
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from noria.loop import Loop, new_event_loop
from noria.sync.gathering import gather

_T = TypeVar("_T")

# Seconds that run() waits for the default executor's threads.
THREAD_JOIN_TIMEOUT = 300


class _State(enum.Enum):
    CREATED = "created"
    INITIALIZED = "initialized"
    CLOSED = "closed"


class Runner:
    """A context manager that keeps one event loop for several runs.

    debug: debug mode; None leaves it as the loop has it. loop_factory: makes the loop; a noria loop by default.

    Source: asyncio.Runner (3.11).
    """

    def __init__(
        self,
        *,
        debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self._state = _State.CREATED
        self._debug = debug
        self._given_factory = loop_factory
        self._loop_factory = loop_factory or new_event_loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None
        self._interrupts = 0
        self._set_event_loop = False

    def __enter__(self) -> Runner:
        self._lazy_init()
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what still runs, close asynchronous generators and executor, close the loop. Idempotent."""
        if self._state is not _State.INITIALIZED or self._loop is None:
            return
        loop = self._loop
        try:
            # It is closed in a forked child that ends by sys.exit() inside its parent's run.
            if not loop.is_closed():
                cancel_all(loop)
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(shutdown_executor(loop))
        finally:
            if self._set_event_loop:
                events.set_event_loop(None)
            loop.close()
            self._loop = None
            self._state = _State.CLOSED

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""
        self._lazy_init()
        assert self._loop is not None
        return self._loop

    def run(self, coro: Coroutine[Any, Any, _T], *, context: contextvars.Context | None = None) -> _T:
        """Run a coroutine to its end and return its result. The first Ctrl-C cancels it, the second interrupts.

        Raises ValueError if coro is no coroutine, RuntimeError if the runner is closed.
        """
        if not asyncio.iscoroutine(coro):
            raise ValueError(f"a coroutine was expected, got {coro!r}")
        outer = events._get_running_loop()
        try:
            self._lazy_init()
        except BaseException:
            coro.close()
            raise
        loop: asyncio.AbstractEventLoop
        assert self._loop is not None
        loop = self._loop
        task = loop.create_task(coro, context=self._context if context is None else context)
        if outer is not None:
            return loop.run_until_complete(task)
        hooked = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

        handler = _Interrupt(self, task)
        if hooked:
            try:
                signal.signal(signal.SIGINT, handler)
            except ValueError:
                hooked = False  # an embedded interpreter whose main thread is not the process's
        self._interrupts = 0
        try:
            return loop.run_until_complete(task)
        except exceptions.CancelledError:
            if self._interrupts > 0:
                uncancel = getattr(task, "uncancel", None)
                if uncancel is not None and uncancel() == 0:
                    raise KeyboardInterrupt from None
            raise
        finally:
            if hooked and signal.getsignal(signal.SIGINT) is handler:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def _lazy_init(self) -> None:
        if self._state is _State.CLOSED:
            raise RuntimeError("Runner is closed")
        if self._state is _State.INITIALIZED:
            return
        self._loop = self._loop_factory()
        if self._given_factory is None and events._get_running_loop() is None:
            # as asyncio.Runner does, for get_event_loop() in code that runs between the runs
            events.set_event_loop(self._loop)
            self._set_event_loop = True
        if self._debug is not None:
            self._loop.set_debug(self._debug)
        self._context = contextvars.copy_context()
        self._state = _State.INITIALIZED

    def _on_sigint(self, signum: int, frame: object, main_task: asyncio.Task[Any]) -> None:
        self._interrupts += 1
        if self._interrupts == 1 and not main_task.done():
            main_task.cancel()
            assert self._loop is not None
            self._loop.call_soon_threadsafe(lambda: None)  # wake it if it waits in the kernel
            return
        raise KeyboardInterrupt


class _Interrupt:
    """A runner's handler of SIGINT.

    Not a partial: `signal` of some interpreters takes the repr of a handler, which would go on to that of the task and
    of its result.
    """

    def __init__(self, runner: Runner, task: asyncio.Task[Any]) -> None:
        self._runner = runner
        self._task = task

    def __call__(self, signum: int, frame: object) -> None:
        self._runner._on_sigint(signum, frame, self._task)


def _default_interrupt() -> None:
    # In a forked child: the main task that Ctrl-C would cancel is the parent's.
    if isinstance(signal.getsignal(signal.SIGINT), _Interrupt):
        # ValueError: an embedded interpreter whose main thread is not the process's
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.default_int_handler)


os.register_at_fork(after_in_child=_default_interrupt)


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> _T:
    """Run a coroutine on a new noria loop and return its result.

    May be called while a loop runs in this thread: on a running noria loop (and without loop_factory) the coroutine
    runs on it, nested, and its other tasks go on.

    debug: debug mode; nested on a running loop, for the time of this run. loop_factory: makes the loop.
    Raises ValueError if main is no coroutine.

    Source: asyncio.run, uvloop.run.
    """
    running = events._get_running_loop()
    if isinstance(running, Loop) and loop_factory is None:
        if not asyncio.iscoroutine(main):
            raise ValueError(f"a coroutine was expected, got {main!r}")
        before = running.get_debug()
        if debug is not None:
            running.set_debug(debug)
        try:
            return running.run_until_complete(main)
        finally:
            running.set_debug(before)
    with Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)


def cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the loop's unfinished tasks, wait for them, and report what they raised instead."""
    left = asyncio.all_tasks(loop)
    if not left:
        return
    for task in left:
        task.cancel()
    # Not a coroutine: a KeyboardInterrupt that one of them ended with may come out before it would have begun.
    loop.run_until_complete(gather(*left, return_exceptions=True))
    for task in left:
        if task.cancelled():
            continue
        error = task.exception()
        if error is not None:
            loop.call_exception_handler(
                {
                    "message": "unhandled exception during asyncio.run() shutdown",
                    "exception": error,
                    "task": task,
                }
            )


async def shutdown_executor(loop: asyncio.AbstractEventLoop) -> None:
    """Let the default executor's threads end, but not for ever. A loop that is no noria loop may lack the timeout."""
    if isinstance(loop, Loop):
        await loop.shutdown_default_executor(THREAD_JOIN_TIMEOUT)
    else:
        await loop.shutdown_default_executor()


class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes noria loops wherever a program asks asyncio for a new one.

    >>> import asyncio, noria
    >>> asyncio.set_event_loop_policy(noria.EventLoopPolicy())
    """

    def _loop_factory(self) -> asyncio.AbstractEventLoop:
        return new_event_loop()


def install() -> None:
    """Make noria's the loop of the whole program: asyncio.run() and asyncio.new_event_loop() use it from now on."""
    asyncio.set_event_loop_policy(EventLoopPolicy())
