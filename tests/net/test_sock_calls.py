"""The sock_* calls: on sockets of the program's own, non-blocking ones only, and cancelling leaves the socket usable."""

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import pytest

from core.running import on_noria, turns
from net.peers import pair, pattern, read_all
from net.test_connections import deaf, loop_, refused_port

T = TypeVar("T")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_big_data_goes_through_sendall_and_recv(kind: str) -> None:
    @on_noria
    async def program() -> None:
        near, far = pair(kind)
        with near, far:
            for data in (b"", b"x", bytearray(pattern(3_000_000)), memoryview(pattern(2_000_000, 2))):
                sending = asyncio.create_task(loop_().sock_sendall(near, data))
                assert await read_all(far, len(data)) == bytes(data)
                assert await sending is None

    program()


@on_noria
async def test_sock_recv_waits_for_data_and_sees_the_end() -> None:
    near, far = pair()
    with near:
        receiving = asyncio.create_task(loop_().sock_recv(near, 100))
        await turns(5)
        assert not receiving.done()
        far.send(b"data")
        assert await receiving == b"data"
        far.close()
        assert await loop_().sock_recv(near, 100) == b""


@on_noria
async def test_sock_recv_into_fills_a_buffer_of_the_caller() -> None:
    near, far = pair()
    with near, far:
        buffer = bytearray(10)
        receiving = asyncio.create_task(loop_().sock_recv_into(near, memoryview(buffer)[2:6]))
        await turns(2)
        far.send(b"abcdef")
        assert await receiving == 4
        assert buffer == b"\0\0abcd\0\0\0\0"
        assert await loop_().sock_recv_into(near, buffer) == 2


@on_noria
async def test_datagram_sockets_of_the_program() -> None:
    loop = loop_()
    one, two = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with one, two:
        for sock in (one, two):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        receiving = asyncio.create_task(loop.sock_recvfrom(two, 100))
        await turns(2)
        assert await loop.sock_sendto(one, b"first", two.getsockname()) == 5
        assert await receiving == (b"first", one.getsockname())
        assert await loop.sock_sendto(one, b"second", two.getsockname()) == 6
        buffer = bytearray(10)
        assert await loop.sock_recvfrom_into(two, buffer) == (6, one.getsockname())
        assert buffer[:6] == b"second"
        await loop.sock_sendto(one, b"third", two.getsockname())
        assert await loop.sock_recvfrom_into(two, buffer, 3) == (3, one.getsockname())


@on_noria
async def test_sock_connect_and_sock_accept() -> None:
    loop = loop_()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        accepting = asyncio.create_task(loop.sock_accept(listener))
        await turns(2)
        await loop.sock_connect(client, listener.getsockname())
        accepted, address = await accepting
        with accepted:
            assert address == client.getsockname()
            assert accepted.gettimeout() == 0
            await loop.sock_sendall(accepted, b"hello")
            assert await loop.sock_recv(client, 10) == b"hello"


@on_noria
async def test_sock_connect_takes_a_host_name() -> None:
    loop = loop_()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
        assert client.getpeername() == listener.getsockname()


@on_noria
async def test_sock_connect_tells_who_refused() -> None:
    port = refused_port()
    with socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(ConnectionRefusedError, match=str(port)):
            await loop_().sock_connect(client, ("127.0.0.1", port))


@on_noria
async def test_a_cancelled_sock_connect_watches_no_more() -> None:
    loop = loop_()
    with deaf() as address, socket.socket() as client:
        client.setblocking(False)
        task = asyncio.create_task(loop.sock_connect(client, address))
        await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not loop.remove_writer(client)


@on_noria
async def test_cancelling_leaves_the_socket_usable() -> None:
    loop = loop_()
    near, far = pair()
    with near, far:
        for call in (loop.sock_recv(near, 10), loop.sock_recv_into(near, bytearray(10))):
            task = asyncio.create_task(call)  # type: ignore[arg-type]
            await turns(2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        far.send(b"kept")
        assert await loop.sock_recv(near, 10) == b"kept"
        sending = asyncio.create_task(loop.sock_sendall(near, bytes(5_000_000)))
        await turns(2)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not loop.remove_writer(near)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            accepting = asyncio.create_task(loop.sock_accept(listener))
            await turns(2)
            accepting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await accepting
            assert not loop.remove_reader(listener)


@on_noria
async def test_what_a_cancelled_call_did_not_return_is_still_in_the_socket() -> None:
    loop = loop_()
    room = bytearray(10)
    calls: list[Callable[[socket.socket], Coroutine[Any, Any, Any]]] = [
        lambda sock: loop.sock_recv(sock, 10),
        lambda sock: loop.sock_recv_into(sock, room),
        lambda sock: loop.sock_recvfrom(sock, 10),
        lambda sock: loop.sock_recvfrom_into(sock, room),
    ]
    outcomes = Counter[bool]()

    async def cancelled(call: Coroutine[Any, Any, T], happens: Callable[[], object], delay: int) -> T | None:
        """What the waiting call returned, or None if it was cancelled, so many turns after what it waits for."""
        task = asyncio.create_task(call)
        await turns(2)
        happens()
        await turns(delay)
        task.cancel()
        await asyncio.wait([task])
        outcomes[task.cancelled()] += 1
        return None if task.cancelled() else task.result()

    for delay in range(150):  # while there is work the kernel is asked every 64 turns
        near, far = pair()
        with near, far:
            for call in calls:
                if await cancelled(call(near), partial(far.send, b"kept"), delay) is None:
                    assert near.recv(10) == b"kept"
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setblocking(False)
            connect = partial(client.connect, listener.getsockname())
            accepted = await cancelled(loop.sock_accept(listener), connect, delay)
            (accepted or listener.accept())[0].close()
    assert outcomes[True]
    assert outcomes[False]


@on_noria
async def test_a_socket_closed_under_a_waiting_call_does_no_harm_to_the_next_of_its_number() -> None:
    loop = loop_()
    near, far = pair()
    task = asyncio.create_task(loop.sock_recv(near, 10))
    await turns(2)
    number = near.fileno()
    near.close()
    far.close()
    near, far = pair()
    with near, far:
        assert near.fileno() == number
        receiving = asyncio.create_task(loop.sock_recv(near, 10))
        await turns(2)
        task.cancel()
        await turns(2)
        far.send(b"mine")
        assert await receiving == b"mine"


@on_noria
async def test_errors_of_the_socket_come_out() -> None:
    loop = loop_()
    near, far = pair("tcp")
    with near:
        receiving = asyncio.create_task(loop.sock_recv(near, 10))
        await turns(2)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        with pytest.raises(ConnectionResetError):
            await receiving
        with pytest.raises(BrokenPipeError):
            await loop.sock_sendall(near, b"x")


@on_noria
async def test_a_blocking_socket_is_refused_by_every_call() -> None:
    loop = loop_()
    near, far = socket.socketpair()
    with near, far:
        calls: list[Any] = [
            loop.sock_recv(near, 1),
            loop.sock_recv_into(near, bytearray(1)),
            loop.sock_recvfrom(near, 1),
            loop.sock_recvfrom_into(near, bytearray(1)),
            loop.sock_sendall(near, b"x"),
            loop.sock_sendto(near, b"x", "x"),
            loop.sock_accept(near),
            loop.sock_connect(near, "x"),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="non-blocking"):
                await call


@on_noria
async def test_many_calls_at_once_keep_apart() -> None:
    loop = loop_()
    pairs = [pair() for _ in range(100)]

    async def ping(n: int, near: socket.socket, far: socket.socket) -> None:
        for round_ in range(5):
            message = f"{n}:{round_}".encode()
            receiving = asyncio.create_task(loop.sock_recv(far, 100))
            await turns(n % 3)
            await loop.sock_sendall(near, message)
            assert await receiving == message

    await asyncio.gather(*(ping(n, *both) for n, both in enumerate(pairs)))
    for near, far in pairs:
        near.close()
        far.close()


# A socket stays watched from one wait to the next. Its number may come back to another, to be watched by anybody.


def again_at(number: int) -> tuple[socket.socket, socket.socket]:
    """A connected pair whose first has this number, which is free."""
    held = []
    try:
        for _ in range(100):
            near, far = pair()
            if near.fileno() == number:
                return near, far
            if far.fileno() == number:
                return far, near
            held += [near, far]
    finally:
        for sock in held:
            sock.close()
    raise AssertionError(f"the number {number} did not come back")


async def waited_for(near: socket.socket, far: socket.socket) -> None:
    """near has been waited for, and is watched still."""
    receiving = asyncio.create_task(loop_().sock_recv(near, 100))
    await turns(3)
    far.send(b"first")
    assert await receiving == b"first"


@pytest.mark.parametrize("how", ["sock_recv", "sock_sendall", "add_reader", "transport", "listener"])
def test_a_number_that_comes_back_is_watched_anew(how: str) -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        near, far = pair()
        number = near.fileno()
        await waited_for(near, far)
        near.close()
        far.close()
        near, far = again_at(number)
        async with asyncio.timeout(10):
            with near, far:
                if how == "sock_recv":
                    await waited_for(near, far)
                elif how == "sock_sendall":
                    data = pattern(2_000_000)
                    sending = asyncio.create_task(loop.sock_sendall(near, data))
                    assert await read_all(far, len(data)) == data
                    await sending
                elif how == "add_reader":
                    called = asyncio.Event()
                    loop.add_reader(near, called.set)
                    await turns(3)
                    assert not called.is_set()
                    far.send(b"x")
                    await called.wait()
                    assert loop.remove_reader(near)
                    assert near.recv(10) == b"x"
                    await waited_for(near, far)
                elif how == "transport":
                    reader, writer = await asyncio.open_connection(sock=near)
                    far.send(b"line\n")
                    assert await reader.readline() == b"line\n"
                    with pytest.raises(RuntimeError, match="is used by transport"):
                        await loop.sock_recv(near, 10)
                    writer.close()
                    await writer.wait_closed()
                else:
                    near.close()
                    with socket.create_server(("127.0.0.1", 0)) as listener:
                        listener.setblocking(False)
                        assert listener.fileno() == number
                        accepting = asyncio.create_task(loop.sock_accept(listener))
                        await turns(3)
                        with socket.create_connection(listener.getsockname()):
                            (await accepting)[0].close()

    program()


@on_noria
async def test_one_task_receives_while_another_sends_on_the_same_socket() -> None:
    near, far = pair()
    with near, far:
        data = pattern(3_000_000)
        for _ in range(3):
            receiving = asyncio.create_task(loop_().sock_recv(near, 100))
            sending = asyncio.create_task(loop_().sock_sendall(near, data))
            assert await read_all(far, len(data)) == data
            await sending
            assert not receiving.done()
            far.send(b"answer")
            assert await receiving == b"answer"


@on_noria
async def test_data_that_nobody_waits_for_does_not_keep_the_loop_awake() -> None:
    near, far = pair()
    with near, far:
        await waited_for(near, far)
        far.send(b"unasked")
        await asyncio.sleep(0.01)  # the kernel reports it once
        used = time.thread_time()
        await asyncio.sleep(0.3)
        assert time.thread_time() - used < 0.15, "the loop spun"
        assert await loop_().sock_recv(near, 100) == b"unasked"
        await waited_for(near, far)


@on_noria
async def test_a_socket_of_another_make_is_asked_by_its_own_methods() -> None:
    class Upper(socket.socket):
        def recv(self, *arguments: Any) -> bytes:
            return super().recv(*arguments).upper()

        def send(self, data: Any, *arguments: Any) -> int:
            return super().send(bytes(data).upper(), *arguments)

    near, far = pair()
    with far, Upper(near.family, near.type, near.proto, near.detach()) as odd:
        odd.setblocking(False)
        receiving = asyncio.create_task(loop_().sock_recv(odd, 100))
        await turns(3)
        far.send(b"shout")
        assert await receiving == b"SHOUT"
        await loop_().sock_sendall(odd, b"back")
        assert far.recv(10) == b"BACK"
