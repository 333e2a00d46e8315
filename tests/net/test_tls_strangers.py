"""TLS with programs that are not ours: openssl's client and server, nginx, curl, aiohttp; TLS 1.2 and 1.3."""

import asyncio
import os
import re
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from core.running import on_noria, until
from net.peers import Echo, Recorder, nothing_left_open, pattern
from net.test_connections import loop_
from support.certs import Authority, Identity
from support.nginx import Nginx
from support.tools import require

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def only(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def plain() -> dict[str, str]:
    """The environment without what a build with sanitizers has put there for Python."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


@asynccontextmanager
async def program_of(*command: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A child with pipes, killed at the end."""
    child = subprocess.Popen(  # noqa: ASYNC220 - it takes a moment, and nothing else goes on
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        env=plain(),
    )
    try:
        yield child
    finally:
        with child:
            child.send_signal(signal.SIGKILL)


async def said(child: subprocess.Popen[bytes], what: bytes) -> bytes:
    """What the child has printed when `what` has come."""
    assert child.stdout is not None
    found = b""
    while what not in found:
        data = await asyncio.to_thread(child.stdout.read, 65536)
        assert data, f"{what!r} never came: {found!r}"
        found += data
    return found


@asynccontextmanager
async def serving(factory: Callable[[], Any], context: ssl.SSLContext) -> AsyncIterator[Any]:
    server = await loop_().create_server(factory, "127.0.0.1", 0, ssl=context)
    try:
        yield server
    finally:
        server.close()
        await server.wait_closed()


# openssl


@pytest.mark.parametrize("version", VERSIONS)
def test_openssl_as_client(ca: Authority, identity: Identity, version: str) -> None:
    """It sends lines, changes the keys in between (TLS 1.3), and says good-bye."""
    openssl = require("openssl")
    made: list[Recorder] = []

    class Answers(Recorder):
        def connection_made(self, transport: Any) -> None:
            made.append(self)
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.write(b"<" + data.strip() + b">\n")

    @on_noria
    async def program() -> None:
        async with nothing_left_open(), serving(Answers, ca.server_context(identity)) as server:
            port = server.sockets[0].getsockname()[1]
            flag = "-tls1_2" if version == "1.2" else "-tls1_3"
            async with program_of(
                openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(ca.cert), flag,
                "-servername", "localhost", "-verify_return_error",
            ) as child:  # fmt: skip
                assert child.stdin is not None
                child.stdin.write(b"one\n")
                assert b"Verification: OK" in await said(child, b"<one>")
                if version == "1.3":
                    child.stdin.write(b"K\n")  # update the keys, and ask for ours to be updated
                    await said(child, b"KEYUPDATE")
                child.stdin.write(b"two\n")
                await said(child, b"<two>")
                assert made[0].transport.get_extra_info("cipher")[1] == f"TLSv{version}"
                child.stdin.write(b"Q\n")
                assert await made[0].lost is None
                assert made[0].events == ["made", "data", "eof", "lost"]
                assert made[0].received == b"one\ntwo\n"

    program()


@pytest.mark.parametrize("version", VERSIONS)
def test_openssl_as_server(ca: Authority, identity: Identity, version: str, tmp_path: Path) -> None:
    """It asks for new keys, or (TLS 1.2) for a new handshake, in the middle."""
    openssl = require("openssl")

    @on_noria
    async def program() -> None:
        async with (
            nothing_left_open(),
            program_of(
                openssl, "s_server", "-accept", "127.0.0.1:0", "-cert", str(identity.cert), "-key",
                str(identity.key), "-tls1_2" if version == "1.2" else "-tls1_3", "-msg",
            ) as child,
        ):  # fmt: skip
            assert child.stdin is not None
            found = re.search(rb"ACCEPT [^\n]*:(\d+)\n", await said(child, b"ACCEPT 127.0.0.1:"))
            assert found
            transport, protocol = await loop_().create_connection(
                Recorder, "127.0.0.1", int(found[1]), ssl=ca.client_context(), server_hostname="localhost"
            )
            transport.write(b"from noria\n")
            await said(child, b"from noria")
            child.stdin.write(b"from openssl\n")
            await protocol.got(13)
            child.stdin.write(b"r\n" if version == "1.2" else b"K\n")
            await said(child, b"ClientHello" if version == "1.2" else b"KeyUpdate")
            transport.write(b"after that\n")
            await said(child, b"after that")
            child.stdin.write(b"and back\n")
            await until(lambda: protocol.received == b"from openssl\nand back\n")
            child.stdin.write(b"Q\n")
            assert await protocol.lost is None
            assert protocol.events == ["made", "data", "eof", "lost"]

    program()


# curl and nginx


@pytest.mark.parametrize("version", VERSIONS)
def test_curl_as_client(ca: Authority, identity: Identity, version: str, tmp_path: Path) -> None:
    curl = require("curl")
    body = pattern(3_000_000)

    async def answer(request: web.Request) -> web.Response:
        assert await request.read() == body
        return web.Response(body=body[::-1])

    @on_noria
    async def program() -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=only(ca.server_context(identity), version))
        await site.start()
        port = runner.addresses[0][1]
        (tmp_path / "body").write_bytes(body)
        done = await asyncio.to_thread(
            subprocess.run,
            [
                curl, "--silent", "--show-error", "--fail", "--cacert", str(ca.cert), "--http1.1", "--data-binary",
                f"@{tmp_path / 'body'}", f"https://localhost:{port}/", "--resolve", f"localhost:{port}:127.0.0.1",
            ],
            capture_output=True, timeout=20, check=False, env=plain(),
        )  # fmt: skip
        await runner.cleanup()
        assert done.returncode == 0, done.stderr
        assert done.stdout == body[::-1]

    program()


@pytest.mark.parametrize("version", VERSIONS)
def test_nginx_as_server_and_aiohttp_as_client(
    ca: Authority, identity: Identity, version: str, start_nginx: Callable[..., Nginx], tmp_path: Path
) -> None:
    contents = {f"{size}.bin": pattern(size, size) for size in (0, 1, 16_384, 100_000, 5_000_000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    nginx = start_nginx(tmp_path, tls=identity, extra=f"ssl_protocols TLSv{version};")

    @on_noria
    async def program() -> None:
        async with nothing_left_open():
            connector = aiohttp.TCPConnector(ssl=ca.client_context())
            async with aiohttp.ClientSession(connector=connector) as session:

                async def fetch(name: str) -> None:
                    async with session.get(nginx.url(name)) as response:
                        assert response.status == 200
                        assert await response.read() == contents[name]

                for _ in range(3):
                    await asyncio.gather(*(fetch(name) for name in contents))

    program()


def test_aiohttp_by_a_proxy_speaks_tls_in_tls(ca: Authority, identity: Identity) -> None:
    """An https proxy, https through it: start_tls over TLS, on noria's transports at every end."""

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello " * 10_000)

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        found = re.match(r"CONNECT localhost:(\d+) ", request)
        assert found
        up, down = await asyncio.open_connection("127.0.0.1", int(found[1]))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, down), pump(up, writer), return_exceptions=True)

    @on_noria
    async def program() -> None:
        app = web.Application()
        app.router.add_get("/", hello)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ca.server_context(identity)).start()
        port = runner.addresses[0][1]
        server = await asyncio.start_server(proxy, "127.0.0.1", 0, ssl=ca.server_context(identity))
        proxy_port = server.sockets[0].getsockname()[1]
        connector = aiohttp.TCPConnector(ssl=ca.client_context())
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"https://localhost:{port}/", proxy=f"https://localhost:{proxy_port}") as response,
        ):
            assert await response.text() == "hello " * 10_000
        server.close()
        await server.wait_closed()
        await runner.cleanup()

    program()


def test_a_big_file_goes_over_tls_by_sendfile(ca: Authority, identity: Identity, tmp_path: Path) -> None:
    data = pattern(5_000_000)
    (tmp_path / "file").write_bytes(data)

    @on_noria
    async def program() -> None:
        async with nothing_left_open(), serving(Echo, ca.server_context(identity)) as server:
            transport, protocol = await loop_().create_connection(
                Recorder,
                *server.sockets[0].getsockname(),
                ssl=ca.client_context(),
                server_hostname="localhost",
            )
            with (tmp_path / "file").open("rb") as file:
                with pytest.raises(RuntimeError, match="fallback is disabled"):
                    await loop_().sendfile(transport, file, fallback=False)
                assert await loop_().sendfile(transport, file, 100, len(data) - 200) == len(data) - 200
            assert await protocol.got(len(data) - 200) == data[100:-100]
            transport.close()
            await protocol.lost

    program()
