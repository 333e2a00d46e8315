"""Where a redirect leads, and what may come along."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from noria.get.failures import Failure, parse_url, printable

if TYPE_CHECKING:
    from yarl import URL

STATUSES = frozenset({301, 302, 303, 307, 308})


def target(url: "URL", location: str | None, *, allow_downgrade: bool) -> "URL":
    """The URL that an answer from `url` redirects to by `location`. Raises Failure if nobody should go there."""
    from yarl import URL

    if not location:
        raise Failure("redirected without saying where to", kind="redirect")
    try:
        there = url.join(URL(location, encoded=False))
        # Whoever wrote the redirect is not to say who logs in.
        there = parse_url(str(there)).with_user(None)
    except Failure as failure:
        raise Failure(
            f"redirected to something that is no http URL: {failure.message}", kind="redirect"
        ) from None
    except (ValueError, TypeError) as error:
        raise Failure(
            f"redirected to something that is no http URL: {printable(str(error))}", kind="redirect"
        ) from None
    if url.scheme == "https" and there.scheme == "http" and not allow_downgrade:
        raise Failure(f"redirected from https to http ({there.host}), which is not allowed", kind="redirect")
    return there


def same_party(url: "URL", there: "URL") -> bool:
    """Whether secrets meant for `url` may go to `there`: the same host and port and protocol, or the same host's
    https instead of its http.
    """
    if url.host != there.host:
        return False
    if url.scheme == there.scheme:
        return url.port == there.port
    return (url.scheme, url.port, there.scheme, there.port) == ("http", 80, "https", 443)


def without_secrets(headers: Mapping[str, str], secret: frozenset[str]) -> dict[str, str]:
    """`headers` without those named in `secret` (lower case)."""
    return {name: value for name, value in headers.items() if name.lower() not in secret}
