"""Requests by aiohttp, or in short by `lean`, with redirects followed by hand: so that they can be counted, refused,
and kept from carrying secrets to somebody else.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from noria.get import decoding, redirects
from noria.get.credentials import Credentials
from noria.get.failures import Failure
from noria.get.journal import SECRET_HEADERS
from noria.get.lean import LeanSession, Unsuited
from noria.get.options import Settings
from noria.get.results import Transfer

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

    from noria.get.response import LeanResponse

Response: TypeAlias = Union["aiohttp.ClientResponse", "LeanResponse"]

SHORT_BODY = 64 * 1024  # of an error page that is read to keep its connection


def make_session(settings: Settings) -> LeanSession:
    """A session for a run, which asks aiohttp for what is not plain."""
    return LeanSession(
        lambda: _aiohttp_session(settings),
        connect_timeout=settings.connect_timeout,
        stall_timeout=settings.stall_timeout,
        ssl=settings.ssl,
        family=settings.family,
    )


def _aiohttp_session(settings: Settings) -> "aiohttp.ClientSession":
    """It follows no environment variables and decodes nothing by itself."""
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,  # the run itself bounds what it starts
            ssl=True if settings.ssl is None else settings.ssl,
            family=socket.AddressFamily(settings.family),
        ),
        timeout=aiohttp.ClientTimeout(
            total=None, connect=settings.connect_timeout, sock_read=settings.stall_timeout
        ),
        auto_decompress=False,  # the file is what the server declares the length of
        read_bufsize=64 * 1024,  # more costs memory in every download at once
    )


class Client:
    """Makes the requests of a run."""

    def __init__(
        self, session: "aiohttp.ClientSession | LeanSession", settings: Settings, credentials: Credentials
    ) -> None:
        self._session = session
        self._settings = settings
        self._credentials = credentials
        accepted = decoding.accepted() if settings.decode else "identity"
        self._headers = _merged(
            {"User-Agent": settings.user_agent, "Accept-Encoding": accepted}, settings.headers
        )

    @contextlib.asynccontextmanager
    async def get(
        self,
        url: "URL",
        transfer: Transfer,
        own: Mapping[str, str] | None,
        extra: Mapping[str, str],
        given: "LeanResponse | Exception | None" = None,
    ) -> AsyncGenerator[Response, None]:
        """The answer to a GET of `url`, after redirects. own: headers that belong to the target, extra: those of
        this request, such as Range. given: what the first request has brought, if it was made already. Raises Failure
        and what aiohttp raises.
        """
        headers = _merged(self._headers, own)
        trusted = True
        authorization = self._credentials.authorization(url)
        url = url.with_user(None)
        if authorization is not None and not _has(headers, "authorization"):
            headers["Authorization"] = authorization
        for _ in range(self._settings.max_redirects + 1):
            sent = {**headers, **extra}
            # The file knows which host a cookie is for.
            if (cookies := self._credentials.cookies(url)) and not _has(sent, "cookie"):
                sent["Cookie"] = cookies
            taken = None if given is None else await self._taken(given, transfer)
            given = None
            response: Response = taken if taken is not None else await self._ask(url, sent, transfer)
            try:
                if response.status not in redirects.STATUSES:
                    yield response
                    return
                there = redirects.target(
                    url, response.headers.get("Location"), allow_downgrade=self._settings.allow_downgrade
                )
                await read_short_body(response)
            finally:
                response.release()
            if trusted and not redirects.same_party(url, there):
                trusted = False  # and does not become so again on the way back
                headers = redirects.without_secrets(headers, SECRET_HEADERS)
            url = there
        raise Failure(f"more than {self._settings.max_redirects} redirects", kind="redirect")

    @property
    def plain_headers(self) -> Mapping[str, str] | None:
        """The headers of all requests that have none of their own; None if they depend on where these go."""
        return self._headers if self._credentials.are_none else None

    async def _taken(self, given: "LeanResponse | Exception", transfer: Transfer) -> "LeanResponse | None":
        """The response `given`; None if it is one for aiohttp. Raises Failure."""
        if isinstance(given, Exception):
            raise given
        answer, given.answer = given.answer, None
        assert answer is not None
        begin = time.monotonic()
        try:
            response = await answer
        except asyncio.CancelledError:
            given.close()
            raise
        except Unsuited:
            return None
        if response.to_be_followed_by_aiohttp():
            return None
        waited = time.monotonic() - begin
        transfer.first_byte = waited if response.first_byte is None else response.first_byte
        transfer.status = response.status
        return response

    async def _ask(self, url: "URL", headers: dict[str, str], transfer: Transfer) -> Response:
        options: dict[str, Any] = {}
        if (proxy := self._credentials.proxy(url)) is not None:
            options["proxy"] = proxy
        begin = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.first_byte_timeout) as limit:
                response = await self._session.get(url, headers=headers, allow_redirects=False, **options)
        except TimeoutError:
            if not limit.expired():
                raise
            raise Failure(
                f"no answer within {self._settings.first_byte_timeout:g} s",
                again=True,
                kind="timeout",
                congested=True,
            ) from None
        transfer.first_byte = time.monotonic() - begin
        transfer.status = response.status
        return response


def _has(headers: Mapping[str, str], name: str) -> bool:
    return any(name == other.lower() for other in headers)


def _merged(headers: Mapping[str, str], others: Mapping[str, str] | None) -> dict[str, str]:
    """`headers` and `others`, which go before those of the same name in whatever case of letters."""
    if not others:
        return dict(headers)
    names = {name.lower() for name in others}
    return {**{name: value for name, value in headers.items() if name.lower() not in names}, **others}


async def read_short_body(response: Response) -> None:
    """Read an error page if it is short, because only then can the connection serve the next request."""
    if (response.content_length or SHORT_BODY) < SHORT_BODY:
        with contextlib.suppress(Exception):  # the page is not what was wanted anyway
            await response.read()
