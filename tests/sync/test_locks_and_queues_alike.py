"""Random use of locks, events, semaphores, conditions, barriers and queues: noria's and asyncio's do the same.

A machine of hypothesis starts tasks that wait, cancels them, gives them deadlines that are over at once, wakes them, and
turns the loop, in three worlds at a time: asyncio's primitives on asyncio's loop, noria's on noria's, and noria's on
asyncio's. What every task got, in which turn of the loop and in which order, and the state of everything must be the same
after each action. Turns are counted, not timed, so nothing depends on the clock.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import noria


class World:
    """One set of primitives on one loop, and the record of what happened to its tasks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, aio: Any) -> None:
        class OwnLock(aio.Lock):
            async def acquire(self) -> Any:
                return await super().acquire()

        class OwnQueue(aio.Queue):
            def _put(self, item: Any) -> None:
                self._queue.appendleft(item)

            def _get(self) -> Any:
                return self._queue.pop()

        self.loop = loop
        self.turn = 0
        self.flag = False
        self.log: list[tuple[object, ...]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.locks = [aio.Lock(), OwnLock()]
        self.events = [aio.Event()]
        self.semaphores = [aio.Semaphore(2), aio.BoundedSemaphore(1), aio.Semaphore(0)]
        self.conditions = [aio.Condition(), aio.Condition(self.locks[0]), aio.Condition(self.locks[1])]
        self.barriers = [aio.Barrier(2)]
        self.queues = [aio.Queue(2), aio.PriorityQueue(1), aio.LifoQueue(), OwnQueue(1)]

    # What tasks do, and wait.

    async def acquire(self, i: int, n: int) -> Any:
        return await self.pick(self.locks, i).acquire()

    async def hold(self, i: int, n: int) -> Any:
        async with self.pick(self.locks, i) as given:
            await self.turns(n)
        return given

    async def event_wait(self, i: int, n: int) -> Any:
        return await self.pick(self.events, i).wait()

    async def enter(self, i: int, n: int) -> Any:
        return await self.pick(self.semaphores, i).acquire()

    async def stay(self, i: int, n: int) -> Any:
        async with self.pick(self.semaphores, i):
            await self.turns(n)

    async def notice(self, i: int, n: int) -> Any:
        condition = self.pick(self.conditions, i)
        async with condition:
            got = await condition.wait()
            await self.turns(n)
            return got

    async def notice_if(self, i: int, n: int) -> Any:
        condition = self.pick(self.conditions, i)
        async with condition:
            return await condition.wait_for(lambda: self.flag)

    async def notify(self, i: int, n: int) -> Any:
        condition = self.pick(self.conditions, i)
        async with condition:
            condition.notify(n)
            await self.turns(n)

    async def notice_without_lock(self, i: int, n: int) -> Any:
        return await self.pick(self.conditions, i).wait()

    async def meet(self, i: int, n: int) -> Any:
        return await self.pick(self.barriers, i).wait()

    async def reset(self, i: int, n: int) -> Any:
        return await self.pick(self.barriers, i).reset()

    async def abort(self, i: int, n: int) -> Any:
        return await self.pick(self.barriers, i).abort()

    async def put(self, i: int, n: int) -> Any:
        return await self.pick(self.queues, i).put(n)

    async def get(self, i: int, n: int) -> Any:
        return await self.pick(self.queues, i).get()

    async def join(self, i: int, n: int) -> Any:
        return await self.pick(self.queues, i).join()

    WAITS: tuple[Callable[[World, int, int], Awaitable[Any]], ...] = (
        acquire, hold, event_wait, enter, stay, notice, notice_if, notify, notice_without_lock, meet, reset, abort,
        put, get, join,
    )  # fmt: skip

    # What is done at once.

    ACTIONS: tuple[Callable[[World, int, int], Any], ...] = (
        lambda w, i, n: w.pick(w.locks, i).release(),
        lambda w, i, n: w.pick(w.events, i).set(),
        lambda w, i, n: w.pick(w.events, i).clear(),
        lambda w, i, n: w.pick(w.semaphores, i).release(),
        lambda w, i, n: w.pick(w.conditions, i).notify(n),
        lambda w, i, n: w.pick(w.conditions, i).notify_all(),
        lambda w, i, n: w.pick(w.queues, i).put_nowait(n),
        lambda w, i, n: w.pick(w.queues, i).get_nowait(),
        lambda w, i, n: w.pick(w.queues, i).task_done(),
        lambda w, i, n: w.pick(w.queues, i).shutdown(n > 2),
        lambda w, i, n: setattr(w, "flag", n > 1),
    )

    def pick(self, things: list[Any], i: int) -> Any:
        return things[i % len(things)]

    async def turns(self, n: int) -> None:
        for _ in range(n):
            await asyncio.sleep(0)

    async def work(self, me: int, what: int, i: int, n: int, hurry: bool) -> None:
        try:
            if hurry:
                async with asyncio.timeout(0):
                    got = await self.WAITS[what](self, i, n)
            else:
                got = await self.WAITS[what](self, i, n)
        except asyncio.CancelledError as error:
            self.log.append((self.turn, me, "cancelled", error.args))
            raise
        except Exception as error:
            self.log.append((self.turn, me, type(error).__name__, str(error)))
        else:
            self.log.append((self.turn, me, "got", got))

    # What the machine does.

    def start(self, *how: Any) -> None:
        self.tasks.append(self.loop.create_task(self.work(len(self.tasks), *how)))

    def act(self, what: int, i: int, n: int) -> None:
        try:
            got = self.ACTIONS[what](self, i, n)
        except Exception as error:
            got = type(error).__name__, str(error)
        self.log.append((self.turn, "act", got))

    def cancel(self, i: int) -> None:
        if self.tasks:
            self.log.append((self.turn, "cancel", self.pick(self.tasks, i).cancel("enough")))

    def go(self, turns: int) -> None:
        for _ in range(turns):
            self.turn += 1
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def state(self) -> list[object]:
        found: list[object] = [task.done() for task in self.tasks]
        for locked in (*self.locks, *self.semaphores, *self.conditions):
            found.append((locked.locked(), len(locked._waiters or ())))
        found += [(event.is_set(), len(event._waiters)) for event in self.events]
        found += [semaphore._value for semaphore in self.semaphores]
        found += [(barrier.n_waiting, barrier.broken) for barrier in self.barriers]
        for queue in self.queues:
            # the part of the text after the address
            found += [str(queue), queue.empty(), queue.full(), queue.qsize()]
        return found

    def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        for _ in range(100):
            for locked in (*self.locks, *self.conditions):  # those who cannot be cancelled want a lock
                if locked.locked():
                    locked.release()
            self.go(1)
            if all(task.done() for task in self.tasks):
                break
        assert all(task.done() for task in self.tasks)
        for waited_for in (*self.locks, *self.events, *self.semaphores, *self.conditions):
            assert not waited_for._waiters, f"a waiter was left in {waited_for}"
        for queue in self.queues:
            assert not queue._getters
            assert not queue._putters
        self.loop.close()


class Machine(RuleBasedStateMachine):
    """Does the same in all the worlds."""

    def __init__(self) -> None:
        super().__init__()
        self.worlds = [
            World(asyncio.new_event_loop(), asyncio),
            World(noria.new_event_loop(), noria),
            World(asyncio.new_event_loop(), noria),
        ]

    @rule(
        what=st.integers(0, len(World.WAITS) - 1),
        i=st.integers(0, 3),
        n=st.integers(0, 3),
        hurry=st.booleans(),
        times=st.integers(1, 3),
    )
    def start(self, what: int, i: int, n: int, hurry: bool, times: int) -> None:
        for world in self.worlds:
            for _ in range(times):
                world.start(what, i, n, hurry)

    @rule(what=st.integers(0, len(World.ACTIONS) - 1), i=st.integers(0, 3), n=st.integers(0, 3))
    def act(self, what: int, i: int, n: int) -> None:
        for world in self.worlds:
            world.act(what, i, n)

    @rule(i=st.integers(0, 20))
    def cancel(self, i: int) -> None:
        for world in self.worlds:
            world.cancel(i)

    @rule(turns=st.integers(1, 4))
    def go(self, turns: int) -> None:
        for world in self.worlds:
            world.go(turns)

    @invariant()
    def everything_is_alike(self) -> None:
        standard, *others = self.worlds
        for world in others:
            assert world.log == standard.log
            assert world.state() == standard.state()

    def teardown(self) -> None:
        for world in self.worlds:
            world.end()
        for world in self.worlds[1:]:
            assert world.log == self.worlds[0].log


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="noria does as CPython 3.13 does, whose classes are needed here"
)
def test_noria_does_what_asyncio_does_whatever_is_tried() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
