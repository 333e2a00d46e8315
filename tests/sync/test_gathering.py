"""gather, wait, shield, as_completed, TaskGroup and the making of tasks: what the random programs do not look at."""

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

import noria
from core.running import new_loop, on_noria, reports, turns


async def answer(value: Any = 42) -> Any:
    await asyncio.sleep(0)
    return value


async def fail(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


@on_noria
async def test_gathering_takes_futures_of_every_make_each_once() -> None:
    loop = asyncio.get_running_loop()
    native, foreign, subclass = (
        loop.create_future(),
        asyncio.Future(loop=loop),
        type("F", (noria.Future,), {})(),
    )
    for future in (native, foreign, subclass):
        loop.call_soon(future.set_result, type(future))
    coro = answer()
    found = await noria.gather(native, foreign, subclass, native, coro, coro, noria.sleep(0, "slept"))
    assert found == [type(native), type(foreign), type(subclass), type(native), 42, 42, "slept"]
    assert await noria.gather() == []


@on_noria
async def test_what_cannot_be_gathered_leaves_the_others_alone() -> None:
    task = asyncio.create_task(fail(LookupError()))
    with pytest.raises(TypeError, match="a coroutine or an awaitable is required"):
        noria.gather(task, 5)  # type: ignore[call-overload]
    await turns(4)
    assert task.done()  # and its error counts as seen: nothing is reported
    with new_loop() as other, pytest.raises(ValueError, match="different loop"):
        noria.gather(asyncio.get_running_loop().create_future(), other.create_future())


@on_noria
async def test_the_gathering_shows_in_the_repr_of_its_children_and_can_be_asked_for() -> None:
    future = asyncio.get_running_loop().create_future()
    gathering = noria.gather(future)
    assert isinstance(gathering, asyncio.Future)
    assert repr(gathering).startswith("<_GatheringFuture pending")
    assert "_GatheringFuture" in repr(future) and "_told" in repr(future)
    future.set_result(1)
    assert await gathering == [1]
    with pytest.raises(TypeError):
        type(gathering)()


@on_noria
async def test_deeply_nested_gatherings_are_cancelled_or_raise_recursion_error() -> None:
    asyncio.get_running_loop().set_debug(False)  # which notes where each was made
    inner = asyncio.get_running_loop().create_future()
    outer: Any = inner
    for _ in range(20_000):
        outer = noria.gather(outer)
    with pytest.raises(RecursionError):
        outer.cancel()
    assert not inner.done()
    shallow = noria.gather(noria.gather(inner))
    assert shallow.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await shallow
    assert inner.cancelled()


@on_noria
async def test_waiting_leaves_nothing_on_what_it_waited_for() -> None:
    pending = asyncio.get_running_loop().create_future()
    pending.add_done_callback(print)
    for _ in range(3):
        done, left = await noria.wait([pending, asyncio.create_task(answer())], return_when="FIRST_COMPLETED")
        assert len(done) == 1 and left == {pending}
    assert (await noria.wait([pending], timeout=0.001)) == (set(), {pending})
    shield = noria.shield(pending)
    shield.cancel()
    waiting = asyncio.create_task(noria.wait([pending]))
    await turns(2)
    assert len(pending._callbacks) == 2
    waiting.cancel()
    await turns(2)
    assert waiting.cancelled()
    assert [callback for callback, _ in pending._callbacks] == [print]
    pending.remove_done_callback(print)


@on_noria
async def test_what_wait_refuses() -> None:
    with pytest.raises(TypeError, match="expect a list of futures, not"):
        await noria.wait(asyncio.get_running_loop().create_future())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Set of Tasks/Futures is empty"):
        await noria.wait([])
    coro = answer()
    with pytest.raises(TypeError, match="Passing coroutines is forbidden"):
        await noria.wait([coro])  # type: ignore[type-var]
    coro.close()
    with pytest.raises(ValueError, match="Invalid return_when value: 5"):
        await noria.wait([asyncio.create_task(answer())], return_when=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expects an iterable of awaitables, not Future"):
        noria.as_completed(asyncio.Future())  # type: ignore[arg-type]


@on_noria
async def test_the_ones_out_of_time_raise_timeout_error() -> None:
    never = asyncio.get_running_loop().create_future()
    outcomes = []
    for one in noria.as_completed([never, answer()], timeout=0.01):
        try:
            outcomes.append(await one)
        except TimeoutError:
            outcomes.append("too late")
    assert outcomes == [42, "too late"]
    with pytest.raises(TimeoutError):
        async for _ in noria.as_completed([never], timeout=0.01):
            raise AssertionError
    assert not never._callbacks


@on_noria
async def test_one_that_is_cancelled_when_it_is_his_turn_leaves_it_to_the_next() -> None:
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(2)]
    first, second = (asyncio.create_task(one) for one in noria.as_completed(futures))
    await turns(2)
    futures[1].set_result("result")
    await turns(1)
    first.cancel()
    assert await second == "result"
    assert first.cancelled()


@on_noria
async def test_a_group_says_in_its_repr_how_it_stands() -> None:
    group = noria.TaskGroup()
    assert repr(group) == "<TaskGroup>"
    coro = answer()
    with pytest.raises(RuntimeError, match="has not been entered"):
        group.create_task(coro)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with group:
            assert repr(group) == "<TaskGroup entered>"
            group.create_task(fail(ValueError()))
            task = group.create_task(asyncio.sleep(1000), name="sleeper")
            assert task.get_name() == "sleeper"
            assert repr(group) == "<TaskGroup tasks=2 entered>"
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(1000)
            assert repr(group) == "<TaskGroup tasks=1 errors=1 cancelling>"
            with pytest.raises(RuntimeError, match="is shutting down"):
                group.create_task(answer())
    assert [type(error) for error in raised.value.exceptions] == [ValueError]
    with pytest.raises(RuntimeError, match="has already been entered"):
        await group.__aenter__()


@on_noria
async def test_a_program_may_derive_from_the_group_and_set_attributes() -> None:
    class Counting(noria.TaskGroup):
        def __init__(self, limit: int) -> None:
            super().__init__()
            self.limit = limit

        async def __aexit__(self, *args: Any) -> None:
            await super().__aexit__(*args)
            self.limit = 0

        def create_task(self, coro: Any, **kwargs: Any) -> Any:
            self.limit -= 1
            return super().create_task(coro, **kwargs)

    variable = contextvars.ContextVar[int]("variable")
    context = contextvars.copy_context()
    context.run(variable.set, 7)

    async def look() -> int:
        return variable.get()

    async with Counting(3) as group:
        tasks = [group.create_task(answer(n)) for n in range(2)] + [
            group.create_task(look(), context=context)
        ]
        assert group.limit == 0
    assert [task.result() for task in tasks] == [0, 1, 7]
    assert group.limit == 0


@on_noria
async def test_tasks_of_a_parent_that_is_gone_are_reported() -> None:
    group = noria.TaskGroup()

    async def enter() -> None:
        await group.__aenter__()
        group.create_task(fail(LookupError("nobody is waiting")))

    with reports() as seen:
        await asyncio.create_task(enter())
        await turns(4)
    assert ["has errored out but its parent" in report["message"] for report in seen] == [True]


@on_noria
async def test_task_factories_are_respected() -> None:
    loop = asyncio.get_running_loop()
    made = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> Any:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    try:
        await noria.create_task(answer(), name="named")
        await noria.gather(answer(), answer())
        async with noria.TaskGroup() as group:
            group.create_task(answer())
        assert len(made) == 4
        loop.set_task_factory(noria.eager_task_factory)

        async def at_once() -> int:
            return 1

        assert noria.create_task(at_once()).done()
        assert noria.gather(at_once(), at_once()).result() == [1, 1]
    finally:
        loop.set_task_factory(None)


def test_a_loop_with_a_create_task_of_its_own_is_asked() -> None:
    made = []

    class Loop(noria.Loop):
        def create_task(self, coro: Any, **kwargs: Any) -> Any:
            made.append(coro)
            return super().create_task(coro, **kwargs)

    async def main() -> None:
        await noria.create_task(answer())
        await noria.gather(answer(), answer())

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    assert len(made) >= 4


@on_noria
async def test_the_current_task_is_the_one_that_runs_whoever_made_it() -> None:
    loop = asyncio.get_running_loop()
    outer = noria.current_task()
    assert outer is asyncio.current_task() is noria.current_task(loop)
    seen: list[Any] = []

    async def look() -> Any:
        seen.append((noria.current_task(), asyncio.current_task()))
        await asyncio.sleep(0)
        return noria.current_task()

    for task in (
        loop.create_task(look()),
        asyncio.Task(look(), loop=loop),
        noria.Task(look(), eager_start=True),
    ):
        assert await task is task
    assert [ours is theirs for ours, theirs in seen] == [True] * 3
    assert noria.current_task() is outer
    loop.call_soon(lambda: seen.append(noria.current_task()))
    await turns(2)
    assert seen[-1] is None


def test_results_and_cancellations_cross_threads() -> None:
    started, ended = threading.Event(), threading.Event()

    async def forever() -> None:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    async def current() -> Any:
        return asyncio.get_running_loop()

    with new_loop() as loop:
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            assert noria.run_coroutine_threadsafe(current(), loop).result(10) is loop
            with pytest.raises(LookupError):
                noria.run_coroutine_threadsafe(fail(LookupError()), loop).result(10)
            future = noria.run_coroutine_threadsafe(forever(), loop)
            assert started.wait(10)
            future.cancel()
            assert ended.wait(10)
            with pytest.raises(TypeError, match="A coroutine object is required"):
                noria.run_coroutine_threadsafe(5, loop)  # type: ignore[arg-type]
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
        assert not thread.is_alive()


@on_noria
async def test_calls_in_threads_take_the_context_along() -> None:
    variable = contextvars.ContextVar[int]("variable")
    variable.set(5)
    here = threading.get_ident()
    assert await noria.to_thread(lambda: (variable.get(), threading.get_ident() != here)) == (5, True)
    with pytest.raises(ZeroDivisionError):
        await noria.to_thread(divmod, 1, 0)
