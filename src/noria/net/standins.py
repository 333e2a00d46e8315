"""Datagrams and pipes: for now the standard library's transports on noria's readiness calls.

asyncio's own transport classes run here over `_add_reader` and `_add_writer`, until ours replace them one by one.
"""

from __future__ import annotations

import asyncio
import selectors
import weakref
from asyncio import base_events, selector_events, unix_events
from typing import Any

from noria.io import poller

_Base = base_events.BaseEventLoop
_transports: Any = vars(selector_events)
_unix: Any = vars(unix_events)


class Watched:
    """As much of a selector as the reprs of the standard library's transports look at."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)

    def get_key(self, fd: int) -> selectors.SelectorKey:
        loop = self._loop()
        reading, writing = (False, False) if loop is None else poller.wanted(loop, fd)
        if not (reading or writing):
            raise KeyError(fd)
        events = selectors.EVENT_READ * reading | selectors.EVENT_WRITE * writing
        return selectors.SelectorKey(fd, fd, events, None)


class StandIns(asyncio.AbstractEventLoop):
    """create_datagram_endpoint, connect_*_pipe."""

    _selector: Watched | None

    # What the standard library's transports expect of their loop.

    @property
    def _debug(self) -> bool:
        return self.get_debug()

    @property
    def _transports(self) -> weakref.WeakValueDictionary[int, Any]:
        found = self.__dict__.get("_standin_transports")
        if found is None:
            found = self.__dict__["_standin_transports"] = weakref.WeakValueDictionary()
        return found

    async def _ensure_resolved(
        self,
        address: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
        loop: object = None,
    ) -> Any:
        return await self._resolve(address, family=family, type=type, proto=proto, flags=flags)  # type: ignore[attr-defined]

    create_datagram_endpoint = _Base.create_datagram_endpoint  # type: ignore[assignment]
    connect_read_pipe = _Base.connect_read_pipe
    connect_write_pipe = _Base.connect_write_pipe

    def _make_datagram_transport(
        self, sock: Any, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> Any:
        return _transports["_SelectorDatagramTransport"](self, sock, protocol, address, waiter, extra)

    def _make_read_pipe_transport(
        self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None
    ) -> Any:
        return _unix["_UnixReadPipeTransport"](self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(
        self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None
    ) -> Any:
        return _unix["_UnixWritePipeTransport"](self, pipe, protocol, waiter, extra)
