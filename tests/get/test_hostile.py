"""Hostile servers: whatever is sent, a URL ends in the right file or in a clear error, soon and in little memory.

Each case is a function that answers one request, and what must come of it. No case may leave anything else in
the output directory, nor anything at all beside it.
"""

import asyncio
import gzip
import json
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import brotli
import pytest
from backports import zstd

import noria
from get.fault_server import Exchange, FaultServer
from noria.get import Result, download_all
from support.certs import Authority

RIGHT = b"the right bytes"
SOON = 20.0  # seconds; what takes longer on a loaded machine hangs
MIB = 1 << 20

Answer = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """What a server does, and what must come of it: a `body` in the file, or an error that holds `error`."""

    answer: Answer
    body: bytes | None = None
    error: str = ""
    name: str = ""  # of the file, if it is not that of the case


def raw(*pieces: bytes, then: str = "close") -> Answer:
    """Answer with exactly these bytes, then close, reset or hang."""

    async def answer(exchange: Exchange) -> None:
        for piece in pieces:
            await exchange.send(piece)
        if then == "reset":
            exchange.reset()
        elif then == "hang":
            await exchange.hang()

    return answer


def ok(headers: str, body: bytes = RIGHT, *, status: str = "HTTP/1.1 200 OK") -> Answer:
    """Answer with this head, of which each line ends in CRLF, and this body."""
    lines = "".join(f"{line}\r\n" for line in [status, *headers.split("\n")] if line)
    return raw(f"{lines}\r\n".encode("utf-8", "surrogateescape"), body)


def endless(start: bytes, again: bytes) -> Answer:
    """Answer with `start`, then with `again` until the client has gone."""

    async def answer(exchange: Exchange) -> None:
        await exchange.send(start)
        while not exchange.closing.is_set():
            await exchange.send(again)

    return answer


def drip(data: bytes) -> Answer:
    """Answer with a byte now and then, over and over."""

    async def answer(exchange: Exchange) -> None:
        while not exchange.closing.is_set():
            for number in range(len(data)):
                await exchange.send(data[number : number + 1])
                await asyncio.sleep(0.02)

    return answer


def redirect(to: str, status: str = "302 Found") -> Answer:
    return ok(f"Location: {to}\nContent-Length: 0\nConnection: close", b"", status=f"HTTP/1.1 {status}")


def then_right(status: str, headers: str = "") -> Answer:
    """Refuse the first request, answer the second rightly."""

    async def answer(exchange: Exchange) -> None:
        if exchange.number == 1:
            await ok(f"{headers}\nContent-Length: 0\nConnection: close", b"", status=f"HTTP/1.1 {status}")(
                exchange
            )
        else:
            await exchange.reply(RIGHT)

    return answer


HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = f"Content-Length: {len(RIGHT)}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NONSENSE = "makes no sense"
TIMEOUT = "not complete after"
CLOSED = "transfer closed"

CASES = {
    # Lengths
    "short": Case(ok("Content-Length: 1000"), error="transfer closed with 15 of 1000 bytes received"),
    "long": Case(ok(LENGTH, RIGHT + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"), RIGHT),
    "negative": Case(ok("Content-Length: -15"), error=NONSENSE),
    "signed": Case(ok("Content-Length: +15"), error=NONSENSE),
    "in-words": Case(ok("Content-Length: fifteen"), error=NONSENSE),
    "in-hex": Case(ok("Content-Length: 0xf"), error=NONSENSE),
    "spaced": Case(ok("Content-Length: 1 5"), error=NONSENSE),
    "beyond-64-bits": Case(ok("Content-Length: 99999999999999999999999999"), error=NONSENSE),
    "exabytes": Case(ok("Content-Length: 9000000000000000000"), error="bytes received"),
    "two-lengths": Case(ok("Content-Length: 15\nContent-Length: 3"), error=NONSENSE),
    "two-lengths-in-one": Case(ok("Content-Length: 15, 3"), error=NONSENSE),
    "length-and-chunks": Case(
        ok("Content-Length: 3\nTransfer-Encoding: chunked", b"f\r\n" + RIGHT + b"\r\n0\r\n\r\n"),
        error=NONSENSE,
    ),
    # Chunks. What makes no sense after the head has been read, aiohttp may tell nobody; then it is a stall.
    "chunk-negative": Case(raw(CHUNKED, b"-5\r\nhello\r\n0\r\n\r\n"), error=""),
    "chunk-unreadable": Case(raw(CHUNKED, b"five\r\nhello\r\n0\r\n\r\n"), error=""),
    "chunk-beyond-64-bits": Case(raw(CHUNKED, b"f" * 17 + b"\r\nhello\r\n"), error=""),
    "chunk-cut": Case(raw(CHUNKED, b"1000\r\nhello"), error=CLOSED),
    "chunk-longer": Case(raw(CHUNKED, b"5\r\nhello world\r\n0\r\n\r\n"), error=""),
    "chunks-without-end": Case(raw(CHUNKED, b"5\r\nhello\r\n"), error=CLOSED),
    "chunks-cut-in-the-trailer": Case(raw(CHUNKED, b"5\r\nhello\r\n0\r\nX: y\r\n"), error=CLOSED),
    "chunk-extension-endless": Case(endless(CHUNKED + b"5;", b"x" * 65536), error=""),
    "chunk-size-endless": Case(endless(CHUNKED, b"0" * 65536), error=""),
    "trailers-endless": Case(endless(CHUNKED + b"5\r\nhello\r\n0\r\n", b"X: y\r\n" * 1000), error=""),
    "chunks-endless": Case(endless(CHUNKED, b"1\r\nx\r\n" * 1000), error=TIMEOUT),
    # Bodies and heads without end, and slow ones
    "body-endless": Case(endless(HEAD + b"\r\n", b"x" * 65536), error=TIMEOUT),
    "status-endless": Case(endless(b"HTTP/1.1 200 ", b"O" * 65536), error=NONSENSE),
    "header-endless": Case(endless(HEAD + b"X: ", b"y" * 65536), error=NONSENSE),
    "header-name-endless": Case(endless(HEAD, b"X" * 65536), error=NONSENSE),
    "headers-endless": Case(endless(HEAD, b"X: y\r\n" * 1000), error=""),
    "headers-too-many": Case(ok("\n".join(f"X-{n}: {n}" for n in range(100_000))), error=NONSENSE),
    "header-huge": Case(ok(f"X: {'y' * 10_000_000}"), error=NONSENSE),
    "continue-endless": Case(endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), error=""),
    "hints-endless": Case(endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" * 1000), error=""),
    "continue-some": Case(
        raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 5, HEAD, LENGTH.encode(), b"\r\n\r\n", RIGHT), RIGHT
    ),
    "drip-body": Case(drip(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000), error=TIMEOUT),
    "drip-head": Case(drip(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000), error=TIMEOUT),
    "silence": Case(Exchange.hang, error="stalled"),
    "silence-in-the-head": Case(raw(HEAD, then="hang"), error="stalled"),
    "silence-in-the-body": Case(raw(HEAD + b"Content-Length: 99\r\n\r\nx", then="hang"), error="stalled"),
    # What is no HTTP
    "nothing": Case(raw(), error="empty reply"),
    "reset": Case(raw(then="reset"), error=""),
    "head-cut": Case(raw(HEAD + b"Content-Le"), error=""),
    "noise": Case(raw(random.Random(7).randbytes(100_000)), error=NONSENSE),
    "nul": Case(raw(bytes(1000)), error=NONSENSE),
    "tls": Case(raw(bytes.fromhex("15030100020246")), error=NONSENSE),
    "http-0.9": Case(raw(b"<html>the whole answer</html>\r\n"), error=NONSENSE),
    "http-2": Case(raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), error=NONSENSE),
    "http-9.9": Case(ok(LENGTH, status="HTTP/9.9 200 OK"), error=NONSENSE),
    "status-of-five-digits": Case(ok(LENGTH, status="HTTP/1.1 20000 OK"), error=NONSENSE),
    "status-negative": Case(ok(LENGTH, status="HTTP/1.1 -200 OK"), error=NONSENSE),
    "status-in-words": Case(ok(LENGTH, status="HTTP/1.1 OK OK"), error=NONSENSE),
    "status-without-words": Case(ok(LENGTH, status="HTTP/1.1 200"), RIGHT),
    "status-for-the-terminal": Case(ok(LENGTH, status="HTTP/1.1 500 \x1b[2J"), error=""),
    "header-without-colon": Case(ok(f"{LENGTH}\nnonsense"), error=NONSENSE),
    "header-with-nul": Case(ok(f"{LENGTH}\nX: a\0b"), error=NONSENSE),
    "header-without-name": Case(ok(f"{LENGTH}\n: value"), error=NONSENSE),
    # Statuses that bring no file
    "no-content": Case(ok(LENGTH, status="HTTP/1.1 204 No Content"), error=""),
    "not-modified": Case(ok("Content-Length: 0", b"", status="HTTP/1.1 304 Not Modified"), error="304"),
    "part": Case(ok(f"{LENGTH}\nContent-Range: bytes 0-14/15", status="HTTP/1.1 206 Part"), error="206"),
    "not-satisfiable": Case(ok(LENGTH, status="HTTP/1.1 416 Range Not Satisfiable"), error="416"),
    "switching": Case(
        raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", RIGHT), error=""
    ),
    # Redirects
    "circle": Case(redirect("/circle"), error="more than 10 redirects"),
    "to-file": Case(redirect("file:///etc/passwd"), error="redirected to something that is no http URL"),
    "to-ftp": Case(redirect("ftp://127.0.0.1/x"), error="redirected to something that is no http URL"),
    "to-data": Case(redirect("data:text/plain,hello"), error="redirected to something that is no http URL"),
    "to-script": Case(redirect("javascript:alert(1)"), error="redirected to something that is no http URL"),
    "to-nobody": Case(redirect("http://"), error=""),
    "to-a-bracket": Case(redirect("http://[::1/x"), error=""),
    "to-a-port": Case(redirect("http://127.0.0.1:99999/x"), error=""),
    "to-escapes": Case(redirect("http://\x1b[2J/"), error=""),
    "to-length": Case(redirect("/" + "x" * 5_000), error="404"),
    "to-nowhere": Case(
        ok("Content-Length: 0", b"", status="HTTP/1.1 302 Found"), error="redirected without saying where to"
    ),
    "to-itself-with-a-body-without-end": Case(
        endless(b"HTTP/1.1 302 Found\r\nLocation: /missing\r\n\r\n", b"x" * 65536), error="404"
    ),
    # Names
    "n-up": Case(
        ok(f"{LENGTH}\nContent-Disposition: attachment; filename=../../n-up.txt"), RIGHT, name="n-up.txt"
    ),
    "n-root": Case(ok(f'{LENGTH}\nContent-Disposition: attachment; filename="/etc/n-root"'), RIGHT),
    "n-dots": Case(ok(f'{LENGTH}\nContent-Disposition: attachment; filename=".."'), RIGHT),
    "n-back": Case(
        ok(f"{LENGTH}\nContent-Disposition: a; filename=..\\..\\n-back.txt"), RIGHT, name="n-back.txt"
    ),
    "n-percent": Case(
        ok(f"{LENGTH}\nContent-Disposition: a; filename*=UTF-8''%2e%2e%2f%2e%2e%2fn-percent.txt"),
        RIGHT,
        name="n-percent.txt",
    ),
    "n-nul": Case(
        ok(f"{LENGTH}\nContent-Disposition: a; filename*=UTF-8''..%2f%00n-nul%00.txt"),
        RIGHT,
        name="n-nul.txt",
    ),
    "n-long": Case(
        ok(f"{LENGTH}\nContent-Disposition: a; filename={'l' * 5000}.txt"), RIGHT, name="l" * 238 + ".txt"
    ),
    "n-journal": Case(
        ok(f"{LENGTH}\nContent-Disposition: a; filename=.noria-get.db"), RIGHT, name="_.noria-get.db"
    ),
    "n-directory": Case(ok(f"{LENGTH}\nContent-Disposition: a; filename=n-directory/"), RIGHT),
    "n-quotes": Case(ok(f"{LENGTH}\nContent-Disposition: a; filename=" + '"\\' * 2000), RIGHT),
    # Waiting
    "late-past": Case(then_right("429 Too Many", "Retry-After: Thu, 01 Jan 1970 00:00:00 GMT"), RIGHT),
    "late-year-1": Case(then_right("429 Too Many", "Retry-After: Mon, 01 Jan 0001 00:00:00 +2359"), RIGHT),
    "late-no-date": Case(then_right("429 Too Many", "Retry-After: Thu, 99 Foo 2020 99:99:99 GMT"), RIGHT),
    "late-negative": Case(then_right("503 Busy", "Retry-After: -100"), RIGHT),
    "late-nan": Case(then_right("503 Busy", "Retry-After: nan"), RIGHT),
    "late-year-9999": Case(
        then_right("429 Too Many", "Retry-After: Fri, 31 Dec 9999 23:59:59 -2359"), error="429 Too Many"
    ),
    "late-for-ever": Case(then_right("429 Too Many", f"Retry-After: {'9' * 5000}"), error="429 Too Many"),
}


async def collect(urls: Any, directory: Path, **options: Any) -> dict[str, Result]:
    """All results by URL, quick to give up."""
    options = {"retries": 0, "longest_wait": 1.0, "stall_timeout": 1.0, "timeout": 1.5, **options}
    return {result.url: result async for result in download_all(urls, directory, **options)}


def one(url: str, directory: Path, **options: Any) -> Result:
    (result,) = noria.run(collect([url], directory, **options)).values()
    assert isinstance(result, Result)
    assert result.seconds < SOON
    if result.error is not None:
        assert result.error.isprintable(), result.error
        assert len(result.error) < 1000
    return result


def beside_nothing(directory: Path) -> dict[str, bytes]:
    """The files in `directory`, the journal left out; nothing may be beside it."""
    assert os.listdir(directory.parent) == [directory.name]
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if not path.name.startswith(".noria-get.db")
    }


@pytest.mark.parametrize("name", CASES)
def test_the_right_file_or_a_clear_error(faults: FaultServer, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    out = tmp_path / "out"
    ends = case.body is not None or case.error not in (TIMEOUT, "")  # by itself, not by a timeout
    result = one(
        faults.on(f"/{name}", case.answer),
        out,
        retries=1 if name.startswith("late-") else 0,
        stall_timeout=0.4 if case.error == "stalled" else SOON,
        timeout=SOON if ends else 0.4,
    )
    files = beside_nothing(out)
    if case.body is None:
        assert result.error, files
        assert case.error in result.error
        assert files == {}
    else:
        assert result.error is None
        assert result.path == out / (case.name or name)
        assert files == {case.name or name: case.body}


def test_all_at_once_in_little_memory(faults: FaultServer, tmp_path: Path) -> None:
    # In a process of its own, whose memory is nobody else's. Dozens of answers without end at the same time, of
    # which what is not written to the disk must not be kept.
    cases = {name: case for name, case in CASES.items() if "endless" in name or "drip" in name}
    out = tmp_path / "out"
    urls = [
        faults.on(f"/{number}/{name}", case.answer) for name, case in cases.items() for number in range(3)
    ]
    code = """
import asyncio, json, resource, sys
import noria
from noria.get import download_all

async def main():
    urls = json.loads(sys.argv[1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = dict(concurrency=len(urls), retries=0, timeout=1.0)
    errors = [result.error async for result in download_all(urls, sys.argv[2], **options)]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([errors, grown * 1024]))

noria.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(urls), out], stdout=subprocess.PIPE, timeout=100, check=True
    )
    errors, grown = json.loads(done.stdout)
    assert len(errors) == len(urls)
    assert all(errors)
    assert grown < 128 * MIB, f"{grown / MIB:.0f} MiB"
    assert beside_nothing(out) == {}


# Ranges: what a server says about parts of a file that may be another one by now.

WHOLE = random.Random(1).randbytes(300_000)
NEWER = random.Random(2).randbytes(310_000)


def first_byte(exchange: Exchange) -> int | None:
    """Where the range that is asked for begins; None if the whole file is."""
    asked = exchange.headers.get("range")
    return None if asked is None else int(asked.removeprefix("bytes=").split("-")[0])


def honest(exchange: Exchange, body: bytes = WHOLE, etag: str = '"1"', *, claim: str = "") -> bytes:
    """The answer to a request for all or part of `body`; `claim` takes the place of its Content-Range."""
    start, condition = first_byte(exchange), exchange.headers.get("if-range", etag)
    if start is None or condition != etag:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n"
        start = 0
    else:
        claim = claim or f"bytes {start}-{len(body) - 1}/{len(body)}"
        head = f"HTTP/1.1 206 Part\r\nContent-Length: {len(body) - start}\r\nContent-Range: {claim}\r\n"
    head += f"ETag: {etag}\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n"
    return head.encode() + body[start:]


def cut(answer: bytes, kept: int, exchange: Exchange) -> Awaitable[None]:
    """Send the first `kept` bytes, then crash."""
    return raw(answer[:kept], then="reset")(exchange)


async def unpredictable(exchange: Exchange, seed: str) -> None:
    """Crash at a random byte of the first two answers, head included."""
    answer = honest(exchange)
    if exchange.number <= 2:
        await cut(answer, random.Random(f"{seed}{exchange.number}").randrange(len(answer)), exchange)
    else:
        await exchange.send(answer)


def test_resets_at_random_bytes_end_in_the_right_file(faults: FaultServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    urls = []
    for number in range(40):

        async def answer(exchange: Exchange, seed: str = str(number)) -> None:
            await unpredictable(exchange, seed)

        urls.append(faults.on(f"/{number}", answer))
    results = noria.run(
        collect(urls, out, retries=2, longest_wait=0.02, concurrency=8, stall_timeout=SOON, timeout=60)
    )
    assert [result.error for result in results.values()] == [None] * 40
    assert beside_nothing(out) == {str(number): WHOLE for number in range(40)}


def liar(second: Callable[[Exchange], bytes]) -> Answer:
    """Cut the first answer in the middle, lie in the second, then be honest."""

    async def answer(exchange: Exchange) -> None:
        if exchange.number == 1:
            await cut(honest(exchange), 150_000, exchange)
        elif exchange.number == 2:
            await exchange.send(second(exchange))
        else:
            await exchange.send(honest(exchange))

    return answer


LIES: dict[str, Callable[[Exchange], bytes]] = {
    "another-start": lambda exchange: honest(exchange, claim="bytes 7-299999/300000"),
    "another-total": lambda exchange: honest(exchange, claim=f"bytes {first_byte(exchange)}-299999/400000"),
    "another-end": lambda exchange: honest(exchange, claim=f"bytes {first_byte(exchange)}-200000/300000"),
    "no-range": lambda exchange: honest(exchange, claim="bytes */300000"),
    "nonsense": lambda exchange: honest(exchange, claim="bytes a-b/c"),
    "negative": lambda exchange: honest(exchange, claim="bytes -5--1/300000"),
    "another-unit": lambda exchange: honest(exchange, claim="lines 0-299999/300000"),
    "without-a-range": lambda exchange: honest(exchange).replace(b"Content-Range", b"X-Range"),
    "another-etag": lambda exchange: honest(exchange).replace(b'"1"', b'"2"'),
    "the-whole-as-part": lambda exchange: (
        b"HTTP/1.1 206 Part\r\nContent-Length: 300000\r\nContent-Range: bytes 0-299999/300000\r\n"
        b'ETag: "1"\r\nConnection: close\r\n\r\n' + WHOLE
    ),
    "not-satisfiable": lambda exchange: (
        b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */300000\r\n"
        b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    ),
    "multipart": lambda exchange: (
        b"HTTP/1.1 206 Part\r\nContent-Type: multipart/byteranges; boundary=x\r\n"
        b"Content-Length: 20\r\nConnection: close\r\n\r\n" + b"--x\r\n\r\nhello\r\n--x--"
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_a_range_never_ends_in_a_wrong_file(
    faults: FaultServer, tmp_path: Path, lie: str
) -> None:
    out = tmp_path / "out"

    def told(exchange: Exchange) -> bytes:
        # Whoever asks for the whole is told the truth: there is no range to lie about.
        return honest(exchange) if first_byte(exchange) is None else LIES[lie](exchange)

    url = faults.on("/x", liar(told))
    result = one(url, out, retries=3, longest_wait=0.02, timeout=60, stall_timeout=SOON)
    files = beside_nothing(out)
    if result.error is None:
        assert files == {"x": WHOLE}
    else:
        assert "x" not in files


def test_what_changes_on_the_server_is_one_version_or_the_other(faults: FaultServer, tmp_path: Path) -> None:
    async def changing(exchange: Exchange) -> None:
        body = NEWER if exchange.number % 2 == 0 else WHOLE
        answer = honest(exchange, body, f'"{exchange.number}"')
        await (exchange.send(answer) if exchange.number > 4 else cut(answer, 100_000, exchange))

    out = tmp_path / "out"
    result = one(faults.on("/x", changing), out, retries=5, longest_wait=0.02, timeout=60, stall_timeout=SOON)
    assert result.error is None
    assert beside_nothing(out) in ({"x": WHOLE}, {"x": NEWER})


def test_what_changes_without_saying_so_is_one_version_or_the_other(
    faults: FaultServer, tmp_path: Path
) -> None:
    # No ETag, no Last-Modified: nothing tells whether the rest belongs to the start.
    async def changing(exchange: Exchange) -> None:
        answer = honest(exchange, WHOLE if exchange.number == 1 else WHOLE[::-1])
        answer = answer.replace(b'ETag: "1"\r\n', b"")
        await (exchange.send(answer) if exchange.number > 1 else cut(answer, 100_000, exchange))

    out = tmp_path / "out"
    result = one(faults.on("/x", changing), out, retries=5, longest_wait=0.02, timeout=60, stall_timeout=SOON)
    assert result.error is None
    assert beside_nothing(out) == {"x": WHOLE[::-1]}


# Names that come in the URL.


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/%2e%2e%2f%2e%2e%2fup", "up"),
        ("/a/..%2f..%2fup", "up"),
        ("/..%5c..%5cup", "up"),
        ("/%2fetc%2fpasswd", "passwd"),
        ("/%00", "index.html"),
        ("/up%00.txt", "up.txt"),
        ("/%2e%2e", "index.html"),
        ("/.noria-get.db", "_.noria-get.db"),
        ("/-rf", "_-rf"),
        ("/" + "l" * 5_000, "l" * 242),
        ("/" + "%F0%9F%92%A9" * 1_250 + ".txt", "\N{PILE OF POO}" * 59 + ".txt"),
        ("/%ff%fe", "\N{REPLACEMENT CHARACTER}" * 2),
    ],
)
def test_a_name_in_the_url_leads_nowhere_else(
    faults: FaultServer, tmp_path: Path, path: str, name: str
) -> None:
    out = tmp_path / "out"
    faults.always = lambda exchange: exchange.reply(RIGHT)
    result = one(faults.url(path), out, stall_timeout=SOON, timeout=SOON)
    assert result.error is None
    assert beside_nothing(out) == {name: RIGHT}


# Compressed bombs: a body that is kept as it is costs nothing but itself.


def test_a_bomb_is_kept_closed(faults: FaultServer, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(50 * MIB), mtime=0)
    out = tmp_path / "out"

    async def answer(exchange: Exchange) -> None:
        await exchange.reply(bomb, Content_Encoding="gzip")

    assert one(faults.on("/x", answer), out, stall_timeout=SOON, timeout=SOON).error is None
    assert beside_nothing(out) == {"x": bomb}


def test_a_name_with_a_nul_in_it_is_no_name(faults: FaultServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = ok(f"{LENGTH}\nContent-Disposition: a; filename=up\0.txt")
    result = one(faults.on("/x", answer), out, retries=0, stall_timeout=SOON, timeout=SOON)
    # A header that holds one is none (RFC 9110, section 5.5).
    assert result.kind == "protocol"
    assert beside_nothing(out) == {}


BOMBS = """
import json, resource, sys
import noria
from noria.get import download

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
options = json.loads(sys.argv[3])
result = noria.run(download(sys.argv[1], sys.argv[2], retries=0, **options))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([result.error, result.kind, result.size, grown * 1024]))
"""


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br"])
@pytest.mark.parametrize("decode", [True, False])
def test_a_bomb_neither_fills_the_memory_nor_the_disk(
    faults: FaultServer, tmp_path: Path, encoding: str, decode: bool
) -> None:
    """With a bound on the size. A body that goes on for ever, if its encoding stays as it is."""
    packed = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd.compress}[
        encoding
    ](bytes(64 * MIB))

    async def answer(exchange: Exchange) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nConnection: close\r\n\r\n"
        await exchange.send(head.encode())
        while True:
            await exchange.send(packed)

    out = tmp_path / "out"
    options = json.dumps({"decode": decode, "max_size": 4 * MIB})
    ended = subprocess.run(
        [sys.executable, "-c", BOMBS, faults.on("/x", answer), out, options],
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    error, kind, size, grown = json.loads(ended.stdout)
    assert (kind, size) == ("refused", 0)
    assert error.startswith(f"larger than {4 * MIB} bytes")
    assert grown < 48 * MIB, f"{grown / MIB:.0f} MiB"
    assert beside_nothing(out) == {}


# Certificates.


def test_a_certificate_for_another_host_is_refused(ca: Authority, tmp_path: Path) -> None:
    context = ca.server_context(ca.issue("elsewhere.example", stem="elsewhere"))
    with FaultServer(context) as server:
        result = one(
            server.on("/x", lambda exchange: exchange.reply(RIGHT)),
            tmp_path / "out",
            ssl=ca.client_context(),
            retries=3,
            timeout=SOON,
        )
    assert result.error is not None
    assert result.error.startswith("certificate problem: ")
    assert "mismatch" in result.error
    assert (result.attempts, server.seen) == (1, [])
    assert beside_nothing(tmp_path / "out") == {}
