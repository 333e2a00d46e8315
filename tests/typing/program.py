"""A user's program that touches the public API, with the types it may count on.

mypy reads it in strict mode, and Python runs it: what is asserted here holds in both worlds. An `ignore` that
mypy does not need is an error too, so the lines that must be refused are refused.
"""

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any, assert_type

import noria


async def answer() -> int:
    await noria.sleep(0)
    return 42


async def futures(loop: noria.Loop) -> None:
    promise: noria.Future[str] = loop.create_future()
    plain: asyncio.Future[str] = promise  # accepted wherever asyncio's is
    loop.call_soon(promise.set_result, "kept")
    assert_type(await promise, str)
    assert plain.result() == "kept"
    assert isinstance(promise, asyncio.Future)

    seen: list[str] = []
    promise.add_done_callback(lambda done: seen.append(done.result()))
    await noria.sleep(0)
    assert seen == ["kept"]


async def tasks(loop: noria.Loop) -> None:
    task = loop.create_task(answer(), name="answer")
    assert_type(task, noria.Task[int])
    plain: asyncio.Task[int] = task
    assert plain.get_name() == "answer"
    assert_type(await task, int)
    assert_type(await asyncio.gather(loop.create_task(answer()), answer()), tuple[int, int])
    async with noria.timeout(10), noria.TaskGroup() as group:
        assert_type(group.create_task(answer()), noria.Task[int])


async def timers(loop: noria.Loop) -> None:
    handle = loop.call_soon(print, "never printed")
    timer = loop.call_later(0.5, print, "never printed", context=None)
    assert_type(handle, noria.Handle)
    assert_type(timer, noria.TimerHandle)
    assert_type(timer.when(), float)
    asyncio_timer: asyncio.TimerHandle = timer
    handle.cancel()
    asyncio_timer.cancel()
    assert_type(loop.call_at(loop.time() + 1, noria.sleep, 1).cancel(), None)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def sockets(loop: noria.Loop) -> None:
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    async with server:
        address = server.sockets[0].getsockname()
        reader, writer = await noria.open_connection(*address)
        writer.write(b"ping")
        assert_type(await reader.readexactly(4), bytes)
        writer.close()
        await writer.wait_closed()
        with socket.socket() as raw:
            raw.setblocking(False)
            await loop.sock_connect(raw, address)
            await loop.sock_sendall(raw, b"pong")
            assert_type(await loop.sock_recv(raw, 4), bytes)


async def executors(loop: noria.Loop) -> None:
    assert_type(await loop.run_in_executor(None, len, "abc"), int)
    assert_type(await noria.to_thread(len, "abc"), int)


async def downloads(directory: Path) -> None:
    from noria.get import Result, download_all

    results: list[Result] = []
    async for result in download_all([], directory, concurrency=2):
        results.append(result)
    assert results == []


async def main() -> str:
    loop = noria.get_running_loop()
    assert isinstance(loop, noria.Loop)
    abstract: asyncio.AbstractEventLoop = loop
    assert not abstract.is_closed()
    await futures(loop)
    await tasks(loop)
    await timers(loop)
    await sockets(loop)
    await executors(loop)
    await downloads(Path(sys.argv[1]))
    return "done"


def refused(loop: noria.Loop) -> None:
    """Never called: what a type checker has to find wrong."""
    wrong: int = noria.run(main())  # type: ignore[assignment]
    loop.call_soon(len)  # type: ignore[arg-type]
    loop.create_task(answer)  # type: ignore[arg-type]
    promise: noria.Future[str] = loop.create_future()
    promise.set_result(wrong)  # type: ignore[arg-type]


def ways_in() -> None:
    assert_type(noria.run(main(), debug=False), str)
    with noria.Runner() as runner:
        assert_type(runner.run(answer()), int)
        loop: asyncio.AbstractEventLoop = runner.get_loop()
        assert isinstance(loop, noria.Loop)
    with asyncio.Runner(loop_factory=noria.new_event_loop) as plain:
        assert_type(plain.run(answer()), int)
    own = noria.new_event_loop()
    assert_type(own, noria.Loop)
    try:
        assert_type(own.run_until_complete(answer()), int)
    finally:
        own.close()


def keyword_arguments(**options: Any) -> noria.Loop:
    """A factory of one's own: Loop can be subclassed."""

    class Named(noria.Loop):
        name = "mine"

    loop = Named(**options)
    assert loop.name == "mine"
    return loop


if __name__ == "__main__":
    ways_in()
    keyword_arguments().close()
