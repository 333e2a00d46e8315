"""Seconds of CPU time that importing the loop's package adds to the start of an interpreter.

The median of interpreters started anew with `import PACKAGE`, less the median of interpreters that import nothing,
in turns. All of them import asyncio sooner or later. Python files are compiled by the first, which is not counted, into
a directory that is thrown away.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from typing import Any

from ...row import Gauge

TIMES = 9


def measure(loop: Any) -> float:
    importing = f"import {loop.package}"
    bares, importings = [], []
    with tempfile.TemporaryDirectory(prefix="noria-bench-import-") as compiled:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        start(importing, environment)
        for _ in range(TIMES):
            bares.append(start("pass", environment))
            importings.append(start(importing, environment))
    return statistics.median(importings) - statistics.median(bares)


def start(code: str, environment: dict[str, str]) -> float:
    """CPU seconds of an interpreter that runs `code`, from its start to its end."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], environment)
    _, status, used = os.wait4(pid, 0)
    if status != 0:
        raise RuntimeError(f"python -c {code!r} ended with status {status}")
    return used.ru_utime + used.ru_stime


ROWS = [Gauge(key="import_time", title="import", read=measure, bare=True, unit="seconds")]
