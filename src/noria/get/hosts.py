"""Which download is next: limits for all and for each host, adapted to what hosts bear, and turns between them.

Jobs wait in a window of bounded length, a line for each host (with port). Whoever is free takes from the next
host that has a job and room, so that a host with many URLs does not hold up the others in the window. With
`adaptive` a host's limit moves by additive increase and multiplicative decrease (Chiu and Jain, 1989): one more
after a round of successes, half as many after 429, 503 or a timeout, once for each round.
"""

import asyncio
from collections import deque
from typing import Generic, Protocol, TypeVar

_FIRST_LIMIT = 4.0
_WORTHWHILE = 3  # this part of the window is worth reading on for


class HasHost(Protocol):
    """What the window needs to know of a job."""

    @property
    def host(self) -> str: ...


J = TypeVar("J", bound=HasHost)


class _Host(Generic[J]):
    __slots__ = ("active", "changed_at", "jobs", "limit", "name", "queued")

    def __init__(self, name: str, limit: float) -> None:
        self.name = name
        self.jobs: deque[J] = deque()
        self.active = 0
        self.limit = limit
        self.queued = False
        self.changed_at = 0  # completions at the last decrease


class Window(Generic[J]):
    """length: jobs that may wait. per_host: the most at a time for one host. All on one loop."""

    def __init__(self, length: int, per_host: int, *, adaptive: bool) -> None:
        self._length = length
        self._per_host = per_host
        self._adaptive = adaptive
        self._hosts: dict[str, _Host[J]] = {}
        self._ready: deque[_Host[J]] = deque()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._room: asyncio.Future[None] | None = None
        self._waiting = 0
        self._ended = False
        self._outcomes = 0

    @property
    def room(self) -> int:
        """How many more jobs may wait."""
        return self._length - self._waiting

    @property
    def limit(self) -> int:
        """The hosts' limits together."""
        return sum(int(host.limit) for host in self._hosts.values())

    async def wait_for_room(self) -> None:
        """Until a job may be put, or several, as long as nobody waits for one. For one waiter."""
        while self.room <= 0 or (self.room < self._length // _WORTHWHILE and not self._takers):
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def put(self, job: J) -> None:
        """Let `job` wait for its turn."""
        host = self._hosts.get(job.host)
        if host is None:
            limit = min(_FIRST_LIMIT, self._per_host) if self._adaptive else self._per_host
            host = self._hosts[job.host] = _Host(job.host, limit)
        host.jobs.append(job)
        self._waiting += 1
        self._offer(host)

    def end(self) -> None:
        """No more jobs come."""
        self._ended = True
        self._wake(len(self._takers))

    async def take(self) -> J | None:
        """The next job, to be given back by `release`; None at the end."""
        while not self._ready:
            if self._ended and not self._waiting:
                return None
            taker = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            self._tell_of_room()
            try:
                await taker
            except asyncio.CancelledError:
                if taker.done() and not taker.cancelled():
                    self._wake(1)  # the turn is another's
                raise
            finally:
                if taker in self._takers:
                    self._takers.remove(taker)
        host = self._ready.popleft()
        host.queued = False
        job = host.jobs.popleft()
        host.active += 1
        self._waiting -= 1
        self._offer(host)
        self._tell_of_room()
        if self._ended and not self._waiting:
            self._wake(len(self._takers))
        return job

    def _tell_of_room(self) -> None:
        if self._room is None or self._room.done():
            return
        if self.room >= self._length // _WORTHWHILE or (self.room > 0 and self._takers):
            self._room.set_result(None)

    def release(self, job: J) -> None:
        """`job` has ended."""
        host = self._hosts[job.host]
        host.active -= 1
        self._offer(host)
        if not host.active and not host.jobs:
            del self._hosts[job.host]  # there may be millions

    def outcome(self, job: J, *, congested: bool) -> None:
        """A request of `job`, which is taken, ended: well, or because its host has too much to do."""
        if not self._adaptive:
            return
        host = self._hosts[job.host]
        self._outcomes += 1
        if not congested:
            host.limit = min(self._per_host, host.limit + 1 / host.limit)
            self._offer(host)
        elif self._outcomes >= host.changed_at:
            # The requests under way were made under the old limit; their failures are the same news.
            host.limit = max(1.0, host.limit / 2)
            host.changed_at = self._outcomes + host.active

    def _offer(self, host: _Host[J]) -> None:
        if host.jobs and not host.queued and host.active < int(host.limit):
            host.queued = True
            self._ready.append(host)
            self._wake(1)

    def _wake(self, count: int) -> None:
        while count and self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                count -= 1
