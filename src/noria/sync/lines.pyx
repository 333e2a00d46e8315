"""Lines of tasks that wait for a lock, an event, an item: what all such things have in common.

A `Parked` is a Waiter that stands in a `Line`. Joining, leaving from anywhere and waking the next one take the same
short time however long the line is. The line owns who stands in it: as with asyncio's, a task that waits for a lock
is kept alive by the lock.

As in asyncio a waiter that was woken, or cancelled, keeps its place until its task has run and leaves by itself; only
queues take out whom they wake. Which of the two, and what it means to be woken, is for the users of lines to say.

`LoopBound` is what a primitive knows of its loop: it belongs to the one on which a task first had to wait.
"""

from collections import deque
from cpython.object cimport (
    Py_TYPE, PyObject, PyObject_GenericSetAttr, PyTypeObject, inquiry, traverseproc, visitproc,
)
from cpython.ref cimport Py_DECREF, Py_INCREF

cimport cython

from noria.core.capi cimport noria_forget_dict
from noria.core.futures cimport CANCELLED, FINISHED, PENDING, Py_TPFLAGS_HEAPTYPE, PyType_GetFlags
from noria.core.waits cimport OVER, Waiter, running_loop
from noria.core.wheel cimport Link


cdef class Parked(Waiter):
    """A waiter that stands in a line."""

    cdef int park(self, LoopBound owner, Line line) except -1:
        # Wait at the end of the line. Raises RuntimeError if the owner belongs to another loop.
        loop = owner.bind()
        if self.loop is None:
            self.arm(loop)
        else:
            self.rearm()
        return line.join(self)

    cdef bint leave(self) except -1:
        # Out of the line, if still there. Says whether it had been woken, so that a wake-up that is not used
        # can be passed on.
        if self.line is not None:
            self.line.drop(self)
        return self.state == FINISHED and self.error is None


@cython.final
@cython.internal
cdef class Stand(Parked):
    """Keeps the place of a future that a program has put into a line by itself."""
    cdef object future

    cdef bint sleeps(self) except -1:
        return not self.future.done()

    cdef int finish(self) except -1:
        self.future.set_result(None)
        return 0


@cython.final
cdef class Line:
    """Who waits, in the order they came."""

    def __cinit__(self):
        self.anchor.before = self.anchor.after = self.next = &self.anchor

    def __dealloc__(self):
        disband(self)

    cdef int join(self, Parked waiter) noexcept:
        cdef Link* place = &waiter.place
        place.owner = <PyObject*>waiter
        place.after = &self.anchor
        place.before = self.anchor.before
        place.before.after = self.anchor.before = place
        if self.next == &self.anchor:
            self.next = place
        self.count += 1
        waiter.line = self
        Py_INCREF(waiter)
        return 0

    cdef int drop(self, Parked waiter) except -1:
        cdef Link* place = &waiter.place
        if self.next == place:
            self.next = place.after
        place.before.after = place.after
        place.after.before = place.before
        self.count -= 1
        waiter.line = None
        Py_DECREF(waiter)
        return 0

    cdef bint wake_next(self) except -1:
        # Wake the first who still sleeps; False if nobody does.
        cdef Link* link = self.next
        cdef Parked waiter
        while link != &self.anchor:
            waiter = <Parked>link.owner
            link = self.next = link.after
            if waiter.state == PENDING:
                wake(waiter)
                return True
        return False

    cdef int wake_first(self) except -1:
        # Wake the first in the line, unless that has happened: then it will see to the rest.
        cdef Parked waiter
        if self.count:
            waiter = <Parked>self.anchor.after.owner
            if waiter.state == PENDING:
                wake(waiter)
        return 0

    cdef bint wake_and_drop(self) except -1:
        # Take out everybody up to and including the first who still sleeps, and wake that one.
        cdef Parked waiter
        while self.count:
            waiter = <Parked>self.anchor.after.owner
            self.drop(waiter)
            if waiter.state == PENDING and (type(waiter) is not Stand or (<Stand>waiter).sleeps()):
                wake(waiter)
                return True
        return False

    cdef bint all_cancelled(self) noexcept:
        cdef Link* link = self.anchor.after
        while link != &self.anchor:
            if (<Parked>link.owner).state != CANCELLED:
                return False
            link = link.after
        return True

    cdef object members(self):
        cdef Link* link = self.anchor.after
        found = deque()
        while link != &self.anchor:
            if type(<object>link.owner) is Stand:
                found.append((<Stand>link.owner).future)
            else:
                found.append(<object>link.owner)
            link = link.after
        return found

    cdef Parked standing_for(self, object waiter):
        # Who has the place of what members() shows.
        cdef Link* link = self.anchor.after
        while link != &self.anchor:
            if link.owner == <PyObject*>waiter:
                return <Parked>link.owner
            if type(<object>link.owner) is Stand and (<Stand>link.owner).future is waiter:
                return <Parked>link.owner
            link = link.after
        return None


def remake(kind):
    """An object of this class as it is before `__init__`: for pickles."""
    return kind.__new__(kind)


class Members(deque):
    """Who stands in a line, for subclasses that wait in it by themselves, with futures of their own: what is appended,
    removed or taken from the left here stands in the line, or no longer does. Everything else is a copy's."""

    def __init__(self, Line line not None):
        super().__init__(line.members())
        self._line = line

    def append(self, future):
        """Stand at the end of the line."""
        cdef Line line = self._line
        cdef Stand stand = Stand.__new__(Stand)
        stand.stage = OVER  # nobody awaits it
        stand.future = future
        line.join(stand)
        super().append(future)

    def remove(self, future):
        """Leave the line. Raises ValueError if the future does not stand there."""
        cdef Line line = self._line
        cdef Parked stand = line.standing_for(future)
        if stand is None:
            raise ValueError(f"{future!r} does not stand in this line")
        line.drop(stand)
        if future in self:
            super().remove(future)

    def popleft(self):
        """Take out and return the first. Raises IndexError if there is nobody."""
        cdef Line line = self._line
        future = super().popleft()
        cdef Parked stand = line.standing_for(future)
        if stand is not None:
            line.drop(stand)
        return future


cdef class LoopBound:
    """Base of the primitives. Not for use from Python."""

    def __cinit__(self):
        noria_forget_dict(self)

    cdef object bind(self):
        running = running_loop()
        if running is not self.loop:
            if self.loop is not None:
                raise RuntimeError(f"{self!r} is bound to a different event loop")
            self.loop = running
        return running

    def _get_loop(self):
        return self.bind()

    @property
    def _loop(self):
        return self.loop

    @_loop.setter
    def _loop(self, value):
        self.loop = value

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        self.replaced(name)

    cdef int replaced(self, str name) except -1:
        # A program has set an attribute of this one object: it may be a method, by which everything is to go then.
        return 0

    # Copies, deep ones and pickles have the state, and belong to no loop yet. Waiting tasks cannot be had twice.

    def __reduce__(self):
        # Not the standard way, which goes by `__class__`.
        return remake, (type(self),), self.__getstate__()

    def __getstate__(self):
        return getattr(self, "__dict__", None) or None, self.content()

    def __setstate__(self, state):
        if isinstance(state, tuple):
            attributes, content = state
            self.fill(content)
        else:
            attributes = state  # of a subclass that has a __getstate__ of its own
        for name, value in (attributes or {}).items():
            setattr(self, name, value)

    cdef object content(self):
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    cdef int fill(self, object content) except -1:
        return 0


# The collector must see whom a line owns: a task that waits for a lock which it alone refers to is a cycle.

cdef void disband(Line line) noexcept:
    cdef PyObject* owner
    cdef Parked waiter
    while line.count:
        owner = line.anchor.after.owner
        waiter = <Parked>owner
        line.anchor.after = waiter.place.after
        waiter.place.after.before = &line.anchor
        line.next = line.anchor.after
        line.count -= 1
        waiter.line = None
        Py_DECREF(waiter)


cdef traverseproc plain_traverse = (<PyTypeObject*>Line).tp_traverse
cdef inquiry plain_clear = (<PyTypeObject*>Line).tp_clear


cdef int traverse(PyObject* self, visitproc visit, void* arg) noexcept:
    cdef Line line = <Line>self
    cdef Link* link = line.anchor.after
    cdef int stop
    while link != NULL and link != &line.anchor:
        stop = visit(link.owner, arg)
        if stop:
            return stop
        link = link.after
    return plain_traverse(self, visit, arg) if plain_traverse != NULL else 0


cdef int clear(PyObject* self) noexcept:
    disband(<Line>self)
    return plain_clear(<object>self) if plain_clear != NULL else 0


(<PyTypeObject*>Line).tp_traverse = <traverseproc>traverse
(<PyTypeObject*>Line).tp_clear = <inquiry>clear


cdef int alone(object self, Line waiters) except -1:
    # Raises TypeError if somebody waits, for who wants a copy.
    if waiters.count:
        raise TypeError(f"cannot copy or pickle {self!r}: tasks wait for it")
    return 0


cdef bint inherits(object self, tuple names) except -1:
    # Whether these methods are noria's, not a program's own.
    cdef PyTypeObject* compiled = Py_TYPE(self)
    if not PyType_GetFlags(compiled) & Py_TPFLAGS_HEAPTYPE:
        return True
    while PyType_GetFlags(compiled) & Py_TPFLAGS_HEAPTYPE:
        compiled = compiled.tp_base
    for name in names:
        if getattr(type(self), name) is not getattr(<object>compiled, name):
            return False
    return True


cdef object shown_as(object self, object standard):
    # The value of `__class__`: asyncio's class, for programs that ask by isinstance; a program's own class is itself.
    if PyType_GetFlags(Py_TYPE(self)) & Py_TPFLAGS_HEAPTYPE:
        return type(self)
    return standard
