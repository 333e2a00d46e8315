"""TCP echo by the loop's sock_* calls: a task for each connection."""

from __future__ import annotations

import socket
from typing import Any

from ...row import Load, Service
from ._servers import BACKLOG, CHUNK, HOST, NAMES, SIZES, allow_connections, keep


def prepare(client: socket.socket) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def serve(aio: Any) -> str:
    allow_connections()
    loop = aio.get_running_loop()
    tasks = set()  # the loop itself holds its tasks weakly

    async def echo(client: socket.socket) -> None:
        with client:
            prepare(client)
            try:
                while data := await loop.sock_recv(client, CHUNK):
                    await loop.sock_sendall(client, data)
            except ConnectionError:
                pass  # the client is gone

    async def accept() -> None:
        while True:
            client, _ = await loop.sock_accept(listener)
            start(echo(client))

    def start(coroutine: Any) -> Any:
        task = aio.create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    listener.setblocking(False)
    accepting = keep(start(accept()))
    await aio.sleep(0)
    if accepting.done():  # a loop without sock_accept
        accepting.result()
    return f"tcp:{listener.getsockname()[1]}"


async def serve_with_trio() -> str:
    import trio

    allow_connections()

    async def echo(client: Any) -> None:
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while data := await client.recv(CHUNK):
                    view = memoryview(data)
                    while view:
                        view = view[await client.send(view) :]
            except ConnectionError:
                pass  # the client is gone

    async def accept() -> None:
        async with trio.open_nursery() as nursery:
            while True:
                client, _ = await listener.accept()
                nursery.start_soon(echo, client)

    listener = trio.socket.from_stdlib_socket(socket.create_server((HOST, 0), backlog=BACKLOG))
    trio.lowlevel.spawn_system_task(accept)
    return f"tcp:{listener.getsockname()[1]}"


ROWS = [
    Service(
        key=f"echo_sock_{size}_{connections}",
        title=f"sock_recv and sock_sendall, {connections:,} x {NAMES[size]}",
        serve=serve,
        trio=serve_with_trio,
        load=Load(connections=connections, size=SIZES[size]),
        floor=True,
    )
    for connections, size in [(50, "1k"), (50, "100k")]
]
