"""The ground that every program of this folder stands on: how it is run, and what it speaks over.

The fixtures that hand these out are in conftest.py.
"""

import asyncio
import ssl
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

import noria

T = TypeVar("T")

KIB = 1024
MIB = 1024 * KIB


class OnNoria:
    """Runs coroutines on noria, each on a fresh loop of its own."""

    def __call__(self, main: Coroutine[Any, Any, T], seconds: float = 60.0) -> T:
        """Run `main` to its end within `seconds` and return its result.

        Raises what `main` raises, TimeoutError past the deadline, and AssertionError when the loop is not noria's
        or when anything was reported to its exception handler: a library does not "work" while the loop logs
        tracebacks.
        """
        reports: list[dict[str, Any]] = []

        async def watched() -> T:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, noria.Loop)
            loop.set_exception_handler(lambda _, context: reports.append(context))
            async with asyncio.timeout(seconds):
                return await main

        with noria.Runner() as runner:
            result = runner.run(watched())
        assert reports == [], "the loop's exception handler was called"
        return result


class Channel(NamedTuple):
    """What server and client speak over: plain TCP (both None), or TLS with an authority made for the run.

    The client context trusts that authority alone and checks the server's name, which is localhost or 127.0.0.1.
    """

    server: ssl.SSLContext | None
    client: ssl.SSLContext | None

    @property
    def encrypted(self) -> bool:
        """Whether this is TLS."""
        return self.server is not None
