"""The loop itself: running, stopping, closing, factories of loops, exception handlers, asynchronous generators, interrupts."""

import asyncio
import gc
import sys
import threading
import warnings
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

import noria
from core.running import new_loop, on_noria, python, reports, turns

# Running and stopping.


def test_a_noria_loop_is_an_asyncio_loop() -> None:
    with new_loop() as loop:
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert isinstance(loop, noria.Loop)
        assert not loop.is_running()
        assert not loop.is_closed()
        assert "running=False" in repr(loop)


def test_run_until_complete_returns_the_result_or_raises() -> None:
    async def fail() -> None:
        raise KeyError("k")

    with new_loop() as loop:
        assert loop.run_until_complete(asyncio.sleep(0, "result")) == "result"
        with pytest.raises(KeyError):
            loop.run_until_complete(fail())
        future = loop.create_future()
        loop.call_soon(future.set_result, 1)
        assert loop.run_until_complete(future) == 1
        assert loop.run_until_complete(future) == 1
        with pytest.raises(TypeError):
            loop.run_until_complete(5)  # type: ignore[arg-type]
        cancelled = loop.create_future()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(cancelled)


def test_run_until_complete_takes_any_awaitable() -> None:
    class Awaitable:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "awaited"

    with new_loop() as loop:
        assert loop.run_until_complete(Awaitable()) == "awaited"


def test_run_until_complete_refuses_a_future_of_another_loop() -> None:
    with new_loop() as loop, new_loop() as other, pytest.raises(ValueError, match="loop"):
        loop.run_until_complete(other.create_future())


def test_stop_lets_what_is_ready_run_and_keeps_what_comes_later() -> None:
    seen: list[str] = []
    with new_loop() as loop:

        def first() -> None:
            seen.append("first")
            loop.stop()
            loop.call_soon(seen.append, "next turn")

        loop.call_soon(first)
        loop.call_soon(seen.append, "second")
        loop.run_forever()
        assert seen == ["first", "second"]
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert seen == ["first", "second", "next turn"]


def test_stop_before_the_run_makes_it_one_turn() -> None:
    seen: list[int] = []
    with new_loop() as loop:
        loop.call_soon(seen.append, 1)
        loop.stop()
        loop.run_forever()
        assert seen == [1]
        loop.run_until_complete(asyncio.sleep(0))


def test_stopping_before_the_future_is_done_is_an_error_and_the_run_can_be_resumed() -> None:
    with new_loop() as loop:
        future = loop.create_future()
        loop.call_soon(loop.stop)
        with pytest.raises(RuntimeError, match="Event loop stopped before Future completed"):
            loop.run_until_complete(future)
        loop.call_soon(future.set_result, 3)
        assert loop.run_until_complete(future) == 3


def test_a_loop_waits_without_using_the_processor() -> None:
    import time

    with new_loop() as loop:
        began = time.process_time()
        loop.run_until_complete(asyncio.sleep(0.2))
        assert time.process_time() - began < 0.1


@on_noria
async def test_a_second_run_forever_is_refused() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="already running"):
        loop.run_forever()
    assert asyncio.get_running_loop() is loop


@on_noria
async def test_a_running_loop_cannot_be_closed() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
        loop.close()
    await turns(1)


def test_the_running_loop_is_known_while_it_runs() -> None:
    with new_loop() as loop:
        seen: list[object] = []

        def look() -> None:
            seen.extend([asyncio.get_running_loop(), loop.is_running(), asyncio.get_event_loop()])
            loop.stop()

        loop.call_soon(look)
        loop.run_forever()
        assert seen == [loop, True, loop]
        assert asyncio._get_running_loop() is None


# Closing.


def test_a_closed_loop_refuses_everything_but_closing() -> None:
    loop = noria.new_event_loop()
    future = loop.create_future()
    loop.close()
    loop.close()
    assert loop.is_closed()
    coro = asyncio.sleep(0)
    refused: list[Any] = [
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.create_task(coro),
        lambda: loop.run_in_executor(None, print),
        loop.run_forever,
        lambda: loop.run_until_complete(future),
        lambda: loop.add_reader(0, print),
        lambda: loop.add_signal_handler(10, print),
    ]
    for call in refused:
        with pytest.raises(RuntimeError, match="closed"):
            call()
    coro.close()
    loop.remove_reader(0)
    loop.stop()
    assert "closed=True" in repr(loop)


def test_closing_drops_what_is_queued() -> None:
    class Thing:
        def __call__(self) -> None: ...

    loop = noria.new_event_loop()
    things = [Thing() for _ in range(3)]
    gone = [weakref.ref(thing) for thing in things]
    loop.call_soon(things[0])
    loop.call_later(100, things[1])
    loop.call_soon_threadsafe(things[2])
    things.clear()
    loop.close()
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]


def test_timers_and_handles_of_a_closed_loop_may_be_cancelled() -> None:
    loop = noria.new_event_loop()
    handles: list[asyncio.Handle] = [
        loop.call_soon(print),
        loop.call_later(100, print),
        loop.call_at(0, print),
    ]
    loop.close()
    for handle in handles:
        handle.cancel()
        repr(handle)


def test_a_loop_dropped_unclosed_warns_and_closes() -> None:
    loop = noria.new_event_loop()
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()


def test_a_loop_with_callbacks_timers_and_tasks_is_collected() -> None:
    def abandon() -> "weakref.ref[noria.Loop]":
        loop = noria.new_event_loop()
        loop.set_exception_handler(lambda _, report: None)

        async def wait() -> None:
            await loop.create_future()

        for _ in range(10):
            loop.create_task(wait())
            loop.call_soon(lambda: loop)
            loop.call_later(100, lambda: loop)
        loop.run_until_complete(asyncio.sleep(0))
        loop.create_task(wait())
        loop.call_soon(lambda: loop)
        return weakref.ref(loop)

    gone = abandon()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # the last task's coroutine never ran
        gc.collect()
    assert gone() is None


# Threads.


def test_a_loop_runs_in_one_thread_and_then_in_another() -> None:
    with new_loop() as loop:
        assert loop.run_until_complete(asyncio.sleep(0.001, 1)) == 1
        found: list[object] = []

        def run() -> None:
            found.append(loop.run_until_complete(asyncio.sleep(0.001, 2)))

        for _ in range(2):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        assert loop.run_until_complete(asyncio.sleep(0.001, 3)) == 3
        assert found == [2, 2]


def test_a_loop_that_runs_in_another_thread_is_refused_here() -> None:
    with new_loop() as loop:
        started = threading.Event()
        loop.call_soon(started.set)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            assert started.wait(10)
            assert loop.is_running()
            for run in (loop.run_forever, lambda: loop.run_until_complete(future)):
                future = loop.create_future()
                with pytest.raises(RuntimeError, match="already running"):
                    run()
            with pytest.raises(RuntimeError, match="running"):
                loop.close()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def test_stop_from_another_thread_wakes_the_loop() -> None:
    with new_loop() as loop:
        started = threading.Event()
        loop.call_soon(started.set)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        assert started.wait(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        assert not thread.is_alive()


def test_several_loops_run_in_several_threads_at_once() -> None:
    results: list[int] = []

    async def work() -> int:
        total = 0
        for n in range(200):
            total += await asyncio.create_task(asyncio.sleep(0, n))
        assert asyncio.current_task() in asyncio.all_tasks()
        return total

    threads = [threading.Thread(target=lambda: results.append(noria.run(work()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [sum(range(200))] * 8


def test_a_forked_child_may_run_loops_of_its_own_and_leaves_its_parents_alone() -> None:
    done = python(
        """
import asyncio, noria, os, socket, sys

async def in_the_child():
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=near)
    far.send(b"child")
    data = await reader.readexactly(5)
    writer.close()
    await writer.wait_closed()
    far.close()
    return data

async def main():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=near)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert asyncio._get_running_loop() is None
            assert noria.run(in_the_child()) == b"child"
            try:
                loop.call_soon_threadsafe(print, "not in the child")
            except RuntimeError:  # the parent's loop counts as closed here
                code = 0
        finally:
            os._exit(code)
    _, status = await loop.run_in_executor(None, os.waitpid, pid, 0)
    assert status == 0, status
    far.send(b"parent")
    assert await reader.readexactly(6) == b"parent"
    writer.close()
    await writer.wait_closed()
    far.close()
    print("both ran")

noria.run(asyncio.wait_for(main(), 20))
"""
    )
    assert done.stdout == "both ran\n", done.stderr


# Exception handlers.


@on_noria
async def test_the_exception_handler_is_called_with_the_loop_and_the_report() -> None:
    loop = asyncio.get_running_loop()
    calls: list[tuple[object, object]] = []
    before = loop.get_exception_handler()

    def handler(loop: object, context: object) -> None:
        calls.append((loop, context))

    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    report = {"message": "m"}
    loop.call_exception_handler(report)
    assert calls == [(loop, report)]
    loop.set_exception_handler(before)
    with pytest.raises(TypeError):
        loop.set_exception_handler(5)  # type: ignore[arg-type]


def test_without_a_handler_reports_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    loop = noria.new_event_loop()

    def broken() -> None:
        raise ZeroDivisionError("in the log")

    loop.call_soon(broken)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    (record,) = caplog.records
    assert record.name == "asyncio"
    assert "Exception in callback" in record.message
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


def test_a_handler_that_fails_is_reported_itself(caplog: pytest.LogCaptureFixture) -> None:
    loop = noria.new_event_loop()

    def bad(loop: object, context: object) -> None:
        raise KeyError("bad handler")

    loop.set_exception_handler(bad)
    loop.call_soon(lambda: 1 / 0)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert "Unhandled error in exception handler" in caplog.text
    assert "bad handler" in caplog.text


# Asynchronous generators.


async def numbers(ended: list[str]) -> AsyncIterator[int]:
    try:
        for n in range(10):
            await asyncio.sleep(0)
            yield n
    finally:
        await asyncio.sleep(0)
        ended.append("closed")


def test_run_closes_asynchronous_generators_that_were_left_open() -> None:
    ended: list[str] = []
    kept: list[AsyncIterator[int]] = []

    async def main() -> None:
        generator = numbers(ended)
        kept.append(generator)
        assert await anext(generator) == 0
        assert ended == []

    noria.run(main())
    assert ended == ["closed"]


@on_noria
async def test_a_dropped_asynchronous_generator_is_closed_by_the_loop() -> None:
    ended: list[str] = []
    generator = numbers(ended)
    await anext(generator)
    del generator
    gc.collect()
    await turns(5)
    assert ended == ["closed"]


def test_the_hooks_of_the_thread_are_given_back() -> None:
    before = sys.get_asyncgen_hooks()
    with new_loop() as loop:
        loop.run_until_complete(asyncio.sleep(0))
    assert sys.get_asyncgen_hooks() == before
    assert sys.get_coroutine_origin_tracking_depth() == 0 or sys.flags.dev_mode


def test_a_generator_that_fails_to_close_is_reported() -> None:
    async def bad() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise KeyError("while closing")

    with new_loop() as loop:
        generator = bad()

        async def start() -> None:
            await anext(generator)

        loop.run_until_complete(start())
        with reports(loop) as seen:
            loop.run_until_complete(loop.shutdown_asyncgens())
        assert [type(report["exception"]) for report in seen] == [KeyError]
        assert seen[0]["asyncgen"] is generator
        seen.clear()


# KeyboardInterrupt and SystemExit.


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_callback_ends_the_run_and_nothing_is_lost(error: type[BaseException]) -> None:
    seen: list[int] = []

    def interrupt() -> None:
        raise error

    with new_loop() as loop:
        loop.call_soon(interrupt)
        loop.call_soon(seen.append, 1)
        with pytest.raises(error):
            loop.run_forever()
        assert not loop.is_running()
        assert seen == []
        loop.run_until_complete(asyncio.sleep(0))
        assert seen == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_task_ends_the_run_and_the_task(error: type[BaseException]) -> None:
    async def interrupt() -> None:
        await asyncio.sleep(0)
        raise error

    async def main() -> None:
        task = asyncio.create_task(interrupt())
        tasks.append(task)
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            ended.append("cancelled by run")
            raise

    tasks: list[asyncio.Task[None]] = []
    ended: list[str] = []
    with pytest.raises(error):
        noria.run(main())
    assert isinstance(tasks[0].exception(), error)
    assert ended == ["cancelled by run"]


def test_an_interrupt_of_the_main_coroutine_comes_out_once() -> None:
    async def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        noria.run(main())


def test_python_runs_handlers_of_signals_while_the_loop_is_busy() -> None:
    done = python(
        """
import asyncio, noria, os, signal
async def main():
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        await asyncio.sleep(0)
try:
    noria.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert done.stdout == "interrupted\n", done.stderr


# Policies and factories.


def test_asyncio_run_takes_noria_as_its_loop_factory() -> None:
    async def main() -> object:
        return asyncio.get_running_loop()

    with asyncio.Runner(loop_factory=noria.new_event_loop) as runner:
        assert isinstance(runner.run(main()), noria.Loop)
    if sys.version_info >= (3, 12):
        assert isinstance(asyncio.run(main(), loop_factory=noria.new_event_loop), noria.Loop)


def test_an_unknown_driver_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no driver 'kqueue'"):
        noria.Loop(driver="kqueue")


def test_a_loop_that_was_not_initialised_refuses_and_does_not_crash() -> None:
    done = python(
        """
import asyncio, noria

class Forgetful(noria.Loop):
    def __init__(self):
        pass

async def nothing():
    pass

coro = nothing()
for call in [
    lambda loop: loop.call_soon(print),
    lambda loop: loop.call_soon_threadsafe(print),
    lambda loop: loop.call_later(1, print),
    lambda loop: loop.call_at(1, print),
    lambda loop: loop.create_future().set_result(1),
    lambda loop: loop.stop(),
    lambda loop: loop.run_until_complete(coro),
    lambda loop: loop.run_forever(),
    lambda loop: loop.add_reader(0, print),
    lambda loop: loop.close(),
    repr,
]:
    try:
        call(Forgetful())
    except (RuntimeError, AttributeError):
        pass
coro.close()
print("alive")
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "alive\n"


def test_wrong_arguments_are_refused() -> None:
    with new_loop() as loop:
        for call in (
            loop.call_soon,
            loop.call_later,
            loop.call_at,
            loop.run_until_complete,
            loop.create_task,
        ):
            with pytest.raises(TypeError):
                call()  # type: ignore[call-arg]
