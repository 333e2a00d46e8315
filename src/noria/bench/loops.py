"""The event loops that can be measured: how each is made, and where its programs take asyncio's names from."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loop:
    """One column of a table."""

    name: str
    package: str  # what has to be installed
    factory: str = "new_event_loop"  # the package's attribute that makes a loop
    names: str = "asyncio"  # the module from which programs take `sleep`, `Queue` and so on
    ours: bool = False  # noria in some form: not a peer of itself
    usual: bool = True  # measured unless other loops are asked for
    environment: tuple[tuple[str, str], ...] = ()

    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None

    def version(self) -> str:
        if self.package == "asyncio":
            return platform.python_version()
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return "source tree"

    def make(self) -> Callable[[], Any]:
        """The loop factory; imports the package."""
        factory: Callable[[], Any] = getattr(importlib.import_module(self.package), self.factory)
        return factory


_ALL = (
    # As a program that says `import noria as asyncio`, or runs under `noria run`.
    Loop("noria", "noria", names="noria", ours=True),
    # The same loop under a program that takes asyncio's own names.
    Loop("noria-asyncio", "noria", ours=True, usual=False),
    # noria on the one driver and on the other, whatever it would choose by itself.
    Loop(
        "noria-epoll",
        "noria",
        names="noria",
        ours=True,
        usual=False,
        environment=(("NORIA_DRIVER", "epoll"),),
    ),
    Loop(
        "noria-io_uring",
        "noria",
        names="noria",
        ours=True,
        usual=False,
        environment=(("NORIA_DRIVER", "io_uring"),),
    ),
    Loop("asyncio", "asyncio", factory="SelectorEventLoop"),
    Loop("uvloop", "uvloop"),
    Loop("rloop", "rloop"),
    Loop("zloop", "zloop"),
    Loop("blazio", "blazio"),
    Loop("talyn", "talyn", factory="Loop"),
    # Through its own API, in the rows that have a version for it.
    Loop("trio", "trio", factory="", names="trio"),
)

LOOPS: dict[str, Loop] = {loop.name: loop for loop in _ALL}


def named(name: str) -> Loop:
    """A loop of LOOPS, or one that is not among them as PACKAGE:FACTORY. KeyError if it is neither."""
    package, colon, factory = name.partition(":")
    return Loop(name, package, factory) if colon else LOOPS[name]


# Servers in C (limit/), without Python: what the machine allows. Not peers; rows that they can do show them beside.
FLOORS: dict[str, str] = {"c-epoll": "epoll.c", "c-io_uring": "uring.c"}
