"""redis-py's asyncio client on noria, against a real redis-server: plain, over TLS, over a Unix socket."""

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
    ResponseError,
    TimeoutError as RedisTimeoutError,
    WatchError,
)

from ecosystem.ground import MIB, OnNoria
from ecosystem.processes import free_port, running
from support.certs import Authority, Identity
from support.tools import require

PAYLOAD = hashlib.shake_256(b"channel").digest(8 * MIB)


class Store:
    """How to reach the redis-server of this module in each of its ways."""

    def __init__(self, directory: Path, ca: Authority) -> None:
        self.directory = directory
        self.ca = ca
        self.port = free_port()
        self.tls_port = free_port()

    def argv(self, identity: Identity) -> list[str]:
        """The command line of a server that keeps nothing on disk and demands client certificates over TLS."""
        words = ["--bind 127.0.0.1", f"--port {self.port}", f"--tls-port {self.tls_port}", "--save ''"]
        words += ["--appendonly no", f"--unixsocket {self.directory / 'socket'}", f"--dir {self.directory}"]
        words += [f"--tls-cert-file {identity.cert}", f"--tls-key-file {identity.key}"]
        words += [f"--tls-ca-cert-file {self.ca.cert}", "--tls-auth-clients yes"]
        return [require("redis-server"), *(word for option in words for word in option.split())]

    def client(self, way: str, **options: Any) -> "redis.Redis":
        """A client that speaks to the server over "tcp", "tls" or "unix"."""
        if way == "unix":
            return redis.Redis(unix_socket_path=str(self.directory / "socket"), **options)
        if way == "tcp":
            return redis.Redis(host="localhost", port=self.port, **options)
        who = self.ca.issue("miller.example")
        return redis.Redis(
            host="localhost",
            port=self.tls_port,
            ssl=True,
            ssl_ca_certs=str(self.ca.cert),
            ssl_certfile=str(who.cert),
            ssl_keyfile=str(who.key),
            ssl_check_hostname=True,
            **options,
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, ca: Authority, identity: Identity) -> Iterator[Store]:
    """A redis-server that runs as long as this module's tests."""
    store = Store(tmp_path_factory.mktemp("redis"), ca)
    with running(store.argv(identity)) as server:
        server.wait_for("eady to accept connections")
        yield store


@pytest.fixture(params=["tcp", "tls", "unix"])
def way(request: pytest.FixtureRequest) -> str:
    """Makes the test run three times: over TCP, over TLS and over a Unix socket."""
    return str(request.param)


@contextlib.asynccontextmanager
async def emptied(store: Store, way: str, **options: Any) -> AsyncIterator["redis.Redis"]:
    """A client of the emptied server, closed with the block."""
    async with store.client(way, **options) as client:
        await client.flushall()
        yield client


def test_what_was_set_is_got(on_noria: OnNoria, store: Store, way: str) -> None:
    async def main() -> None:
        async with emptied(store, way) as client:
            assert await client.ping()
            for key, value in (("small", b"x"), ("empty", b""), ("large", PAYLOAD)):
                await client.set(key, value)
                assert await client.get(key) == value
            assert await client.get("absent") is None
            with pytest.raises(ResponseError):
                await client.incr("small")
            assert await client.incr("counter", 5) == 5

    on_noria(main())


def test_a_pipeline_of_thousands_of_commands_is_answered_in_order(
    on_noria: OnNoria, store: Store, way: str
) -> None:
    async def main() -> None:
        async with emptied(store, way) as client, client.pipeline(transaction=False) as pipeline:
            for number in range(5000):
                pipeline.set(f"key-{number}", number)
                pipeline.get(f"key-{number}")
            answers = await pipeline.execute()
            assert answers[1::2] == [str(number).encode() for number in range(5000)]

    on_noria(main())


def test_fifty_tasks_count_together_over_a_pool(on_noria: OnNoria, store: Store, way: str) -> None:
    async def main() -> None:
        # No command is sent again after a timeout: INCR sent twice counts twice.
        # Fifty TLS handshakes at once take their time on a busy machine.
        patience = {"socket_timeout": 50, "socket_connect_timeout": 50}
        async with emptied(store, way, max_connections=50, retry=None, **patience) as client:

            async def count() -> None:
                for _ in range(40):
                    await client.incr("counter")

            await asyncio.gather(*(count() for _ in range(50)))
            assert await client.get("counter") == b"2000"

    on_noria(main())


def test_a_transaction_fails_when_another_client_was_first(on_noria: OnNoria, store: Store, way: str) -> None:
    async def main() -> None:
        async with emptied(store, way) as client, client.pipeline() as pipeline:
            await pipeline.watch("watched")
            await client.set("watched", 1)
            pipeline.multi()  # type: ignore[no-untyped-call]
            pipeline.set("watched", 2)
            with pytest.raises(WatchError):
                await pipeline.execute()
            assert await client.get("watched") == b"1"

    on_noria(main())


def test_a_subscriber_hears_what_is_published_in_order(on_noria: OnNoria, store: Store, way: str) -> None:
    async def main() -> None:
        async with emptied(store, way) as client, client.pubsub(ignore_subscribe_messages=True) as subscriber:
            await subscriber.subscribe("news")
            while not (await client.pubsub_numsub("news"))[0][1]:
                await asyncio.sleep(0)
            heard: list[bytes] = []

            async def listen() -> None:
                async for message in subscriber.listen():
                    heard.append(message["data"])
                    if message["data"] == b"499":
                        return

            listening = asyncio.create_task(listen())
            for number in range(500):
                assert await client.publish("news", number) == 1
            await asyncio.wait_for(listening, 10)
            assert heard == [str(number).encode() for number in range(500)]

    on_noria(main())


def test_a_blocking_pop_wakes_when_another_client_pushes(on_noria: OnNoria, store: Store, way: str) -> None:
    async def main() -> None:
        async with emptied(store, way) as client:
            popping = asyncio.ensure_future(client.blpop(["queue"], timeout=10))
            while not (await client.info("clients"))["blocked_clients"]:
                await asyncio.sleep(0)
            await client.rpush("queue", "item")
            assert list(await popping or ()) == [b"queue", b"item"]

    on_noria(main())


def test_a_cancelled_command_does_not_answer_the_next_one(on_noria: OnNoria, store: Store, way: str) -> None:
    async def main() -> None:
        async with emptied(store, way) as client:
            await client.set("key", "value")
            for _ in range(10):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.blpop(["nothing comes here"], timeout=10), 0.005)
                assert await client.get("key") == b"value"

    on_noria(main())


def test_a_socket_timeout_is_raised_and_the_client_stays_usable(
    on_noria: OnNoria, store: Store, way: str
) -> None:
    async def main() -> None:
        async with emptied(store, way, socket_timeout=0.1, retry=None) as client:
            with pytest.raises(RedisTimeoutError):
                await client.blpop(["nothing comes here"], timeout=10)
            assert await client.ping()

    on_noria(main())


def test_a_client_of_another_authority_is_refused(on_noria: OnNoria, store: Store) -> None:
    async def main() -> None:
        options: dict[str, Any] = {"host": "localhost", "port": store.tls_port, "ssl": True, "retry": None}
        async with redis.Redis(**options) as client:
            with pytest.raises(RedisConnectionError) as refused:
                await client.ping()
            assert isinstance(refused.value.__context__, ssl.SSLCertVerificationError)
        async with redis.Redis(ssl_ca_certs=str(store.ca.cert), **options) as client:
            with pytest.raises((RedisConnectionError, OSError)):
                await client.ping()

    on_noria(main())
