"""noria.run, Runner, install and EventLoopPolicy: the ways in."""

import asyncio
import contextvars
import sys
import threading
from typing import Any

import pytest

import noria
from core.running import python


async def loop_and_debug() -> tuple[Any, bool]:
    loop = asyncio.get_running_loop()
    return loop, loop.get_debug()


def test_run_returns_the_result_on_a_fresh_noria_loop_and_closes_it() -> None:
    loop, _ = noria.run(loop_and_debug())
    assert isinstance(loop, noria.Loop)
    assert loop.is_closed()
    other, _ = noria.run(loop_and_debug())
    assert other is not loop


def test_run_raises_what_the_coroutine_raises() -> None:
    async def fail() -> None:
        raise KeyError("k")

    with pytest.raises(KeyError):
        noria.run(fail())


def test_run_wants_a_coroutine() -> None:
    for wrong in (None, 5, loop_and_debug, asyncio.sleep):
        with pytest.raises(ValueError, match="a coroutine was expected"):
            noria.run(wrong)  # type: ignore[arg-type]


def test_debug_mode_is_set_for_the_run() -> None:
    assert noria.run(loop_and_debug(), debug=True)[1] is True
    assert noria.run(loop_and_debug(), debug=False)[1] is False


def test_run_takes_a_loop_factory() -> None:
    made: list[asyncio.AbstractEventLoop] = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.SelectorEventLoop())
        return made[-1]

    assert noria.run(loop_and_debug(), loop_factory=factory)[0] is made[0]
    assert made[0].is_closed()


def test_tasks_left_behind_are_cancelled_and_their_errors_reported() -> None:
    ended: list[str] = []
    reported: list[dict[str, Any]] = []

    async def stay(name: str) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(name)
            if name == "fails":
                raise KeyError("at the end")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, report: reported.append(report))
        main.tasks = [asyncio.create_task(stay(name)) for name in ("a", "fails", "b")]  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    noria.run(main())
    assert sorted(ended) == ["a", "b", "fails"]
    (report,) = reported
    assert report["message"] == "unhandled exception during asyncio.run() shutdown"
    assert isinstance(report["exception"], KeyError)


def test_a_runner_keeps_its_loop_and_its_context() -> None:
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)

    async def count() -> int:
        var.set(var.get() + 1)
        return var.get()

    with noria.Runner() as runner:
        loop = runner.get_loop()
        assert isinstance(loop, noria.Loop)
        assert [runner.run(count()) for _ in range(3)] == [1, 2, 3]
        assert runner.get_loop() is loop
        context = contextvars.copy_context()
        assert runner.run(count(), context=context) == 1
        assert context[var] == 1
        assert runner.run(loop_and_debug())[0] is loop
    assert var.get() == 0
    assert loop.is_closed()


def test_a_closed_runner_refuses() -> None:
    runner = noria.Runner(debug=True)
    assert runner.run(loop_and_debug())[1] is True
    runner.close()
    runner.close()
    coro = loop_and_debug()
    with pytest.raises(RuntimeError, match="Runner is closed"):
        runner.run(coro)
    coro.close()
    with pytest.raises(RuntimeError, match="Runner is closed"):
        runner.get_loop()
    noria.Runner().close()  # never used


def test_a_runner_refuses_what_is_no_coroutine() -> None:
    with noria.Runner() as runner, pytest.raises(ValueError, match="a coroutine was expected"):
        runner.run(5)  # type: ignore[arg-type]


def test_run_works_in_any_thread() -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(noria.run(loop_and_debug())[0]))
    thread.start()
    thread.join()
    assert isinstance(results[0], noria.Loop)


def test_every_public_name_of_asyncio_is_there() -> None:
    for name in asyncio.__all__:
        assert hasattr(noria, name), name
        assert name in noria.__all__
    for name in noria.__all__:
        assert hasattr(noria, name), name
    with pytest.raises(AttributeError):
        noria.no_such_name  # type: ignore[attr-defined]


def test_importing_noria_changes_nothing() -> None:
    done = python(
        """
import asyncio
before = asyncio.Task, asyncio.Future, asyncio.get_event_loop_policy(), asyncio.run
import noria
assert before == (asyncio.Task, asyncio.Future, asyncio.get_event_loop_policy(), asyncio.run)
async def main():
    return type(asyncio.get_running_loop())
print(issubclass(asyncio.run(main()), noria.Loop))
"""
    )
    assert done.stdout == "False\n", done.stderr


def test_install_makes_noria_the_loop_of_the_program() -> None:
    done = python(
        """
import asyncio, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import noria
noria.install()
async def main():
    return isinstance(asyncio.get_running_loop(), noria.Loop)
print(asyncio.run(main()))
loop = asyncio.new_event_loop()
print(isinstance(loop, noria.Loop))
asyncio.set_event_loop(loop)
print(asyncio.get_event_loop() is loop)
loop.close()
print(isinstance(asyncio.get_event_loop_policy(), noria.EventLoopPolicy))
"""
    )
    assert done.stdout == "True\n" * 4, done.stderr


def test_the_policy_makes_noria_loops() -> None:
    policy = noria.EventLoopPolicy()
    loop = policy.new_event_loop()
    assert isinstance(loop, noria.Loop)
    loop.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.run takes loop_factory since 3.12")
def test_asyncio_run_with_norias_factory_is_debuggable() -> None:
    assert asyncio.run(loop_and_debug(), debug=True, loop_factory=noria.new_event_loop)[1] is True


def test_a_keyboard_interrupt_that_a_task_ends_with_leaves_nothing_unawaited() -> None:
    done = python(
        """
import noria

async def interrupted():
    raise KeyboardInterrupt

async def main():
    async with noria.TaskGroup() as group:
        group.create_task(interrupted())
        await noria.sleep(10)

try:
    noria.run(main())
except KeyboardInterrupt:
    print("interrupted")
""",
        "-X",
        "dev",
    )
    assert done.stdout == "interrupted\n"
    assert "never awaited" not in done.stderr
