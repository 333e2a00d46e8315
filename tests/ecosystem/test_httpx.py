"""httpx on noria: its asynchronous client, against an aiohttp server, over http and https."""

import asyncio
import contextlib
import hashlib
import io
from collections.abc import AsyncIterator

import httpx
import pytest
from aiohttp import web

from ecosystem.ground import MIB, Channel, OnNoria

PAYLOAD = hashlib.shake_256(b"sluice").digest(4 * MIB)


async def hello(request: web.Request) -> web.Response:
    """Answers with the name in the query."""
    return web.json_response({"hello": request.query["name"]})


async def measure(request: web.Request) -> web.Response:
    """Answers with the digest of what was uploaded."""
    return web.Response(text=hashlib.sha256(await request.read()).hexdigest())


async def payload(request: web.Request) -> web.Response:
    """Answers with `PAYLOAD`."""
    return web.Response(body=io.BytesIO(PAYLOAD))


async def silence(request: web.Request) -> web.Response:
    """Never answers."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody completes that future")


@contextlib.asynccontextmanager
async def talking(channel: Channel) -> AsyncIterator[httpx.AsyncClient]:
    """A server, and a client whose base URL is the server's."""
    app = web.Application(client_max_size=0)
    app.router.add_get("/hello", hello)
    app.router.add_post("/measure", measure)
    app.router.add_get("/payload", payload)
    app.router.add_get("/silence", silence)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=channel.server).start()
        url = f"{'https' if channel.encrypted else 'http'}://localhost:{runner.addresses[0][1]}"
        async with httpx.AsyncClient(base_url=url, verify=channel.client or True, trust_env=False) as client:
            yield client
    finally:
        await runner.cleanup()


def test_many_requests_at_once_get_each_its_own_answer(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        async with talking(channel) as client:

            async def ask(name: str) -> str:
                return str((await client.get("/hello", params={"name": name})).json()["hello"])

            names = [f"visitor-{number}" for number in range(100)]
            assert await asyncio.gather(*map(ask, names)) == names

    on_noria(main())


def test_a_streamed_upload_and_a_streamed_download_arrive_unchanged(
    on_noria: OnNoria, channel: Channel
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(PAYLOAD), 65_000):
            yield PAYLOAD[start : start + 65_000]

    async def main() -> None:
        async with talking(channel) as client:
            answer = await client.post("/measure", content=pieces())
            assert answer.text == hashlib.sha256(PAYLOAD).hexdigest()
            async with client.stream("GET", "/payload") as response:
                assert b"".join([piece async for piece in response.aiter_bytes()]) == PAYLOAD

    on_noria(main())


def test_a_read_timeout_is_raised_and_the_client_stays_usable(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        async with talking(channel) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/silence", timeout=httpx.Timeout(10, read=0.1))
            assert (await client.get("/hello", params={"name": "again"})).json() == {"hello": "again"}

    on_noria(main())


def test_a_server_of_an_unknown_authority_is_refused(on_noria: OnNoria, tls_channel: Channel) -> None:
    async def main() -> None:
        async with talking(tls_channel) as client, httpx.AsyncClient(trust_env=False) as stranger:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await stranger.get(client.base_url)

    on_noria(main())
