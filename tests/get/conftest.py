"""What the tests of the downloader share."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from get.fault_server import FaultServer


@pytest.fixture
def faults() -> Iterator[FaultServer]:
    """A server to teach bad behaviour to."""
    with FaultServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that speaks S3, without anything in it."""
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as stderr:
        command = ["timeout", "600", sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
    try:
        end = time.monotonic() + 60
        while not (found := re.search(r"Running on (http://127.0.0.1:\d+)", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield found[1]
    finally:
        server.terminate()
        server.wait(10)
