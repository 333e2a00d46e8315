"""The parent's side of a measurement: start the process under test, put the load on it, keep them on their cores."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .loops import FLOORS, LOOPS
from .row import Load, Program, Row, Service

HERE = Path(__file__).parent

Result = dict[str, Any]  # rate, cpu, value, as the row has them; or error and why


class CannotMeasure(Exception):
    """`kind` says what became of it in a word, the message in a line."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Bench:
    """Where measurements run: the cores, the load generator, the servers in C. A context manager.

    patience: seconds given to a process under test in addition to what its measurement should take.
    """

    def __init__(self, patience: float = 60) -> None:
        self._patience = patience
        cores = sorted(os.sched_getaffinity(0))
        self.test_core, self.load_core = (cores[0], cores[1]) if len(cores) > 1 else (-1, -1)
        self._directory = tempfile.TemporaryDirectory(prefix="noria-bench-")
        self._built: dict[str, str | CannotMeasure] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def able(self, row: Row, loop: str) -> str | None:
        """Why a row cannot be measured on a loop, if that is known beforehand."""
        if loop in FLOORS:
            return None if isinstance(row, Service) and row.floor else "the servers in C do not do this"
        if loop == "trio" and getattr(row, "trio", None) is None and not getattr(row, "bare", False):
            return "the row has no version for trio's API"
        missing = [name for name in row.needs if not _importable(name)]
        missing += [name for name in row.programs if shutil.which(name) is None]
        return f"needs {', '.join(missing)}" if missing else None

    def measure(self, row: Row, loop: str, seconds: float) -> Result:
        """One measurement. What goes wrong with it is its result, not an exception."""
        try:
            if isinstance(row, Service):
                return self._service(row, loop, seconds)
            if isinstance(row, Program) and row.beside is not None:
                with _on_core(self.load_core), row.beside() as given:
                    return self._alone(row, loop, seconds, given)
            return self._alone(row, loop, seconds)
        except CannotMeasure as reason:
            return {"error": reason.kind, "why": str(reason)}
        except RuntimeError as reason:  # what stands beside did not start
            return {"error": "error", "why": str(reason)}

    # Programs and gauges: the child does it all.

    def _alone(self, row: Row, loop: str, seconds: float, *given: str) -> Result:
        limit = self._patience + 20 * seconds
        command = self._command(row, loop, seconds, *given)
        # A session of its own, so that a loop that hangs is ended with all the children it has started.
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(loop),
            start_new_session=True,
        ) as child:
            try:
                out, errors = child.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                raise CannotMeasure("hang", f"no result after {limit:.0f} s") from None
            finally:
                _end(child)
        lines = out.splitlines()
        if lines and lines[-1].startswith("{"):
            # A loop that measures well and dies while closing has still done the row.
            result: Result = json.loads(lines[-1])
            return result
        raise _death(child.returncode, errors)

    # Services: a load in another process.

    def _service(self, row: Service, loop: str, seconds: float) -> Result:
        command = [self.program(FLOORS[loop])] if loop in FLOORS else self._command(row, loop, seconds)
        with tempfile.TemporaryFile("w+") as errors:
            with subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment(loop),
                start_new_session=True,
                preexec_fn=lambda: _pin(self.test_core),
            ) as server:
                try:
                    address = self._address(server)
                    self._put_load(row, address, server.pid, min(0.3, seconds))
                    return self._put_load(row, address, server.pid, seconds)
                except CannotMeasure:
                    # If the server has died, or is just dying, then that is what happened.
                    try:
                        server.wait(0.5)
                    except subprocess.TimeoutExpired:
                        pass
                    else:
                        errors.seek(0)
                        raise _death(server.returncode, errors.read()) from None
                    raise
                finally:
                    _end(server)

    def _address(self, server: subprocess.Popen[bytes]) -> str:
        """What the server prints when it is ready."""
        assert server.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(server.stdout, selectors.EVENT_READ)
            line = b""
            deadline = time.monotonic() + self._patience / 2
            while not line.endswith(b"\n"):
                if not ready.select(max(deadline - time.monotonic(), 0)):
                    raise CannotMeasure("hang", f"the server was not ready after {self._patience / 2:.0f} s")
                piece = os.read(server.stdout.fileno(), 4096)
                if not piece:
                    raise CannotMeasure("error", "the server ended before it was ready")
                line += piece
        address: str = json.loads(line.splitlines()[-1])["address"]
        return address

    def _put_load(self, row: Service, address: str, server: int, seconds: float) -> Result:
        if isinstance(row.load, Load):
            return self._run_load(row.load, address, server, seconds)
        with _on_core(self.load_core):
            before = cpu_seconds(server)
            try:
                requests, took = row.load(address, seconds)
            except RuntimeError as reason:
                raise CannotMeasure("error", str(reason)) from None
            return {"rate": requests / took, "cpu": (cpu_seconds(server) - before) / requests}

    def _run_load(self, load: Load, address: str, server: int, seconds: float) -> Result:
        """load.c on a server. What it takes to open and to close the connections is not measured, save in a churn.

        load.c ends by itself in any case, so that reading from it needs no time limit.
        """
        command = [self.program("load.c"), address, str(load.connections), str(load.size), str(seconds)]
        command += ["churn"] * load.churn + ["lines"] * load.lines + ["wait"]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: _pin(self.load_core),
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()  # "ready"
            before = cpu_seconds(server)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("\n")
                process.stdin.flush()
            figures = process.stdout.readline()
            used = cpu_seconds(server) - before
            _, errors = process.communicate()
        if not figures:
            kind = "hang" if process.returncode == 3 else "error"
            raise CannotMeasure(kind, (errors.strip() or "no message from the load").splitlines()[-1])
        requests, took, *lost = figures.split()
        if not int(requests):
            raise CannotMeasure("hang", f"not one answer in {seconds} s")
        result: Result = {"rate": int(requests) / float(took), "cpu": used / int(requests)}
        if any(map(int, lost)):
            result["lost"] = int(lost[0])  # datagrams
        return result

    def program(self, source: str) -> str:
        """The path of a compiled C program; compiles it the first time."""
        if source not in self._built:
            self._built[source] = self._compile(source)
        built = self._built[source]
        if isinstance(built, CannotMeasure):
            raise built
        return built

    def _compile(self, source: str) -> str | CannotMeasure:
        path = HERE / ("load" if source == "load.c" else "limit") / source
        target = Path(self._directory.name, path.stem)
        compiler = os.environ.get("CC", "cc").split()
        if shutil.which(compiler[0]) is None:
            return CannotMeasure("error", f"needs a C compiler ({compiler[0]} is not on the PATH)")
        command = [*compiler, "-O2", "-o", str(target), str(path)]
        # The load speaks TLS if OpenSSL's headers are there (Debian: libssl-dev).
        attempts = (
            [[*command, "-DWITH_TLS", "-lssl", "-lcrypto"], command] if source == "load.c" else [command]
        )
        for attempt in attempts:
            done = subprocess.run(attempt, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return str(target)
        return CannotMeasure("error", f"{source} does not compile: {done.stderr.strip().splitlines()[0]}")

    def _environment(self, loop: str) -> dict[str, str]:
        # Temporary files go where we remove them, since a server is killed and removes nothing.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "TMPDIR": self._directory.name}
        environment.pop("PYTHONASYNCIODEBUG", None)
        if loop in LOOPS:
            environment.update(LOOPS[loop].environment)
        return environment

    def _command(self, row: Row, loop: str, seconds: float, *given: str) -> list[str]:
        child = [sys.executable, str(HERE / "child.py"), str(self.test_core), loop]
        return [*child, row.module, row.key, str(seconds), *given]


def _importable(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _pin(core: int) -> None:
    if core >= 0:
        os.sched_setaffinity(0, {core})


@contextlib.contextmanager
def _on_core(core: int) -> Iterator[None]:
    """The parent, and what it starts, stay on a core."""
    before = os.sched_getaffinity(0)
    _pin(core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _end(child: subprocess.Popen[Any]) -> None:
    """Kill a child with the session it leads, and close our ends of its pipes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _death(code: int, errors: str) -> CannotMeasure:
    """A child that ended without a result: of a signal, or with a message."""
    lines = errors.strip().splitlines() or ["no message"]
    # Python may go on to warn after the exception that ended it.
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt)\b", line)]
    why = (raised or lines)[-1]
    if code < 0:
        return CannotMeasure("crash", f"{signal.Signals(-code).name}: {why}")
    return CannotMeasure("error", why)


def cpu_seconds(pid: int) -> float:
    """CPU time that the threads of a process have used, in seconds (proc(5): schedstat counts nanoseconds)."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            total += int(path.read_text().split()[0])
    return total / 1e9
