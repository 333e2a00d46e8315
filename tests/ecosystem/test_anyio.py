"""anyio on noria, entered the way anyio offers: `anyio.run` with noria's loop factory.

Structured concurrency, synchronization, threads, TCP, Unix and UDP sockets, TLS streams, child processes,
signals and files.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_process
import anyio.to_thread
import pytest
import sniffio
from anyio.abc import ByteStream, SocketAttribute, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream
from anyio.streams.tls import TLSAttribute, TLSListener, TLSStream

import noria
from ecosystem.ground import KIB, MIB, Channel

T = TypeVar("T")
PAYLOAD = hashlib.shake_256(b"paddles").digest(4 * MIB)


def anyio_on_noria(main: Callable[[], Awaitable[T]], seconds: float = 60.0) -> T:
    """Run `main` with `anyio.run` on a noria loop, within `seconds`; its result.

    Raises what `main` raises, TimeoutError past the deadline, AssertionError when the loop is not noria's or its
    exception handler was called.
    """
    reports: list[dict[str, Any]] = []

    async def watched() -> T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, noria.Loop)
        assert sniffio.current_async_library() == "asyncio"
        loop.set_exception_handler(lambda _, context: reports.append(context))
        with anyio.fail_after(seconds):
            return await main()

    result = anyio.run(watched, backend="asyncio", backend_options={"loop_factory": noria.new_event_loop})
    assert reports == [], "the loop's exception handler was called"
    return result


def test_a_task_group_waits_for_its_tasks_and_for_those_they_start() -> None:
    async def main() -> None:
        done: list[str] = []

        async def child(group: anyio.abc.TaskGroup, name: str) -> None:
            await anyio.lowlevel.checkpoint()
            if len(name) < 3:
                group.start_soon(child, group, name + "a")
                group.start_soon(child, group, name + "b")
            done.append(name)

        async with anyio.create_task_group() as group:
            group.start_soon(child, group, "")
        assert sorted(done) == sorted(
            ["", "a", "b", "aa", "ab", "ba", "bb", "aaa", "aab", "aba", "abb", "baa", "bab", "bba", "bbb"]
        )

    anyio_on_noria(main)


def test_a_failing_task_cancels_its_siblings_and_its_error_comes_out_in_a_group() -> None:
    async def main() -> None:
        cancelled = 0

        async def sleeper() -> None:
            nonlocal cancelled
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                cancelled += 1
                raise

        async def failing() -> None:
            await anyio.lowlevel.checkpoint()
            raise KeyError("leak")

        with pytest.raises(BaseExceptionGroup) as raised:
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(sleeper)
                group.start_soon(failing)
        assert [repr(error) for error in raised.value.exceptions] == ["KeyError('leak')"]
        assert cancelled == 10

    anyio_on_noria(main)


def test_a_started_task_reports_when_it_is_ready() -> None:
    async def main() -> None:
        async def service(value: int, *, task_status: TaskStatus[int]) -> None:
            await anyio.lowlevel.checkpoint()
            task_status.started(value * 2)
            await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            assert await group.start(service, 21) == 42
            group.cancel_scope.cancel()

    anyio_on_noria(main)


def test_cancel_scopes_nest_and_a_shield_holds_until_its_own_deadline() -> None:
    async def main() -> None:
        reached: list[str] = []
        with anyio.move_on_after(0.01) as outer:
            with anyio.move_on_after(60) as inner:
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(0.02)
                        reached.append("shielded")
            reached.append("unreachable")
        assert outer.cancelled_caught
        assert not inner.cancelled_caught
        assert reached == ["shielded"]
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                await anyio.Event().wait()
        await anyio.lowlevel.checkpoint()  # nothing of those cancellations is left behind

    anyio_on_noria(main)


def test_a_cancelled_scope_cancels_every_task_in_it_again_and_again() -> None:
    async def main() -> None:
        refusals = 0

        async def stubborn() -> None:
            nonlocal refusals
            while refusals < 3:
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    refusals += 1
            await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(stubborn)
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert refusals == 3

    anyio_on_noria(main)


def test_event_lock_semaphore_condition_and_limiter_let_tasks_wait_for_each_other() -> None:
    async def main() -> None:
        inside = most = 0
        order: list[int] = []
        gate, lock, limiter = anyio.Event(), anyio.Lock(), anyio.CapacityLimiter(3)
        semaphore, condition = anyio.Semaphore(2), anyio.Condition()

        async def through_limiter() -> None:
            nonlocal inside, most
            await gate.wait()
            async with limiter:
                inside += 1
                most = max(most, inside)
                await anyio.sleep(0.001)
                inside -= 1

        async def through_lock(number: int) -> None:
            async with lock, semaphore:
                order.append(number)
                await anyio.lowlevel.checkpoint()
            async with condition:
                condition.notify_all()

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(through_limiter)
                group.start_soon(through_lock, number)
            async with condition:
                while len(order) < 20:
                    await condition.wait()
            gate.set()
        assert order == list(range(20))
        assert most == 3
        assert limiter.borrowed_tokens == 0

    anyio_on_noria(main)


def test_a_memory_stream_hands_over_every_item_once() -> None:
    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[int](5)
        received: list[int] = []

        async def consume(stream: MemoryObjectReceiveStream[int]) -> None:
            async with stream:
                async for item in stream:
                    received.append(item)
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(consume, receive.clone())
            receive.close()
            async with send:
                for item in range(1000):
                    await send.send(item)
        assert sorted(received) == list(range(1000))

    anyio_on_noria(main)


def test_threads_are_called_from_the_loop_and_call_back_into_it() -> None:
    async def main() -> None:
        loop_thread = threading.get_ident()

        async def on_loop(value: int) -> int:
            await anyio.lowlevel.checkpoint()
            assert threading.get_ident() == loop_thread
            return value + 1

        def in_thread(value: int) -> int:
            assert threading.get_ident() != loop_thread
            assert anyio.from_thread.run_sync(threading.get_ident) == loop_thread
            return anyio.from_thread.run(on_loop, value)

        results: list[int] = []

        async def call(value: int) -> None:
            results.append(await anyio.to_thread.run_sync(in_thread, value))

        async with anyio.create_task_group() as group:
            for value in range(100):
                group.start_soon(call, value)
        assert sorted(results) == list(range(1, 101))

    anyio_on_noria(main)


def test_a_blocking_portal_runs_a_noria_loop_in_a_thread_for_synchronous_code() -> None:
    async def loop_of_mine() -> asyncio.AbstractEventLoop:
        await anyio.lowlevel.checkpoint()
        return asyncio.get_running_loop()

    with anyio.from_thread.start_blocking_portal(
        backend="asyncio", backend_options={"loop_factory": noria.new_event_loop}
    ) as portal:
        assert isinstance(portal.call(loop_of_mine), noria.Loop)
        sleeping = portal.start_task_soon(anyio.sleep_forever)
        sleeping.cancel()
        with pytest.raises(BaseException, match="^$") as raised:
            sleeping.result(10)
        assert type(raised.value).__name__ == "CancelledError"


def test_a_function_runs_in_a_worker_process() -> None:
    async def main() -> None:
        assert await anyio.to_process.run_sync(os.getpid) != os.getpid()

    anyio_on_noria(main)


async def return_upper(stream: ByteStream) -> None:
    """Send back in capitals what arrives, until the other side has sent its last byte."""
    async with stream:
        with contextlib.suppress(anyio.BrokenResourceError):
            async for piece in stream:
                await stream.send(piece.upper())


@contextlib.asynccontextmanager
async def serving(channel: Channel, handler: Callable[[Any], Awaitable[None]]) -> AsyncIterator[int]:
    """Serve `handler` on a free port for the length of the block; the port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(SocketAttribute.local_port)
    serve: Callable[[Any], Coroutine[Any, Any, None]] = listener.serve
    if channel.server is not None:
        serve = TLSListener(listener, channel.server, standard_compatible=False).serve
    async with listener, anyio.create_task_group() as group:
        group.start_soon(serve, handler)
        yield port
        group.cancel_scope.cancel()


async def connecting(channel: Channel, port: int) -> ByteStream:
    """A connection to localhost; over TLS it has verified the server."""
    if channel.client is None:
        return await anyio.connect_tcp("localhost", port)
    return await anyio.connect_tcp(
        "localhost", port, ssl_context=channel.client, tls_standard_compatible=False
    )


def test_streams_carry_megabytes_both_ways_at_once(channel: Channel) -> None:
    async def main() -> None:
        text = PAYLOAD.hex().encode()[: 2 * MIB]
        async with serving(channel, return_upper) as port, await connecting(channel, port) as stream:
            async with anyio.create_task_group() as group:
                group.start_soon(stream.send, text)
                received = await BufferedByteReceiveStream(stream).receive_exactly(len(text))
            assert received == text.upper()

    anyio_on_noria(main)


def test_a_hundred_clients_speak_at_once(channel: Channel) -> None:
    async def main() -> None:
        async def speak(number: int) -> None:
            async with await connecting(channel, port) as stream:
                buffered = BufferedByteReceiveStream(stream)
                for turn in range(5):
                    await stream.send(f"client {number} turn {turn}\n".encode())
                    line = await buffered.receive_until(b"\n", 100)
                    assert line == f"CLIENT {number} TURN {turn}".encode()

        async with serving(channel, return_upper) as port, anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(speak, number)

    anyio_on_noria(main)


def test_a_waiting_receive_can_be_cancelled_and_the_stream_used_again(channel: Channel) -> None:
    async def main() -> None:
        async with serving(channel, return_upper) as port, await connecting(channel, port) as stream:
            for _ in range(10):
                with anyio.move_on_after(0.002) as scope:
                    await stream.receive()
                assert scope.cancelled_caught
                await stream.send(b"still here")
                assert await stream.receive() == b"STILL HERE"

    anyio_on_noria(main)


def test_the_end_of_a_stream_is_told_from_a_broken_one(channel: Channel) -> None:
    async def main() -> None:
        async def speak_and_leave(stream: ByteStream) -> None:
            async with stream:
                await stream.send(b"farewell")

        async with serving(channel, speak_and_leave) as port, await connecting(channel, port) as stream:
            assert await stream.receive() == b"farewell"
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            await stream.aclose()
            with pytest.raises(anyio.EndOfStream if channel.encrypted else anyio.ClosedResourceError):
                await stream.receive()

    anyio_on_noria(main)


def test_a_stream_is_upgraded_to_tls_in_the_middle(tls_channel: Channel) -> None:
    async def main() -> None:
        async def start_tls(stream: ByteStream) -> None:
            async with stream:
                assert await stream.receive() == b"STARTTLS"
                await stream.send(b"go")
                secured = await TLSStream.wrap(stream, server_side=True, ssl_context=tls_channel.server)
                await secured.send(await secured.receive())
                await secured.aclose()

        async with serving(Channel(None, None), start_tls) as port:
            async with await anyio.connect_tcp("localhost", port) as plain:
                await plain.send(b"STARTTLS")
                assert await plain.receive() == b"go"
                secured = await TLSStream.wrap(plain, hostname="localhost", ssl_context=tls_channel.client)
                assert secured.extra(TLSAttribute.tls_version).startswith("TLSv1.")
                await secured.send(b"secret")
                assert await secured.receive() == b"secret"
                await secured.aclose()

    anyio_on_noria(main)


def test_a_client_refuses_a_server_of_an_unknown_authority(tls_channel: Channel) -> None:
    async def main() -> None:
        async def handshake_fails(stream: ByteStream) -> None:
            raise AssertionError("the handshake should have failed")

        async with serving(tls_channel, handshake_fails) as port:
            with pytest.raises(ssl.SSLCertVerificationError):
                await anyio.connect_tcp("localhost", port, ssl_context=ssl.create_default_context())

    anyio_on_noria(main)


def test_a_unix_socket_carries_a_stream(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "socket"
        listener = await anyio.create_unix_listener(path)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, return_upper)
            async with await anyio.connect_unix(path) as stream:
                await stream.send(b"wheel")
                assert await stream.receive() == b"WHEEL"
                await stream.send_eof()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            group.cancel_scope.cancel()

    anyio_on_noria(main)


def test_udp_sockets_exchange_packets() -> None:
    async def main() -> None:
        async with (
            await anyio.create_udp_socket(local_host="127.0.0.1") as server,
            await anyio.create_connected_udp_socket(
                "127.0.0.1", server.extra(SocketAttribute.local_port), local_host="127.0.0.1"
            ) as client,
        ):
            for size in (1, 1400, 60 * KIB):
                await client.send(PAYLOAD[:size])
                packet, address = await server.receive()
                assert packet == PAYLOAD[:size]
                await server.sendto(packet[::-1], *address)
                assert await client.receive() == PAYLOAD[:size][::-1]

    anyio_on_noria(main)


def test_a_child_process_is_fed_read_and_waited_for() -> None:
    async def main() -> None:
        source = "import sys; text = sys.stdin.read(); print(text.upper(), end=''); sys.exit(7)"
        async with await anyio.open_process([sys.executable, "-c", source]) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.send(b"wheel")
            await process.stdin.aclose()
            assert b"".join([piece async for piece in process.stdout]) == b"WHEEL"
            assert await process.wait() == 7

    anyio_on_noria(main)


def test_signals_are_received_as_a_stream() -> None:
    async def main() -> None:
        with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert await anext(aiter(signals)) == signal.SIGUSR1
            os.kill(os.getpid(), signal.SIGUSR2)
            assert await anext(aiter(signals)) == signal.SIGUSR2

    anyio_on_noria(main)


def test_a_file_is_written_and_read(tmp_path: Path) -> None:
    async def main() -> None:
        path = anyio.Path(tmp_path / "file")
        await path.write_bytes(PAYLOAD)
        async with await anyio.open_file(path, "rb") as file:
            pieces = [piece async for piece in file]
        assert b"".join(pieces) == PAYLOAD

    anyio_on_noria(main)
