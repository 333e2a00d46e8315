"""The tests of CPython 3.13 on an older interpreter: where they are, and what they are asked there.

noria offers what 3.13 documents on every interpreter, so on 3.11 and 3.12 its own classes and functions have to pass
3.13's tests as well as the interpreter's. These files come with a 3.13 interpreter and are loaded from where it has
them; nothing is copied. A module is run once everything that it is about (`SUBJECTS`) is noria's own: as long as
`noria.Queue` is asyncio's Queue of 3.11, what 3.13 says about queues is no statement about noria.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import noria

VERSION = (3, 13)
NAME = ".".join(map(str, VERSION))

# A module of tests -> the names in `noria` that it is about.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "test_base_events": ("Loop",),
    "test_buffered_proto": ("Loop",),
    "test_context": ("Loop",),
    "test_eager_task_factory": ("Loop", "Task", "eager_task_factory"),
    "test_events": ("Handle", "Loop", "TimerHandle"),
    "test_futures": ("Future",),
    "test_futures2": ("Future", "Task"),
    "test_locks": ("Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "Semaphore"),
    "test_pep492": ("Loop", "Task"),
    "test_queues": ("LifoQueue", "PriorityQueue", "Queue"),
    "test_runners": ("Runner", "run"),
    "test_sendfile": ("Loop",),
    "test_server": ("Server",),
    "test_sock_lowlevel": ("Loop",),
    "test_ssl": ("Loop",),
    "test_sslproto": ("Loop",),
    "test_streams": ("StreamReader", "StreamWriter", "open_connection", "start_server"),
    "test_subprocess": ("create_subprocess_exec", "create_subprocess_shell"),
    "test_taskgroups": ("TaskGroup",),
    "test_tasks": ("Future", "Task"),
    "test_threads": ("to_thread",),
    "test_timeouts": ("Timeout", "timeout", "timeout_at"),
    "test_unix_events": ("Loop",),
    "test_waitfor": ("wait_for",),
}


def own(name: str) -> bool:
    """Whether noria has a class or function of its own under this name, and not asyncio's."""
    value = getattr(noria, name, None)
    return str(getattr(value, "__module__", "")).partition(".")[0] == "noria"


def standard(module: str) -> list[str]:
    """What the module is about and is still asyncio's in `noria`."""
    return [name for name in SUBJECTS.get(module, ()) if not own(name)]


def wanted() -> bool:
    """Whether this interpreter is older than the reference; a newer one brings its own, newer tests."""
    return sys.version_info[:2] < VERSION


@functools.cache
def directory() -> Path | None:
    """Where a 3.13 interpreter of this machine keeps `test.test_asyncio`; None if none has it.

    Looked at: this one, should it be a 3.13, `python3.13` on PATH, and the interpreters that pyenv has installed.
    """
    this = sys.executable if sys.version_info[:2] == VERSION else None
    program = f"python{NAME}"
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = sorted(root.glob(f"versions/{NAME}*/bin/{program}"), reverse=True)
    found = shutil.which(program)
    for candidate in [this, found, *map(str, installed)]:
        if candidate is not None:
            answer = asked(candidate)
            if answer is not None:
                return answer
    return None


def asked(python: str) -> Path | None:
    """Where that interpreter has the tests, in its own words; None if it has none, or is no working 3.13."""
    question = "import sys, test.test_asyncio as t; print(sys.version_info[:2], t.__path__[0], sep='\\n')"
    try:
        answer = subprocess.run(
            [python, "-I", "-c", question], capture_output=True, text=True, timeout=60, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    if len(answer) != 2 or answer[0] != str(VERSION):
        return None
    return Path(answer[1])


def tests_are_its_own() -> bool:
    """Whether `test.test_asyncio` is this interpreter's and not what open_tests() was given."""
    return not opened


opened: list[Path] = []


def open_tests(tests: Path) -> None:
    """From now on `test.test_asyncio` is the package in that directory. `test.support` stays this interpreter's."""
    package: Any = importlib.import_module("test")
    spec = importlib.util.spec_from_file_location(
        "test.test_asyncio", tests / "__init__.py", submodule_search_locations=[str(tests)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package.test_asyncio = module
    spec.loader.exec_module(module)
    opened.append(tests)
    fill_in()


def fill_in() -> None:
    """Give this interpreter the helpers and private names that the files of 3.13 expect when they are imported."""
    tasks: Any = importlib.import_module("asyncio.tasks")
    unix_events: Any = importlib.import_module("asyncio.unix_events")
    support: Any = importlib.import_module("test.support")
    sockets: Any = importlib.import_module("test.support.socket_helper")
    # These two are used where the classes that test CPython's own tasks and child watchers are defined.
    if not hasattr(tasks, "_py_current_task"):
        tasks._py_current_task = tasks.current_task
    if not hasattr(unix_events, "can_use_pidfd"):
        unix_events.can_use_pidfd = lambda: hasattr(os, "pidfd_open")
    if not hasattr(sockets, "create_unix_domain_name"):
        sockets.create_unix_domain_name = lambda: tempfile.mktemp(prefix="unix-", suffix=".sock", dir=".")
    skip_if_sanitizer = support.skip_if_sanitizer

    # 3.13 added `thread`, for an interpreter built with ThreadSanitizer
    def skip_unless_thread(*reason: str, thread: bool = False, **others: bool) -> Any:
        return skip_if_sanitizer(*reason, **others) if others else lambda case: case

    support.skip_if_sanitizer = skip_unless_thread
