"""Making datagram endpoints, and transports for pipes: create_datagram_endpoint, connect_read_pipe, connect_write_pipe.

Signatures, checks and messages are those of asyncio.BaseEventLoop in CPython 3.13, on every interpreter. Names are
looked up without blocking. Leaves to others: the transports (datagram.pyx, pipes.pyx).
"""

from __future__ import annotations

import asyncio
import socket
import stat
from asyncio.log import logger
from collections.abc import Callable
from typing import Any

from noria.net.datagram import open_datagram
from noria.net.pipes import open_read_pipe, open_write_pipe
from noria.net.sockcalls import SocketCalls, remove, stat_path

ProtocolFactory = Callable[[], Any]

# (family, protocol) and the two addresses, local and remote, of a socket that may be tried.
Attempt = tuple[tuple[int, int], tuple[Any, Any]]


def set_reuse_port(sock: socket.socket) -> None:
    """SO_REUSEPORT, or ValueError in asyncio's words where there is none."""
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port not supported by socket module")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        raise ValueError(
            "reuse_port not supported by socket module, SO_REUSEPORT defined but not implemented."
        ) from None


def remove_stale(path: str | bytes) -> None:
    """Remove the socket file a process that has ended left behind."""
    try:
        if stat.S_ISSOCK(stat_path(path).st_mode):
            remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:  # we may create files in that directory, and not remove them
        logger.error("Unable to check or remove stale UNIX socket %r: %r", path, error)


class Endpoints(SocketCalls):
    """create_datagram_endpoint and connect_*_pipe."""

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        local_addr: tuple[str, int] | str | None = None,
        remote_addr: tuple[str, int] | str | None = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[Any, Any]:
        """A datagram endpoint; returns (transport, protocol).

        local_addr, remote_addr: (host, port), or a path if family is AF_UNIX; the socket is bound to the one and
        connected to the other (not with allow_broadcast: answers come from elsewhere then). sock: a socket of
        the program's instead, closed with the transport. Raises ValueError and TypeError for arguments that make no
        sense together, OSError if no address can be used: the first one's error.
        """
        remote: Any = None
        given = sock is not None
        if sock is not None:
            if sock.type == socket.SOCK_STREAM:
                raise ValueError(f"A datagram socket was expected, got {sock!r}")
            options = {
                "local_addr": local_addr,
                "remote_addr": remote_addr,
                "family": family,
                "proto": proto,
                "flags": flags,
                "reuse_port": reuse_port,
                "allow_broadcast": allow_broadcast,
            }
            if any(options.values()):
                problems = ", ".join(f"{name}={value}" for name, value in options.items() if value)
                raise ValueError(
                    f"socket modifier keyword arguments can not be used when sock is specified. ({problems})"
                )
            sock.setblocking(False)
        else:
            failures: list[OSError] = []
            for attempt in await self._datagram_addresses(local_addr, remote_addr, family, proto, flags):
                try:
                    sock = await self._datagram_socket(
                        attempt, bool(local_addr), bool(remote_addr), reuse_port, allow_broadcast
                    )
                except OSError as error:
                    failures.append(error)
                    continue
                if remote_addr:
                    remote = attempt[1][1]
                break
            else:
                try:
                    raise failures[0]
                finally:
                    failures.clear()  # no cycle through the traceback
        try:
            protocol = protocol_factory()
            transport = open_datagram(self, sock, protocol, remote)
        except BaseException:
            if not given:
                sock.close()
            raise
        if self.get_debug():
            if local_addr:
                logger.info(
                    "Datagram endpoint local_addr=%r remote_addr=%r created: (%r, %r)",
                    local_addr, remote_addr, transport, protocol,
                )  # fmt: skip
            else:
                logger.debug(
                    "Datagram endpoint remote_addr=%r created: (%r, %r)", remote_addr, transport, protocol
                )
        await self._made(transport)
        return transport, protocol

    async def _made(self, transport: Any) -> None:
        # connection_made is queued before us.
        try:
            await asyncio.sleep(0)
        except BaseException:
            transport.close()
            raise

    async def _datagram_addresses(
        self, local: Any, remote: Any, family: int, proto: int, flags: int
    ) -> list[Attempt]:
        if not (local or remote):
            if family == 0:
                raise ValueError("unexpected address family")
            return [((family, proto), (None, None))]
        if family == socket.AF_UNIX:
            for path in (local, remote):
                if path is not None and not isinstance(path, str):
                    raise TypeError("string is expected")
            if local and local[0] != "\0":  # not in the abstract namespace
                remove_stale(local)
            return [((family, proto), (local, remote))]
        found: dict[tuple[int, int], list[Any]] = {}
        for which, address in enumerate((local, remote)):
            if address is None:
                continue
            if not (isinstance(address, tuple) and len(address) == 2):
                raise TypeError("2-tuple is expected")
            infos = await self._resolve(
                address, family=family, type=socket.SOCK_DGRAM, proto=proto, flags=flags
            )
            for fam, _, pro, _, resolved in infos:
                found.setdefault((fam, pro), [None, None])[which] = resolved
        # An address of a kind that the other has not got is of no use.
        usable: list[Attempt] = [
            (key, (ours, theirs))
            for key, (ours, theirs) in found.items()
            if not ((local and ours is None) or (remote and theirs is None))
        ]
        if not usable:
            raise ValueError("can not get address information")
        return usable

    async def _datagram_socket(
        self,
        attempt: Attempt,
        bound: bool,
        connected: bool,
        reuse_port: bool | None,
        allow_broadcast: bool | None,
    ) -> socket.socket:
        (family, proto), (local, remote) = attempt
        sock = socket.socket(family=family, type=socket.SOCK_DGRAM, proto=proto)
        try:
            if reuse_port:
                set_reuse_port(sock)
            if allow_broadcast:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setblocking(False)
            if bound:
                sock.bind(local)
            if connected and not allow_broadcast:
                await self.sock_connect(sock, remote)
        except BaseException:
            sock.close()
            raise
        return sock

    # Pipes.

    async def connect_read_pipe(self, protocol_factory: ProtocolFactory, pipe: Any) -> tuple[Any, Any]:
        """Receive from a pipe, a socket or a character device; returns (transport, protocol).

        pipe: a file object, which becomes non-blocking and is closed with the transport. Raises ValueError for
        other files.
        """
        protocol = protocol_factory()
        transport = open_read_pipe(self, pipe, protocol)
        await self._made(transport)
        if self.get_debug():
            logger.debug("Read pipe %r connected: (%r, %r)", pipe.fileno(), transport, protocol)
        return transport, protocol

    async def connect_write_pipe(self, protocol_factory: ProtocolFactory, pipe: Any) -> tuple[Any, Any]:
        """Send to a pipe, a socket or a character device; returns (transport, protocol).

        pipe: a file object, which becomes non-blocking and is closed with the transport. Raises ValueError for
        other files.
        """
        protocol = protocol_factory()
        transport = open_write_pipe(self, pipe, protocol)
        await self._made(transport)
        if self.get_debug():
            logger.debug("Write pipe %r connected: (%r, %r)", pipe.fileno(), transport, protocol)
        return transport, protocol
