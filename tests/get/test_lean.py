"""The short way for plain GETs, by itself: framing, reuse of connections, limits, and what it leaves to aiohttp."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from yarl import URL

import noria
from get.fault_server import FaultServer
from noria.get.failures import Failure, Truncated
from noria.get.lean import LeanSession

DEADLINE = 20.0
Script = Callable[[bytes, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Server:
    """Keeps connections open and gives every request to a function. Counts connections and requests."""

    def __init__(self, script: Script) -> None:
        self.connections = self.requests = 0
        self.port = 0
        self._script = script

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                await self._script(head, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def no_aiohttp() -> Any:
    raise AssertionError("aiohttp was asked for")


@asynccontextmanager
async def serving(script: Script, **options: Any) -> AsyncIterator[tuple[Server, LeanSession, URL]]:
    server = Server(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    options = {"stall_timeout": DEADLINE, "connect_timeout": DEADLINE, **options}
    async with listener:
        async with LeanSession(options.pop("fallback", no_aiohttp), **options) as session:
            yield server, session, URL(f"http://127.0.0.1:{server.port}/x")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(DEADLINE):
            await main()

    noria.run(limited())


def saying(answer: bytes, *, close: bool = False) -> Script:
    async def script(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        if close:
            writer.close()

    return script


@pytest.mark.parametrize(
    ("answer", "body", "length"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", 3),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", 0),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nT: v\r\n\r\n",
            b"abc",
            None,
        ),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", 3),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", None),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", b"", 3),
    ],
    ids=["length", "empty", "chunked", "interim", "204", "304"],
)
def test_a_connection_serves_again_after_a_whole_answer(
    answer: bytes, body: bytes, length: int | None
) -> None:
    async def main() -> None:
        async with serving(saying(answer)) as (server, session, url):
            for _ in range(3):
                async with session.get(url) as response:
                    assert response.content_length == length
                    assert await response.read() == body
                    assert response.content.at_eof()
                    assert "Link" not in response.headers
            assert (server.connections, server.requests) == (1, 3)

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGARBAGE",
    ],
    ids=["told", "1.0", "more than asked", "more than chunks"],
)
def test_a_connection_does_not_serve_again(answer: bytes) -> None:
    async def main() -> None:
        async with serving(saying(answer)) as (server, session, url):
            for _ in range(2):
                async with session.get(url) as response:
                    assert await response.read() == b"abc"
            assert server.connections == 2

    run(main)


def test_a_body_without_length_ends_with_the_connection() -> None:
    async def main() -> None:
        async with serving(saying(b"HTTP/1.1 200 OK\r\n\r\nabc", close=True)) as (_, session, url):
            async with session.get(url) as response:
                assert response.content_length is None
                assert await response.read() == b"abc"

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
    ids=["length", "chunked"],
)
def test_a_body_cut_off_is_told_from_a_whole_one(answer: bytes) -> None:
    async def main() -> None:
        async with serving(saying(answer, close=True)) as (_, session, url):
            async with session.get(url) as response:
                with pytest.raises(Truncated):
                    await response.read()

    run(main)


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_unknown_transfer_codings_are_refused(fields: bytes) -> None:
    async def main() -> None:
        answer = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n3\r\nabc\r\n0\r\n\r\n"
        async with serving(saying(answer)) as (_, session, url):
            with pytest.raises(Failure, match="makes no sense"):
                async with session.get(url):
                    pass

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 302 Found\r\nSet-Cookie: a=b\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n",
        b"220 mail.example.com ESMTP\r\n",
    ],
    ids=["length and coding", "two lengths", "cookie", "no http"],
)
def test_what_it_does_not_understand_is_left_to_aiohttp_from_then_on(answer: bytes) -> None:
    class Asked(Exception):
        pass

    def fallback() -> Any:
        raise Asked

    async def main() -> None:
        async with serving(saying(answer), fallback=fallback) as (server, session, url):
            for _ in range(2):
                with pytest.raises(Asked):
                    async with session.get(url, allow_redirects=False):
                        pass
            assert server.requests == 1

    run(main)


def test_a_connection_closed_while_idle_is_replaced() -> None:
    async def main() -> None:
        count = 0

        async def script(head: bytes, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            count += 1
            if count == 2:
                writer.transport.abort()  # just when it is used again
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")

        async with serving(script) as (server, session, url):
            for _ in range(2):
                async with session.get(url) as response:
                    assert await response.read() == b"abc"
            assert (server.connections, server.requests) == (2, 3)

    run(main)


def test_a_flood_of_headers_or_extensions_is_refused() -> None:
    async def main() -> None:
        for start, more in (
            (b"HTTP/1.1 200 OK\r\n", b"X-Y: z\r\n" * 1000),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 10_000),
        ):

            async def script(
                head: bytes, writer: asyncio.StreamWriter, start: bytes = start, more: bytes = more
            ) -> None:
                writer.write(start)
                while not writer.is_closing():
                    writer.write(more)
                    await writer.drain()

            async with serving(script) as (_, session, url):
                with pytest.raises(Failure, match="too much beside the body"):
                    async with session.get(url) as response:
                        await response.read()

    run(main)


def test_silence_is_noticed_before_and_in_the_body() -> None:
    async def main() -> None:
        for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"):
            async with serving(saying(answer), stall_timeout=0.2) as (_, session, url):
                with pytest.raises(Failure, match="stalled: no data for 0.2 s"):
                    async with session.get(url) as response:
                        await response.read()

    run(main)


def test_a_reader_who_waits_makes_the_server_wait() -> None:
    async def main() -> None:
        sent = 0

        async def script(head: bytes, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            for _ in range(1000):
                writer.write(bytes(100_000))
                await writer.drain()
                sent += 100_000

        async with serving(script, stall_timeout=0.2) as (_, session, url):
            async with session.get(url) as response:
                before = -1
                while before != sent or not sent:  # until nothing moves any more
                    before = sent
                    await asyncio.sleep(
                        0.5
                    )  # longer than the time without a byte, which is not the server's fault
                assert sent < 90_000_000
                assert len(await response.read()) == 100_000_000

    run(main)


def test_headers_cannot_smuggle_lines() -> None:
    async def main() -> None:
        async with serving(saying(b"")) as (server, session, url):
            for headers in ({"X": "a\r\nY: b"}, {"X\r\nY": "b"}, {"X Y": "b"}):
                with pytest.raises(ValueError, match="not a header"):
                    async with session.get(url, headers=headers):
                        pass
            assert server.requests == 0

    run(main)


def test_a_request_given_up_closes_its_connection() -> None:
    async def main() -> None:
        asked = asyncio.Event()
        gone = asyncio.Event()

        async def script(head: bytes, writer: asyncio.StreamWriter) -> None:
            asked.set()
            while not writer.transport.is_closing():
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await asyncio.sleep(0.01)
            gone.set()

        async with serving(script) as (_, session, url):
            request = asyncio.ensure_future(session.get(url).__aenter__())
            await asked.wait()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await gone.wait()

    run(main)


def test_what_needs_aiohttp_gets_it(faults: FaultServer) -> None:
    async def answer(exchange: Any) -> None:
        await exchange.reply(b"abc", authorization=exchange.headers.get("authorization", "none"))

    plain = URL(faults.on("/x", answer))

    async def main() -> None:
        import aiohttp

        async with LeanSession(aiohttp.ClientSession, stall_timeout=DEADLINE) as session:
            async with session.get(plain.with_user("me").with_password("secret")) as response:
                assert response.headers["authorization"].startswith("basic ")
                assert await response.read() == b"abc"

    run(main)


@pytest.mark.parametrize("told", [False, True])
def test_a_body_read_past_the_transport_is_whole_though_the_connection_breaks(told: bool) -> None:
    body = b"x" * 100_000

    async def script(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        await writer.drain()
        await taken.wait()
        writer.write(body)
        await writer.drain()
        await asyncio.sleep(0.1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def main() -> None:
        async with serving(script) as (_, session, url), session.get(url) as response:
            sock = response.take_over()
            taken.set()
            source = socket.socket(fileno=os.dup(sock.fileno()))
            with source:
                await asyncio.sleep(0.3)  # the reset is here too
                assert response.buffered() == []
                got = source.recv(200_000)
            assert got == body
            if told:  # ours does not tell while it is paused; another loop's transport may
                response.end(ConnectionResetError())
            response.give_back(len(got))
            assert response.content.at_eof()
            assert await response.content.readany() == b""

    taken = asyncio.Event()
    run(main)
