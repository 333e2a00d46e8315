"""Through a real proxy (tinyproxy) and by one family of addresses only; as a library and as the command."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import noria
from get.fault_server import FaultServer
from noria.get import Result, download
from support.certs import Authority
from support.nginx import Nginx
from support.tools import require

GET = [sys.executable, "-m", "noria", "get"]
USER, PASSWORD = "me", "geheim-secret"
Start = Callable[..., "Proxy"]


class Proxy:
    """tinyproxy on a port of its own; `log()` is what it has seen. login: ask for USER and PASSWORD."""

    def __init__(self, folder: Path, *, login: bool = False) -> None:
        with FaultServer() as gone:
            self.port = gone.port
        self._log = folder / "log"
        lines = [f"Port {self.port}", "Listen 127.0.0.1", f'LogFile "{self._log}"', "LogLevel Info"]
        lines += ["Allow 127.0.0.1", f"BasicAuth {USER} {PASSWORD}"] if login else ["Allow 127.0.0.1"]
        (folder / "conf").write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen(
            [require("tinyproxy"), "-d", "-c", str(folder / "conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except ConnectionRefusedError:
                assert self._process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def url(self, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self.port}"

    def asked(self) -> list[str]:
        """What it was asked for, as 'GET http://...' and 'CONNECT host:port'."""
        return re.findall(r"Request \(file descriptor \d+\): (\S+ \S+)", self._log.read_text())


@pytest.fixture
def start_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Proxy(tmp_path_factory.mktemp("proxy"), **options))


def get(url: str, directory: Path, **options: Any) -> Result:
    result: Result = noria.run(download(url, directory, **{"retries": 0, "timeout": 20.0, **options}))
    return result


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GET, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_http_goes_through_it(start_proxy: Start, pdf_server: Nginx, pdfs: Path, tmp_path: Path) -> None:
    proxy = start_proxy()
    url = pdf_server.url("f1040.pdf")
    assert get(url, tmp_path, proxy=proxy.url()).error is None
    assert (tmp_path / "f1040.pdf").read_bytes() == (pdfs / "f1040.pdf").read_bytes()
    assert proxy.asked() == [f"GET {url}"]
    assert pdf_server.requests(1)[0].target == "/f1040.pdf"


def test_https_goes_through_a_tunnel(
    start_proxy: Start, tls_pdf_server: Nginx, ca: Authority, pdfs: Path, tmp_path: Path
) -> None:
    proxy = start_proxy()
    url = tls_pdf_server.url("f1040.pdf")
    assert get(url, tmp_path, proxy=proxy.url(), ssl=ca.client_context()).error is None
    assert (tmp_path / "f1040.pdf").read_bytes() == (pdfs / "f1040.pdf").read_bytes()
    assert proxy.asked() == [f"CONNECT {url.split('/')[2]}"]
    # The tunnel hides nothing from the check of certificates.
    result = get(url, tmp_path / "again", proxy=proxy.url())
    assert (result.kind, result.path) == ("tls", None)


@pytest.mark.parametrize("tls", [False, True])
def test_it_may_ask_who_is_there(
    tls: bool,
    start_proxy: Start,
    pdf_server: Nginx,
    tls_pdf_server: Nginx,
    ca: Authority,
    tmp_path: Path,
) -> None:
    proxy = start_proxy(login=True)
    url = (tls_pdf_server if tls else pdf_server).url("f1040.pdf")
    options: dict[str, Any] = {"ssl": ca.client_context()} if tls else {}
    for login in ("", f"{USER}:wrong-geheim@"):
        result = get(url, tmp_path / "refused", proxy=proxy.url(login), **options)
        assert result.error is not None
        assert "geheim" not in result.error
        if tls:
            assert re.fullmatch(
                r"the proxy answered (407 Proxy Authentication Required|401 Unauthorized)", result.error
            )
            assert result.kind == "connect"
        else:  # as if the server itself had
            assert re.match("the server answered 40[17] ", result.error)
    assert list((tmp_path / "refused").iterdir()) == []
    assert get(url, tmp_path, proxy=proxy.url(f"{USER}:{PASSWORD}@"), **options).error is None


def test_the_command_takes_it_from_the_environment_and_shows_no_password(
    start_proxy: Start, pdf_server: Nginx, tls_pdf_server: Nginx, ca: Authority, tmp_path: Path
) -> None:
    proxy = start_proxy(login=True)
    urls = [pdf_server.url("f1040.pdf"), tls_pdf_server.url("f1040a.pdf"), tls_pdf_server.url("missing")]
    address = proxy.url(f"{USER}:{PASSWORD}@")
    arguments = ["--ca-file", ca.cert, "--json", "-o", tmp_path / "1", *urls]
    ended = command(*arguments, http_proxy=address, https_proxy=address)
    assert ended.returncode == 1
    assert "404" in ended.stderr
    assert PASSWORD not in ended.stderr + ended.stdout
    assert sorted(words.split()[0] for words in proxy.asked()) == ["CONNECT", "CONNECT", "GET"] or sorted(
        words.split()[0] for words in proxy.asked()
    ) == ["CONNECT", "GET"]  # both files by one tunnel
    before = len(proxy.asked())
    ended = command("-o", tmp_path / "2", urls[0], http_proxy=address, no_proxy="127.0.0.1,localhost")
    assert ended.returncode == 0
    assert len(proxy.asked()) == before
    ended = command("-o", tmp_path / "3", "-x", proxy.url(f"{USER}:wrong-{PASSWORD}@"), urls[0])
    assert (ended.returncode, PASSWORD in ended.stderr) == (1, False)
    assert re.search("answered 40[17] ", ended.stderr)
    ended = command("-o", tmp_path / "4", urls[0], http_proxy="socks5://me:geheim@127.0.0.1:1")
    assert (ended.returncode, "geheim" in ended.stderr) == (1, False)
    assert "unsupported kind of proxy: socks5://me:***@127.0.0.1:1; " in ended.stderr


def test_one_that_is_not_there_is_named_without_its_password(pdf_server: Nginx, tmp_path: Path) -> None:
    with FaultServer() as gone:
        port = gone.port
    for url in (pdf_server.url("f1040.pdf"), pdf_server.url("f1040.pdf").replace("http:", "https:")):
        result = get(url, tmp_path, proxy=f"http://{USER}:{PASSWORD}@127.0.0.1:{port}")
        assert result.kind == "connect"
        assert result.error is not None
        assert f"127.0.0.1 port {port}" in result.error
        assert PASSWORD not in result.error


@pytest.mark.parametrize(
    "proxy", ["ftp://x", "socks5://127.0.0.1:1", "http://", "http://[bad", "127.0.0.1:3128"]
)
def test_what_is_no_proxy_is_wrong_usage(proxy: str, tmp_path: Path) -> None:
    ended = command("--retries", 0, "-x", proxy, "-o", tmp_path / "out", "http://127.0.0.1:9/x")
    if proxy == "127.0.0.1:3128":  # as curl takes it
        assert (ended.returncode, "could not connect to 127.0.0.1 port 3128" in ended.stderr) == (1, True)
        return
    assert ended.returncode == 2
    assert "proxy" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


# Families of addresses.


@pytest.mark.parametrize(("option", "family"), [("-4", "127.0.0.1"), ("-6", "::1"), (None, None)])
def test_a_family_is_kept_to(option: str | None, family: str | None, tmp_path: Path) -> None:
    """With a name that has an address of each, by a hosts file of its own."""
    unshare = require("unshare")
    server = Both(tmp_path)
    try:
        hosts = tmp_path / "hosts"
        hosts.write_text("127.0.0.1 both.test\n::1 both.test\n")
        inside = f'mount --bind {hosts} /etc/hosts && exec "$@"'
        space = [unshare, "-m" if os.geteuid() == 0 else "-rm", "sh", "-c", inside, "sh"]
        probe = subprocess.run([*space, "true"], capture_output=True, text=True)
        if probe.returncode != 0:
            pytest.skip(f"needs a mount namespace of its own: {probe.stderr.strip()}")
        urls = [f"http://both.test:{server.port}/{name}" for name in "ab"]
        options = [option] if option else []
        ended = subprocess.run(
            [*space, *GET, "-o", str(tmp_path / "out"), *options, *urls],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stderr
        asked = {(tmp_path / "out" / name).read_text() for name in "ab"}
        assert asked == {family} or (family is None and asked <= {"127.0.0.1", "::1"})
    finally:
        server.close()


@pytest.mark.parametrize(("option", "host"), [("-4", "[::1]"), ("-6", "127.0.0.1")])
def test_an_address_of_the_other_family_has_a_clear_error(option: str, host: str, tmp_path: Path) -> None:
    ended = command(option, "--retries", 0, "-o", tmp_path, f"http://{host}:9/x")
    assert ended.returncode == 1
    assert re.search(r"could not (resolve host|connect to) \[?(::1|127.0.0.1)", ended.stderr)
    assert "refused" not in ended.stderr


class Both:
    """nginx on 127.0.0.1 and ::1, on the same port, whose every answer is the address that was asked."""

    def __init__(self, folder: Path) -> None:
        if not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text():
            pytest.skip("this machine has no IPv6")
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            self.port = probe.getsockname()[1]
        (folder / "conf").write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error; worker_processes 1;\n"
            "events {}\nhttp {\n  access_log off;\n  server {\n"
            f"    listen 127.0.0.1:{self.port};\n    listen [::1]:{self.port};\n"
            "    location / { return 200 $server_addr; }\n  }\n}\n"
        )
        self._process = subprocess.Popen(
            [require("nginx"), "-c", str(folder / "conf"), "-p", str(folder)], stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 20
        for host in ("127.0.0.1", "::1"):
            while True:
                try:
                    socket.create_connection((host, self.port)).close()
                    break
                except ConnectionRefusedError:
                    assert self._process.poll() is None
                    assert time.monotonic() < end
                    time.sleep(0.02)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
