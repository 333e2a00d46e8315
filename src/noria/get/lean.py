"""The short way for a plain GET: a pool of connections over asyncio's protocols, and httptools' parser for heads.

`LeanSession.get` is used as `aiohttp.ClientSession.get` is, and what it does not know goes there, to a session made
when it is first needed: redirects to be followed, answers with cookies to remember, credentials in URLs, servers whose
answers the strict parser refuses. Where nothing needs it, aiohttp is not even imported. The reason is measured: of the
time that 5,000 small files take, aiohttp alone needs more than curl needs for all of it (docs/get-compared.md).

Strict about where a body ends (RFC 9112, section 6.3): a length and a transfer coding at once, two lengths, codings
other than chunked and chunked in HTTP/1.0 are refused; a head is bounded, and so is what a chunked body may carry
besides its data; a connection on which anything comes unasked is never used again. One request at a time on a
connection. If a server closes a connection that it kept alive just when it is used again, the request is made once
more on a new one.

What goes wrong is raised as `Failure`, a body cut off as `Truncated`.
"""

import asyncio
import re
import socket
import ssl as ssl_module
from collections import deque
from collections.abc import Callable, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from multidict import CIMultiDict
from yarl import URL

from noria.get.failures import Failure, Truncated, os_reason, printable
from noria.get.wire import Connection, Watch

if TYPE_CHECKING:
    import aiohttp

_MOST_HEAD = 64 * 1024  # bytes of a head, and of chunk sizes, extensions and trailers beside a body
_OVERHEAD = 16  # bytes beside each byte of a chunked body; a body sent byte by byte has five
_MOST_BUFFERED = 256 * 1024  # bytes that wait to be read before the server is made to wait
_MOST_IDLE = 15.0  # seconds; aiohttp's figure, and less than what servers keep
_NOT_PLAIN = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "expect", "te", "upgrade"}
)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AUTHORITY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]+")
_UNFIT_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
_FIT_AS_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Unsuited(Exception):
    """This request is one for aiohttp."""


class _Refused(Exception):
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
        self._origins: dict[tuple[str, str], Origin | None] = {}
        self._watch = Watch(self._loop, first_byte_timeout, stall_timeout)

    def get(self, url: URL, *, headers: Mapping[str, str] | None = None, **options: Any) -> "_Request":
        """An asynchronous context manager that gives the response to a GET of `url`, as aiohttp does.

        options: for aiohttp, should it be needed. Redirects are returned if they say allow_redirects=False. Entering
        raises Failure, or what aiohttp raises.
        """
        return _Request(self, url, headers, options)

    async def close(self) -> None:
        """Close all connections."""
        for origin in self._origins.values():
            if origin is not None:
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

    async def request(self, url: URL, headers: Mapping[str, str] | None, follow: bool) -> "LeanResponse":
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
            except _Refused:  # the server closed it meanwhile, as it may
                connection = None
        if connection is None:
            connection = await self.connect(origin)
            try:
                response = await _answer(connection, head, url)
            except _Refused as refused:
                if refused.error is not None:
                    reason = f"connection lost: {os_reason(refused.error)}"
                else:
                    reason = "empty reply: the server closed the connection without answering"
                raise Failure(reason, again=True, kind="connect") from None
        if response.status in _REDIRECTS and follow:
            response.close()
            raise Unsuited
        if response.to_be_followed_by_aiohttp():
            raise Unsuited
        return response

    def origin(self, url: URL) -> "Origin":
        """The server that `url` is for. Raises Unsuited if it is one for aiohttp."""
        key = (url.scheme, url.raw_authority)
        try:
            origin = self._origins[key]
        except KeyError:
            origin = self._origins[key] = self._new_origin(url)
        if origin is None or origin.unsuited:
            raise Unsuited
        return origin

    def _new_origin(self, url: URL) -> "Origin | None":
        host, port, authority = url.raw_host, url.port, url.raw_authority
        if host is None or port is None or not _AUTHORITY.fullmatch(authority):  # credentials among others
            return None
        if url.is_default_port():
            authority = authority.removesuffix(f":{port}")
        tail = b" HTTP/1.1\r\nHost: " + authority.encode("ascii") + b"\r\n"
        return Origin(url.scheme == "https", host, port, tail)

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
        delay = None if _is_address(origin.host) else 0.25
        try:
            opening = self._loop.create_connection(
                connection, origin.host, origin.port, happy_eyeballs_delay=delay, **arguments
            )
        except TypeError:  # uvloop does not know it
            opening = self._loop.create_connection(connection, origin.host, origin.port, **arguments)
        _, protocol = await opening
        return protocol


def _is_address(host: str) -> bool:
    """Whether `host` is an address written in numbers."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return True
    return False


async def _answer(connection: Connection, head: bytes, url: URL) -> "LeanResponse":
    response = LeanResponse(connection, url)
    begun = response.begun
    assert begun is not None
    if connection.lost:
        response.fail(_Refused())
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
        self, session: LeanSession, url: URL, headers: Mapping[str, str] | None, options: dict[str, Any]
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


class LeanResponse:
    """A response, with the part of aiohttp's interface that a download uses."""

    def __init__(self, connection: Connection, url: URL) -> None:
        self.url = url
        self.status = 0
        self.reason: str | None = None
        self.content_length: int | None = None
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.heard = 0.0  # loop time of the last byte, or of the request
        self.began = False  # a byte has come
        self.paused = False
        self._connection: Connection | None = connection
        self._origin = connection.origin
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self.begun: asyncio.Future[LeanResponse] | None = connection.loop.create_future()
        self.answer: asyncio.Future[LeanResponse] | None = None  # `begun`, for whom the response is given to
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._keep = False
        self._chunked = False
        self._interim = False
        self._in_body = False
        self._ended = False
        self._left = -1  # bytes of the body to come past the parser; -1: everything goes through it
        self._fed = 0
        self._received = 0

    # The side of the reader.

    @property
    def content(self) -> "LeanResponse":
        """What has `readany`."""
        return self

    async def readany(self) -> bytes:
        """Some bytes of the body as they came, b"" at its end. Raises Truncated and Failure."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            connection = self._connection
            assert connection is not None
            self._waiter = connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._chunks.popleft()
        self._buffered -= len(data)
        if self.paused and self._buffered < _MOST_BUFFERED // 2 and self._connection is not None:
            self.paused = False
            self.heard = self._connection.loop.time()
            self._connection.transport.resume_reading()
        return data

    def at_eof(self) -> bool:
        """Whether the body has been read to its end."""
        return self._ended and not self._chunks

    async def read(self, size: int = -1) -> bytes:
        """The rest of the body or, if a `size` is given, up to so many bytes of it, b"" at its end."""
        if size >= 0:
            data = await self.readany()
            if len(data) > size:
                self._chunks.appendleft(data[size:])
                self._buffered += len(data) - size
            return data[:size]
        parts = []
        while data := await self.readany():
            parts.append(data)
        return b"".join(parts)

    def to_be_followed_by_aiohttp(self) -> bool:
        """Whether it is a redirect that aiohttp should have, which remembers cookies; then it is closed."""
        if self.status not in _REDIRECTS or "Set-Cookie" not in self.headers:
            return False
        self._origin.unsuited = True
        self.close()
        return True

    def release(self) -> None:
        """Be done with the response: its connection serves others if the whole body has come, or is closed."""
        if not self._ended:
            self.close()

    def close(self) -> None:
        """Close the connection, unless the whole body has come and others may use it by now."""
        if self._connection is not None:
            self._error = self._error or Truncated()
            self._finish(False)

    # The side of the network.

    def feed(self, data: bytes) -> None:
        """Take `data` from the connection."""
        connection = self._connection
        if connection is None:
            return
        self.began = True
        self.heard = connection.loop.time()
        if self._left >= 0:
            self._take_plain(data)
            return
        parser = self._parser
        assert parser is not None
        self._fed += len(data)
        try:
            parser.feed_data(data)
        except HttpParserUpgrade:
            self.fail(Failure("the server's answer makes no sense: another protocol", kind="protocol"))
        except HttpParserError as error:
            self._refuse(error)
        if self._connection is None:
            return
        if self._error is not None:
            self._finish(False)
        elif self._ended:
            self._finish(self._keep)
        elif self._fed > _MOST_HEAD + (_OVERHEAD + 1) * self._received:
            self.fail(
                Failure(
                    "the server's answer makes no sense: too much beside the body",
                    again=True,
                    kind="protocol",
                )
            )
        elif self._in_body and self.content_length is not None:
            self._left = self.content_length - self._received
            self._parser = None

    def end(self, error: Exception | None) -> None:
        """The connection is lost."""
        if self.begun is not None:
            if not self.began:
                self.fail(_Refused(error))
            elif error is not None:
                self.fail(Failure(f"connection lost: {os_reason(error)}", again=True, kind="connect"))
            else:
                self.fail(
                    Failure("connection lost: the answer ended in its head", again=True, kind="connect")
                )
        elif error is None and self.content_length is None and not self._chunked:
            self._ended = True  # this is how such a body ends
            self._finish(False)
        else:
            self.fail(Truncated())

    def fail(self, error: Exception) -> None:
        """End with `error`, raised where the reader waits or comes next."""
        self._error = self._error or error
        self._finish(False)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._ended:
            self._keep = False  # more than was asked for

    def on_status(self, reason: bytes) -> None:
        if not self._ended:
            self.reason = reason.decode("utf-8", "surrogateescape")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # else it is a trailer
            self.headers.add(name.decode("ascii"), value.decode("utf-8", "surrogateescape"))

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        if self._ended:
            return
        status = parser.get_status_code()
        if status < 200:
            self._interim = True
            return
        headers = self.headers
        coding = headers.getall("Transfer-Encoding", None)
        if coding is not None:
            if coding[0].lower() != "chunked" or len(coding) > 1 or parser.get_http_version() != "1.1":
                self._error = Failure(
                    "the server's answer makes no sense: an unknown transfer coding",
                    again=True,
                    kind="protocol",
                )
                return
            self._chunked = True
        elif (length := headers.get("Content-Length")) is not None:
            self.content_length = int(length)
        self.status = status
        self._keep = parser.should_keep_alive()
        self._in_body = True
        begun, self.begun = self.begun, None
        if begun is not None and not begun.done():
            begun.set_result(self)

    def on_body(self, data: bytes) -> None:
        if not self._ended and self._error is None:
            self._take(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self.headers.clear()
        elif self._in_body:
            self._ended = True

    # Steps.

    def _take_plain(self, data: bytes) -> None:
        left = self._left - len(data)
        if left > 0:
            self._left = left
            self._take(data)
            return
        if left < 0:
            data = data[: self._left]
            self._keep = False  # more than was declared
        self._left = 0
        self._take(data)
        self._ended = True
        self._finish(self._keep)

    def _take(self, data: bytes) -> None:
        self._chunks.append(data)
        self._received += len(data)
        self._buffered += len(data)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._buffered >= _MOST_BUFFERED and not self.paused:
            assert self._connection is not None
            self.paused = True
            self._connection.transport.pause_reading()

    def _refuse(self, error: Exception) -> None:
        """The parser does not understand what came."""
        if self._ended:
            self._keep = False  # it came after the end
        elif self.begun is not None and self._error is None:
            assert self._connection is not None
            self._connection.origin.unsuited = True  # aiohttp is more lenient
            self.fail(Unsuited())
        else:
            reason = printable(str(error))
            self.fail(
                self._error
                or Failure(f"the server's answer makes no sense: {reason}", again=True, kind="protocol")
            )

    def _finish(self, reusable: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._parser = None
        if self.paused:
            self.paused = False
            if reusable:
                connection.transport.resume_reading()
        connection.finished(reusable)
        begun, self.begun = self.begun, None
        if begun is not None and not begun.done():
            assert self._error is not None
            begun.set_exception(self._error)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


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
