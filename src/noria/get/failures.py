"""Why a download failed: in words a user of curl would expect, and whether another attempt makes sense.

One line each, without the URL, which the report puts before it. Text that comes from the network is made
printable here.
"""

import errno
import os
import re
import ssl
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yarl import URL

# The sorts of failure, for grouping: `Failure.kind` and `Result.kind`.
KINDS = (
    "resolve",
    "connect",
    "tls",
    "timeout",
    "http",
    "length",
    "checksum",
    "disk",
    "name",
    "redirect",
    "refused",
    "protocol",
    "other",
)

_LONGEST_URL = 65_536


class Failure(Exception):
    """A download that did not work.

    again: whether another attempt may succeed. retry_after: seconds the server asked to wait, if it did.
    file_exists: that a file of this name is there was the reason. kind: one of KINDS. congested: the host
    has too much to do.
    """

    def __init__(
        self,
        message: str,
        *,
        again: bool = False,
        retry_after: float | None = None,
        file_exists: bool = False,
        kind: str = "other",
        congested: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.again = again
        self.retry_after = retry_after
        self.file_exists = file_exists
        self.kind = kind
        self.congested = congested


class Truncated(Exception):
    """The connection ended before the body did; aiohttp's word for it is ClientPayloadError."""


def is_truncated(error: Exception) -> bool:
    """Whether `error` says that a body was cut off."""
    if isinstance(error, Truncated):
        return True
    aiohttp = sys.modules.get("aiohttp")  # what is not imported has raised nothing
    return aiohttp is not None and isinstance(error, aiohttp.ClientPayloadError)


def os_reason(error: Exception) -> str:
    """What a failed system call said."""
    number, words = getattr(error, "errno", None), getattr(error, "strerror", None) or ""
    if number and words.startswith("Connect call failed"):
        return os.strerror(number)  # asyncio's wording names the address again and not the reason
    # Several addresses tried one after the other: asyncio joins their errors in the message and has no errno.
    return printable(words or str(error)) or type(error).__name__


def parse_url(text: str) -> "URL":
    """The URL written in `text`; raises Failure if it is none, or not one of http or https."""
    from yarl import URL  # not needed for most URLs, and long to import

    if len(text) > _LONGEST_URL:
        raise Failure(f"a URL of {len(text)} characters is too long", kind="protocol")
    try:
        url = URL(text)
        host, port = url.host, url.port  # yarl looks at some parts only when asked for them
    except (ValueError, TypeError) as error:
        raise Failure(f"not a URL: {printable(str(error))}", kind="protocol") from None
    if url.scheme not in ("http", "https"):
        if not url.scheme:
            raise Failure("not a URL: it does not begin with http:// or https://", kind="protocol")
        raise Failure(
            f"unsupported protocol {printable(url.scheme)!r}: only http and https are known", kind="protocol"
        )
    if not host or port == 0:
        raise Failure("not a URL: it names no host" if not host else "not a URL: port 0", kind="protocol")
    return url


def network_failure(error: Exception, connect_timeout: float | None, stall_timeout: float | None) -> Failure:
    """What went wrong when aiohttp raised `error`; the timeouts, in seconds, are those that were set."""
    if is_truncated(error):
        return Failure("transfer closed too early", again=True, kind="length")
    import aiohttp  # not needed where nothing fails, and long to import

    match error:
        case aiohttp.ConnectionTimeoutError():
            return Failure(
                f"could not connect within {connect_timeout or 0:g} s",
                again=True,
                kind="timeout",
                congested=True,
            )
        case aiohttp.ServerTimeoutError():
            return Failure(
                f"stalled: no data for {stall_timeout or 0:g} s", again=True, kind="timeout", congested=True
            )
        case aiohttp.ClientConnectorCertificateError():
            return Failure(f"certificate problem: {_ssl_reason(error.certificate_error)}", kind="tls")
        case aiohttp.ClientConnectorDNSError():
            reason = printable(error.os_error.strerror or str(error.os_error))
            return Failure(f"could not resolve host {error.host}: {reason}", again=True, kind="resolve")
        case aiohttp.ClientSSLError():
            return Failure(f"TLS handshake failed: {_ssl_reason(error)}", kind="tls")
        case aiohttp.ClientConnectorError():
            return Failure(
                f"could not connect to {error.host} port {error.port}: {os_reason(error.os_error)}",
                again=True,
                kind="connect",
            )
        case aiohttp.ServerDisconnectedError():
            return Failure(
                "empty reply: the server closed the connection without answering", again=True, kind="connect"
            )
        case aiohttp.ClientOSError() | ConnectionError():
            return Failure(f"connection lost: {os_reason(error)}", again=True, kind="connect")
        case aiohttp.ClientHttpProxyError():
            words = f"the proxy answered {error.status} {printable(error.message)}".rstrip()
            return Failure(words, again=error.status in (502, 503, 504), kind="connect")
        case aiohttp.ClientResponseError():
            return Failure(
                f"the server's answer makes no sense: {_first_line(error.message)}",
                again=True,
                kind="protocol",
            )
        case _:
            return Failure(f"{type(error).__name__}: {printable(str(error))}")


def disk_failure(error: OSError, path: str) -> Failure:
    """What went wrong when `path` was written."""
    if isinstance(error, FileExistsError):
        return Failure(f"{path} exists already", file_exists=True, kind="name")
    kind = "name" if error.errno == errno.ENAMETOOLONG else "disk"
    return Failure(f"cannot write {path}: {error.strerror or error}", kind=kind)


def status_failure(status: int, reason: str | None, retry_after: float | None, *, again: bool) -> Failure:
    """An answer with a status that brings no file."""
    words = f"the server answered {status} {printable(reason or '')}".rstrip()
    return Failure(words, again=again, retry_after=retry_after, kind="http", congested=status in (429, 503))


def printable(text: str, limit: int = 300) -> str:
    """`text` on one line, with what a terminal might obey written as an escape sequence, cut after `limit`
    characters.
    """
    safe = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )
    return safe if len(safe) <= limit else safe[:limit] + "..."


def without_password(text: str) -> str:
    """`text`, a URL or what was taken for one, with asterisks for its password."""
    return re.sub(r"(//[^/?#@]*?:)[^/?#]*@", r"\1***@", text)


def shown_url(text: str) -> str:
    """`text`, a URL or what was taken for one, fit to be shown: without its password."""
    return printable(without_password(text), 2000)


def _first_line(message: str) -> str:
    """What aiohttp's parser says, without the piece of the answer that it draws an arrow below."""
    words = message.split("\n\n")[0]
    return printable(" ".join(words.split()).rstrip(":"))


def _ssl_reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_message:
        return printable(error.verify_message)
    reason = getattr(error, "reason", None) or getattr(getattr(error, "os_error", None), "reason", None)
    return printable(str(reason or error))
