"""Ends: loops that are dropped, threads that go on calling, interpreters that end in the middle of everything.

Each program of the second part runs in an interpreter of its own, in dev mode with the debugging allocator, where misuse of
memory is fatal; it must end as it would on asyncio, in time and without a report from the interpreter.
"""

import asyncio
import gc
import socket
import threading
import time
import warnings
import weakref
from typing import Any

import pytest

import noria
from core.running import DEADLINE, new_loop, python
from net.peers import Echo, Recorder
from support.leaks import no_descriptors_left

# Calls from other threads.


def test_calls_from_many_threads_run_or_are_refused_also_while_the_loop_closes() -> None:
    class Call:
        """A callback that can be told from all others, and whether it is still held."""

        __slots__ = ("__weakref__",)

        def __call__(self) -> None:
            nonlocal ran
            ran += 1

    ran = 0
    for _ in range(20):
        loop = noria.new_event_loop()
        held: list[weakref.ref[Call]] = []
        errors: list[str] = []
        started = threading.Barrier(5)

        def send() -> None:
            started.wait(DEADLINE)
            for n in range(1_000_000):
                call = Call()
                held.append(weakref.ref(call))
                try:
                    loop.call_soon_threadsafe(call)
                except RuntimeError as error:
                    errors.append(str(error))
                    return
                if n > 20:
                    time.sleep(0)  # goes on until it is refused, but without flooding the loop

        ran = 0
        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        started.wait(DEADLINE)
        loop.run_until_complete(asyncio.sleep(0.002))
        ran_open = ran
        call = Call()
        held.append(weakref.ref(call))
        loop.call_soon(call)
        del call
        loop.close()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        assert errors == ["Event loop is closed"] * 4
        assert 0 < ran_open == ran  # closing runs nothing
        gc.collect()
        assert [ref for ref in held if ref() is not None] == []  # and what did not run was let go


def test_no_call_before_the_last_turn_is_lost() -> None:
    # Whatever is accepted before the loop is told to stop runs.
    for _ in range(10):
        with new_loop() as loop:
            ran: list[int] = []

            def send(start: int) -> None:
                for n in range(start, start + 500):
                    loop.call_soon_threadsafe(ran.append, n)

            threads = [threading.Thread(target=send, args=(500 * k,)) for k in range(8)]

            def last() -> None:
                for thread in threads:
                    thread.join()
                loop.call_soon_threadsafe(loop.stop)

            for thread in [*threads, threading.Thread(target=last)]:
                thread.start()
            loop.run_forever()
            assert sorted(ran) == list(range(4000))


def test_threads_may_be_the_last_to_hold_a_loop() -> None:
    for _ in range(20):
        loop = noria.new_event_loop()
        started = threading.Barrier(4)
        go = threading.Event()

        def send(target: noria.Loop) -> None:
            started.wait(DEADLINE)
            for _ in range(100):
                target.call_soon_threadsafe(int)
            go.wait(DEADLINE)
            target.call_soon_threadsafe(int)

        threads = [threading.Thread(target=send, args=(loop,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        started.wait(DEADLINE)
        loop.run_until_complete(asyncio.sleep(0))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            del loop
            go.set()
            for thread in threads:
                thread.join(DEADLINE)
            assert not any(thread.is_alive() for thread in threads)
            gc.collect()
        assert [str(one.message)[:21] for one in seen] == ["unclosed event loop <"]


# Loops that are dropped.


def test_a_dropped_loop_warns_and_lets_everything_go() -> None:
    class Held:
        """Something that a callback holds."""

    async def fill(loop: noria.Loop) -> list[weakref.ref[Any]]:
        held = [Held() for _ in range(5)]
        loop.call_later(60, held[0].__hash__)
        loop.call_soon(loop.call_soon, held[1].__hash__)
        future = loop.create_future()
        future.add_done_callback(lambda _, held=held[2]: None)  # type: ignore[misc]
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        protocol.held = held[3]
        near, far = socket.socketpair()
        loop.add_reader(near, lambda held=held[4], ends=(near, far): None)  # type: ignore[misc]
        refs = [weakref.ref(one) for one in (*held, transport, future)]
        del held, server, transport, protocol
        return refs

    with no_descriptors_left():
        loop = noria.new_event_loop()
        refs = loop.run_until_complete(fill(loop))
        refs.append(weakref.ref(loop))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            del loop
            gc.collect()
        messages = [str(one.message) for one in seen]
        assert (
            sum(text.startswith("unclosed event loop <Loop running=False closed=False") for text in messages)
            == 1
        )
        assert all(one.category is ResourceWarning for one in seen)
        assert [ref() for ref in refs if ref() is not None] == []


def test_a_loop_dropped_with_tasks_pending_tells_of_each(caplog: pytest.LogCaptureFixture) -> None:
    loop = noria.new_event_loop()
    tasks = [loop.create_task(asyncio.sleep(60), name=f"pending {n}") for n in range(3)]
    loop.run_until_complete(asyncio.sleep(0))
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        del loop, tasks
        gc.collect()
    told = [text for text in caplog.messages if text.startswith("Task was destroyed but it is pending!")]
    assert len(told) == 3


def test_dropping_a_thousand_loops_leaves_no_memory_behind() -> None:
    def drop(count: int) -> None:
        for _ in range(count):
            loop = noria.new_event_loop()
            loop.call_later(60, print)
            loop.call_soon(print)
            del loop
        gc.collect()

    with warnings.catch_warnings(), no_descriptors_left():
        warnings.simplefilter("ignore")
        drop(1000)  # the collector comes by now and then: this many are enough for the usual level
        before = resident()
        drop(1000)
        assert resident() - before < 8 << 20  # a loop's buffer alone is a quarter of a megabyte


def resident() -> int:
    """Bytes of memory this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


# Interpreters that end.

START = """
import asyncio, atexit, gc, noria, os, signal, socket, sys, threading, time
loop = noria.new_event_loop()
loop.slow_callback_duration = 60  # dev mode reports what takes longer, and threads compete here
"""

# name: (program, what stderr may hold)
ENDS: dict[str, tuple[str, str]] = {
    "tasks pending on a loop that nobody closed": (
        "tasks = [loop.create_task(asyncio.sleep(60)) for _ in range(10)]; loop.run_until_complete(asyncio.sleep(0))",
        "Task was destroyed but it is pending",
    ),
    "tasks pending that nobody holds but the loop": (
        "for _ in range(10): loop.create_task(asyncio.sleep(60))\nloop.run_until_complete(asyncio.sleep(0))",
        "Task was destroyed but it is pending",
    ),
    "tasks that await in their cleanup": (
        """
future = loop.create_future()
async def cleaning():
    try:
        await asyncio.sleep(60)
    finally:
        await future
tasks = [loop.create_task(cleaning()) for _ in range(3)]
loop.run_until_complete(asyncio.sleep(0))
""",
        "coroutine ignored GeneratorExit",
    ),
    "callbacks and timers that never ran": (
        "loop.call_soon(print); loop.call_later(0, print); loop.call_later(60, print)",
        "",
    ),
    "connections and servers open": (
        """
async def main():
    server = await asyncio.start_server(lambda r, w: asyncio.sleep(60), "127.0.0.1", 0)
    pairs = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(5)]
    pairs[0][1].write(b"x" * 10_000_000)
    return server, pairs
kept = loop.run_until_complete(main())
""",
        "Task was destroyed but it is pending",
    ),
    "a loop that runs in a daemon thread": (
        """
async def busy():
    while True:
        await asyncio.sleep(0)
threading.Thread(target=loop.run_until_complete, args=(busy(),), daemon=True).start()
while not loop.is_running():
    time.sleep(0.001)
""",
        "",
    ),
    "a loop that sleeps in a daemon thread": (
        """
threading.Thread(target=loop.run_forever, daemon=True).start()
while not loop.is_running():
    time.sleep(0.001)
""",
        "",
    ),
    "daemon threads that call the loop": (
        """
def send():
    while True:
        loop.call_soon_threadsafe(int)
for _ in range(4):
    threading.Thread(target=send, daemon=True).start()
loop.run_until_complete(asyncio.sleep(0.02))
""",
        "",
    ),
    "a loop run by atexit": (
        """
async def main():
    await asyncio.sleep(0.001)
    return 5
atexit.register(lambda: print(noria.run(main()), loop.run_until_complete(main())))
""",
        "",
    ),
    "work in the default executor": (
        "loop.run_in_executor(None, time.sleep, 0.05); loop.run_until_complete(asyncio.sleep(0))",
        "",
    ),
    "work in the default executor that ends after the loop": (
        """
async def main():
    loop = asyncio.get_running_loop()
    for _ in range(5):
        loop.run_in_executor(None, time.sleep, 0.02)
loop.run_until_complete(main())
loop.close()
""",
        "",
    ),
    "a child process running": (
        """
async def main():
    return await asyncio.create_subprocess_exec("sleep", "60", stdin=-1, stdout=-1)
child = loop.run_until_complete(main())
""",
        "Close running child process: kill",
    ),
    "signal handlers set": ("loop.add_signal_handler(signal.SIGTERM, print)", ""),
    "an asynchronous generator half way": (
        """
async def numbers():
    try:
        yield 1
        yield 2
    finally:
        print("generator ended")
kept = numbers()
loop.run_until_complete(kept.__anext__())
""",
        "",
    ),
    "sys.exit in a callback": ("loop.call_soon(sys.exit); loop.run_forever()", ""),
    "sys.exit in a task": (
        """
async def main():
    asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    sys.exit()
noria.run(main())
""",
        "",
    ),
    "objects that call the loop as they go": (
        """
class Calls:
    def __del__(self, loop=loop):
        try:
            loop.call_soon(print)
            loop.call_soon_threadsafe(print)
        except RuntimeError:
            pass
kept = Calls()
loop.call_soon(Calls().__hash__)
loop.call_later(60, Calls().__hash__)
loop.create_future().add_done_callback(lambda _, calls=Calls(): None)
""",
        "",
    ),
    "tasks, futures and loops that were cleared before the module": (
        """
future = loop.create_future()
async def wait():
    await future
tasks = [loop.create_task(wait()) for _ in range(5)]
loop.run_until_complete(asyncio.sleep(0))
sys.modules["noria"].__dict__.clear()
""",
        "Task was destroyed but it is pending",
    ),
    "a thread that waits for the loop": (
        """
def ask():
    future = asyncio.run_coroutine_threadsafe(asyncio.sleep(60), loop)
    try:
        future.result(0.05)
    except TimeoutError:
        pass
thread = threading.Thread(target=ask)
thread.start()
loop.run_until_complete(asyncio.sleep(0.01))
""",
        "Task was destroyed but it is pending",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_interpreter_ends_well_with(name: str) -> None:
    program, told = ENDS[name]
    began = time.monotonic()
    done = python(START + program, "-X", "dev", "-W", "ignore")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < DEADLINE / 2
    for word in ("Fatal", "Segmentation", "AddressSanitizer", "assert"):
        assert word not in done.stderr
    if told:
        assert told in done.stderr
    else:
        assert done.stderr == ""


def test_a_subinterpreter_is_refused_and_the_main_one_goes_on() -> None:
    # Until the compiled modules keep their state by interpreter (PEP 630), there can be one that has them.
    program = """
import asyncio, noria, sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
inside = '''
try:
    import noria
except ImportError as error:
    print("refused", flush=True)
'''
for _ in range(3):
    other = interpreters.create()
    interpreters.run_string(other, inside)
    interpreters.destroy(other)
print(noria.run(asyncio.sleep(0.001, "works")))
"""
    done = python(program, "-W", "ignore")
    assert (done.returncode, done.stdout) == (0, "refused\n" * 3 + "works\n"), done.stderr
