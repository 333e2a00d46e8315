"""noria.sleep: a coroutine in one object, on noria's loop and on asyncio's own."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import noria

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=[noria.run, asyncio.run], ids=["noria", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


def test_it_waits_and_returns_its_result(run: Run) -> None:
    start = time.monotonic()
    assert run(noria.sleep(0.02, "result")) == "result"
    assert time.monotonic() - start >= 0.019
    assert run(noria.sleep(0, "at once")) == "at once"
    assert run(noria.sleep(-1)) is None


def test_it_is_a_coroutine_to_the_program(run: Run) -> None:
    async def main() -> None:
        waiting = noria.sleep(60)
        assert asyncio.iscoroutine(waiting)
        assert not asyncio.isfuture(waiting)
        task = asyncio.create_task(waiting)
        await asyncio.sleep(0)
        assert "coro=<sleep()" in repr(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.gather(noria.sleep(0.01, 1), noria.sleep(0, 2)) == [1, 2]

    run(main())


def test_timeouts_and_cancellation_end_it(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await noria.sleep(60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(noria.sleep(60), 0.01)
        tasks = [asyncio.create_task(noria.sleep(60)) for _ in range(100)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in ended)

    run(main())


def test_equal_deadlines_end_in_the_order_they_were_set_among_other_timers(run: Run) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        seen: list[int] = []

        async def sleeper(number: int) -> None:
            await noria.sleep(0.05 * number)  # on a busy machine it may take a while until all are asleep
            seen.append(number)

        tasks = [asyncio.create_task(sleeper(number)) for number in (3, 1, 4)]
        loop.call_later(0.1, seen.append, 2)
        await asyncio.gather(*tasks)
        return seen

    assert run(main()) == [1, 2, 3, 4]


def test_wrong_delays_are_refused_when_it_is_awaited(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="Invalid delay: NaN"):
            await noria.sleep(float("nan"))
        with pytest.raises(TypeError):
            await noria.sleep("1")  # type: ignore[arg-type]

    run(main())


def test_it_is_awaited_once(run: Run) -> None:
    async def main() -> None:
        once = noria.sleep(0)
        await once
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await once

    run(main())


def test_one_that_was_never_awaited_warns() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        noria.sleep(1)
        gc.collect()
    assert [str(warning.message) for warning in seen] == ["coroutine 'sleep' was never awaited"]


def test_thrown_into_or_closed_it_leaves_the_timers(run: Run) -> None:
    async def main() -> None:
        waiting = noria.sleep(60)
        waiting.send(None)
        with pytest.raises(KeyError, match="out"):
            waiting.throw(KeyError("out"))
        waiting = noria.sleep(60)
        waiting.send(None)
        waiting.close()
        waiting.close()
        fresh = noria.sleep(60)
        fresh.close()

    run(main())


def test_a_loop_with_a_time_of_its_own_is_asked_for_it() -> None:
    class Fast(noria.Loop):
        """Every timer is due at once."""

        def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
            asked.append(delay)
            return super().call_later(0, callback, *args, context=context)

    asked: list[float] = []
    with asyncio.Runner(loop_factory=Fast) as runner:
        assert runner.run(noria.sleep(3600, "soon")) == "soon"
    assert asked == [3600]
