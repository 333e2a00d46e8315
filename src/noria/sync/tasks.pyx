"""create_task, ensure_future, current_task, isfuture: from coroutines to tasks, and which task this is.

On a loop of noria's these go straight to the core. A task factory is respected, and so is a subclass of the loop
that has a `create_task` of its own. Every other loop is asked by its methods, as asyncio does.

For the other modules of `sync`: `watch`, by which a compiled object learns that a future is done.
"""

from noria.core.capi cimport PyCoro_CheckExact
from noria.core.futures cimport BaseFuture, Future, is_native
from noria.core.loop cimport CoreLoop
from noria.core.tasks cimport Task, current_of, new_task
from noria.core.waits cimport running_loop
from noria.core.wheel cimport Ready, Wheel

import asyncio.coroutines
import asyncio.events
import asyncio.futures
import asyncio.tasks
import inspect

from noria.sync.coroutines import awaited

# The standard library's, as they were when nobody had substituted anything yet.
cdef object get_event_loop = asyncio.events.get_event_loop
cdef object iscoroutine = asyncio.coroutines.iscoroutine
cdef object standard_current_task = asyncio.tasks.current_task


# Tasks.

cdef object running_task(object loop):
    # The task that runs now on this loop, or None.
    if isinstance(loop, Wheel):
        return current_of(<Wheel>loop)
    return standard_current_task(loop)


cdef Task native_task(object loop, object coro, object name, object context):
    # A task by the straight way, or None if the loop wants to be asked.
    cdef CoreLoop core
    if not isinstance(loop, CoreLoop):
        return None
    core = <CoreLoop>loop
    if not core.own_tasks or (core.factory is not None and not core.eager):
        return None
    if core.shut:
        core.check_open()
    return new_task(core, coro, name, context, core.eager and core.thread != 0)


def create_task(coro, *, name=None, context=None):
    """Run a coroutine as a task of the running loop; returns the task.

    name: str, shown in reprs; "Task-N" by default. context: the contextvars.Context it runs in; by default a copy of
    the current one. Raises RuntimeError if no loop runs, TypeError if coro is no coroutine.

    Source: asyncio.create_task.
    """
    loop = running_loop()
    task = native_task(loop, coro, name, context)
    if task is not None:
        return task
    if context is None:
        return loop.create_task(coro, name=name)
    return loop.create_task(coro, name=name, context=context)


def current_task(loop=None):
    """The task that runs now on `loop` (default: the running loop), or None.

    Raises RuntimeError if no loop is given and none runs.

    Source: asyncio.current_task.
    """
    return running_task(running_loop() if loop is None else loop)


# Futures.

def isfuture(obj):
    """Whether obj is a future, of any make: a task is one, a coroutine is not.

    Source: asyncio.isfuture.
    """
    if type(obj) is Task or type(obj) is Future:
        return True
    return hasattr(obj.__class__, "_asyncio_future_blocking") and obj._asyncio_future_blocking is not None


cdef object loop_of(object future):
    if isinstance(future, BaseFuture):
        (<BaseFuture>future).check_alive()
        return (<BaseFuture>future).loop
    try:
        get_loop = future.get_loop
    except AttributeError:
        return future._loop
    return get_loop()


cdef object to_future(object arg, object loop):
    cdef bint close = True
    if not PyCoro_CheckExact(arg):
        if isfuture(arg):
            if loop is not None and loop is not loop_of(arg):
                raise ValueError("The future belongs to a different loop than the one specified as the loop argument")
            return arg
        if not iscoroutine(arg):
            if not inspect.isawaitable(arg):
                raise TypeError("An asyncio.Future, a coroutine or an awaitable is required")
            arg = awaited(arg)
            close = False
    if loop is None:
        loop = get_event_loop()
    try:
        task = native_task(loop, arg, None, None)
        return loop.create_task(arg) if task is None else task
    except RuntimeError:
        if close:
            arg.close()
        raise


def ensure_future(coro_or_future, *, loop=None):
    """The future itself, or a task that runs the coroutine or awaits the awaitable.

    loop: where the task is to run; by default the running one. Raises TypeError if the argument can not be awaited,
    ValueError if it is a future of another loop.

    Source: asyncio.ensure_future.
    """
    return to_future(coro_or_future, loop)


# For what waits for several futures.

cdef bint cancel(object future, object message) except -1:
    # future.cancel(message), whoever made it.
    if type(future) is Task:
        return (<Task>future).request_cancel(message)
    if is_native(future):
        return (<BaseFuture>future).stop(message)
    return bool(future.cancel(msg=message))


cdef int watch(object future, object loop, Ready watcher, object callback) except -1:
    # Tell the watcher when the future is done; where that cannot be, have the loop call the callback.
    if loop is not None and is_native(future) and (<BaseFuture>future).wheel is loop:
        (<BaseFuture>future).watch(watcher)
    else:
        future.add_done_callback(callback)
    return 0


cdef int unwatch(object future, object loop, Ready watcher, object callback) except -1:
    if loop is not None and is_native(future) and (<BaseFuture>future).wheel is loop:
        (<BaseFuture>future).unwatch(watcher)
    else:
        future.remove_done_callback(callback)
    return 0
