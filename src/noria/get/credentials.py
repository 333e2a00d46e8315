"""Who the requests say they are: user and password, bearer token, netrc, a cookies file. And through which proxy
they go. What is found here is sent and nothing else: it is in no message and no record.
"""

import base64
import os
from typing import TYPE_CHECKING

from noria.get.failures import Failure, shown_url
from noria.get.options import Settings

# The modules that few runs need are imported where they are: some take as long as an HTTP client.
if TYPE_CHECKING:
    import netrc as netrc_module
    from http.cookiejar import MozillaCookieJar

    from yarl import URL


class Credentials:
    """Blocks while it is made: it reads files. Raises OSError or ValueError for those that cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._fixed: str | None = None
        if settings.auth is not None:
            self._fixed = _basic(*settings.auth)
        elif settings.bearer is not None:
            self._fixed = f"Bearer {settings.bearer}"
        if self._fixed is not None and not self._fixed.isprintable():
            raise ValueError("a token or password must not hold control characters")
        self._netrc = _read_netrc() if settings.netrc else None
        self._cookies: MozillaCookieJar | None = None
        if settings.cookies is not None:
            import http.cookiejar as jars

            self._cookies = jars.MozillaCookieJar()
            try:
                self._cookies.load(os.fspath(settings.cookies), ignore_discard=True, ignore_expires=True)
            except jars.LoadError as error:
                raise ValueError(f"not a cookies file: {error}") from None
            loaded = list(self._cookies)
            self._cookies.clear()
            for cookie in loaded:
                if cookie.expires == 0:  # a session's, as curl and browsers' exporters write it
                    cookie.expires, cookie.discard = None, True
                if "." not in cookie.domain:
                    cookie.domain += ".local"  # as http.cookiejar calls a host without a dot
                if _is_part_of_an_address(cookie.domain):
                    continue  # which http.cookiejar takes for a domain with hosts in it (RFC 6265, section 5.1.3)
                self._cookies.set_cookie(cookie)
            self._cookies.clear_expired_cookies()
        self._proxy = parse_proxy(settings.proxy) if settings.proxy else None
        self._proxies = _proxies_of_environment() if settings.proxy is None else {}

    @property
    def are_none(self) -> bool:
        """Whether no request has any, save by its URL, and none goes through a proxy."""
        return not (self._fixed or self._netrc or self._cookies is not None or self._proxy or self._proxies)

    def authorization(self, url: "URL") -> str | None:
        """The Authorization header for the first request, to `url`: the URL's own user goes first."""
        if url.user is not None:
            return _basic(url.user, url.password or "")
        if self._fixed is not None:
            return self._fixed
        if self._netrc is not None and (entry := self._netrc.authenticators(url.host or "")) is not None:
            return _basic(entry[0], entry[2] or "")
        return None

    def cookies(self, url: "URL") -> str | None:
        """The Cookie header for `url`, by the rules of the file."""
        if self._cookies is None:
            return None
        import urllib.request

        request = urllib.request.Request(str(url))
        self._cookies.add_cookie_header(request)
        return request.get_header("Cookie")

    def proxy(self, url: "URL") -> "URL | None":
        """The proxy for requests to `url`; None for none. Raises Failure if the environment's cannot be used."""
        if self._proxy is not None or not self._proxies:
            return self._proxy
        address = self._proxies.get(url.scheme) or self._proxies.get("all")
        if not address:
            return None
        import urllib.request

        where = f"{url.host}:{url.port}"
        if urllib.request.proxy_bypass_environment(where, self._proxies):  # type: ignore[attr-defined]
            return None
        try:
            return parse_proxy(address)
        except ValueError as error:
            raise Failure(f"{error} (from the environment)", kind="connect") from None


def parse_proxy(text: str) -> "URL":
    """The URL of a proxy; without a protocol it is http. Raises ValueError, in words without the password."""
    from yarl import URL

    try:
        url = URL(text if "://" in text else f"http://{text}")
        host, _ = url.host, url.port  # yarl looks at some parts only when asked for them
    except ValueError:
        host = None
    if not host:
        raise ValueError(f"not the URL of a proxy: {shown_url(text)}")
    if url.scheme not in ("http", "https"):
        raise ValueError(f"unsupported kind of proxy: {shown_url(text)}; only http and https are known")
    return url


def _is_part_of_an_address(domain: str) -> bool:
    """Whether `domain` is like .0.0.1, and so no domain; an address alone is a host."""
    labels = domain.split(".")
    return labels[-1].isdecimal() and not (labels[0] and len(labels) == 4)


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _proxies_of_environment() -> dict[str, str]:
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return {}
    import urllib.request

    return urllib.request.getproxies_environment()


def _read_netrc() -> "netrc_module.netrc | None":
    import netrc as netrc_module

    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        return netrc_module.netrc(path)
    except FileNotFoundError:
        return None
    except netrc_module.NetrcParseError as error:
        raise ValueError(f"cannot read {path}: line {error.lineno} makes no sense") from None
