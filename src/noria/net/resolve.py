"""Names to addresses: getaddrinfo and getnameinfo, in a thread, except where there is nothing to look up."""

from __future__ import annotations

import asyncio
import socket
from socket import inet_pton  # by itself: CPython's tests take it out of the module
from typing import Any

AddressInfo = tuple[Any, Any, int, str, Any]


def literal(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[Any] | None:
    """getaddrinfo for an address written in numbers and a numeric port, or None: then it must be looked up.

    Answered by the C library itself with AI_NUMERICHOST, which touches neither network nor files.
    """
    if isinstance(host, bytes):
        try:
            host = host.decode("ascii")
        except UnicodeDecodeError:
            return None
    if not isinstance(host, str) or not host:
        return None
    if isinstance(port, bytes):
        port = port.decode("ascii", "replace")
    if isinstance(port, str) and not (port.isascii() and port.isdigit()):
        return None  # the name of a service: /etc/services
    if not (port is None or isinstance(port, int | str)):
        return None
    if not numeric(host.partition("%")[0]):
        return None
    try:
        return socket.getaddrinfo(host, port, family, type, proto, flags | socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return None


def numeric(host: str) -> bool:
    """Whether it is an IPv4 or IPv6 address written in numbers, in the form of inet_pton(3).

    getaddrinfo takes more for one ("127.1", "0x7f000001"), which is left to it.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            inet_pton(family, host)
        except (OSError, ValueError):  # ValueError: a NUL, or what UTF-8 cannot write
            continue
        return True
    return False


class Resolving(asyncio.AbstractEventLoop):
    """The loop's name look-ups."""

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """socket.getaddrinfo without blocking the loop. Raises socket.gaierror."""
        found = literal(host, port, family, type, proto, flags)
        if found is not None:
            return found
        return await self.run_in_executor(None, socket.getaddrinfo, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """socket.getnameinfo without blocking the loop. Raises socket.gaierror."""
        both = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        if flags & both == both and literal(*sockaddr[:2]) is not None:
            return socket.getnameinfo(sockaddr, flags)
        return await self.run_in_executor(None, socket.getnameinfo, sockaddr, flags)

    async def _resolve(
        self, address: Any, *, family: int = 0, type: int = socket.SOCK_STREAM, proto: int = 0, flags: int = 0
    ) -> list[AddressInfo]:
        """(host, port[, ...]) to the list getaddrinfo gives; at least one entry, else OSError."""
        host, port = address[:2]
        if isinstance(port, int) and not 0 <= port <= 0xFFFF and literal(host, 0) is not None:
            # The C library would cut it to 16 bits; the socket's own calls say what is wrong with it.
            v6 = ":" in host
            return [(family or (socket.AF_INET6 if v6 else socket.AF_INET), type, proto, "", (host, port))]
        # What needs no looking up does not go through getaddrinfo(), which a program may have replaced.
        found = literal(host, port, family, type, proto, flags) or await self.getaddrinfo(
            address[0], address[1], family=family, type=type, proto=proto, flags=flags
        )
        if not found:
            raise OSError(f"getaddrinfo({address[0]!r}) returned empty list")
        if len(address) > 2:  # flow info and scope of an IPv6 address written out by the caller
            found = [
                (f, t, p, c, (*a[:2], *address[2:])) if f == socket.AF_INET6 else (f, t, p, c, a)
                for f, t, p, c, a in found
            ]
        return found
