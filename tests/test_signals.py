"""Signals: handlers run as callbacks of the loop, Ctrl-C ends noria.run as asyncio.run, and the wake-up descriptor is given back."""

import asyncio
import contextvars
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import noria
from core.running import DEADLINE, new_loop, on_noria, python, reports, turns, until


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Every test leaves handlers and wake-up descriptor as they were."""
    numbers = (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    yield
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == fd
    signal.set_wakeup_fd(fd)


@on_noria
async def test_a_handler_runs_in_the_loop_with_its_arguments() -> None:
    loop = asyncio.get_running_loop()
    seen: list[Any] = []
    loop.add_signal_handler(
        signal.SIGUSR1, lambda *args: seen.append((args, asyncio.get_running_loop())), 1, 2
    )
    os.kill(os.getpid(), signal.SIGUSR1)
    await until(lambda: seen)
    assert seen == [((1, 2), loop)]
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert not loop.remove_signal_handler(signal.SIGUSR1)


@on_noria
async def test_a_signal_wakes_a_sleeping_loop() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(20):
        came: asyncio.Future[None] = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, came.set_result, None)
        killer = threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGUSR1))
        loop.call_soon(killer.start)
        await came
        killer.join()
    loop.remove_signal_handler(signal.SIGUSR1)


@on_noria
async def test_a_second_handler_replaces_the_first() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "first")
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "second")
    os.kill(os.getpid(), signal.SIGUSR1)
    await until(lambda: seen)
    assert seen == ["second"]
    loop.remove_signal_handler(signal.SIGUSR1)


@on_noria
async def test_every_one_of_many_signals_of_different_kinds_arrives() -> None:
    loop = asyncio.get_running_loop()
    seen: set[int] = set()
    numbers = [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT]
    for number in numbers:
        loop.add_signal_handler(number, seen.add, number)
    for number in numbers:
        os.kill(os.getpid(), number)
    await until(lambda: seen == set(numbers))
    for number in numbers:
        loop.remove_signal_handler(number)


def test_closing_the_loop_takes_its_handlers_away() -> None:
    with new_loop() as loop:
        loop.add_signal_handler(signal.SIGUSR1, print)
        assert signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL
        loop.run_until_complete(asyncio.sleep(0))
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@on_noria
async def test_wrong_signals_and_callbacks_are_refused() -> None:
    loop = asyncio.get_running_loop()
    for wrong in (0, 1000, -1):
        with pytest.raises(ValueError):
            loop.add_signal_handler(wrong, print)
        with pytest.raises(ValueError):
            loop.remove_signal_handler(wrong)
    with pytest.raises(TypeError):
        loop.add_signal_handler("INT", print)  # type: ignore[arg-type]
    for uncatchable in (signal.SIGKILL, signal.SIGSTOP):
        with pytest.raises(RuntimeError, match="cannot be caught"):
            loop.add_signal_handler(uncatchable, print)

    async def coroutine() -> None: ...

    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(signal.SIGUSR1, coroutine)


def test_outside_the_main_thread_handlers_are_refused() -> None:
    refused: list[BaseException] = []

    async def main() -> None:
        try:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
        except RuntimeError as error:
            refused.append(error)

    thread = threading.Thread(target=lambda: noria.run(main()))
    thread.start()
    thread.join()
    assert "main thread" in str(refused[0])


def test_a_wakeup_descriptor_set_by_the_program_is_put_back_after_each_run() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        before = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        try:
            with new_loop() as loop:
                for _ in range(2):
                    loop.run_until_complete(asyncio.sleep(0))
                    assert signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False) == far.fileno()
        finally:
            signal.set_wakeup_fd(before)


def test_a_noria_loop_inside_another_passes_signals_on() -> None:
    async def main() -> None:
        stock, seen = asyncio.get_running_loop(), []
        stock.add_signal_handler(signal.SIGUSR1, seen.append, 1)

        async def inner() -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.002)

        noria.run(inner())
        while not seen:
            await asyncio.sleep(0.001)
        stock.remove_signal_handler(signal.SIGUSR1)

    asyncio.run(asyncio.wait_for(main(), 10))


# Ctrl-C, in a child process.

SLEEPER = """
import asyncio, noria, sys
async def main():
    print("ready", flush=True)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
try:
    noria.run(main())
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise
"""


def test_ctrl_c_cancels_the_main_task_and_then_interrupts() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=DEADLINE)
    assert out == "cancelled\ninterrupted\n"
    assert child.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_a_main_task_that_ignores_the_first_ctrl_c_is_interrupted_by_the_second() -> None:
    program = """
import asyncio, noria, os, signal, time
async def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("first", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(60)
try:
    noria.run(main())
except KeyboardInterrupt:
    print("second", flush=True)
"""
    done = python(program)
    assert done.stdout == "first\nsecond\n", done.stderr


def test_a_main_task_that_finishes_despite_ctrl_c_gives_its_result() -> None:
    program = """
import asyncio, noria, os, signal
async def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return "saved"
print(noria.run(main()))
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    done = python(program)
    assert done.stdout == "saved\nTrue\n", done.stderr


def test_a_handler_of_the_programs_own_for_ctrl_c_is_left_alone() -> None:
    program = """
import asyncio, noria, os, signal
seen = []
signal.signal(signal.SIGINT, lambda *args: seen.append(1))
async def main():
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.01)
    return len(seen)
print(noria.run(main()))
"""
    done = python(program)
    assert done.stdout == "1\n", done.stderr


def test_a_tight_loop_of_callbacks_can_be_interrupted() -> None:
    program = """
import asyncio, noria, os, signal, threading, time
async def main():
    loop = asyncio.get_running_loop()
    def again():
        loop.call_soon(again)
    again()
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    await asyncio.sleep(60)
try:
    noria.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    done = python(program)
    assert done.stdout == "interrupted\n", done.stderr


def test_a_blocking_callback_is_interrupted_by_the_second_ctrl_c() -> None:
    program = """
import asyncio, noria, os, signal, time
async def main():
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
try:
    noria.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    done = python(program)
    assert done.stdout == "interrupted\n", done.stderr


@on_noria
async def test_a_removed_handler_is_not_called_any_more() -> None:
    loop = asyncio.get_running_loop()
    seen: list[int] = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    loop.remove_signal_handler(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGUSR1)
    await turns(5)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert seen == []


def test_a_signal_in_a_forked_child_writes_into_no_file_of_the_child() -> None:
    # The wake-up descriptor is the parent's loop's; its number may soon be a file's in the child.
    program = """
import asyncio, noria, os, signal, tempfile

async def main():
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGUSR1, lambda *args: None)
            files = [tempfile.TemporaryFile() for _ in range(10)]
            os.kill(os.getpid(), signal.SIGUSR1)
            if all(os.fstat(file.fileno()).st_size == 0 for file in files):
                code = 0
        finally:
            os._exit(code)
    _, status = await asyncio.get_running_loop().run_in_executor(None, os.waitpid, pid, 0)
    print(os.waitstatus_to_exitcode(status))

noria.run(main())
"""
    done = python(program)
    assert done.stdout == "0\n", done.stderr


def test_handlers_and_ctrl_c_of_the_parent_do_not_bind_a_forked_child() -> None:
    # The loop they would run in is the parent's: the child could be neither terminated nor interrupted.
    program = """
import asyncio, noria, os, signal

def outcome(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def forked(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except KeyboardInterrupt:
            os._exit(50)
        finally:
            os._exit(60)
    return outcome(pid)

async def sleep():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        os._exit(70)

def interrupted_run():
    async def main():
        os.kill(os.getpid(), signal.SIGINT)
        await sleep()
    noria.run(main())

async def main():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, print, "never")
    print(forked(lambda: os.kill(os.getpid(), signal.SIGTERM)))
    print(forked(lambda: os.kill(os.getpid(), signal.SIGINT)))
    print(forked(interrupted_run))
    seen = []
    loop.add_signal_handler(signal.SIGTERM, seen.append, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.01)
    print(seen)

noria.run(main())
"""
    done = python(program)
    assert done.stdout == f"{-signal.SIGTERM}\n50\n70\n[1]\n", done.stderr
    assert done.returncode == 0


def test_what_the_program_sets_as_wakeup_descriptor_during_a_run_stays() -> None:
    near, far = socket.socketpair()
    far.setblocking(False)
    before = signal.set_wakeup_fd(-1)

    async def main() -> None:
        signal.set_wakeup_fd(far.fileno())

    with near, far:
        try:
            noria.run(main())
            assert signal.set_wakeup_fd(-1) == far.fileno()
        finally:
            signal.set_wakeup_fd(before)


def test_a_wakeup_descriptor_that_was_closed_during_a_run_is_no_error() -> None:
    near, far = socket.socketpair()
    far.setblocking(False)
    before = signal.set_wakeup_fd(far.fileno())

    async def main() -> int:
        far.close()
        return 7

    with near:
        try:
            assert noria.run(main()) == 7
            assert signal.set_wakeup_fd(-1) == -1
        finally:
            signal.set_wakeup_fd(before)


def test_a_handler_of_a_loop_in_another_thread_runs_there() -> None:
    ready, stop = threading.Event(), threading.Event()
    loop = noria.new_event_loop()
    ran_in: list[int] = []

    async def main() -> None:
        loop.call_soon(ready.set)
        while not ran_in:
            await asyncio.sleep(0.001)
        stop.set()

    def handler() -> None:
        ran_in.append(threading.get_ident())

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert ready.wait(DEADLINE)
    loop.add_signal_handler(signal.SIGUSR1, handler)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.wait(DEADLINE)
    thread.join()
    assert ran_in == [thread.ident]
    loop.close()


def test_loops_in_other_threads_neither_take_nor_lose_the_main_threads_signals() -> None:
    done = threading.Event()

    async def busy() -> None:
        while not done.is_set():
            await asyncio.sleep(0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(50):
            came: asyncio.Future[None] = loop.create_future()
            loop.add_signal_handler(signal.SIGUSR1, came.set_result, None)
            os.kill(os.getpid(), signal.SIGUSR1)
            await came
        loop.remove_signal_handler(signal.SIGUSR1)

    threads = [threading.Thread(target=lambda: noria.run(busy())) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        noria.run(asyncio.wait_for(main(), DEADLINE))
    finally:
        done.set()
        for thread in threads:
            thread.join()


@on_noria
async def test_an_error_in_a_handler_is_reported_and_the_loop_goes_on() -> None:
    loop = asyncio.get_running_loop()

    def fail() -> None:
        raise ZeroDivisionError

    with reports() as seen:
        loop.add_signal_handler(signal.SIGUSR1, fail)
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: seen)
    assert isinstance(seen[0]["exception"], ZeroDivisionError)
    loop.remove_signal_handler(signal.SIGUSR1)


@on_noria
async def test_a_handler_runs_in_the_context_it_was_added_in() -> None:
    loop = asyncio.get_running_loop()
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []
    token = variable.set("added")
    loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(variable.get()))
    variable.reset(token)
    os.kill(os.getpid(), signal.SIGUSR1)
    await until(lambda: seen)
    assert seen == ["added"]
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_signal_between_two_runs_is_handled_in_the_next() -> None:
    seen: list[int] = []
    with new_loop() as loop:
        loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
        loop.run_until_complete(asyncio.sleep(0))
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == []
        loop.run_until_complete(asyncio.sleep(0))
        assert seen == [1]


def test_noria_and_asyncio_mean_the_same_by_ctrl_c() -> None:
    program = """
import asyncio, noria, os, signal, sys
run = getattr(sys.modules[sys.argv[1]], "run")
async def cleanup():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
    except asyncio.CancelledError as error:
        print("main cancelled", error.args)
        raise
    finally:
        print("cleaned up")
async def other():
    try:
        await asyncio.sleep(60)
    finally:
        print("other ended")
async def caught():
    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    try:
        await cleanup()
    except asyncio.CancelledError:
        asyncio.current_task().uncancel()
    return "kept"
async def failing():
    try:
        await cleanup()
    except asyncio.CancelledError:
        raise ValueError("instead")
for main in (cleanup, caught, failing):
    try:
        print(run(main()))
    except BaseException as error:
        print(repr(error))
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    outcomes = [
        subprocess.run(
            [sys.executable, "-c", program, module],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        for module in ("asyncio", "noria")
    ]
    assert outcomes[0].stdout == outcomes[1].stdout
    assert "KeyboardInterrupt()" in outcomes[1].stdout
    assert [outcome.returncode for outcome in outcomes] == [0, 0], outcomes[1].stderr


@on_noria
async def test_a_handler_is_called_though_the_program_has_put_one_of_its_own_over_it() -> None:
    """As in asyncio. uvicorn does so while it serves, and raises the signal again when it has given the place back."""
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "the loop's")
    ours = signal.signal(signal.SIGUSR1, lambda *_: seen.append("the program's"))
    signal.raise_signal(signal.SIGUSR1)
    await until(lambda: len(seen) == 2)
    assert seen == ["the program's", "the loop's"]
    signal.signal(signal.SIGUSR1, ours)
    signal.raise_signal(signal.SIGUSR1)
    await until(lambda: len(seen) == 3)
    await turns(5)
    assert seen[2:] == ["the loop's"]
    loop.remove_signal_handler(signal.SIGUSR1)
