"""The answer to a request of the lean path, read by httptools' parser.

Strict about where a body ends (RFC 9112, section 6.3): a length and a transfer coding at once, two lengths, codings
other than chunked and chunked in HTTP/1.0 are refused; a head is bounded, and so is what a chunked body may carry
besides its data.
"""

import asyncio
import socket
from collections import deque

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from multidict import CIMultiDict
from yarl import URL

from noria.get.failures import Failure, Truncated, os_reason, printable
from noria.get.lean import Refused, Unsuited
from noria.get.redirects import STATUSES
from noria.get.wire import Connection

_MOST_HEAD = 64 * 1024  # bytes of a head, and of chunk sizes, extensions and trailers beside a body
_OVERHEAD = 16  # bytes beside each byte of a chunked body; a body sent byte by byte has five
_MOST_BUFFERED = 256 * 1024  # bytes that wait to be read before the server is made to wait


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
        self.first_byte: float | None = None  # seconds that it took, if whoever made the request knows
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
        if self.status not in STATUSES or "Set-Cookie" not in self.headers:
            return False
        self._origin.unsuited = True
        self.close()
        return True

    def take_over(self) -> socket.socket | None:
        """Let the caller read the rest of the body from the connection itself, or None if that cannot be.

        It can where a length ends the body, without TLS, and where the transport stops reading at once. What is read
        already comes from `buffered`, and then `give_back` must be called, or `close`.
        """
        connection = self._connection
        if connection is None or self._left < 1 or connection.origin.tls:
            return None
        sock: socket.socket | None = connection.transport.get_extra_info("socket")
        if sock is None:
            return None
        was_paused, self.paused = self.paused, True
        surrender = getattr(connection.transport, "_surrender", None)
        if surrender is None:
            if not was_paused:
                connection.transport.pause_reading()
        else:  # noria's own, which may have received what it has not told
            early = surrender()
            if early:
                self._take_plain(early)
            if early is None or self._ended:
                if not was_paused and self._connection is not None:
                    self.paused = False
                    connection.transport.resume_reading()
                return None
        connection.watch.discard(self)
        return sock

    def buffered(self) -> list[bytes]:
        """What has come and was not read yet."""
        chunks = list(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        return chunks

    def give_back(self, received: int) -> None:
        """After `take_over`: so many bytes were read from the connection. If they were the last ones, it may serve
        the next request.
        """
        self._left -= received
        self._received += received
        if self._left == 0:
            self._ended = True
            self._error = None  # what has become of the connection since does not matter
            self._finish(self._keep)

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
                self.fail(Refused(error))
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
