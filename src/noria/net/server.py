"""Server: what create_server and create_unix_server return."""

from __future__ import annotations

import asyncio
import socket
from asyncio.trsock import TransportSocket
from collections.abc import Callable
from typing import Any

from noria.net.stream import Listener


class Server(asyncio.AbstractServer):
    """Listening sockets and the connections accepted by them.

    Source: asyncio.Server, as of CPython 3.13 on every interpreter: `wait_closed` waits for the connections too.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: list[socket.socket],
        factory: Callable[[], asyncio.BaseProtocol],
        backlog: int,
        wrap: Callable[[asyncio.BaseProtocol], asyncio.BaseProtocol] | None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._sockets: list[socket.socket] | None = sockets
        self._factory = factory
        self._backlog = backlog
        self._wrap = wrap
        self._on_close = on_close
        self._listeners: list[Listener] = []
        self._transports: set[asyncio.Transport] = set()
        self._waiters: list[asyncio.Future[None]] | None = []
        self._forever: asyncio.Future[None] | None = None
        self._serving = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    # Connections come and go.

    def _attach(self, transport: Any) -> None:
        self._transports.add(transport)

    def _detach(self, transport: Any) -> None:
        self._transports.discard(transport)
        if self._sockets is None and not self._transports:
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # Listening.

    def _start(self) -> None:
        if self._serving or self._sockets is None:
            return
        self._serving = True
        for sock in self._sockets:
            sock.listen(self._backlog)
            listener = Listener(self._loop, sock, self._factory, self, self._backlog, self._wrap)
            self._listeners.append(listener)
            listener.start()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it belongs to."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return self._serving

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """The listening sockets; none once closed."""
        return tuple(TransportSocket(s) for s in self._sockets or ())

    async def start_serving(self) -> None:
        """Begin to accept connections; idempotent."""
        self._start()
        await asyncio.sleep(0)  # clients waiting in the backlog are accepted by the next turn

    async def serve_forever(self) -> None:
        """Accept connections until cancelled, then close. Raises RuntimeError if called twice or after close()."""
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            try:
                self.close()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._forever = None

    # Closing.

    def close(self) -> None:
        """Stop listening. Connections already accepted live on; see close_clients()."""
        sockets = self._sockets
        if sockets is None:
            return
        self._sockets = None
        self._serving = False
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._on_close is not None:
            self._on_close()
        for sock in sockets:
            sock.close()
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
            self._forever = None
        if not self._transports:
            self._wake()

    def close_clients(self) -> None:
        """Close every connection it accepted: what is buffered still goes out."""
        for transport in list(self._transports):
            transport.close()

    def abort_clients(self) -> None:
        """Close every connection it accepted, at once."""
        for transport in list(self._transports):
            transport.abort()

    async def wait_closed(self) -> None:
        """Wait until close() was called and the last accepted connection is gone."""
        if self._waiters is None:
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter
