"""A user's program that uses all of noria's primitives, with the types it may count on: those of the standard library.

Read by mypy in strict mode and run by Python, as program.py is.
"""

import asyncio
import concurrent.futures
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, Literal, assert_type

import noria


async def answer() -> int:
    await noria.sleep(0)
    return 42


async def name() -> str:
    return await noria.sleep(0, "name")


async def locks() -> None:
    lock = noria.Lock()
    assert_type(await lock.acquire(), Literal[True])
    assert_type(lock.locked(), bool)
    assert_type(lock.release(), None)
    async with lock as entered:
        assert_type(entered, None)

    event = noria.Event()
    assert_type(event.set(), None)
    assert_type(event.is_set(), bool)
    assert_type(await event.wait(), Literal[True])
    event.clear()

    condition = noria.Condition(lock)
    async with condition:
        condition.notify()
        condition.notify_all()
        assert_type(await condition.wait_for(lambda: "true"), str)
        assert_type(await condition.wait_for(lambda: [1]), list[int])

    for semaphore in (noria.Semaphore(2), noria.BoundedSemaphore(2)):
        async with semaphore:
            assert_type(semaphore.locked(), bool)
        assert_type(await semaphore.acquire(), Literal[True])
        semaphore.release()

    barrier = noria.Barrier(1)
    async with barrier as position:
        assert_type(position, int)
    assert_type(await barrier.wait(), int)
    assert_type(barrier.parties, int)
    assert_type(barrier.broken, bool)

    # Each passes where asyncio's is wanted.
    standard: tuple[asyncio.Lock, asyncio.Event, asyncio.Condition, asyncio.Semaphore, asyncio.Barrier] = (
        lock,
        event,
        condition,
        noria.BoundedSemaphore(),
        barrier,
    )
    assert all(standard)


async def queues() -> None:
    queue = noria.Queue[int](maxsize=3)
    annotated: noria.Queue[str] = noria.Queue()
    assert_type(await annotated.put("x"), None)
    assert_type(await annotated.get(), str)
    assert_type(queue.put_nowait(1), None)
    assert_type(queue.get_nowait(), int)
    assert_type(queue.qsize(), int)
    assert_type(queue.maxsize, int)
    queue.task_done()
    assert_type(await queue.join(), None)
    queue.shutdown(immediate=True)

    first: noria.PriorityQueue[tuple[int, str]] = noria.PriorityQueue()
    await first.put((1, "one"))
    assert_type(await first.get(), tuple[int, str])
    last = noria.LifoQueue[bytes]()
    await last.put(b"")
    assert_type(await last.get(), bytes)
    plain: asyncio.Queue[bytes] = last
    assert plain.empty()


async def futures() -> None:
    loop = noria.get_running_loop()
    promise: noria.Future[int] = noria.Future(loop=loop)
    promise.add_done_callback(called)
    assert_type(promise.remove_done_callback(called), int)
    promise.set_result(1)
    assert_type(promise.result(), int)
    assert_type(promise.exception(), BaseException | None)
    assert_type(await promise, int)

    task = noria.create_task(answer(), name="answer")
    assert_type(task, asyncio.Task[int])  # on another loop it is that loop's
    assert_type(noria.Task(answer(), loop=loop), noria.Task[int])
    assert_type(task.get_name(), str)
    assert_type(task.cancelling(), int)
    assert_type(noria.current_task(), asyncio.Task[Any] | None)
    assert_type(await noria.ensure_future(name()), str)
    assert_type(await task, int)
    if noria.isfuture(object()):
        print("never")


def called(future: asyncio.Future[int]) -> None:
    assert future.result() == 1


async def waiting() -> None:
    assert_type(await noria.gather(answer(), name()), tuple[int, str])
    assert_type(
        await noria.gather(answer(), name(), return_exceptions=True),
        tuple[int | BaseException, str | BaseException],
    )
    many = [answer(), answer()]
    assert_type(await noria.gather(*many), list[int])
    assert_type(await noria.shield(answer()), int)
    assert_type(await noria.wait_for(name(), 1), str)
    assert_type(await noria.wait_for(name(), timeout=None), str)

    tasks = {noria.create_task(answer())}
    done, pending = await noria.wait(tasks, timeout=1, return_when=noria.ALL_COMPLETED)
    assert_type(done, set[asyncio.Task[int]])
    assert_type(pending, set[asyncio.Task[int]])

    for coming in noria.as_completed([answer()]):
        assert_type(await coming, int)
    if sys.version_info >= (3, 13):
        async for ended in noria.as_completed([noria.create_task(answer())]):
            assert_type(await ended, int)

    async with noria.timeout(1) as limit:
        assert_type(limit, noria.Timeout)
        assert_type(limit.when(), float | None)
        limit.reschedule(None)
    async with noria.timeout_at(None) as limit:
        assert_type(limit.expired(), bool)

    async with noria.TaskGroup() as group:
        assert_type(group, noria.TaskGroup)
        assert_type(group.create_task(name(), name="name"), noria.Task[str])


async def threads() -> None:
    assert_type(await noria.to_thread(max, 1, 2), int)
    loop = noria.get_running_loop()
    elsewhere = noria.run_coroutine_threadsafe(answer(), loop)
    assert_type(elsewhere, concurrent.futures.Future[int])
    assert_type(await noria.wrap_future(elsewhere), int)


async def streams() -> None:
    async def serve(reader: noria.StreamReader, writer: noria.StreamWriter) -> None:
        writer.write(await reader.readline())
        assert_type(await writer.drain(), None)
        writer.close()

    server = await noria.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await noria.open_connection(*server.sockets[0].getsockname())
        assert_type(reader, noria.StreamReader)
        assert_type(writer, noria.StreamWriter)
        writer.writelines([b"line", bytearray(b"\n")])
        assert_type(await reader.readuntil((b"\n", b"\r")), bytes)
        assert_type([line async for line in reader], list[bytes])
        assert_type(await reader.read(-1), bytes)
        assert_type(reader.at_eof(), bool)
        assert_type(reader.exception(), Exception | None)
        assert_type(writer.is_closing(), bool)
        assert_type(writer.transport, asyncio.WriteTransport)
        writer.close()
        assert_type(await writer.wait_closed(), None)
        standard: tuple[asyncio.StreamReader, asyncio.StreamWriter] = reader, writer
        assert standard
    protocol = noria.StreamReaderProtocol(noria.StreamReader(limit=10), serve)
    assert isinstance(protocol, asyncio.Protocol)


async def children() -> None:
    process = await noria.create_subprocess_exec("true", stdout=noria.subprocess.PIPE)
    assert_type(process.returncode, int | None)
    await process.communicate()
    assert await process.wait() == 0


class Names(noria.Queue[str]):
    """A queue of one's own, of one kind of items."""

    def _put(self, item: str) -> None:
        super()._put(item.title())


async def subclasses() -> None:
    names = Names()
    await names.put("ada")
    assert_type(await names.get(), str)


async def numbers() -> AsyncIterator[int]:
    yield await answer()


async def main() -> None:
    for part in (locks, queues, futures, waiting, threads, streams, children, subclasses):
        await part()
    async for number in numbers():
        assert_type(number, int)


async def refused() -> None:
    """Never called: what a type checker has to find wrong."""
    queue = noria.Queue[int]()
    await queue.put("text")  # type: ignore[arg-type]
    text: str = await queue.get()  # type: ignore[assignment]
    promise: noria.Future[int] = noria.Future()
    promise.set_result(text)  # type: ignore[arg-type]
    await noria.sleep("soon")  # type: ignore[call-overload]
    await noria.gather(answer)  # type: ignore[call-overload]
    await noria.wait_for(answer, 1)  # type: ignore[arg-type]
    await noria.to_thread(len, 5)  # type: ignore[arg-type]
    noria.Semaphore("one")  # type: ignore[arg-type]
    reader = noria.StreamReader()
    await reader.readexactly("5")  # type: ignore[arg-type]
    await reader.readuntil("\n")  # type: ignore[arg-type]
    coming: Iterator[Awaitable[str]] = noria.as_completed([answer()])  # type: ignore[list-item]
    next(coming)
    with noria.Lock():  # type: ignore[attr-defined]
        pass


if __name__ == "__main__":
    noria.run(main())
