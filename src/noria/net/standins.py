"""Child processes: for now the standard library's transport over noria's pipes.

asyncio's own transport classes run here over `_add_reader` and `_add_writer`, until ours replace them one by one.
What is ours already: children are watched by a pidfd, with no thread and no SIGCHLD handler, or, on a kernel
without pidfd_open(2) (before 5.3) or where it is forbidden, by a thread that waits.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
import weakref
from asyncio import base_events, unix_events
from asyncio.log import logger
from typing import Any

from noria.io import poller

_Base = base_events.BaseEventLoop
_unix: Any = vars(unix_events)


class Watched:
    """As much of a selector as the reprs of the standard library's transports look at."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)

    def get_key(self, fd: int) -> selectors.SelectorKey:
        loop = self._loop()
        reading, writing = (False, False) if loop is None else poller.wanted(loop, fd)
        if not (reading or writing):
            raise KeyError(fd)
        events = selectors.EVENT_READ * reading | selectors.EVENT_WRITE * writing
        return selectors.SelectorKey(fd, fd, events, None)


class StandIns(asyncio.AbstractEventLoop):
    """subprocess_*."""

    _selector: Watched | None

    # What the standard library's transports expect of their loop.

    @property
    def _debug(self) -> bool:
        return self.get_debug()

    subprocess_shell = _Base.subprocess_shell
    subprocess_exec = _Base.subprocess_exec
    _log_subprocess = _Base._log_subprocess  # type: ignore[attr-defined]

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **kwargs: Any,
    ) -> Any:
        waiter = self.create_future()
        transport = _unix["_UnixSubprocessTransport"](
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter=waiter, extra=extra, **kwargs
        )
        self._watch_child(transport)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    # Reaping.

    def _watch_child(self, transport: Any) -> None:
        child = transport._proc
        try:
            pidfd = os.pidfd_open(child.pid)
        except OSError:
            threading.Thread(
                target=self._wait_for_child,
                args=(transport, child),
                daemon=True,
                name=f"noria-wait-{child.pid}",
            ).start()
            return
        self._pidfds.add(pidfd)
        self._add_reader(pidfd, self._child_ended, pidfd, transport, child)  # type: ignore[attr-defined]

    @property
    def _pidfds(self) -> set[int]:
        try:
            return self._child_pidfds
        except AttributeError:
            self._child_pidfds: set[int] = set()
            return self._child_pidfds

    def _child_ended(self, pidfd: int, transport: Any, child: Any) -> None:
        self._remove_reader(pidfd)  # type: ignore[attr-defined]
        self._pidfds.discard(pidfd)
        os.close(pidfd)
        transport._process_exited(reap(child))

    def _wait_for_child(self, transport: Any, child: Any) -> None:
        status = reap(child)
        try:
            self.call_soon_threadsafe(transport._process_exited, status)
        except RuntimeError:
            pass  # the loop was closed meanwhile

    def _close_children(self) -> None:
        for pidfd in list(self._pidfds):
            self._remove_reader(pidfd)  # type: ignore[attr-defined]
            os.close(pidfd)
        self._pidfds.clear()


def reap(child: Any) -> int:
    """The exit code of a child that has ended, or whose end is to be waited for; negative for a signal.

    subprocess.Popen knows it already if the program polled it before us. If somebody else took the status it is
    lost: 255, and a warning, as in asyncio.
    """
    if child.returncode is not None:
        return int(child.returncode)
    try:
        _, status = os.waitpid(child.pid, 0)
    except ChildProcessError:
        logger.warning("child process pid %d exit status already read: will report returncode 255", child.pid)
        return 255
    return os.waitstatus_to_exitcode(status)
