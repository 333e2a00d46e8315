"""What the rows on files share: the files, and with what each loop opens them.

noria opens with `noria.open`, blazio with `blazio.open`, every other asyncio loop with aiofiles. The files lie where
temporary files lie; they are in the page cache, so what is measured is the way there and back and not the disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COUNT = 1_000
SIZE = 64 * 1024
MIB = 1024 * 1024
LARGE = 1024  # MiB


def opener(aio: Any) -> Callable[..., Any]:
    """The open() of the loop that runs."""
    found: Callable[..., Any] | None = getattr(aio, "open", None)
    if found is not None:
        return found
    if type(aio.get_running_loop()).__module__.startswith("blazio"):
        import blazio as library
    else:
        import aiofiles as library
    theirs: Callable[..., Any] = library.open
    return theirs


@contextmanager
def many() -> Iterator[str]:
    """A directory of COUNT files called 0, 1, 2... of SIZE bytes each."""
    with tempfile.TemporaryDirectory(prefix="noria-bench-") as directory:
        for i in range(COUNT):
            Path(directory, str(i)).write_bytes(bytes(SIZE))
        yield directory


@contextmanager
def one() -> Iterator[str]:
    """A file of LARGE MiB."""
    with tempfile.TemporaryDirectory(prefix="noria-bench-") as directory:
        path = Path(directory, "large")
        with open(path, "wb") as file:
            for _ in range(LARGE):
                file.write(bytes(MIB))
        yield str(path)


def check(moved: int, expected: int) -> None:
    if moved != expected:
        raise RuntimeError(f"{moved} bytes moved of {expected}")
