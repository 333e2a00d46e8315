"""gather, wait, as_completed, shield, timeout, wait_for and TaskGroup do what asyncio's do, turn by turn.

A random program of coroutines that wait for one another in all these ways, with futures that are resolved and tasks
that are cancelled from outside at random turns, runs on asyncio with asyncio's names, on noria with noria's, and on
asyncio with noria's. All must leave the same trace, and the same reports of errors nobody asked for.
"""

import asyncio
import gc
import sys
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import noria

TURNS = 40
FUTURES = 3
FAR = 1000.0  # seconds

Node = tuple[Any, ...]

leaves = st.one_of(
    st.tuples(st.just("sleep"), st.integers(0, 5)),
    st.tuples(st.just("raise"), st.integers(0, 4)),
    st.tuples(st.just("future"), st.integers(0, FUTURES - 1)),
    st.tuples(st.just("stubborn"), st.integers(0, 6)),
)


def grow(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(nodes, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.just("gather"), several, st.booleans()),
        st.tuples(st.just("wait_for"), nodes, st.sampled_from([None, 0, FAR])),
        st.tuples(st.just("timeout"), nodes, st.sampled_from([None, -1.0, FAR]), st.booleans()),
        st.tuples(st.just("group"), several, nodes),
        st.tuples(st.just("shield"), nodes),
        st.tuples(
            st.just("wait"),
            several,
            st.sampled_from([asyncio.ALL_COMPLETED, asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION]),
            st.sampled_from([None, 0, FAR]),
        ),
        st.tuples(st.just("as_completed"), several, st.booleans()),
        st.tuples(st.just("caught"), nodes),
    )


programs = st.recursive(leaves, grow, max_leaves=8)
outside = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(["cancel", "cancel", "resolve", "fail", "cancel_future"]),
        st.integers(0, 5),
    ),
    max_size=6,
)


class Run:
    """One run of a program; `trace` is what happened: (turn, where, what)."""

    def __init__(self, aio: ModuleType, loop: asyncio.AbstractEventLoop, events: list[tuple[int, str, int]]):
        self.aio: Any = aio
        self.loop = loop
        self.events = events
        self.turn = 0
        self.trace: list[tuple[int, str, str]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.futures = [loop.create_future() for _ in range(FUTURES)]

    def say(self, where: str, what: object) -> None:
        self.trace.append((self.turn, where, str(what)))

    def tick(self) -> None:
        self.turn += 1
        for turn, what, number in self.events:
            if turn == self.turn:
                self.meddle(what, number)
        if self.turn < TURNS:
            self.loop.call_soon(self.tick)
        else:
            self.loop.stop()

    def meddle(self, what: str, number: int) -> None:
        if what == "cancel":
            if not self.tasks:
                return
            self.say("outside", self.tasks[number % len(self.tasks)].cancel(f"{number}"))
            return
        future = self.futures[number % FUTURES]
        if not future.done():
            if what == "resolve":
                future.set_result(number)
            elif what == "fail":
                future.set_exception(LookupError(number))
            else:
                future.cancel()

    def start(self, node: Node, where: str) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = self.loop.create_task(self.go(node, where))
        self.tasks.append(task)
        return task

    async def go(self, node: Node, where: str) -> Any:
        self.say(where, "begins")
        try:
            result = await getattr(self, node[0])(*node[1:], where)
        except BaseException as error:
            self.say(where, described(error))
            raise
        self.say(where, result)
        return result

    async def sleep(self, count: int, where: str) -> int:
        for _ in range(count):
            await self.aio.sleep(0)
        return count

    async def stubborn(self, count: int, where: str) -> int:
        for _ in range(count):
            try:
                await self.aio.sleep(0)
            except asyncio.CancelledError:
                self.say(where, "does not give in")
        return count

    async def future(self, number: int, where: str) -> Any:
        return await self.futures[number]

    async def caught(self, node: Node, where: str) -> str:
        try:
            await self.go(node, where + "c")
        except (Exception, asyncio.CancelledError) as error:
            await self.aio.sleep(0)
            return described(error)
        return "nothing caught"

    async def gather(self, nodes: list[Node], exceptions: bool, where: str) -> str:
        waits = [self.go(node, f"{where}g{i}") for i, node in enumerate(nodes)]
        return described(await self.aio.gather(*waits, return_exceptions=exceptions))

    async def wait_for(self, node: Node, timeout: float | None, where: str) -> Any:
        return await self.aio.wait_for(self.go(node, where + "w"), timeout)

    async def timeout(self, node: Node, delay: float | None, again: bool, where: str) -> Any:
        try:
            async with self.aio.timeout(delay) as timeout:
                if again:
                    timeout.reschedule(self.loop.time() - 1)
                    timeout.reschedule(None if delay is None else self.loop.time() + delay)
                return await self.go(node, where + "t")
        finally:
            self.say(where, timeout.expired())
            task = self.aio.current_task()
            assert task is not None
            self.say(where, task.cancelling())

    async def group(self, nodes: list[Node], body: Node, where: str) -> Any:
        async with self.aio.TaskGroup() as group:
            for i, node in enumerate(nodes):
                group.create_task(self.go(node, f"{where}n{i}"))
            return await self.go(body, where + "b")

    async def shield(self, node: Node, where: str) -> Any:
        return await self.aio.shield(self.start(node, where + "s"))

    async def wait(self, nodes: list[Node], until: str, timeout: float | None, where: str) -> str:
        if self.loop.get_task_factory() is not None:
            nodes = nodes[:1]  # those that are done already are looked at in the order of a set
        tasks = [self.start(node, f"{where}w{i}") for i, node in enumerate(nodes)]
        done, pending = await self.aio.wait(tasks, timeout=timeout, return_when=until)
        return f"{[task in done for task in tasks]} {len(done) + len(pending)}"

    async def as_completed(self, nodes: list[Node], plain: bool, where: str) -> str:
        if self.loop.get_task_factory() is not None:
            nodes = nodes[:1]  # likewise
        tasks = [self.start(node, f"{where}a{i}") for i, node in enumerate(nodes)]
        found: list[Any] = []
        if plain:
            for next_one in self.aio.as_completed(tasks, timeout=FAR):
                found.append(await next_one)
        else:
            async for task in self.aio.as_completed(tasks):
                found.append(tasks.index(task))
        return described(found)


def described(what: Any) -> str:
    """An outcome without addresses."""
    if isinstance(what, list):
        return f"[{', '.join(map(described, what))}]"
    if isinstance(what, BaseExceptionGroup):
        return f"{type(what).__name__} {sorted(map(described, what.exceptions))}"
    if isinstance(what, BaseException):
        cause = f" from {described(what.__cause__)}" if what.__cause__ is not None else ""
        return f"{type(what).__name__}{what.args}{cause}"
    return str(what)


async def _raise(self: Run, count: int, where: str) -> None:
    for _ in range(count):
        await self.aio.sleep(0)
    raise ValueError(where)


setattr(Run, "raise", _raise)


def run(
    aio: ModuleType, loop: asyncio.AbstractEventLoop, node: Node, events: list[Any], eager: bool
) -> tuple[Any, ...]:
    """The trace and the reports of a program."""
    try:
        if eager:
            loop.set_task_factory(asyncio.eager_task_factory)
        one = Run(aio, loop, events)
        reports: list[str] = []

        def report(_: object, context: dict[str, Any]) -> None:
            reports.append(f"{context['message'][:12]} {described(context.get('exception'))}")

        loop.set_exception_handler(report)
        loop.call_soon(one.start, node, "/")
        loop.call_soon(one.tick)
        loop.run_forever()
        one.say("left", len(asyncio.all_tasks(loop)))
        trace = list(one.trace)
        for _ in range(3):  # it may be caught
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=1))
        if "'group'" in str(node):  # which cancels its tasks in the order of a set
            trace = sorted(trace)
        for future in one.futures:  # nobody need have waited for these
            if future.done() and not future.cancelled():
                future.exception()
        task = left = one = future = None  # type: ignore[assignment]
        gc.collect()
        return trace, sorted(reports)
    finally:
        loop.close()


@pytest.mark.parametrize("eager", [False, True])
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(node=programs, events=outside)
def test_the_same_program_leaves_the_same_trace(eager: bool, node: Node, events: list[Any]) -> None:
    if eager and sys.version_info < (3, 12):
        return  # asyncio has no eager tasks there
    ours = run(noria, noria.new_event_loop(), node, events, eager)
    assert ours == run(noria, asyncio.SelectorEventLoop(), node, events, eager)
    if sys.version_info >= (3, 13):  # whose behaviour noria's is on every interpreter
        assert ours == run(asyncio, asyncio.SelectorEventLoop(), node, events, eager)
