"""Child processes: started, spoken with, ended and reaped, in any thread's loop, leaving neither zombies nor descriptors."""

import asyncio
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import noria
from core.running import DEADLINE, new_loop, on_noria, python, turns, until
from net.peers import nothing_left_open, pattern
from support.leaks import no_descriptors_left
from support.tools import require

PIPE = asyncio.subprocess.PIPE
CAT = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"


def children() -> list[int]:
    """The children of this process, zombies included, but for those of other modules' tests."""
    found = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return [int(pid) for pid in found if int(pid) not in _others]


_others: set[int] = set()


@pytest.fixture(autouse=True, scope="module")
def children_of_others() -> None:
    """multiprocessing's resource tracker lives as long as the process that some test needed it in."""
    _others.update(children())


@pytest.fixture(autouse=True)
def nobody_left() -> Iterator[None]:
    """Every test leaves no child behind, neither running nor as a zombie."""
    before = children()
    yield
    assert children() == before


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


class Hears(asyncio.SubprocessProtocol):
    """Notes what happens to its child."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.output = b""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append("made")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.output += data
        if self.events[-1] != (fd, "data"):
            self.events.append((fd, "data"))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.events.append((fd, "lost", exc))

    def process_exited(self) -> None:
        self.events.append("exited")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost.set_result(None)


@on_noria
async def test_a_protocol_of_the_program_hears_everything_of_its_child() -> None:
    loop = asyncio.get_running_loop()
    async with nothing_left_open():
        transport, protocol = await loop.subprocess_exec(Hears, "echo", "heard", stdin=None, stderr=None)
        await protocol.lost
        assert protocol.output == b"heard\n"
        # Whether the end of the child or of its output is heard of first is open, as in asyncio.
        assert protocol.events[0] == "made"
        assert protocol.events[-1] == "lost"
        assert sorted(map(str, protocol.events[1:-1])) == ["(1, 'data')", "(1, 'lost', None)", "exited"]
        assert protocol.events.index((1, "data")) < protocol.events.index((1, "lost", None))
        assert transport.get_returncode() == 0
        transport.close()


def test_callbacks_come_in_the_order_of_asyncio() -> None:
    class Leads(Hears):
        """Has its child do one thing after the other, so that only one order is possible."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.stdin: Any = transport.get_pipe_transport(0)  # type: ignore[attr-defined]
            self.stdin.write(b"first\n")

        def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
            super().pipe_connection_lost(fd, exc)
            if fd == 1:
                self.stdin.write(b"second\n")
            if fd == 2:
                self.stdin.close()

    async def hear() -> list[Any]:
        script = "read x; echo $x; exec >&-; read x; echo $x >&2; exec 2>&-; read x; exit 4"
        transport, protocol = await asyncio.get_running_loop().subprocess_shell(Leads, script)
        await protocol.lost
        assert transport.get_returncode() == 4
        transport.close()
        return protocol.events

    order = ["made", (1, "data"), (1, "lost", None), (2, "data"), (2, "lost", None), (0, "lost", None)]
    for run in (asyncio.run, noria.run):
        assert run(asyncio.wait_for(hear(), DEADLINE)) == [*order, "exited", "lost"]


@on_noria
async def test_a_child_that_ends_before_its_pipes_are_connected_is_heard_of_after_connection_made() -> None:
    loop = asyncio.get_running_loop()
    for steps in range(1, 10):
        starting = asyncio.create_task(loop.subprocess_exec(Hears, "echo", "quick"))
        await turns(steps)
        time.sleep(0.01)  # noqa: ASYNC251 - the loop is held up until the child has ended
        transport, protocol = await starting
        await protocol.lost
        assert protocol.events[0] == "made"
        assert protocol.events[-1] == "lost"
        assert sorted(map(str, protocol.events[1:-1])) == sorted(
            map(str, [(0, "lost", None), (1, "data"), (1, "lost", None), (2, "lost", None), "exited"])
        )
        assert protocol.output == b"quick\n"
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


@on_noria
async def test_five_hundred_children_at_once() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = 500 * 4 + 200
    if hard < need:
        pytest.skip(f"needs {need} descriptors, {hard} are allowed")

    async def one(n: int) -> None:
        child = await asyncio.create_subprocess_exec(
            "sh", "-c", f"read x; exit {n % 200}", stdin=PIPE, stdout=PIPE
        )
        born.append(child.pid)
        if len(born) == 500:
            everybody.set()
        await everybody.wait()
        await child.communicate(b"go\n")
        assert child.returncode == n % 200

    born: list[int] = []
    everybody = asyncio.Event()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, need), hard))
    try:
        async with nothing_left_open():
            threads = threading.active_count()
            tasks = [asyncio.create_task(one(n)) for n in range(500)]
            await everybody.wait()
            assert set(born) <= set(children())
            assert threading.active_count() == threads
            await asyncio.gather(*tasks)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@on_noria
async def test_neither_threads_nor_sigchld_are_used() -> None:
    handler, threads = signal.getsignal(signal.SIGCHLD), threading.active_count()
    child = await asyncio.create_subprocess_exec("sleep", "60")
    assert threading.active_count() == threads
    assert signal.getsignal(signal.SIGCHLD) == handler
    child.kill()
    await child.wait()
    assert signal.getsignal(signal.SIGCHLD) == handler


@on_noria
async def test_norias_own_names_start_children_too() -> None:
    child = await noria.create_subprocess_exec("sh", "-c", "exit 5")
    assert await child.wait() == 5
    child = await noria.create_subprocess_shell("exit 6")
    assert await child.wait() == 6


@on_noria
async def test_what_cannot_be_started_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    ends = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
    async with nothing_left_open():
        for _ in range(5):
            with pytest.raises(FileNotFoundError, match="no-such-program"):
                await asyncio.create_subprocess_exec("no-such-program-anywhere", **ends)  # type: ignore[arg-type]
            with pytest.raises(PermissionError):
                await asyncio.create_subprocess_exec(plain, **ends)  # type: ignore[arg-type]
            with pytest.raises(FileNotFoundError, match="no-such-directory"):
                await asyncio.create_subprocess_exec("true", cwd="/no-such-directory", **ends)  # type: ignore[arg-type]
            with pytest.raises(NotADirectoryError):
                await asyncio.create_subprocess_exec("true", cwd=plain, **ends)  # type: ignore[arg-type]
        gc.collect()  # a transport that was dropped open would warn here


@on_noria
async def test_options_that_mean_text_are_refused() -> None:
    loop = asyncio.get_running_loop()
    for option, value, message in (
        ("universal_newlines", True, "universal_newlines must be False"),
        ("shell", True, "shell must be False"),
        ("bufsize", 4096, "bufsize must be 0"),
        ("text", True, "text must be False"),
        ("encoding", "utf-8", "encoding must be None"),
        ("errors", "strict", "errors must be None"),
    ):
        with pytest.raises(ValueError, match=message):
            await loop.subprocess_exec(Hears, "true", **{option: value})
    with pytest.raises(ValueError, match="shell must be True"):
        await loop.subprocess_shell(Hears, "true", shell=False)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="cmd must be a string"):
        await loop.subprocess_shell(Hears, ["true"])  # type: ignore[arg-type]


@on_noria
async def test_a_start_that_is_cancelled_leaves_nothing_wherever_it_stood() -> None:
    finished = 0
    async with nothing_left_open():
        for steps in range(40):
            starting = asyncio.create_task(
                asyncio.create_subprocess_exec("sleep", "60", stdin=PIPE, stdout=PIPE, stderr=PIPE)
            )
            await turns(steps)
            if starting.done():
                finished += 1
                child = starting.result()
                child.kill()
                await child.wait()
                del child
                continue
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            assert children() == []
        del starting
        gc.collect()
    assert 0 < finished < 38


@on_noria
async def test_a_program_may_poll_its_child_itself() -> None:
    child = await asyncio.create_subprocess_exec("sh", "-c", "exit 9")
    popen = child._transport.get_extra_info("subprocess")  # type: ignore[attr-defined]
    assert popen.wait() == 9  # before the loop hears of it
    assert await child.wait() == 9


@on_noria
async def test_a_status_that_somebody_else_took_is_255_and_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    child = await asyncio.create_subprocess_exec("true")
    os.waitpid(child.pid, 0)  # noqa: ASYNC222 - it has to come before the loop
    with caplog.at_level(logging.WARNING, "asyncio"):
        assert await child.wait() == 255
    assert f"child process pid {child.pid} exit status already read" in caplog.text


@on_noria
async def test_waiting_ends_with_the_child_though_its_own_child_keeps_the_pipe_open() -> None:
    # asyncio 3.12 to 3.14 wait for ever here; see https://github.com/python/cpython/issues/119710
    child = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 60 & echo $!; read x; exit 3", stdin=PIPE, stdout=PIPE
    )
    assert child.stdout is not None and child.stdin is not None
    grandchild = int(await child.stdout.readline())
    waiting = asyncio.create_task(child.wait())
    await turns(2)
    child.stdin.write(b"\n")
    try:
        assert await waiting == 3
        assert await child.wait() == 3
    finally:
        os.kill(grandchild, signal.SIGKILL)
    assert await child.stdout.read() == b""


@on_noria
async def test_waiting_ends_when_the_pipes_have_ended() -> None:
    async with nothing_left_open():
        for _ in range(20):
            child = await asyncio.create_subprocess_exec("echo", "x", stdout=PIPE)
            await child.wait()
            assert child._transport.get_pipe_transport(1).is_closing()  # type: ignore[attr-defined]


@on_noria
async def test_a_child_that_reads_nothing_and_writes_much_does_not_block() -> None:
    async with nothing_left_open():
        program = "import sys; sys.stderr.write('e' * 1_000_000); sys.stdout.write('o' * 1_000_000)"
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        out, err = await child.communicate(b"i" * 1_000_000)
        assert (out, err) == (b"o" * 1_000_000, b"e" * 1_000_000)
        assert child.returncode == 0


def test_a_loop_closed_with_a_running_child_warns_kills_and_reaps() -> None:
    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec("sleep", "60", stdin=PIPE, stdout=PIPE, stderr=PIPE)

    with no_descriptors_left():
        child = noria.run(start())
        assert child.pid in children()
        with warnings.catch_warnings(record=True) as seen:  # the pipes warn as well
            warnings.simplefilter("always")
            del child
            gc.collect()
        assert any(str(one.message).startswith("unclosed transport <ProcessTransport pid=") for one in seen)
        assert children() == []


def test_a_transport_closed_after_its_loop_kills_and_reaps() -> None:
    async def start() -> tuple[Any, Any]:
        return await asyncio.get_running_loop().subprocess_exec(Hears, "sleep", "60", stdin=None, stdout=None)

    with no_descriptors_left():
        transport, protocol = noria.run(start())
        with warnings.catch_warnings(record=True) as seen:  # the pipe warns: there is no loop to close it
            warnings.simplefilter("always")
            transport.close()
            assert children() == []
            assert transport.get_returncode() == -signal.SIGKILL
            del transport, protocol
            gc.collect()
        assert not any("ProcessTransport" in str(one.message) for one in seen)


def test_a_transport_closed_just_before_its_loop_is_reaped_when_it_goes() -> None:
    async def start_and_close() -> None:
        transport, _ = await asyncio.get_running_loop().subprocess_exec(
            Hears, "sleep", "60", stdin=None, stdout=None, stderr=None
        )
        transport.close()

    with no_descriptors_left():
        with new_loop() as loop:
            loop.run_until_complete(start_and_close())
        gc.collect()
        assert children() == []


def test_a_child_outlives_its_loop_when_nobody_closes_the_transport() -> None:
    with new_loop() as loop:
        transport, protocol = loop.run_until_complete(
            loop.subprocess_exec(Hears, "sleep", "60", stdin=None, stdout=None, stderr=None)
        )
    assert transport.get_pid() in children()
    assert transport._runs()
    transport.close()
    assert protocol.events == ["made"]


@on_noria
async def test_the_transport_shows_what_it_is() -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(Hears, "sleep", "60", stdin=None, stderr=None)
    assert isinstance(transport, asyncio.SubprocessTransport)
    pid = transport.get_pid()
    assert repr(transport) == f"<ProcessTransport pid={pid} running stdout={transport.get_pipe_transport(1)}>"
    assert transport.get_pipe_transport(0) is None
    assert transport.get_pipe_transport(7) is None
    assert transport.get_extra_info("subprocess").pid == pid
    assert transport.get_returncode() is None
    assert transport.get_protocol() is protocol
    assert not transport.is_closing()
    transport.close()
    transport.close()
    assert transport.is_closing()
    await protocol.lost
    assert repr(transport).startswith(f"<ProcessTransport closed pid={pid} returncode=-9")
    with pytest.raises(ProcessLookupError):
        transport.terminate()


@on_noria
async def test_debug_mode_logs_the_program_without_its_arguments(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.get_running_loop().set_debug(True)
    with caplog.at_level(logging.DEBUG, "asyncio"):
        child = await asyncio.create_subprocess_exec(
            "echo", "secret", stdout=PIPE, stderr=asyncio.subprocess.STDOUT
        )
        await child.communicate()
        running = await asyncio.create_subprocess_exec("sleep", "60")
        running._transport.close()  # type: ignore[attr-defined]
        await running.wait()
    assert "execute program 'echo' stdout=stderr=<pipe>" in caplog.messages
    assert f"process 'echo' created: pid {child.pid}" in caplog.messages
    assert any(
        text.startswith("Close running child process: kill <ProcessTransport") for text in caplog.messages
    )
    assert any("exited with return code 0" in text for text in caplog.messages)
    assert "secret" not in caplog.text


# Where the kernel refuses pidfds: a filter as containers have them (seccomp(2)) turns pidfd_open, number 434 on
# every architecture, into EPERM.
FORBID = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
program = b"".join(struct.pack("HBBI", *line) for line in [
    (0x20, 0, 0, 0),            # load the number of the system call
    (0x15, 0, 1, 434),          # if it is pidfd_open
    (0x06, 0, 0, 0x00050001),   # answer EPERM
    (0x06, 0, 0, 0x7fff0000),   # else allow
])
buffer = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("program", ctypes.c_void_p)]
filter_ = Filter(4, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(filter_), 0, 0) == 0, ctypes.get_errno()
"""


def test_where_pidfds_are_forbidden_a_thread_waits() -> None:
    program = (
        FORBID
        + """
import asyncio, gc, logging, noria, os, signal, threading, warnings
warnings.simplefilter("error")
try:
    os.pidfd_open(os.getpid())
    raise SystemExit("not forbidden")
except PermissionError:
    pass

def children():
    with open(f"/proc/self/task/{threading.get_native_id()}/children") as file:
        return file.read().split()

async def main():
    codes = []
    async def one(n):
        child = await asyncio.create_subprocess_exec("sh", "-c", f"read x; exit {n}", stdin=-1, stdout=-1)
        await child.communicate(b"x")
        codes.append(child.returncode)
    await asyncio.gather(*(one(n) for n in range(30)))
    assert sorted(codes) == list(range(30)), codes
    child = await asyncio.create_subprocess_exec("sleep", "60")
    assert f"noria-wait-{child.pid}" in [thread.name for thread in threading.enumerate()]
    child.terminate()
    assert await child.wait() == -15
    child = await asyncio.create_subprocess_exec("sleep", "60")
    child._transport.close()
    assert await child.wait() == -9
    assert children() == [], children()
    return await asyncio.create_subprocess_exec("sleep", "60")

child = noria.run(main())
threads = [thread for thread in threading.enumerate() if thread.name == f"noria-wait-{child.pid}"]
child._transport.close()  # the loop is closed: the thread reaps it
for thread in threads:
    thread.join(20)
assert children() == [], children()
print("well", len(threads))
"""
    )
    done = python(program)
    assert (done.stdout, done.returncode) == ("well 1\n", 0), done.stderr


def test_a_signal_never_reaches_a_stranger_who_got_the_number() -> None:
    # In a process namespace of its own, where the next number can be chosen.
    program = """
import asyncio, logging, noria, os, signal, subprocess
logging.disable()

async def main():
    child = await asyncio.create_subprocess_exec("true")
    os.waitpid(child.pid, 0)  # somebody else reaps it, and the loop does not know yet
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(child.pid - 1))
    stranger = subprocess.Popen(["sh", "-c", "read line; exit 7"], stdin=subprocess.PIPE)
    assert stranger.pid == child.pid, (stranger.pid, child.pid)
    child.kill()
    child._transport.close()
    assert await child.wait() == 255  # and not the stranger's status
    stranger.communicate(b"\\n")
    print(stranger.returncode)

noria.run(main())
"""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    namespace = [require("unshare"), *as_root, "--pid", "--fork", "--mount-proc"]
    able = subprocess.run(
        [*namespace, "sh", "-c", "echo 10 > /proc/sys/kernel/ns_last_pid"], capture_output=True
    )
    if able.returncode != 0:
        pytest.skip(f"needs a process namespace: {able.stderr.decode().strip()}")
    done = subprocess.run(
        [*namespace, sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE
    )
    assert (done.stdout, done.returncode) == ("7\n", 0), done.stderr


def test_children_are_started_without_copying_the_process(tmp_path: Path) -> None:
    program = """
import asyncio, noria
async def main():
    for name in ("true", "/bin/true"):
        child = await asyncio.create_subprocess_exec(name, stdin=-1, stdout=-1, stderr=-1)
        await child.communicate()
noria.run(main())
"""
    trace = tmp_path / "trace"
    strace = [require("strace"), "-f", "-o", str(trace), "-e", "trace=clone,clone3,fork,vfork"]
    able = subprocess.run([*strace, "true"], capture_output=True)
    if able.returncode != 0:
        pytest.skip(f"strace may not trace here: {able.stderr.decode().strip()}")
    subprocess.run([*strace, sys.executable, "-c", program], check=True, timeout=DEADLINE)
    calls = [line for line in trace.read_text().splitlines() if "fork(" in line or "clone" in line]
    assert len(calls) >= 2
    assert all("vfork(" in line or "CLONE_VFORK" in line for line in calls), calls


@on_noria
async def test_a_childs_descriptors_are_its_three_ends_alone() -> None:
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import os; print(sorted(os.listdir('/proc/self/fd'))[:-1])",
            stdin=PIPE,
            stdout=PIPE,
        )
        out, _ = await child.communicate()
    finally:
        os.close(inherited)
    assert out == b"['0', '1', '2']\n"
