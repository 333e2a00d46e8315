"""Tasks: starting, ending, cancelling, what they await, how they are named and shown, and what is reported of them."""

import asyncio
import contextlib
import contextvars
import gc
import io
import sys
import weakref
from collections.abc import Generator
from typing import Any

import pytest

import noria
from core.running import new_loop, on_noria, python, reports, turns


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def give(value: object) -> object:
    return value


# Running.


@on_noria
async def test_a_task_is_an_asyncio_task() -> None:
    task = asyncio.create_task(give(1))
    assert isinstance(task, asyncio.Task)
    assert isinstance(task, asyncio.Future)
    assert isinstance(task, noria.Task)
    assert isinstance(task, noria.Future)
    assert asyncio.isfuture(task)
    assert asyncio.ensure_future(task) is task
    assert await task == 1


@on_noria
async def test_a_task_starts_in_the_next_turn_not_at_once() -> None:
    seen: list[str] = []

    async def start() -> None:
        seen.append("started")

    task = asyncio.create_task(start())
    assert seen == []
    await turns(1)
    assert seen == ["started"]
    assert task.done()


@on_noria
async def test_only_coroutines_become_tasks() -> None:
    loop = asyncio.get_running_loop()
    for wrong in (None, 5, forever, asyncio.sleep, [], loop.create_future()):
        with pytest.raises(TypeError, match="a coroutine was expected"):
            loop.create_task(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a coroutine was expected"):
            noria.Task(wrong)  # type: ignore[arg-type]


@on_noria
async def test_a_result_and_an_exception_can_only_come_from_the_coroutine() -> None:
    task = asyncio.create_task(give(1))
    with pytest.raises(RuntimeError, match="set_result"):
        task.set_result(5)
    with pytest.raises(RuntimeError, match="set_exception"):
        task.set_exception(ValueError())
    assert await task == 1


@on_noria
async def test_an_exception_ends_the_task_with_its_traceback() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("here")

    task = asyncio.create_task(fail())
    with pytest.raises(ZeroDivisionError, match="here") as caught:
        await task
    assert [entry.name for entry in caught.traceback][-1] == "fail"
    assert task.exception() is caught.value


@on_noria
async def test_awaiting_a_finished_task_again_does_not_lengthen_the_traceback() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    task = asyncio.create_task(fail())
    lengths = []
    for _ in range(5):
        with pytest.raises(ZeroDivisionError) as caught:
            await task
        lengths.append(len(list(caught.traceback)))
    assert len(set(lengths)) == 1


# Cancelling.


@on_noria
async def test_cancel_ends_what_the_task_awaits_and_then_the_task() -> None:
    waited = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await waited

    task = asyncio.create_task(wait())
    await turns(1)
    assert task.cancel("enough")
    assert waited.cancelled()
    assert not task.done()
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert task.cancelled()
    assert not task.cancel()


@on_noria
async def test_a_task_cancelled_before_its_first_step_never_runs() -> None:
    ran = False

    async def run() -> None:
        nonlocal ran
        ran = True

    task = asyncio.create_task(run())
    task.cancel("early")
    with pytest.raises(asyncio.CancelledError, match="early"):
        await task
    assert not ran


@on_noria
async def test_a_task_cancelled_while_it_is_queued_gets_the_cancellation_not_the_result() -> None:
    future = asyncio.get_running_loop().create_future()
    seen: list[str] = []

    async def wait() -> None:
        try:
            await future
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(wait())
    await turns(1)
    future.set_result(None)  # the task is in the ready queue now
    assert task.cancel()
    await turns(1)
    assert seen == ["cancelled"]
    assert task.cancelled()


@on_noria
async def test_cancelling_while_queued_after_an_error_counts_the_error_as_seen() -> None:
    future = asyncio.get_running_loop().create_future()

    async def wait(future: "asyncio.Future[None]") -> None:
        await future

    task = asyncio.create_task(wait(future))
    await turns(1)
    future.set_exception(ValueError())
    task.cancel()
    del future
    with pytest.raises(asyncio.CancelledError):
        await task
    gc.collect()  # nothing is reported


@on_noria
async def test_a_task_may_cancel_itself_and_hears_of_it_at_its_next_await() -> None:
    async def myself() -> str:
        me = asyncio.current_task()
        assert me is not None
        me.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return "told"
        return "not told"

    assert await asyncio.create_task(myself()) == "told"


@on_noria
async def test_a_task_that_cancels_itself_and_returns_counts_as_cancelled() -> None:
    async def myself() -> int:
        me = asyncio.current_task()
        assert me is not None
        me.cancel("last moment")
        return 1

    task = asyncio.create_task(myself())
    with pytest.raises(asyncio.CancelledError, match="last moment"):
        await task
    assert task.cancelled()


@on_noria
async def test_a_cancellation_may_be_swallowed() -> None:
    async def stubborn() -> int:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        await asyncio.sleep(0)
        return 1

    task = asyncio.create_task(stubborn())
    await turns(1)
    task.cancel()
    assert await task == 1
    assert not task.cancelled()


@on_noria
async def test_cancelling_counts_requests_and_uncancel_takes_them_back() -> None:
    task = asyncio.create_task(forever())
    assert task.cancelling() == 0
    task.cancel()
    task.cancel()
    assert task.cancelling() == 2
    assert "cancelling" in repr(task)
    assert task.uncancel() == 1
    assert task.uncancel() == 0
    assert task.uncancel() == 0
    assert task.cancelling() == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@on_noria
async def test_uncancel_before_the_cancellation_was_thrown_in_withdraws_it() -> None:
    async def run() -> int:
        me = asyncio.current_task()
        assert me is not None
        me.cancel()
        me.uncancel()
        await asyncio.sleep(0)
        return 1

    # CPython does this since 3.13; noria on every interpreter
    assert await asyncio.create_task(run()) == 1


@on_noria
async def test_the_message_reaches_the_one_who_awaits() -> None:
    async def inner() -> None:
        await forever()

    async def outer() -> None:
        await asyncio.create_task(inner())

    task = asyncio.create_task(outer())
    await turns(3)
    task.cancel("through both")
    with pytest.raises(asyncio.CancelledError, match="through both"):
        await task


@on_noria
async def test_an_error_raised_while_cancelled_replaces_the_cancellation() -> None:
    async def clumsy() -> None:
        try:
            await forever()
        finally:
            raise KeyError("clumsy")

    task = asyncio.create_task(clumsy())
    await turns(1)
    task.cancel()
    with pytest.raises(KeyError) as caught:
        await task
    assert isinstance(caught.value.__context__, asyncio.CancelledError)


@on_noria
async def test_a_long_chain_of_waiting_tasks_is_cancelled_to_its_end() -> None:
    async def wait(what: "asyncio.Future[None]") -> None:
        await what

    last: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    end = last
    for _ in range(400):
        last = asyncio.create_task(wait(last))
    await turns(2)
    last.cancel("down")
    with pytest.raises(asyncio.CancelledError, match="down"):
        await last
    assert end.cancelled()


def test_cancelling_tasks_that_wait_for_each_other_does_not_crash() -> None:
    done = python(
        """
import asyncio, noria
async def main():
    tasks = []
    async def wait(n):
        await tasks[n]
    tasks += [asyncio.create_task(wait(1)), asyncio.create_task(wait(0))]
    await asyncio.sleep(0.001)
    try:
        tasks[0].cancel()
    except RecursionError:
        pass
    print("alive")
loop = noria.new_event_loop()
loop.set_exception_handler(lambda loop, report: None)
loop.run_until_complete(main())
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "alive\n"


# What is awaited, rightly and wrongly.


@on_noria
async def test_a_task_cannot_await_itself() -> None:
    async def narcissus() -> None:
        await task

    task = asyncio.create_task(narcissus())
    with pytest.raises(RuntimeError, match="Task cannot await on itself"):
        await task


@on_noria
async def test_a_future_of_another_loop_is_refused() -> None:
    with new_loop() as other:
        for future in (other.create_future(), asyncio.Future(loop=other)):
            with pytest.raises(RuntimeError, match="attached to a different loop"):
                await future
            future.cancel()


class Yields:
    """An awaitable that yields the given object to the task."""

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self.thing)


@on_noria
async def test_a_bad_yield_is_an_error_in_the_coroutine() -> None:
    pending = asyncio.get_running_loop().create_future()
    for thing, message in [
        (5, "Task got bad yield: 5"),
        ("text", "Task got bad yield"),
        ((x for x in ()), "yield was used instead of yield from for generator"),
        (pending, "yield was used instead of yield from"),
        (asyncio.Future(), "yield was used instead of yield from"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            await Yields(thing)
    assert await Yields(None) is None
    pending.cancel()


class Duck:
    """A future of an unknown make; `broken` is the name of the method that fails."""

    def __init__(self, broken: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.broken = broken
        self._asyncio_future_blocking = True
        self.callbacks: list[Any] = []

    def fail_if(self, name: str) -> None:
        if self.broken == name:
            raise ZeroDivisionError(name)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        self.fail_if("get_loop")
        return self.loop

    def add_done_callback(self, callback: Any, *, context: contextvars.Context | None = None) -> None:
        self.fail_if("add_done_callback")
        self.callbacks.append((callback, context))

    def result(self) -> int:
        self.fail_if("result")
        return 7

    def cancel(self, msg: object = None) -> bool:
        self.fail_if("cancel")
        return False

    def __await__(self) -> Generator[Any, Any, Any]:
        self._asyncio_future_blocking = True
        yield self
        return self.result()


@on_noria
async def test_a_future_of_an_unknown_make_can_be_awaited() -> None:
    async def wait(duck: Duck) -> object:
        return await duck

    for broken in ("", "result"):
        duck = Duck(broken)
        task = asyncio.create_task(wait(duck))
        await turns(1)
        ((callback, context),) = duck.callbacks
        asyncio.get_running_loop().call_soon(callback, duck, context=context)
        if broken:
            with pytest.raises(ZeroDivisionError):
                await task
        else:
            assert await task == 7


@on_noria
async def test_a_future_of_an_unknown_make_that_fails_does_not_end_the_loop() -> None:
    async def wait(duck: Duck) -> object:
        return await duck

    for broken in ("get_loop", "add_done_callback"):
        with reports() as seen:
            task = asyncio.create_task(wait(Duck(broken)))
            await turns(4)
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if task.done():
                task.exception()
        # asyncio reports it; to hand it to the coroutine is as good. The loop goes on in either case.
        assert seen or task.done()
        del task


@on_noria
async def test_a_step_of_a_task_that_is_done_is_reported_and_does_not_end_the_loop() -> None:
    coro = give(1)
    task = asyncio.create_task(coro)
    with reports() as seen:
        noria.Future.set_result(task, 5)  # type: ignore[arg-type]
        await turns(3)
    coro.close()
    assert [type(report["exception"]) for report in seen] == [asyncio.InvalidStateError]


# Eager start.


@on_noria
async def test_create_task_starts_eagerly_or_not_as_it_is_told() -> None:
    running = asyncio.get_running_loop()
    assert isinstance(running, noria.Loop)
    seen: list[str] = []

    async def note(what: str) -> None:
        seen.append(what)

    eager = running.create_task(note("eager"), eager_start=True, name="first")
    assert eager.done()
    assert eager.get_name() == "first"
    assert seen == ["eager"]
    running.set_task_factory(noria.eager_task_factory)
    try:
        lazy = running.create_task(note("lazy"), eager_start=False)
        assert seen == ["eager"]
        assert running.create_task(note("by the factory")).done()
        assert seen == ["eager", "by the factory"]
    finally:
        running.set_task_factory(None)
    await lazy
    assert seen == ["eager", "by the factory", "lazy"]


@on_noria
async def test_an_eager_task_runs_its_first_step_at_once() -> None:
    seen: list[object] = []

    async def run(value: int) -> int:
        seen.append((value, asyncio.current_task()))
        return value

    done = noria.Task(run(1), eager_start=True)
    assert done.done()
    assert done.result() == 1
    assert done.get_coro() is None
    assert seen == [(1, done)]
    with pytest.raises(ZeroDivisionError):
        await noria.Task(_raise(ZeroDivisionError()), eager_start=True)


async def _raise(error: BaseException) -> None:
    raise error


@on_noria
async def test_an_eager_task_that_suspends_goes_on_as_any_other() -> None:
    me = asyncio.current_task()
    inside: list[object] = []

    async def run() -> str:
        inside.append(asyncio.current_task())
        await asyncio.sleep(0)
        inside.append(asyncio.current_task())
        return "ran"

    task = noria.Task(run(), eager_start=True, name="eager")
    assert asyncio.current_task() is me
    assert not task.done()
    assert task in asyncio.all_tasks()
    assert await task == "ran"
    assert inside == [task, task]
    assert task not in asyncio.all_tasks()


@on_noria
async def test_eager_tasks_nest() -> None:
    loop = asyncio.get_running_loop()
    me = asyncio.current_task()

    async def level(n: int) -> int:
        here = asyncio.current_task()
        below = 0
        if n:
            task = noria.Task(level(n - 1), loop=loop, eager_start=True)
            assert asyncio.current_task() is here
            below = await task
        else:
            await asyncio.sleep(0)
        assert asyncio.current_task() is here
        return below + 1

    assert await noria.Task(level(10), loop=loop, eager_start=True) == 11
    assert asyncio.current_task() is me


@on_noria
async def test_an_eager_task_has_a_context_of_its_own() -> None:
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)

    async def run() -> int:
        var.set(1)
        return var.get()

    assert await noria.Task(run(), eager_start=True) == 1
    assert var.get() == 0


@on_noria
async def test_the_eager_factory_makes_every_task_eager() -> None:
    loop = asyncio.get_running_loop()
    factories = [noria.eager_task_factory, noria.create_eager_task_factory(noria.Task)]
    if sys.version_info >= (3, 12):
        factories += [asyncio.eager_task_factory, asyncio.create_eager_task_factory(asyncio.Task)]
    for factory in factories:
        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        ran: list[int] = []

        async def run(ran: list[int]) -> None:
            ran.append(1)
            await asyncio.sleep(0)
            ran.append(2)

        task = asyncio.create_task(run(ran), name="mine")
        assert ran == [1]
        assert task.get_name() == "mine"
        async with asyncio.TaskGroup() as group:
            group.create_task(run(ran))
            assert ran == [1, 1]
        await task
        assert sorted(ran) == [1, 1, 2, 2]
    loop.set_task_factory(None)


def test_eager_start_on_a_loop_that_does_not_run_starts_later() -> None:
    with new_loop() as loop:
        task = noria.Task(give(1), loop=loop, eager_start=True)
        assert not task.done()
        assert loop.run_until_complete(task) == 1


def test_an_eager_native_task_on_a_stock_loop() -> None:
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)

    async def run() -> tuple[object, int]:
        var.set(1)
        first = asyncio.current_task()
        await asyncio.sleep(0)
        assert asyncio.current_task() is first
        return first, var.get()

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(noria.eager_task_factory)
        me = asyncio.current_task()
        task = asyncio.create_task(run())
        assert asyncio.current_task() is me
        assert await task == (task, 1)
        assert var.get() == 0

    asyncio.run(main())


# Names, reprs, stacks, subclasses.


@on_noria
async def test_names_are_numbered_or_given() -> None:
    first, second = asyncio.create_task(give(1)), asyncio.create_task(give(2))
    assert first.get_name().startswith("Task-")
    assert int(second.get_name()[5:]) == int(first.get_name()[5:]) + 1
    named = asyncio.create_task(give(3), name="named")
    assert named.get_name() == "named"
    assert "name='named'" in repr(named)
    named.set_name(5)
    assert named.get_name() == "5"
    assert noria.Task(asyncio.sleep(0), name=7).get_name() == "7"  # type: ignore[arg-type]
    await asyncio.gather(first, second, named)
    await turns(1)


@on_noria
async def test_the_repr_shows_the_state_and_the_coroutine() -> None:
    task = asyncio.create_task(forever(), name="waiter")
    await turns(1)
    for part in ("<Task pending", "name='waiter'", "forever() running at", "wait_for=<Future pending"):
        assert part in repr(task)
    task.cancel()
    await asyncio.wait([task])
    assert "<Task cancelled" in repr(task)
    done = asyncio.create_task(give("r"))
    await done
    assert "<Task finished" in repr(done)
    assert "result='r'" in repr(done)


@on_noria
async def test_the_stack_shows_where_the_task_stands() -> None:
    task = asyncio.create_task(forever())
    await turns(1)
    assert [frame.f_code.co_name for frame in task.get_stack()] == ["forever"]
    out = io.StringIO()
    task.print_stack(file=out)
    assert "in forever" in out.getvalue()
    assert len(task.get_stack(limit=0)) == 0
    task.cancel()
    await asyncio.wait([task])
    failed = asyncio.create_task(_raise(KeyError("k")))
    await asyncio.wait([failed])
    assert [frame.f_code.co_name for frame in failed.get_stack()] == ["_raise"]
    failed.exception()


@on_noria
async def test_subclasses_of_task_work() -> None:
    class Mine(noria.Task):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.note = "mine"

    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **kw: Mine(coro, loop=loop, **kw))  # type: ignore[arg-type]
    try:
        task = asyncio.create_task(give(3))
        assert type(task) is Mine
        assert task.note == "mine"

        async def wait() -> object:
            return await task

        assert await asyncio.create_task(wait()) == 3
        waiting = asyncio.create_task(forever())
        await turns(1)
        assert {t for t in asyncio.all_tasks() if type(t) is Mine} == {waiting}
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    finally:
        loop.set_task_factory(None)


@on_noria
async def test_a_task_is_initialised_once() -> None:
    task = asyncio.create_task(give(1))
    coro = give(2)
    with pytest.raises(RuntimeError, match="initialized already"):
        task.__init__(coro)  # type: ignore[misc]
    coro.close()
    assert await task == 1


@on_noria
async def test_a_task_factory_makes_every_task() -> None:
    loop = asyncio.get_running_loop()
    made: list[asyncio.Task[Any]] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> "asyncio.Task[Any]":
        made.append(asyncio.Task(coro, loop=loop, **kwargs))
        return made[-1]

    loop.set_task_factory(factory)
    try:
        context = contextvars.copy_context()
        task = loop.create_task(give(1), name="n", context=context)
        assert made == [task]
        assert task.get_name() == "n"
        assert await task == 1
    finally:
        loop.set_task_factory(None)
    assert loop.get_task_factory() is None
    with pytest.raises(TypeError):
        loop.set_task_factory(5)  # type: ignore[arg-type]


# Reports and ends.


def test_a_pending_task_that_is_dropped_is_reported() -> None:
    with new_loop() as loop:
        task = loop.create_task(forever(), name="dropped")
        loop.run_until_complete(asyncio.sleep(0))
        with reports(loop) as seen:
            del task
            gc.collect()
        assert [report["message"] for report in seen] == ["Task was destroyed but it is pending!"]
        assert "name='dropped'" in repr(seen[0]["task"])
        seen.clear()


def test_an_exception_nobody_asked_for_is_reported_with_the_task() -> None:
    with new_loop() as loop:
        task = loop.create_task(_raise(ValueError("unseen")))
        loop.run_until_complete(asyncio.sleep(0))
        with reports(loop) as seen:
            del task
            gc.collect()
        assert [report["message"] for report in seen] == ["Task exception was never retrieved"]
        seen.clear()


@on_noria
async def test_a_finished_task_lets_go_of_everything_but_its_result() -> None:
    class Big:
        pass

    big = Big()
    gone = weakref.ref(big)

    async def use(thing: Big) -> None:
        await asyncio.sleep(0)

    task = asyncio.create_task(use(big))
    del big
    await task
    gc.collect()
    assert gone() is None


@on_noria
async def test_a_cancelled_task_makes_no_cycle_that_outlives_it() -> None:
    task = asyncio.create_task(forever())
    gone = weakref.ref(task)
    await turns(1)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    assert gone() is None


@on_noria
async def test_a_coroutine_that_is_closed_during_its_step_is_the_end_of_the_task() -> None:
    async def run() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            seen.append("end")

    seen: list[str] = []
    coro = run()
    task = asyncio.create_task(coro)
    await turns(1)
    coro.close()
    with pytest.raises(RuntimeError):
        await task
    assert seen == ["end"]


@on_noria
async def test_an_eager_task_of_the_coroutine_that_is_running_fails() -> None:
    async def run() -> None:
        task = noria.Task(coro, eager_start=True)
        with pytest.raises(ValueError, match="already executing"):
            task.result()

    coro = run()
    await coro


def test_a_task_on_a_closed_loop_is_refused() -> None:
    loop = noria.new_event_loop()
    loop.close()
    coro = give(1)
    with pytest.raises(RuntimeError, match="closed"):
        loop.create_task(coro)
    coro.close()


@on_noria
async def test_base_exceptions_that_are_not_interrupts_stay_in_the_task() -> None:
    class Odd(BaseException):
        pass

    task = asyncio.create_task(_raise(Odd()))
    with pytest.raises(Odd):
        await task


@on_noria
async def test_a_generator_based_coroutine_runs() -> None:
    import types

    @types.coroutine
    def old() -> Generator[Any, Any, int]:
        yield from asyncio.sleep(0).__await__()
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, 3)
        return (yield from future)  # type: ignore[no-any-return]

    async def run() -> int:
        return await old()

    assert await asyncio.create_task(run()) == 3


@on_noria
async def test_a_cancelled_gather_whose_last_child_failed_ends_as_cancelled() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("instead")

    gathered = asyncio.gather(stubborn(), return_exceptions=True)
    await asyncio.sleep(0)
    gathered.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathered


@on_noria
async def test_a_cancellation_that_comes_back_to_its_task_is_a_recursion_error() -> None:
    class Returns(noria.Future):  # type: ignore[type-arg]
        def cancel(self, msg: object = None) -> bool:
            return task.cancel(msg)

    async def wait() -> None:
        await future

    future = Returns()
    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    with pytest.raises(RecursionError):
        task.cancel()
    future.set_result(None)
    await asyncio.wait([task])
