"""What is asked for and what is accepted: redirects, credentials, checksums, sizes, encodings, limits."""

import asyncio
import base64
import gzip
import hashlib
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import brotli
import pytest
from backports import zstd

import noria
from get.fault_server import Exchange, FaultServer
from noria.get import Activity, Downloader, Result, Target, Transfer, download, download_all
from noria.get.decoding import Decoder
from support.certs import Authority, Identity
from support.nginx import Nginx

BODY = b"the right bytes"


def get(url: str | Target, directory: Path, **options: Any) -> Result:
    result: Result = noria.run(download(url, directory, **{"retries": 0, "longest_wait": 0.01, **options}))
    return result


def content(body: bytes = BODY, status: str = "200 OK", **headers: str) -> Any:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(body, status, **headers)

    return answer


@pytest.fixture
def other() -> Iterator[FaultServer]:
    """A server of somebody else: another port is another party."""
    with FaultServer() as server:
        yield server


class Seen:
    """Remembers the headers of the requests it answers."""

    def __init__(self, status: str = "200 OK", **headers: str) -> None:
        self.headers: list[dict[str, str]] = []
        self._answer = (status, headers)

    async def __call__(self, exchange: Exchange) -> None:
        self.headers.append(exchange.headers)
        status, headers = self._answer
        await exchange.reply(BODY, status, **headers)


SECRETS: list[dict[str, Any]] = [
    {"auth": ("user", "pass word")},
    {"bearer": "token"},
    {"headers": {"Authorization": "Custom x", "Cookie": "a=b", "X-Plain": "1"}},
]


@pytest.mark.parametrize("options", SECRETS)
def test_secrets_go_to_the_first_host_and_no_further(
    faults: FaultServer, other: FaultServer, tmp_path: Path, options: dict[str, Any]
) -> None:
    back, there = Seen(), Seen("302 Found", Location=faults.url("/back"))
    first = Seen("302 Found", Location=other.url("/there"))
    faults.on("/back", back)
    other.on("/there", there)
    assert get(faults.on("/x", first), tmp_path, **options).ok
    assert "authorization" in first.headers[0]
    for seen in (there, back):
        assert not {"authorization", "cookie"} & set(seen.headers[0])
    assert there.headers[0].get("x-plain") == first.headers[0].get("x-plain")


def test_secrets_stay_with_a_redirect_on_the_same_host(faults: FaultServer, tmp_path: Path) -> None:
    there = Seen()
    faults.on("/there", there)
    url = faults.on("/x", Seen("301 Moved Permanently", Location="/there"))
    assert get(url, tmp_path, bearer="token").ok
    assert there.headers[0]["authorization"] == "bearer token"


def test_the_urls_own_user_is_sent_and_not_shown(faults: FaultServer, tmp_path: Path) -> None:
    seen = Seen("404 Not Found")
    url = faults.on("/x", seen).replace("http://", "http://me:secret@")
    result = get(url, tmp_path, auth=("other", "one"))
    expected = base64.b64encode(b"me:secret").decode().lower()
    assert seen.headers[0]["authorization"] == f"basic {expected}"
    assert "secret" not in (result.error or "")
    assert "secret" not in result.host


def test_netrc_is_read_if_asked_for(
    faults: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login me password secret\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    seen = Seen()
    url = faults.on("/x", seen)
    assert get(url, tmp_path / "a").ok
    assert get(url, tmp_path / "b", netrc=True).ok
    assert ["authorization" in headers for headers in seen.headers] == [False, True]


def test_netrc_says_who_for_which_host(
    faults: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".netrc"
    path.write_text("machine elsewhere.example login x password y\ndefault login anybody password p\n")
    path.chmod(0o600)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = Seen()
    url = faults.on("/x", seen)
    assert get(url, tmp_path / "a", netrc=True).ok
    assert get(url, tmp_path / "b", netrc=True, bearer="Token").ok  # what is said in the command goes first
    assert get(url.replace("//", "//u:v@"), tmp_path / "c", netrc=True).ok
    sent = [headers["authorization"] for headers in seen.headers]
    assert sent == [
        "basic " + base64.b64encode(b"anybody:p").decode().lower(),
        "bearer token",
        "basic " + base64.b64encode(b"u:v").decode().lower(),
    ]
    path.write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"cannot read .*\.netrc: line \d makes no sense"):
        get(url, tmp_path / "d", netrc=True)
    path.unlink()
    assert get(url, tmp_path / "e", netrc=True).ok  # there need not be one
    assert "authorization" not in seen.headers[-1]


def test_netrc_does_not_follow_a_redirect(
    faults: FaultServer, other: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login me password secret\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    there = Seen()
    first = Seen("302 Found", Location=other.on("/y", there))
    assert get(faults.on("/x", first), tmp_path / "out", netrc=True).ok
    assert "authorization" in first.headers[0]
    assert "authorization" not in there.headers[0]


def test_cookies_of_a_file_go_where_it_says(faults: FaultServer, tmp_path: Path) -> None:
    path = tmp_path / "cookies.txt"
    path.write_text(
        "# Netscape HTTP Cookie File\n"
        "127.0.0.1\tFALSE\t/\tFALSE\t0\tid\tmine\n"
        "elsewhere.example\tFALSE\t/\tFALSE\t0\tid\ttheirs\n"
        "localhost\tFALSE\t/\tFALSE\t0\tid\twithout a dot\n"
        ".0.0.1\tTRUE\t/\tFALSE\t0\tpart\tof an address\n"
        "127.0.0.1\tFALSE\t/\tTRUE\t0\tsecret\tfor https\n"
        "127.0.0.1\tFALSE\t/\tFALSE\t1\told\texpired\n"
        "127.0.0.1\tFALSE\t/other\tFALSE\t0\tother\tpath\n"
    )
    seen = Seen()
    assert get(faults.on("/x", seen), tmp_path, cookies=path).ok
    assert seen.headers[0]["cookie"] == "id=mine"
    by_name = faults.on("/y", seen).replace("127.0.0.1", "localhost")
    assert get(by_name, tmp_path, cookies=path).ok
    assert seen.headers[1]["cookie"] == "id=without a dot"
    path.write_text("no cookies")
    with pytest.raises(ValueError, match="not a cookies file"):
        get(faults.url("/x"), tmp_path, cookies=path)


def test_a_proxy_is_used_by_option_and_environment_and_not_if_excluded(
    faults: FaultServer, other: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = faults.on("/x", content())
    proxy = other.url("")
    other.on(url, content(b"by the proxy"))
    assert get(url, tmp_path / "1", proxy=proxy).ok
    assert (tmp_path / "1" / "x").read_bytes() == b"by the proxy"
    monkeypatch.setenv("http_proxy", proxy)
    assert get(url, tmp_path / "2").ok
    assert (tmp_path / "2" / "x").read_bytes() == b"by the proxy"
    assert get(url, tmp_path / "3", proxy="").ok
    assert (tmp_path / "3" / "x").read_bytes() == BODY
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert get(url, tmp_path / "4").ok
    assert (tmp_path / "4" / "x").read_bytes() == BODY


def test_https_does_not_become_http_unless_allowed(
    faults: FaultServer,
    start_nginx: Callable[..., Nginx],
    pdfs: Path,
    ca: Authority,
    identity: Identity,
    tmp_path: Path,
) -> None:
    url = faults.on("/plain", content())
    server = start_nginx(pdfs, tls=identity, extra=f"location /x {{ return 302 {url}; }}")
    context = ca.client_context()
    result = get(server.url("x"), tmp_path, ssl=context)
    assert (result.kind, faults.seen) == ("redirect", [])
    assert "from https to http" in (result.error or "")
    assert get(server.url("x"), tmp_path, ssl=context, allow_downgrade=True).ok


def test_redirects_are_counted(faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/0", content(status="302 Found", Location="/1"))
    faults.on("/1", content(status="307 Temporary Redirect", Location="/2"))
    faults.on("/2", content())
    assert get(url, tmp_path, max_redirects=2).ok
    assert get(url, tmp_path / "b", max_redirects=1).error == "more than 1 redirects"
    assert get(faults.on("/x", content(status="302 Found")), tmp_path).kind == "redirect"


SHA = hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha1", "sha512", "blake2b"])
def test_a_checksum_is_verified(faults: FaultServer, tmp_path: Path, algorithm: str) -> None:
    url = faults.on("/x", content())
    right = hashlib.new(algorithm, BODY).hexdigest()
    wrong = hashlib.new(algorithm, b"other").hexdigest()
    result = get(Target(url, checksum=f"{algorithm}:{right.upper()}"), tmp_path)
    assert (result.ok, result.checksum) == (True, f"{algorithm}:{right}")
    result = get(Target(url, "y", checksum=f"{algorithm}:{wrong}"), tmp_path)
    assert (result.kind, os.listdir(tmp_path)) == ("checksum", ["x"])


@pytest.mark.parametrize("text", ["sha256:abc", "nonsense:00", "sha256", "shake_128:00"])
def test_a_checksum_that_is_none_is_an_error_before_anything_is_fetched(
    faults: FaultServer, tmp_path: Path, text: str
) -> None:
    result = get(Target(faults.on("/x", content()), checksum=text), tmp_path)
    assert (result.kind, faults.seen) == ("checksum", [])


def test_repr_digest_is_verified(faults: FaultServer, tmp_path: Path) -> None:
    def field(body: bytes) -> str:
        return f"md5=:AAAA:, sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"

    assert get(faults.on("/x", content(Repr_Digest=field(BODY))), tmp_path).checksum == f"sha256:{SHA}"
    result = get(faults.on("/y", content(Repr_Digest=field(b"other"))), tmp_path)
    assert (result.kind, os.listdir(tmp_path)) == ("checksum", ["x"])
    assert get(faults.on("/z", content(Repr_Digest="sha-256=:?:, what")), tmp_path).ok

    async def two_lines(exchange: Exchange) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\nRepr-Digest: md5=:AAAA:\r\n"
        await exchange.send(f"{head}Repr-Digest: {field(b'other')}\r\n\r\n".encode() + BODY)

    assert get(faults.on("/two", two_lines), tmp_path).kind == "checksum"


def test_a_checksum_file_is_asked_for_and_believed(faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/x", content())
    assert get(url, tmp_path / "none", checksum_files=True).ok
    faults.on("/x.sha256", content(f"{SHA} *x\n{'0' * 64}  y\n".encode()))
    assert get(url, tmp_path / "right", checksum_files=True).checksum == f"sha256:{SHA}"
    faults.on("/x.sha256", content(b"0" * 64))
    assert get(url, tmp_path / "wrong", checksum_files=True).kind == "checksum"
    assert os.listdir(tmp_path / "wrong") == []


@pytest.mark.parametrize(
    "text", ["{} *./dir/x\n{other}  y", "SHA256 (x) = {}\nSHA256 (y) = {other}", "{}", "\n{}  x\r\n"]
)
@pytest.mark.parametrize("right", [True, False])
def test_a_checksum_file_is_read_in_all_its_forms_and_to_its_end(
    faults: FaultServer, tmp_path: Path, text: str, right: bool
) -> None:
    body = text.format(SHA if right else "a" * 64, other="0" * 64).encode()

    async def in_pieces(exchange: Exchange) -> None:
        await exchange.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:5])
        await asyncio.sleep(0.1)
        await exchange.send(body[5:])

    faults.on("/x.sha256", in_pieces)
    result = get(faults.on("/x", content()), tmp_path, checksum_files=True)
    assert result.kind == (None if right else "checksum")


def test_a_checksum_file_that_is_not_to_be_had_now_is_asked_for_again(
    faults: FaultServer, tmp_path: Path
) -> None:
    async def busy(exchange: Exchange) -> None:
        if exchange.number == 1:
            await exchange.reply(b"", "503 Busy")
        elif exchange.number == 2:
            exchange.reset()
        elif exchange.number == 3:
            await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + b"0" * 10)
        else:
            await exchange.reply(b"0" * 64)

    faults.on("/x.sha256", busy)
    url = faults.on("/x", content())
    assert get(url, tmp_path, checksum_files=True).error == "the server answered 503 Busy"
    assert get(url, tmp_path, checksum_files=True, retries=4).kind == "checksum"
    assert os.listdir(tmp_path) == []


def test_sizes_are_held_to(faults: FaultServer, tmp_path: Path) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not exchange.closing.is_set():
            await exchange.send(b"x" * 65536)

    url = faults.on("/x", content())
    assert get(url, tmp_path, max_size=len(BODY) - 1).kind == "refused"
    assert get(faults.on("/endless", endless), tmp_path, max_size=1_000_000).kind == "refused"
    assert get(Target(url, size=3), tmp_path).kind == "length"
    assert os.listdir(tmp_path) == []
    assert get(Target(url, size=len(BODY)), tmp_path, max_size=len(BODY)).ok


def test_content_types_are_filtered(faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/x", content(Content_Type="Image/PNG; x=y"))
    assert get(url, tmp_path, content_types=["text/*", "application/pdf"]).kind == "refused"
    assert get(url, tmp_path, content_types=["image/*"]).ok


TEXT = b"text " * 100_000
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("encoding", PACKERS)
def test_encodings_are_undone_if_asked(
    start_nginx: Callable[..., Nginx], tmp_path: Path, encoding: str
) -> None:
    docs, out = tmp_path / "docs", tmp_path / "out"
    docs.mkdir()
    noise = os.urandom(1_000_000)
    (docs / "text").write_bytes(PACKERS[encoding](TEXT))
    (docs / "noise").write_bytes(PACKERS[encoding](noise))
    (docs / "empty").write_bytes(PACKERS[encoding](b""))
    nginx = start_nginx(docs, extra=f"add_header Content-Encoding {encoding};")
    for name, content in (("text", TEXT), ("noise", noise), ("empty", b"")):
        assert get(nginx.url(name), out, decode=True).error is None
        assert (out / name).read_bytes() == content
        assert get(nginx.url(name), out, decode=False, overwrite=True).error is None
        assert (out / name).read_bytes() == (docs / name).read_bytes()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_members_one_after_the_other_are_one_file(faults: FaultServer, tmp_path: Path, encoding: str) -> None:
    """Whatever their sizes, and however the network cuts them."""
    pack = PACKERS[encoding]
    body = b"".join(pack(TEXT[start : start + 50]) for start in range(0, len(TEXT), 50)) + pack(b"")
    url = faults.on("/x", content(body, Content_Encoding=encoding))
    assert get(url, tmp_path, decode=True).error is None
    assert (tmp_path / "x").read_bytes() == TEXT
    for step in (1, 7, 1000):
        decoder = Decoder(encoding, None)
        cut = [body[start : start + step] for start in range(0, 20_000, step)]
        assert TEXT.startswith(b"".join(piece for part in cut for piece in decoder.feed(part)))


@pytest.mark.parametrize("name", ["frame", "raw"])
def test_deflate_comes_in_two_ways(faults: FaultServer, tmp_path: Path, name: str) -> None:
    packer = zlib.compressobj(wbits=15 if name == "frame" else -15)
    body = packer.compress(TEXT) + packer.flush()
    assert get(faults.on("/x", content(body, Content_Encoding="deflate")), tmp_path, decode=True).ok
    assert (tmp_path / "x").read_bytes() == TEXT


@pytest.mark.parametrize("encoding", PACKERS)
def test_an_encoded_body_that_is_cut_short_or_broken_is_no_file(
    faults: FaultServer, tmp_path: Path, encoding: str
) -> None:
    body = PACKERS[encoding](os.urandom(100_000))
    whole = content(body, Content_Encoding=encoding)
    for number, wrong in enumerate([body[:-1], body[:-20], body[:5], b"nonsense" * 1000, body + b"nonsense"]):
        url = faults.on(f"/{number}", content(wrong, Content_Encoding=encoding))
        result = get(url, tmp_path, decode=True, retries=0)
        if wrong.startswith(body) and encoding == "deflate":  # of which all is there; the rest is nobody's
            assert result.ok
            (tmp_path / f"{number}").unlink()
        else:
            assert result.kind in ("length", "protocol"), result
        assert os.listdir(tmp_path) == []
    assert get(faults.on("/x", whole), tmp_path, decode=True).ok


def test_encodings_on_top_of_one_another_are_not_taken_for_one(faults: FaultServer, tmp_path: Path) -> None:
    async def answer(exchange: Exchange) -> None:
        body = gzip.compress(brotli.compress(TEXT))
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        fields = "Content-Encoding: gzip\r\nContent-Encoding: br\r\n"
        await exchange.send(f"{head}{fields}\r\n".encode() + body)

    result = get(faults.on("/x", answer), tmp_path, decode=True)
    assert (result.kind, result.error) == ("protocol", "the content encoding 'gzip, br' is not known")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_a_bomb_is_refused(faults: FaultServer, tmp_path: Path, encoding: str) -> None:
    body = PACKERS[encoding](bytes(80_000_000))
    url = faults.on("/x", content(body, Content_Encoding=encoding))
    result = get(url, tmp_path, decode=True)
    assert (result.kind, os.listdir(tmp_path)) == ("refused", [])
    assert get(url, tmp_path, decode=True, max_size=1000).kind == "refused"


@pytest.mark.parametrize("nothing", [gzip.compress(b""), b"\x50\x2a\x4d\x18\0\0\0\0"])
def test_members_without_content_are_counted_too(faults: FaultServer, tmp_path: Path, nothing: bytes) -> None:
    async def answer(exchange: Exchange) -> None:
        encoding = "gzip" if nothing.startswith(b"\x1f") else "zstd"
        await exchange.send(f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n".encode())
        while True:
            await exchange.send(nothing * 1000)

    result = get(faults.on("/x", answer), tmp_path, decode=True, max_size=1000)
    assert (result.kind, os.listdir(tmp_path)) == ("refused", [])


def test_a_zstd_window_that_is_not_for_http_is_refused(faults: FaultServer, tmp_path: Path) -> None:
    """RFC 9659 allows 8 MiB; a frame may ask for 2 GiB."""
    options = {zstd.CompressionParameter.window_log: 24}
    packer = zstd.ZstdCompressor(options=options)
    body = packer.compress(os.urandom(1_000_000) * 20) + packer.flush()
    result = get(faults.on("/x", content(body, Content_Encoding="zstd")), tmp_path, decode=True)
    assert (result.kind, os.listdir(tmp_path)) == ("protocol", [])
    assert "too much memory" in (result.error or "")


WITHOUT = """
import sys
for name in ("brotli", "backports.zstd"):
    sys.modules[name] = None  # what the import system takes for not installed
from noria.cli import main
sys.exit(main(["get", *sys.argv[1:]]))
"""


def test_what_is_missing_for_an_encoding_is_named(faults: FaultServer, tmp_path: Path) -> None:
    accepted = []

    async def answer(exchange: Exchange) -> None:
        accepted.append(exchange.headers["accept-encoding"])
        encoding = exchange.path[1:]
        await exchange.reply(PACKERS[encoding](TEXT), Content_Encoding=encoding)

    faults.always = answer
    urls = [faults.url("/br"), faults.url("/zstd"), faults.url("/gzip")]
    command = ["--decode", "-j1", "-o", str(tmp_path / "a"), *urls]
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, *command], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "content encoding br needs brotli: pip install 'noria[get-decode]'" in ended.stderr
    assert "content encoding zstd needs backports.zstd: pip install 'noria[get-decode]'" in ended.stderr
    assert [name for name in os.listdir(tmp_path / "a") if not name.startswith(".")] == ["gzip"]
    assert set(accepted) == {"gzip, deflate"}
    accepted.clear()
    assert get(urls[0], tmp_path, decode=True).ok
    assert accepted == ["gzip, deflate, br, zstd"]


def test_headers_of_the_caller_go_before_ours(faults: FaultServer, tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    async def answer(exchange: Exchange) -> None:
        seen.append(exchange.headers)
        await exchange.reply(b"x")

    headers = {"accept-encoding": "br", "user-AGENT": "me"}
    assert get(Target(faults.on("/x", answer), headers={"USER-agent": "you"}), tmp_path, headers=headers).ok
    assert (seen[0]["accept-encoding"], seen[0]["user-agent"]) == ("br", "you")


def test_update_fetches_what_changed(start_nginx: Callable[..., Nginx], tmp_path: Path) -> None:
    docs, out = tmp_path / "docs", tmp_path / "out"
    docs.mkdir()
    (docs / "x").write_bytes(b"old")
    os.utime(docs / "x", (1e9, 1e9))
    server = start_nginx(docs)
    for options in ({}, {"journal": tmp_path / "db"}):
        (docs / "x").write_bytes(b"old")
        os.utime(docs / "x", (1e9, 1e9))
        get(server.url("x"), out, update=True, **options)
        same = get(server.url("x"), out, update=True, **options)
        assert (same.ok, same.skipped, same.status) == (True, True, 304)
        assert (out / "x").stat().st_mtime == 1e9
        (docs / "x").write_bytes(b"new")
        new = get(server.url("x"), out, update=True, **options)
        assert (new.ok, new.skipped) == (True, False)
        assert (out / "x").read_bytes() == b"new"
        (out / "x").unlink()


def test_a_target_names_its_file_and_not_its_place(faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/x", content(Content_Disposition="attachment; filename=server.txt"))
    assert get(Target(url, "../../mine.txt"), tmp_path / "in").path == tmp_path / "in" / "mine.txt"
    assert get(Target(url, ".."), tmp_path / "in").kind == "name"


def test_hosts_are_limited_and_one_does_not_hold_up_the_other(
    faults: FaultServer, other: FaultServer, tmp_path: Path
) -> None:
    async def slow(exchange: Exchange) -> None:
        while not other.seen and not exchange.closing.is_set():
            await asyncio.sleep(0.01)
        await exchange.reply(BODY)

    urls = [faults.on(f"/{number}", slow) for number in range(12)]
    urls.append(other.on("/y", content()))

    async def main() -> list[Result]:
        return [result async for result in download_all(urls, tmp_path, concurrency=4, per_host=2)]

    results = noria.run(main())
    assert all(result.ok for result in results)
    assert faults.most_at_once <= 4  # two, and two that are closing


def test_the_limit_adapts(faults: FaultServer, tmp_path: Path) -> None:
    async def overloaded(exchange: Exchange) -> None:
        if exchange.number == 1 and len(faults.seen) < 6:
            await exchange.reply(b"", "503 Service Unavailable")
        else:
            await exchange.reply(BODY)

    activity = Activity()
    limits: list[int] = []
    activity.observer = lambda event, subject: limits.append(activity.limit)
    urls = [faults.on(f"/{number}", overloaded) for number in range(40)]

    async def main() -> list[Result]:
        options: Any = {"adaptive": True, "activity": activity, "longest_wait": 0.01, "concurrency": 16}
        return [result async for result in download_all(urls, tmp_path, **options)]

    assert all(result.ok for result in noria.run(main()))
    assert 1 in limits
    assert max(limits) > 4


def test_a_rate_is_kept(faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/x", content(bytes(300_000)))
    for option in ("rate", "host_rate"):
        start = time.monotonic()
        assert get(url, tmp_path / option, **{option: 300_000}).ok
        assert time.monotonic() - start >= 0.5


def test_the_head_of_an_answer_must_come_in_time(faults: FaultServer, tmp_path: Path) -> None:
    result = get(faults.on("/x", Exchange.hang), tmp_path, first_byte_timeout=0.2)
    assert (result.error, result.kind) == ("no answer within 0.2 s", "timeout")


def test_a_name_too_long_and_a_full_disk_fail_alone(faults: FaultServer, tmp_path: Path) -> None:
    good = faults.on("/good", content())
    results = {}

    async def main() -> None:
        (tmp_path / "taken.part").mkdir()
        urls = [faults.on("/taken", content()), good]
        async for result in download_all(urls, tmp_path, journal=tmp_path / "db"):
            results[result.url] = result

    noria.run(main())
    assert results[good].ok
    assert results[faults.url("/taken")].kind == "disk"


def test_fsync_and_an_observer_and_what_a_result_tells(faults: FaultServer, tmp_path: Path) -> None:
    events: list[str] = []

    def observe(event: str, subject: Transfer | Result) -> None:
        assert isinstance(subject, Result if event == "done" else Transfer)
        events.append(event)

    async def twice(exchange: Exchange) -> None:
        if exchange.number == 1:
            await exchange.reply(b"", "503 Service Unavailable")
        else:
            await exchange.reply(BODY, ETag='"e"')

    activity = Activity(observer=observe)
    result = get(faults.on("/x", twice), tmp_path, fsync=True, activity=activity, retries=1)
    assert events == ["start", "retry", "done"]
    assert (result.etag, result.host, result.kind) == ('"e"', f"127.0.0.1:{faults.port}", None)
    assert result.first_byte is not None
    assert abs(result.started - time.time()) < 60


def test_a_downloader_takes_the_callers_session_and_leaves_it_open(
    faults: FaultServer, tmp_path: Path
) -> None:
    seen = Seen()
    url = faults.on("/x", seen)

    async def main() -> None:
        async with aiohttp.ClientSession(headers={"X-Mine": "1"}) as session:
            async with Downloader(tmp_path, session=session, journal=tmp_path / "db") as downloader:
                first, second = await asyncio.gather(
                    downloader.download(url), downloader.download(Target(url, "y"))
                )
                assert first.ok, first
                assert second.ok, second
                assert [result.ok async for result in downloader.download_all([Target(url, "z")])] == [True]
            assert not session.closed
        with pytest.raises(RuntimeError, match="async with"):
            downloader.download_all([])

    noria.run(main())
    assert [headers["x-mine"] for headers in seen.headers] == ["1", "1", "1"]
    assert sorted(path.name for path in tmp_path.iterdir() if len(path.name) == 1) == ["x", "y", "z"]


@pytest.mark.parametrize("how", ["small", "large", "missing", "not plain"])
def test_the_time_to_the_first_byte_is_the_servers(faults: FaultServer, tmp_path: Path, how: str) -> None:
    async def answer(exchange: Exchange) -> None:
        await asyncio.sleep(0.3)
        status = "404 Not Found" if how == "missing" else "200 OK"
        await exchange.reply(bytes(2_000_000 if how == "large" else 10), status)

    url = faults.on("/a%20b" if how == "not plain" else "/x", answer)
    result = get(url, tmp_path)
    assert result.ok == (how != "missing")
    assert result.first_byte is not None
    assert 0.29 < result.first_byte < 5
