"""Puts noria's classes where a module of CPython's test suite looks for asyncio's. Nothing of CPython's is copied.

Cases that are written once and subclassed for each implementation (futures, tasks, loops) are subclassed here for
noria's, and the classes for CPython's own implementations are dropped. For everything else three substitutions
are made before and after the test module is imported:

- the names in the package `asyncio` that noria also has, and the default policy, are noria's;
- the submodules of asyncio that the test module imported are covered by an `Overlay`, which has noria's classes;
- where a case puts a mock in place of `logger`, `signal` or `socket` inside a submodule of asyncio, the module
  of noria that does that work sees the mock too (`SeenThrough`).

The standard library itself goes on using its own classes.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.events
import asyncio.futures
import asyncio.runners
import asyncio.selector_events
import asyncio.tasks
import asyncio.unix_events
import heapq
import importlib
import itertools
import socket
import types
import unittest
from collections.abc import Callable, Generator
from typing import Any

import noria
import noria.core.house
import noria.net.connect
import noria.net.endpoints
import noria.net.resolve
import noria.net.stream
import noria.runners
import noria.signals
from conformance import reference

Cases = dict[str, type[unittest.TestCase]]
Moves = Callable[[], Generator[float, float, None]]


# The names.


def substitute_names() -> None:
    """From now on `asyncio.Name` is noria's, wherever noria has its own."""
    for name in vars(noria)["__all__"]:
        ours = getattr(noria, name)
        if reference.own(name) or not hasattr(asyncio, name):
            setattr(asyncio, name, ours)
    for name in ("BaseEventLoop", "EventLoop", "SelectorEventLoop"):
        setattr(asyncio, name, LoopByTurns)
    # what asyncio.set_event_loop_policy(None) leads to
    asyncio.DefaultEventLoopPolicy = noria.EventLoopPolicy


class Overlay(types.ModuleType):
    """A submodule of asyncio as a test module sees it: noria's objects in it, else the standard module's."""

    def __init__(self, under: types.ModuleType, names: dict[str, object]) -> None:
        super().__init__(under.__name__)
        self.__dict__["_under"] = under
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> object:
        return getattr(self._under, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._under, name, value)


def cover_submodules(module: types.ModuleType) -> None:
    """Put noria's objects in place of what a test module imported from the submodules of asyncio.

    A submodule among its globals is covered by an overlay, a class or function that it took out of one is replaced.
    """
    names = {name: getattr(noria, name) for name in vars(noria)["__all__"] if reference.own(name)}
    names |= {"BaseEventLoop": LoopByTurns}
    for key, value in list(vars(module).items()):
        if isinstance(value, types.ModuleType) and value.__name__.startswith("asyncio."):
            ours = {name: mine for name, mine in names.items() if name in vars(value)}
            if ours:
                setattr(module, key, Overlay(value, ours))
        elif key in names and str(getattr(value, "__module__", "")).startswith("asyncio."):
            setattr(module, key, names[key])


class SeenThrough:
    """Stands for an object in a module of noria; if a test has replaced it in asyncio, for the replacement."""

    def __init__(self, real: object, name: str, *places: types.ModuleType) -> None:
        self._real = real
        self._name = name
        self._places = places

    def __getattr__(self, attribute: str) -> object:
        for place in self._places:
            seen = getattr(place, self._name)
            if seen is not self._real:
                return getattr(seen, attribute)
        return getattr(self._real, attribute)


class SeenThroughLookUps(SeenThrough):
    """`socket` for the module that looks up names. What a test knows as a look-up goes to its mock; that noria has the C
    library read an address written in numbers is its own affair."""

    gaierror = socket.gaierror

    def getaddrinfo(self, host: Any, port: Any, family: int, type: int, proto: int, flags: int) -> list[Any]:
        """socket.getaddrinfo."""
        numeric = flags & socket.AI_NUMERICHOST
        asked: Any = socket.getaddrinfo if numeric else self.__getattr__("getaddrinfo")
        return list(asked(host, port, family, type, proto, flags))


def let_mocks_through() -> None:
    """Show noria's modules what a test puts in place of the logger, of `signal` and of `socket`."""
    for module, name, *places in (
        (noria.core.house, "logger", asyncio.base_events),
        (noria.net.stream, "logger", asyncio.selector_events),
        (noria.signals, "signal", asyncio.unix_events),
        (noria.net.connect, "socket", asyncio.base_events, asyncio.unix_events),
        (noria.net.endpoints, "socket", asyncio.base_events),
        (noria.net.endpoints, "logger", asyncio.base_events),
    ):
        real = getattr(module, name)
        setattr(module, name, SeenThrough(real, name, *places))
    vars(noria.net.resolve)["socket"] = SeenThroughLookUps(socket, "socket", asyncio.base_events)


# Loops for cases that drive a loop by hand.


class MockedInBase:
    """A method of noria's loop that a case may replace in the class that is the base of all loops in asyncio."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._standard = vars(asyncio.base_events.BaseEventLoop)[name]

    def __get__(self, loop: noria.Loop, owner: type) -> Any:
        seen = vars(asyncio.base_events.BaseEventLoop)[self._name]
        return getattr(noria.Loop, self._name).__get__(loop, owner) if seen is self._standard else seen


class LoopByTurns(noria.Loop):
    """A noria loop with a few private conveniences of asyncio's that cases use to drive it, not to look inside."""

    def __init__(self, selector: object = None) -> None:
        super().__init__()

    def _run_once(self) -> None:
        self.call_soon(self.stop)
        self.run_forever()

    def _stop_serving(self, sock: socket.socket) -> None:
        self.remove_reader(sock)
        sock.close()

    async def _sock_sendfile_native(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        return await self.sock_sendfile(sock, file, offset, count, fallback=False)

    def _handle_signal(self, signum: int) -> None:
        self._on_signal(signum, None)

    call_exception_handler = MockedInBase("call_exception_handler")


class VirtualClockLoop(LoopByTurns):
    """A noria loop whose clock moves only as a generator says, for cases written for such a loop.

    The generator is sent the time of each new timer and answers by how many seconds the clock moves on. What it
    raises comes out of close(). As on CPython's own loop for tests no descriptor is watched, since the cases invent
    theirs: `readers` and `writers` note what was asked for.
    """

    def __init__(self, moves: Moves | None = None) -> None:
        super().__init__()
        self._moves = moves() if moves is not None else None
        if self._moves is not None:
            next(self._moves)
        self._now = 0.0
        self._waiting: list[tuple[float, int, Any]] = []
        self._announced: list[float] = []
        self._serial = itertools.count()
        self._ticking = False
        self._wrong: BaseException | None = None
        self._ready = ()  # a case asks whether nothing is ready; noria's queue cannot be seen from Python
        self.readers: dict[int, tuple[Any, tuple[Any, ...]]] = {}
        self.writers: dict[int, tuple[Any, tuple[Any, ...]]] = {}

    def time(self) -> float:
        """The virtual clock."""
        return self._now

    def advance_time(self, seconds: float) -> None:
        """Move the clock by hand."""
        self._now += seconds
        self._tick_soon()

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        timer = noria.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._waiting, (when, next(self._serial), timer))
        self._announced.append(when)
        self._tick_soon()
        return timer

    def run_until_complete(self, future: Any) -> Any:
        try:
            return super().run_until_complete(future)
        finally:
            self._announce()

    def _tick_soon(self) -> None:
        if not self._ticking:
            self._ticking = True
            self.call_soon(self._tick)

    def _announce(self) -> None:
        announced, self._announced = self._announced, []
        if self._moves is None or self._wrong is not None:
            return
        try:
            for when in announced:
                self._now += self._moves.send(when) or 0
        except BaseException as error:
            self._wrong = error

    def _tick(self) -> None:
        self._ticking = False
        self._announce()
        while self._waiting and self._waiting[0][0] <= self._now + 1e-9:
            timer = heapq.heappop(self._waiting)[2]
            if not timer.cancelled():
                self.call_soon(timer._run)

    def close(self) -> None:
        super().close()
        moves, self._moves = self._moves, None
        if moves is None:
            return
        if self._wrong is not None:
            raise self._wrong
        try:
            moves.send(0)
        except StopIteration:
            return
        raise AssertionError("the time generator is not finished")

    def assert_reader(self, fd: int, callback: Any, *args: Any) -> None:
        """Whether this callback was asked for when fd can be read."""
        assert self.readers[fd] == (callback, args)

    def assert_writer(self, fd: int, callback: Any, *args: Any) -> None:
        """Whether this callback was asked for when fd can be written."""
        assert self.writers[fd] == (callback, args)

    def _note_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        self.readers[fd] = (callback, args)

    def _drop_reader(self, fd: Any) -> bool:
        return self.readers.pop(fd, None) is not None

    def _note_writer(self, fd: Any, callback: Any, *args: Any) -> None:
        self.writers[fd] = (callback, args)

    def _drop_writer(self, fd: Any) -> bool:
        return self.writers.pop(fd, None) is not None

    add_reader = _add_reader = _note_reader  # type: ignore[assignment]
    remove_reader = _remove_reader = _drop_reader
    add_writer = _add_writer = _note_writer  # type: ignore[assignment]
    remove_writer = _remove_writer = _drop_writer


def on_noria(self: Any, gen: Moves | None = None) -> VirtualClockLoop:
    """`new_test_loop` of a case, with noria's loop instead of CPython's test loop."""
    loop = VirtualClockLoop(gen)
    self.set_event_loop(loop)
    return loop


# The classes of a module.


def cases_of(module: types.ModuleType) -> Cases:
    """The test case classes that a module itself defines."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, unittest.TestCase)
        and value.__module__ == module.__name__
    }


class Wardrobe:
    """The cases of one module while they change clothes."""

    def __init__(self, module: types.ModuleType) -> None:
        self.module: Any = module
        self.kept = cases_of(module)
        self.base: Any = (
            self.module.test_utils.TestCase if hasattr(module, "test_utils") else unittest.TestCase
        )
        self.standard_loop: dict[str, Any] = {}

    def drive_by_noria(self) -> None:
        """Cases that ask for a loop to drive by hand get noria's; `standard_loop` gives a class CPython's again."""
        if hasattr(self.base, "new_test_loop"):
            self.standard_loop = {"new_test_loop": self.base.new_test_loop}
            self.base.new_test_loop = on_noria

    def drop(self, *bases: type) -> None:
        """Leave out the classes that derive from one of these."""
        self.kept = {name: case for name, case in self.kept.items() if not issubclass(case, bases)}

    def add(self, name: str, *bases: Any, **attributes: Any) -> type[unittest.TestCase]:
        """A new class of cases; it becomes a global of its module, as one written there is."""
        case = type(name, bases, {"__module__": self.module.__name__, **attributes})
        setattr(self.module, name, case)
        self.kept[name] = case
        return case


def base_events(w: Wardrobe) -> None:
    """One class makes a loop that it imports only then."""
    vars(asyncio.selector_events)["BaseSelectorEventLoop"] = LoopByTurns


def futures(w: Wardrobe) -> None:
    module = w.module
    states = (module.BaseFutureTests, module.BaseFutureDoneCallbackTests, module.BaseFutureInheritanceTests)
    w.drop(*states)
    segfault = {"test_future_del_segfault": module.CFutureTests.test_future_del_segfault}

    class SubFuture(noria.Future):  # type: ignore[type-arg]
        pass

    for where, loop in (("OnStandardLoop", w.standard_loop), ("OnNoria", {})):
        for name, cls in (("Future", noria.Future), ("SubFuture", SubFuture)):
            attributes = {
                "cls": cls,
                "_new_future": lambda self, cls=cls: cls(loop=self.loop),
                "_get_future_cls": lambda self, cls=cls: cls,
                **loop,
            }
            plain = {key: value for key, value in attributes.items() if key != "_new_future"}
            w.add(f"{name}{where}Tests", states[0], w.base, **plain, **segfault)
            w.add(f"{name}DoneCallback{where}Tests", states[1], w.base, **attributes)
            w.add(f"{name}Inheritance{where}Tests", states[2], w.base, **attributes)


def futures2(w: Wardrobe) -> None:
    w.drop(w.module.FutureTests)
    w.add("TaskTests", w.module.FutureTests, unittest.IsolatedAsyncioTestCase, cls=noria.Task)


def tasks(w: Wardrobe) -> None:
    module = w.module
    cases, setters = module.BaseTaskTests, module.SetMethodsTest
    gathers = (module.FutureGatherTests, module.CoroutineGatherTests)
    segfault = "test_del__log_destroy_pending_segfault"
    more = {segfault: vars(module.CTask_CFuture_Tests)[segfault]}
    w.drop(cases, module.BaseCurrentLoopTests, module.BaseTaskIntrospectionTests, *gathers)

    standard: Any = asyncio.tasks
    c_task, py_task = standard._CTask, standard._PyTask
    c_future, py_future = standard.futures._CFuture, standard.futures._PyFuture
    w.add("OnNoriaTests", cases, setters, w.base, Task=noria.Task, Future=noria.Future, **more)
    w.add(
        "OnStandardLoopTests",
        *(cases, setters, w.base),
        **{"Task": noria.Task, "Future": noria.Future, **w.standard_loop},
    )
    w.add("CFutureTests", cases, w.base, Task=noria.Task, Future=c_future)
    w.add("PyFutureTests", cases, w.base, Task=noria.Task, Future=py_future)
    # The interpreter's own tasks need not do what another version's tests say.
    if reference.tests_are_its_own():
        w.add("CTaskTests", cases, w.base, Task=c_task, Future=noria.Future)
        w.add("PyTaskTests", cases, w.base, Task=py_task, Future=noria.Future)
        w.add("CTaskCFutureTests", cases, w.base, Task=c_task, Future=c_future)
    for name, loop in (("Subclass", {}), ("SubclassOnStandardLoop", w.standard_loop)):
        case = w.add(f"{name}Tests", cases, w.base, Task=noria.Task, Future=noria.Future, **loop)
        w.kept[f"{name}Tests"] = module.add_subclass_tests(case)

    def run_what_is_ready(self: Any, loop: LoopByTurns) -> None:
        for _ in range(5):  # a gather of gathers takes three turns
            loop._run_once()

    for case in gathers:
        w.add(case.__name__, case, _run_loop=run_what_is_ready)
    w.add(
        "CurrentLoopTests",
        module.BaseCurrentLoopTests,
        w.base,
        new_task=lambda self, coro: noria.Task(coro, loop=self.loop),
        current_task=staticmethod(noria.current_task),
    )
    names = ("_register_task", "_unregister_task", "_enter_task", "_leave_task")
    functions = {name: staticmethod(getattr(noria, name)) for name in names}
    w.add("IntrospectionTests", w.base, module.BaseTaskIntrospectionTests, **functions)


def eager(w: Wardrobe) -> None:
    factory = w.module.EagerTaskFactoryLoopTests
    counting = getattr(w.module, "BaseTaskCountingTests", factory)  # 3.12.1 and later
    w.drop(factory, counting)
    w.add("EagerTaskFactoryTests", factory, w.base, Task=noria.Task)
    if counting is not factory:
        w.add("NonEagerTests", w.module.BaseNonEagerTaskFactoryTests, w.base, Task=noria.Task)
        w.add("EagerTests", w.module.BaseEagerTaskFactoryTests, w.base, Task=noria.Task)


def one_selector(w: Wardrobe) -> None:
    """The same cases stand there once for each selector: take one class of them."""
    for name in ("KqueueEventLoopTests", "PollEventLoopTests", "SelectEventLoopTests", "TestPyGetEventLoop"):
        w.kept.pop(name, None)


def one_watcher(w: Wardrobe) -> None:
    """The same cases stand there once for each child watcher: take one class of them, noria uses none."""
    for watcher in ("Safe", "Fast", "Pidfd", "MultiLoop"):
        w.kept.pop(f"Subprocess{watcher}WatcherTests", None)


def runners(w: Wardrobe) -> None:
    """These cases look at the loop they made through a policy: let noria's Runner take its loop from there."""
    vars(noria.runners)["new_event_loop"] = lambda: asyncio.get_event_loop_policy().new_event_loop()


def unix_events(w: Wardrobe) -> None:
    """Some cases use a private convenience of a loop they make by asyncio.new_event_loop()."""
    asyncio.new_event_loop = LoopByTurns


CLOTHES: dict[str, Callable[[Wardrobe], None]] = {
    "test_base_events": base_events,
    "test_futures": futures,
    "test_futures2": futures2,
    "test_tasks": tasks,
    "test_eager_task_factory": eager,
    "test_events": one_selector,
    "test_sendfile": one_selector,
    "test_sock_lowlevel": one_selector,
    "test_subprocess": one_watcher,
    "test_runners": runners,
    "test_unix_events": unix_events,
}


def load(name: str) -> Cases:
    """The test cases of `test.test_asyncio.<name>`, or of the module with that full name, on noria."""
    substitute_names()
    let_mocks_through()
    asyncio.set_event_loop(None)  # some cases rely on one before them having done this, which may be excluded
    module = importlib.import_module(name if "." in name else f"test.test_asyncio.{name}")
    cover_submodules(module)
    wardrobe = Wardrobe(module)
    wardrobe.drive_by_noria()
    if name in CLOTHES:
        CLOTHES[name](wardrobe)
    return wardrobe.kept
