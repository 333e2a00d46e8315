"""What `noria info` prints: the facts that a report of trouble, or a comparison of speed, should name."""

from __future__ import annotations

import os
import platform
import resource
import sys

from noria.io.choice import choose, refusal
from noria.io.uring import probe

_SETUP = {
    7: "SUBMIT_ALL",
    8: "COOP_TASKRUN",
    9: "TASKRUN_FLAG",
    12: "SINGLE_ISSUER",
    13: "DEFER_TASKRUN",
    16: "NO_SQARRAY",
}
_FEATURES = {
    0: "SINGLE_MMAP",
    1: "NODROP",
    5: "FAST_POLL",
    8: "EXT_ARG",
    11: "CQE_SKIP",
    14: "RECVSEND_BUNDLE",
    15: "MIN_TIMEOUT",
}


def information(version: str) -> list[tuple[str, str]]:
    """Pairs of a name and its value, in the order to print them. `version`: noria's."""
    facts = [
        ("noria", version),
        ("interpreter", f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores"),
    ]
    try:
        driver, why = choose()
        facts.append(("driver", f"{driver.name} ({why})"))
    except ValueError as error:
        facts.append(("driver", f"none: {error}"))
    refused = refusal()
    if refused is None:
        _, flags, features, operations = probe()
        facts += [
            ("io_uring", "allowed"),
            ("  setup", _names(flags, _SETUP)),
            ("  features", _names(features, _FEATURES)),
            ("  operations", f"{len(operations)}, the last is number {max(operations)}"),
        ]
    else:
        facts.append(("io_uring", f"not usable: {refused}"))
    facts += [
        ("descriptors", _limit(resource.RLIMIT_NOFILE, 1, "")),
        ("locked memory", _limit(resource.RLIMIT_MEMLOCK, 1024, " KiB")),
    ]
    return facts


def _names(bits: int, names: dict[int, str]) -> str:
    return ", ".join(name for bit, name in names.items() if bits >> bit & 1)


def _limit(which: int, unit: int, suffix: str) -> str:
    soft, hard = (
        "unlimited" if value == resource.RLIM_INFINITY else f"{value // unit:,}{suffix}"
        for value in resource.getrlimit(which)
    )
    return f"{soft} (hard limit {hard})"
