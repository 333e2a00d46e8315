"""noria's names on loops that are not noria's: each works there, or says that it needs a loop of noria's.

A table of all of them, on asyncio's loop and, where it is installed, on uvloop: which names those are the package is
asked, so that none is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import re
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import noria
from sync.loops import DEADLINE, turns

Use = Callable[[], Awaitable[None]]
USES: dict[str, Use] = {}


def use(*names: str) -> Callable[[Use], Use]:
    def note(test: Use) -> Use:
        USES.update(dict.fromkeys(names, test))
        return test

    return note


def loop_() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def answer(value: int = 42, delay: float = 0) -> int:
    await noria.sleep(delay)
    return value


async def waiting(*coros: Any) -> list[asyncio.Task[Any]]:
    """Tasks for these coroutines, of which none can go on yet; the first one is cancelled again."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(coro) for coro in coros]
    await turns(2)
    assert not any(task.done() for task in tasks)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks.pop(0)
    return tasks


# What tasks wait for.


@use("Lock")
async def lock() -> None:
    lock = noria.Lock()
    async with lock:
        _, (task,) = lock, await waiting(lock.acquire(), lock.acquire())
        with pytest.raises(TimeoutError):
            await noria.wait_for(lock.acquire(), 0.001)
    assert await task
    assert lock.locked()


@use("Event")
async def event() -> None:
    event = noria.Event()
    (task,) = await waiting(event.wait(), event.wait())
    event.set()
    assert await task


@use("Condition")
async def condition() -> None:
    condition = noria.Condition()

    async def wait() -> None:
        async with condition:
            await condition.wait()

    (task,) = await waiting(wait(), wait())
    async with condition:
        condition.notify_all()
    await task


@use("Semaphore", "BoundedSemaphore")
async def semaphores() -> None:
    for kind in (noria.Semaphore, noria.BoundedSemaphore):
        semaphore = kind(1)
        async with semaphore:
            (task,) = await waiting(semaphore.acquire(), semaphore.acquire())
        assert await task
    semaphore.release()
    with pytest.raises(ValueError, match="too many"):
        semaphore.release()


@use("Barrier")
async def barrier() -> None:
    barrier = noria.Barrier(3)
    await waiting(barrier.wait())
    task = asyncio.create_task(barrier.wait())
    await turns(2)
    assert await noria.gather(barrier.wait(), barrier.wait(), task) == [1, 2, 0]


@use("Queue", "PriorityQueue", "LifoQueue", "QueueShutDown")
async def queues() -> None:
    for kind in (noria.Queue, noria.PriorityQueue, noria.LifoQueue):
        queue: Any = kind(1)
        (getting,) = await waiting(queue.get(), queue.get())
        await queue.put(1)
        assert await getting == 1
        await queue.put(2)
        (putting,) = await waiting(queue.put(3), queue.put(4))
        assert await queue.get() == 2
        await putting
        (joining,) = await waiting(queue.join(), queue.join())
        for _ in range(3):
            queue.task_done()
        await joining
        queue.shutdown(immediate=True)
        with pytest.raises(noria.QueueShutDown):
            await queue.get()


@use("sleep")
async def sleep() -> None:
    assert await noria.sleep(0, "at once") == "at once"
    before = loop_().time()
    assert await noria.sleep(0.005, "later") == "later"
    assert loop_().time() - before >= 0.0049
    await waiting(noria.sleep(100))


@use("timeout", "timeout_at", "Timeout")
async def timeouts() -> None:
    async with noria.timeout(10) as deadline:
        assert isinstance(deadline, noria.Timeout)
        await noria.sleep(0)
    for late in (noria.timeout(0.001), noria.timeout_at(loop_().time())):
        with pytest.raises(TimeoutError):
            async with late:
                await noria.sleep(100)
        assert late.expired()


@use("wait_for")
async def wait_for() -> None:
    assert await noria.wait_for(answer(), 10) == 42
    assert await noria.wait_for(answer(), None) == 42
    for time in (0.001, 0):
        with pytest.raises(TimeoutError):
            await noria.wait_for(noria.sleep(100), time)
    await waiting(noria.wait_for(noria.sleep(100), 100))


# Tasks and futures.


@use("Future", "isfuture")
async def future() -> None:
    promise: noria.Future[str] = noria.Future(loop=loop_())
    assert noria.isfuture(promise)
    assert promise.get_loop() is loop_()
    seen: list[str] = []
    promise.add_done_callback(lambda done: seen.append(done.result()))
    loop_().call_soon(promise.set_result, "kept")
    assert await promise == "kept"
    await turns(1)
    assert seen == ["kept"]


@use("Task")
async def task() -> None:
    task: noria.Task[int] = noria.Task(answer(delay=0.001), loop=loop_())
    assert task in asyncio.all_tasks()
    assert await task == 42
    task = noria.Task(answer(), loop=loop_(), eager_start=True)
    assert await task == 42
    task = noria.Task(answer(delay=100), loop=loop_())
    await turns(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@use("create_task", "current_task", "all_tasks")
async def create_task() -> None:
    async def who() -> Any:
        return noria.current_task()

    task = noria.create_task(who(), name="mine")
    assert task.get_name() == "mine"
    assert task in noria.all_tasks()
    assert await task is task


@use("eager_task_factory", "create_eager_task_factory")
async def eager_task_factory() -> None:
    before = loop_().get_task_factory()
    loop_().set_task_factory(noria.eager_task_factory)  # type: ignore[arg-type]
    try:
        seen: list[int] = []

        async def start() -> None:
            seen.append(1)
            await noria.sleep(0)
            seen.append(2)

        coro = start()
        try:
            task = loop_().create_task(coro)
        except TypeError as error:
            coro.close()
            pytest.skip(f"this loop does not go with asyncio's eager factories either: {error}")
        assert seen == [1]
        await task
        assert seen == [1, 2]
    finally:
        loop_().set_task_factory(before)


@use("ensure_future")
async def ensure_future() -> None:
    assert await noria.ensure_future(answer()) == 42
    plain = loop_().create_future()
    assert noria.ensure_future(plain) is plain


@use("gather")
async def gather() -> None:
    plain = loop_().create_future()
    loop_().call_soon(plain.set_result, 3)
    assert await noria.gather(answer(1), asyncio.create_task(answer(2)), plain) == [1, 2, 3]
    await waiting(noria.wait_for(noria.gather(noria.sleep(100), noria.sleep(100)), 100))


@use("shield")
async def shield() -> None:
    inner = asyncio.create_task(answer(delay=0.002))
    with pytest.raises(TimeoutError):
        await noria.wait_for(noria.shield(inner), 0.0001)
    assert await noria.shield(inner) == 42


@use("wait")
async def wait() -> None:
    tasks = [asyncio.create_task(answer()), asyncio.create_task(noria.sleep(100))]
    done, pending = await noria.wait(tasks, return_when=noria.FIRST_COMPLETED)
    assert (done, pending) == ({tasks[0]}, {tasks[1]})
    assert (await noria.wait(tasks, timeout=0.001))[1] == pending
    tasks[1].cancel()
    assert (await noria.wait(tasks))[0] == set(tasks)


@use("as_completed")
async def as_completed() -> None:
    assert [await each for each in noria.as_completed([answer(2, 0.005), answer(1)])] == [1, 2]
    assert [await each async for each in noria.as_completed([answer(2, 0.005), answer(1)])] == [1, 2]
    with pytest.raises(TimeoutError):
        async for _ in noria.as_completed([loop_().create_future()], timeout=0.001):
            pass


@use("TaskGroup")
async def task_group() -> None:
    async with noria.TaskGroup() as group:
        tasks = [group.create_task(answer(n, 0.001)) for n in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]

    async def fail() -> None:
        await noria.sleep(0)
        raise KeyError

    with pytest.raises(BaseExceptionGroup):
        async with noria.TaskGroup() as group:
            group.create_task(fail())
            await noria.sleep(100)


@use("to_thread", "run_coroutine_threadsafe", "wrap_future")
async def threads() -> None:
    assert await noria.to_thread(threading.get_ident) != threading.get_ident()
    loop = loop_()

    def elsewhere() -> int:
        return noria.run_coroutine_threadsafe(answer(delay=0.001), loop).result(DEADLINE)

    assert await noria.to_thread(elsewhere) == 42
    theirs = noria.run_coroutine_threadsafe(answer(), loop)
    assert await noria.wrap_future(theirs) == 42


# Streams and children.


async def echo(reader: Any, writer: Any) -> None:
    async for line in reader:
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def talk(reader: Any, writer: Any) -> None:
    writer.writelines([b"one\n", b"two\n"])
    await writer.drain()
    assert await reader.readline() == b"one\n"
    assert await reader.readuntil((b"o\n", b"x")) == b"two\n"
    with pytest.raises(TimeoutError):
        await noria.wait_for(reader.readexactly(1), 0.001)
    writer.write_eof()
    assert await reader.read() == b""
    assert reader.at_eof()
    writer.close()
    await writer.wait_closed()


@use("open_connection", "start_server", "StreamReader", "StreamWriter", "StreamReaderProtocol")
async def connections() -> None:
    server = await noria.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await noria.open_connection(*server.sockets[0].getsockname())
        assert type(reader) is noria.StreamReader
        assert type(writer) is noria.StreamWriter
        assert type(writer.transport.get_protocol()) is noria.StreamReaderProtocol
        await talk(reader, writer)


@use("open_unix_connection", "start_unix_server")
async def unix_connections() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s"
        async with await noria.start_unix_server(echo, str(path)):
            await talk(*await noria.open_unix_connection(str(path)))


@use("create_subprocess_exec", "create_subprocess_shell")
async def children() -> None:
    pipes: dict[str, Any] = {"stdin": noria.subprocess.PIPE, "stdout": noria.subprocess.PIPE}
    process = await noria.create_subprocess_exec(sys.executable, "-c", "print(input())", **pipes)
    assert await process.communicate(b"there and back\n") == (b"there and back\n", None)
    process = await noria.create_subprocess_shell("cat", **pipes)
    assert await process.communicate(b"there and back\n") == (b"there and back\n", None)
    assert process.returncode == 0


# What is about loops: noria's in the place of the running one, or beside it.


@use("run", "Runner", "Loop", "EventLoop", "new_event_loop")
async def loops() -> None:
    """They make a loop of noria's, on which to run, inside the one that runs."""
    outer = loop_()
    assert noria.run(answer()) == 42
    with noria.Runner() as runner:
        assert runner.run(answer()) == 42
    with contextlib.closing(noria.new_event_loop()) as own:
        assert isinstance(own, noria.Loop)
        assert own.run_until_complete(answer()) == 42
    assert loop_() is outer
    await noria.sleep(0.001)


@use("Handle", "TimerHandle", "Server")
async def parts_of_loops() -> None:
    """Made by noria's loop alone: here programs get those of the loop that runs, for which these do not pass."""
    handle, timer = loop_().call_soon(int), loop_().call_later(100, int)
    timer.cancel()
    assert not isinstance(handle, noria.Handle)
    assert not isinstance(timer, noria.TimerHandle)
    server = await noria.start_server(echo, "127.0.0.1", 0)
    async with server:
        assert not isinstance(server, noria.Server)


@use("patch", "unpatch", "install", "EventLoopPolicy")
async def substitution() -> None:
    """They change what programs find from then on, and leave the loop that runs alone."""
    before = asyncio.sleep
    noria.patch()
    try:
        assert asyncio.sleep is noria.sleep
        assert await asyncio.wait_for(asyncio.sleep(0.001, 42), 10) == 42
    finally:
        noria.unpatch()
    assert asyncio.sleep is before
    policy = asyncio.get_event_loop_policy()
    assert not isinstance(policy, noria.EventLoopPolicy)
    noria.install()
    try:
        assert isinstance(asyncio.get_event_loop_policy(), noria.EventLoopPolicy)
        await noria.sleep(0.001)
    finally:
        asyncio.set_event_loop_policy(policy)


@use("open", "files")
async def files() -> None:
    """They make the engine for files theirs, whoever's loop it is."""
    expected = Path(__file__).read_bytes()
    async with noria.open(__file__, "rb") as file:
        assert await file.read() == expected
    assert await noria.files.read_bytes(__file__) == expected


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.new_event_loop()
    if importlib.util.find_spec("uvloop") is None:
        pytest.skip("needs uvloop: pip install uvloop")
    loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
    return loop


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    with contextlib.closing(new_loop(request.param)) as loop:
        yield loop
        loop.run_until_complete(loop.shutdown_default_executor())


@pytest.mark.parametrize("name", USES)
def test_it_works_on_another_loop_or_says_that_it_does_not(
    name: str, loop: asyncio.AbstractEventLoop
) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE):
            await USES[name]()
        await turns(5)
        if "uvloop" not in type(loop).__module__:
            assert asyncio.all_tasks() == {asyncio.current_task()}

    seen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, report: seen.append(report))
    loop.run_until_complete(main())
    assert not seen, seen


def test_the_table_has_every_name_that_is_norias_own() -> None:
    own = {name for name in noria.__all__ if getattr(noria, name) is not getattr(asyncio, name, None)}
    own = {name for name in own if not re.match("__", name)}
    assert own - set(USES) == set()
