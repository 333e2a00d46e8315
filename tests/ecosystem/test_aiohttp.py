"""aiohttp on noria: its server and its client, over http and https, with a certificate authority of our own.

Server and client run on the same loop, in the same test, so that both sides of the transport are noria's. How
the two behave as programs of their own (`web.run_app`, signals) is asked of child processes.
"""

import asyncio
import contextlib
import hashlib
import io
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import noria
from ecosystem.ground import KIB, MIB, Channel, OnNoria
from ecosystem.processes import python, running
from support.certs import Authority, Identity

PAYLOAD = hashlib.shake_256(b"water").digest(8 * MIB)


def digest(data: bytes | bytearray) -> str:
    """The SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


async def greet(request: web.Request) -> web.Response:
    """Answers with the name in the path and the port that the client speaks from."""
    assert request.transport is not None
    port = request.transport.get_extra_info("peername")[1]
    return web.json_response({"hello": request.match_info["name"], "port": port})


async def receive(request: web.Request) -> web.Response:
    """Reads an upload in pieces and answers with its length and digest."""
    digested, length = hashlib.sha256(), 0
    async for piece in request.content.iter_any():
        digested.update(piece)
        length += len(piece)
    return web.json_response({"length": length, "sha256": digested.hexdigest()})


async def send(request: web.Request) -> web.StreamResponse:
    """Streams `PAYLOAD` in chunked encoding."""
    response = web.StreamResponse()
    await response.prepare(request)
    for start in range(0, len(PAYLOAD), 100_000):
        await response.write(PAYLOAD[start : start + 100_000])
    await response.write_eof()
    return response


async def converse(request: web.Request) -> web.WebSocketResponse:
    """Sends every message back until the client says "bye"."""
    socket = web.WebSocketResponse(max_msg_size=16 * MIB)
    await socket.prepare(request)
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.data == "bye":
            await socket.close(code=4000, message=b"as you wish")
        else:
            await socket.send_str(message.data)
    return socket


def site() -> web.Application:
    """The application that most tests talk to."""
    app = web.Application(client_max_size=0)
    app.router.add_get("/hello/{name}", greet)
    app.router.add_post("/upload", receive)
    app.router.add_get("/download", send)
    app.router.add_get("/talk", converse)
    return app


@contextlib.asynccontextmanager
async def serving(
    app: web.Application, context: ssl.SSLContext | None, **options: Any
) -> AsyncIterator[tuple[web.AppRunner, str]]:
    """Serve `app` on a free port for the length of the block; gives its runner and its URL."""
    runner = web.AppRunner(app, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield runner, f"{'https' if context else 'http'}://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def client(context: ssl.SSLContext | None, **options: Any) -> aiohttp.ClientSession:
    """A session that trusts what `context` trusts."""
    connector = aiohttp.TCPConnector(ssl=context or True, limit=0)
    return aiohttp.ClientSession(connector=connector, **options)


@contextlib.asynccontextmanager
async def talking(channel: Channel) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A server of `site` and a client for it; gives the client's session and the server's URL."""
    async with serving(site(), channel.server) as (_, url), client(channel.client) as session:
        yield session, url


def test_five_hundred_requests_at_once_get_each_its_own_answer(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        async with talking(channel) as (session, url):

            async def ask(name: str) -> str:
                async with session.get(f"{url}/hello/{name}") as response:
                    assert response.status == 200
                    return str((await response.json())["hello"])

            names = [f"visitor-{number}" for number in range(500)]
            assert await asyncio.gather(*map(ask, names)) == names

    on_noria(main())


def test_one_kept_alive_connection_serves_many_requests(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        async with talking(channel) as (session, url):
            ports = set()
            for number in range(50):
                async with session.get(f"{url}/hello/{number}") as response:
                    ports.add((await response.json())["port"])
            assert len(ports) == 1

    on_noria(main())


def test_a_streamed_download_arrives_unchanged(on_noria: OnNoria, channel: Channel) -> None:
    async def main() -> None:
        async with talking(channel) as (session, url):
            received = bytearray()
            async with session.get(f"{url}/download") as response:
                assert response.headers["Transfer-Encoding"] == "chunked"
                while piece := await response.content.read(50 * KIB):
                    received += piece
            assert digest(received) == digest(PAYLOAD)

    on_noria(main())


def test_an_upload_arrives_unchanged_streamed_or_whole(on_noria: OnNoria, channel: Channel) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(PAYLOAD), 77_777):
            yield PAYLOAD[start : start + 77_777]

    async def main() -> None:
        async with talking(channel) as (session, url):
            for body in (pieces(), io.BytesIO(PAYLOAD)):
                async with session.post(f"{url}/upload", data=body) as response:
                    assert await response.json() == {"length": len(PAYLOAD), "sha256": digest(PAYLOAD)}

    on_noria(main())


def test_a_file_is_served_whole_and_in_part(on_noria: OnNoria, channel: Channel, tmp_path: Path) -> None:
    (tmp_path / "payload.bin").write_bytes(PAYLOAD)

    async def main() -> None:
        app = web.Application()
        app.router.add_static("/files", tmp_path)
        async with serving(app, channel.server) as (_, url), client(channel.client) as session:
            async with session.get(f"{url}/files/payload.bin") as response:
                assert digest(await response.read()) == digest(PAYLOAD)
            wanted = {"Range": "bytes=1000000-4999999"}
            async with session.get(f"{url}/files/payload.bin", headers=wanted) as response:
                assert response.status == 206
                assert digest(await response.read()) == digest(PAYLOAD[1_000_000:5_000_000])

    on_noria(main())


def test_a_websocket_echoes_small_and_large_messages_and_closes_with_its_code(
    on_noria: OnNoria, channel: Channel
) -> None:
    async def main() -> None:
        async with (
            talking(channel) as (session, url),
            session.ws_connect(f"{url}/talk", max_msg_size=16 * MIB, heartbeat=5) as socket,
        ):
            for text in ("", "wheel", "ñoria"):
                await socket.send_str(text)
                assert await socket.receive_str() == text
            await socket.send_bytes(PAYLOAD)
            assert digest(await socket.receive_bytes()) == digest(PAYLOAD)
            await socket.send_str("bye")
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 4000

    on_noria(main())


def test_a_client_gives_up_on_a_silent_server_and_its_session_stays_usable(
    on_noria: OnNoria, channel: Channel
) -> None:
    async def main() -> None:
        left = asyncio.Event()

        async def silence(request: web.Request) -> web.Response:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                left.set()
            raise AssertionError("nobody completes that future")

        app = site()
        app.router.add_get("/silence", silence)
        async with (
            serving(app, channel.server, handler_cancellation=True) as (_, url),
            client(channel.client) as session,
        ):
            with pytest.raises(TimeoutError):
                await session.get(f"{url}/silence", timeout=aiohttp.ClientTimeout(total=0.2))
            await asyncio.wait_for(left.wait(), 10)  # the server has seen its client go and ended the handler
            async with session.get(f"{url}/hello/again") as response:
                assert (await response.json())["hello"] == "again"

    on_noria(main())


def test_a_client_that_leaves_in_mid_download_ends_the_handler_that_feeds_it(
    on_noria: OnNoria, channel: Channel
) -> None:
    async def main() -> None:
        ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

        async def pour(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            try:
                while True:
                    await response.write(PAYLOAD[: 64 * KIB])
                    await asyncio.sleep(0)  # aiohttp's write need not let the loop learn of the end
            except (OSError, asyncio.CancelledError) as error:
                ended.set_result(error)
                raise

        app = web.Application()
        app.router.add_get("/pour", pour)
        async with serving(app, channel.server) as (_, url), client(channel.client) as session:
            async with session.get(f"{url}/pour") as response:
                await response.content.readexactly(MIB)
                response.close()
            assert isinstance(await asyncio.wait_for(ended, 10), ConnectionError)

    on_noria(main())


def test_a_server_that_shuts_down_answers_what_it_has_begun_and_accepts_no_more(
    on_noria: OnNoria, channel: Channel
) -> None:
    async def main() -> None:
        begun, may_answer = asyncio.Event(), asyncio.Event()

        async def ponder(request: web.Request) -> web.Response:
            begun.set()
            await may_answer.wait()
            return web.Response(text="at last")

        app = web.Application()
        app.router.add_get("/ponder", ponder)
        async with serving(app, channel.server) as (runner, url), client(channel.client) as session:
            asked = asyncio.create_task(session.get(f"{url}/ponder"))
            await begun.wait()
            cleanup = asyncio.create_task(runner.cleanup())
            while runner.addresses:  # until the listening socket is closed
                await asyncio.sleep(0)
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"{url}/ponder")
            assert not cleanup.done()
            may_answer.set()
            async with await asked as response:
                assert await response.text() == "at last"
            await cleanup

    on_noria(main())


def test_a_client_refuses_a_server_that_its_authorities_do_not_know(
    on_noria: OnNoria, ca: Authority, identity: Identity
) -> None:
    async def main() -> None:
        stranger = ssl.create_default_context()
        async with serving(site(), ca.server_context(identity)) as (_, url):
            async with client(stranger) as session:
                with pytest.raises(
                    aiohttp.ClientConnectorCertificateError, match="unable to get local issuer"
                ):
                    await session.get(f"{url}/hello/stranger")
            async with client(ca.client_context()) as session, session.get(f"{url}/hello/friend") as response:
                assert response.status == 200

    on_noria(main())


def test_a_client_refuses_a_server_with_a_name_it_did_not_ask_for(on_noria: OnNoria, ca: Authority) -> None:
    async def main() -> None:
        elsewhere = ca.server_context(ca.issue("elsewhere.example"))
        async with serving(site(), elsewhere) as (_, url), client(ca.client_context()) as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError, match="localhost"):
                await session.get(f"{url}/hello/you")

    on_noria(main())


def test_a_server_that_demands_a_client_certificate_sees_who_came(
    on_noria: OnNoria, ca: Authority, identity: Identity
) -> None:
    async def identify(request: web.Request) -> web.Response:
        assert request.transport is not None
        subject = request.transport.get_extra_info("peercert")["subject"]
        return web.Response(text=dict(pair for part in subject for pair in part)["commonName"])

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/who", identify)
        async with serving(app, ca.server_context(identity, ask_client=True)) as (_, url):
            async with client(ca.client_context(ca.issue("miller.example"))) as session:
                async with session.get(f"{url}/who") as response:
                    assert await response.text() == "miller.example"
            async with client(ca.client_context()) as session:
                with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                    await session.get(f"{url}/who")

    on_noria(main())


def test_server_and_client_speak_over_a_unix_socket(on_noria: OnNoria, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "socket")
        runner = web.AppRunner(site())
        await runner.setup()
        await web.UnixSite(runner, path).start()
        try:
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
                async with session.post("http://localhost/upload", data=io.BytesIO(PAYLOAD)) as response:
                    assert (await response.json())["sha256"] == digest(PAYLOAD)
        finally:
            await runner.cleanup()

    on_noria(main())


def test_noria_run_runs_an_aiohttp_program(ca: Authority, identity: Identity) -> None:
    async def main() -> str:
        assert isinstance(asyncio.get_running_loop(), noria.Loop)
        channel = Channel(ca.server_context(identity), ca.client_context())
        async with talking(channel) as (session, url), session.get(f"{url}/hello/world") as response:
            return str((await response.json())["hello"])

    assert noria.run(main()) == "world"


RUN_APP = """
import asyncio, noria
from aiohttp import web

async def hello(request):
    return web.Response(text=str(isinstance(asyncio.get_running_loop(), noria.Loop)))

async def cleanup(app):
    print("cleaned up")

app = web.Application()
app.router.add_get("/", hello)
app.on_cleanup.append(cleanup)
loop = noria.new_event_loop()
web.run_app(app, host="127.0.0.1", port=0, loop=loop)
assert loop.is_closed()
"""


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_web_program_serves_until_a_signal_and_then_ends_in_order(
    on_noria: OnNoria, by: signal.Signals
) -> None:
    async def ask(url: str) -> str:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return await response.text()

    with running(python(RUN_APP)) as program:
        url = program.wait_for(r"Running on (http://127\.0\.0\.1:\d+)")[1]
        assert on_noria(ask(url)) == "True"
        assert program.end(by) == 0
        assert "cleaned up" in program.output
