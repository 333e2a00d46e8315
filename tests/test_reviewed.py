"""What a review of the compiled parts proved wrong, each as the program that showed it."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import on_noria, python


def test_a_reader_is_not_called_again_for_what_it_has_read() -> None:
    # The descriptor blocks: a second call would never come back.
    loop = noria.new_event_loop()
    near, far = os.pipe()
    seen: list[bytes] = []
    try:
        loop.add_reader(near, lambda: seen.append(os.read(near, 10)))
        os.write(far, b"x")
        loop.call_soon(
            time.sleep, 0.02
        )  # longer than a slice: the kernel is asked while the reader is queued
        loop.call_later(0.1, loop.stop)
        loop.run_forever()
        loop.remove_reader(near)
    finally:
        os.close(near)
        os.close(far)
        loop.close()
    assert seen == [b"x"]


@on_noria
async def test_drain_goes_on_after_a_file_was_sent_behind_a_full_buffer(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"f" * 1000)
    begun = asyncio.Event()
    total: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await begun.wait()
        count = 0
        while data := await reader.read(1 << 20):
            count += len(data)
        total.set_result(count)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 16)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"a" * 8_000_000)
    asyncio.get_running_loop().call_later(0.05, begun.set)
    with open(file, "rb") as source:
        assert await asyncio.get_running_loop().sendfile(writer.transport, source) == 1000
    await asyncio.wait_for(writer.drain(), 10)
    writer.write_eof()
    assert await total == 8_001_000
    writer.close()
    server.close()


@on_noria
async def test_writelines_takes_all_or_nothing() -> None:
    near, far = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
    with pytest.raises(TypeError):
        transport.writelines([b"abc", "def"])  # type: ignore[list-item]
    assert transport.get_write_buffer_size() == 0
    transport.writelines([b"abc", memoryview(b"abcdef")[::2]])
    far.setblocking(False)
    # Not far.recv: on io_uring what is written leaves when the loop goes on.
    assert await asyncio.get_running_loop().sock_recv(far, 100) == b"abcace"
    transport.close()
    far.close()


def test_a_loop_for_which_there_are_no_descriptors_is_an_error_and_no_crash() -> None:
    program = """
import gc, os, resource, noria
resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
try:
    noria.new_event_loop()
except OSError as error:
    print(error)
gc.collect()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Too many open files" in done.stdout


@on_noria
async def test_removing_a_callback_from_inside_a_comparison_loses_no_waiter() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    asked: list[bool] = []

    class Slippery:
        def __call__(self, _: Any) -> None:
            raise AssertionError("it was removed")

        def __eq__(self, other: object) -> bool:
            if not asked:
                asked.append(True)
                future.remove_done_callback(self)
            return True

        __hash__ = None  # type: ignore[assignment]

    future.add_done_callback(Slippery())

    async def direct() -> str:
        return await future

    task = asyncio.create_task(direct())
    await asyncio.sleep(0)
    future.remove_done_callback(object())  # type: ignore[arg-type]
    future.set_result("woken")
    assert await task == "woken"


@on_noria
async def test_a_context_that_a_thread_took_during_a_nested_run_is_an_error_of_that_run() -> None:
    loop = asyncio.get_running_loop()
    release = threading.Event()

    async def nested() -> None:
        taken: asyncio.Future[None] = loop.create_future()

        def hold() -> None:
            loop.call_soon_threadsafe(taken.set_result, None)
            release.wait(10)

        holding.append(loop.run_in_executor(None, context.run, hold))
        await taken

    async def borrower() -> str:
        with pytest.raises(RuntimeError, match="already entered"):
            loop.run_until_complete(nested())
        release.set()
        return "went on"

    holding: list[asyncio.Future[None]] = []
    task = asyncio.create_task(borrower())
    context = task.get_context()
    assert await task == "went on"
    await holding[0]


@on_noria
async def test_a_task_that_gave_up_waiting_for_a_foreign_future_is_not_woken_by_it() -> None:
    class Foreign(asyncio.Future[int]):
        def cancel(self, msg: Any = None) -> bool:
            raise ZeroDivisionError

    foreign = Foreign()
    steps: list[str] = []

    async def wait() -> None:
        me = asyncio.current_task()
        assert me is not None
        me.cancel()  # so that the future it then begins to wait for is cancelled, which raises
        with pytest.raises(asyncio.CancelledError):  # which comes before the ZeroDivisionError
            await foreign
        me.uncancel()
        steps.append("told")
        foreign.set_result(1)
        await asyncio.sleep(0.02)  # not cut short by the future's waking
        steps.append("slept")

    began = time.monotonic()
    await asyncio.create_task(wait())
    assert steps == ["told", "slept"]
    assert time.monotonic() - began >= 0.02


@on_noria
async def test_transports_can_be_referred_to_weakly() -> None:
    near, far = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
    assert weakref.ref(transport)() is transport
    transport.close()
    far.close()


def test_noria_get_is_there_after_a_plain_import() -> None:
    done = python("import noria; print(noria.get.download_all.__name__)")
    assert (done.stdout, done.stderr) == ("download_all\n", "")
    with pytest.raises(AttributeError, match="module 'noria' has no attribute 'nothing'"):
        noria.nothing  # type: ignore[attr-defined]
