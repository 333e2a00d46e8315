"""The short way for a plain GET: a pool of connections over asyncio's protocols. `response` has the parser.

`LeanSession.get` is used as `aiohttp.ClientSession.get` is, and what it does not know goes there, to a session made
when it is first needed: redirects to be followed, answers with cookies to remember, credentials in URLs, servers whose
answers the strict parser refuses. Where nothing needs it, aiohttp is not even imported. The reason is measured: of the
time that 5,000 small files take, aiohttp alone needs more than curl needs for all of it (docs/get-compared.md).

A connection on which anything comes unasked is never used again. One request at a time on a connection. If a server
closes a connection that it kept alive just when it is used again, the request is made once more on a new one.

What goes wrong is raised as `Failure`, a body cut off as `Truncated`.
"""

import asyncio
import re
import socket
import ssl as ssl_module
from collections.abc import Callable, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from noria.get.failures import Failure, os_reason, printable
from noria.get.redirects import STATUSES
from noria.get.wire import Connection, Watch
from noria.net.resolve import numeric

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

    from noria.get.response import LeanResponse

_MOST_IDLE = 15.0  # seconds; aiohttp's figure, and less than what servers keep
_PORTS = {"http": 80, "https": 443}
_NOT_PLAIN = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "expect", "te", "upgrade"}
)
_AUTHORITY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]+")
_ZONE = re.compile(r"%25[^\]]*")
_UNFIT_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
_FIT_AS_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Unsuited(Exception):
    """This request is one for aiohttp."""


class Refused(Exception):
    """The connection ended without a byte of an answer, in an orderly way or with `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error


class LeanSession:
    """Makes plain GET requests itself and has `fallback` make the others.

    fallback: called at most once, for a session of aiohttp that is closed with this one. connect_timeout bounds name
    lookup, connection and TLS handshake, first_byte_timeout the time until an answer begins (stall_timeout if None),
    stall_timeout the time without a byte; seconds, None for no limit. ssl: whom to trust, the system's authorities by
    default. family: of addresses, as for getaddrinfo.
    """

    def __init__(
        self,
        fallback: "Callable[[], aiohttp.ClientSession]",
        *,
        connect_timeout: float | None = None,
        first_byte_timeout: float | None = None,
        stall_timeout: float | None = None,
        ssl: ssl_module.SSLContext | None = None,
        family: int = 0,
    ) -> None:
        self._fallback = fallback
        self._session: aiohttp.ClientSession | None = None
        self._loop = asyncio.get_running_loop()
        self._connect_timeout = connect_timeout
        self._last: tuple[dict[str, str], bytes] = ({}, encoded_fields({}))
        self._ssl = ssl
        self._family = family
        self._origins: dict[tuple[str, str], Origin] = {}
        self._watch = Watch(self._loop, first_byte_timeout, stall_timeout)

    def get(self, url: "URL", *, headers: Mapping[str, str] | None = None, **options: Any) -> "_Request":
        """An asynchronous context manager that gives the response to a GET of `url`, as aiohttp does.

        options: for aiohttp, should it be needed. Redirects are returned if they say allow_redirects=False. Entering
        raises Failure, or what aiohttp raises.
        """
        return _Request(self, url, headers, options)

    async def close(self) -> None:
        """Close all connections."""
        for origin in self._origins.values():
            for connection in list(origin.connections):
                connection.transport.abort()
        self._origins.clear()
        self._watch.close()
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> "LeanSession":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def aiohttp(self) -> "aiohttp.ClientSession":
        """The session of aiohttp."""
        if self._session is None:
            self._session = self._fallback()
        return self._session

    async def request(self, url: "URL", headers: Mapping[str, str] | None, follow: bool) -> "LeanResponse":
        """The response to a GET of `url`. Raises Unsuited if it is one for aiohttp."""
        origin = self.origin(url)
        fields, encoded = self._last
        if headers != fields:  # most requests have the same
            fields = dict(headers or {})
            self._last = fields, (encoded := encoded_fields(fields))
        head = b"GET " + url.raw_path_qs.encode("ascii") + origin.tail + encoded
        connection = origin.idle_connection(self._loop.time())
        if connection is not None:
            try:
                response = await _answer(connection, head, url)
            except Refused:  # the server closed it meanwhile, as it may
                connection = None
        if connection is None:
            connection = await self.connect(origin)
            try:
                response = await _answer(connection, head, url)
            except Refused as refused:
                if refused.error is not None:
                    reason = f"connection lost: {os_reason(refused.error)}"
                else:
                    reason = "empty reply: the server closed the connection without answering"
                raise Failure(reason, again=True, kind="connect") from None
        if response.status in STATUSES and follow:
            response.close()
            raise Unsuited
        if response.to_be_followed_by_aiohttp():
            raise Unsuited
        return response

    def origin(self, url: "URL") -> "Origin":
        """The server that `url` is for. Raises Unsuited if it is one for aiohttp."""
        origin = self._origins.get((url.scheme, url.raw_authority))
        if origin is None:
            host, port, authority = url.raw_host, url.port, url.raw_authority
            if (
                host is None or port is None or not _AUTHORITY.fullmatch(authority)
            ):  # credentials among others
                raise Unsuited
            origin = self.origin_at(url.scheme, host, port, authority)
        if origin.unsuited:
            raise Unsuited
        return origin

    def origin_at(self, scheme: str, host: str, port: int, authority: str) -> "Origin":
        """The server with these parts of a URL, unsuited or not."""
        origin = self._origins.get((scheme, authority))
        if origin is None:
            host = host.replace("%25", "%")  # before an IPv6 address's zone, which is ours alone (RFC 6874)
            authority_there = _ZONE.sub("", authority)
            named = authority_there.removesuffix(f":{port}") if port == _PORTS[scheme] else authority_there
            tail = b" HTTP/1.1\r\nHost: " + named.encode("ascii") + b"\r\n"
            origin = self._origins[scheme, authority] = Origin(scheme == "https", host, port, tail)
        return origin

    async def connect(self, origin: "Origin") -> Connection:
        """A new connection to `origin`. Raises Failure."""
        context = None
        if origin.tls:
            if self._ssl is None:
                self._ssl = ssl_module.create_default_context()
                self._ssl.set_alpn_protocols(["http/1.1"])
            context = self._ssl
        limit = asyncio.timeout(self._connect_timeout)
        try:
            async with limit:
                return await self._open(origin, context)
        except ssl_module.SSLCertVerificationError as error:
            raise Failure(
                f"certificate problem: {printable(error.verify_message or str(error))}", kind="tls"
            ) from None
        except ssl_module.CertificateError as error:
            raise Failure(f"certificate problem: {printable(str(error))}", kind="tls") from None
        except ssl_module.SSLError as error:
            raise Failure(
                f"TLS handshake failed: {printable(str(error.reason or error))}", kind="tls"
            ) from None
        except socket.gaierror as error:
            reason = printable(error.strerror or str(error))
            raise Failure(
                f"could not resolve host {origin.host}: {reason}", again=True, kind="resolve"
            ) from None
        except OSError as error:
            if limit.expired():
                reason = f"could not connect within {self._connect_timeout:g} s"
            else:
                reason = f"could not connect to {origin.host} port {origin.port}: {os_reason(error)}"
            late = limit.expired()
            raise Failure(reason, again=True, kind="timeout" if late else "connect", congested=late) from None

    async def _open(self, origin: "Origin", context: ssl_module.SSLContext | None) -> Connection:
        arguments: dict[str, Any] = {
            "ssl": context,
            "family": self._family,
            "server_hostname": origin.host if context is not None else None,
        }

        def connection() -> Connection:
            return Connection(origin, self._watch, self._loop)

        # Only where there may be several addresses: asyncio's own race of attempts can leave a socket open if it is
        # cancelled at the moment when one has connected.
        delay = None if numeric(origin.host) else 0.25
        try:
            opening = self._loop.create_connection(
                connection, origin.host, origin.port, happy_eyeballs_delay=delay, **arguments
            )
        except TypeError:  # uvloop does not know it
            opening = self._loop.create_connection(connection, origin.host, origin.port, **arguments)
        _, protocol = await opening
        return protocol


async def _answer(connection: Connection, head: bytes, url: "URL") -> "LeanResponse":
    from noria.get.response import LeanResponse  # where the shortest way does for all, nobody needs a parser

    response = LeanResponse(connection, url)
    begun = response.begun
    assert begun is not None
    if connection.lost:
        response.fail(Refused())
    else:
        connection.start(head, response)
    try:
        return await begun
    except asyncio.CancelledError:
        response.close()
        raise


class _Request:
    """What `LeanSession.get` returns."""

    __slots__ = ("_headers", "_options", "_other", "_response", "_session", "_url")

    def __init__(
        self, session: LeanSession, url: "URL", headers: Mapping[str, str] | None, options: dict[str, Any]
    ) -> None:
        self._session = session
        self._url = url
        self._headers = headers
        self._options = options
        self._response: LeanResponse | None = None
        self._other: Any = None

    def __await__(self) -> "Generator[Any, None, Any]":
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Any:
        follow = self._options.get("allow_redirects", True)
        if self._options.keys() <= {"allow_redirects"}:
            try:
                self._response = await self._session.request(self._url, self._headers, follow)
                return self._response
            except Unsuited:
                pass
        self._other = self._session.aiohttp().get(self._url, headers=self._headers, **self._options)
        return await self._other.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response is not None:
            self._response.release()
        else:
            await self._other.__aexit__(kind, error, trace)


class Origin:
    """A server by scheme, name and port, with the connections to it."""

    def __init__(self, tls: bool, host: str, port: int, tail: bytes) -> None:
        self.tls = tls
        self.host = host
        self.port = port
        self.tail = tail  # of a request head, after the path
        self.connections: set[Connection] = set()
        self.idle: list[Connection] = []
        self.unsuited = False

    def idle_connection(self, now: float) -> Connection | None:
        """The one used last, if it is not too old."""
        while self.idle:
            connection = self.idle.pop()
            if now - connection.idle_since < _MOST_IDLE:
                return connection
            connection.transport.abort()
        return None


def encoded_fields(headers: Mapping[str, str]) -> bytes:
    """The rest of a head after its Host. Raises Unsuited for fields that are not a plain request's, ValueError for what
    would be more than one line.
    """
    names = {name.lower() for name in headers}
    if names & _NOT_PLAIN:
        raise Unsuited
    if "accept" not in names:
        headers = {"Accept": "*/*", **headers}
    for name, value in headers.items():
        if not _FIT_AS_NAME.fullmatch(name) or _UNFIT_IN_HEADER.search(value):
            raise ValueError(f"not a header: {printable(name)}: {printable(value)}")
    return "".join([*(f"{name}: {value}\r\n" for name, value in headers.items()), "\r\n"]).encode("latin-1")
