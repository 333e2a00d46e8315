"""Limits on bytes a second: a token bucket, after the fact. What has arrived is charged, and who is in debt
waits until it is paid off; meanwhile nothing is read, and the server has to wait.
"""

import asyncio

_BURST = 0.25  # seconds' worth that may come at once


class TokenBucket:
    """`rate` is bytes a second. Several downloads may share one; all wait for the common debt."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0  # when what was charged so far is paid off

    def charge(self, size: int) -> float:
        """Charge `size` bytes; the seconds to wait before more is taken."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - _BURST) + size / self._rate
        return max(0.0, self._free_at - now)
