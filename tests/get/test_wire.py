"""What the shortest way takes for a plain answer, the parser takes for the same; what it does not, it leaves alone."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import pytest
from yarl import URL

import noria
from get.test_lean import no_aiohttp
from noria.get.failures import Failure
from noria.get.lean import LeanSession
from noria.get.wire import Connection, Exchange

DEADLINE = 60.0
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PLAIN = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sat, 28 Nov 2026 10:00:00 GMT\r\nContent-Type: text/plain\r\n"
    b'Content-Length: 5\r\nLast-Modified: Fri, 27 Nov 2026 10:00:00 GMT\r\nConnection: keep-alive\r\nETag: "a-5"\r\n'
    b"Accept-Ranges: bytes\r\n\r\nabcde"
)


@dataclass
class Server:
    """Sends what it is told to, in pieces, and then perhaps closes."""

    port: int = 0
    pieces: tuple[bytes, ...] = ()
    close: bool = False
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                for piece in self.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.002)
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@dataclass
class Taken:
    """What an exchange made of an answer: itself, or what it was given up with."""

    exchange: Exchange
    data: list[bytes] | None = None
    lost: bool = False
    error: Exception | None = None


async def take(
    session: LeanSession, url: URL, most: int = 65536, size: int = -1, unnamed: bool = True
) -> Taken:
    loop = asyncio.get_running_loop()
    connection = await session.connect(session.origin(url))

    def received(exchange: Exchange) -> None:
        exchange.future.set_result(Taken(exchange))

    def otherwise(
        exchange: Exchange, where: Connection, data: list[bytes], lost: bool, error: Exception | None
    ) -> None:
        if not lost:
            where.transport.abort()
        exchange.future.set_result(Taken(exchange, data, lost, error))

    exchange = Exchange(loop, None, most, size, unnamed, received, otherwise)
    exchange.begin(connection, HEAD)
    taken = await exchange.future
    assert isinstance(taken, Taken)
    assert exchange.connection is None
    return taken


def run(main: Any, **options: Any) -> None:
    async def limited() -> None:
        async with asyncio.timeout(DEADLINE):
            server = Server()
            listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
            server.port = listener.sockets[0].getsockname()[1]
            async with listener, LeanSession(no_aiohttp, **options) as session:
                await main(server, session, URL(f"http://127.0.0.1:{server.port}/"))

    noria.run(limited())


def test_a_plain_answer_is_taken_however_it_is_cut_after_its_head() -> None:
    async def main(server: Server, session: LeanSession, url: URL) -> None:
        head = PLAIN.index(b"abcde")
        for cut in range(head, len(PLAIN) + 1):
            server.pieces = PLAIN[:cut], PLAIN[cut:]
            exchange = (await take(session, url)).exchange
            assert (exchange.body, exchange.etag) == (b"abcde", b'"a-5"')
            assert exchange.last_modified == b"Fri, 27 Nov 2026 10:00:00 GMT"
            assert exchange.date == b"Sat, 28 Nov 2026 10:00:00 GMT"
            assert 0 < exchange.first_byte < DEADLINE
        assert len(session.origin(url).idle) == len(PLAIN) + 1 - head

    run(main)


def test_a_head_in_two_pieces_is_left_to_the_parser() -> None:
    async def main(server: Server, session: LeanSession, url: URL) -> None:
        server.pieces = PLAIN[:50], PLAIN[50:]
        taken = await take(session, url)
        assert (taken.data, taken.lost, taken.error) == ([PLAIN[:50]], False, None)

    run(main)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"HTTP/1.1", b"HTTP/2.0"),
        (b"HTTP/1.1", b"http/1.1"),
        (b" 200 ", b" 206 "),
        (b" 200 ", b" 404 "),
        (b" 200 OK", b" 200"),
        (b" 200 OK", b" 2000 OK"),
        (b" 200 OK", b" 200 O\x00K"),
        (b"Length: 5", b"Length: 5\r\nContent-Length: 5"),
        (b"Length: 5", b"Length: 5\r\nContent-Length: 6"),
        (b"Length: 5", b"Length: +5"),
        (b"Length: 5", b"Length: 5, 5"),
        (b"Length: 5", b"Length: 5;"),
        (b"Length: 5", b"Length: 0x5"),
        (b"Length: 5", b"Length: "),
        (b"Length: 5", b"Length: 18446744073709551621"),
        (b"Length: 5", b"Length : 5"),
        (b"Length: 5", b"Length: 5\r\nTransfer-Encoding: chunked"),
        (b"Length: 5", b"Length: 5\r\ntransfer-encoding: identity"),
        (b"Content-Length: 5\r\n", b""),
        (b"Content-Length: 5\r\n", b"Content-Length: 5\n"),
        (b"Server: nginx\r\n", b"Server: nginx\n"),
        (b"Server: nginx\r\n", b"Server: nginx\r\r\n"),
        (b"Server: nginx", b"Server: nginx\r\n folded"),
        (b"Server: nginx", b"Server nginx"),
        (b"Server: nginx", b": nginx"),
        (b"Server: nginx", b"Ser ver: nginx"),
        (b"Server: nginx", b"Server: ngi\x00nx"),
        (b"Server: nginx", b"Server: ngi\x7fnx"),
        (b"Server: nginx", b"Server: ngi\xe4nx"),
        (b"Connection: keep-alive", b"Connection: close"),
        (b"Connection: keep-alive", b"Connection: keep-alive, upgrade"),
        (b"Connection: keep-alive", b"Upgrade: h2c"),
        (b"Connection: keep-alive", b"Proxy-Connection: close"),
        (b"Accept-Ranges: bytes", b"Trailer: x"),
        (b"Accept-Ranges: bytes", b"Repr-Digest: sha-256=:AAAA:"),
        (b"Accept-Ranges: bytes", b"Content-Disposition: attachment; filename=x"),
        (b"Accept-Ranges: bytes", b'ETag: "other"'),
        (b"Accept-Ranges: bytes", b"Last-Modified: Thu, 26 Nov 2026 10:00:00 GMT"),
        (b"GMT\r\nConnection", b"GMT\r\n\tConnection"),
    ],
)
def test_what_is_not_plain_is_left_to_the_parser(before: bytes, after: bytes) -> None:
    assert before in PLAIN

    async def main(server: Server, session: LeanSession, url: URL) -> None:
        server.pieces = (PLAIN.replace(before, after, 1),)
        taken = await take(session, url)
        assert (taken.data, taken.lost, taken.error) == ([server.pieces[0]], False, None)

    run(main)


def test_a_body_too_long_or_of_another_length_than_expected_is_left_to_the_parser() -> None:
    async def main(server: Server, session: LeanSession, url: URL) -> None:
        server.pieces = (PLAIN,)
        assert (await take(session, url, most=5, size=5)).data is None
        assert (await take(session, url, most=4)).data == [PLAIN]
        assert (await take(session, url, size=4)).data == [PLAIN]
        named = PLAIN.replace(b"Accept-Ranges: bytes", b"Content-Disposition: attachment; filename=x")
        server.pieces = (named,)
        assert (await take(session, url, unnamed=False)).exchange.body == b"abcde"

    run(main)


def test_a_connection_that_brings_more_than_was_declared_is_not_used_again() -> None:
    async def main(server: Server, session: LeanSession, url: URL) -> None:
        for pieces in ((PLAIN + b"f",), (PLAIN[:-2], b"def")):
            server.pieces = pieces
            assert (await take(session, url)).exchange.body == b"abcde"
            assert not session.origin(url).idle

    run(main)


def test_a_lost_connection_is_told_with_what_came() -> None:
    async def main(server: Server, session: LeanSession, url: URL) -> None:
        server.close = True
        taken = await take(session, url)
        assert (taken.data, taken.lost, taken.error) == ([], True, None)
        server.pieces = (PLAIN[:-2],)
        taken = await take(session, url)
        assert (taken.data, taken.lost, taken.error) == ([PLAIN[:-2]], True, None)

    run(main)


def test_silence_is_told_before_and_after_the_first_byte() -> None:
    async def main(server: Server, session: LeanSession, url: URL) -> None:
        for pieces in ((), (PLAIN[:-2],)):
            server.pieces = pieces
            taken = await take(session, url)
            assert (taken.data, taken.lost) == (list(pieces), False)
            assert isinstance(taken.error, Failure)
            assert taken.error.kind == "timeout"

    run(main, stall_timeout=0.2)


def test_what_is_taken_means_the_same_to_the_parser() -> None:
    """Answers made of pieces that are right, nearly right and wrong, in any order and broken at random."""
    chance = random.Random(7)
    fields = [
        *(
            b"Content-Length: 5",
            b"content-length:5",
            b"CONTENT-LENGTH: \t5 ",
            b"Content-Length: 05",
            b"Content-Length: 4",
        ),
        *(
            b"Connection: keep-alive",
            b"Connection: Keep-Alive",
            b"Connection: close",
            b"Keep-Alive: timeout=5",
        ),
        *(
            b'ETag: "x"',
            b"ETag:",
            b"ETag: \t",
            b"X:",
            b"X: y:z",
            b"X-\xff: 1",
            b"!#$%&'*+.^_`|~: 1",
            b"a b: 1",
            b"(a): 1",
        ),
        *(
            b"Last-Modified: yesterday",
            b"Date: now",
            b"Transfer-Encoding: chunked",
            b"Set-Cookie: a=b",
            b" x",
        ),
    ]

    async def main(server: Server, session: LeanSession, url: URL) -> None:
        taken_at_once = 0
        for _ in range(400):
            lines = [
                chance.choice(
                    [b"HTTP/1.1 200 OK", b"HTTP/1.1 200 ", b"HTTP/1.1 200 A\tB", b"HTTP/1.0 200 OK"]
                )
            ]
            lines += chance.sample(fields, chance.randrange(1, 5))
            if chance.random() < 0.7:
                lines.append(b"Content-Length: 5")
            answer = b"\r\n".join([*lines, b"", b"abcde"])
            if chance.random() < 0.3:
                place = chance.randrange(len(answer))
                answer = (
                    answer[:place]
                    + chance.choice([b"", b"\r", b"\n", b"\0", b" ", b":"])
                    + answer[place + 1 :]
                )
            server.pieces, server.close = (answer,), True
            exchange = (await take(session, url)).exchange
            if exchange.body is None:
                continue
            taken_at_once += 1
            async with session.get(url, allow_redirects=False) as response:
                assert response.status == 200, answer
                assert response.content_length == len(exchange.body), answer
                assert await response.read() == exchange.body, answer
                for name, value in (
                    ("ETag", exchange.etag),
                    ("Last-Modified", exchange.last_modified),
                    ("Date", exchange.date),
                ):
                    assert response.headers.get(name) == (None if value is None else value.decode()), answer
        assert taken_at_once > 50

    run(main, connect_timeout=DEADLINE)
