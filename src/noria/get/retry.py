"""When to try a download again, and how long to wait first.

The waiting time doubles with each attempt up to a bound, and a random part of it is left out so that many
clients do not come back at once. A server's Retry-After (RFC 9110, section 10.2.3), as seconds or as a date,
is honoured as the least time to wait; if it asks for more than the bound, waiting is pointless and `delay`
says so.
"""

import random
import time
from dataclasses import dataclass
from datetime import UTC

# Statuses that a later attempt may see gone: the same that curl --retry means, and 425 (RFC 8470).
RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RetryPolicy:
    """retries: attempts after the first. base, longest: seconds, the first wait and the bound on every wait."""

    retries: int = 4
    base: float = 0.5
    longest: float = 60.0

    def delay(self, attempt: int, retry_after: float | None = None) -> float | None:
        """Seconds to wait after the failed attempt number `attempt` (from 1); None means to give up.

        retry_after: what the server asked for, in seconds.
        """
        if attempt > self.retries:
            return None
        if retry_after is not None and retry_after > self.longest:
            return None
        # min() before the power, which would overflow after a thousand attempts.
        backoff = min(self.longest, self.base * 2.0 ** min(attempt - 1, 60))
        return max(backoff * random.uniform(0.5, 1.0), retry_after or 0.0)


def parse_retry_after(header: str | None) -> float | None:
    """The seconds from now that a Retry-After header asks for; None if it is missing or unreadable."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])  # longer ones are beyond every bound anyway
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)  # "-0000": a time without a place
    return max(0.0, date.timestamp() - time.time())
