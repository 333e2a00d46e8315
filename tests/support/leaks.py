"""Whether a piece of a program closes all that it opens."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 2.0  # seconds: a thread that was told to end may hold a descriptor for a moment longer


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Raises AssertionError when the block is left with descriptors open that were not open before it.

    Only a block that ends without an exception is judged. Garbage is collected first.
    """
    gc.collect()
    before = open_descriptors()
    yield
    end = time.monotonic() + PATIENCE
    while True:
        gc.collect()
        left = {fd: what for fd, what in open_descriptors().items() if before.get(fd) != what}
        if not left or time.monotonic() > end:
            break
        time.sleep(0.01)
    assert not left, f"left open: {left}"


def open_descriptors() -> dict[int, str]:
    """Descriptor -> what it refers to, such as 'socket:[4711]', for all descriptors of this process."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:
            pass  # the descriptor through which the directory itself was read
    return found
