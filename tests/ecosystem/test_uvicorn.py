"""uvicorn with httptools on noria: from its command line, in a thread, and beside its client on one loop.

The client is aiohttp on noria, over http and https, and the library websockets for those. uvicorn serves
`ecosystem.application`.
"""

import asyncio
import contextlib
import hashlib
import io
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from websockets.asyncio.client import connect

from ecosystem.application import PAYLOAD, app
from ecosystem.ground import Channel, OnNoria
from ecosystem.processes import Program, free_port, running
from support.certs import Identity

TESTS = Path(__file__).parent.parent


def command(channel: Channel, identity: Identity, *more: str) -> list[str]:
    """The command line that serves `ecosystem.application` on a free port, on noria, with httptools."""
    argv = [sys.executable, "-m", "uvicorn", "--loop", "noria:new_event_loop", "--http", "httptools"]
    argv += ["--port", "0", "--lifespan", "on", "--app-dir", str(TESTS), *more]
    if channel.encrypted:
        argv += ["--ssl-certfile", str(identity.cert), "--ssl-keyfile", str(identity.key)]
    return [*argv, "ecosystem.application:app"]


@contextlib.contextmanager
def command_running(channel: Channel, identity: Identity, *more: str) -> Iterator[tuple[Program, str]]:
    """uvicorn's command, running for the length of the block; the process and its URL."""
    with running(command(channel, identity, *more)) as program:
        found = program.wait_for(r"running on (https?)://127\.0\.0\.1:(\d+)")
        yield program, f"{found[1]}://localhost:{found[2]}"


def client(channel: Channel) -> aiohttp.ClientSession:
    """A session that trusts our authority alone."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=channel.client or True))


async def get(session: aiohttp.ClientSession, url: str) -> Any:
    """The JSON found at `url`."""
    async with session.get(url) as response:
        assert response.status == 200
        return await response.json()


def test_the_command_serves_on_noria_and_keeps_connections_alive(
    on_noria: OnNoria, channel: Channel, identity: Identity
) -> None:
    async def main(url: str) -> None:
        async with client(channel) as session:
            answers = [await get(session, url) for _ in range(50)]
        assert {answer["on_noria"] for answer in answers} == {True}
        assert {answer["scheme"] for answer in answers} == {"https" if channel.encrypted else "http"}
        assert len({answer["port"] for answer in answers}) == 1

    with command_running(channel, identity) as (_, url):
        on_noria(main(url))


def test_the_command_receives_and_sends_several_mebibytes_unchanged(
    on_noria: OnNoria, channel: Channel, identity: Identity
) -> None:
    async def main(url: str) -> None:
        expected = {"length": len(PAYLOAD), "sha256": hashlib.sha256(PAYLOAD).hexdigest()}
        async with client(channel) as session:
            async with session.post(f"{url}/upload", data=io.BytesIO(PAYLOAD)) as response:
                assert await response.json() == expected
            async with session.get(f"{url}/download") as response:
                assert await response.read() == PAYLOAD

    with command_running(channel, identity) as (_, url):
        on_noria(main(url))


def test_the_command_echoes_websocket_messages(
    on_noria: OnNoria, channel: Channel, identity: Identity
) -> None:
    async def main(url: str) -> None:
        # aiohttp's client would not wait for the end of the TLS connection, and its transport outlive the loop.
        async with connect(url.replace("http", "ws", 1), ssl=channel.client) as connection:
            await connection.send("wheel")
            assert await connection.recv() == "wheel"
            await connection.send(PAYLOAD[:1_000_000])
            assert await connection.recv() == PAYLOAD[:1_000_000]

    with command_running(channel, identity, "--ws", "websockets-sansio") as (_, url):
        on_noria(main(url))


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_in_order_while_a_client_is_connected(
    on_noria: OnNoria, channel: Channel, identity: Identity, by: signal.Signals
) -> None:
    async def main(program: Program, url: str) -> None:
        async with client(channel) as session:
            await get(session, url)  # the connection stays open
            await asyncio.to_thread(program.end, by)
            with pytest.raises(aiohttp.ClientConnectionError):  # refused, or the kept connection has ended
                await get(session, url)

    with command_running(channel, identity) as (program, url):
        program.wait_for("lifespan: begun")
        on_noria(main(program, url))
        assert "lifespan: ended" in program.output
        assert "Finished server process" in program.output
        assert "Traceback" not in program.output


def test_several_workers_serve_on_noria_and_end_with_their_parent(
    on_noria: OnNoria, identity: Identity
) -> None:
    async def main(url: str) -> None:
        async with client(Channel(None, None)) as session:
            while True:
                try:
                    answer = await get(session, url)
                    break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.01)  # workers listen a moment after their last word
            assert answer["on_noria"]

    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", "--loop", "noria:new_event_loop", "--workers", "2"]
    argv += ["--port", str(port), "--app-dir", str(TESTS), "ecosystem.application:app"]
    with running(argv) as program:
        program.wait_for("Application startup complete", times=2)
        on_noria(main(f"http://127.0.0.1:{port}"))
        program.end(signal.SIGTERM)
        assert program.output.count("lifespan: ended") == 2


def configuration(channel: Channel, identity: Identity) -> uvicorn.Config:
    """As `command`, for a server inside this process."""
    tls: dict[str, Any] = (
        {"ssl_certfile": identity.cert, "ssl_keyfile": identity.key} if channel.encrypted else {}
    )
    return uvicorn.Config(
        app,
        port=0,
        loop="noria:new_event_loop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        **tls,
    )


def port_of(server: uvicorn.Server) -> int:
    """The port a started server listens on."""
    return int(server.servers[0].sockets[0].getsockname()[1])


def test_a_server_in_a_thread_has_a_noria_loop_of_its_own(
    on_noria: OnNoria, channel: Channel, identity: Identity
) -> None:
    started = threading.Event()

    class Telling(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    async def main(url: str) -> None:
        async with client(channel) as session:
            answers = await asyncio.gather(*(get(session, url) for _ in range(100)))
        assert all(answer["on_noria"] for answer in answers)

    server = Telling(configuration(channel, identity))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(30)
        on_noria(main(f"{'https' if channel.encrypted else 'http'}://localhost:{port_of(server)}"))
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def test_server_and_client_share_one_loop(on_noria: OnNoria, channel: Channel, identity: Identity) -> None:
    @contextlib.asynccontextmanager
    async def serving() -> AsyncIterator[int]:
        started = asyncio.Event()

        class Telling(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                started.set()

        server = Telling(configuration(channel, identity))
        task = asyncio.create_task(server.serve())
        await started.wait()
        try:
            yield port_of(server)
        finally:
            server.should_exit = True
            await task

    async def main() -> None:
        scheme = "https" if channel.encrypted else "http"
        async with serving() as port, client(channel) as session:
            answers = await asyncio.gather(
                *(get(session, f"{scheme}://localhost:{port}") for _ in range(100))
            )
        assert all(answer["on_noria"] for answer in answers)

    on_noria(main())
