"""What the other tests lean on does what it promises."""

import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from support import tools
from support.certs import Authority, Identity
from support.leaks import no_descriptors_left
from support.nginx import Nginx


def fetch(url: str, context: ssl.SSLContext | None = None) -> bytes:
    with urllib.request.urlopen(url, timeout=10, context=context) as response:
        body: bytes = response.read()
        return body


def test_nginx_serves_the_five_files_and_logs_it(pdf_server: Nginx) -> None:
    for path in pdf_server.docs.iterdir():
        assert fetch(pdf_server.url(path.name)) == path.read_bytes()
    requests = pdf_server.requests(at_least=5)
    assert {(request.method, request.status) for request in requests} == {("GET", 200)}
    assert len({request.connection for request in requests}) == 5


def test_a_killed_nginx_refuses_connections_until_it_is_started_again(pdf_server: Nginx) -> None:
    url = pdf_server.url("f1040.pdf")
    pdf_server.kill()
    with pytest.raises(urllib.error.URLError) as caught:
        fetch(url)
    assert isinstance(caught.value.reason, ConnectionRefusedError)
    pdf_server.start()
    assert fetch(url)


def test_what_nginx_says_about_a_wrong_configuration_is_in_the_error(
    start_nginx: Callable[..., Nginx], pdfs: Path
) -> None:
    with pytest.raises(OSError, match='unknown directive "no_such_directive"'):
        start_nginx(pdfs, extra="no_such_directive on;")


def test_its_certificate_is_trusted_by_clients_of_its_authority_and_by_no_others(
    tls_pdf_server: Nginx, ca: Authority, tmp_path: Path
) -> None:
    url = tls_pdf_server.url("f1040.pdf")
    assert fetch(url, ca.client_context())
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(url, Authority(tmp_path, "somebody else").client_context())
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(url, ssl.create_default_context())


@pytest.mark.parametrize("shown", [True, False])
def test_a_server_may_demand_a_certificate_of_its_clients(
    ca: Authority, identity: Identity, shown: bool
) -> None:
    server = ca.server_context(identity, ask_client=True)
    client = ca.client_context(ca.issue("client") if shown else None)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname="localhost")

    def handshake() -> None:
        for _ in range(4):  # more flights than TLS 1.3 has
            for side in (client_side, server_side):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    pass

    if shown:
        handshake()
        assert server_side.getpeercert()
    else:
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            handshake()


def test_a_missing_program_skips_the_test_and_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tools.PACKAGES, "no-such-program", "no-such-package")
    monkeypatch.delenv("NORIA_TEST_ALL", raising=False)
    reason = re.escape("needs no-such-program (Debian package no-such-package)")
    with pytest.raises(pytest.skip.Exception, match=reason):
        tools.require("no-such-program")


def test_a_missing_program_fails_the_test_where_all_must_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tools.PACKAGES, "no-such-program", "no-such-package")
    monkeypatch.setenv("NORIA_TEST_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-package"):
        tools.require("no-such-program")


@pytest.mark.parametrize("closed", [True, False])
def test_a_descriptor_left_open_is_told_from_one_that_was_closed(
    closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.leaks.PATIENCE", 0.05)
    left, right = socket.socketpair()
    with left, right:
        if closed:
            with no_descriptors_left():
                os.close(os.dup(left.fileno()))
        else:
            with pytest.raises(AssertionError, match=r"left open: .*socket"), no_descriptors_left():
                duplicate = os.dup(left.fileno())
            os.close(duplicate)
