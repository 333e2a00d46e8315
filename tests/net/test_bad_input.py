"""Bad input raises what users of asyncio expect, and the loop works on as if nothing had happened.

What they expect is not written down here but asked: each wrong call is made twice, on asyncio's own loop and on
noria's, and must end in the same type of exception with the same message. Both loops are in debug mode, because
some arguments asyncio checks in no other. `IN_OTHER_WORDS` names the calls to which noria's answer is of the same
type but differs in wording. Where noria departs from asyncio on purpose, a test of its own says so.
"""

import asyncio
import contextlib
import gc
import inspect
import io
import os
import re
import signal
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import noria
from support.certs import Authority, Identity

Loop = asyncio.AbstractEventLoop


class Things:
    """What wrong calls are made with: sockets of the wrong kind, a file, contexts, a taken port."""

    def __init__(self, directory: Path, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        self.directory = directory
        self.server_tls = server
        self.client_tls = client
        self.stream, self.peer = socket.socketpair()
        self.stream.setblocking(False)
        self.peer.setblocking(False)
        self.blocking = socket.socket()
        self.datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagram.setblocking(False)
        self.tcp = socket.socket()
        self.tcp.setblocking(False)
        self.wrapped = client.wrap_socket(socket.socket(), server_hostname="localhost")
        self.wrapped.setblocking(False)
        self.closed = socket.socket()
        self.closed.close()
        self.taken = socket.create_server(("127.0.0.1", 0))
        self.taken.setblocking(False)
        with socket.create_server(("127.0.0.1", 0)) as server_of_nobody:
            self.free_port = server_of_nobody.getsockname()[1]
        self.plain_file = directory / "file"
        self.plain_file.write_text("content")
        self.file = self.plain_file.open("rb")
        self.text_file = self.plain_file.open()

    @property
    def taken_port(self) -> int:
        """A port somebody else listens on."""
        return int(self.taken.getsockname()[1])

    def close(self) -> None:
        """Close all of it."""
        for thing in vars(self).values():
            if hasattr(thing, "close"):
                thing.close()


MakeThings = Callable[[], Things]


@pytest.fixture
def make_things(tmp_path: Path, ca: Authority, identity: Identity) -> Iterator[MakeThings]:
    """A function that makes new `Things`, closed when the test ends."""
    with contextlib.ExitStack() as stack:

        def make() -> Things:
            things = Things(tmp_path, ca.server_context(identity), ca.client_context())
            stack.callback(things.close)
            return things

        yield make


@pytest.fixture
def things(make_things: MakeThings) -> Things:
    """`Things` for a test that needs them once."""
    return make_things()


def nothing(*args: object) -> None:
    """A callback."""


async def coroutine() -> None:
    """A coroutine function, where a callback is asked for."""


def keep(reports: list[dict[str, Any]], loop: Loop, context: dict[str, Any]) -> None:
    """An exception handler that keeps what it is told."""
    reports.append(context)


def still_usable(loop: Loop) -> None:
    """Assert that callbacks, timers, futures, threads and sockets work on `loop`."""

    async def main() -> None:
        called = loop.create_future()
        loop.call_soon(called.set_result, "called")
        assert await called == "called"
        await asyncio.sleep(0.001)
        assert await loop.run_in_executor(None, int, "7") == 7
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        with left, right:
            await loop.sock_sendall(left, b"wheel")
            assert await loop.sock_recv(right, 100) == b"wheel"
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        transport.close()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(asyncio.wait_for(main(), 20))


def outcome(loop: Loop, call: Callable[[], object]) -> Exception | None:
    """The exception that `call`, made while `loop` runs, ends in; None when it ends in none."""

    async def main() -> None:
        result = call()
        if inspect.isawaitable(result):
            await asyncio.wait_for(result, 20)

    try:
        loop.run_until_complete(main())
    except Exception as error:
        error.__context__ = None
        return error.with_traceback(None)  # or it would keep alive what the call left open
    return None


def outcomes(call: "Call", make_things: MakeThings, debug: bool) -> list[Exception | None]:
    """What `call` ends in on asyncio's loop and on noria's, in this order; both must work on afterwards."""

    def run_on(make_loop: Callable[[], Loop]) -> Exception | None:
        with noria.Runner(debug=debug, loop_factory=make_loop) as runner:
            loop, things = runner.get_loop(), make_things()
            found = outcome(loop, lambda: call(loop, things))
            still_usable(loop)
        gc.collect(1)  # what was left open is found now, and in no other test
        return found

    with warnings.catch_warnings():
        # asyncio leaves a connected socket open when the protocol's factory fails.
        warnings.simplefilter("ignore", ResourceWarning)
        expected = run_on(asyncio.SelectorEventLoop)
    return [expected, run_on(noria.new_event_loop)]


def words(error: Exception | None) -> str:
    """The message of `error` without what differs from one run to the next: descriptors, ports, transports."""
    text = re.sub(r"fd=\d+", "fd=N", str(error))
    text = re.sub(r"(127\.0\.0\.1', )\d+", r"\1PORT", text)
    return re.sub(r"<\w+Transport ", "<Transport ", text)


factory = asyncio.Protocol


def set_twice(loop: Loop) -> None:
    """Give a future two results."""
    future = loop.create_future()
    future.set_result(1)
    future.set_result(2)


def fail() -> asyncio.Protocol:
    """A protocol factory that fails."""
    raise LookupError("no protocol today")


async def with_transport(call: Callable[[Any], object], loop: Loop, things: Things) -> None:
    """Make `call` with a transport that is connected, and close that."""
    end = things.stream.dup()
    transport, _ = await loop.create_connection(factory, sock=end)
    try:
        result = call(transport)
        if inspect.isawaitable(result):
            await result
    finally:
        transport.abort()
        await asyncio.sleep(0)


Call = Callable[[Any, Any], object]  # a loop and Things, hidden from type checkers, who would refuse

CALLBACKS: dict[str, Call] = {
    "call_soon without a callable": lambda loop, _: loop.call_soon(1),
    "call_soon with a coroutine function": lambda loop, _: loop.call_soon(coroutine),
    "call_soon_threadsafe without a callable": lambda loop, _: loop.call_soon_threadsafe(1),
    "call_soon with an unknown option": lambda loop, _: loop.call_soon(nothing, priority=1),
    "call_soon without an argument": lambda loop, _: loop.call_soon(),
    "call_later without a callable": lambda loop, _: loop.call_later(0, 1),
    "call_later without a delay": lambda loop, _: loop.call_later(None, nothing),
    "call_later with a text as delay": lambda loop, _: loop.call_later("soon", nothing),
    "call_at without a callable": lambda loop, _: loop.call_at(loop.time(), 1),
    "call_at without a time": lambda loop, _: loop.call_at(None, nothing),
    "run_in_executor without a callable": lambda loop, _: loop.run_in_executor(None, 1),
    "run_in_executor with a coroutine function": lambda loop, _: loop.run_in_executor(None, coroutine),
    "run_in_executor with no executor": lambda loop, _: loop.run_in_executor("thread", nothing),
    "set_default_executor with no executor": lambda loop, _: loop.set_default_executor("thread"),
}

TASKS: dict[str, Call] = {
    "create_task of a number": lambda loop, _: loop.create_task(1),
    "create_task of a coroutine function": lambda loop, _: loop.create_task(coroutine),
    "set_task_factory to a number": lambda loop, _: loop.set_task_factory(1),
    "set_exception_handler to a number": lambda loop, _: loop.set_exception_handler(1),
    "close while running": lambda loop, _: loop.close(),
    "run_forever while running": lambda loop, _: loop.run_forever(),
    "ensure_future of a number": lambda loop, _: asyncio.ensure_future(1, loop=loop),  # type: ignore[call-overload]
    "a result set twice": lambda loop, _: set_twice(loop),
    "a result asked too early": lambda loop, _: loop.create_future().result(),
    "an exception that is none": lambda loop, _: loop.create_future().set_exception("wrong"),
}

DESCRIPTORS: dict[str, Call] = {
    "add_reader of a text": lambda loop, _: loop.add_reader("file", nothing),
    "add_reader of a negative descriptor": lambda loop, _: loop.add_reader(-1, nothing),
    "add_reader of a closed descriptor": lambda loop, _: loop.add_reader(1_000_000, nothing),
    "add_reader of a closed socket": lambda loop, things: loop.add_reader(things.closed, nothing),
    "add_reader of a regular file": lambda loop, things: loop.add_reader(things.file, nothing),
    "add_writer of a text": lambda loop, _: loop.add_writer("file", nothing),
    "add_writer of a closed socket": lambda loop, things: loop.add_writer(things.closed, nothing),
    "remove_reader of a text": lambda loop, _: loop.remove_reader("file"),
}

SIGNALS: dict[str, Call] = {
    "no signal": lambda loop, _: loop.add_signal_handler("INT", nothing),
    "an unknown signal": lambda loop, _: loop.add_signal_handler(1000, nothing),
    "signal zero": lambda loop, _: loop.add_signal_handler(0, nothing),
    "a signal nobody may catch": lambda loop, _: loop.add_signal_handler(signal.SIGKILL, nothing),
    "a coroutine function": lambda loop, _: loop.add_signal_handler(signal.SIGUSR1, coroutine),
    "removing no signal": lambda loop, _: loop.remove_signal_handler("INT"),
    "removing an unknown signal": lambda loop, _: loop.remove_signal_handler(1000),
}

SOCKETS: dict[str, Call] = {
    "sock_recv from a TLS socket": lambda loop, things: loop.sock_recv(things.wrapped, 1),
    "sock_recv_into from a TLS socket": lambda loop, things: loop.sock_recv_into(
        things.wrapped, bytearray(1)
    ),
    "sock_sendall to a TLS socket": lambda loop, things: loop.sock_sendall(things.wrapped, b"x"),
    "sock_connect of a TLS socket": lambda loop, things: loop.sock_connect(things.wrapped, ("127.0.0.1", 1)),
    "sock_accept on a TLS socket": lambda loop, things: loop.sock_accept(things.wrapped),
    "sock_recv of a text many bytes": lambda loop, things: loop.sock_recv(things.stream, "many"),
    "sock_recv of a negative number of bytes": lambda loop, things: loop.sock_recv(things.stream, -1),
    "sock_recv_into bytes": lambda loop, things: loop.sock_recv_into(things.stream, b"constant"),
    "sock_recv_into nothing": lambda loop, things: loop.sock_recv_into(things.stream, None),
    "sock_sendall of a text": lambda loop, things: loop.sock_sendall(things.stream, "text"),
    "sock_sendall of nothing": lambda loop, things: loop.sock_sendall(things.stream, None),
    "sock_sendto of a text": lambda loop, things: loop.sock_sendto(things.datagram, "text", ("127.0.0.1", 1)),
    "sock_connect to a number": lambda loop, things: loop.sock_connect(things.tcp, 1),
    "sock_connect to a port out of range": lambda loop, things: loop.sock_connect(
        things.tcp, ("127.0.0.1", 70_000)
    ),
    "sock_connect to nobody": lambda loop, things: loop.sock_connect(
        things.tcp, ("127.0.0.1", things.free_port)
    ),
    "sock_accept on what does not listen": lambda loop, things: loop.sock_accept(things.tcp),
    "sock_recv from a closed socket": lambda loop, things: loop.sock_recv(things.closed, 1),
    "sock_sendall to a closed socket": lambda loop, things: loop.sock_sendall(things.closed, b"x"),
    "sock_recv from what is not connected": lambda loop, things: loop.sock_recv(things.tcp, 1),
    "sock_sendfile of a text file": lambda loop, things: loop.sock_sendfile(things.stream, things.text_file),
    "sock_sendfile over a datagram": lambda loop, things: loop.sock_sendfile(things.datagram, things.file),
    "sock_sendfile of a negative count": lambda loop, things: loop.sock_sendfile(
        things.stream, things.file, 0, -1
    ),
    "sock_sendfile from a negative offset": lambda loop, things: loop.sock_sendfile(
        things.stream, things.file, -1
    ),
}

CONNECTIONS: dict[str, Call] = {
    "to nowhere": lambda loop, _: loop.create_connection(factory),
    "to a host and over a socket": lambda loop, things: loop.create_connection(
        factory, "127.0.0.1", 1, sock=things.stream
    ),
    "over a datagram socket": lambda loop, things: loop.create_connection(factory, sock=things.datagram),
    "with a server's name but no TLS": lambda loop, _: loop.create_connection(
        factory, "127.0.0.1", 1, server_hostname="localhost"
    ),
    "with a handshake timeout but no TLS": lambda loop, _: loop.create_connection(
        factory, "127.0.0.1", 1, ssl_handshake_timeout=1
    ),
    "with a shutdown timeout but no TLS": lambda loop, _: loop.create_connection(
        factory, "127.0.0.1", 1, ssl_shutdown_timeout=1
    ),
    "with a handshake timeout of zero": lambda loop, things: loop.create_connection(
        factory, "127.0.0.1", things.taken_port, ssl=things.client_tls, ssl_handshake_timeout=0
    ),
    "with TLS over a socket without a name": lambda loop, things: loop.create_connection(
        factory, sock=things.stream, ssl=things.client_tls
    ),
    "to a refusing port": lambda loop, things: loop.create_connection(factory, "127.0.0.1", things.free_port),
    "to a port out of range": lambda loop, _: loop.create_connection(factory, "127.0.0.1", 70_000),
    "to a port that is a name of no service": lambda loop, _: loop.create_connection(
        factory, "127.0.0.1", "wheel"
    ),
    "to an impossible host name": lambda loop, _: loop.create_connection(factory, "a" * 64 + ".example", 1),
    "from an address that is not ours": lambda loop, things: loop.create_connection(
        factory, "127.0.0.1", things.taken_port, local_addr=("192.0.2.1", 0)
    ),
    "with no protocol factory": lambda loop, things: loop.create_connection(
        1, "127.0.0.1", things.taken_port
    ),
    "with a factory that fails": lambda loop, things: loop.create_connection(
        fail, "127.0.0.1", things.taken_port
    ),
    "Unix, to nowhere": lambda loop, _: loop.create_unix_connection(factory),
    "Unix, to a path and over a socket": lambda loop, things: loop.create_unix_connection(
        factory, "/nowhere", sock=things.stream
    ),
    "Unix, over a TCP socket": lambda loop, things: loop.create_unix_connection(factory, sock=things.tcp),
    "Unix, to a missing path": lambda loop, things: loop.create_unix_connection(
        factory, things.directory / "no"
    ),
    "Unix, to a path too long": lambda loop, things: loop.create_unix_connection(factory, "/" + "a" * 200),
    "Unix, to a file that is no socket": lambda loop, things: loop.create_unix_connection(
        factory, things.plain_file
    ),
    "Unix, with TLS but no name": lambda loop, things: loop.create_unix_connection(
        factory, "/nowhere", ssl=things.client_tls
    ),
    "Unix, with a name but no TLS": lambda loop, _: loop.create_unix_connection(
        factory, "/nowhere", server_hostname="localhost"
    ),
    "accepted, over a datagram socket": lambda loop, things: loop.connect_accepted_socket(
        factory, things.datagram
    ),
    "accepted, with a handshake timeout but no TLS": lambda loop, things: loop.connect_accepted_socket(
        factory, things.stream, ssl_handshake_timeout=1
    ),
    "start_tls without a context": lambda loop, things: with_transport(
        lambda transport: loop.start_tls(transport, factory(), None), loop, things
    ),
    "sendfile of a text file": lambda loop, things: with_transport(
        lambda transport: loop.sendfile(transport, things.text_file), loop, things
    ),
    "sendfile over a closing transport": lambda loop, things: with_transport(
        lambda transport: (transport.close(), loop.sendfile(transport, things.file))[1], loop, things
    ),
    "add_reader of a transport's descriptor": lambda loop, things: with_transport(
        lambda transport: loop.add_reader(transport.get_extra_info("socket"), nothing), loop, things
    ),
    "start_tls on no transport": lambda loop, things: loop.start_tls(
        "transport", factory(), things.client_tls
    ),
}

SERVERS: dict[str, Call] = {
    "nowhere": lambda loop, _: loop.create_server(factory),
    "on a host and a socket": lambda loop, things: loop.create_server(
        factory, "127.0.0.1", 0, sock=things.taken
    ),
    "on a datagram socket": lambda loop, things: loop.create_server(factory, sock=things.datagram),
    "with True for a context": lambda loop, _: loop.create_server(factory, "127.0.0.1", 0, ssl=True),
    "with a handshake timeout but no TLS": lambda loop, _: loop.create_server(
        factory, "127.0.0.1", 0, ssl_handshake_timeout=1
    ),
    "with a shutdown timeout but no TLS": lambda loop, _: loop.create_server(
        factory, "127.0.0.1", 0, ssl_shutdown_timeout=1
    ),
    "on a taken port": lambda loop, things: loop.create_server(factory, "127.0.0.1", things.taken_port),
    "on a port out of range": lambda loop, _: loop.create_server(factory, "127.0.0.1", 70_000),
    "on a host that is a number": lambda loop, _: loop.create_server(factory, 1, 0),
    "Unix, nowhere": lambda loop, _: loop.create_unix_server(factory),
    "Unix, on a path and a socket": lambda loop, things: loop.create_unix_server(
        factory, "/nowhere", sock=things.stream
    ),
    "Unix, on a TCP socket": lambda loop, things: loop.create_unix_server(factory, sock=things.tcp),
    "Unix, on a file that is there": lambda loop, things: loop.create_unix_server(factory, things.plain_file),
    "Unix, in a missing directory": lambda loop, _: loop.create_unix_server(factory, "/nowhere/socket"),
    "Unix, with True for a context": lambda loop, _: loop.create_unix_server(factory, "/nowhere", ssl=True),
    "Unix, with a handshake timeout but no TLS": lambda loop, _: loop.create_unix_server(
        factory, "/nowhere", ssl_handshake_timeout=1
    ),
}

TRANSPORTS: dict[str, Call] = {
    name: partial(with_transport, call)
    for name, call in {
        "write a text": lambda transport: transport.write("text"),
        "write nothing": lambda transport: transport.write(None),
        "write a number": lambda transport: transport.write(1),
        "writelines of a text": lambda transport: transport.writelines(["text"]),
        "writelines of a number": lambda transport: transport.writelines(1),
        "low above high": lambda transport: transport.set_write_buffer_limits(high=1, low=5),
        "a negative limit": lambda transport: transport.set_write_buffer_limits(high=-1),
        "write after write_eof": lambda transport: (transport.write_eof(), transport.write(b"late")),
    }.items()
}


# Each of these says the same as asyncio, and most say it more exactly.
IN_OTHER_WORDS = {
    "callbacks: call_soon with an unknown option",
    "callbacks: call_soon without an argument",
    "callbacks: call_later without a callable",
    "callbacks: call_later with a text as delay",
    "tasks: a result set twice",
    "tasks: a result asked too early",
    "tasks: an exception that is none",
    "sockets: sock_sendall of a text",
    "sockets: sock_sendall of nothing",
    "sockets: sock_connect to a number",
    "connections: from an address that is not ours",
    "servers: on a taken port",
    "servers: on a host that is a number",
    "transports: writelines of a text",
    "transports: writelines of a number",
}


@pytest.mark.parametrize(
    ("name", "call"),
    [
        pytest.param(f"{room}: {name}", call, id=f"{room}: {name}")
        for room, calls in (
            ("callbacks", CALLBACKS),
            ("tasks", TASKS),
            ("descriptors", DESCRIPTORS),
            ("signals", SIGNALS),
            ("sockets", SOCKETS),
            ("connections", CONNECTIONS),
            ("servers", SERVERS),
            ("transports", TRANSPORTS),
        )
        for name, call in calls.items()
    ],
)
def test_a_wrong_call_raises_what_asyncio_raises(name: str, call: Call, make_things: MakeThings) -> None:
    expected, found = outcomes(call, make_things, debug=True)
    assert expected is not None
    assert type(found) is type(expected)
    assert getattr(found, "errno", None) == getattr(expected, "errno", None)
    if name not in IN_OTHER_WORDS:
        assert words(found) == words(expected)


CLOSED: dict[str, Callable[[Loop], object]] = {
    "call_soon": lambda loop: loop.call_soon(nothing),
    "call_soon_threadsafe": lambda loop: loop.call_soon_threadsafe(nothing),
    "call_later": lambda loop: loop.call_later(1, nothing),
    "call_at": lambda loop: loop.call_at(1, nothing),
    "run_forever": lambda loop: loop.run_forever(),
    "run_until_complete": lambda loop: run_and_close(loop),
    "run_in_executor": lambda loop: loop.run_in_executor(None, nothing),
    "create_task": lambda loop: create_and_close(loop),
    "add_signal_handler": lambda loop: loop.add_signal_handler(signal.SIGUSR1, nothing),
    "add_reader": lambda loop: loop.add_reader(0, nothing),
    "add_writer": lambda loop: loop.add_writer(1, nothing),
}


def run_and_close(loop: Loop) -> None:
    """`run_until_complete` of a coroutine that is closed when it never began."""
    pending = coroutine()
    try:
        loop.run_until_complete(pending)
    finally:
        pending.close()


def create_and_close(loop: Loop) -> None:
    """`create_task` of a coroutine that is closed when it never began."""
    pending = coroutine()
    try:
        loop.create_task(pending)
    finally:
        pending.close()


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in CLOSED.items()])
def test_a_closed_loop_refuses_as_asyncio_does(call: Callable[[Loop], object]) -> None:
    messages = []
    for loop in (asyncio.SelectorEventLoop(), noria.new_event_loop()):
        loop.close()
        with pytest.raises(RuntimeError) as refused:
            call(loop)
        messages.append(str(refused.value))
    assert messages[1] == messages[0] == "Event loop is closed"


def test_a_closed_loop_may_be_closed_stopped_and_asked_again() -> None:
    loop = noria.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    loop.close()
    loop.stop()
    assert loop.is_closed()
    assert not loop.is_running()
    assert loop.time() > 0
    assert not loop.remove_reader(0)
    assert not loop.remove_writer(1)
    assert "closed=True" in repr(loop)


def test_connections_of_a_closed_loop_are_refused_when_awaited() -> None:
    loop = noria.new_event_loop()
    loop.close()

    async def connect() -> None:
        await loop.create_connection(factory, "127.0.0.1", 1)

    with pytest.raises(RuntimeError, match="closed"):
        noria.run(connect())


@pytest.mark.parametrize("debug", [False, True])
def test_what_is_no_callable_never_passes_in_silence(debug: bool) -> None:
    with noria.Runner(debug=debug) as runner:
        loop = runner.get_loop()
        calls: tuple[Callable[[Any], Any], ...]
        calls = (loop.call_soon, loop.call_soon_threadsafe, lambda wrong: loop.call_later(0, wrong))
        for call in calls:
            for wrong in (None, 1, "callback", object()):
                reports: list[dict[str, Any]] = []
                loop.set_exception_handler(partial(keep, reports))
                try:
                    call(wrong)
                    loop.run_until_complete(asyncio.sleep(0.001))
                except TypeError:
                    continue
                assert [type(report["exception"]) for report in reports] == [TypeError]
        still_usable(loop)


def test_run_until_complete_wants_something_to_await() -> None:
    messages = []
    for loop in (asyncio.SelectorEventLoop(), noria.new_event_loop()):
        for wrong in (None, 1, "coroutine", coroutine):
            with pytest.raises(TypeError) as refused:
                loop.run_until_complete(wrong)  # type: ignore[arg-type]
            messages.append(str(refused.value))
        still_usable(loop)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert messages[4:] == messages[:4]


def test_noria_run_wants_a_coroutine() -> None:
    for wrong in (None, 1, coroutine):
        errors = []
        for run in (asyncio.run, noria.run):
            with pytest.raises((TypeError, ValueError)) as refused:
                run(wrong)  # type: ignore[arg-type]
            errors.append((refused.type, str(refused.value)))
        assert errors[1] == errors[0]


def test_a_future_of_another_loop_is_refused() -> None:
    other = noria.new_event_loop()
    with noria.Runner() as runner:
        loop = runner.get_loop()
        future = other.create_future()

        async def wait() -> None:
            await future

        with pytest.raises(RuntimeError, match="attached to a different loop"):
            loop.run_until_complete(wait())
        with pytest.raises(ValueError, match="loop"):
            loop.run_until_complete(future)
        still_usable(loop)
    other.close()


def test_a_second_run_forever_in_the_same_thread_is_refused() -> None:
    with noria.Runner() as runner:
        loop = runner.get_loop()

        async def main() -> None:
            with pytest.raises(RuntimeError, match="^This event loop is already running$"):
                loop.run_forever()
            assert loop.is_running()
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0)

        loop.run_until_complete(main())
        still_usable(loop)


@pytest.mark.parametrize("method", ["run_forever", "run_until_complete"])
def test_running_a_loop_that_runs_in_another_thread_is_refused(method: str) -> None:
    with noria.Runner() as runner:
        loop = runner.get_loop()
        errors: list[BaseException] = []

        def run_again() -> None:
            try:
                loop.run_forever() if method == "run_forever" else run_and_close(loop)
            except BaseException as error:
                errors.append(error)

        async def main() -> None:
            thread = threading.Thread(target=run_again)
            thread.start()
            await asyncio.to_thread(thread.join)

        loop.run_until_complete(main())
        assert [(type(error), str(error)) for error in errors] == [
            (RuntimeError, "This event loop is already running")
        ]
        still_usable(loop)


NON_BLOCKING: dict[str, Callable[[Loop, socket.socket], Any]] = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 1),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(1)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 1),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(1)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, b"x"),
    "sock_sendto": lambda loop, sock: loop.sock_sendto(sock, b"x", ("127.0.0.1", 1)),
    "sock_connect": lambda loop, sock: loop.sock_connect(sock, ("127.0.0.1", 1)),
    "sock_accept": lambda loop, sock: loop.sock_accept(sock),
    "sock_sendfile": lambda loop, sock: loop.sock_sendfile(sock, io.BytesIO(b"x")),
}


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in NON_BLOCKING.items()])
def test_a_blocking_socket_is_refused_always_where_asyncio_looks_in_debug_mode_alone(
    call: Callable[[Loop, socket.socket], Any], debug: bool, things: Things
) -> None:
    with noria.Runner(debug=debug) as runner:
        loop = runner.get_loop()
        for timeout in (None, 5.0):
            things.blocking.settimeout(timeout)
            refused = outcome(loop, lambda: call(loop, things.blocking))
            assert (type(refused), str(refused)) == (ValueError, "the socket must be non-blocking")
        still_usable(loop)


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in NON_BLOCKING.items()])
def test_what_is_no_socket_is_refused(call: Callable[[Loop, Any], Any], things: Things) -> None:
    with noria.Runner() as runner:
        loop = runner.get_loop()
        for wrong in (None, 1, "socket", object(), things.stream.fileno(), things.plain_file):
            assert isinstance(outcome(loop, partial(call, loop, wrong)), TypeError | AttributeError)
        still_usable(loop)


def test_a_failed_connection_leaves_no_descriptor(things: Things) -> None:
    with noria.Runner() as runner:
        loop = runner.get_loop()
        still_usable(loop)
        before = sorted(os.listdir("/proc/self/fd"))
        for name in ("to a refusing port", "with a factory that fails", "from an address that is not ours"):
            for _ in range(5):
                assert outcome(loop, partial(CONNECTIONS[name], loop, things)) is not None
        for name in ("on a taken port", "Unix, in a missing directory", "Unix, on a file that is there"):
            for _ in range(5):
                assert outcome(loop, partial(SERVERS[name], loop, things)) is not None
        assert sorted(os.listdir("/proc/self/fd")) == before
