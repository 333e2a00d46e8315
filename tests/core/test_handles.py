"""Handles and the contexts their callbacks run in."""

import asyncio
import contextvars
import functools
import gc
import weakref

import pytest

import noria
from core.running import new_loop, on_noria, reports, turns

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="outside")


@on_noria
async def test_a_handle_is_an_asyncio_handle() -> None:
    loop = asyncio.get_running_loop()
    handle = loop.call_soon(print)
    timer = loop.call_later(10, print)
    assert isinstance(handle, asyncio.Handle)
    assert isinstance(timer, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.Handle)
    assert isinstance(handle, noria.Handle)
    assert isinstance(timer, noria.TimerHandle)
    for each in (handle, timer):
        assert not each.cancelled()
        each.cancel()
        assert each.cancelled()


@on_noria
async def test_a_cancelled_callback_does_not_run() -> None:
    loop = asyncio.get_running_loop()
    seen: list[int] = []
    first = loop.call_soon(lambda: second.cancel())
    second = loop.call_soon(seen.append, 2)
    third = loop.call_soon(seen.append, 3)
    third.cancel()
    third.cancel()  # once more does no harm
    await turns(2)
    assert seen == []
    first.cancel()  # nor does it after the callback ran
    assert first.cancelled()


@on_noria
async def test_cancelling_lets_go_of_callback_and_arguments() -> None:
    class Thing:
        def method(self) -> None: ...

    loop = asyncio.get_running_loop()
    thing, argument = Thing(), Thing()
    handles = [loop.call_soon(thing.method), loop.call_later(1000, print, argument)]
    gone = weakref.ref(thing), weakref.ref(argument)
    for handle in handles:
        handle.cancel()
    del thing, argument
    gc.collect()
    assert gone[0]() is None
    assert gone[1]() is None


@on_noria
async def test_arguments_arrive_as_they_were_given() -> None:
    loop = asyncio.get_running_loop()
    seen: list[tuple[object, ...]] = []
    for args in [(), (1,), ((1, 2),), (None,), (1, 2, 3), tuple(range(50))]:
        loop.call_soon(lambda *a: seen.append(a), *args)
    await asyncio.sleep(0)
    assert seen == [(), (1,), ((1, 2),), (None,), (1, 2, 3), tuple(range(50))]


@on_noria
async def test_what_cannot_be_called_is_reported() -> None:
    loop = asyncio.get_running_loop()
    if loop.get_debug():
        for wrong in (None, 1):
            with pytest.raises(TypeError):
                loop.call_soon(wrong)  # type: ignore[arg-type]
        return
    with reports() as seen:
        loop.call_soon(1)  # type: ignore[arg-type]
        loop.call_soon(None)  # type: ignore[arg-type]
        await asyncio.sleep(0)
    assert [type(report["exception"]) for report in seen] == [TypeError, TypeError]


@on_noria
async def test_a_callback_runs_in_a_copy_of_the_context_it_was_queued_in() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []

    def look() -> None:
        seen.append(var.get())
        var.set("changed by the callback")

    var.set("first")
    loop.call_soon(look)
    loop.call_later(0, look)
    loop.call_soon_threadsafe(look)
    future: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(lambda _: look())
    var.set("second")
    future.set_result(None)
    await turns(3)
    assert seen == ["first"] * 4
    assert var.get() == "second"


@on_noria
async def test_a_callback_runs_in_the_context_it_was_given() -> None:
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    context.run(var.set, "given")
    seen: list[str] = []

    def look(*_: object) -> None:
        seen.append(var.get())
        var.set(var.get() + "+")

    handle = loop.call_soon(look, context=context)
    loop.call_later(0, look, context=context)
    loop.call_soon_threadsafe(look, context=context)
    future: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(look, context=context)
    future.add_done_callback(look, context=context)
    future.set_result(None)
    await turns(3)
    assert sorted(seen) == ["given" + "+" * n for n in range(5)]
    assert context[var] == "given+++++"
    assert var.get() == "outside"
    assert handle.get_context() is context  # type: ignore[attr-defined]


@on_noria
async def test_every_step_of_a_task_runs_in_its_context() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []

    async def steps(name: str) -> None:
        var.set(name)
        for wait in (
            asyncio.sleep(0),
            asyncio.sleep(0.001),
            asyncio.gather(asyncio.sleep(0)),
            asyncio.Future(),
        ):
            if isinstance(wait, asyncio.Future) and not wait.done():
                loop.call_soon(lambda w=wait: w.done() or w.set_result(None))  # type: ignore[misc]
            await wait
            seen.append(f"{name} sees {var.get()}")

    await asyncio.gather(*(steps(f"task {n}") for n in range(5)))
    assert sorted(seen) == sorted(f"task {n} sees task {n}" for n in range(5) for _ in range(4))
    assert var.get() == "outside"


@on_noria
async def test_a_task_given_a_context_changes_that_one() -> None:
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()

    async def change() -> str:
        var.set("one")
        await asyncio.sleep(0)
        var.set(var.get() + " two")
        return var.get()

    task = loop.create_task(change(), context=context)
    assert await task == "one two"
    assert context[var] == "one two"
    assert task.get_context() is context  # type: ignore[attr-defined]
    assert var.get() == "outside"


@on_noria
async def test_a_context_that_is_entered_already_is_an_error_of_that_callback_only() -> None:
    loop = asyncio.get_running_loop()
    context = asyncio.current_task().get_context()  # type: ignore[union-attr]
    seen: list[str] = []

    def nested() -> None:
        loop.call_soon(seen.append, "inner", context=context)
        contextvars.copy_context().run(seen.append, "outer")

    loop.call_soon(nested)
    await turns(3)
    assert seen == ["outer", "inner"]
    with pytest.raises(RuntimeError, match="cannot enter context"):
        context.run(context.run, print)


def test_a_handle_shows_arguments_in_debug_mode_only() -> None:
    def log_in(password: str, *, name: str) -> None: ...

    with new_loop() as loop:
        handle = loop.call_soon(log_in, "secret")
        partly = loop.call_soon(functools.partial(log_in, name="secret"))
        assert "log_in() at" in repr(handle)
        assert "log_in()() at" in repr(partly)
        assert "secret" not in repr(handle) + repr(partly)
        loop.set_debug(True)
        assert "log_in('secret') at" in repr(handle)
        assert "log_in(name='secret')() at" in repr(partly)
        handle.cancel()
        partly.cancel()


def test_a_handle_shows_what_it_will_call() -> None:
    def reckon(a: int, b: int) -> None: ...

    with new_loop() as loop:
        handle = loop.call_soon(reckon, 1, 2)
        assert "reckon" in repr(handle)
        assert "test_handles.py" in repr(handle)
        handle.cancel()
        assert "cancelled" in repr(handle)
        timer = loop.call_at(123.5, reckon)
        assert "when=123.5" in repr(timer)
        timer.cancel()
