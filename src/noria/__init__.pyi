# Every public name of asyncio, noria's own where there is one. The names of asyncio stand here one by one, since type
# checkers do not agree on which of two wins when a name is imported twice; a test compares the list with asyncio.

import sys
from asyncio import (
    ALL_COMPLETED as ALL_COMPLETED,
    FIRST_COMPLETED as FIRST_COMPLETED,
    FIRST_EXCEPTION as FIRST_EXCEPTION,
    AbstractEventLoop as AbstractEventLoop,
    AbstractEventLoopPolicy as AbstractEventLoopPolicy,
    AbstractServer as AbstractServer,
    BaseEventLoop as BaseEventLoop,
    BaseProtocol as BaseProtocol,
    BaseTransport as BaseTransport,
    BrokenBarrierError as BrokenBarrierError,
    BufferedProtocol as BufferedProtocol,
    CancelledError as CancelledError,
    DatagramProtocol as DatagramProtocol,
    DatagramTransport as DatagramTransport,
    DefaultEventLoopPolicy as DefaultEventLoopPolicy,
    IncompleteReadError as IncompleteReadError,
    InvalidStateError as InvalidStateError,
    LimitOverrunError as LimitOverrunError,
    Protocol as Protocol,
    QueueEmpty as QueueEmpty,
    QueueFull as QueueFull,
    ReadTransport as ReadTransport,
    SelectorEventLoop as SelectorEventLoop,
    SendfileNotAvailableError as SendfileNotAvailableError,
    SubprocessProtocol as SubprocessProtocol,
    SubprocessTransport as SubprocessTransport,
    TimeoutError as TimeoutError,
    Transport as Transport,
    WriteTransport as WriteTransport,
    _enter_task as _enter_task,
    _get_running_loop as _get_running_loop,
    _leave_task as _leave_task,
    _register_task as _register_task,
    _set_running_loop as _set_running_loop,
    _unregister_task as _unregister_task,
    all_tasks as all_tasks,
    create_task as create_task,
    current_task as current_task,
    ensure_future as ensure_future,
    gather as gather,
    get_event_loop as get_event_loop,
    get_event_loop_policy as get_event_loop_policy,
    get_running_loop as get_running_loop,
    iscoroutine as iscoroutine,
    iscoroutinefunction as iscoroutinefunction,
    isfuture as isfuture,
    run_coroutine_threadsafe as run_coroutine_threadsafe,
    set_event_loop as set_event_loop,
    set_event_loop_policy as set_event_loop_policy,
    shield as shield,
    sleep as sleep,
    to_thread as to_thread,
    wait as wait,
    wait_for as wait_for,
    wrap_future as wrap_future,
)

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
from noria.sync.taskgroups import TaskGroup as TaskGroup
from noria.sync.timeouts import Timeout as Timeout, timeout as timeout, timeout_at as timeout_at
from noria.sync.waiting import as_completed as as_completed

if sys.version_info < (3, 14):
    from asyncio import (
        AbstractChildWatcher as AbstractChildWatcher,
        FastChildWatcher as FastChildWatcher,
        MultiLoopChildWatcher as MultiLoopChildWatcher,
        PidfdChildWatcher as PidfdChildWatcher,
        SafeChildWatcher as SafeChildWatcher,
        ThreadedChildWatcher as ThreadedChildWatcher,
        get_child_watcher as get_child_watcher,
        set_child_watcher as set_child_watcher,
    )

# noria.get is imported when first asked for.
from noria import files as files, get as get

EventLoop = Loop

__version__: str
