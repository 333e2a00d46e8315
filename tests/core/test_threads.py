"""Other threads: calls from them reach a sleeping loop, and executors run work beside it."""

import asyncio
import concurrent.futures
import threading
import time

import pytest

import noria
from core.running import new_loop, on_noria, python


def test_a_hundred_thousand_calls_from_four_threads_all_run() -> None:
    each = 25_000
    count = 0

    with new_loop() as loop:

        def arrived() -> None:
            nonlocal count
            count += 1
            if count == 4 * each:
                loop.stop()

        def send() -> None:
            for n in range(each):
                loop.call_soon_threadsafe(arrived)
                if n % 2500 == 0:
                    time.sleep(0.001)  # the loop falls asleep now and then

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        loop.run_forever()
        for thread in threads:
            thread.join()
    assert count == 4 * each


def test_calls_of_one_thread_keep_their_order() -> None:
    seen: list[int] = []
    with new_loop() as loop:

        def send() -> None:
            for n in range(5000):
                loop.call_soon_threadsafe(seen.append, n)
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=send)
        thread.start()
        loop.run_forever()
        thread.join()
    assert seen == list(range(5000))


def test_a_call_wakes_a_loop_that_has_nothing_else_to_wait_for() -> None:
    with new_loop() as loop:
        for _ in range(200):
            future = loop.create_future()
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, None))
            thread.start()
            loop.run_until_complete(future)
            thread.join()


def test_a_call_wakes_a_loop_that_fell_asleep_long_ago() -> None:
    program = """
import noria, threading
loop = noria.new_event_loop()
threading.Timer(0.05, loop.call_soon_threadsafe, (loop.stop,)).start()
loop.run_forever()
loop.close()
print("woken")
"""
    assert python(program, timeout=10).stdout == "woken\n"


def test_calls_may_be_made_before_the_loop_runs_and_while_it_closes() -> None:
    loop = noria.new_event_loop()
    refused = threading.Event()
    started = threading.Event()

    def send() -> None:
        try:
            while True:
                loop.call_soon_threadsafe(int)
                started.set()
        except RuntimeError:
            refused.set()

    thread = threading.Thread(target=send)
    thread.start()
    started.wait(10)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert refused.wait(10)
    thread.join()


@on_noria
async def test_run_in_executor_returns_results_and_errors() -> None:
    loop = asyncio.get_running_loop()
    here = threading.get_ident()
    assert await loop.run_in_executor(None, threading.get_ident) != here
    assert await loop.run_in_executor(None, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(None, lambda: 1 / 0)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert await loop.run_in_executor(pool, sum, [1, 2]) == 3
    assert await asyncio.to_thread(len, "four") == 4
    assert await asyncio.gather(*(loop.run_in_executor(None, int, n) for n in range(50))) == list(range(50))


@on_noria
async def test_cancelling_a_call_in_an_executor_frees_the_task_at_once() -> None:
    loop = asyncio.get_running_loop()
    go = threading.Event()
    future = loop.run_in_executor(None, go.wait, 10)
    await asyncio.sleep(0.001)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    go.set()


def test_the_default_executor_is_shut_down_with_the_run() -> None:
    finished = threading.Event()

    def work() -> None:
        time.sleep(0.02)
        finished.set()

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, work)

    before = threading.active_count()
    noria.run(main())
    assert finished.is_set()
    assert threading.active_count() == before


@on_noria
async def test_after_the_shutdown_no_more_work_is_taken() -> None:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, int)
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
        loop.run_in_executor(None, int)
    await loop.shutdown_default_executor()


def test_shutting_down_gives_up_on_a_busy_thread_with_a_warning() -> None:
    go = threading.Event()

    async def main() -> None:
        loop = noria.get_running_loop()
        assert isinstance(loop, noria.Loop)
        loop.run_in_executor(None, go.wait, 10)
        with pytest.warns(RuntimeWarning, match="did not finishing joining"):
            await loop.shutdown_default_executor(0.01)
        go.set()

    noria.run(main())


@on_noria
async def test_only_a_thread_pool_can_be_the_default_executor() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(TypeError):
        loop.set_default_executor(object())  # type: ignore[arg-type]
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine")
    loop.set_default_executor(pool)
    name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
    assert name.startswith("mine")
