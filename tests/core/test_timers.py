"""Timers: they fire in the order of their deadlines, never early, and a cancelled one leaves nothing behind."""

import asyncio
import contextlib
import gc
import math
import random
import time

import pytest

import noria
from core.running import new_loop, on_noria, turns


@on_noria
async def test_equal_deadlines_run_in_the_order_they_were_set() -> None:
    loop = asyncio.get_running_loop()
    seen: list[int] = []
    at = loop.time() + 0.002
    for n in range(200):
        loop.call_at(at, seen.append, n)
    await asyncio.sleep(0.005)
    assert seen == list(range(200))


@on_noria
async def test_timers_run_in_the_order_of_their_deadlines_whatever_was_cancelled_between() -> None:
    loop = asyncio.get_running_loop()
    rng = random.Random(1)
    seen: list[float] = []
    start = loop.time()
    deadlines = [start + rng.random() * 0.02 for _ in range(2000)]
    handles = [loop.call_at(at, seen.append, at) for at in deadlines]
    gone = rng.sample(range(2000), 1200)
    for n in gone:
        handles[n].cancel()
    await asyncio.sleep(0.03)
    assert seen == sorted(at for n, at in enumerate(deadlines) if n not in set(gone))


@on_noria
async def test_a_timer_is_never_early() -> None:
    loop = asyncio.get_running_loop()
    late: list[float] = []
    for n in range(50):
        at = loop.time() + n * 0.000371
        loop.call_at(at, lambda at=at: late.append(loop.time() - at))  # type: ignore[misc]
    await asyncio.sleep(0.025)
    assert len(late) == 50
    assert min(late) >= -1e-6


@on_noria
async def test_a_deadline_in_the_past_is_due_in_the_next_turn_behind_what_is_ready() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    loop.call_at(0, seen.append, "zero")
    loop.call_at(-math.inf, seen.append, "long ago")
    loop.call_later(-5, seen.append, "five seconds ago")
    loop.call_later(0, seen.append, "now")
    loop.call_soon(seen.append, "ready")
    await turns(1)
    assert seen == ["ready"]
    await turns(1)
    assert seen == ["ready", "long ago", "zero", "five seconds ago", "now"]


@on_noria
async def test_the_far_future_can_be_waited_for() -> None:
    loop = asyncio.get_running_loop()
    handles = [loop.call_later(1e10, print), loop.call_later(math.inf, print), loop.call_at(1e300, print)]
    await asyncio.sleep(0.002)
    assert handles[1].when() == math.inf
    for handle in handles:
        handle.cancel()


def test_a_deadline_must_be_a_number() -> None:
    with new_loop() as loop:
        for call in (loop.call_later, loop.call_at):
            with pytest.raises(TypeError):
                call(None, print)
            with pytest.raises(TypeError):
                call("soon", print)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="nan"):
                call(math.nan, print)


def test_time_is_the_monotonic_clock() -> None:
    with new_loop() as loop:
        before, now, after = time.monotonic(), loop.time(), time.monotonic()
        assert before <= now <= after


def test_a_million_cancelled_timers_leave_nothing() -> None:
    with new_loop() as loop:
        loop.set_debug(False)  # the stack of each would be recorded, which takes a minute
        gc.collect()
        before = len(gc.get_objects())
        blocks = _allocated()
        for n in range(1_000_000):
            loop.call_later(1000 + n % 7, print).cancel()
        gc.collect()
        assert len(gc.get_objects()) <= before + 10
        assert _allocated() <= blocks + 100


def test_timers_cancelled_in_any_order_leave_nothing() -> None:
    with new_loop() as loop:
        gc.collect()
        blocks = _allocated()
        handles = [loop.call_later(1000 + n % 13, print) for n in range(20_000)]
        random.Random(2).shuffle(handles)
        while handles:
            handles.pop().cancel()
        gc.collect()
        assert _allocated() <= blocks + 100


def _allocated() -> int:
    import sys

    return sys.getallocatedblocks()


@on_noria
async def test_a_timer_cancelled_by_another_of_the_same_moment_does_not_run() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    at = loop.time() + 0.001
    loop.call_at(at, lambda: victim.cancel())
    victim = loop.call_at(at, seen.append, "victim")
    loop.call_at(at, seen.append, "last")
    await asyncio.sleep(0.003)
    assert seen == ["last"]


@on_noria
async def test_a_timer_may_set_and_cancel_timers() -> None:
    loop = asyncio.get_running_loop()
    fired = 0
    spare = [loop.call_later(100, print) for _ in range(500)]

    def again() -> None:
        nonlocal fired
        fired += 1
        if spare:
            spare.pop().cancel()
        if fired < 500:
            loop.call_later(0, again)

    again()
    while fired < 500:
        await asyncio.sleep(0)


def test_timers_compare_by_their_deadlines() -> None:
    with new_loop() as loop:
        a, b = loop.call_at(1e9, print), loop.call_at(2e9, print)
        same = loop.call_at(1e9, print)
        assert a < b
        assert b > a
        assert a <= same
        assert a >= same
        assert a == same
        assert a != b
        assert hash(a) == hash(same)
        assert a.when() == 1e9
        assert (a == 5) is False
        with pytest.raises(TypeError):
            a < 5  # type: ignore[operator]


def test_a_time_hung_on_the_loop_is_the_one_its_timers_go_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests do that let hours pass at once: `mock.patch.object(loop, "time")`."""

    async def program() -> None:
        now = loop.time()
        with monkeypatch.context() as patched:
            patched.setattr(loop, "time", lambda: now)
            seen: list[str] = []
            handle = loop.call_later(3600, seen.append, "later")
            loop.call_at(now + 3601, seen.append, "at")
            sleeping = asyncio.create_task(noria.sleep(3602))
            waiting = asyncio.create_task(noria.wait_for(loop.create_future(), 3603))
            await turns(3)
            assert handle.when() == now + 3600
            assert not seen
            now += 3601
            await turns(2)
            assert seen == ["later", "at"]
            now += 2
            await turns(3)
            assert sleeping.done()
            with pytest.raises(TimeoutError):
                await waiting
        assert loop.time() > now - 3603
        await noria.sleep(0.001)

    with new_loop() as loop:
        loop.run_until_complete(program())


def test_a_subclass_with_a_time_of_its_own_has_timers_in_that_time() -> None:
    class Ahead(noria.Loop):
        """It is a million seconds later there."""

        def time(self) -> float:
            return super().time() + 1e6

    async def program() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await noria.sleep(0.001)
        assert loop.call_later(1, print).when() > began
        async with noria.timeout(10):
            await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            await noria.wait_for(loop.create_future(), 0.001)
        done, _ = await noria.wait([loop.create_future()], timeout=0.001)
        assert not done
        assert 0.004 <= loop.time() - began < 10

    with contextlib.closing(Ahead()) as loop:
        loop.run_until_complete(program())
