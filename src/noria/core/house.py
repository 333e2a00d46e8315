"""The loop's housekeeping, where speed does not matter: exception reports, executors, asynchronous generators, close.

A mixin over `CoreLoop`; the behaviour and the wording of reports are those of asyncio.BaseEventLoop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import traceback
import warnings
import weakref
from asyncio.log import logger
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar, cast

_T = TypeVar("_T")
_Handler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]


class Housekeeping(asyncio.AbstractEventLoop):
    """Exception handlers, executors, asynchronous generators and the end of the loop."""

    _exception_handler: _Handler | None
    _default_executor: concurrent.futures.ThreadPoolExecutor | None
    _executor_shut: bool
    _asyncgens: weakref.WeakSet[AsyncGenerator[Any, Any]]
    _asyncgens_shut: bool

    def _furnish(self) -> None:
        self._exception_handler = None
        self._default_executor = None
        self._executor_shut = False
        self._asyncgens = weakref.WeakSet()
        self._asyncgens_shut = False

    # Exception reports.

    def get_exception_handler(self) -> _Handler | None:
        """The exception handler that was set, or None."""
        return self._exception_handler

    def set_exception_handler(self, handler: _Handler | None) -> None:
        """Call handler(loop, context) for errors nobody else sees; None: the default handler, which logs.

        Raises TypeError if handler is neither callable nor None.
        """
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log the report, on the logger "asyncio", as asyncio does."""
        message = context.get("message") or "Unhandled exception in event loop"
        exception = context.get("exception")
        exc_info: Any = False
        if exception is not None:
            exc_info = (type(exception), exception, exception.__traceback__)
        lines = [message]
        for key in sorted(context):
            if key in ("message", "exception"):
                continue
            value = context[key]
            if key in ("source_traceback", "handle_traceback"):
                what = "Object" if key == "source_traceback" else "Handle"
                stack = format_stack(value)
                lines.append(f"{key}: {what} created at (most recent call last):\n{stack}")
            else:
                lines.append(f"{key}: {value!r}")
        logger.error("\n".join(lines), exc_info=exc_info)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an error. context: 'message', and where there is one 'exception', 'future', 'task', 'handle',
        'protocol', 'transport', 'socket', 'source_traceback', 'asyncgen'.

        A handler that fails is reported itself; only KeyboardInterrupt and SystemExit come out.
        """
        if self._exception_handler is None:
            try:
                self.default_exception_handler(context)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:
                logger.error("Exception in default exception handler", exc_info=True)
            return
        try:
            owner = context.get("task") or context.get("future") or context.get("handle")
            run_in = owner.get_context() if owner is not None and hasattr(owner, "get_context") else None
            if run_in is not None and hasattr(run_in, "run"):
                run_in.run(self._exception_handler, self, context)
            else:
                self._exception_handler(self, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            try:
                self.default_exception_handler(
                    {
                        "message": "Unhandled error in exception handler",
                        "exception": error,
                        "context": context,
                    }
                )
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:
                logger.error(
                    "Exception in default exception handler while handling an unexpected error"
                    " in custom exception handler",
                    exc_info=True,
                )

    def _report_slow(self, item: object, seconds: float) -> None:
        what = repr(item)
        protocol = getattr(item, "get_protocol", None)
        if protocol is not None:
            what += f" for {protocol()!r}"
        logger.warning("Executing %s took %.3f seconds", what, seconds)

    # Executors.

    def run_in_executor(  # type: ignore[override]
        self, executor: concurrent.futures.Executor | None, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Call func(*args) in the executor (None: the loop's own pool of threads); returns a future of its result."""
        self._check_closed()
        if self.get_debug():
            if asyncio.iscoroutine(func) or asyncio.iscoroutinefunction(func):
                raise TypeError("coroutines cannot be used with run_in_executor()")
            if not callable(func):
                raise TypeError(f"a callable object was expected by run_in_executor(), got {func!r}")
        if executor is None:
            if self._executor_shut:
                raise RuntimeError("Executor shutdown has been called")
            if self._default_executor is None:
                self._default_executor = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="noria")
            executor = self._default_executor
        return asyncio.wrap_future(executor.submit(func, *args), loop=self)

    def set_default_executor(self, executor: concurrent.futures.ThreadPoolExecutor) -> None:  # type: ignore[override]
        """The executor that run_in_executor(None, ...) uses: a ThreadPoolExecutor, else TypeError."""
        if not isinstance(executor, concurrent.futures.ThreadPoolExecutor):
            raise TypeError("executor must be ThreadPoolExecutor instance")
        self._default_executor = executor

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the default executor's threads to end; after timeout seconds go on without them, with a warning."""
        self._executor_shut = True
        executor = self._default_executor
        if executor is None:
            return
        future = self.create_future()
        thread = threading.Thread(target=self._shut_executor, args=(executor, future))
        thread.start()
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            warnings.warn(
                f"The executor did not finishing joining its threads within {timeout} seconds.",
                RuntimeWarning,
                stacklevel=2,
            )
            executor.shutdown(wait=False)
        else:
            thread.join()

    def _shut_executor(
        self, executor: concurrent.futures.ThreadPoolExecutor, future: asyncio.Future[None]
    ) -> None:
        def settle(error: BaseException | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

        error: BaseException | None = None
        try:
            executor.shutdown(wait=True)
        except Exception as e:
            error = e
        if not self.is_closed():
            try:
                self.call_soon_threadsafe(settle, error)
            except RuntimeError:
                pass  # closed between the question and the call: nobody waits any more

    # Asynchronous generators (PEP 525).

    def _asyncgen_firstiter(self, agen: AsyncGenerator[Any, Any]) -> None:
        if self._asyncgens_shut:
            warnings.warn(
                f"asynchronous generator {agen!r} was scheduled after loop.shutdown_asyncgens() call",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        self._asyncgens.add(agen)

    def _asyncgen_finalizer(self, agen: AsyncGenerator[Any, Any]) -> None:
        self._asyncgens.discard(agen)
        if not self.is_closed():
            self.call_soon_threadsafe(self.create_task, agen.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Close every asynchronous generator that is still open."""
        self._asyncgens_shut = True
        if not self._asyncgens:
            return
        closing = list(self._asyncgens)
        self._asyncgens.clear()
        results = await asyncio.gather(*[agen.aclose() for agen in closing], return_exceptions=True)
        for result, agen in zip(results, closing, strict=True):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {
                        "message": f"an error occurred during closing of asynchronous generator {agen!r}",
                        "exception": result,
                        "asyncgen": agen,
                    }
                )

    # The end.

    def _check_closed(self) -> None:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")

    def _close_executor(self) -> None:
        self._executor_shut = True
        executor = self._default_executor
        if executor is not None:
            self._default_executor = None
            executor.shutdown(wait=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} running={self.is_running()} closed={self.is_closed()} debug={self.get_debug()}>"


def format_stack(frames: traceback.StackSummary) -> str:
    """A stack's lines for a report; without the source text while the interpreter ends, when it cannot be read."""
    try:
        lines = traceback.format_list(frames)
    except ImportError:
        lines = [f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n' for frame in frames]
    return "".join(lines).rstrip()


def as_loop(loop: object) -> asyncio.AbstractEventLoop:
    """Say to the type checker that a mixin's self is the loop it is mixed into."""
    return cast(asyncio.AbstractEventLoop, loop)
