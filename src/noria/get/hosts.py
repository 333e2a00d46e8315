"""Which download is next: limits for all and for each host, adapted to what hosts bear, and turns between them.

Jobs wait in a `Window` of bounded length, a line for each host (with port). Whoever is free takes from the next
host that has a job and room, so that a host with many URLs does not hold up the others in the window. How much room
a host has is the matter of `Hosts`, which several windows share: room that comes up goes to one of those that wait
for it, in turn, and with it the job, so that none is lost between the two.

With `adaptive` a host's limit moves by additive increase and multiplicative decrease (Chiu and Jain, 1989): one more
after a round of successes, half as many after 429, 503 or a timeout, once for each round.
"""

import asyncio
from collections import deque
from typing import Any, Generic, Protocol, TypeVar

_FIRST_LIMIT = 4.0
_MOST_REMEMBERED = 1000  # hosts without a job whose limit is kept
_WORTHWHILE = 3  # this part of the window is worth reading on for


class HasHost(Protocol):
    """What the window needs to know of a job."""

    @property
    def host(self) -> str: ...


J = TypeVar("J", bound=HasHost)


class _Host:
    """active: jobs that are taken. lines: those that have jobs. blocked: of them, those that wait for room."""

    __slots__ = ("active", "blocked", "changed_at", "limit", "lines")

    def __init__(self, limit: float) -> None:
        self.active = 0
        self.lines = 0
        self.blocked: deque[_Line] = deque()
        self.limit = limit
        self.changed_at = 0  # completions at the last decrease

    def has_room(self) -> bool:
        return self.active < int(self.limit)

    def offer(self) -> None:
        """Give the room there is to those who wait for it."""
        while self.blocked and self.active < int(self.limit):
            line = self.blocked.popleft()
            if line.jobs:
                line.window.give(line)


class _Line:
    """The jobs of one window for one host. They are in the window's `_ready`, or `blocked` at the host."""

    __slots__ = ("host", "jobs", "name", "window")

    def __init__(self, name: str, host: _Host, window: "Window[Any]") -> None:
        self.name = name
        self.host = host
        self.jobs: deque[Any] = deque()
        self.window = window


class Hosts:
    """What is known of each host. per_host: the most jobs at a time for one. All on one loop."""

    def __init__(self, per_host: int, *, adaptive: bool) -> None:
        self._per_host = per_host
        self._adaptive = adaptive
        self._hosts: dict[str, _Host] = {}
        self._remembered: dict[str, float] = {}  # limits, the host that was used last comes last
        self._outcomes = 0

    @property
    def limit(self) -> int:
        """The hosts' limits together."""
        return sum(int(host.limit) for host in self._hosts.values())

    def outcome(self, job: HasHost, *, congested: bool) -> None:
        """A request of `job`, which is taken, ended: well, or because its host has too much to do."""
        if not self._adaptive:
            return
        host = self._hosts[job.host]
        self._outcomes += 1
        if not congested:
            host.limit = min(self._per_host, host.limit + 1 / host.limit)
            host.offer()
        elif self._outcomes >= host.changed_at:
            # The requests under way were made under the old limit; their failures are the same news.
            host.limit = max(1.0, host.limit / 2)
            host.changed_at = self._outcomes + host.active

    def join(self, name: str) -> _Host:
        """The host `name`, of which somebody has a line now."""
        host = self._hosts.get(name)
        if host is None:
            limit = min(_FIRST_LIMIT, self._per_host) if self._adaptive else self._per_host
            host = self._hosts[name] = _Host(self._remembered.pop(name, limit))
        host.lines += 1
        return host

    def leave(self, name: str) -> None:
        """A line of the host `name` has ended."""
        host = self._hosts[name]
        host.lines -= 1
        self._forget(name, host)

    def release(self, name: str) -> None:
        """A job of the host `name` has ended."""
        host = self._hosts[name]
        host.active -= 1
        host.offer()
        self._forget(name, host)

    def _forget(self, name: str, host: _Host) -> None:
        if host.active or host.lines:
            return
        del self._hosts[name]  # there may be millions
        if self._adaptive:
            self._remembered[name] = host.limit
            if len(self._remembered) > _MOST_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]


class Window(Generic[J]):
    """length: jobs that may wait. All on one loop."""

    def __init__(self, length: int, hosts: Hosts) -> None:
        self._length = length
        self._hosts = hosts
        self._lines: dict[str, _Line] = {}
        self._ready: deque[_Line] = deque()  # there was room when they came here
        self._takers: deque[asyncio.Future[J | None]] = deque()
        self._room: asyncio.Future[None] | None = None
        self._waiting = 0
        self._ended = False

    @property
    def room(self) -> int:
        """How many more jobs may wait."""
        return self._length - self._waiting

    async def wait_for_room(self) -> None:
        """Until a job may be put, or several, as long as nobody waits for one. For one waiter."""
        while self.room <= 0 or (self.room < self._length // _WORTHWHILE and not self._takers):
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def put(self, job: J) -> None:
        """Let `job` wait for its turn."""
        self._waiting += 1
        line = self._lines.get(job.host)
        if line is not None:
            line.jobs.append(job)
        else:
            self._begin(job)

    def end(self) -> None:
        """No more jobs come."""
        self._ended = True
        self._tell_the_end()

    def close(self) -> None:
        """Give up what waits."""
        for name, line in self._lines.items():
            line.jobs.clear()
            self._hosts.leave(name)
        self._lines.clear()
        self._ready.clear()
        self._waiting = 0

    async def take(self) -> J | None:
        """The next job, to be given back by `release`; None at the end."""
        while self._ready:
            line = self._ready.popleft()
            if line.host.has_room():
                return self._take_from(line)
            line.host.blocked.append(line)
        if self._ended and not self._waiting:
            return None
        taker: asyncio.Future[J | None] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        self._tell_of_room()
        try:
            return await taker
        except asyncio.CancelledError:
            if taker.done() and not taker.cancelled() and (job := taker.result()) is not None:
                self._put_back(job)
            raise

    def _tell_of_room(self) -> None:
        if self._room is None or self._room.done():
            return
        if self.room >= self._length // _WORTHWHILE or (self.room > 0 and self._takers):
            self._room.set_result(None)

    def release(self, job: J) -> None:
        """`job` has ended."""
        self._hosts.release(job.host)

    def give(self, line: _Line) -> None:
        """For the host of `line`, which is in no queue: there is room for one of its jobs."""
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(self._take_from(line))
                return
        self._ready.append(line)  # nobody here is free; whoever is next looks again

    def _place(self, line: _Line) -> None:
        if line.host.has_room():
            self.give(line)
        else:
            line.host.blocked.append(line)

    def _take_from(self, line: _Line) -> J:
        """The first job of `line`, whose host has room; the line is in no queue."""
        job: J = line.jobs.popleft()
        line.host.active += 1
        self._waiting -= 1
        if line.jobs:
            self._place(line)
        else:
            del self._lines[line.name]
            self._hosts.leave(line.name)
        self._tell_of_room()
        self._tell_the_end()
        return job

    def _put_back(self, job: J) -> None:
        """`job` was given to somebody who does not want it any more: it is the first again."""
        self._waiting += 1
        line = self._lines.get(job.host)
        if line is not None:
            line.jobs.appendleft(job)
        else:
            self._begin(job)
        self._hosts.release(job.host)

    def _begin(self, job: J) -> None:
        line = self._lines[job.host] = _Line(job.host, self._hosts.join(job.host), self)
        line.jobs.append(job)
        self._place(line)

    def _tell_the_end(self) -> None:
        if self._ended and not self._waiting:
            while self._takers:
                taker = self._takers.popleft()
                if not taker.done():
                    taker.set_result(None)
