"""gather and shield: futures that stand for others.

`gather` is told of each child that ends by a call from one compiled object to another. Nothing is queued for it but
the one item that ends the gathering, in the place in the queue where asyncio has the callback that does.
"""

from cpython.object cimport PyTypeObject

from noria.core.capi cimport Py_EnterRecursiveCall, Py_LeaveRecursiveCall
from noria.core.futures cimport CANCELLED, FINISHED, PENDING, BaseFuture, Future
from noria.core.tasks cimport Task
from noria.core.wheel cimport Ready, push
from noria.sync.tasks cimport cancel, loop_of, to_future, unwatch, watch

import asyncio.events
import asyncio.exceptions

cdef object CancelledError = asyncio.exceptions.CancelledError
cdef object get_event_loop = asyncio.events.get_event_loop


cdef class _GatheringFuture(Future):
    """What gather() returns."""
    cdef list children           # in the order of the arguments; None once the results are there
    cdef list early              # those that ended while the rest were being made into futures
    cdef object last             # the child that ends the gathering
    cdef Py_ssize_t left         # children that have not ended, each counted once
    cdef bint return_exceptions
    cdef bint ending             # queued, to complete() by `last`
    cdef bint cancel_requested

    def __init__(self):
        raise TypeError("made by gather()")

    cdef int told(self, Ready child) except -1:
        cdef BaseFuture future = <BaseFuture>child
        if self.early is not None:
            self.early.append(future)
            return 0
        self.left -= 1
        if self.state != PENDING or self.ending or self.loop is None:
            future.unseen = False
            return 0
        if self.left == 0 or (not self.return_exceptions and (future.state == CANCELLED or future.error is not None)):
            self.ending = True
            self.last = future
            push(self.wheel, self)
        return 0

    cdef int run(self) except -1:
        last, self.last = self.last, None
        self.complete(last)
        return 0

    def _told(self, child):
        # By the loop, for a child that cannot tell us itself.
        if self.early is not None:
            self.early.append(child)
            return
        self.left -= 1
        self.complete(child)

    cdef int complete(self, object child) except -1:
        # A child ended, and its turn has come.
        if self.state != PENDING or self.loop is None:
            if not child.cancelled():
                child.exception()  # retrieved
            return 0
        if not self.return_exceptions:
            error = child._make_cancelled_error() if child.cancelled() else child.exception()
            if error is not None:
                self.fail(error)
                return 0
        if self.left > 0:
            return 0
        children, self.children = self.children, None
        results = [result_of(future) for future in children]
        if self.cancel_requested:
            # Whatever the children made of it, and whatever return_exceptions says (CPython bpo-32684).
            self.fail(children[-1]._make_cancelled_error())
        else:
            self.resolve(results)
        return 0

    cdef bint stop(self, object message) except -1:
        # Not cancelled itself before the children are.
        cdef bint any = False
        if self.state != PENDING:
            return False
        Py_EnterRecursiveCall(" while cancelling a gathering")
        try:
            for child in self.children or ():
                if cancel(child, message):
                    any = True
        finally:
            Py_LeaveRecursiveCall()
        if any:
            self.cancel_requested = True
        return any


cdef object result_of(object child):
    cdef BaseFuture future
    if isinstance(child, BaseFuture):
        future = <BaseFuture>child
        if future.state == FINISHED and future.error is None:
            return future.value
    if child.cancelled():
        message = child._cancel_message
        return CancelledError("" if message is None else message)
    error = child.exception()
    return child.result() if error is None else error


def gather(*coros_or_futures, return_exceptions=False):
    """Run all of them; returns a future of the list of their results, in the order given.

    return_exceptions: False: the first exception ends the gathering, while the others go on; True: exceptions stand
    among the results. Cancelling the future cancels all that have not ended. Raises TypeError if one cannot be awaited,
    ValueError if they belong to different loops.

    Source: asyncio.gather.
    """
    cdef _GatheringFuture outer
    cdef dict seen
    cdef list children, done, early
    if not coros_or_futures:
        loop = get_event_loop()
        future = loop.create_future()
        future.set_result([])
        return future
    outer = _GatheringFuture.__new__(_GatheringFuture)
    outer.return_exceptions = return_exceptions
    outer.early = early = []
    seen = {}
    children = []
    done = []
    loop = None
    told = outer._told
    try:
        for arg in coros_or_futures:
            future = seen.get(arg)
            if future is None:
                future = to_future(arg, loop)
                if loop is None:
                    loop = loop_of(future)
                if future is not arg:
                    # Ours alone: nobody can be blamed if it is dropped with us.
                    if type(future) is Task:
                        (<Task>future).log_destroy = False
                    else:
                        future._log_destroy_pending = False
                seen[arg] = future
                if future.done() if not isinstance(future, BaseFuture) else (<BaseFuture>future).state != PENDING:
                    done.append(future)
                else:
                    watch(future, loop, outer, told)
            children.append(future)
        outer.attach(loop)
    except BaseException:
        outer.early = None
        for future in early:
            outer.complete(future)
        raise
    outer.early = None
    outer.children = children
    outer.left = len(seen)
    for future in done:  # tasks that ended eagerly among them: all of those, and the gathering is done already
        outer.left -= 1
        outer.complete(future)
    for future in early:
        if outer.wheel is not None:
            outer.told(future)
        else:
            outer._told(future)
    return outer


cdef class _ShieldingFuture(Future):
    """What shield() returns."""
    cdef object inner            # None when it is over

    def __init__(self):
        raise TypeError("made by shield()")

    cdef int told(self, Ready inner) except -1:
        push(self.wheel, self)
        return 0

    cdef int run(self) except -1:
        inner = self.inner
        if inner is None:
            return 0
        if inner.done():
            self._told(inner)
        else:
            # We are done, most likely cancelled, and it goes on without us.
            self.inner = None
            unwatch(inner, self.wheel, self, self._told)
        return 0

    def _told(self, inner):
        self.inner = None
        if self.state != PENDING:
            if not inner.cancelled():
                inner.exception()  # retrieved
        elif inner.cancelled():
            self.stop(None)
        else:
            error = inner.exception()
            if error is not None:
                self.fail(error)
            else:
                self.resolve(inner.result())

    cdef int finish(self) except -1:
        # In asyncio the first of our callbacks lets the inner future go.
        if self.inner is not None:
            if self.wheel is not None:
                push(self.wheel, self)
            else:
                self.loop.call_soon(self._let_go)
        return Future.finish(self)

    def _let_go(self):
        self.run()


(<PyTypeObject*>_ShieldingFuture).tp_name = "noria.sync.gathering.Future"  # asyncio's is a Future; reports say so


def shield(arg):
    """A future with the outcome of arg. Cancelling it does not cancel arg.

    Raises TypeError if arg cannot be awaited.

    Source: asyncio.shield.
    """
    cdef _ShieldingFuture outer
    inner = to_future(arg, None)
    if inner.done():
        return inner
    outer = _ShieldingFuture.__new__(_ShieldingFuture)
    outer.attach(loop_of(inner))
    outer.inner = inner
    watch(inner, outer.loop, outer, outer._told)
    return outer
