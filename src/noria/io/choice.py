"""Which driver a loop gets, and why.

Asked for by name (`noria.Loop(driver=...)`, else the environment variable NORIA_DRIVER), or the default: io_uring where
the system allows it and the kernel is as new as those it was measured on, else epoll. Where io_uring is asked for and
cannot be had, the loop gets epoll too: containers commonly refuse it. The reason is logged at debug level, and `noria
info` prints it.

Leaves to others: what happens if a ring is refused to a loop after the first was granted (uring.pyx).
"""

from __future__ import annotations

import contextlib
import errno
import os
from asyncio.log import logger

from noria.io.epoll import EpollDriver
from noria.io.uring import UringDriver, probe

DRIVERS: dict[str, type[EpollDriver]] = {"epoll": EpollDriver, "io_uring": UringDriver}
# IORING_FEAT_MIN_TIMEOUT: a kernel since Linux 6.12. On older ones nobody has measured the driver.
MEASURED = 1 << 15

# Those of io_uring, once it was found usable: what the kernel grants it seldom takes back.
_features: int | None = None


def choose(name: str | None = None) -> tuple[type[EpollDriver], str]:
    """The driver for a new loop, and why it is that one.

    name: "epoll" or "io_uring"; None: what NORIA_DRIVER says, or the default. Raises ValueError for any other.
    """
    asked = name or os.environ.get("NORIA_DRIVER")
    chosen = asked or "io_uring"
    if chosen not in DRIVERS:
        where = "" if name else " (asked for by NORIA_DRIVER)"
        raise ValueError(f"there is no driver {chosen!r}{where}; choose one of: {', '.join(DRIVERS)}")
    why = "asked for" if name else "asked for by NORIA_DRIVER" if asked else "the default"
    if chosen == "io_uring":
        refused = refusal()
        if refused is None and not asked and not (_features or 0) & MEASURED:
            refused = "only since Linux 6.12: on older kernels it must be asked for"
        if refused is not None:
            chosen, why = "epoll", f"io_uring is {why}, but {refused}"
    logger.debug("noria: driver %s: %s", chosen, why)
    return DRIVERS[chosen], why


def refusal() -> str | None:
    """Why io_uring cannot be used here, or None if it can."""
    global _features
    if _features is not None:
        return None
    error, _, features, _ = probe()
    if not error:
        _features = features
        return None
    if error == errno.EPERM:
        disabled = ""
        with contextlib.suppress(OSError), open("/proc/sys/kernel/io_uring_disabled") as setting:
            disabled = setting.read().strip()
        if disabled not in ("", "0"):
            return f"the system refuses it (sysctl kernel.io_uring_disabled is {disabled})"
        return "the system refuses it (EPERM: a container's seccomp filter?)"
    if error == errno.ENOMEM:
        return "there is no memory for it (ENOMEM: see the limit on locked memory, ulimit -l)"
    if error in (errno.ENOSYS, errno.EINVAL):
        return f"this kernel lacks it, or something in it that came with Linux 6.1 ({errno.errorcode[error]})"
    return f"the kernel says {os.strerror(error)} ({errno.errorcode.get(error, error)})"
