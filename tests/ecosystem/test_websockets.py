"""websockets on noria: its asyncio server and client, ws and wss."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK

from ecosystem.ground import MIB, Channel, OnNoria

PAYLOAD = hashlib.shake_256(b"buckets").digest(8 * MIB)
Handler = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    """Sends every message back."""
    async for message in connection:
        await connection.send(message)


@contextlib.asynccontextmanager
async def serving(channel: Channel, handler: Handler = echo) -> AsyncIterator[tuple[Server, str]]:
    """Serve `handler` on a free port for the length of the block; the server and its URL."""
    async with serve(handler, "127.0.0.1", 0, ssl=channel.server, max_size=16 * MIB) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield server, f"{'wss' if channel.encrypted else 'ws'}://localhost:{port}"


def connecting(url: str, channel: Channel) -> connect:
    """A connection to `url` that takes messages of up to 16 MiB."""
    return connect(url, ssl=channel.client, max_size=16 * MIB, compression=None)


def test_messages_come_back_in_order(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        async with serving(channel) as (_, url), connecting(url, channel) as connection:
            messages: list[str | bytes] = ["", "wheel", "ñoria", b"", b"\x00\xff", *map(str, range(1000))]
            for message in messages:
                await connection.send(message)
            assert [await connection.recv() for _ in messages] == messages

    on_noria(main())


def test_a_large_message_and_a_fragmented_one_arrive_unchanged(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        async with serving(channel) as (_, url), connecting(url, channel) as connection:
            await connection.send(PAYLOAD)
            assert await connection.recv() == PAYLOAD
            await connection.send(PAYLOAD[start : start + 100_000] for start in range(0, MIB, 100_000))
            assert await connection.recv() == PAYLOAD[: 100_000 * (MIB // 100_000 + 1)]

    on_noria(main())


def test_compressed_messages_arrive_unchanged(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        async with serving(channel) as (_, url), connect(url, ssl=channel.client) as connection:
            for text in ("wheel " * 10_000, "river " * 10_000):
                await connection.send(text)
                assert await connection.recv() == text

    on_noria(main())


def test_two_hundred_clients_talk_at_once(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        async with serving(channel) as (_, url):

            async def talk(number: int) -> None:
                async with connecting(url, channel) as connection:
                    for turn in range(10):
                        await connection.send(f"{number}-{turn}")
                        assert await connection.recv() == f"{number}-{turn}"

            async with asyncio.TaskGroup() as group:
                for number in range(200):
                    group.create_task(talk(number))

    on_noria(main())


def test_a_ping_is_answered_while_nothing_else_is_said(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        async with serving(channel) as (_, url), connecting(url, channel) as connection:
            answered = await connection.ping()
            assert await asyncio.wait_for(answered, 10) >= 0.0

    on_noria(main())


def test_a_client_hears_with_which_code_and_reason_the_server_closed(
    on_noria: OnNoria, channel: Channel
) -> None:
    async def dismiss(connection: ServerConnection) -> None:
        await connection.close(4001, "harvest")

    async def main() -> None:
        async with serving(channel, dismiss) as (_, url), connecting(url, channel) as connection:
            with pytest.raises(ConnectionClosedError) as closed:
                await connection.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "harvest")

    on_noria(main())


def test_a_client_that_vanishes_without_a_word_ends_the_handler(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        ended: asyncio.Future[ConnectionClosed] = asyncio.get_running_loop().create_future()

        async def wait(connection: ServerConnection) -> None:
            try:
                await connection.recv()
            except ConnectionClosed as error:
                ended.set_result(error)

        async with serving(channel, wait) as (_, url):
            connection: ClientConnection = await connecting(url, channel)
            connection.transport.abort()
            error = await asyncio.wait_for(ended, 10)
            assert isinstance(error, ConnectionClosedError)
            assert error.rcvd is None
            await connection.wait_closed()

    on_noria(main())


def test_a_waiting_recv_can_be_cancelled_without_losing_a_message(
    on_noria: OnNoria, channel: Channel
) -> None:
    async def main() -> None:
        async with serving(channel) as (_, url), connecting(url, channel) as connection:
            for number in range(20):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(connection.recv(), 0.001)
                await connection.send(str(number))
                assert await connection.recv() == str(number)

    on_noria(main())


def test_a_closing_server_says_going_away_to_its_clients(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        async with serving(channel) as (server, url), connecting(url, channel) as connection:
            await connection.send("hello")
            assert await connection.recv() == "hello"
            server.close()
            with pytest.raises(ConnectionClosedOK):
                await connection.recv()
            assert connection.close_code == 1001
            await server.wait_closed()

    on_noria(main())
