"""Runs within runs: noria.run and run_until_complete while a loop runs in the same thread, noria's own or another.

On a running noria loop the nested run turns the same loop: its other tasks, timers and connections go on meanwhile.
Inside another loop noria runs a loop of its own, and the other waits.
"""

import asyncio
import contextvars
import socket
import threading
import time
from typing import Any

import pytest

import noria
from core.running import on_noria, python, reports, turns, until
from net.peers import Buffered, Recorder, connected


def nested(coro: Any, way: str) -> Any:
    if way == "run":
        return noria.run(coro)
    return asyncio.get_running_loop().run_until_complete(coro)


both_ways = pytest.mark.parametrize("way", ["run", "run_until_complete"])


@both_ways
def test_a_nested_run_returns_the_result_and_the_outer_goes_on(way: str) -> None:
    @on_noria
    async def program() -> None:
        me, loop = asyncio.current_task(), asyncio.get_running_loop()

        async def inner() -> tuple[object, object]:
            await asyncio.sleep(0.001)
            return asyncio.current_task(), asyncio.get_running_loop()

        task, inner_loop = nested(inner(), way)
        assert inner_loop is loop
        assert task is not me
        assert asyncio.current_task() is me
        assert asyncio.get_running_loop() is loop
        assert loop.is_running()
        await asyncio.sleep(0.001)
        assert asyncio.current_task() is me

    program()


@both_ways
def test_other_tasks_timers_and_threads_go_on_meanwhile(way: str) -> None:
    @on_noria
    async def program() -> None:
        loop = asyncio.get_running_loop()
        ticks = 0
        seen: list[str] = []

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticker = asyncio.create_task(tick())
        loop.call_later(0.002, seen.append, "timer")
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(seen.append, "thread"))
        thread.start()
        nested(asyncio.sleep(0.01), way)
        thread.join()
        assert sorted(seen) == ["thread", "timer"]
        assert ticks > 10
        ticker.cancel()

    program()


@both_ways
def test_a_nested_run_raises_what_the_coroutine_raises(way: str) -> None:
    @on_noria
    async def program() -> None:
        async def fail() -> None:
            await asyncio.sleep(0)
            raise KeyError("nested")

        with pytest.raises(KeyError, match="nested"):
            nested(fail(), way)
        task = asyncio.current_task()

        async def cancelled() -> None:
            me = asyncio.current_task()
            assert me is not None
            me.cancel("m")
            await asyncio.sleep(0)

        with pytest.raises(asyncio.CancelledError, match="m"):
            nested(cancelled(), way)
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    program()


@both_ways
def test_runs_nest_deep(way: str) -> None:
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=-1)

    async def level(n: int) -> int:
        me = asyncio.current_task()
        var.set(n)
        await asyncio.sleep(0)
        below = nested(level(n - 1), way) if n else 0
        assert var.get() == n
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        return int(below) + 1

    @on_noria
    async def program() -> None:
        assert await level(3) == 4
        assert await level(30) == 31
        assert var.get() == 30

    program()


def test_too_deep_a_nesting_is_a_recursion_error_and_no_crash() -> None:
    done = python(
        """
import asyncio, noria
async def deeper():
    return noria.run(deeper())
async def main():
    try:
        noria.run(deeper())
    except RecursionError:
        await asyncio.sleep(0)
        print("too deep")
noria.run(main())
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "too deep\n"


@on_noria
async def test_contexts_are_kept_apart_and_tasks_sharing_one_still_run() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")
    loop = asyncio.get_running_loop()
    me = asyncio.current_task()
    assert me is not None
    var.set("outer")

    async def inner() -> str:
        found = var.get()
        var.set("inner")
        await asyncio.sleep(0)
        return found

    async def shares() -> str:
        await asyncio.sleep(0)
        var.set(var.get() + " and the sharer")
        return "ran"

    sharer = loop.create_task(shares(), context=me.get_context())  # type: ignore[attr-defined]
    assert noria.run(inner()) == "outer"
    noria.run(asyncio.sleep(0.001))
    assert sharer.done()
    assert await sharer == "ran"
    assert var.get() == "outer and the sharer"


@on_noria
async def test_a_run_nested_inside_a_callback() -> None:
    loop = asyncio.get_running_loop()
    seen: list[object] = []

    def callback() -> None:
        seen.append(noria.run(asyncio.sleep(0.001, "in a callback")))
        seen.append(asyncio.current_task())

    loop.call_soon(callback)
    loop.call_later(0.001, callback)
    await until(lambda: len(seen) == 4)
    assert seen == ["in a callback", None] * 2


@on_noria
async def test_a_run_nested_inside_a_done_callback_and_a_thread_call() -> None:
    loop = asyncio.get_running_loop()
    seen: list[object] = []
    future = loop.create_future()
    future.add_done_callback(lambda _: seen.append(noria.run(asyncio.sleep(0, 1))))
    future.set_result(None)
    thread = threading.Thread(
        target=loop.call_soon_threadsafe, args=(lambda: seen.append(noria.run(asyncio.sleep(0, 2))),)
    )
    thread.start()
    await until(lambda: len(seen) == 2)
    thread.join()
    assert sorted(seen) == [1, 2]  # type: ignore[type-var]


@on_noria
async def test_a_run_nested_inside_a_stock_task_lets_other_stock_tasks_run() -> None:
    def stock(coro: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(coro, loop=asyncio.get_running_loop())

    async def other() -> object:
        await asyncio.sleep(0)
        return asyncio.current_task()

    async def nests() -> None:
        me = asyncio.current_task()
        task = stock(other())
        native = asyncio.create_task(other())
        noria.run(asyncio.sleep(0.002))
        assert task.done()
        assert task.result() is task
        assert native.result() is native
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        assert asyncio.current_task() is me

    await stock(nests())


@pytest.mark.parametrize(
    ("factory", "where"),
    [
        (Recorder, "connection_made"),
        (Recorder, "data_received"),
        (Recorder, "eof_received"),
        (Recorder, "connection_lost"),
        (Buffered, "connection_made"),
        (Buffered, "get_buffer"),
        (Buffered, "buffer_updated"),
    ],
)
def test_a_run_nested_inside_a_protocol_hears_the_same_connection(factory: Any, where: str) -> None:
    @on_noria
    async def program() -> None:
        class Nests(factory):  # type: ignore[misc]
            nested = 0

        def method(self: Any, *args: Any) -> Any:
            result = getattr(factory, where)(self, *args)
            if self.nested == 0:
                self.nested = 1
                if where != "connection_lost":
                    far[0].send(b"meanwhile")
                noria.run(asyncio.sleep(0.005))
                self.nested = 2
            return result

        setattr(Nests, where, method)
        from net.peers import pair

        near, peer = pair("tcp")
        far = [peer]
        with peer:
            transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(Nests, near)
            peer.send(b"first ")
            if where == "eof_received":
                await protocol.got(6)
                protocol.keep_open = True
                far = [transport.get_extra_info("socket")._sock.dup()]
                peer.shutdown(socket.SHUT_WR)
                await until(lambda: protocol.nested == 2)
                far[0].close()
            elif where == "connection_lost":
                await protocol.got(6)
            else:
                await until(lambda: len(protocol.received) >= 15)
                assert sorted(protocol.received) == sorted(b"first meanwhile")
            transport.write(b"still connected")
            transport.close()
            await protocol.lost
            await until(lambda: protocol.nested == 2)
            await turns(2)

    program()


@on_noria
async def test_events_the_outer_run_had_not_got_to_are_delivered_in_the_nested_one() -> None:
    received: list[int] = []

    class First(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.append(data[0])
            if len(received) == 1:
                noria.run(until(lambda: len(received) == 20))

    from net.peers import pair

    pairs = [pair() for _ in range(20)]
    transports = []
    for near, _ in pairs:
        transport, _protocol = await asyncio.get_running_loop().connect_accepted_socket(First, near)
        transports.append(transport)
    for n, (_, far) in enumerate(pairs):
        far.send(bytes([n]))
    await until(lambda: len(received) == 20)
    assert sorted(received) == list(range(20))
    for transport, (_, far) in zip(transports, pairs, strict=True):
        transport.abort()
        far.close()
    await turns(3)


@on_noria
async def test_an_interrupt_in_a_nested_run_comes_out_of_it() -> None:
    loop = asyncio.get_running_loop()

    async def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        noria.run(interrupt())

    def callback() -> None:
        raise KeyboardInterrupt

    loop.call_soon(callback)
    task = asyncio.create_task(asyncio.sleep(0.002, "unharmed"))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(0.001))
    await asyncio.sleep(0)
    assert await task == "unharmed"


@on_noria
async def test_a_nested_run_of_a_future_that_is_done_returns_at_once() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    future.set_result(3)
    assert loop.run_until_complete(future) == 3
    task = asyncio.create_task(asyncio.sleep(0, 4))
    assert loop.run_until_complete(task) == 4
    assert loop.run_until_complete(task) == 4


@on_noria
async def test_a_task_cannot_run_until_it_is_complete_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(RuntimeError, match="cannot await on itself"):
        asyncio.get_running_loop().run_until_complete(task)


@on_noria
async def test_a_cancellation_during_the_nested_run_reaches_the_task_after_it() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []

    async def outer() -> None:
        noria.run(asyncio.sleep(0.003))
        seen.append("nested run ended")
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(outer())
    loop.call_later(0.001, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["nested run ended", "cancelled"]


@on_noria
async def test_two_nested_runs_may_overlap() -> None:
    seen: list[str] = []

    async def outer(name: str, seconds: float) -> None:
        noria.run(asyncio.sleep(seconds))
        seen.append(name)

    await asyncio.gather(outer("first", 0.001), outer("second", 0.004))
    assert seen == ["second", "first"]  # the first cannot return before what nested upon it


@on_noria
async def test_reports_from_within_a_nested_run_reach_the_handler() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with reports() as seen:
        asyncio.get_running_loop().call_soon(broken)
        noria.run(asyncio.sleep(0))
        assert len(seen) == 1
        seen.clear()


@on_noria
async def test_only_coroutines_are_run() -> None:
    for wrong in (None, 5, asyncio.sleep):
        with pytest.raises(ValueError, match="a coroutine was expected"):
            noria.run(wrong)  # type: ignore[arg-type]


def test_stop_during_a_nested_run_ends_the_outermost_one_afterwards() -> None:
    loop = noria.new_event_loop()
    seen: list[str] = []

    async def main() -> None:
        loop.call_later(0.001, loop.stop)
        began = time.process_time()
        loop.run_until_complete(asyncio.sleep(0.05))
        seen.append("nested run ended")
        assert time.process_time() - began < 0.04  # it did not spin
        await asyncio.sleep(0)
        seen.append("resumed")

    task = loop.create_task(main())
    loop.run_forever()
    assert seen[:1] == ["nested run ended"]
    loop.run_until_complete(task)
    assert seen == ["nested run ended", "resumed"]
    loop.close()


# Inside other loops.


def test_noria_runs_inside_a_stock_loop_which_waits() -> None:
    async def main() -> None:
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        assert not isinstance(loop, noria.Loop)
        ran: list[str] = []
        loop.call_soon(ran.append, "stock callback")

        async def inner() -> str:
            assert isinstance(asyncio.get_running_loop(), noria.Loop)
            assert asyncio.current_task() is not me
            await asyncio.sleep(0.002)
            assert ran == []
            return "inner"

        assert noria.run(inner()) == "inner"
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        assert ran == ["stock callback"]
        with noria.Runner() as runner:
            assert runner.run(inner_value()) == 5
            assert runner.run(inner_value()) == 5
        assert asyncio.get_running_loop() is loop

    asyncio.run(main())


async def inner_value() -> int:
    await asyncio.sleep(0)
    return 5


def test_a_noria_loop_runs_forever_and_until_complete_inside_a_stock_loop() -> None:
    async def main() -> None:
        loop = noria.new_event_loop()
        seen: list[int] = []
        loop.call_soon(seen.append, 1)
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
        assert loop.run_until_complete(inner_value()) == 5
        loop.close()
        assert seen == [1]
        await asyncio.sleep(0)

    asyncio.run(main())


@on_noria
async def test_another_noria_loop_runs_inside_a_noria_loop() -> None:
    outer, me = asyncio.get_running_loop(), asyncio.current_task()
    other = noria.new_event_loop()

    async def inner() -> object:
        await asyncio.sleep(0.001)
        return asyncio.get_running_loop()

    assert other.run_until_complete(inner()) is other
    other.call_soon(other.stop)
    other.run_forever()
    other.close()
    assert noria.run(inner(), loop_factory=noria.new_event_loop) is not outer
    assert asyncio.get_running_loop() is outer
    assert asyncio.current_task() is me
    await asyncio.sleep(0)


@on_noria
async def test_a_stock_loop_runs_inside_a_noria_loop_only_by_its_own_rules() -> None:
    stock = asyncio.SelectorEventLoop()
    coro = inner_value()
    with pytest.raises(RuntimeError, match="another loop is running"):
        stock.run_until_complete(coro)
    coro.close()
    stock.close()
    assert await inner_value() == 5
    async with connected() as (transport, protocol, far):
        far.send(b"works")
        assert await protocol.got(5) == b"works"
        assert not transport.is_closing()
