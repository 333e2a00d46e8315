"""TaskGroup: tasks that end before the block that started them does.

A task tells its group by a call from one compiled object to another that it has ended; the group stands in the
ready queue where asyncio has the callback. The parent waits in the awaitable that leaving the block returns.
"""

cimport cython

from noria.core.capi cimport noria_let_be_patched
from noria.core.futures cimport PENDING
from noria.core.tasks cimport Task
from noria.core.waits cimport DONE, RAISE, WAIT, Waiter, running_loop
from noria.core.wheel cimport Ready, Wheel, push
from noria.sync.tasks cimport cancel, native_task, running_task, watch

import asyncio.exceptions
import sys

from noria.core._marks import mark_coroutine_functions

cdef object CancelledError = asyncio.exceptions.CancelledError
# Whether asyncio's tasks forget a cancellation that is still to be thrown in when `uncancel` takes the last one back.
# Those before 3.13 would throw it at an await after the outermost block that was meant to end by it.
cdef bint UNCANCELS = sys.version_info >= (3, 13)


cdef bint is_base_error(object error) except -1:
    return isinstance(error, (SystemExit, KeyboardInterrupt))


cdef class TaskGroup(Ready):
    """TaskGroup()\n--

    Tasks that belong together: `async with` it. Leaving the block waits for all of them. When one fails the others and
    the block are cancelled, and leaving raises a BaseExceptionGroup of what went wrong.

    Source: asyncio.TaskGroup (3.11).
    """
    cdef object __weakref__
    cdef dict __dict__
    cdef object loop
    cdef Wheel wheel             # the loop if it is ours
    cdef object parent
    cdef set tasks               # not ended, or ended with their turn to be noticed still to come
    cdef list news               # told that they ended: one for each time the group stands in the ready queue
    cdef Py_ssize_t heard        # of these have been dealt with
    cdef list errors
    cdef object base_error       # a KeyboardInterrupt or SystemExit, which has precedence
    cdef Exit waiter             # the parent, waiting
    cdef object callback
    cdef bint entered
    cdef bint exiting
    cdef bint aborting
    cdef bint cancelled_parent

    def __cinit__(self, *args, **kwargs):
        self.tasks = set()
        self.news = []
        self.errors = []

    def __init__(self):
        pass

    def __repr__(self):
        info = ""
        if self.tasks:
            info += f" tasks={len(self.tasks)}"
        if self.errors:
            info += f" errors={len(self.errors)}"
        if self.aborting:
            info += " cancelling"
        elif self.entered:
            info += " entered"
        return f"<TaskGroup{info}>"

    def __aenter__(self):
        """Begin. Returns the group. Raises RuntimeError outside a task, or when entered before."""
        cdef Enter enter = Enter.__new__(Enter)
        enter.group = self
        return enter

    def __aexit__(self, et, exc, tb):
        """Wait for all tasks; raises a BaseExceptionGroup if any failed."""
        cdef Exit exit = Exit.__new__(Exit)
        exit.group = self
        exit.kind = et
        exit.raised = exc
        return exit

    def create_task(self, coro, *, name=None, context=None):
        """Run a coroutine as a task of this group; returns the task.

        name, context: as of `create_task`. Raises RuntimeError, and closes the coroutine, before the block is entered,
        once it is left, and after a task failed.
        """
        if not self.entered:
            coro.close()
            raise RuntimeError(f"TaskGroup {self!r} has not been entered")
        if self.exiting and not self.tasks:
            coro.close()
            raise RuntimeError(f"TaskGroup {self!r} is finished")
        if self.aborting:
            coro.close()
            raise RuntimeError(f"TaskGroup {self!r} is shutting down")
        task = native_task(self.loop, coro, name, context)
        if task is None:
            if context is None:
                task = self.loop.create_task(coro, name=name)
            else:
                task = self.loop.create_task(coro, name=name, context=context)
        if task.done() if type(task) is not Task else (<Task>task).state != PENDING:
            self._told(task)  # it ended eagerly
        else:
            self.tasks.add(task)
            watch(task, self.wheel, self, self.callback)
        return task

    # asyncio's names for it, which programs and subclasses do look at.

    @property
    def _tasks(self):
        return self.tasks

    @property
    def _errors(self):
        return self.errors

    @property
    def _base_error(self):
        return self.base_error

    @property
    def _loop(self):
        return self.loop

    @property
    def _parent_task(self):
        return self.parent

    @property
    def _parent_cancel_requested(self):
        return self.cancelled_parent

    @property
    def _on_completed_fut(self):
        return self.waiter

    @property
    def _entered(self):
        return self.entered

    @property
    def _exiting(self):
        return self.exiting

    @property
    def _aborting(self):
        return self.aborting

    def _abort(self):
        self.abort()

    def _is_base_error(self, exc):
        return is_base_error(exc)

    def _on_task_done(self, task):
        self._told(task)

    # Inside.

    cdef int enter(self) except -1:
        if self.entered:
            raise RuntimeError(f"TaskGroup {self!r} has already been entered")
        if self.loop is None:
            self.loop = running_loop()
            self.wheel = <Wheel>self.loop if isinstance(self.loop, Wheel) else None
        self.parent = running_task(self.loop)
        if self.parent is None:
            raise RuntimeError(f"TaskGroup {self!r} cannot determine the parent task")
        self.callback = self._told
        self.entered = True
        return 0

    cdef int abort(self) except -1:
        self.aborting = True
        for task in list(self.tasks):
            if not task.done():
                cancel(task, None)
        return 0

    cdef int told(self, Ready task) except -1:
        self.news.append(task)
        push(self.wheel, self)
        return 0

    cdef int run(self) except -1:
        cdef Task task
        ended = self.news[self.heard]
        self.heard += 1
        if self.heard == len(self.news):
            self.news.clear()
            self.heard = 0
        elif self.heard > 1000:
            del self.news[:self.heard]
            self.heard = 0
        if type(ended) is Task:
            task = <Task>ended
            if task.error is None:
                # Nothing went wrong, as mostly.
                self.tasks.discard(task)
                if self.waiter is not None and not self.tasks and self.waiter.state == PENDING:
                    self.waiter.resolve(None)
                return 0
        self._told(ended)
        return 0

    def _told(self, task):
        self.tasks.discard(task)
        if self.waiter is not None and not self.tasks and self.waiter.state == PENDING:
            self.waiter.resolve(None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self.errors.append(error)
        if is_base_error(error) and self.base_error is None:
            self.base_error = error
        if self.parent.done():
            self.loop.call_exception_handler({
                "message": f"Task {task!r} has errored out but its parent task {self.parent} is already completed",
                "exception": error,
                "task": task,
            })
            return
        if not self.aborting and not self.cancelled_parent:
            # Whatever the block does now is to stop; leaving it takes the cancellation back.
            self.abort()
            self.cancelled_parent = True
            cancel(self.parent, None)


@cython.internal
cdef class Enter(Waiter):
    cdef TaskGroup group

    @property
    def __qualname__(self):
        return "TaskGroup.__aenter__"

    cdef int begin(self) except -1:
        self.group.enter()
        self.value = self.group
        return DONE


@cython.internal
cdef class Exit(Waiter):
    # Out of the block: waits until no task is left.
    cdef TaskGroup group
    cdef object kind
    cdef object raised           # what the block was left with
    cdef object propagated       # the CancelledError to raise at the end

    @property
    def __qualname__(self):
        return "TaskGroup.__aexit__"

    cdef int begin(self) except -1:
        cdef TaskGroup group = self.group
        group.exiting = True
        if self.raised is not None and group.base_error is None and is_base_error(self.raised):
            group.base_error = self.raised
        if self.kind is not None:
            if issubclass(self.kind, CancelledError):
                self.propagated = self.raised
            if not group.aborting:
                group.abort()
        if not group.tasks:
            return self.leave()
        self.arm(group.loop)
        group.waiter = self
        return WAIT

    cdef int again(self) except -1:
        if self.group.tasks:  # started meanwhile
            self.rearm()
            return WAIT
        return self.leave()

    cdef int dropped(self, object error) except -1:
        # Cancelled, perhaps not for the first time: the tasks must end all the same.
        if not isinstance(error, CancelledError):
            self.group.waiter = None
            return RAISE
        if not self.group.aborting:
            self.propagated = error
            self.group.abort()
        return self.again() if self.group.tasks else self.leave()

    cdef int leave(self) except -1:
        cdef TaskGroup group = self.group
        group.waiter = None
        parent = group.parent
        propagated, self.propagated = self.propagated, None
        raised, self.raised = self.raised, None
        try:
            if group.base_error is not None:
                raise group.base_error
            if group.cancelled_parent and parent.uncancel() == 0:
                propagated = None  # the cancellation was ours alone
            if propagated is not None and not group.errors:
                raise propagated
            if self.kind is not None and not issubclass(self.kind, CancelledError):
                group.errors.append(raised)
            if group.errors:
                if parent.cancelling() and (UNCANCELS or isinstance(parent, Task)):
                    # Cancelled from outside: let that come through at the next await, and the count stay what it was.
                    parent.uncancel()
                    parent.cancel()
                raise BaseExceptionGroup("unhandled errors in a TaskGroup", group.errors) from None
        finally:
            # Exceptions hold frames, and these the group: no cycles.
            group.parent = group.base_error = group.callback = None
            group.errors = []
            parent = propagated = raised = None
        return DONE


mark_coroutine_functions(TaskGroup.__aenter__, TaskGroup.__aexit__)
noria_let_be_patched(TaskGroup)


cdef extern from *:
    """
    #include "pool.h"
    NORIA_POOL(enters, 32)
    NORIA_POOL(exits, 32)
    """
    void enters_pool(object type)
    void exits_pool(object type)

enters_pool(Enter)
exits_pool(Exit)
