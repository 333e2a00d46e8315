"""Forks: a child runs loops of its own and never disturbs its parent's.

Children are forked from inside a running loop, where everything of the parent is inherited: its epoll instance, its
wake-up pipe, connections, timers, signal handlers, children. Each child ends by os._exit with a code that tells how it went.
"""

import asyncio
import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import new_loop, on_noria, python, turns, until
from net.peers import Echo, Recorder, connected, nothing_left_open, pair, read_all
from net.test_connections import loop_
from support.leaks import open_descriptors

# From 3.12 on forking with threads about is warned of; the default executor of another test may have left some.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def forked(child: Callable[[], object]) -> int:
    """Run child() in a fork, which then ends at once. Returns its number; exit code 0 if nothing was raised."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        child()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


async def ended(pid: int) -> int:
    """Wait for a fork's end; returns its exit code."""
    return os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, pid, 0))[1])


async def echoes(transport: Any, protocol: Any, far: socket.socket) -> None:
    """Fail unless the connection carries bytes both ways."""
    before = len(protocol.received)
    transport.write(b"there")
    assert await read_all(far, 5) == b"there"
    far.send(b"back")
    assert (await protocol.got(before + 4))[before:] == b"back"


async def work() -> str:
    """A bit of everything: timers, tasks, threads, a server and a client, a child."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.001)
    assert await asyncio.gather(*(asyncio.sleep(0, n) for n in range(10))) == list(range(10))
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    transport.write(b"echo")
    assert await protocol.got(4) == b"echo"
    transport.close()
    await protocol.lost
    server.close()
    child = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
    assert await child.wait() == 3
    woken: asyncio.Future[str] = loop.create_future()
    threading.Timer(0.001, lambda: loop.call_soon_threadsafe(woken.set_result, "worked")).start()
    return await woken


def works() -> None:
    assert noria.run(work()) == "worked"


@on_noria
async def test_a_forked_child_runs_a_loop_of_its_own_inside_its_parents_task() -> None:
    async with nothing_left_open():
        async with connected() as (transport, protocol, far):
            for _ in range(3):
                assert await ended(forked(works)) == 0
                await echoes(transport, protocol, far)
        assert await work() == "worked"


def test_a_child_forked_outside_any_run_works_too() -> None:
    with new_loop() as loop:
        loop.run_until_complete(work())
        assert os.waitpid(forked(works), 0)[1] == 0
        loop.run_until_complete(work())


def test_a_child_forked_in_another_thread_works_too() -> None:
    # The parent's loop sleeps in the kernel at that moment, in the thread that the child does not have.
    @on_noria
    async def program() -> None:
        async with connected() as (transport, protocol, far):
            pid = await asyncio.to_thread(forked, works)
            assert await ended(pid) == 0
            await echoes(transport, protocol, far)

    program()


@pytest.mark.parametrize("runner", ["asyncio.run", "Runner", "new_event_loop"])
def test_every_way_in_works_in_the_child(runner: str) -> None:
    def child() -> None:
        if runner == "asyncio.run":
            assert asyncio.run(work()) == "worked"
        elif runner == "Runner":
            with noria.Runner() as new:
                assert new.run(work()) == "worked"
        else:
            loop = noria.new_event_loop()
            assert loop.run_until_complete(work()) == "worked"
            loop.close()

    @on_noria
    async def program() -> None:
        assert await ended(forked(child)) == 0

    program()


def square(connection: Any, number: int) -> None:
    async def main() -> int:
        await asyncio.sleep(0.001)
        assert await work() == "worked"
        return number * number

    connection.send(noria.run(main()))
    connection.close()


@on_noria
async def test_processes_of_multiprocessing_run_loops() -> None:
    context = multiprocessing.get_context("fork")
    near, far = context.Pipe()
    with near:
        with far:
            process = context.Process(target=square, args=(far, 12))
            process.start()
        assert await asyncio.to_thread(near.recv) == 144
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
        process.close()


@on_noria
async def test_what_a_child_does_to_its_parents_connections_the_parent_does_not_feel() -> None:
    loop = loop_()
    async with nothing_left_open():
        async with (
            connected() as (transport, protocol, far),
            connected() as (other, other_protocol, other_far),
        ):
            accepted: list[Recorder] = []

            def factory() -> Recorder:
                accepted.append(Recorder())
                return accepted[-1]

            server = await loop.create_server(factory, "127.0.0.1", 0)
            near, mine = pair()
            loop.add_reader(near, lambda: seen.append(near.recv(100)))
            seen: list[bytes] = []

            def meddles() -> None:
                transport.write(b"meddling")
                transport.close()
                other.write_eof()
                other.abort()
                server.close()
                loop.remove_reader(near)
                near.close()
                with contextlib.suppress(RuntimeError):
                    loop.close()
                gc.collect()

            for _ in range(3):
                assert await ended(forked(meddles)) == 0
            with pytest.raises(BlockingIOError):
                far.recv(100)
            with pytest.raises(BlockingIOError):
                other_far.recv(100)  # nor an end of the stream
            await echoes(transport, protocol, far)
            await echoes(other, other_protocol, other_far)
            client, _ = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
            await until(lambda: accepted)
            mine.send(b"seen")
            await until(lambda: seen)
            assert seen == [b"seen"]
            loop.remove_reader(near)
            near.close()
            mine.close()
            client.close()
            server.close()
            await server.wait_closed()


@on_noria
async def test_a_child_that_closes_a_server_leaves_its_parents_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = await loop_().create_unix_server(Echo, path)
    assert await ended(forked(server.close)) == 0
    transport, protocol = await loop_().create_unix_connection(Recorder, path)
    transport.write(b"echo")
    assert await protocol.got(4) == b"echo"
    transport.close()
    server.close()
    await server.wait_closed()


@on_noria
async def test_timers_and_callbacks_of_the_parent_run_in_the_parent_alone() -> None:
    loop = loop_()
    out, into = os.pipe()
    ran: list[int] = []

    def note() -> None:
        ran.append(os.getpid())
        os.write(into, b"x")

    loop.call_later(0.02, note)
    loop.call_soon(note)
    task = asyncio.create_task(asyncio.sleep(0.02, "done"))

    async def longer() -> None:
        await asyncio.sleep(0.05)

    def child() -> None:
        noria.run(longer())

    assert await ended(forked(child)) == 0
    await until(lambda: len(ran) == 2)
    assert ran == [os.getpid()] * 2
    assert await task == "done"
    assert os.read(out, 10) == b"xx"
    os.close(out)
    os.close(into)


@on_noria
async def test_calls_from_the_child_do_not_reach_or_wake_the_parent() -> None:
    loop = loop_()
    ran: list[int] = []

    def child() -> None:
        for call in (loop.call_soon_threadsafe, loop.call_soon):
            with contextlib.suppress(RuntimeError):
                call(ran.append, 1)
                raise AssertionError("taken by a loop that will not run")

    assert await ended(forked(child)) == 0
    await turns(3)
    assert ran == []


@on_noria
async def test_signals_to_the_child_do_not_reach_the_parent() -> None:
    loop = loop_()
    seen: list[int] = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)

    def child() -> None:
        async def main() -> None:
            got: asyncio.Future[None] = loop_().create_future()
            loop_().add_signal_handler(signal.SIGUSR1, got.set_result, None)
            os.kill(os.getpid(), signal.SIGUSR1)
            await got

        noria.run(main())
        signal.signal(signal.SIGUSR1, lambda *args: None)
        os.kill(os.getpid(), signal.SIGUSR1)

    assert await ended(forked(child)) == 0
    await turns(3)
    assert seen == []
    os.kill(os.getpid(), signal.SIGUSR1)
    await until(lambda: seen)
    loop.remove_signal_handler(signal.SIGUSR1)


@on_noria
async def test_a_forked_child_does_not_end_its_parents_children() -> None:
    started = await asyncio.create_subprocess_exec("sleep", "60", stdout=asyncio.subprocess.PIPE)
    transport = started._transport  # type: ignore[attr-defined]

    def child() -> None:
        began = time.monotonic()
        transport.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transport.__del__()
        assert time.monotonic() - began < 0.15  # it waits for nobody's end

    assert await ended(forked(child)) == 0
    os.kill(started.pid, 0)
    assert started.returncode is None
    started.kill()
    assert await started.wait() == -signal.SIGKILL


@on_noria
async def test_the_parents_loop_says_in_the_child_whose_it_is() -> None:
    loop = loop_()

    def child() -> None:
        assert loop.is_closed()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.run_until_complete(asyncio.sleep(0))
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    assert await ended(forked(child)) == 0
    assert not loop.is_closed()


def test_a_child_that_returns_into_its_parents_loop_is_told_so() -> None:
    program = """
import asyncio, noria, os
async def main():
    if os.fork() == 0:
        await asyncio.sleep(60)
    else:
        await asyncio.sleep(0.01)
        _, status = os.wait()
        print(os.waitstatus_to_exitcode(status))
noria.run(main())
"""
    done = python(program, "-W", "ignore")
    assert done.stdout == "1\n", done.stderr
    assert "this event loop is the parent process's: a forked child needs a new one" in done.stderr


def test_a_child_may_end_by_sys_exit_inside_its_parents_run() -> None:
    program = """
import noria, os, sys
async def main():
    pid = os.fork()
    if pid == 0:
        sys.exit(3)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status))
noria.run(main())
"""
    done = python(program)
    assert done.stdout == "3\n", done.stderr
    assert done.stderr == ""


@on_noria
async def test_descriptors_of_the_parents_loop_do_not_stay_in_the_child() -> None:
    def polls() -> int:
        return list(open_descriptors().values()).count("anon_inode:[eventpoll]")

    def child() -> None:
        assert polls() == before - 1  # others than this loop's may be open in a process that runs many tests

    before = polls()
    assert await ended(forked(child)) == 0


def test_forks_of_forks_work() -> None:
    def child() -> None:
        async def main() -> None:
            assert await ended(forked(works)) == 0

        noria.run(main())

    @on_noria
    async def program() -> None:
        assert await ended(forked(child)) == 0

    program()
