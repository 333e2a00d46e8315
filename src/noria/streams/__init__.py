"""Streams over connections: StreamReader, StreamWriter and what opens them."""

import asyncio.streams as _standard

from noria.streams.connection import (
    StreamReaderProtocol as StreamReaderProtocol,
    StreamWriter as StreamWriter,
)
from noria.streams.opening import (
    open_connection as open_connection,
    open_unix_connection as open_unix_connection,
    start_server as start_server,
    start_unix_server as start_unix_server,
)
from noria.streams.reader import StreamReader as StreamReader

__all__ = [
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
]


def __getattr__(name: str) -> object:
    # `noria.streams` is also what a program finds that says `asyncio.streams` and means noria.
    if not name.startswith("__") and hasattr(_standard, name):
        return getattr(_standard, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
