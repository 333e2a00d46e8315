"""Fixtures of this folder: a way to run on noria, and plain TCP or TLS to speak over."""

import pytest

from ecosystem.ground import Channel, OnNoria
from support.certs import Authority, Identity


@pytest.fixture
def on_noria() -> OnNoria:
    """A function that runs a coroutine on a fresh noria loop, under a deadline."""
    return OnNoria()


@pytest.fixture(params=["plain", "tls"])
def channel(request: pytest.FixtureRequest, ca: Authority, identity: Identity) -> Channel:
    """Makes the test run twice: over plain TCP, and over TLS with a verifying client."""
    if request.param == "plain":
        return Channel(None, None)
    return Channel(ca.server_context(identity), ca.client_context())


@pytest.fixture
def tls_channel(ca: Authority, identity: Identity) -> Channel:
    """TLS with a verifying client, for what has no plain form."""
    return Channel(ca.server_context(identity), ca.client_context())
