"""Making connections: clients and servers over TCP and Unix-domain sockets, with and without TLS.

Signatures, checks and messages are those of asyncio.BaseEventLoop.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import collections.abc
import contextlib
import errno
import functools
import os
import socket
import ssl
from asyncio import constants
from asyncio.log import logger
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import IO, Any

from noria.net.endpoints import remove_stale
from noria.net.eyeballs import interleave, race
from noria.net.resolve import AddressInfo
from noria.net.server import Server
from noria.net.sockcalls import SocketCalls, check_sendfile, remove, stat_path
from noria.net.stream import StreamTransport, open_stream
from noria.net.tls import TLSTransport, wrap_tls

ProtocolFactory = Callable[[], Any]


def set_nodelay(sock: socket.socket) -> None:
    """Send small writes at once, as asyncio does on TCP."""
    if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def stream_socket(sock: Any) -> None:
    """Refuse what cannot carry a stream transport."""
    if isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")
    if not isinstance(sock, socket.socket):
        raise TypeError(f"a socket is needed, got {type(sock).__name__}: {sock!r}")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A Stream Socket was expected, got {sock!r}")


class Connecting(SocketCalls):
    """create_connection, create_server and their kin."""

    # Clients.

    async def create_connection(
        self,
        protocol_factory: ProtocolFactory,
        host: str | None = None,
        port: int | str | None = None,
        *,
        ssl: ssl.SSLContext | bool | None = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: socket.socket | None = None,
        local_addr: tuple[str, int] | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[Any, Any]:
        """Connect by TCP; returns (transport, protocol).

        happy_eyeballs_delay: seconds before the next address is tried beside the one under way (RFC 8305);
        None: one after another. Timeouts in seconds. Raises OSError, ssl.SSLError; with all_errors an ExceptionGroup.
        """
        if server_hostname is not None and not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        if server_hostname is None and ssl:
            if not host:
                raise ValueError("You must set server_hostname when using ssl without a host")
            server_hostname = host
        self._check_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if happy_eyeballs_delay is not None and interleave is None:
            interleave = 1
        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            sock = await self._connect_any(
                (host, port), family, proto, flags, local_addr, happy_eyeballs_delay, interleave, all_errors
            )
        elif sock is None:
            raise ValueError("host and port was not specified and no sock specified")
        else:
            stream_socket(sock)
        return await self._make_client(
            sock, protocol_factory, ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout
        )

    async def _connect_any(
        self,
        address: tuple[Any, Any],
        family: int,
        proto: int,
        flags: int,
        local_addr: tuple[str, int] | None,
        delay: float | None,
        interleaved: int | None,
        all_errors: bool,
    ) -> socket.socket:
        found = await self._resolve(address, family=family, proto=proto, flags=flags)
        local: list[AddressInfo] | None = None
        if local_addr is not None:
            local = await self._resolve(local_addr, family=family, proto=proto, flags=flags)
        if interleaved:
            found = interleave(found, interleaved)
        failures: list[Exception] = []
        connected: socket.socket | None = None
        if delay is None:
            for info in found:
                try:
                    connected = await self._connect_one(info, local, failures)
                    break
                except OSError as error:
                    failures.append(error)
        else:
            attempts = [functools.partial(self._connect_one, info, local, failures) for info in found]
            connected, lost = await race(attempts, delay)
            failures += lost
        if connected is not None:
            failures.clear()
            return connected
        try:
            if all_errors:
                raise ExceptionGroup("create_connection failed", failures)
            if len(failures) == 1:
                raise failures[0]
            first = str(failures[0])
            if all(str(error) == first for error in failures):
                raise failures[0]
            raise OSError("Multiple exceptions: {}".format(", ".join(str(error) for error in failures)))
        finally:
            failures = []  # no cycle through the traceback

    async def _connect_one(
        self, info: AddressInfo, local: list[AddressInfo] | None, failures: list[Exception]
    ) -> socket.socket:
        family, type_, proto, _, address = info
        sock = socket.socket(family=family, type=type_, proto=proto)
        try:
            sock.setblocking(False)
            if local is not None:
                self._bind_one(sock, family, local, failures)
            await self.sock_connect(sock, address)
            return sock
        except BaseException:
            sock.close()
            raise

    def _bind_one(
        self, sock: socket.socket, family: int, local: list[AddressInfo], failures: list[Exception]
    ) -> None:
        # The first local address that can be bound; what was wrong with those before it is told if nothing works.
        refused: list[Exception] = []
        for local_family, _, _, _, address in local:
            if local_family != family:
                continue
            try:
                sock.bind(address)
                failures += refused
                return
            except OSError as error:
                refused.append(
                    OSError(
                        error.errno,
                        f"error while attempting to bind on address {address!r}: {str(error.strerror).lower()}",
                    )
                )
        failures += refused[:-1]
        raise refused[-1] if refused else OSError(f"no matching local address with family={family!r} found")

    async def create_unix_connection(
        self,
        protocol_factory: ProtocolFactory,
        path: str | os.PathLike[str] | bytes | None = None,
        *,
        ssl: ssl.SSLContext | bool | None = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Connect to a Unix-domain socket by its path; returns (transport, protocol)."""
        if ssl:
            if server_hostname is None:
                raise ValueError("you have to pass server_hostname when using ssl")
        elif server_hostname is not None:
            raise ValueError("server_hostname is only meaningful with ssl")
        self._check_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, os.fspath(path))
            except BaseException:
                sock.close()
                raise
        else:
            if sock is None:
                raise ValueError("no path and sock were specified")
            self._check_unix(sock)
        return await self._make_client(
            sock, protocol_factory, ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout
        )

    def _check_unix(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")

    async def connect_accepted_socket(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        sock: socket.socket,
        *,
        ssl: ssl.SSLContext | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Serve a connection that was accepted outside the loop; returns (transport, protocol)."""
        stream_socket(sock)
        self._check_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        return await self._make_client(
            sock, protocol_factory, ssl, "", ssl_handshake_timeout, ssl_shutdown_timeout, server_side=True
        )

    def _check_timeouts(self, ssl_: Any, handshake: float | None, shutdown: float | None) -> None:
        if handshake is not None and not ssl_:
            raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
        if shutdown is not None and not ssl_:
            raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")

    async def _make_client(
        self,
        sock: socket.socket,
        protocol_factory: ProtocolFactory,
        ssl_: ssl.SSLContext | bool | None,
        server_hostname: str | None,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
        server_side: bool = False,
    ) -> tuple[Any, Any]:
        sock.setblocking(False)
        set_nodelay(sock)
        transport: Any
        try:
            protocol = protocol_factory()
            if not ssl_:
                transport = open_stream(self, sock, protocol)
                try:
                    await asyncio.sleep(0)  # connection_made is queued before us
                except BaseException:
                    transport.close()
                    raise
                return transport, protocol
            waiter = self.create_future()
            transport = wrap_tls(
                self,
                protocol,
                None if isinstance(ssl_, bool) else ssl_,
                waiter,
                server_side,
                server_hostname,
                ssl_handshake_timeout=handshake_timeout,
                ssl_shutdown_timeout=shutdown_timeout,
            )
        except BaseException:
            sock.close()
            raise
        raw = open_stream(self, sock, transport)
        try:
            await waiter
        except BaseException:
            transport.close()
            raw.abort()  # the handshake may not have begun
            raise
        return transport, protocol

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Turn a connection into a TLS one; returns the transport to use from now on.

        None if the connection was closed before the handshake began, as in asyncio.
        """
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        options: dict[str, Any] = {
            "server_side": server_side,
            "server_hostname": server_hostname,
            "ssl_handshake_timeout": ssl_handshake_timeout,
            "ssl_shutdown_timeout": ssl_shutdown_timeout,
            "call_connection_made": False,
        }
        if isinstance(transport, (StreamTransport, TLSTransport)):
            secured = wrap_tls(self, protocol, sslcontext, waiter, **options)
            secured._start_on(transport)
            try:
                await waiter
            except BaseException:
                secured._never_mind()
                transport.close()
                raise
            return None if secured.is_closing() and secured.get_extra_info("cipher") is None else secured
        # Somebody else's transport: asyncio's TLS is a protocol, and asks no more of it than that it is a transport.
        wrapped: Any = asyncio.sslproto.SSLProtocol(self, protocol, sslcontext, waiter, **options)
        # Nothing may reach the new protocol before it knows its transport.
        transport.pause_reading()
        transport.set_protocol(wrapped)
        made = self.call_soon(wrapped.connection_made, transport)
        resumed = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            made.cancel()
            resumed.cancel()
            raise
        return wrapped._app_transport

    # Servers.

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        host: str | Iterable[str] | None = None,
        port: int | str | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: ssl.SSLContext | None = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> Server:
        """Listen on TCP at each of the hosts (None or "": all interfaces); returns a Server.

        Raises OSError if an address cannot be bound; then nothing stays open.
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        self._check_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            if reuse_address is None:
                reuse_address = os.name == "posix"
            hosts: list[str | None]
            if host == "" or host is None:
                hosts = [None]
            elif isinstance(host, str) or not isinstance(host, collections.abc.Iterable):
                hosts = [host]
            else:
                hosts = list(host)
            lookups = [self._resolve((h, port), family=family, flags=flags) for h in hosts]
            found = {info for infos in await asyncio.gather(*lookups) for info in infos}
            sockets = self._bind_all(
                sorted(found, key=lambda info: info[0]), reuse_address, reuse_port, keep_alive
            )
        elif sock is None:
            raise ValueError("Neither host/port nor sock were specified")
        else:
            stream_socket(sock)
            sockets = [sock]
        for bound in sockets:
            bound.setblocking(False)
            set_nodelay(bound)  # accepted sockets inherit it (tcp(7)), which saves a call for each
        return await self._serve(
            sockets,
            protocol_factory,
            backlog,
            ssl,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            start_serving,
        )

    def _bind_all(
        self,
        found: list[AddressInfo],
        reuse_address: bool | None,
        reuse_port: bool | None,
        keep_alive: bool | None,
    ) -> list[socket.socket]:
        sockets: list[socket.socket] = []
        complete = False
        try:
            for family, type_, proto, _, address in found:
                try:
                    sock = socket.socket(family=family, type=type_, proto=proto)
                except OSError:
                    # the machine has no such family (IPv6 switched off): asyncio goes on with the others
                    if self.get_debug():
                        logger.warning(
                            "create_server() failed to create socket.socket(%r, %r, %r)", family, type_, proto
                        )
                    continue
                sockets.append(sock)
                if reuse_address:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if reuse_port:
                    if not hasattr(socket, "SO_REUSEPORT"):
                        raise ValueError("reuse_port not supported by socket module")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if keep_alive:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    sock.bind(address)
                except OSError as error:
                    message = f"error while attempting to bind on address {address!r}: {str(error.strerror).lower()}"
                    if error.errno == errno.EADDRNOTAVAIL:
                        # e.g. "::1" from a hosts file on a machine without IPv6
                        sockets.pop().close()
                        if self.get_debug():
                            logger.warning(message)
                        continue
                    raise OSError(error.errno, message) from None
            if not sockets:
                raise OSError(f"could not bind on any address out of {[info[4] for info in found]!r}")
            complete = True
            return sockets
        finally:
            if not complete:
                for sock in sockets:
                    sock.close()

    async def create_unix_server(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        path: str | os.PathLike[str] | bytes | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: ssl.SSLContext | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = True,
    ) -> Server:
        """Listen on a Unix-domain socket at path; returns a Server.

        A stale socket file in the way is replaced. cleanup_socket: remove the file when the server closes.
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        self._check_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            path = os.fspath(path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            if path[0:1] not in ("\0", b"\0"):  # not in the abstract namespace
                remove_stale(path)
            try:
                sock.bind(path)
            except OSError as error:
                sock.close()
                if error.errno == errno.EADDRINUSE:
                    raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
                raise
            except BaseException:
                sock.close()
                raise
        else:
            if sock is None:
                raise ValueError("path was not specified, and no sock specified")
            self._check_unix(sock)
        sock.setblocking(False)
        on_close = None
        if cleanup_socket:
            name = sock.getsockname()
            if name and name[0:1] not in ("\0", b"\0"):
                inode, owner = stat_path(name).st_ino, os.getpid()

                def on_close() -> None:
                    with contextlib.suppress(FileNotFoundError):
                        # not somebody else's by now, and not the parent's in a forked child
                        if stat_path(name).st_ino == inode and os.getpid() == owner:
                            remove(name)

        return await self._serve(
            [sock],
            protocol_factory,
            backlog,
            ssl,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            start_serving,
            on_close,
        )

    async def _serve(
        self,
        sockets: list[socket.socket],
        factory: ProtocolFactory,
        backlog: int,
        context: ssl.SSLContext | None,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
        start_serving: bool,
        on_close: Callable[[], None] | None = None,
    ) -> Server:
        wrap = None
        if context is not None:
            tls = context

            def wrap(protocol: Any) -> Any:
                return wrap_tls(
                    self,
                    protocol,
                    tls,
                    None,
                    True,
                    ssl_handshake_timeout=handshake_timeout,
                    ssl_shutdown_timeout=shutdown_timeout,
                )

        server = Server(self, sockets, factory, backlog, wrap, on_close)
        if start_serving:
            try:
                await server.start_serving()
            except BaseException:
                server.close()
                raise
        return server

    # Files to transports.

    async def sendfile(
        self,
        transport: Any,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send a file over a transport; returns the count of bytes. See sock_sendfile().

        Raises RuntimeError if the transport is closing, asyncio.SendfileNotAvailableError if it cannot be done in
        the kernel and fallback is False.
        """
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        mode = getattr(transport, "_sendfile_compatible", constants._SendfileMode.UNSUPPORTED)
        if mode is constants._SendfileMode.UNSUPPORTED:
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        if isinstance(transport.get_protocol(), Drain):
            raise RuntimeError("unable to sendfile; another sendfile is in progress")
        check_sendfile(file, offset, count)
        plain = isinstance(transport, StreamTransport)
        if not plain and not fallback:
            raise RuntimeError(
                f"fallback is disabled and native sendfile is not supported for transport {transport!r}"
            )
        drained = Drain(transport, self)
        try:
            if plain:
                try:
                    return await self._sendfile_plain(transport, drained, file, offset, count)
                except asyncio.SendfileNotAvailableError:
                    if not fallback:
                        raise
            return await self._sendfile_by_hand(file, offset, count, drained.send)
        finally:
            drained.restore()

    async def _sendfile_plain(
        self, transport: Any, drained: Drain, file: IO[bytes], offset: int, count: int | None
    ) -> int:
        # What was written before goes first, then a duplicate of the descriptor is given to sendfile(2): the
        # transport keeps its own registration.
        await drained.empty()
        while transport._is_posted():
            await asyncio.sleep(0)
        transport._hold_writes(True)
        try:
            # Past the object for programs, which would take the connection from the ring for good.
            with transport.get_extra_info("socket")._sock.dup() as sock:
                sock.setblocking(False)
                return await self._sendfile_by_kernel(
                    sock, file, offset, count, lambda: drained.wait(partial(self._when_writable, sock))
                )
        finally:
            transport._hold_writes(False)


def is_choked(transport: Any) -> bool:
    """Whether the transport has told its protocol to pause writing."""
    if hasattr(transport, "_is_choked"):
        return bool(transport._is_choked())
    tls = getattr(transport, "_ssl_protocol", None)
    return bool(getattr(tls, "_app_writing_paused", False))


class Drain(asyncio.Protocol):
    """Stands in for a transport's protocol while a file is sent, so that writing can wait for room.

    What the peer sends meanwhile waits: reading is paused.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._protocol = transport.get_protocol()
        self._room: asyncio.Future[None] | None = None
        self._lost: BaseException | None = None
        self._gone = False
        self.was_reading: bool = transport.is_reading()
        self._choked = self._was_choked = is_choked(transport)
        transport.pause_reading()
        transport.set_protocol(self)

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._lost = exc
        if self._room is not None and not self._room.done():
            self._room.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> bool | None:
        raise RuntimeError("Invalid state: reading should be paused")

    async def wait(self, until: Callable[[asyncio.Future[None]], Awaitable[None]] | None = None) -> None:
        """Wait until there is room, by the transport or by until(future), or raise if the connection is lost."""
        if self._gone or self._transport.is_closing():
            raise self._lost or ConnectionError("Connection is closed by peer")
        self._room = self._loop.create_future()
        try:
            await (self._room if until is None else until(self._room))
        finally:
            self._room = None

    async def empty(self) -> None:
        """Wait until everything written has gone to the kernel."""
        if not self._transport.get_write_buffer_size():
            return
        low, high = self._transport.get_write_buffer_limits()
        self._transport.set_write_buffer_limits(high=0)
        try:
            while self._transport.get_write_buffer_size():
                await self.wait()
        finally:
            self._transport.set_write_buffer_limits(high=high, low=low)

    async def send(self, data: bytes) -> None:
        """Write data, waiting for room first."""
        if self._gone:
            raise self._lost or ConnectionError("Connection is closed by peer")
        while self._choked:
            await self.wait()
        self._transport.write(data)

    def restore(self) -> None:
        """Give the transport its protocol back."""
        self._transport.set_protocol(self._protocol)
        if not self._gone:
            if self._choked and not self._was_choked:
                self._protocol.pause_writing()
            elif self._was_choked and not self._choked:
                self._protocol.resume_writing()
            if self.was_reading:
                self._transport.resume_reading()
