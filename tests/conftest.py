"""Fixtures every test may use: an authority, nginx, five PDF files behind it, and a check for leaks.

pytest's `-ra` (pyproject.toml) ends each run with the list of all tests that were skipped or expected to fail,
with reasons. A test that cannot run must take that way out, with a reason, so that this list is complete.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from noria.demo.pdf import make_pdf
from support.certs import Authority, Identity
from support.leaks import no_descriptors_left
from support.nginx import Nginx


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "once: takes long and says the same on every interpreter and driver; left out where NORIA_TEST_ONCE=0",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("NORIA_TEST_ONCE") == "0":
        reason = "NORIA_TEST_ONCE=0: it says the same elsewhere and takes long; it runs where this is not set"
        for item in items:
            if item.get_closest_marker("once"):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Keep what was imported and collected out of the many collections that tests ask for."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """For plugins that ask the collector who refers to what (hypothesis)."""
    gc.unfreeze()


# The text downloads these five; sizes in bytes, chosen to be no multiple of any buffer.
PDF_SIZES = {
    "f1040.pdf": 150_001,
    "f1040a.pdf": 98_765,
    "f1040ez.pdf": 61_441,
    "f1040es.pdf": 254_321,
    "f1040sb.pdf": 33_333,
}


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority of this test run."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def identity(ca: Authority) -> Identity:
    """A certificate of `ca` for localhost, 127.0.0.1 and ::1."""
    return ca.issue("localhost", "127.0.0.1", "::1")


@pytest.fixture(scope="session")
def pdfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the five PDF files of the text; read it, do not write to it."""
    directory = tmp_path_factory.mktemp("pdfs")
    for name, size in PDF_SIZES.items():
        (directory / name).write_bytes(make_pdf(name, size))
    return directory


@pytest.fixture
def start_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Nginx]]:
    """A function `start_nginx(docs, tls=None, extra="")`; each nginx it starts ends with the test."""
    with ExitStack() as stack:

        def start(docs: Path, *, tls: Identity | None = None, extra: str = "") -> Nginx:
            root = tmp_path_factory.mktemp("nginx")
            return stack.enter_context(Nginx(root, docs, tls=tls, extra=extra))

        yield start


@pytest.fixture
def pdf_server(start_nginx: Callable[..., Nginx], pdfs: Path) -> Nginx:
    """nginx serving the five PDF files over http; its `docs` is their directory."""
    return start_nginx(pdfs)


@pytest.fixture
def tls_pdf_server(start_nginx: Callable[..., Nginx], pdfs: Path, identity: Identity) -> Nginx:
    """nginx serving the five PDF files over https with `identity`."""
    return start_nginx(pdfs, tls=identity)


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail the test if it ends with descriptors open that were not open before.

    Name it before other fixtures that hold descriptors for the test, or it will count theirs.
    """
    with no_descriptors_left():
        yield
