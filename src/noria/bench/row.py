"""What a row is, and finding the rows.

A file under `rows/GROUP/` holds one workload and lists its rows, one or several sizes of it, as `ROWS`. There are
three kinds:

Program  a coroutine function that does `n` operations on the running loop.
Service  a server that a load in another process talks to.
Gauge    a figure that is not a speed, such as bytes of memory.

Programs take asyncio's names from the module `aio` they are given, never from `asyncio`, so that noria's names are
measured with noria's loop and the standard library's with the others. The files import each other relatively, nothing
of noria, and libraries only inside functions: the parent imports every file, to list the rows.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

GROUPS = ("scheduling", "primitives", "network", "files", "applications", "memory")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What every row says of itself."""

    key: str  # what --only and the JSON call it: unique among all rows
    title: str  # what the tables say
    quick: bool = False  # part of --quick
    needs: tuple[str, ...] = ()  # importable packages without which the row cannot be measured
    programs: tuple[str, ...] = ()  # programs on the PATH, likewise
    module: str = ""  # its file, as "rows.GROUP.NAME": filled in by find()

    figure: ClassVar[str] = "rate"  # which key of a result is the row's main figure...
    more_is_better: ClassVar[bool] = True  # ...and whether more of it is better

    @property
    def group(self) -> str:
        return self.module.split(".")[1]


@dataclass(frozen=True, kw_only=True)
class Program(Row):
    """`run(aio, n)` does n operations, `run(aio, n, given)` if there is a `beside`."""

    run: Callable[..., Awaitable[None]]
    batch: int  # operations in one call of `run`; about 20 to 200 ms on asyncio
    trio: Callable[..., Awaitable[None]] | None = None  # the same through trio's API: run(n) or run(n, given)
    # Something that has to be there beside the process under test, such as a web server: entered by the parent, once
    # for each measurement, on the load's core; its value is given to `run`.
    beside: Callable[[], AbstractContextManager[str]] | None = None
    unit: str = "operation"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What load.c does to a server: see its head."""

    connections: int
    size: int  # bytes in a message
    churn: bool = False  # a new connection for each message
    lines: bool = False  # messages end with a newline and have no other


@dataclass(frozen=True, kw_only=True)
class Service(Row):
    """`serve(aio)` starts a server and returns its address in the form load.c takes: tcp:PORT, unix:PATH, udp:PORT or
    tls:PORT. The server goes on in the background until the process is killed.

    `load` is either load.c's or a function of the parent's: load(address, seconds) -> (requests, seconds they took).
    It runs on the load's core (inherited by the programs it starts) and raises RuntimeError with the reason if the
    server does not do as it should.
    """

    serve: Callable[[Any], Awaitable[str]]
    load: Load | Callable[[str, float], tuple[int, float]]
    trio: Callable[[], Awaitable[str]] | None = None
    floor: bool = False  # the servers in limit/ can do it too
    unit: str = "request"


@dataclass(frozen=True, kw_only=True)
class Gauge(Row):
    """`read(aio)` returns the figure, in `unit`; less is better.

    With `bare`, `read` is a plain function that gets no running loop but the Loop (loops.py): read(loop).
    """

    read: Callable[[Any], Any]
    bare: bool = False
    trio: Callable[[], Awaitable[float]] | None = None
    unit: str = "bytes"

    figure: ClassVar[str] = "value"
    more_is_better: ClassVar[bool] = False


def find() -> dict[str, Row]:
    """All rows by key, in the order of the groups, the files' names and the files' lists."""
    found: dict[str, Row] = {}
    for group in GROUPS:
        package = importlib.import_module(f"{__package__}.rows.{group}")
        for name in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
            if name.startswith("_"):  # what several rows share
                continue
            module = f"rows.{group}.{name}"
            for row in rows_of(module):
                if row.key in found:
                    raise ValueError(f"two rows are called {row.key!r}; the second is in {module}")
                found[row.key] = replace(row, module=module)
    return found


def rows_of(module: str) -> list[Row]:
    """The rows of one file, named as in Row.module."""
    rows: list[Row] = importlib.import_module(f"{__package__}.{module}").ROWS
    return rows
