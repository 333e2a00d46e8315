"""The ready queue is first in, first out, and runs any program in the order in which asyncio runs it.

A random program of callbacks, timers that are due, futures, tasks, cancellations and the standard library's own helpers
is run on asyncio and on noria with the same seed; both must leave the same trace, turn by turn.
"""

import asyncio
import gc
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest

import noria
from core.running import new_loop, on_noria, reports, turns

TURNS = 120
ACTIONS = 400


class Program:
    """A random program, told by a seed; `trace` is what it did, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int, mixed: bool) -> None:
        self.loop = loop
        self.rng = random.Random(seed)
        self.mixed = mixed
        self.trace: list[tuple[Any, ...]] = []
        self.left = ACTIONS
        self.serial = 0
        self.handles: list[asyncio.Handle] = []
        self.futures: list[asyncio.Future[int]] = []
        self.tasks: list[asyncio.Task[int]] = []

    def number(self) -> int:
        self.serial += 1
        return self.serial

    def future(self) -> "asyncio.Future[int]":
        # When mixed, some are the standard library's: on noria a foreign make, on asyncio no difference.
        foreign = self.rng.random() < 0.5
        return asyncio.Future(loop=self.loop) if self.mixed and foreign else self.loop.create_future()

    def task(self) -> "asyncio.Task[int]":
        foreign = self.rng.random() < 0.5
        coro = self.actor(self.number())
        if self.mixed and foreign:
            return asyncio.Task(coro, loop=self.loop)
        return self.loop.create_task(coro)

    def act(self) -> None:
        if self.left <= 0:
            return
        self.left -= 1
        self.rng.choice(self.ACTS)(self)

    def soon(self) -> None:
        self.handles.append(self.loop.call_soon(self.callback, "soon", self.number()))

    def due(self) -> None:
        self.handles.append(self.loop.call_later(0, self.callback, "later", self.number()))

    def callback(self, kind: str, number: int) -> None:
        self.trace.append((kind, number))
        for _ in range(self.rng.randrange(3)):
            self.act()

    def cancel_handle(self) -> None:
        if self.handles:
            self.rng.choice(self.handles).cancel()

    def new_future(self) -> None:
        self.futures.append(self.future())

    def settle(self) -> None:
        pending = [f for f in self.futures if not f.done()]
        if not pending:
            return
        future, how = self.rng.choice(pending), self.rng.randrange(4)
        if how == 0:
            future.set_exception(ValueError(self.number()))
        elif how == 1:
            future.cancel(msg=self.number())
        else:
            future.set_result(self.number())

    def listen(self) -> None:
        if self.futures:
            number = self.number()
            self.rng.choice(self.futures).add_done_callback(lambda f: self.callback("done", number))

    def new_task(self) -> None:
        self.tasks.append(self.task())

    def cancel_task(self) -> None:
        if self.tasks:
            self.trace.append(("cancel", self.rng.choice(self.tasks).cancel(msg=self.number())))

    ACTS: tuple[Callable[["Program"], None], ...] = (
        soon, soon, due, cancel_handle, new_future, new_future, settle, settle, settle, listen, new_task, new_task, cancel_task,
    )  # fmt: skip

    async def actor(self, number: int) -> int:
        for step in range(self.rng.randrange(1, 6)):
            self.trace.append(("step", number, step))
            self.act()
            try:
                self.trace.append(("got", number, await self.something()))
            except ValueError as error:
                self.trace.append(("error", number, *error.args))
            except asyncio.CancelledError as error:
                self.trace.append(("cancelled", number, *error.args))
                if self.rng.random() < 0.5:
                    raise
        return number

    async def something(self) -> object:
        futures, how = self.futures[-8:], self.rng.randrange(8)
        if how < 3 or not futures:
            return await asyncio.sleep(0)
        if how < 5:
            return await self.rng.choice(futures)
        if how == 5:
            return await asyncio.shield(self.rng.choice(futures))
        if how == 6:
            chosen = self.rng.sample(futures, min(2, len(futures)))
            return repr(await asyncio.gather(*chosen, return_exceptions=True))
        me = asyncio.current_task()
        older = self.tasks[: self.tasks.index(me)] if me in self.tasks else []  # no circles
        return await self.rng.choice(older) if older else None

    async def main(self) -> None:
        for _ in range(6):
            self.new_future()
            self.new_task()
            self.soon()
        for turn in range(TURNS):
            self.trace.append(("turn", turn))
            if self.rng.random() < 0.5:
                self.act()
            await asyncio.sleep(0)
        self.left = 0
        for _ in range(1000):
            if all(each.done() for each in (*self.tasks, *self.futures)):
                break
            for each in (*self.tasks, *self.futures):
                each.cancel()
            self.trace.append(("end",))
            await asyncio.sleep(0)
        else:
            raise AssertionError(f"never end: {[task for task in self.tasks if not task.done()]}")
        for ended in (*self.tasks, *self.futures):
            if not ended.cancelled():
                self.trace.append(("ended", repr(ended.exception())))


def trace_on(
    loop: asyncio.AbstractEventLoop, seed: int, mixed: bool, kind: type[Program] = Program
) -> list[tuple[Any, ...]]:
    loop.set_exception_handler(lambda _, report: None)  # exceptions of futures that nobody asked
    program = kind(loop, seed, mixed)
    loop.run_until_complete(program.main())
    return program.trace


@pytest.mark.parametrize("mixed", [False, True], ids=["native", "mixed-with-asyncio"])
def test_a_random_program_runs_in_the_order_of_asyncio(mixed: bool) -> None:
    for seed in range(60):
        stock = asyncio.new_event_loop()
        try:
            expected = trace_on(stock, seed, mixed)
        finally:
            stock.close()
        ours = noria.new_event_loop()
        try:
            found = trace_on(ours, seed, mixed)
        finally:
            ours.close()
        assert len(expected) > 100
        assert found == expected, f"seed {seed}"


class Wilder(Program):
    """With nested runs, eager tasks and garbage collections too, which asyncio has no like of."""

    depth = 0

    def nest(self) -> None:
        if self.depth < 4:
            self.depth += 1
            self.trace.append(("nested", self.depth))
            noria.run(turns(self.rng.randrange(4)))
            self.trace.append(("returned", self.depth))
            self.depth -= 1

    def eager(self) -> None:
        self.tasks.append(noria.Task(self.actor(self.number()), loop=self.loop, eager_start=True))

    def collect(self) -> None:
        gc.collect(0)

    ACTS = (*Program.ACTS, nest, eager, collect)


@pytest.mark.parametrize("mixed", [False, True], ids=["native", "mixed-with-asyncio"])
def test_with_nested_runs_and_eager_tasks_the_order_is_the_same_each_time(mixed: bool) -> None:
    for seed in range(40):
        traces = []
        for _ in range(2):
            loop = noria.new_event_loop()
            try:
                traces.append(trace_on(loop, seed, mixed, Wilder))
            finally:
                loop.close()
        assert traces[0] == traces[1], f"seed {seed}"


def test_callbacks_run_in_the_order_they_were_queued() -> None:
    seen: list[int] = []
    with new_loop() as loop:
        for n in range(1000):  # more than the ring's first size: it grows while it holds items
            loop.call_soon(seen.append, n)
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert seen == list(range(1000))


def test_the_queue_keeps_its_order_when_it_grows_after_wrapping_round() -> None:
    seen: list[int] = []
    sent = 0

    def more(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            loop.call_soon(seen.append, sent)
            sent += 1

    with new_loop() as loop:
        for count in (50, 60, 40, 300, 20, 900, 5000):
            loop.call_soon(more, count)
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
    assert seen == list(range(sent))


@on_noria
async def test_what_a_callback_queues_runs_in_the_next_turn() -> None:
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: loop.call_soon(seen.append, "queued by the first"))
    loop.call_soon(seen.append, "second")
    await asyncio.sleep(0)
    assert seen == ["second"]
    await asyncio.sleep(0)
    assert seen == ["second", "queued by the first"]


@on_noria
async def test_everyone_waiting_for_a_future_wakes_in_the_order_of_coming() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    seen: list[int] = []

    async def wait(n: int) -> None:
        await future
        seen.append(n)

    tasks = []
    for n in range(0, 20, 2):
        tasks.append(asyncio.create_task(wait(n)))
        await asyncio.sleep(0)
        future.add_done_callback(lambda _, n=n: seen.append(n + 1))  # type: ignore[misc]
    future.set_result(None)
    await asyncio.gather(*tasks)
    assert seen == list(range(20))


@on_noria
async def test_a_busy_queue_does_not_starve_timers_or_descriptors() -> None:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        came: asyncio.Future[str] = loop.create_future()
        timed: asyncio.Future[None] = loop.create_future()
        loop.add_reader(near, lambda: came.done() or came.set_result("read"))
        loop.call_later(0.002, timed.set_result, None)
        far.send(b"x")
        busy = True

        def spin() -> None:
            if busy:
                loop.call_soon(spin)

        loop.call_soon(spin)
        await came
        await timed
        busy = False
        loop.remove_reader(near)


@on_noria
async def test_a_report_names_the_callback_and_the_loop_goes_on() -> None:
    loop = asyncio.get_running_loop()

    def broken() -> None:
        raise ZeroDivisionError("broken")

    with reports() as seen:
        handle = loop.call_soon(broken)
        await asyncio.sleep(0)
    (report,) = seen
    assert report["message"].startswith("Exception in callback ")
    assert "broken" in report["message"]
    assert report["handle"] is handle
    assert isinstance(report["exception"], ZeroDivisionError)


@on_noria
async def test_what_arrives_is_seen_though_there_is_work_in_every_turn() -> None:
    """As in asyncio: some turns of `sleep(0)` are enough to see what the kernel has."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    seen: list[bytes] = []
    with near, far:
        loop.add_reader(near, lambda: seen.append(near.recv(100)))
        for n in range(1, 6):
            await asyncio.sleep(0.001)
            far.send(b"x")
            await turns(2)
            assert seen == [b"x"] * n
        loop.remove_reader(near)
