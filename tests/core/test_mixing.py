"""noria's futures and tasks together with the standard library's: each kind awaits, gathers, shields and cancels the other.

On a noria loop both kinds of task live side by side, and `asyncio.current_task` and `asyncio.all_tasks` know them all.
"""

import asyncio
import concurrent.futures
import contextlib
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import noria
from core.running import new_loop, on_noria, turns

Maker = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


def native_task(coro: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(coro)


def stock_task(coro: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    return asyncio.Task(coro, loop=asyncio.get_running_loop())


def python_task(coro: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    return asyncio.tasks._PyTask(coro, loop=asyncio.get_running_loop())  # type: ignore[attr-defined, no-any-return]


def native_future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


def stock_future() -> "asyncio.Future[Any]":
    return asyncio.Future()


def python_future() -> "asyncio.Future[Any]":
    return asyncio.futures._PyFuture()  # type: ignore[attr-defined, no-any-return]


each_task = pytest.mark.parametrize("make_task", [native_task, stock_task, python_task])
each_future = pytest.mark.parametrize("make_future", [native_future, stock_future, python_future])


@each_task
@each_future
def test_every_task_awaits_every_future(make_task: Maker, make_future: Callable[[], Any]) -> None:
    @on_noria
    async def program() -> None:
        async def wait(future: "asyncio.Future[Any]") -> Any:
            return await future

        future = make_future()
        task = make_task(wait(future))
        await turns(1)
        future.set_result("result")
        assert await task == "result"
        assert await make_task(wait(future)) == "result"

        future = make_future()
        task = make_task(wait(future))
        await turns(1)
        future.set_exception(KeyError("e"))
        with pytest.raises(KeyError):
            await task

        future = make_future()
        task = make_task(wait(future))
        await turns(1)
        task.cancel("down")
        assert future.cancelled()
        with pytest.raises(asyncio.CancelledError, match="down"):
            await task

        future = make_future()
        task = make_task(wait(future))
        await turns(1)
        future.cancel("up")
        with pytest.raises(asyncio.CancelledError, match="up"):
            await task
        assert task.cancelled()

    program()


@pytest.mark.parametrize("inner", [native_task, stock_task, python_task])
@pytest.mark.parametrize("outer", [native_task, stock_task, python_task])
def test_every_task_awaits_every_task(outer: Maker, inner: Maker) -> None:
    @on_noria
    async def program() -> None:
        async def work() -> str:
            await asyncio.sleep(0)
            return "worked"

        async def wait(task: "asyncio.Task[str]") -> str:
            return await task

        assert await outer(wait(inner(work()))) == "worked"
        sleeper = inner(asyncio.sleep(1000))
        waiting = outer(wait(sleeper))
        await turns(2)
        waiting.cancel("m")
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert sleeper.cancelled()

    program()


@each_task
def test_asyncios_helpers_take_any_task(make_task: Maker) -> None:
    @on_noria
    async def program() -> None:
        async def give(value: int) -> int:
            await asyncio.sleep(0)
            return value

        async def fail() -> None:
            raise KeyError

        assert await asyncio.gather(*(make_task(give(n)) for n in range(5)), native_future_of(9)) == [
            0,
            1,
            2,
            3,
            4,
            9,
        ]
        assert await asyncio.wait_for(make_task(give(1)), 5) == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(make_task(asyncio.sleep(1000)), 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await make_task(asyncio.sleep(1000))
        assert await asyncio.shield(make_task(give(2))) == 2
        inner = make_task(give(3))
        shielded = asyncio.shield(inner)
        shielded.cancel()
        assert await inner == 3
        done, pending = await asyncio.wait([make_task(give(4)), make_task(asyncio.sleep(1000))], timeout=0.01)
        assert [task.result() for task in done] == [4]
        for task in pending:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert sorted(
            [await each for each in asyncio.as_completed([make_task(give(n)) for n in range(4)])]
        ) == [0, 1, 2, 3]
        results = await asyncio.gather(make_task(fail()), make_task(give(1)), return_exceptions=True)
        assert isinstance(results[0], KeyError)
        assert results[1] == 1

    program()


def native_future_of(value: object) -> "asyncio.Future[Any]":
    future = native_future()
    future.set_result(value)
    return future


@each_task
def test_timeouts_and_groups_run_inside_any_task(make_task: Maker) -> None:
    @on_noria
    async def program() -> None:
        async def timed() -> str:
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.sleep(1000)
            except TimeoutError:
                me = asyncio.current_task()
                assert me is not None
                assert me.cancelling() == 0
                return "timed out"
            return "in time"

        async def grouped() -> list[int]:
            async def part(n: int) -> int:
                await asyncio.sleep(0)
                return n

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part(n)) for n in range(5)]
            return [task.result() for task in tasks]

        async def failing() -> int:
            async def bad() -> None:
                await asyncio.sleep(0)
                raise KeyError

            count = 0
            try:
                async with asyncio.TaskGroup() as group:
                    sleeper = group.create_task(asyncio.sleep(1000))
                    group.create_task(bad())
            except* KeyError as errors:
                assert sleeper.cancelled()
                count = len(errors.exceptions)
            return count

        assert await make_task(timed()) == "timed out"
        assert await make_task(grouped()) == [0, 1, 2, 3, 4]
        assert await make_task(failing()) == 1

    program()


@on_noria
async def test_locks_queues_and_conditions_of_asyncio_work() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    lock, event, condition = asyncio.Lock(), asyncio.Event(), asyncio.Condition()
    barrier, semaphore = asyncio.Barrier(3), asyncio.Semaphore(2)
    total = 0

    async def produce() -> None:
        for n in range(50):
            await queue.put(n)

    async def consume() -> None:
        nonlocal total
        for _ in range(50):
            total += await queue.get()
            queue.task_done()

    async def take_turns() -> None:
        async with lock, semaphore:
            await asyncio.sleep(0)
        await barrier.wait()
        await event.wait()
        async with condition:
            condition.notify_all()

    async with asyncio.TaskGroup() as group:
        for job in (produce(), consume(), take_turns(), take_turns(), take_turns()):
            group.create_task(job)
        group.create_task(queue.join())
        async with condition:
            event.set()
            await condition.wait()
    assert total == sum(range(50))


@on_noria
async def test_the_current_task_is_known_in_tasks_of_every_kind_and_nowhere_else() -> None:
    me = asyncio.current_task()
    assert me is not None
    seen: list[tuple[str, object, object]] = []

    async def look(name: str) -> None:
        for _ in range(3):
            seen.append((name, asyncio.current_task(), tasks[name]))
            await asyncio.sleep(0)

    makers: dict[str, Maker] = {"native": native_task, "stock": stock_task, "python": python_task}
    tasks = {name: make(look(name)) for name, make in makers.items()}
    callbacks: list[object] = []
    asyncio.get_running_loop().call_soon(lambda: callbacks.append(asyncio.current_task()))
    await asyncio.gather(*tasks.values())
    assert len(seen) == 9
    assert all(found is task for _, found, task in seen)
    assert callbacks == [None]
    assert asyncio.current_task() is me
    assert asyncio.current_task(asyncio.get_running_loop()) is me


@on_noria
async def test_the_current_task_is_right_around_eager_tasks_of_both_kinds() -> None:
    loop = asyncio.get_running_loop()
    seen: list[bool] = []
    eager: list[Callable[[Coroutine[Any, Any, Any]], Any]] = [
        lambda c: noria.Task(c, loop=loop, eager_start=True)
    ]
    if sys.version_info >= (3, 12):
        eager.append(lambda c: asyncio.Task(c, loop=loop, eager_start=True))

    async def inner() -> object:
        before = asyncio.current_task()
        await asyncio.sleep(0)
        seen.append(asyncio.current_task() is before)
        return before

    async def outer() -> None:
        me = asyncio.current_task()
        for start in eager:
            task = start(inner())
            seen.append(asyncio.current_task() is me)
            seen.append(task in asyncio.all_tasks())
            seen.append(await task is task)
            seen.append(asyncio.current_task() is me)

    for make in (native_task, stock_task, *eager):
        await make(outer())
    assert len(seen) == 5 * len(eager) * (2 + len(eager))
    assert all(seen)


@on_noria
async def test_all_tasks_lists_unfinished_tasks_of_every_kind() -> None:
    me = asyncio.current_task()
    tasks = [make(asyncio.sleep(1000)) for make in (native_task, stock_task, python_task, native_task)]
    assert asyncio.all_tasks() >= {me, *tasks}
    await turns(2)
    assert asyncio.all_tasks() >= {me, *tasks}
    assert asyncio.all_tasks(asyncio.get_running_loop()) == asyncio.all_tasks()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not asyncio.all_tasks() & set(tasks)


def test_all_tasks_tells_loops_apart() -> None:
    with new_loop() as one, new_loop() as two:
        a, b = one.create_task(asyncio.sleep(0)), two.create_task(asyncio.sleep(0))
        assert asyncio.all_tasks(one) == {a}
        assert asyncio.all_tasks(two) == {b}
        one.run_until_complete(a)
        two.run_until_complete(b)
        assert asyncio.all_tasks(one) == asyncio.all_tasks(two) == set()


def test_without_a_running_loop_there_is_no_current_task() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.current_task()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.all_tasks()


@on_noria
async def test_asyncios_functions_for_tasks_find_ours() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    assert asyncio.ensure_future(task) is task
    assert asyncio.ensure_future(native := native_future()) is native
    native.cancel()
    wrapped = asyncio.wrap_future(concurrent.futures.Future())
    assert isinstance(wrapped, noria.Future)
    wrapped.cancel()
    await task
    pending: concurrent.futures.Future[int] = concurrent.futures.Future()
    pending.set_result(4)
    assert await asyncio.wrap_future(pending) == 4


def test_run_coroutine_threadsafe_reaches_a_noria_loop() -> None:
    @on_noria
    async def program() -> None:
        loop = asyncio.get_running_loop()

        async def work() -> object:
            await asyncio.sleep(0.001)
            return asyncio.get_running_loop()

        def from_a_thread() -> object:
            return asyncio.run_coroutine_threadsafe(work(), loop).result(10)

        assert await asyncio.to_thread(from_a_thread) is loop

    program()


def test_native_tasks_and_futures_run_on_a_stock_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert not isinstance(loop, noria.Loop)
        future = noria.Future()

        async def wait() -> tuple[object, object]:
            return await future, asyncio.current_task()

        task = noria.Task(wait(), name="native")
        assert task in asyncio.all_tasks()
        await turns(2)
        loop.call_soon(future.set_result, 1)
        assert await task == (1, task)
        sleeper = noria.Task(asyncio.sleep(1000))
        await turns(1)
        sleeper.cancel("m")
        with pytest.raises(asyncio.CancelledError):
            await sleeper
        async with asyncio.timeout(5):
            assert await asyncio.gather(
                noria.Task(asyncio.sleep(0, 1)), asyncio.create_task(asyncio.sleep(0, 2))
            ) == [1, 2]
        loop.set_task_factory(lambda loop, coro, **kw: noria.Task(coro, loop=loop, **kw))  # type: ignore[arg-type]
        async with asyncio.TaskGroup() as group:
            done = group.create_task(asyncio.sleep(0.001, "grouped"))
        assert type(done) is noria.Task
        assert done.result() == "grouped"

    asyncio.run(main())
