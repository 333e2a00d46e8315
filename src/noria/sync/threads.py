"""to_thread, run_coroutine_threadsafe, wrap_future: between the loop and other threads.

Standing on what every loop has (`run_in_executor`, `call_soon_threadsafe`), so they work on any.
"""

from __future__ import annotations

import asyncio
import asyncio.coroutines
import asyncio.events
import concurrent.futures
import contextvars
import functools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, ParamSpec, TypeVar

from noria.sync.tasks import ensure_future, isfuture

_T = TypeVar("_T")
_P = ParamSpec("_P")

_CancelledError = asyncio.CancelledError


async def to_thread(func: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call func(*args, **kwargs) in a thread of the loop's default executor, in a copy of the current context.

    Source: asyncio.to_thread.
    """
    loop = asyncio.events.get_running_loop()
    context = contextvars.copy_context()
    call: Callable[[], _T] = functools.partial(context.run, func, *args, **kwargs)
    return await loop.run_in_executor(None, call)


def wrap_future(
    future: concurrent.futures.Future[_T] | asyncio.Future[_T],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
) -> asyncio.Future[_T]:
    """A future of the loop (default: the running one) for one of another thread. Cancelling it cancels that one.

    A future that belongs to a loop already is returned as it is.

    Source: asyncio.wrap_future.
    """
    if isfuture(future):
        return future
    if not isinstance(future, concurrent.futures.Future):
        raise AssertionError(f"concurrent.futures.Future is expected, got {future!r}")
    theirs = future
    home = asyncio.events.get_event_loop() if loop is None else loop
    ours: asyncio.Future[_T] = home.create_future()

    def hand_over() -> None:
        if ours.cancelled():
            return
        if theirs.cancelled():
            ours.cancel()
        elif (error := theirs.exception()) is not None:
            ours.set_exception(_of_asyncio(error))
        else:
            ours.set_result(theirs.result())

    def ended(_: concurrent.futures.Future[_T]) -> None:
        # In whichever thread that happened.
        if home.is_closed():
            return  # nobody is left to hear of it
        home.call_soon_threadsafe(hand_over)

    def cancelled(_: asyncio.Future[_T]) -> None:
        if ours.cancelled():
            theirs.cancel()

    ours.add_done_callback(cancelled)
    theirs.add_done_callback(ended)
    return ours


def run_coroutine_threadsafe(
    coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T], loop: asyncio.AbstractEventLoop
) -> concurrent.futures.Future[_T]:
    """Run a coroutine on a loop that runs in another thread; returns a concurrent.futures.Future of its result.

    Cancelling that cancels the task. Raises TypeError if coro is no coroutine.

    Source: asyncio.run_coroutine_threadsafe.
    """
    if not asyncio.coroutines.iscoroutine(coro):
        raise TypeError("A coroutine object is required")
    theirs: concurrent.futures.Future[_T] = concurrent.futures.Future()
    awaitable: Awaitable[_T] = coro

    def start() -> None:
        try:
            ours = ensure_future(awaitable, loop=loop)
            theirs.add_done_callback(functools.partial(_pass_cancellation, ours, loop))
            ours.add_done_callback(functools.partial(_hand_over, theirs))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if theirs.set_running_or_notify_cancel():
                theirs.set_exception(error)
            raise

    loop.call_soon_threadsafe(start)
    return theirs


def _pass_cancellation(
    ours: asyncio.Future[_T], loop: asyncio.AbstractEventLoop, theirs: concurrent.futures.Future[_T]
) -> None:
    if theirs.cancelled() and not loop.is_closed():
        loop.call_soon_threadsafe(ours.cancel)


def _hand_over(theirs: concurrent.futures.Future[_T], ours: asyncio.Future[_T]) -> None:
    if ours.cancelled():
        theirs.cancel()
    if not theirs.set_running_or_notify_cancel():
        return
    error = ours.exception()
    if error is not None:
        theirs.set_exception(_of_asyncio(error))
    else:
        theirs.set_result(ours.result())


def _of_asyncio(error: BaseException) -> BaseException:
    # concurrent.futures has errors of its own by these names.
    if type(error) is concurrent.futures.CancelledError:
        return _CancelledError(*error.args).with_traceback(error.__traceback__)
    if type(error) is concurrent.futures.InvalidStateError:
        return asyncio.InvalidStateError(*error.args).with_traceback(error.__traceback__)
    return error
