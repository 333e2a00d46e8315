"""Every callback of a protocol runs in the context its connection was made in, whoever's doing brings it about.

The variable is "made" while a transport (or its server) is made, and "later" when all that follows is done. One callback
is called at once by what the program does, and in that one's context, as in asyncio: pause_writing, by write().
"""

import asyncio
import contextvars
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from core.running import on_noria, turns, until
from net.peers import pair
from net.test_connections import loop_, refused_port
from support.certs import Authority, Identity

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")


class Spy:
    """Notes in which value of the variable each callback came."""

    def __init__(self) -> None:
        self.seen: dict[str, set[str]] = {}
        self.room = bytearray(100_000)

    def note(self, callback: str) -> None:
        self.seen.setdefault(callback, set()).add(var.get())

    def connection_made(self, transport: Any) -> None:
        self.note("connection_made")
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        self.note("get_buffer")
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.note("buffer_updated")

    def data_received(self, data: bytes) -> None:
        self.note("data_received")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.note("datagram_received")

    def error_received(self, exc: Exception) -> None:
        self.note("error_received")

    def eof_received(self) -> None:
        self.note("eof_received")

    def pause_writing(self) -> None:
        self.note("pause_writing")

    def resume_writing(self) -> None:
        self.note("resume_writing")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.note("pipe_data_received")

    def pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self.note("pipe_connection_lost")

    def process_exited(self) -> None:
        self.note("process_exited")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.note("connection_lost")


class Plain(Spy, asyncio.Protocol): ...


class Buffered(Spy, asyncio.BufferedProtocol): ...


class Datagrams(Spy, asyncio.DatagramProtocol): ...


class Child(Spy, asyncio.SubprocessProtocol): ...


def all_made(callbacks: Iterable[str]) -> dict[str, set[str]]:
    """What a Spy has seen if each of these callbacks came, and always in the right context."""
    return {callback: {"made"} for callback in callbacks}


RECEIVED = {Plain: {"data_received"}, Buffered: {"get_buffer", "buffer_updated"}}


@pytest.mark.parametrize("kind", [Plain, Buffered])
@pytest.mark.parametrize("how", ["client", "server", "tls client", "tls server", "start_tls"])
def test_of_a_connection(ca: Authority, identity: Identity, how: str, kind: type[Plain | Buffered]) -> None:
    tls = "tls" in how
    serving = ca.server_context(identity) if tls else None
    connecting: dict[str, Any] = {}
    if tls:
        connecting = {"ssl": ca.client_context(), "server_hostname": "localhost"}

    @on_noria
    async def program() -> None:
        loop, spy = loop_(), kind()
        accepted: asyncio.Future[Any] = loop.create_future()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if how == "start_tls":
                await writer.start_tls(ca.server_context(identity))
            accepted.set_result((reader, writer))

        var.set("made")
        if "server" in how:
            server = await loop.create_server(lambda: spy, "127.0.0.1", 0, ssl=serving)
            var.set("later")
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address, **connecting)
        elif how == "start_tls":
            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            transport, _ = await loop.create_connection(asyncio.Protocol, *address)
            # start_tls does not tell of the connection, which was made already.
            spy.connection_made(
                await loop.start_tls(transport, spy, connecting["ssl"], server_hostname="localhost")
            )
            var.set("later")
            reader, writer = await accepted
        else:
            server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=serving)
            address = server.sockets[0].getsockname()
            await loop.create_connection(lambda: spy, *address, **connecting)
            var.set("later")
            reader, writer = await accepted
        await until(lambda: "connection_made" in spy.seen)

        writer.write(b"x")
        await until(lambda: RECEIVED[kind] <= spy.seen.keys())
        spy.transport.write(bytes(20_000_000))
        assert spy.seen.pop("pause_writing") == {"later"}
        await reader.readexactly(20_000_000)
        await until(lambda: "resume_writing" in spy.seen)
        writer.close()
        await until(lambda: "connection_lost" in spy.seen)
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        expected = {"connection_made", "resume_writing", "eof_received", "connection_lost"} | RECEIVED[kind]
        assert spy.seen == all_made(expected)

    program()


@on_noria
async def test_of_an_aborted_connection() -> None:
    var.set("made")
    near, far = pair()
    with far:
        transport, spy = await loop_().connect_accepted_socket(Plain, near)
        var.set("later")
        transport.abort()
        await until(lambda: "connection_lost" in spy.seen)
    assert spy.seen == all_made(("connection_made", "connection_lost"))


@on_noria
async def test_of_datagrams() -> None:
    loop = loop_()
    near, far = socket.socketpair(type=socket.SOCK_DGRAM)
    near.setblocking(False)
    with far:
        var.set("made")
        transport, spy = await loop.create_datagram_endpoint(Datagrams, sock=near)
        var.set("later")
        far.send(b"x")
        await until(lambda: "datagram_received" in spy.seen)
        count = 0
        while "pause_writing" not in spy.seen:
            transport.sendto(bytes(2000))
            count += 1
        assert spy.seen.pop("pause_writing") == {"later"}
        far.setblocking(False)
        for _ in range(count):
            await loop.sock_recv(far, 2000)
        await until(lambda: "resume_writing" in spy.seen)
        transport.close()
        await until(lambda: "connection_lost" in spy.seen)
    expected = ("connection_made", "datagram_received", "resume_writing", "connection_lost")
    assert spy.seen == all_made(expected)


@on_noria
async def test_of_errors_of_datagrams() -> None:
    var.set("made")
    transport, spy = await loop_().create_datagram_endpoint(
        Datagrams, remote_addr=("127.0.0.1", refused_port())
    )
    var.set("later")
    transport.sendto(b"x")
    await until(lambda: "error_received" in spy.seen)
    transport.close()
    await until(lambda: "connection_lost" in spy.seen)
    assert spy.seen == all_made(("connection_made", "error_received", "connection_lost"))


@on_noria
async def test_of_pipes() -> None:
    loop = loop_()
    reading, writing = (open(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    var.set("made")
    _, reader = await loop.connect_read_pipe(Plain, reading)
    transport, writer = await loop.connect_write_pipe(Plain, writing)
    var.set("later")
    reader.transport.pause_reading()
    transport.write(bytes(1_000_000))
    assert writer.seen.pop("pause_writing") == {"later"}
    reader.transport.resume_reading()
    await until(lambda: "resume_writing" in writer.seen)
    transport.close()
    await until(lambda: "connection_lost" in writer.seen and "connection_lost" in reader.seen)
    assert writer.seen == all_made(("connection_made", "resume_writing", "connection_lost"))
    expected = ("connection_made", "data_received", "eof_received", "connection_lost")
    assert reader.seen == all_made(expected)


@on_noria
async def test_of_children() -> None:
    var.set("made")
    transport, spy = await loop_().subprocess_exec(Child, "sh", "-c", "read line; echo $line")
    var.set("later")
    stdin: Any = transport.get_pipe_transport(0)
    stdin.write(b"hello\n")
    await until(lambda: "connection_lost" in spy.seen)
    transport.close()
    expected = (
        "connection_made",
        "pipe_data_received",
        "pipe_connection_lost",
        "process_exited",
        "connection_lost",
    )
    assert spy.seen == all_made(expected)


@on_noria
async def test_callbacks_given_to_the_loop_run_in_the_context_they_were_given_in() -> None:
    loop = loop_()
    near, far = pair()
    done = loop.create_future()
    task = asyncio.create_task(asyncio.sleep(0.001))
    seen: dict[str, str] = {}

    def note(what: str) -> Callable[..., None]:
        return lambda *_: seen.setdefault(what, var.get())  # type: ignore[return-value]

    def from_thread() -> None:
        var.set("call_soon_threadsafe")
        loop.call_soon_threadsafe(note("call_soon_threadsafe"))

    ways: dict[str, Callable[[], object]] = {
        "call_soon": lambda: loop.call_soon(note("call_soon")),
        "call_later": lambda: loop.call_later(0.001, note("call_later")),
        "call_at": lambda: loop.call_at(loop.time() + 0.001, note("call_at")),
        "reader": lambda: loop.add_reader(near, note("reader")),
        "writer": lambda: loop.add_writer(near, note("writer")),
        "done callback of a future": lambda: done.add_done_callback(note("done callback of a future")),
        "another one": lambda: done.add_done_callback(note("another one")),
        "done callback of a task": lambda: task.add_done_callback(note("done callback of a task")),
        "signal handler": lambda: loop.add_signal_handler(signal.SIGUSR1, note("signal handler")),
    }
    with near, far:
        for name, way in ways.items():
            var.set(name)
            way()
        var.set("later")
        thread = threading.Thread(target=from_thread)
        thread.start()
        far.send(b"x")
        done.set_result(None)
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: len(seen) == len(ways) + 1)
        thread.join()
        loop.remove_reader(near)
        loop.remove_writer(near)
        loop.remove_signal_handler(signal.SIGUSR1)
    assert seen == {name: name for name in seen}


@on_noria
async def test_a_given_context_is_the_one_a_callback_runs_in() -> None:
    loop = loop_()
    context = contextvars.copy_context()
    context.run(var.set, "given")
    var.set("around")
    seen: list[str] = []

    def note(*_: object) -> None:
        seen.append(var.get())
        var.set("changed")

    async def work() -> None:
        note()
        await asyncio.sleep(0)
        seen.append(var.get())
        var.set("given")

    done = loop.create_future()
    loop.call_soon(note, context=context)
    await turns(2)
    context.run(var.set, "given")
    loop.call_later(0, note, context=context)
    await until(lambda: len(seen) == 2)
    context.run(var.set, "given")
    done.add_done_callback(note, context=context)
    done.set_result(None)
    await turns(2)
    context.run(var.set, "given")
    await asyncio.create_task(work(), context=context)  # type: ignore[call-arg, unused-ignore]
    assert seen == ["given"] * 4 + ["changed"]
    assert context[var] == "given"
    assert var.get() == "around"


@on_noria
async def test_a_task_keeps_its_context_however_it_is_woken() -> None:
    loop = loop_()

    async def work(name: str) -> None:
        var.set(name)
        near, far = pair()
        with near, far:
            waiting = asyncio.create_task(loop.sock_recv(near, 1))
            await asyncio.sleep(0.001)
            far.send(b"x")
            await waiting
            assert var.get() == name
        native: asyncio.Future[None] = loop.create_future()
        stock: asyncio.Future[None] = asyncio.Future()
        for future in (native, stock):
            loop.call_soon(future.set_result, None, context=contextvars.Context())
            await future
            assert var.get() == name
        task = asyncio.create_task(asyncio.sleep(100))
        loop.call_soon(task.cancel, context=contextvars.Context())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert var.get() == name
        await asyncio.to_thread(int)
        assert var.get() == name

    await asyncio.gather(*(work(f"task {n}") for n in range(20)))
