"""Lists of URLs, one a line, read piece by piece and never on the loop's time."""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator

_PIECE = 65_536  # bytes read at once
_LONGEST_LINE = 65_536  # bytes; what is longer is cut, and is not a URL anyway


async def read_urls(fd: int) -> AsyncGenerator[str, None]:
    """The URLs in what the descriptor `fd` gives, as they arrive, until its end.

    Blank lines and lines that begin with # are left out. `fd` stays open, and blocking: it may be a terminal
    that other programs share. Raises OSError if it cannot be read.
    """
    rest = b""
    while data := await _read(fd):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if url := _url(line):
                yield url
        rest = rest[: _LONGEST_LINE + 1]
    if url := _url(rest):
        yield url


def _url(line: bytes) -> str:
    text = line.decode("utf-8", "replace").strip().removeprefix("\ufeff")
    return "" if text.startswith("#") else text


async def _read(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    kind = os.fstat(fd).st_mode
    if stat.S_ISREG(kind) or stat.S_ISBLK(kind):
        return await loop.run_in_executor(None, os.read, fd, _PIECE)
    # Pipes, terminals and sockets may stay silent for ever. A thread that waits for them could not be
    # interrupted and would hold up the end of the process.
    readable = asyncio.Event()
    try:
        loop.add_reader(fd, readable.set)
    except PermissionError:  # epoll's word for descriptors that never make anyone wait, such as /dev/null
        return os.read(fd, _PIECE)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
    return os.read(fd, _PIECE)
