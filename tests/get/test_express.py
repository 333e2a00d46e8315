"""The short way for small plain files: who takes it, what it leaves to the others, and that nobody can tell."""

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

import noria
from noria.get import Result, Target, download_all
from noria.get.express import Express
from noria.get.fetch import Job
from noria.get.filebatch import FileBatch
from noria.get.journal import DONE, Journal
from noria.get.lean import LeanSession
from noria.get.names import name_from_url
from noria.get.results import Activity
from support.nginx import Nginx

DEADLINE = 60.0


class Server:
    """Keeps connections; answers a path by what `answers` says of it, else by a small file. Counts requests."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.requests: Counter[str] = Counter()
        self.heads: dict[str, bytes] = {}  # the last for each path
        self.answers: dict[str, bytes] = {}
        self.silent: set[str] = set()
        self.closing: set[str] = set()  # after the answer

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split()[1].decode()
                self.requests[path] += 1
                self.heads[path] = head
                if path not in self.silent:
                    writer.write(self.answers.get(path, plain(path.encode())))
                    await writer.drain()
                if path in self.closing:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def plain(body: bytes, fields: bytes = b"") -> bytes:
    return b'HTTP/1.1 200 OK\r\nETag: "e"\r\n%sContent-Length: %d\r\n\r\n%s' % (fields, len(body), body)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield server


def run(main: Any) -> None:
    async def limited() -> None:
        async with asyncio.timeout(DEADLINE):
            await main()

    noria.run(limited())


async def collect(targets: Any, directory: Path, **options: Any) -> dict[str, Result]:
    options = {"retries": 0, **options}
    return {result.url: result async for result in download_all(targets, directory, **options)}


def test_an_ordinary_run_needs_neither_parser_nor_aiohttp(pdf_server: Nginx, tmp_path: Path) -> None:
    program = (
        "import sys; from noria.get.command import main; status = main(sys.argv[1:]);"
        "print(status, *sorted({'aiohttp', 'rich', 'yarl', 'multidict', 'httptools', 'http.cookiejar',"
        " 'email.utils', 'tempfile', 'noria.get.response'} & set(sys.modules)))"
    )
    out = tmp_path / "out"
    served = os.listdir(pdf_server.docs)
    urls = [pdf_server.url(name) for name in served if os.path.getsize(pdf_server.docs / name) < 65536]
    assert urls
    command = [sys.executable, "-c", program, "-q", "--no-journal", "-o", str(out), *urls]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE)
    assert ended.stdout == "0\n", ended
    assert len(os.listdir(out)) == len(urls)


@pytest.mark.parametrize("journal", [False, True])
def test_many_files_are_right_and_each_is_asked_for_once(tmp_path: Path, journal: bool) -> None:
    async def main() -> None:
        async with serving() as server:
            urls = [server.url(f"/d/{number}.bin") for number in range(500)]
            options: dict[str, Any] = {"journal": tmp_path / "db"} if journal else {}
            results = await collect(urls, tmp_path / "out", concurrency=20, **options)
            assert len(results) == 500
            for url in urls:
                result = results[url]
                path = URL(url).path
                assert result.ok and result.path == tmp_path / "out" / URL(url).name
                assert result.path.read_bytes() == path.encode()
                assert (result.size, result.status, result.attempts) == (len(path), 200, 1)
                assert (result.etag, result.host) == ('"e"', f"127.0.0.1:{server.port}")
                assert result.first_byte is not None and 0 < result.first_byte < DEADLINE
            assert set(server.requests.values()) == {1}
            assert server.connections <= 20
            if journal:
                with Journal(tmp_path / "db", read_only=True) as kept:
                    assert (kept.status().done, kept.status().finished) == (500, True)
                    for record in kept.records(DONE):
                        found = os.stat(tmp_path / "out" / record.name)
                        assert (record.size, record.inode) == (found.st_size, found.st_ino)
                        assert (record.etag, record.status, record.attempts) == ('"e"', 200, 1)
                results = await collect(urls, tmp_path / "out", concurrency=20, **options)
                assert all(result.skipped for result in results.values())
                assert set(server.requests.values()) == {1}

    run(main)
    assert not [name for name in os.listdir(tmp_path / "out") if name.endswith(".part")]


def test_what_shows_in_the_answer_only_is_asked_for_once_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving() as server:
            server.answers = {
                "/missing": b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
                "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                "/large": plain(b"x" * 3_000_000),
                "/named": plain(b"n", b"Content-Disposition: attachment; filename=other\r\n"),
                "/moved": b"HTTP/1.1 302 Found\r\nLocation: /target\r\nContent-Length: 0\r\n\r\n",
                "/wrong": plain(b"w", b"Repr-Digest: sha-256=:%s=:\r\n" % (b"A" * 43)),
                "/short": plain(b"abc").replace(b": 3", b": 5"),
                "/until-the-end": b"HTTP/1.1 200 OK\r\n\r\nall of it",
                "/nothing": b"",
                "/garbage": plain(b"abc").replace(b": 3", b": 3\r\nContent-Length: 4"),
            }
            server.closing = {"/short", "/until-the-end", "/nothing"}
            results = await collect([server.url(path) for path in server.answers], tmp_path, concurrency=3)
            asked = dict(server.requests)
            assert asked.pop("/target") == 1
            assert asked.pop("/garbage") <= 2  # aiohttp is asked for its opinion
            assert asked == {path: 1 for path in server.answers if path != "/garbage"}
            errors = {path: results[server.url(path)].error for path in server.answers}
            assert errors.pop("/missing") == "the server answered 404 Not Found"
            assert (errors.pop("/wrong") or "").startswith("checksum mismatch: ")
            assert errors.pop("/short") == "transfer closed with 3 of 5 bytes received"
            assert (errors.pop("/nothing") or "").startswith("empty reply")
            assert errors.pop("/garbage") is not None
            assert set(errors.values()) == {None}

    run(main)
    assert sorted(os.listdir(tmp_path)) == ["chunked", "large", "moved", "other", "until-the-end"]
    assert (tmp_path / "chunked").read_bytes() == b"abc"
    assert (tmp_path / "large").stat().st_size == 3_000_000
    assert (tmp_path / "moved").read_bytes() == b"/target"
    assert (tmp_path / "until-the-end").read_bytes() == b"all of it"


def test_a_redirect_that_leaves_a_cookie_is_followed_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving() as server:
            server.answers["/login"] = (
                b"HTTP/1.1 302 Found\r\nSet-Cookie: seen=yes\r\nLocation: /in\r\nContent-Length: 0\r\n\r\n"
            )
            url = server.url("/login").replace("127.0.0.1", "localhost")  # no cookies for addresses
            assert (await collect([url], tmp_path))[url].ok
            assert b"Cookie: seen=yes" in server.heads["/in"]

    run(main)


def test_a_connection_that_the_server_has_closed_meanwhile_is_no_failure(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving() as server:
            server.closing = {f"/{number}" for number in range(0, 100, 2)}
            results = await collect(
                [server.url(f"/{number}") for number in range(100)], tmp_path, concurrency=4
            )
            assert all(result.ok for result in results.values())
            assert set(server.requests.values()) == {1}

    run(main)


def test_silence_is_an_error_by_the_clock(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving() as server:
            server.silent = {"/a"}
            server.answers = {"/b": plain(b"abc").replace(b": 3", b": 5")}
            results = await collect([server.url("/a"), server.url("/b")], tmp_path, stall_timeout=0.2)
            for result in results.values():
                assert result.error == "stalled: no data for 0.2 s"
                assert (result.kind, result.attempts) == ("timeout", 1)

    run(main)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"skip_existing": True}])
def test_a_file_that_is_there(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "x").write_bytes(b"old")

    async def main() -> None:
        async with serving() as server:
            result = (await collect([server.url("/x")], tmp_path, **options))[server.url("/x")]
            if options:
                assert result.ok and result.skipped == ("skip_existing" in options)
            else:
                assert result.error == f"{tmp_path}/x exists already"
                assert result.kind == "name"

    run(main)
    assert (tmp_path / "x").read_bytes() == (b"/x" if "overwrite" in options else b"old")
    assert os.listdir(tmp_path) == ["x"]


def test_a_disk_that_refuses_is_reported_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "b.part").mkdir()

    async def main() -> None:
        async with serving() as server:
            for options in ({}, {"journal": tmp_path / "db"}):
                urls = [server.url(f"/{name}") for name in "abc"]
                results = await collect(urls, tmp_path, overwrite=True, **options)
                assert [results[url].ok for url in urls] == [True, False, True]
                failed = results[server.url("/b")]
                assert failed.error == f"cannot write {tmp_path}/b: Is a directory"
                assert failed.kind == "disk"
            with Journal(tmp_path / "db", read_only=True) as journal:
                assert (journal.status().done, journal.status().failed) == (2, 1)

    run(main)


def test_the_size_that_is_expected_is_held_against_the_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving() as server:
            targets = [Target(server.url("/ab"), size=3), Target(server.url("/cd"), size=4)]
            results = await collect(targets, tmp_path)
            assert results[server.url("/ab")].ok
            assert results[server.url("/cd")].error == "3 bytes on the server, and 4 expected"
            results = await collect([server.url("/ef")], tmp_path, max_size=2)
            assert results[server.url("/ef")].error == "larger than 2 bytes: 3"

    run(main)
    assert os.listdir(tmp_path) == ["ab"]


@pytest.mark.parametrize("journal", [False, True])
def test_stopping_early_closes_everything_at_any_moment(tmp_path: Path, journal: bool) -> None:
    chance = random.Random(3)

    async def main() -> None:
        async with serving() as server:
            for number in range(30):
                out = tmp_path / str(number)
                urls = [server.url(f"/{name}") for name in range(200)]
                options: dict[str, Any] = {"journal": out.with_suffix(".db")} if journal else {}
                most = chance.randrange(20)
                async with contextlib.aclosing(download_all(urls, out, concurrency=10, **options)) as results:
                    async for result in results:
                        assert result.ok
                        if not (most := most - 1) > 0:
                            break
                before = set(os.listdir(out))
                assert not {name for name in before if name.endswith(".part")}
                await asyncio.sleep(0.002)
                assert set(os.listdir(out)) == before  # nothing is written any more
                for name in before:
                    assert (out / name).read_bytes() == b"/" + name.encode()

    run(main)


def test_plain_urls_are_those_that_yarl_leaves_alone() -> None:
    chance = random.Random(5)
    usual = ["a", "B", "0", "/", "x.y", "-", "_", "~", "?", "a=b", "&c=d"]
    odd = [".", "..", "%41", "%2f", "&", "=", "#", "+", " ", "ä", ":", "?"]
    hosts = [
        "host",
        "host",
        "host",
        "a.b-c.de",
        "127.0.0.1",
        "1.2",
        "127.0.0.01",
        "Host",
        "[::1]",
        "u:p@host",
    ]
    hosts += ["xn--bcher-kva.de", "h.", "", "a_b", "-a", "a..b"]
    ports = ["", "", "", ":8080", ":80", ":443", ":0", ":65536", ":080", ":"]

    async def main() -> None:
        async with LeanSession(lambda: pytest.fail("aiohttp")) as session:
            express = Express(session, {}, FileBatch(), Activity(), most=1, replaces=False)
            plain_ones = 0
            for _ in range(50_000):
                scheme = chance.choice(["http", "http", "https", "HTTP", "ftp", "httpx"])
                kinds = (usual if chance.random() < 0.95 else odd for _ in range(chance.randrange(9)))
                path = "".join(chance.choice(kind) for kind in kinds)
                text = f"{scheme}://{chance.choice(hosts)}{chance.choice(ports)}/{path}"
                job = Job(Target(text))
                if not express.address(job):
                    assert job.address is None
                    continue
                plain_ones += 1
                url = URL(text)
                assert str(url) == text
                assert job.path == url.raw_path_qs, text
                assert job.host == f"{url.host}:{url.port}", text
                assert job.wanted == name_from_url(url), text
                assert job.address is not None
                assert job.address.origin is session.origin(url), text
                assert (job.address.origin.host, job.address.origin.port) == (url.raw_host, url.port)
            assert plain_ones > 500

    run(main)


def test_the_address_of_a_long_url_is_not_plain() -> None:
    async def main() -> None:
        async with LeanSession(lambda: pytest.fail("aiohttp")) as session:
            express = Express(session, {}, FileBatch(), Activity(), most=1, replaces=False)
            assert express.address(Job(Target("http://host/" + "a/" * 900 + "b")))
            begin = time.perf_counter()
            assert not express.address(Job(Target("http://host/" + "a/" * 100_000 + "b")))
            assert not express.address(Job(Target("http://host/" + "a/" * 900 + "%")))
            assert time.perf_counter() - begin < 1
            for number in range(3000):  # and the servers that are remembered are not all of the internet's
                assert express.address(Job(Target(f"http://host{number}/x")))

    run(main)
