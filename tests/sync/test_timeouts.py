"""timeout and wait_for: deadlines on the clock, whose cancellation it was, and what is left behind."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import noria
from core.running import DEADLINE, on_noria, reports, turns

LOOPS = [noria.new_event_loop, asyncio.SelectorEventLoop]


@pytest.fixture(params=LOOPS, ids=["noria", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run a coroutine on a loop of noria's, or of asyncio's; any report of the loop fails the test."""

    def run(coro: Any) -> Any:
        async def watched() -> Any:
            with reports() as seen:
                async with asyncio.timeout(DEADLINE):
                    result = await coro
            assert not seen
            return result

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(watched())

    return run


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_time_that_is_up_cancels_the_block_and_becomes_a_timeout_error(run: Callable[..., Any]) -> None:
    async def main() -> None:
        before = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError) as raised:
            async with noria.timeout(0.02) as timeout:
                await forever()
        assert asyncio.get_running_loop().time() - before >= 0.02
        assert timeout.expired()
        assert isinstance(raised.value.__cause__, asyncio.CancelledError)
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0

    run(main())


def test_the_inner_of_two_timeouts_is_the_one_that_raises(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with noria.timeout(10) as outer:
            with pytest.raises(TimeoutError):
                async with noria.timeout(0.001) as inner:
                    await forever()
            assert inner.expired()
        assert not outer.expired()
        with pytest.raises(TimeoutError):
            async with noria.timeout(0.001) as outer:
                async with noria.timeout(10) as inner:
                    await forever()
        assert outer.expired() and not inner.expired()

    run(main())


def test_a_cancellation_from_outside_stays_one_though_the_time_is_up_too(run: Callable[..., Any]) -> None:
    async def block() -> None:
        async with noria.timeout_at(asyncio.get_running_loop().time() - 1):
            await forever()

    async def main() -> None:
        task = asyncio.create_task(block())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_a_deadline_can_be_moved_until_it_is_reached(run: Callable[..., Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timeout = noria.timeout(None)
        with pytest.raises(RuntimeError, match="Timeout has not been entered"):
            timeout.reschedule(1)
        async with timeout:
            assert timeout.when() is None
            timeout.reschedule(loop.time() - 1)
            timeout.reschedule(loop.time() - 1)  # the first is in the queue already, and void
            timeout.reschedule(None)
            await turns(3)
            assert not timeout.expired()
            when = loop.time() + 1000
            timeout.reschedule(when)
            assert timeout.when() == when
            assert repr(timeout) == f"<Timeout [active] when={round(when, 3)}>"
        assert repr(timeout) == "<Timeout [finished]>"
        with pytest.raises(RuntimeError, match="Cannot change state of finished Timeout"):
            timeout.reschedule(None)
        with pytest.raises(RuntimeError, match="already been entered"):
            await timeout.__aenter__()

    run(main())


def test_the_history_of_another_exception_tells_of_the_timeout(run: Callable[..., Any]) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError) as raised:
            async with noria.timeout(0.001):
                try:
                    await forever()
                finally:
                    1 / 0
        assert isinstance(raised.value.__context__, TimeoutError)
        assert isinstance(raised.value.__context__.__cause__, asyncio.CancelledError)
        with pytest.raises(ExceptionGroup) as group:
            async with noria.timeout(0.001):
                try:
                    await forever()
                finally:
                    raise ExceptionGroup("", [ValueError()])
        assert isinstance(group.value.__context__, TimeoutError)

    run(main())


def test_a_deadline_needs_a_task() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        noria.timeout(1)
    loop = noria.new_event_loop()
    raised = []

    def callback() -> None:
        for awaitable in (noria.timeout(1).__aenter__(), noria.wait_for(asyncio.Future(), 1)):
            try:
                awaitable.send(None)
            except RuntimeError as error:
                raised.append(str(error))
        loop.stop()

    loop.call_soon(callback)
    loop.run_forever()
    loop.close()
    assert raised == ["Timeout should be used inside a task"] * 2


@on_noria
async def test_nan_is_no_deadline() -> None:
    with pytest.raises(ValueError, match="nan"):
        async with noria.timeout(float("nan")):
            pass
    with pytest.raises(ValueError, match="nan"):
        await noria.wait_for(asyncio.get_running_loop().create_future(), float("nan"))


def test_wait_for_gives_the_result_the_error_or_timeout_error(run: Callable[..., Any]) -> None:
    async def answer(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async def fail() -> None:
        raise LookupError

    class Awaitable:
        def __await__(self) -> Any:
            return answer(3).__await__()

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_result((1, 2))
        assert await noria.wait_for(answer(1), 10) == 1
        assert await noria.wait_for(answer(2), None) == 2
        assert await noria.wait_for(Awaitable(), 10) == 3  # type: ignore[arg-type]
        assert await noria.wait_for(future, 10) == await noria.wait_for(future, 0) == (1, 2)
        assert await noria.wait_for(asyncio.create_task(answer(4)), 10) == 4
        assert await asyncio.create_task(noria.wait_for(noria.sleep(0.001, 5), 10)) == 5
        with pytest.raises(LookupError):
            await noria.wait_for(fail(), 10)
        with pytest.raises(TimeoutError) as raised:
            await noria.wait_for(forever(), 0.001)
        assert isinstance(raised.value.__cause__, asyncio.CancelledError)
        with pytest.raises(TypeError, match="can't be used in 'await' expression"):
            await noria.wait_for(5, 10)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a coroutine or an awaitable is required"):
            await noria.wait_for(5, 0)  # type: ignore[arg-type]

    run(main())


def test_without_any_time_a_coroutine_is_not_even_started(run: Callable[..., Any]) -> None:
    started = []

    async def start() -> None:
        started.append(True)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await noria.wait_for(start(), 0)
        with pytest.raises(TimeoutError):
            await noria.wait_for(start(), -1)

    run(main())
    assert not started


def test_what_is_returned_in_spite_of_the_timeout_is_the_result(run: Callable[..., Any]) -> None:
    async def stubborn() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            return "done all the same"
        raise AssertionError

    async def main() -> None:
        assert await noria.wait_for(stubborn(), 0.001) == "done all the same"

    run(main())


def test_cancelling_wait_for_cancels_what_it_waits_for(run: Callable[..., Any]) -> None:
    async def main() -> None:
        inner = asyncio.create_task(forever())
        outer = asyncio.create_task(noria.wait_for(inner, 10))
        await turns(2)
        outer.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await outer
        assert inner.cancelled() and outer.cancelled()

    run(main())


@on_noria
async def test_wait_for_is_a_coroutine_to_those_who_ask() -> None:
    assert asyncio.iscoroutinefunction(noria.wait_for)
    waiter = noria.wait_for(asyncio.sleep(0), 1)
    assert asyncio.iscoroutine(waiter)
    assert "wait_for" in repr(waiter)
    assert waiter.send(None) is None
    waiter.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await waiter
    with pytest.warns(RuntimeWarning, match="coroutine 'wait_for' was never awaited"):
        future = asyncio.get_running_loop().create_future()
        waiter = noria.wait_for(future, 1)
        del waiter


class Thing:
    """Something a weak reference can be made to."""


def test_nothing_is_kept_when_it_is_over(run: Callable[..., Any]) -> None:
    async def hold(thing: Thing) -> None:
        await asyncio.sleep(0)

    async def main() -> list[weakref.ref[Thing]]:
        left = []
        for make in (
            lambda thing: noria.wait_for(hold(thing), 1000),
            lambda thing: noria.gather(hold(thing), hold(thing)),
            lambda thing: noria.shield(hold(thing)),
            lambda thing: noria.wait([asyncio.ensure_future(hold(thing))]),
        ):
            thing = Thing()
            left.append(weakref.ref(thing))
            await make(thing)
            del thing
        thing = Thing()
        left.append(weakref.ref(thing))
        async with noria.timeout(1000), noria.TaskGroup() as group:
            group.create_task(hold(thing))
            del thing
        return left

    gc.disable()  # no cycles in the normal case
    try:
        assert [ref() for ref in run(main())] == [None] * 5
    finally:
        gc.enable()
