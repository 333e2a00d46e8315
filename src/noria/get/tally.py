"""What a run comes to: per host, per kind of failure, over time; in memory that does not grow with the run.

Hosts and groups of failures beyond a limit are counted together, slowest files are the top of a heap, the
course over time has a fixed number of buckets that double their width when the run outlasts them, and the
quantiles of a bucket come from a sample of fixed size that stands for all of its files (reservoir sampling,
Vitter 1985, algorithm R).
"""

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from noria.get.failures import without_password
from noria.get.results import Activity, Result

_MOST_HOSTS = 1000
_MOST_GROUPS = 50
_EXAMPLES = 3
_SLOWEST = 15
_BUCKETS = 240
_FIRST_WIDTH = 0.25  # seconds
_SAMPLE = 48  # of the latencies in a bucket

OTHER = "(others)"  # stands for the hosts beyond the limit


@dataclass(slots=True, eq=False, repr=False)
class Host:
    """One server. seconds: spent on its files, added up. first_byte: sum of the times to the first byte."""

    name: str
    done: int = 0
    failed: int = 0
    size: int = 0
    seconds: float = 0.0
    first_byte: float = 0.0
    answers: int = 0  # with a time to the first byte

    @property
    def speed(self) -> float:
        """Bytes a second of one download, on average."""
        return self.size / self.seconds if self.seconds else 0.0

    @property
    def latency(self) -> float | None:
        """Seconds to the first byte, on average."""
        return self.first_byte / self.answers if self.answers else None


@dataclass(slots=True, eq=False, repr=False)
class Failures:
    """Failures of one sort, with the first few as examples. label: for people, such as "http 404"."""

    label: str
    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)  # URL, error


@dataclass(slots=True, eq=False, repr=False)
class Bucket:
    """A stretch of the run. received: bytes. active: the most downloads at a time. limit: that there could be."""

    received: int = 0
    done: int = 0
    failed: int = 0
    active: int = 0
    limit: int = 0
    latencies: list[float] = field(default_factory=list)  # a sample
    measured: int = 0  # what the sample stands for

    def add_latency(self, seconds: float) -> None:
        self.measured += 1
        if len(self.latencies) < _SAMPLE:
            self.latencies.append(seconds)
        elif (place := random.randrange(self.measured)) < _SAMPLE:
            self.latencies[place] = seconds

    def quantile(self, share: float) -> float | None:
        """The latency that `share` of the files stay below."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def merge(self, other: "Bucket") -> None:
        """Take in the stretch that follows this one."""
        self.received += other.received
        self.done += other.done
        self.failed += other.failed
        self.active = max(self.active, other.active)
        self.limit = max(self.limit, other.limit)
        measured = self.measured + other.measured
        if len(self.latencies) + len(other.latencies) <= _SAMPLE:
            self.latencies += other.latencies
        else:  # each part in proportion to the files that it stands for
            here = round(_SAMPLE * self.measured / measured)
            here = max(_SAMPLE - len(other.latencies), min(here, len(self.latencies)))
            self.latencies = random.sample(self.latencies, here) + random.sample(
                other.latencies, _SAMPLE - here
            )
        self.measured = measured


class Tally:
    """Counts one run that works on `activity`. `add` each result; `sample` a few times a second."""

    def __init__(self, activity: Activity, clock: Callable[[], float] = time.monotonic) -> None:
        self.activity = activity
        self.began = time.time()  # for people; durations are the clock's
        self._clock = clock
        self._start = clock()
        self._received = 0
        self.width = _FIRST_WIDTH
        self.buckets: list[Bucket] = []
        self.hosts: dict[str, Host] = {}
        self.groups: dict[str, Failures] = {}
        self.bad_rows = 0
        self.retries = 0
        self.resumed = 0  # bytes
        self._slowest: list[tuple[float, int, Result]] = []
        self._count = 0

    @property
    def seconds(self) -> float:
        """How long the run has taken so far."""
        return self._clock() - self._start

    def sample(self) -> None:
        """Note what goes on now."""
        bucket = self._bucket()
        activity = self.activity
        bucket.received += activity.received - self._received
        self._received = activity.received
        bucket.active = max(bucket.active, len(activity.transfers))
        bucket.limit = max(bucket.limit, activity.limit)

    def add(self, result: Result) -> None:
        """Count how a download ended."""
        host = self.hosts.get(result.host)
        if host is None:
            name = result.host if len(self.hosts) < _MOST_HOSTS else OTHER
            host = self.hosts.setdefault(name, Host(name))
        bucket = self._bucket()
        bucket.active = max(bucket.active, len(self.activity.transfers) + 1)  # it is none of them any more
        if not result.ok:
            host.failed += 1
            bucket.failed += 1
            self.add_failure(_label(result), result.url, result.error or "")
        elif result.skipped:
            return
        else:
            host.done += 1
            bucket.done += 1
        self.resumed += result.resumed
        host.size += result.size
        host.seconds += result.seconds
        if result.first_byte is not None:
            host.first_byte += result.first_byte
            host.answers += 1
            bucket.add_latency(result.first_byte)
        self._count += 1
        entry = (result.seconds, self._count, result)
        if len(self._slowest) < _SLOWEST:
            heapq.heappush(self._slowest, entry)
        elif result.seconds > self._slowest[0][0]:
            heapq.heapreplace(self._slowest, entry)

    def add_failure(self, label: str, where: str, error: str) -> None:
        """Count something that went wrong at `where`, a URL or a place in a list."""
        group = self.groups.get(label)
        if group is None:
            label = label if len(self.groups) < _MOST_GROUPS else "other"
            group = self.groups.setdefault(label, Failures(label))
        group.count += 1
        if len(group.examples) < _EXAMPLES:
            group.examples.append((where, error))

    def slowest_files(self) -> list[Result]:
        """The files that took longest, the slowest first."""
        return [result for _, _, result in sorted(self._slowest, reverse=True)]

    def slowest_hosts(self, most: int) -> list[Host]:
        """The hosts with the slowest answers, the slowest first; those that gave none are not among them."""
        answered = (host for host in self.hosts.values() if host.answers)
        return heapq.nlargest(most, answered, key=lambda host: host.latency or 0.0)

    def busiest_hosts(self, most: int) -> list[Host]:
        """The hosts with the most files, the first first."""
        return heapq.nlargest(
            most, self.hosts.values(), key=lambda host: (host.done + host.failed, host.size)
        )

    def failures(self) -> list[Failures]:
        """The groups of failures, the largest first."""
        return sorted(self.groups.values(), key=lambda group: -group.count)

    def as_event(self, *, interrupted: bool) -> dict[str, Any]:
        """The event "summary"; see docs/get.md."""
        activity = self.activity
        return {
            "event": "summary",
            "time": time.time(),
            "interrupted": interrupted,
            "done": activity.done,
            "failed": activity.failed,
            "skipped": activity.skipped,
            "bad_rows": self.bad_rows,
            "retries": self.retries,
            "bytes": activity.size,
            "received": activity.received,
            "resumed": self.resumed,
            "seconds": round(self.seconds, 3),
            "failures": [
                {
                    "kind": group.label,
                    "count": group.count,
                    "examples": [[without_password(where), error] for where, error in group.examples],
                }
                for group in self.failures()
            ],
            "slowest_hosts": [
                {"host": host.name, "first_byte": host.latency, "files": host.done, "failed": host.failed}
                for host in self.slowest_hosts(5)
            ],
        }

    def _bucket(self) -> Bucket:
        """The bucket of now."""
        while (place := int(self.seconds / self.width)) >= _BUCKETS:
            for first in range(0, len(self.buckets) - 1, 2):
                self.buckets[first].merge(self.buckets[first + 1])
            del self.buckets[1::2]
            self.width *= 2
        while len(self.buckets) <= place:
            self.buckets.append(Bucket())
        return self.buckets[place]


def _label(result: Result) -> str:
    kind = result.kind or "other"
    return f"http {result.status}" if kind == "http" and result.status else kind
