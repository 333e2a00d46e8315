"""Futures: their three states, what waits for them, and what is reported when nobody looks."""

import asyncio
import contextvars
import gc
import inspect
import weakref
from types import GenericAlias
from typing import Any

import pytest

import noria
from core.running import Report, new_loop, on_noria, reports, turns


@on_noria
async def test_a_pending_future_has_no_outcome() -> None:
    future = noria.Future()
    assert not future.done()
    assert not future.cancelled()
    with pytest.raises(asyncio.InvalidStateError, match="Result is not set"):
        future.result()
    with pytest.raises(asyncio.InvalidStateError, match="Exception is not set"):
        future.exception()
    assert future.get_loop() is asyncio.get_running_loop()
    assert "pending" in repr(future)


@on_noria
async def test_a_result_is_given_to_all_who_ask() -> None:
    result = object()
    future = noria.Future()
    future.set_result(result)
    assert future.done()
    assert future.result() is result
    assert future.exception() is None
    assert await future is result
    assert not future.cancel()


@pytest.mark.parametrize(
    "result", [None, 0, (), (1, 2), ValueError("as a value"), StopIteration(3), BaseException, [1], "text"]
)
def test_any_object_can_be_a_result(result: object) -> None:
    @on_noria
    async def program() -> None:
        for make in (noria.Future, asyncio.get_running_loop().create_future):
            future = make()
            asyncio.get_running_loop().call_soon(future.set_result, result)
            assert await future is result
            assert await future is result

        async def give() -> object:
            return result

        assert await asyncio.create_task(give()) is result

    program()


@on_noria
async def test_an_exception_is_raised_to_all_who_ask() -> None:
    future = noria.Future()
    error = ZeroDivisionError("x")
    future.set_exception(error)
    assert future.done()
    assert not future.cancelled()
    assert future.exception() is error
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as caught:
            await future
        assert caught.value is error
        with pytest.raises(ZeroDivisionError):
            future.result()
    assert len(inspect.getinnerframes(error.__traceback__)) < 4 if error.__traceback__ else True


@on_noria
async def test_an_exception_may_be_given_as_a_class() -> None:
    future = noria.Future()
    future.set_exception(ValueError)
    assert isinstance(future.exception(), ValueError)


@on_noria
async def test_what_is_no_exception_is_refused() -> None:
    future = noria.Future()
    for wrong in (object(), "text", int, None):
        with pytest.raises(TypeError):
            future.set_exception(wrong)  # type: ignore[arg-type]
    assert not future.done()
    future.cancel()


@on_noria
async def test_stop_iteration_becomes_a_runtime_error() -> None:
    for stop in (StopIteration, StopIteration(5)):
        future = noria.Future()
        future.set_exception(stop)
        with pytest.raises(RuntimeError) as caught:
            await future
        assert isinstance(caught.value.__cause__, StopIteration)


@on_noria
async def test_a_future_is_done_once() -> None:
    done, failed, cancelled = noria.Future(), noria.Future(), noria.Future()
    done.set_result(1)
    failed.set_exception(ValueError())
    cancelled.cancel()
    for future in (done, failed, cancelled):
        with pytest.raises(asyncio.InvalidStateError, match="invalid state"):
            future.set_result(2)
        with pytest.raises(asyncio.InvalidStateError, match="invalid state"):
            future.set_exception(ValueError())
        assert not future.cancel()
    assert failed.exception()


@on_noria
async def test_cancelling_gives_every_waiter_the_message() -> None:
    future = noria.Future()
    assert future.cancel("message")
    assert future.cancelled()
    assert future.done()
    for ask in (future.result, future.exception):
        with pytest.raises(asyncio.CancelledError, match="message"):
            ask()
    with pytest.raises(asyncio.CancelledError, match="message"):
        await future
    assert not future.cancel("another")
    plain = noria.Future()
    plain.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        plain.result()
    assert caught.value.args == ()


@on_noria
async def test_callbacks_are_called_with_the_future_from_the_queue_and_in_order() -> None:
    future = noria.Future()
    seen: list[tuple[int, Any]] = []
    for n in range(5):
        future.add_done_callback(lambda f, n=n: seen.append((n, f)))  # type: ignore[misc]
    future.set_result(None)
    assert seen == []
    await turns(1)
    assert seen == [(n, future) for n in range(5)]
    future.add_done_callback(lambda f: seen.append((9, f)))
    assert len(seen) == 5
    await turns(1)
    assert seen[-1] == (9, future)


@on_noria
async def test_removing_a_callback_removes_it_as_often_as_it_was_added() -> None:
    future = noria.Future()
    seen: list[str] = []

    def a(_: object) -> None:
        seen.append("a")

    def b(_: object) -> None:
        seen.append("b")

    for callback in (a, b, a, b, a):
        future.add_done_callback(callback)
    assert future.remove_done_callback(a) == 3
    assert future.remove_done_callback(a) == 0
    future.add_done_callback(a)
    future.set_result(None)
    await turns(1)
    assert seen == ["b", "b", "a"]
    assert future.remove_done_callback(b) == 0


@on_noria
async def test_bound_methods_are_removed_by_equality() -> None:
    class Owner:
        def method(self, _: object) -> None: ...

    owner, future = Owner(), noria.Future()
    future.add_done_callback(owner.method)
    assert future.remove_done_callback(owner.method) == 1


@on_noria
async def test_a_callback_whose_equality_changes_the_future_does_no_harm() -> None:
    future = noria.Future()
    asked: list[int] = []

    class Evil:
        def __call__(self, _: object) -> None: ...

        def __eq__(self, other: object) -> bool:
            asked.append(1)
            if len(asked) == 2:
                future.remove_done_callback(len)
                future.add_done_callback(repr)
                future.set_result(None)
            return True

        __hash__ = None  # type: ignore[assignment]

    for _ in range(4):
        future.add_done_callback(Evil())
    future.remove_done_callback(Evil())
    await turns(2)
    assert future.done()


@on_noria
async def test_a_callback_must_be_callable_or_is_reported() -> None:
    future = noria.Future()
    with reports() as seen:
        try:
            future.add_done_callback(5)  # type: ignore[arg-type]
        except TypeError:
            return
        future.set_result(None)
        await turns(2)
    assert seen


@on_noria
async def test_an_error_in_a_callback_is_reported_and_the_others_run() -> None:
    future = noria.Future()
    seen: list[int] = []
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(lambda _: seen.append(1))
    future.set_result(None)
    with reports() as reported:
        await turns(1)
    assert [type(r["exception"]) for r in reported] == [ZeroDivisionError]
    assert seen == [1]


def test_an_exception_nobody_asked_for_is_reported_once() -> None:
    with new_loop() as loop, reports(loop) as seen:
        future = loop.create_future()
        error = ValueError("unseen")
        future.set_exception(error)
        del future
        gc.collect()
    assert [(r["message"], r["exception"]) for r in seen] == [("Future exception was never retrieved", error)]


@pytest.mark.parametrize("look", ["result", "exception", "await", "cancel", "flag"])
def test_an_exception_that_was_looked_at_is_not_reported(look: str) -> None:
    with new_loop() as loop:
        future = loop.create_future()
        future.set_exception(ValueError("seen"))
        if look == "result":
            with pytest.raises(ValueError):
                future.result()
        elif look == "exception":
            future.exception()
        elif look == "cancel":
            future.cancel()
        elif look == "flag":
            future._log_traceback = False
        else:
            with pytest.raises(ValueError):
                loop.run_until_complete(future)
        del future
        gc.collect()


def test_a_reported_future_may_be_kept_by_the_handler() -> None:
    kept: list[Any] = []
    with new_loop() as loop:
        loop.set_exception_handler(lambda _, report: kept.append(report["future"]))
        loop.create_future().set_exception(ValueError("unseen"))
        gc.collect()
        (future,) = kept
        assert isinstance(future.exception(), ValueError)
        kept.clear()
        del future
        gc.collect()
        assert kept == []


@on_noria
async def test_subclasses_add_what_they_like() -> None:
    class Mine(noria.Future):  # type: ignore[type-arg]
        def __init__(self, colour: str) -> None:
            super().__init__()
            self.colour = colour
            self.asked = 0

        def cancel(self, msg: object = None) -> bool:
            self.asked += 1
            return super().cancel(msg)

    future = Mine("red")
    assert isinstance(future, asyncio.Future)
    assert isinstance(future, noria.Future)
    assert asyncio.isfuture(future)
    assert future.colour == "red"

    async def wait() -> str:
        return str(await future)

    task = asyncio.create_task(wait())
    await turns(1)
    task.cancel()
    assert future.asked == 1
    with pytest.raises(asyncio.CancelledError):
        await task
    other = Mine("blue")
    other.set_result(7)
    assert await other == 7
    assert "Mine" in repr(other)


@on_noria
async def test_attributes_may_be_hung_on_a_future_and_taken_off() -> None:
    future = noria.Future()
    future.label = "x"  # type: ignore[attr-defined]
    assert future.label == "x"  # type: ignore[attr-defined]
    assert getattr(future, "nothing", None) is None
    del future.label  # type: ignore[attr-defined]
    assert not hasattr(future, "label")
    with pytest.raises(AttributeError):
        del future.label  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        future._state = "FINISHED"  # type: ignore[misc]
    future.cancel()


def test_futures_and_tasks_are_generic() -> None:
    assert isinstance(noria.Future[int], GenericAlias)
    assert isinstance(noria.Task[int], GenericAlias)


@on_noria
async def test_a_future_is_an_asyncio_future_everywhere() -> None:
    future = asyncio.get_running_loop().create_future()
    assert isinstance(future, asyncio.Future)
    assert not isinstance(future, asyncio.Task)
    assert asyncio.isfuture(future)
    assert asyncio.ensure_future(future) is future
    assert inspect.isawaitable(future)
    assert not asyncio.iscoroutine(future)
    future.cancel()


@on_noria
async def test_weak_references_to_a_future_work() -> None:
    future = noria.Future()
    gone = weakref.ref(future)
    table = weakref.WeakKeyDictionary({future: 1})
    assert table[future] == 1
    del future
    gc.collect()
    assert gone() is None
    assert len(table) == 0


@on_noria
async def test_the_repr_names_callbacks_and_shortens_them() -> None:
    def first(_: object) -> None: ...

    future = noria.Future()
    future.add_done_callback(first)
    assert "first" in repr(future)
    for _ in range(10):
        future.add_done_callback(print)
    assert "more>" in repr(future)
    future.set_result("r" * 10000)
    assert len(repr(future)) < 500
    await turns(1)


@on_noria
async def test_a_future_that_holds_itself_can_be_shown() -> None:
    future = noria.Future()
    future.set_result([future])
    assert "..." in repr(future)


@on_noria
async def test_the_awaitable_side_can_be_driven_by_hand() -> None:
    future = noria.Future()
    step = future.__await__()
    assert next(step) is future
    assert future._asyncio_future_blocking
    with pytest.raises(RuntimeError, match="await wasn't used with future"):
        next(step)
    future.set_result(5)
    with pytest.raises(StopIteration) as stop:
        next(step)
    assert stop.value.value == 5


@on_noria
async def test_the_awaitable_side_takes_send_throw_and_close() -> None:
    future = noria.Future()
    step = future.__await__()
    assert step.send(None) is future
    with pytest.raises(KeyError):
        step.throw(KeyError("thrown in"))
    step = noria.Future().__await__()
    step.close()
    future.cancel()


def test_a_future_without_a_loop_takes_the_current_one_or_refuses() -> None:
    with pytest.raises(RuntimeError):
        noria.Future()
    with pytest.raises(TypeError):
        noria.Future(5)  # type: ignore[call-arg]


def test_a_future_that_was_never_initialised_refuses_politely() -> None:
    future = noria.Future.__new__(noria.Future)
    task = noria.Task.__new__(noria.Task)
    for raw in (future, task):
        for call in (raw.result, raw.exception, raw.cancel, raw.get_loop):
            with pytest.raises((RuntimeError, asyncio.InvalidStateError)):
                call()
        with pytest.raises(RuntimeError):
            raw.add_done_callback(print)
        with pytest.raises(RuntimeError):
            iter(raw).__next__()
        repr(raw)


def test_a_future_of_a_foreign_loop_calls_back_through_it() -> None:
    loop = asyncio.new_event_loop()
    try:
        future = noria.Future(loop=loop)
        seen: list[object] = []
        future.add_done_callback(seen.append)
        loop.call_soon(future.set_result, 3)
        assert loop.run_until_complete(future) == 3
        assert seen == [future]
    finally:
        loop.close()


@on_noria
async def test_a_report_carries_where_the_future_was_made_in_debug_mode() -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_debug()
    loop.set_debug(True)
    try:
        future = loop.create_future()
        future.set_exception(ValueError())
        seen: list[Report]
        with reports() as seen:
            del future
            gc.collect()
        assert "test_futures.py" in str(seen[0]["source_traceback"][-1])
        assert "created at" in repr(loop.create_future())
    finally:
        loop.set_debug(before)


@on_noria
async def test_an_awaiting_task_is_shown_among_the_callbacks() -> None:
    future = noria.Future()

    async def wait() -> None:
        await future

    task = asyncio.create_task(wait())
    await turns(1)
    assert "task_wakeup" in repr(future) or "wakeup" in repr(future)
    assert "wait_for=" in repr(task)
    future.set_result(None)
    await task


@on_noria
async def test_a_context_given_to_a_callback_is_the_one_it_runs_in() -> None:
    future = noria.Future()
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)
    context = contextvars.copy_context()
    context.run(var.set, 5)
    seen: list[int] = []
    future.add_done_callback(lambda _: seen.append(var.get()), context=context)
    future.set_result(None)
    await turns(1)
    assert seen == [5]
