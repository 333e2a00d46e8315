"""Queue, PriorityQueue and LifoQueue: what a random comparison with asyncio's does not show."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import weakref
from collections import deque
from typing import Any

import pytest

import noria
from sync.loops import Run, turns


def test_what_can_be_done_at_once_is_done_without_suspending() -> None:
    queue: noria.Queue[str] = noria.Queue()
    with pytest.raises(StopIteration) as end:
        queue.put("a").send(None)
    assert end.value.value is None
    with pytest.raises(StopIteration) as end:
        queue.get().send(None)
    assert end.value.value == "a"


@pytest.mark.parametrize("item", [None, (), ("a", 1), StopIteration("x"), ValueError("y"), ValueError])
def test_any_object_comes_out_as_it_went_in(item: object, run: Run) -> None:
    async def main() -> None:
        queue: noria.Queue[object] = noria.Queue()
        await queue.put(item)
        assert await queue.get() is item
        getting = asyncio.create_task(queue.get())
        await turns(1)
        await queue.put(item)
        assert await getting is item

    run(main())


def test_first_in_first_out_however_it_grows_and_shrinks() -> None:
    queue: noria.Queue[int] = noria.Queue()
    expected: deque[int] = deque()
    chance = random.Random(1)
    for i in range(20_000):
        if chance.random() < (0.7 if i % 4_000 < 2_000 else 0.2):
            queue.put_nowait(i)
            expected.append(i)
        elif expected:
            assert queue.get_nowait() == expected.popleft()
        else:
            with pytest.raises(asyncio.QueueEmpty):
                queue.get_nowait()
        assert queue.qsize() == len(expected)
        assert queue.empty() == (not expected)


def test_programs_may_look_at_what_is_in_it_and_change_that(run: Run) -> None:
    async def main() -> None:
        queue: noria.Queue[int] = noria.Queue(3)
        for i in range(3):
            queue.put_nowait(i)
        assert list(queue._queue) == [0, 1, 2]
        queue._queue.appendleft(queue._queue.pop())
        assert repr(queue).endswith("maxsize=3 _queue=[2, 0, 1] tasks=3>")
        assert [await queue.get() for _ in range(2)] == [2, 0]
        queue._queue.clear()
        assert queue.empty()
        queue._maxsize = 1
        await queue.put(7)
        assert queue.full()
        assert await queue.get() == 7

    run(main())


@pytest.mark.parametrize(
    ("kind", "out"),
    [(noria.Queue, [2, 1, 3]), (noria.PriorityQueue, [1, 2, 3]), (noria.LifoQueue, [3, 1, 2])],
)
def test_the_order_of_each_kind(kind: type[noria.Queue[int]], out: list[int], run: Run) -> None:
    async def main() -> None:
        queue = kind(3)
        for i in (2, 1, 3):
            await queue.put(i)
        assert [await queue.get() for _ in range(3)] == out

    run(main())


def test_a_subclass_may_override_everything_that_is_called(run: Run) -> None:
    class Distinct(noria.Queue[int]):
        def _init(self, maxsize: int) -> None:
            self._queue = set()
            self.calls: list[str] = []

        def _put(self, item: int) -> None:
            self._queue.add(item)

        def _get(self) -> int:
            return int(self._queue.pop())

        def full(self) -> bool:
            self.calls.append("full")
            return super().full()

        def put_nowait(self, item: int) -> None:
            self.calls.append("put_nowait")
            super().put_nowait(item)

        def get_nowait(self) -> int:
            self.calls.append("get_nowait")
            return super().get_nowait()

    async def main() -> None:
        queue = Distinct(2)
        assert queue.__class__ is Distinct
        await queue.put(1)
        await queue.put(1)
        assert queue.qsize() == 1
        assert await queue.get() == 1
        assert queue.calls == ["full", "put_nowait", "full"] * 2 + ["get_nowait"]

    run(main())


def test_an_item_whose_getter_is_cancelled_in_the_same_turn_goes_to_the_next(run: Run) -> None:
    async def main() -> None:
        queue: noria.Queue[int] = noria.Queue()
        first, second = (asyncio.create_task(queue.get()) for _ in range(2))
        await turns(1)
        queue.put_nowait(1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == 1

    run(main())


def test_room_whose_putter_is_cancelled_in_the_same_turn_goes_to_the_next(run: Run) -> None:
    async def main() -> None:
        queue: noria.Queue[int] = noria.Queue(1)
        await queue.put(0)
        first, second = (asyncio.create_task(queue.put(i)) for i in (1, 2))
        await turns(1)
        queue.get_nowait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        assert queue.get_nowait() == 2

    run(main())


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_wakes_all_who_wait(immediate: bool, run: Run) -> None:
    async def main() -> None:
        queue: noria.Queue[int] = noria.Queue(1)
        getters = [asyncio.create_task(queue.get()) for _ in range(3)]
        await turns(1)
        queue.shutdown(immediate)
        for got in await asyncio.gather(*getters, return_exceptions=True):
            assert type(got) is noria.QueueShutDown
        with pytest.raises(noria.QueueShutDown):
            await queue.put(1)

        queue = noria.Queue(1)
        await queue.put(1)
        putters = [asyncio.create_task(queue.put(2)) for _ in range(3)]
        joining = asyncio.create_task(queue.join())
        await turns(1)
        queue.shutdown(immediate)
        for got in await asyncio.gather(*putters, return_exceptions=True):
            assert type(got) is noria.QueueShutDown
        if not immediate:
            assert await queue.get() == 1
            queue.task_done()
        await joining
        with pytest.raises(noria.QueueShutDown):
            queue.get_nowait()

    run(main())


def test_join_waits_for_task_done(run: Run) -> None:
    async def main() -> None:
        queue: noria.Queue[int] = noria.Queue()
        await queue.join()
        await queue.put(1)
        joining = asyncio.create_task(queue.join())
        await queue.get()
        await turns(2)
        assert not joining.done()
        queue.task_done()
        assert await joining is None  # type: ignore[func-returns-value]
        with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
            queue.task_done()

    run(main())


@pytest.mark.parametrize("maxsize", [0, -1, math.inf, 2**70])
def test_there_are_several_ways_to_say_no_limit(maxsize: Any) -> None:
    queue: noria.Queue[int] = noria.Queue(maxsize)
    for i in range(100):
        queue.put_nowait(i)
    assert not queue.full()
    assert queue.maxsize == maxsize


def test_items_are_let_go() -> None:
    class Item:
        pass

    queue: noria.Queue[Item] = noria.Queue()
    item = Item()
    left = weakref.ref(item)
    queue.put_nowait(item)
    del item
    assert left() is not None
    noria.run(queue.put(queue.get_nowait()))
    noria.run(queue.get())
    assert left() is None


def test_a_queue_that_holds_itself_is_collected() -> None:
    queue: noria.Queue[Any] = noria.Queue()
    queue.put_nowait(queue)
    left = weakref.ref(queue)
    del queue
    gc.collect()
    assert left() is None


def test_for_isinstance_it_is_one_of_asyncios() -> None:
    assert isinstance(noria.Queue(), asyncio.Queue)
    assert isinstance(noria.PriorityQueue(), asyncio.PriorityQueue)
    assert isinstance(noria.LifoQueue(), asyncio.LifoQueue)
    assert str(noria.Queue[int]) == "noria.sync.queues.Queue[int]"


def test_a_queue_that_grows_while_its_front_has_moved_keeps_the_order() -> None:
    for taken in (0, 1, 5, 7, 8):
        queue = noria.Queue[int]()
        for n in range(8):
            queue.put_nowait(n)
        assert [queue.get_nowait() for _ in range(taken)] == list(range(taken))
        for n in range(8, 100):
            queue.put_nowait(n)
        assert [queue.get_nowait() for _ in range(100 - taken)] == list(range(taken, 100))
