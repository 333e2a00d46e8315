"""What the tests of the downloader share."""

from collections.abc import Iterator

import pytest

from get.fault_server import FaultServer


@pytest.fixture
def faults() -> Iterator[FaultServer]:
    """A server to teach bad behaviour to."""
    with FaultServer() as server:
        yield server
