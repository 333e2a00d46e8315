"""What programs do with asyncio's primitives besides calling them: ask what they are, replace their methods, copy them, wait in
their lines by themselves. asyncio's are written in Python and bear all of that; so must noria's."""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import copy
import functools
import gc
import inspect
import pickle
import types
import weakref
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

import pytest

import noria
from sync.loops import Run, turns

WAITS: dict[str, Callable[[], Any]] = {
    "sleep": lambda: noria.sleep(1),
    "acquire": lambda: noria.Lock().acquire(),
    "wait": lambda: noria.Event().wait(),
    "get": lambda: noria.Queue().get(),
    "put": lambda: noria.Queue().put(1),
    "join": lambda: noria.Queue().join(),
    "wait_for": lambda: noria.wait_for(noria.Event().wait(), 1),
    "read": lambda: noria.StreamReader().read(1),
    "__aenter__": lambda: noria.timeout(1).__aenter__(),
}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("name", WAITS)
def test_what_is_awaited_is_a_coroutine_and_no_future_to_whoever_asks(name: str, run: Run) -> None:
    @functools.singledispatch
    def kind(thing: object) -> str:
        return "other"

    kind.register(noria.Future, lambda future: "future")
    kind.register(types.CoroutineType, lambda coroutine: "coroutine")

    async def main() -> None:
        wait = WAITS[name]()
        assert inspect.iscoroutine(wait)
        assert inspect.isawaitable(wait)
        assert asyncio.iscoroutine(wait)
        assert isinstance(wait, types.CoroutineType)
        assert isinstance(wait, collections.abc.Coroutine)
        assert not isinstance(wait, (noria.Future, asyncio.Future))
        assert not asyncio.isfuture(wait)
        assert not noria.isfuture(wait)
        assert kind(wait) == "coroutine"
        assert wait.__name__ == name
        assert wait.cr_code.co_name == name
        assert inspect.getcoroutinestate(wait) == inspect.CORO_CREATED
        assert inspect.getcoroutinelocals(wait) == {}
        wait.close()
        assert inspect.getcoroutinestate(wait) == inspect.CORO_CLOSED

    run(main())


def test_a_task_that_is_nothing_but_a_wait_has_a_state_a_stack_and_an_end_of_what_it_awaits(run: Run) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(noria.Event().wait())
        await turns(1)
        wait: Any = task.get_coro()
        assert inspect.getcoroutinestate(wait) == inspect.CORO_SUSPENDED
        assert [frame.f_code.co_name for frame in task.get_stack()] == ["wait"]
        seen = []
        while wait is not None:  # as tools do that show where a task waits
            seen.append(wait)
            assert len(seen) < 10
            wait = getattr(wait, "cr_await", None)
        task.cancel()
        await asyncio.wait([task])

    run(main())


CLASSES = """Queue PriorityQueue LifoQueue Lock Event Condition Semaphore BoundedSemaphore Barrier Future Task StreamReader
    StreamWriter StreamReaderProtocol TaskGroup Timeout Handle TimerHandle"""


@pytest.mark.parametrize("name", CLASSES.split())
def test_inspect_knows_the_signature_of_each_class_and_of_subclasses(name: str) -> None:
    def parameters(kind: type) -> list[tuple[str, Any, Any]]:
        found = inspect.signature(kind).parameters.values()
        return [(one.name, one.kind, one.default) for one in found if one.name != "eager_start"]  # 3.12's

    ours = getattr(noria, name)
    assert parameters(ours) == parameters(getattr(asyncio, name))
    assert parameters(type("Mine", (ours,), {})) == parameters(ours)
    assert inspect.getdoc(ours)
    assert "--" not in ours.__doc__


# Methods replaced.


def test_methods_hung_on_one_object_are_what_awaiting_calls(run: Run) -> None:
    async def main() -> None:
        called: list[str] = []

        def watch(thing: Any, name: str) -> None:
            plain = getattr(thing, name)
            setattr(thing, name, lambda *args: (called.append(name), plain(*args))[1])

        queue: noria.Queue[int] = noria.Queue()
        for name in ("put_nowait", "get_nowait"):
            watch(queue, name)
        await queue.put(1)
        assert await queue.get() == 1
        for thing in (noria.Lock(), noria.Semaphore(), noria.BoundedSemaphore(), noria.Condition()):
            for name in ("acquire", "release"):
                watch(thing, name)
            async with thing:
                assert thing.locked()
            assert not thing.locked()
        assert called == ["put_nowait", "get_nowait"] + ["acquire", "release"] * 4

    run(main())


@pytest.mark.parametrize("name", ["readline", "readuntil"])
def test_a_method_hung_on_a_reader_is_what_iteration_calls(name: str, run: Run) -> None:
    async def main() -> None:
        reader = noria.StreamReader()
        reader.feed_data(b"a\nb\n")
        reader.feed_eof()
        calls: list[Any] = []
        plain = getattr(reader, name)
        setattr(reader, name, lambda *args: (calls.append(args), plain(*args))[1])
        assert [line async for line in reader] == [b"a\n", b"b\n"]
        assert len(calls) == 3

    run(main())


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (noria.Queue, "get"),
        (noria.Lock, "acquire"),
        (noria.Event, "wait"),
        (noria.Semaphore, "acquire"),
        (noria.Condition, "wait"),
        (noria.StreamReader, "readline"),
        (noria.StreamWriter, "drain"),
    ],
)
def test_a_test_can_replace_a_method_of_a_class(kind: type, method: str, run: Run) -> None:
    async def main() -> None:
        before = getattr(kind, method)
        with mock.patch.object(kind, method, return_value=5) as replaced:
            assert isinstance(replaced, mock.AsyncMock)  # for it was a coroutine function
            instance: Any = kind.__new__(kind)
            assert await getattr(instance, method)() == 5
        assert getattr(kind, method) is before
        if kind is noria.StreamWriter:
            instance._transport = mock.Mock()  # a writer without a transport cannot end

    run(main())


def test_a_subclass_s_reschedule_is_how_a_timeout_is_armed(run: Run) -> None:
    class Noted(noria.Timeout):  # type: ignore[misc]
        def reschedule(self, when: float | None) -> None:
            noted.append(when)
            super().reschedule(when)

    noted: list[float | None] = []

    async def main() -> None:
        due = asyncio.get_running_loop().time() + 0.001
        with pytest.raises(TimeoutError):
            async with Noted(due):
                await asyncio.sleep(10)
        assert noted == [due]

    run(main())


# Copies.


def made() -> list[Any]:
    queue: noria.Queue[int] = noria.Queue(3)
    queue.put_nowait(1)
    queue.put_nowait(2)
    first: noria.PriorityQueue[int] = noria.PriorityQueue()
    for item in (5, 3, 4):
        first.put_nowait(item)
    event = noria.Event()
    event.set()
    lock = noria.Lock()
    with contextlib.suppress(StopIteration):
        lock.acquire().send(None)
    return [queue, first, event, lock, noria.Semaphore(4), noria.BoundedSemaphore(2), noria.Condition()]


@pytest.mark.parametrize("way", ["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("index", range(7))
def test_a_copy_has_the_state_and_the_attributes(way: str, index: int) -> None:
    def address_taken_out(text: str) -> str:
        return " ".join(word for word in text.split() if not word.startswith("0x"))

    thing = made()[index]
    thing.mine = ["an attribute"]
    other = pickle.loads(pickle.dumps(thing)) if way == "pickle" else getattr(copy, way)(thing)
    assert type(other) is type(thing)
    assert other is not thing
    assert address_taken_out(repr(other)) == address_taken_out(repr(thing))
    assert other.mine == ["an attribute"]
    assert (other.mine is thing.mine) == (way == "copy")
    if isinstance(thing, noria.Queue):
        assert other.maxsize == thing.maxsize
        for taken in range(thing.qsize()):
            other.task_done()
            assert other.get_nowait() == [[1, 2], [3, 4, 5]][index][taken]
        with pytest.raises(ValueError, match="too many"):
            other.task_done()
    if isinstance(thing, noria.BoundedSemaphore):
        with pytest.raises(ValueError, match="too many"):
            other.release()


class Named(noria.Lock):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def test_subclasses_are_copied_and_a_copy_belongs_to_no_loop_yet(run: Run) -> None:
    async def used(lock: noria.Lock) -> None:
        async with lock:
            waiting = asyncio.ensure_future(lock.acquire())
            await turns(1)
            with pytest.raises(TypeError, match="tasks wait for it"):
                copy.copy(lock)
        await waiting
        lock.release()

    lock = Named("x")
    run(used(lock))
    for other in (copy.copy(lock), copy.deepcopy(lock), pickle.loads(pickle.dumps(lock))):
        assert type(other) is Named
        assert other.name == "x"
        run(used(other))


# Subclasses that wait in a queue's line by themselves, in the manner of Queue.get.


class Peeking(noria.Queue[Any]):
    async def peek(self) -> Any:
        while self.empty():
            getter = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except BaseException:
                getter.cancel()
                with contextlib.suppress(ValueError):
                    self._getters.remove(getter)
                if not self.empty() and not getter.cancelled():
                    self._wakeup_next(self._getters)
                raise
        return self._queue[0]


def test_a_subclass_s_own_future_in_the_line_is_woken_in_its_turn(run: Run) -> None:
    async def main() -> None:
        queue = Peeking()
        order: list[str] = []

        async def note(name: str, wait: Coroutine[Any, Any, Any]) -> None:
            order.append(f"{name}{await wait}")

        tasks = [
            asyncio.create_task(note("get", queue.get())),
            asyncio.create_task(note("peek", queue.peek())),
            asyncio.create_task(note("get", queue.get())),
        ]
        await turns(2)
        assert len(queue._getters) == 3
        assert "_getters[3]" in repr(queue)
        for item in (1, 2, 3):
            queue.put_nowait(item)
        await asyncio.wait(tasks)
        assert sorted(order) == ["get1", "get2", "peek2"]
        assert queue.qsize() == 1
        assert not queue._getters

    run(main())


@pytest.mark.parametrize("when", ["before", "after"])
def test_its_wake_up_goes_on_when_it_is_cancelled_in_the_same_turn(when: str, run: Run) -> None:
    async def main() -> None:
        queue = Peeking()
        peeking = asyncio.create_task(queue.peek())
        await turns(1)
        getting = asyncio.create_task(queue.get())
        await turns(1)
        if when == "before":
            peeking.cancel()
        queue.put_nowait("item")
        if when == "after":
            peeking.cancel()
        assert await asyncio.wait_for(getting, 10) == "item"
        await asyncio.wait([peeking])
        assert peeking.cancelled()
        assert not queue._getters

    run(main())


def test_a_subclass_that_wakes_by_itself_wakes_whoever_is_first(run: Run) -> None:
    class Pushing(Peeking):
        def push(self, item: object) -> None:
            self._put(item)
            self._wakeup_next(self._getters)

    async def main() -> None:
        queue = Pushing()
        tasks = [asyncio.create_task(wait) for wait in (queue.get(), queue.peek(), queue.get())]
        await turns(2)
        for item in range(3):
            queue.push(item)
        assert not queue._getters
        await asyncio.wait(tasks)
        assert [task.result() for task in tasks] == [0, 1, 1]

    run(main())


def test_a_queue_with_a_future_of_a_program_s_in_its_line_is_collected(run: Run) -> None:
    async def main() -> None:
        queue = Peeking()
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _, queue=queue: None)
        queue._getters.append(future)
        gone = weakref.ref(queue)
        del queue, future
        gc.collect()
        assert gone() is None

    run(main())


class Resizable(noria.Semaphore):
    def grow(self, n: int) -> None:
        self._value += n
        while self._value > 0 and self._wake_up_next():
            pass


def test_a_semaphore_that_grows_wakes_who_waits(run: Run) -> None:
    async def main() -> None:
        semaphore = Resizable(0)
        tasks = [asyncio.ensure_future(semaphore.acquire()) for _ in range(3)]
        await turns(1)
        semaphore.grow(2)
        await turns(1)
        assert [task.done() for task in tasks] == [True, True, False]
        assert semaphore._value == 0
        semaphore.release()
        await tasks[2]

    run(main())


# TaskGroup, as recipes and subclasses know it.


def test_a_group_can_be_ended_by_the_name_that_programs_use(run: Run) -> None:
    async def main() -> None:
        async with noria.TaskGroup() as group:
            task = group.create_task(asyncio.sleep(1000))
            assert group._tasks == {task}
            assert group._parent_task is asyncio.current_task()
            group._abort()
        assert task.cancelled()

    run(main())


def test_reports_about_a_shielded_error_call_the_future_one(run: Run) -> None:
    reports: list[str] = []

    async def fails() -> None:
        raise ValueError("unheard")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context["message"]))
        shield = noria.shield(fails())
        assert repr(shield).startswith("<Future pending")
        while not shield.done():
            await turns(1)
        del shield
        gc.collect()

    run(main())
    assert reports == ["Future exception was never retrieved"]


@pytest.mark.parametrize("name", ["acquire", "get", "wait", "wait_for", "yielded"])
def test_a_second_await_of_the_same_operation_fails_and_leaves_the_first_alone(name: str, run: Run) -> None:
    async def main() -> None:
        lock, queue, event = noria.Lock(), noria.Queue[int](), noria.Event()
        await lock.acquire()
        wait = {
            "acquire": lock.acquire,
            "get": queue.get,
            "wait": event.wait,
            "wait_for": lambda: noria.wait_for(event.wait(), 10),
            "yielded": lambda: noria.sleep(0),
        }[name]()
        first = asyncio.ensure_future(wait)
        await turns(1)
        for second in (wait, noria.wait_for(wait, 10)):
            with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
                await second
        lock.release()
        queue.put_nowait(1)
        event.set()
        await asyncio.wait_for(first, 10)

    run(main())


def test_a_condition_s_lock_is_looked_at_when_it_is_given() -> None:
    with pytest.raises(AttributeError, match="locked"):
        noria.Condition(lock=3)  # type: ignore[arg-type]


def test_a_group_inside_another_leaves_no_cancellation_behind(run: Run) -> None:
    # On asyncio's tasks of 3.11 and 3.12, which keep one that was taken back, too.
    async def fails() -> None:
        raise ValueError

    async def main() -> None:
        with pytest.raises(ExceptionGroup):
            async with noria.TaskGroup() as outer:
                outer.create_task(fails())
                async with noria.TaskGroup() as inner:
                    inner.create_task(fails())
                    await asyncio.sleep(10)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    run(main())
