"""Debug mode: slow callbacks are named, calls from the wrong thread are refused, and things know where they were made."""

import asyncio
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import noria
from core.running import python


@contextmanager
def debugging() -> Iterator[noria.Loop]:
    loop = noria.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01
    try:
        yield loop
    finally:
        loop.close()


def slow_callback() -> None:
    time.sleep(0.02)


def test_a_slow_callback_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with debugging() as loop:
        loop.call_soon(slow_callback)
        loop.run_until_complete(asyncio.sleep(0))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "slow_callback" in record.message
    assert "test_debug.py" in record.message
    took = re.search(r"took (\d+\.\d{3}) seconds", record.message)
    assert took is not None
    assert float(took[1]) >= 0.02


def test_a_slow_step_names_the_task(caplog: pytest.LogCaptureFixture) -> None:
    async def slow_step() -> None:
        time.sleep(0.02)  # noqa: ASYNC251

    with debugging() as loop:
        loop.run_until_complete(slow_step())
    (record,) = caplog.records
    assert "slow_step" in record.message


def test_a_slow_protocol_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            time.sleep(0.02)
            got.set()

    async def main() -> None:
        near, far = socket.socketpair()
        with far:
            near.setblocking(False)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(Slow, near)
            far.send(b"x")
            await got.wait()
            transport.abort()
            await asyncio.sleep(0)

    with debugging() as loop:
        got = asyncio.Event()
        loop.run_until_complete(main())
    [took] = [re.search(r"Slow object .* took ([\d.]+) seconds", record.message) for record in caplog.records]
    assert took is not None
    assert float(took[1]) >= 0.02


def test_calls_from_the_wrong_thread_are_refused() -> None:
    refused: list[str] = []

    def wrong(loop: noria.Loop, future: "asyncio.Future[None]") -> None:
        calls = [
            lambda: loop.call_soon(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_at(1, print),
            lambda: loop.create_task(coro),
        ]
        for call in calls:
            coro = asyncio.sleep(0)
            try:
                call()
            except RuntimeError as error:
                refused.append(str(error))
            coro.close()
        loop.call_soon_threadsafe(loop.stop)

    with debugging() as loop:
        loop.set_exception_handler(lambda _, report: None)  # the refused task
        thread = threading.Thread(target=wrong, args=(loop, loop.create_future()))
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()
    assert len(refused) == 4
    assert all("Non-thread-safe operation" in message for message in refused)


def test_coroutines_are_no_callbacks() -> None:
    async def function() -> None: ...

    with debugging() as loop:
        coro = function()
        for wrong in (function, coro):
            for call in (loop.call_soon, lambda c: loop.call_later(1, c), lambda c: loop.call_at(1, c)):
                with pytest.raises(TypeError, match="coroutines cannot be used"):
                    call(wrong)  # type: ignore[operator]
            with pytest.raises(TypeError, match="coroutines cannot be used"):
                loop.run_in_executor(None, wrong)  # type: ignore[arg-type]
        coro.close()


def test_things_know_where_they_were_made() -> None:
    with debugging() as loop:
        here = "test_debug.py"
        task = loop.create_task(asyncio.sleep(0))
        for thing in (loop.call_soon(print), loop.call_later(100, print), loop.create_future(), task):
            assert "created at" in repr(thing)
            assert here in repr(thing)
        handle = loop.call_soon(slow_callback)
        handle.cancel()
        assert "slow_callback" in repr(handle)  # what it was
        loop.run_until_complete(task)


def test_origins_of_coroutines_are_tracked_while_it_runs_only() -> None:
    depth = sys.get_coroutine_origin_tracking_depth()

    async def main() -> int:
        return sys.get_coroutine_origin_tracking_depth()

    with debugging() as loop:
        assert loop.run_until_complete(main()) > 0
    assert sys.get_coroutine_origin_tracking_depth() == depth


def test_debug_mode_follows_the_interpreter() -> None:
    program = "import noria; print(noria.run(noria.sleep(0)), end=''); l = noria.new_event_loop(); print(l.get_debug()); l.close()"
    assert python(program, "-X", "dev").stdout == "NoneTrue\n"
    assert python(program).stdout == "NoneFalse\n"
