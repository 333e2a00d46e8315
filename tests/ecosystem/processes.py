"""Starts a real program, waits until it says that it is ready, and ends it for certain.

Readiness is read from what the program prints, so no test sleeps and hopes. What the program printed stays
readable afterwards. Nothing here knows about asyncio: a child's life does not depend on the loop under test.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

DEADLINE = 60.0  # seconds, for a program to say that it is ready, and again for it to end


class Program:
    """A running child process with its output, standard error merged into standard output."""

    def __init__(
        self, argv: Sequence[str | Path], *, user: str | None = None, cwd: Path | None = None
    ) -> None:
        """Start `argv`, as `user` if given (root only). Raises OSError when it cannot be started."""
        self.argv = [str(arg) for arg in argv]
        self._lines: list[str] = []
        self._heard = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            user=user,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._heard:
                self._lines.append(line.rstrip("\n"))
                self._heard.notify_all()
        with self._heard:
            self._ended = True
            self._heard.notify_all()

    @property
    def output(self) -> str:
        """All that the program has printed so far."""
        with self._heard:
            return "\n".join(self._lines)

    def wait_for(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Wait until `times` printed lines match the regular expression `pattern`; the last such match.

        Raises AssertionError, with what was printed instead, when the program ends or `DEADLINE` passes first.
        """
        found: list[re.Match[str]] = []

        def matched() -> bool:
            found[:] = [match for line in self._lines if (match := re.search(pattern, line))]
            return len(found) >= times or self._ended

        with self._heard:
            self._heard.wait_for(matched, DEADLINE)
        if len(found) < times:
            raise AssertionError(
                f"{self.argv[0]} did not print {pattern!r} {times} times but:\n{self.output}"
            )
        return found[times - 1]

    def end(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal `by` if the program still runs, wait for its end and return its exit code.

        A program that does not end within `DEADLINE` is killed, and that is an AssertionError.
        """
        if self._process.poll() is None:
            self._process.send_signal(by)
        try:
            code = self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"{self.argv[0]} did not end after {by.name}:\n{self.output}") from None
        finally:
            self._reader.join(DEADLINE)
            assert self._process.stdout is not None
            self._process.stdout.close()
        return code

    def wait(self) -> int:
        """Wait for the program to end by itself within `DEADLINE` seconds; its exit code."""
        with self._heard:
            self._heard.wait_for(lambda: self._ended, DEADLINE)
        return self.end()


@contextlib.contextmanager
def running(
    argv: Sequence[str | Path], *, user: str | None = None, cwd: Path | None = None
) -> Iterator[Program]:
    """Start `argv` as a `Program`, and end it with the block, whatever happened in there."""
    program = Program(argv, user=user, cwd=cwd)
    try:
        yield program
    finally:
        program.end()


def python(source: str, *args: str) -> list[str]:
    """The command line that runs `source` with this interpreter, warnings being errors as in the tests."""
    return [sys.executable, "-W", "error", "-c", source, *args]


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on now, for programs that cannot choose one and tell it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
