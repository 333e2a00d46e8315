"""noria.patch() and noria.unpatch(), and `noria run`, which patches: noria's names in the place of asyncio's."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.running import python

# Of each module of asyncio a snapshot: what every global is, by identity.
SNAPSHOT = """
import asyncio, sys
def snapshot():
    return {
        (module, name): id(value)
        for module in sorted(sys.modules) if module.split(".")[0] == "asyncio"
        for name, value in vars(sys.modules[module]).items()
        if name not in ("_event_loop_policy", "__builtins__")
    }
"""


def passes(program: str) -> str:
    done = python(program, "-X", "dev", "-W", "error")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_importing_noria_changes_nothing_in_asyncio() -> None:
    passes(SNAPSHOT + "before = snapshot()\nimport noria\nassert snapshot() == before\n")


def test_patch_puts_noria_s_objects_in_the_package_and_in_the_submodules() -> None:
    passes(
        """
import asyncio, noria
noria.patch()
for name in ("sleep", "gather", "wait", "wait_for", "timeout", "TaskGroup", "Future", "Task", "shield"):
    assert getattr(asyncio, name) is getattr(noria, name), name
assert asyncio.tasks.gather is noria.gather
assert asyncio.timeouts.Timeout is noria.Timeout
assert asyncio.taskgroups.TaskGroup is noria.TaskGroup
assert asyncio.threads.to_thread is noria.to_thread
assert asyncio.futures.Future is noria.Future
"""
    )


def test_every_object_of_noria_s_own_is_put_in_its_place_but_those_of_the_loop() -> None:
    passes(
        """
import asyncio, noria
noria.patch()
left = {"Handle", "TimerHandle", "Server", "Runner", "run", "new_event_loop"}
for name in noria.__all__:
    ours = getattr(noria, name)
    if hasattr(asyncio, name) and str(getattr(ours, "__module__", "")).startswith("noria"):
        assert (getattr(asyncio, name) is ours) == (name not in left), name
"""
    )


def test_the_name_of_the_best_loop_gives_noria_s_and_the_name_of_a_loop_that_loop() -> None:
    passes(
        """
import asyncio, sys, noria
standard = asyncio.SelectorEventLoop

async def loop():
    return type(asyncio.get_running_loop())

assert noria.run(loop(), loop_factory=noria.EventLoop) is noria.Loop
noria.patch()
with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
    assert runner.run(loop()) is standard
if sys.version_info >= (3, 13):
    with asyncio.Runner(loop_factory=asyncio.EventLoop) as runner:
        assert runner.run(loop()) is noria.Loop
"""
    )


def test_unpatch_restores_every_attribute_and_the_policy() -> None:
    passes(
        SNAPSHOT
        + """
import noria
class Policy(asyncio.DefaultEventLoopPolicy):
    pass
for policy in (None, Policy()):
    asyncio.set_event_loop_policy(policy)
    before = snapshot()
    noria.patch()
    noria.patch()
    assert snapshot() != before
    assert isinstance(asyncio.get_event_loop_policy(), noria.EventLoopPolicy)
    noria.unpatch()
    assert snapshot() == before
    noria.unpatch()
    assert snapshot() == before
    if policy is not None:
        assert asyncio.get_event_loop_policy() is policy
    else:
        assert type(asyncio.get_event_loop_policy()) is asyncio.DefaultEventLoopPolicy
"""
    )


def test_unpatch_leaves_what_somebody_else_has_put_there_since() -> None:
    passes(
        """
import asyncio, noria
noria.patch()
asyncio.sleep = mine = object()
noria.unpatch()
assert asyncio.sleep is mine
assert asyncio.tasks.sleep is not noria.sleep
"""
    )


def test_what_was_imported_before_keeps_working_with_what_is_there_now() -> None:
    passes(
        """
import asyncio
from asyncio import Condition, Event, Future, Lock, Queue, Semaphore, Task, TaskGroup
from asyncio import gather, sleep, shield, timeout, wait, wait_for, as_completed, to_thread, current_task, all_tasks
import noria
noria.patch()

async def two():
    await sleep(0)
    return 2

async def main():
    assert asyncio.sleep is not sleep
    assert await gather(two(), asyncio.create_task(two()), asyncio.sleep(0, 2)) == [2, 2, 2]
    assert await asyncio.gather(sleep(0, 3), shield(two())) == [3, 2]
    async with timeout(10), asyncio.timeout(10), TaskGroup() as group, asyncio.TaskGroup() as other:
        tasks = [group.create_task(two()), other.create_task(two())]
    assert [task.result() for task in tasks] == [2, 2]
    assert await wait_for(two(), 10) == await asyncio.wait_for(two(), 10) == 2
    assert (await wait(tasks))[0] == (await asyncio.wait(tasks))[0] == set(tasks)
    assert [await one for one in as_completed([two()])] == [2]
    assert await to_thread(int, "5") == 5
    assert current_task() is asyncio.current_task() and current_task() in all_tasks()
    for future in (Future(), asyncio.Future()):
        assert isinstance(future, Future) and asyncio.isfuture(future)
        asyncio.get_running_loop().call_soon(future.set_result, 1)
        assert await future == 1
    assert isinstance(current_task(), Task) and isinstance(current_task(), asyncio.Task)
    condition, queue, event = Condition(), Queue(1), Event()
    async with condition, Lock(), Semaphore():
        condition.notify_all()
    queue.put_nowait(1)
    assert await queue.get() == 1
    queue.task_done()
    await queue.join()
    event.set()
    await event.wait()

asyncio.run(main())
with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # a standard loop, named
    runner.run(main())
"""
    )


def test_the_standard_library_s_own_modules_keep_working_on_either_loop() -> None:
    passes(
        """
import asyncio, noria, unittest
noria.patch()

async def talk(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()
    await writer.wait_closed()

async def main():
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\\n")
        assert await asyncio.wait_for(reader.readline(), 10) == b"hello\\n"
        writer.close()
        await writer.wait_closed()
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    assert await child.communicate(b"fish") == (b"fish", None)
    barrier = asyncio.Barrier(2)
    assert sorted(await asyncio.gather(barrier.wait(), barrier.wait())) == [0, 1]
    queue = asyncio.PriorityQueue()
    for n in (3, 1, 2):
        await queue.put(n)
    assert [await queue.get() for _ in range(3)] == [1, 2, 3]

asyncio.run(main())
with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
    runner.run(main())

class Case(unittest.IsolatedAsyncioTestCase):
    async def test(self):
        assert isinstance(asyncio.get_running_loop(), noria.Loop)
        await self.enterAsyncContext(asyncio.timeout(10))
assert unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(Case)).wasSuccessful()
"""
    )


def test_a_program_that_sets_a_policy_of_its_own_gets_its_own_loop() -> None:
    passes(
        """
import asyncio, noria
noria.patch()
asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
async def loop():
    await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0.001))
    return asyncio.get_running_loop()
assert not isinstance(asyncio.run(loop()), noria.Loop)
"""
    )


PROGRAM = """
import asyncio
from asyncio import gather
from asyncio.tasks import sleep

async def main():
    async with asyncio.timeout(10) as timeout, asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
    everything = (gather, sleep, asyncio.wait_for, type(timeout), type(group), type(asyncio.current_task()))
    return sorted({thing.__module__.split(".")[0] for thing in everything})

print(asyncio.run(main()))
"""


@pytest.mark.parametrize(
    ("command", "modules"), [(("-m", "noria", "run"), "['noria']"), ((), "['_asyncio', 'asyncio']")]
)
def test_an_unchanged_program_gets_noria_s_names_under_noria_run(
    tmp_path: Path, command: tuple[str, ...], modules: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, *command, str(program)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == modules
