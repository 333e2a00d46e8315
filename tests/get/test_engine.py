"""download_all against servers that misbehave: every URL ends in one result, and nothing incomplete gets a
name.
"""

import asyncio
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import noria
from get.fault_server import Exchange, FaultServer
from noria.get import Activity, Result, download_all
from support.certs import Authority, Identity
from support.nginx import Nginx

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["noria", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """What runs a coroutine: the downloader needs no more than asyncio, and works on noria."""
    return {"noria": noria.run, "asyncio": asyncio.run}[request.param]


async def collect(urls: Any, directory: Path, **options: Any) -> dict[str, Result]:
    """All results by URL; the options are quick to give up unless told otherwise."""
    options = {"retries": 0, "longest_wait": 5.0, **options}
    return {result.url: result async for result in download_all(urls, directory, **options)}


def one(run: Run, url: str, directory: Path, **options: Any) -> Result:
    (result,) = run(collect([url], directory, **options)).values()
    assert isinstance(result, Result)
    return result


def content(body: bytes, **headers: str) -> Callable[[Exchange], Coroutine[Any, Any, None]]:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(body, **headers)

    return answer


def test_a_result_says_what_was_saved_where(run: Run, pdf_server: Nginx, pdfs: Path, tmp_path: Path) -> None:
    result = one(run, pdf_server.url("f1040.pdf"), tmp_path)
    assert result.ok
    assert result.path == tmp_path / "f1040.pdf"
    assert result.path.read_bytes() == (pdfs / "f1040.pdf").read_bytes()
    assert (result.size, result.status, result.error) == (150_001, 200, None)
    assert (result.attempts, result.skipped) == (1, False)
    assert 0 < result.seconds < 10


def test_an_error_status_is_an_error_and_no_file(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    result = one(run, faults.url("/nowhere.pdf"), tmp_path)
    assert (result.ok, result.path, result.status) == (False, None, 404)
    assert result.error == "the server answered 404 Not Found"
    assert os.listdir(tmp_path) == []


def test_a_body_shorter_than_declared_is_no_file(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def short(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 300)

    result = one(run, faults.on("/short.bin", short), tmp_path)
    assert result.error == "transfer closed with 300 of 1000 bytes received"
    assert os.listdir(tmp_path) == []


def test_a_large_body_cut_off_leaves_no_part(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 5_000_000)
        exchange.reset()

    result = one(run, faults.on("/cut.bin", cut), tmp_path)
    assert result.error is not None
    assert "9000000 bytes received" in result.error or "connection lost" in result.error
    assert os.listdir(tmp_path) == []


def test_a_chunked_body_without_its_end_is_no_file(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n")

    result = one(run, faults.on("/chunks", endless), tmp_path)
    assert result.error == "transfer closed with 4 bytes received"
    assert os.listdir(tmp_path) == []


def test_a_body_that_ends_with_the_connection_is_taken_as_it_is(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    async def old(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.0 200 OK\r\n\r\nhello")

    assert one(run, faults.on("/old.txt", old), tmp_path).ok
    assert (tmp_path / "old.txt").read_bytes() == b"hello"


def test_an_encoded_body_is_saved_as_sent_and_measured_as_declared(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    async def encoded(exchange: Exchange) -> None:
        assert exchange.headers["accept-encoding"] == "identity"
        await exchange.reply(b"not really gzip", Content_Encoding="gzip")

    assert one(run, faults.on("/x.gz", encoded), tmp_path).ok
    assert (tmp_path / "x.gz").read_bytes() == b"not really gzip"


def test_an_empty_body_becomes_an_empty_file(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    assert one(run, faults.on("/empty", content(b"")), tmp_path).ok
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_part_nobody_asked_for_is_no_file(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def part(exchange: Exchange) -> None:
        await exchange.reply(b"half", "206 Partial Content")

    assert one(run, faults.on("/x", part), tmp_path).error == "the server answered 206 Partial Content"


def test_what_is_no_http_is_an_error(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def smtp(exchange: Exchange) -> None:
        await exchange.send(b"220 mail.example.com ESMTP\r\n")

    result = one(run, faults.on("/x", smtp), tmp_path)
    assert result.error is not None
    assert result.error.startswith("the server's answer makes no sense: ")
    assert "\n" not in result.error


def test_a_server_that_hangs_up_without_a_word_gave_an_empty_reply(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    async def nothing(exchange: Exchange) -> None:
        pass

    result = one(run, faults.on("/x", nothing), tmp_path)
    assert result.error == "empty reply: the server closed the connection without answering"


def test_a_reset_before_the_answer_is_reported(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    result = one(run, faults.on("/x", reset), tmp_path)
    assert result.error is not None
    assert result.error.startswith(("connection lost", "empty reply"))


def test_silence_is_a_stall(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    result = one(run, faults.on("/x", Exchange.hang), tmp_path, stall_timeout=0.2)
    assert result.error == "stalled: no data for 0.2 s"
    assert result.seconds < 5


def test_silence_in_the_middle_is_a_stall_too(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")
        await exchange.hang()

    result = one(run, faults.on("/x", half), tmp_path, stall_timeout=0.2)
    assert result.error == "stalled: no data for 0.2 s"
    assert os.listdir(tmp_path) == []


def test_the_whole_timeout_ends_what_only_trickles(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def trickle(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not exchange.closing.is_set():
            await exchange.send(b"x")
            await asyncio.sleep(0.02)

    result = one(run, faults.on("/x", trickle), tmp_path, stall_timeout=5.0, timeout=0.5)
    assert result.error == "not complete after 0.5 s"
    assert 0.4 < result.seconds < 5
    assert os.listdir(tmp_path) == []


def test_the_whole_timeout_covers_the_waits_between_attempts(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    async def busy(exchange: Exchange) -> None:
        await exchange.reply(b"", "503 Service Unavailable", Retry_After="4")

    result = one(run, faults.on("/x", busy), tmp_path, retries=3, timeout=0.3)
    assert result.error == "not complete after 0.3 s"
    assert result.attempts == 1


def test_nobody_listening_is_a_connection_refused(run: Run, tmp_path: Path) -> None:
    with FaultServer() as gone:
        url = gone.url("/x")
        port = gone.port
    result = one(run, url, tmp_path)
    assert result.error == f"could not connect to 127.0.0.1 port {port}: Connection refused"
    assert result.status is None


def test_an_unknown_host_is_named(run: Run, tmp_path: Path) -> None:
    result = one(run, "http://no-such-host.invalid/x", tmp_path)
    assert result.error is not None
    assert result.error.startswith("could not resolve host no-such-host.invalid: ")


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("", "not a URL"),
        ("no-scheme.example/x", "not a URL: it does not begin with http:// or https://"),
        ("ftp://127.0.0.1/x", "unsupported protocol 'ftp'"),
        ("file:///etc/passwd", "unsupported protocol 'file'"),
        ("http://", "not a URL"),
        ("http:///x", "not a URL"),
        ("http://[::1/x", "not a URL"),
        ("http://127.0.0.1:99999/x", "not a URL"),
        ("http://127.0.0.1:http/x", "not a URL"),
        ("http://127.0.0.1:0/x", "not a URL: port 0"),
        ("http://" + "a" * 70_000, "is too long"),
        ("http://\x1b[2J/x", "not a URL"),
    ],
)
def test_what_is_no_url_fails_alone(
    run: Run, faults: FaultServer, tmp_path: Path, url: str, part: str
) -> None:
    good = faults.on("/good", content(b"good"))
    results = run(collect([url, good], tmp_path))
    assert results[good].ok
    assert part in results[url].error
    assert results[url].error.isprintable()
    assert results[url].attempts == 0


def test_redirects_are_followed_and_the_name_is_that_of_the_first_url(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    async def elsewhere(exchange: Exchange) -> None:
        await exchange.reply(b"", "302 Found", Location="/stored/8a7b6c")

    faults.on("/stored/8a7b6c", content(b"here"))
    result = one(run, faults.on("/report.pdf", elsewhere), tmp_path)
    assert result.ok
    assert (tmp_path / "report.pdf").read_bytes() == b"here"
    assert faults.seen == ["/report.pdf", "/stored/8a7b6c"]


def test_a_circle_of_redirects_ends(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def round_and_round(exchange: Exchange) -> None:
        await exchange.reply(b"", "302 Found", Location="/x")

    assert one(run, faults.on("/x", round_and_round), tmp_path).error == "more than 10 redirects"
    assert len(faults.seen) <= 12


def test_a_redirect_to_a_local_file_is_not_followed(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def to_file(exchange: Exchange) -> None:
        await exchange.reply(b"", "302 Found", Location="file:///etc/passwd")

    error = one(run, faults.on("/x", to_file), tmp_path).error
    assert error is not None
    assert error.startswith("redirected to something that is no http URL")


def test_the_server_may_name_the_file_but_not_the_place(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    directory = tmp_path / "inner"
    names = {"/1": '"../../up.txt"', "/2": "/etc/passwd", "/3": ".ssh", "/4": '"a\\\\..\\\\b.txt"'}
    urls = [
        faults.on(path, content(path.encode(), Content_Disposition=f"attachment; filename={name}"))
        for path, name in names.items()
    ]
    assert all(result.ok for result in run(collect(urls, directory)).values())
    assert os.listdir(tmp_path) == ["inner"]
    found = {name: (directory / name).read_bytes() for name in os.listdir(directory)}
    assert found == {"up.txt": b"/1", "passwd": b"/2", "_.ssh": b"/3", "b.txt": b"/4"}


def test_equal_names_are_numbered_in_the_order_of_the_list(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    urls = [faults.on(f"/{number}/x.txt", content(b"%d" % number)) for number in range(20)]
    assert all(result.ok for result in run(collect(urls, tmp_path)).values())
    assert (tmp_path / "x.txt").read_bytes() == b"0"
    for number in range(1, 20):
        assert (tmp_path / f"x-{number + 1}.txt").read_bytes() == b"%d" % number


def test_equal_names_from_the_server_do_not_meet_either(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    answers = {f"/{number}": b"%d" % number * 1000 for number in range(10)}
    urls = [
        faults.on(path, content(body, Content_Disposition="attachment; filename=same.txt"))
        for path, body in answers.items()
    ]
    results = run(collect(urls, tmp_path))
    assert len({result.path for result in results.values()}) == 10
    for url, result in results.items():
        assert result.path.read_bytes() == answers["/" + url.rsplit("/", 1)[1]]


def test_a_second_attempt_keeps_the_name_that_the_server_gave(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    async def cut_once(exchange: Exchange) -> None:
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Disposition: attachment; filename=n.txt\r\n\r\n"
        )
        await exchange.send(head + (b"ha" if exchange.number == 1 else b"whole"))

    result = one(run, faults.on("/x", cut_once), tmp_path, retries=1)
    assert (result.ok, result.attempts) == (True, 2)
    assert os.listdir(tmp_path) == ["n.txt"]
    assert (tmp_path / "n.txt").read_bytes() == b"whole"


def test_a_passing_error_is_tried_again(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def third_time(exchange: Exchange) -> None:
        if exchange.number < 3:
            await exchange.reply(b"wait", "503 Service Unavailable")
        else:
            await exchange.reply(b"there")

    result = one(run, faults.on("/x", third_time), tmp_path, retries=2)
    assert (result.ok, result.attempts) == (True, 3)
    assert (tmp_path / "x").read_bytes() == b"there"


def test_a_lasting_error_is_not_tried_again(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    result = one(run, faults.url("/missing"), tmp_path, retries=5)
    assert (result.ok, result.attempts, faults.seen) == (False, 1, ["/missing"])


def test_attempts_are_bounded(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def never(exchange: Exchange) -> None:
        await exchange.reply(b"", "500 Internal Server Error")

    result = one(run, faults.on("/x", never), tmp_path, retries=2, longest_wait=0.01)
    assert (result.ok, result.attempts, result.status) == (False, 3, 500)


def test_retry_after_is_waited_for(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def later(exchange: Exchange) -> None:
        if exchange.number == 1:
            await exchange.reply(b"", "429 Too Many Requests", Retry_After="1")
        else:
            await exchange.reply(b"now")

    result = one(run, faults.on("/x", later), tmp_path, retries=1)
    assert result.ok
    assert result.seconds >= 1.0


def test_a_retry_after_beyond_the_bound_is_given_up_at_once(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    async def tomorrow(exchange: Exchange) -> None:
        await exchange.reply(b"", "503 Service Unavailable", Retry_After="86400")

    result = one(run, faults.on("/x", tomorrow), tmp_path, retries=5)
    assert result.attempts == 1
    assert result.error is not None
    assert "86400 s" in result.error


def test_an_existing_file_is_an_error_and_stays(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    result = one(run, faults.on("/x", content(b"theirs")), tmp_path, retries=3)
    assert result.error == f"{tmp_path / 'x'} exists already"
    assert (tmp_path / "x").read_bytes() == b"mine"
    assert (os.listdir(tmp_path), result.attempts) == (["x"], 1)


def test_a_large_existing_file_is_found_before_the_body_is_fetched(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not exchange.closing.is_set():
            await exchange.send(b"x" * 65536)

    (tmp_path / "x").write_bytes(b"mine")
    assert one(run, faults.on("/x", endless), tmp_path).error == f"{tmp_path / 'x'} exists already"


def test_overwrite_replaces_a_file(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    assert one(run, faults.on("/x", content(b"theirs")), tmp_path, overwrite=True).ok
    assert (tmp_path / "x").read_bytes() == b"theirs"


def test_skip_existing_asks_the_server_for_nothing(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    result = one(run, faults.on("/x", content(b"theirs")), tmp_path, skip_existing=True)
    assert (result.ok, result.skipped, result.path, result.size) == (True, True, tmp_path / "x", 0)
    assert ((tmp_path / "x").read_bytes(), faults.seen) == (b"mine", [])


def test_skip_existing_holds_for_names_from_the_server(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    url = faults.on("/1", content(b"theirs", Content_Disposition="attachment; filename=x"))
    result = one(run, url, tmp_path, skip_existing=True)
    assert (result.ok, result.skipped, result.path) == (True, True, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"mine"


def test_https_with_an_authority_of_ones_own(
    run: Run, tls_pdf_server: Nginx, ca: Authority, pdfs: Path, tmp_path: Path
) -> None:
    urls = [tls_pdf_server.url(path.name) for path in pdfs.iterdir()]
    results = run(collect(urls, tmp_path, ssl=ca.client_context()))
    assert all(result.ok for result in results.values())
    for path in pdfs.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_certificate_nobody_vouches_for_is_refused(run: Run, tls_pdf_server: Nginx, tmp_path: Path) -> None:
    result = one(run, tls_pdf_server.url("f1040.pdf"), tmp_path, retries=3)
    assert result.error is not None
    assert result.error.startswith("certificate problem: ")
    assert (result.attempts, os.listdir(tmp_path)) == (1, [])


def test_connections_are_reused(run: Run, pdf_server: Nginx, pdfs: Path, tmp_path: Path) -> None:
    names = [path.name for path in pdfs.iterdir()]
    urls = [pdf_server.url(name) for name in names for _ in range(10)]
    results = run(_count(urls, tmp_path, concurrency=3))
    assert results == 50
    requests = pdf_server.requests(at_least=50)
    assert len({request.connection for request in requests}) == 3


async def _count(urls: Any, directory: Path, **options: Any) -> int:
    return len([result async for result in download_all(urls, directory, **options) if result.ok])


def test_error_pages_do_not_cost_the_connection(run: Run, pdf_server: Nginx, tmp_path: Path) -> None:
    run(collect([pdf_server.url(f"missing-{number}") for number in range(10)], tmp_path, concurrency=1))
    assert len({request.connection for request in pdf_server.requests(at_least=10)}) == 1


def test_no_more_than_asked_for_run_at_once(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.05)
        await exchange.reply(b"x")

    urls = [faults.on(f"/{number}", slow) for number in range(20)]
    assert run(_count(urls, tmp_path, concurrency=4)) == 20
    # A connection whose answer is out may still be closing when the next one opens.
    assert 2 <= faults.most_at_once <= 8


def test_the_list_is_read_as_downloads_start_and_not_before(
    run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    url = faults.on("/x", content(b"x"))
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield f"{url}?{number}"

    async def some() -> int:
        results = download_all(endless(), tmp_path, concurrency=3)
        async with aclosing(results):
            got = 0
            async for _ in results:
                got += 1
                if got == 10:
                    break
            return taken

    assert 10 <= run(some()) <= 10 + 3 * 3 + 3 * 4  # taken, and waiting in the window
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_an_asynchronous_list_is_read_too(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    urls = [faults.on(f"/{number}", content(b"x")) for number in range(30)]

    async def listed() -> AsyncIterator[str]:
        for url in urls:
            await asyncio.sleep(0)
            yield url

    assert set(run(collect(listed(), tmp_path))) == set(urls)


def test_a_list_that_breaks_off_ends_the_rest_in_order(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/x", content(b"x"))
    results: list[Result] = []

    def broken() -> Iterator[str]:
        yield url
        raise LookupError("no more")

    async def gather_all() -> None:
        async for result in download_all(broken(), tmp_path):
            results.append(result)

    with pytest.raises(LookupError, match="no more"):
        run(gather_all())
    assert [result.ok for result in results] == [True]


def test_no_urls_no_results(run: Run, tmp_path: Path) -> None:
    assert run(collect([], tmp_path / "made")) == {}
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"retries": -1}, {"overwrite": True, "skip_existing": True}]
)
def test_senseless_arguments_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        noria.run(collect([], tmp_path, **options))


def test_a_directory_that_cannot_be_raises_what_the_system_says(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        run(collect([], tmp_path / "file" / "inner"))
    with pytest.raises(OSError):
        run(collect([], Path("/proc/self/no-files-here")))


def test_the_loop_never_waits_for_the_disk(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    # A FIFO in the place of the part file blocks whoever opens it for writing, until somebody reads.
    os.mkfifo(tmp_path / "x.part")
    url = faults.on("/x", content(b"late"))
    received: list[bytes] = []

    def read_later() -> None:
        received.append((tmp_path / "x.part").read_bytes())

    async def main() -> int:
        download = asyncio.create_task(collect([url], tmp_path))
        end = time.monotonic() + 5
        while not faults.seen and time.monotonic() < end:
            await asyncio.sleep(0.01)
        turns = 0
        for _ in range(20):  # the thread is in open(2) now; the loop is not
            await asyncio.sleep(0.01)
            turns += 1
        reader = threading.Thread(target=read_later)
        reader.start()
        await download
        await asyncio.to_thread(reader.join)
        return turns

    assert run(main()) == 20
    assert received == [b"late"]


def test_activity_counts_what_happens(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"")
    activity = Activity()
    urls = [faults.on("/a", content(b"12345")), faults.url("/missing"), faults.url("/there")]
    run(collect(urls, tmp_path, skip_existing=True, activity=activity))
    assert (activity.done, activity.failed, activity.skipped) == (1, 1, 1)
    assert (activity.size, activity.received, activity.transfers) == (5, 5, {})


def test_a_cancelled_download_leaves_no_part_and_no_descriptor(
    no_leaks: None, run: Run, faults: FaultServer, tmp_path: Path
) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 3_000_000)
        await exchange.hang()

    url = faults.on("/half.bin", half)

    async def main() -> None:
        download = asyncio.create_task(collect([url], tmp_path))
        end = time.monotonic() + 10
        while not (tmp_path / "half.bin.part").exists():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download

    run(main())
    assert os.listdir(tmp_path) == []


def test_identity_is_not_shared_between_runs(run: Run, faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/x", content(b"x"))

    async def both() -> list[dict[str, Result]]:
        return await asyncio.gather(collect([url], tmp_path / "a"), collect([url], tmp_path / "b"))

    first, second = run(both())
    assert first[url].path == tmp_path / "a" / "x"
    assert second[url].path == tmp_path / "b" / "x"


def test_a_client_certificate_is_shown_if_the_context_holds_one(
    run: Run, start_nginx: Callable[..., Nginx], pdfs: Path, ca: Authority, identity: Identity, tmp_path: Path
) -> None:
    extra = f"ssl_client_certificate {ca.cert}; ssl_verify_client optional;"
    extra += "if ($ssl_client_verify != SUCCESS) { return 403; }"
    server = start_nginx(pdfs, tls=identity, extra=extra)
    assert one(run, server.url("f1040.pdf"), tmp_path, ssl=ca.client_context(identity)).ok
    assert one(run, server.url("f1040a.pdf"), tmp_path, ssl=ca.client_context()).status == 403


@pytest.mark.parametrize("when", ["start", "done"])
def test_an_observer_that_raises_ends_the_run(run: Run, pdf_server: Nginx, tmp_path: Path, when: str) -> None:
    def observe(event: str, _: object) -> None:
        if event == when:
            raise ZeroDivisionError(event)

    async def program() -> None:
        urls = [pdf_server.url(name) for name in ("f1040.pdf", "f1040a.pdf", "f1040ez.pdf")]
        async with asyncio.timeout(30):
            await collect(urls, tmp_path, concurrency=2, activity=Activity(observer=observe))

    with pytest.raises(ZeroDivisionError, match=when):
        run(program())
