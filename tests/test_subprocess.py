"""Child processes: started, spoken with, ended and reaped, in any thread's loop, leaving neither zombies nor descriptors."""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import on_noria, until
from net.peers import nothing_left_open, pattern

PIPE = asyncio.subprocess.PIPE
CAT = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"


def children() -> list[int]:
    """The children of this process, zombies included."""
    found = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return [int(pid) for pid in found]


@on_noria
async def test_a_child_runs_and_its_code_is_known() -> None:
    async with nothing_left_open():
        for code in (0, 3, 255):
            child = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
            assert await child.wait() == code
            assert child.returncode == code
        shell = await asyncio.create_subprocess_shell("exit 7")
        assert await shell.wait() == 7
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("no-such-program-anywhere")


@on_noria
async def test_communicate_carries_megabytes_both_ways() -> None:
    data = pattern(3_000_000)
    async with nothing_left_open():
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CAT, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        out, err = await child.communicate(data)
        assert out == data
        assert err == b""
        assert child.returncode == 0


@on_noria
async def test_pipes_are_streams() -> None:
    async with nothing_left_open():
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        assert child.stdin is not None
        assert child.stdout is not None
        for n in range(50):
            child.stdin.write(f"line {n}\n".encode())
            await child.stdin.drain()
            assert await child.stdout.readline() == f"line {n}\n".encode()
        child.stdin.close()
        assert await child.stdout.read() == b""
        assert await child.wait() == 0


@on_noria
async def test_output_and_errors_come_by_their_own_pipes_or_together() -> None:
    shell = "echo out; echo err >&2"
    async with nothing_left_open():
        child = await asyncio.create_subprocess_shell(shell, stdout=PIPE, stderr=PIPE)
        assert await child.communicate() == (b"out\n", b"err\n")
        child = await asyncio.create_subprocess_shell(shell, stdout=PIPE, stderr=asyncio.subprocess.STDOUT)
        assert await child.communicate() == (b"out\nerr\n", None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_child_can_be_killed(number: signal.Signals) -> None:
    @on_noria
    async def program() -> None:
        async with nothing_left_open():
            child = await asyncio.create_subprocess_exec("sleep", "60")
            assert child.returncode is None
            if number == signal.SIGTERM:
                child.terminate()
            elif number == signal.SIGKILL:
                child.kill()
            else:
                child.send_signal(number)
            assert await child.wait() == -number
            with pytest.raises(ProcessLookupError):
                child.kill()

    program()


@on_noria
async def test_fifty_children_at_once() -> None:
    async def one(n: int) -> None:
        child = await asyncio.create_subprocess_exec(
            "sh", "-c", f"read x; echo $x; exit {n}", stdin=PIPE, stdout=PIPE
        )
        out, _ = await child.communicate(f"child {n}\n".encode())
        assert out == f"child {n}\n".encode()
        assert child.returncode == n

    before = children()
    async with nothing_left_open():
        await asyncio.gather(*(one(n) for n in range(50)))
    assert children() == before


def test_a_loop_in_another_thread_has_children_too() -> None:
    codes: list[int] = []
    left: list[list[int]] = []

    async def main() -> None:
        jobs = [await asyncio.create_subprocess_exec("sh", "-c", f"exit {n}") for n in range(5)]
        codes.extend([await job.wait() for job in jobs])
        left.append(children())

    threads = [threading.Thread(target=lambda: noria.run(main())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == sorted([*range(5)] * 2)
    assert left == [[], []]


@on_noria
async def test_several_may_wait_for_one_child() -> None:
    child = await asyncio.create_subprocess_exec("sleep", "60")
    waiting = [asyncio.create_task(child.wait()) for _ in range(5)]
    await asyncio.sleep(0.001)
    child.kill()
    assert await asyncio.gather(*waiting) == [-9] * 5
    assert await child.wait() == -9


@on_noria
async def test_a_cancelled_wait_leaves_the_child_alone() -> None:
    child = await asyncio.create_subprocess_exec("sleep", "60")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.wait(), 0.005)
    assert child.returncode is None
    os.kill(child.pid, 0)
    child.kill()
    assert await child.wait() == -9


@on_noria
async def test_a_protocol_of_the_program_hears_everything_of_its_child() -> None:
    class Hears(asyncio.SubprocessProtocol):
        def __init__(self) -> None:
            self.events: list[Any] = []
            self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def pipe_data_received(self, fd: int, data: bytes) -> None:
            self.events.append((fd, data))

        def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
            self.events.append((fd, "lost"))

        def process_exited(self) -> None:
            self.events.append("exited")

        def connection_lost(self, exc: Exception | None) -> None:
            self.events.append("lost")
            self.lost.set_result(None)

    loop = asyncio.get_running_loop()
    async with nothing_left_open():
        transport, protocol = await loop.subprocess_exec(Hears, "echo", "heard", stdin=None, stderr=None)
        await protocol.lost
        assert (1, b"heard\n") in protocol.events
        assert {(1, "lost"), "exited"} <= set(protocol.events)
        assert protocol.events[-1] == "lost"
        assert transport.get_returncode() == 0
        transport.close()


@on_noria
async def test_cwd_and_environment_reach_the_child() -> None:
    child = await asyncio.create_subprocess_shell(
        "pwd; echo $NAME", stdout=PIPE, cwd="/", env={"NAME": "value"}
    )
    assert (await child.communicate())[0] == b"/\nvalue\n"


@on_noria
async def test_closing_the_transport_kills_the_child() -> None:
    child = await asyncio.create_subprocess_exec("sleep", "60", stdout=PIPE)
    child._transport.close()  # type: ignore[attr-defined]
    assert await child.wait() == -9
    await until(lambda: child.pid not in children())
