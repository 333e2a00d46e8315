"""Seconds of CPU time that importing the loop's package adds to the start of an interpreter.

The median of interpreters started anew with `import PACKAGE`, less the median of interpreters that import nothing,
in turns. All of them import asyncio sooner or later. Compiled Python files are there after the first, which is not
counted.
"""

from __future__ import annotations

import os
import statistics
import sys
from typing import Any

from ...row import Gauge

TIMES = 9


def measure(loop: Any) -> float:
    bare, importing = "pass", f"import {loop.package}"
    start(importing)
    bares, importings = [], []
    for _ in range(TIMES):
        bares.append(start(bare))
        importings.append(start(importing))
    return statistics.median(importings) - statistics.median(bares)


def start(code: str) -> float:
    """CPU seconds of an interpreter that runs `code`, from its start to its end."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], dict(os.environ))
    _, status, used = os.wait4(pid, 0)
    if status != 0:
        raise RuntimeError(f"python -c {code!r} ended with status {status}")
    return used.ru_utime + used.ru_stime


ROWS = [Gauge(key="import_time", title="import", read=measure, bare=True, unit="seconds")]
