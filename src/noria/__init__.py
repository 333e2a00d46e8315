"""noria: the asyncio module rebuilt in one fast compiled core.

Every public name of asyncio is here; where noria has its own it is noria's. Importing changes nothing outside:
a program enters by `noria.run`, `noria.Runner`, `noria.install`, `noria.patch`, or
`loop_factory=noria.new_event_loop`.
"""

from __future__ import annotations

import asyncio as _asyncio
from asyncio import *  # noqa: F403
from asyncio import __all__ as _asyncio_all
from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

from noria.core.factories import (
    create_eager_task_factory as create_eager_task_factory,
    eager_task_factory as eager_task_factory,
)
from noria.core.futures import Future as Future
from noria.core.handles import Handle as Handle
from noria.core.tasks import Task as Task
from noria.core.timers import TimerHandle as TimerHandle
from noria.files.opening import open as open
from noria.loop import Loop as Loop, new_event_loop as new_event_loop
from noria.net.server import Server as Server
from noria.runners import EventLoopPolicy as EventLoopPolicy, Runner as Runner, install as install, run as run
from noria.streams.connection import (
    StreamReaderProtocol as StreamReaderProtocol,
    StreamWriter as StreamWriter,
)
from noria.streams.opening import (
    open_connection as open_connection,
    open_unix_connection as open_unix_connection,
    start_server as start_server,
    start_unix_server as start_unix_server,
)
from noria.streams.reader import StreamReader as StreamReader
from noria.subprocess import (
    create_subprocess_exec as create_subprocess_exec,
    create_subprocess_shell as create_subprocess_shell,
)
from noria.substitution import patch as patch, unpatch as unpatch
from noria.sync.barriers import Barrier as Barrier
from noria.sync.gathering import gather as gather, shield as shield
from noria.sync.locks import (
    BoundedSemaphore as BoundedSemaphore,
    Condition as Condition,
    Event as Event,
    Lock as Lock,
    Semaphore as Semaphore,
)
from noria.sync.queues import (
    LifoQueue as LifoQueue,
    PriorityQueue as PriorityQueue,
    Queue as Queue,
    QueueShutDown as QueueShutDown,
)
from noria.sync.sleeping import sleep as sleep
from noria.sync.taskgroups import TaskGroup as TaskGroup
from noria.sync.tasks import (
    create_task as create_task,
    current_task as current_task,
    ensure_future as ensure_future,
    isfuture as isfuture,
)
from noria.sync.threads import (
    run_coroutine_threadsafe as run_coroutine_threadsafe,
    to_thread as to_thread,
    wrap_future as wrap_future,
)
from noria.sync.timeouts import (
    Timeout as Timeout,
    timeout as timeout,
    timeout_at as timeout_at,
    wait_for as wait_for,
)
from noria.sync.waiting import as_completed as as_completed, wait as wait

EventLoop = Loop  # 3.13's name for the best loop that there is

__version__ = "0.1.0"

__all__ = sorted(
    {
        *_asyncio_all,
        "EventLoop",  # 3.13's
        "EventLoopPolicy",
        "Loop",
        "QueueShutDown",  # 3.13's
        "Server",
        "TaskGroup",  # the list of 3.11 forgets it
        "create_eager_task_factory",
        "eager_task_factory",
        "install",
        "new_event_loop",
        "patch",
        "unpatch",
    }
)


class _Later(_ModuleType):
    """A submodule that is imported when something in it is first asked for; then the real one takes its place."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # whoever looks a module over does not ask for anything in it
            raise AttributeError(f"module {self.__name__!r} is not imported yet")
        return getattr(_import_module(self.__name__), name)


# Not by a __getattr__ of this module: with one, the interpreter looks up every `noria.sleep` the slow way.
get = _Later("noria.get")  # needs its extra
globals().update(  # asyncio's submodules, and names outside its __all__
    {
        _name: _value
        for _name, _value in vars(_asyncio).items()
        if not _name.startswith("__") and _name not in globals()
    }
)
