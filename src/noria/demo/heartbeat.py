"""Measures how long a loop stood still, and finds the function that held it.

A task beats: it sleeps for a moment and notes the time. When a beat comes late, something else had the loop
in between. While a beat is overdue, a thread looks at what the loop's thread is executing. Nothing is assumed
about the code that is measured, and no part of the loop but sleep and time is used.
"""

import asyncio
import inspect
import os
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Self

INTERVAL = 0.01  # seconds between beats
LATE = 0.05  # seconds without a beat from which on the loop counts as blocked


@dataclass(frozen=True)
class Culprit:
    """Code that held the loop: the coroutine, and the function it was in when it was seen."""

    coroutine: str
    file: str
    line: int
    inside: str


class Heartbeat:
    """Watches the running loop for the length of an `async with` block.

    Afterwards: `beats` counts the beats, `blocked` lists begin and end of each time the loop stood still, in
    seconds of its clock, `culprit` is the code most often seen then, or None.
    """

    def __init__(self) -> None:
        self.beats = 0
        self.blocked: list[tuple[float, float]] = []
        self._seen: Counter[Culprit] = Counter()
        self._done = threading.Event()

    @property
    def longest(self) -> float:
        """Seconds of the longest time that the loop stood still."""
        return max((end - begin for begin, end in self.blocked), default=0.0)

    @property
    def total(self) -> float:
        """Seconds that the loop stood still, all together."""
        return sum(end - begin for begin, end in self.blocked)

    @property
    def culprit(self) -> Culprit | None:
        """The code most often seen while the loop stood still."""
        return self._seen.most_common(1)[0][0] if self._seen else None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._task = asyncio.create_task(self._beat())
        self._watcher = threading.Thread(
            target=self._watch, args=(threading.get_ident(),), name="noria-demo-heartbeat", daemon=True
        )
        self._watcher.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._note()
        self._watcher.join()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            self._note()
            self.beats += 1

    def _note(self) -> None:
        now = self._loop.time()
        if now - self._last > LATE:
            self.blocked.append((self._last, now))
        self._last = now

    def _watch(self, thread: int) -> None:
        while not self._done.wait(INTERVAL):
            if self._loop.time() - self._last > LATE:
                frame = sys._current_frames().get(thread)
                if frame is not None and (culprit := _culprit(frame)):
                    self._seen[culprit] += 1


def _culprit(innermost: FrameType) -> Culprit | None:
    """The nearest coroutine above `innermost`, or None if no coroutine runs."""
    frame: FrameType | None = innermost
    while frame is not None and not frame.f_code.co_flags & inspect.CO_COROUTINE:
        frame = frame.f_back
    if frame is None:
        return None
    return Culprit(frame.f_code.co_qualname, _file(frame), frame.f_lineno, _where(innermost))


def _where(frame: FrameType) -> str:
    return f"{frame.f_code.co_qualname} ({_file(frame)})"


def _file(frame: FrameType) -> str:
    return os.path.basename(frame.f_code.co_filename)
