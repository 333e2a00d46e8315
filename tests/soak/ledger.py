"""What a soak keeps account of: operations, bytes given and bytes that came back, and whatever went wrong."""

from __future__ import annotations

import ctypes
import gc
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import noria
from support.leaks import open_descriptors

PATIENCE = 30.0  # seconds: an operation that takes longer hangs
DEFECTS = ("byte", "descriptor", "object", "exception", "timer", "hang")


@dataclass
class Ledger:
    """The account of one run. `defect` names what the run's own servers are to do wrong, to see that it is noticed."""

    random: random.Random
    defect: str | None = None
    over: bool = False  # the phase: finish what you are at
    done: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def account(self, kind: str, given: bytes, returned: bytes) -> None:
        """An operation is over: these bytes were given, those came back, and they must be the same."""
        self.done[kind] += 1
        self.given[kind] += len(given)
        self.returned[kind] += len(returned)
        if given != returned:
            at = next((i for i, (a, b) in enumerate(zip(given, returned, strict=False)) if a != b), None)
            where = f"they differ from byte {at} on" if at is not None else "one is a part of the other"
            self.problem(f"{kind}: {len(given)} bytes were given, {len(returned)} came back, {where}")

    def problem(self, text: str) -> None:
        """Something is wrong: the run goes on, and fails at its end."""
        self.problems.append(text)

    def has(self, defect: str, chance: float = 0.2) -> bool:
        """Whether the defect is to be made here, now."""
        return self.defect == defect and self.random.random() < chance

    def bytes(self, most: int) -> bytes:
        """Between 1 and `most` random bytes; few more often than many."""
        return self.random.randbytes(1 + int(most * self.random.random() ** 4))


@dataclass(frozen=True)
class Sample:
    """What the process holds while nothing is under way."""

    descriptors: dict[int, str]
    tasks: int
    objects: int
    heap: int | None  # bytes that are allocated, where AddressSanitizer counts them
    resident: int  # bytes

    def __str__(self) -> str:
        heap = "" if self.heap is None else f", heap {self.heap / 1024:,.0f} KiB"
        return (
            f"{len(self.descriptors)} descriptors, {self.tasks} tasks, {self.objects} objects{heap}, "
            f"resident {self.resident / 1024:,.0f} KiB"
        )

    @classmethod
    def take(cls) -> Sample:
        """Count, after garbage was collected."""
        while gc.collect():
            pass
        status = Path("/proc/self/statm").read_text(encoding="ascii")
        return cls(
            descriptors=open_descriptors(),
            tasks=len(noria.all_tasks()),
            objects=len(gc.get_objects()),
            heap=_allocated() if _allocated else None,
            resident=int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        )

    def left_since(self, first: Sample) -> list[str]:
        """Descriptors and tasks that were not there."""
        found = []
        more = [what for fd, what in self.descriptors.items() if fd not in first.descriptors]
        if len(self.descriptors) > len(first.descriptors):
            found.append(f"descriptors: {len(first.descriptors)} -> {len(self.descriptors)}: {more[:5]}")
        if self.tasks > first.tasks:
            found.append(f"tasks: {first.tasks} -> {self.tasks}")
        return found

    def growth_since(self, first: Sample, operations: int) -> list[str]:
        """What is more than it was. A leak in one operation of 2,000 is seen, a table that doubles once is not."""
        found = self.left_since(first)
        slack = 10 + operations // 2000
        if self.objects > first.objects + slack:
            found.append(f"objects: {first.objects} -> {self.objects} in {operations} operations")
        if (
            self.heap is not None
            and first.heap is not None
            and self.heap > first.heap + (256 << 10) + 20 * slack
        ):
            found.append(f"heap: {first.heap} -> {self.heap} bytes in {operations} operations")
        if self.resident > first.resident * 1.25 + (16 << 20):
            found.append(f"resident memory: {first.resident} -> {self.resident} bytes")
        return found


def _find_allocated() -> Callable[[], int] | None:
    try:
        function = ctypes.CDLL(None).__sanitizer_get_current_allocated_bytes
    except AttributeError:
        return None
    function.restype = ctypes.c_size_t
    return lambda: int(function())


_allocated = _find_allocated()
