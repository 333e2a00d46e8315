"""Child processes: subprocess_exec, subprocess_shell, and the transport under asyncio's Process.

Children are started by the standard library's subprocess.Popen, with all its options, which uses posix_spawn or vfork
where these allow it. Their pipes are ordinary pipe transports of the loop. Signatures, checks, messages and the order
of the protocol's callbacks are those of asyncio 3.13.

A child's end is told by a pidfd (pidfd_open(2)) that the loop watches: no thread, no SIGCHLD handler, and so it works
in any thread's loop and leaves the children of others alone. Its status is taken, and signals are sent, through the
same descriptor: a process that got the child's number meanwhile is never touched. Where there is no pidfd (before
Linux 5.4, or forbidden) a thread for each child waits until it has ended but leaves taking the status to the loop,
so that the number stays the child's until then.

wait() ends when the child has ended and its pipes too, or GRACE after the child if something else holds them open; in
asyncio 3.12 to 3.14 it then waits for ever, or not at all (https://github.com/python/cpython/issues/119710).

Whoever drops a transport without closing it is warned, and the child is killed, as in asyncio; and here it is also
reaped and its descriptor closed when the loop is closed already.

Leaves to others: the pipes (net), the streams over them (subprocess.py).
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import threading
import warnings
from asyncio.log import logger
from collections import deque
from collections.abc import Callable
from typing import Any

# Seconds that wait() gives the pipes to end with their child. They outlive it if its own children hold them.
GRACE = 0.1
ASKED = 4  # how often the kernel is asked meanwhile, at least
# Milliseconds that a killed child has to end when there is no loop any more to see it.
LAST_MOMENTS = 200


class Children(asyncio.AbstractEventLoop):
    """subprocess_exec and subprocess_shell."""

    async def subprocess_shell(
        self,
        protocol_factory: Callable[[], Any],
        cmd: str | bytes,
        *,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = True,
        bufsize: int = 0,
        encoding: None = None,
        errors: None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """Start a shell command; returns (transport, protocol). Other options as subprocess.Popen's.

        Raises ValueError for options that mean text instead of bytes, OSError if it cannot be started.
        """
        if not isinstance(cmd, (bytes, str)):
            raise ValueError("cmd must be a string")
        if not shell:
            raise ValueError("shell must be True")
        check_bytes(universal_newlines, bufsize, text, encoding, errors)
        log = f"run shell command {cmd!r}"
        return await self._start_child(protocol_factory, log, cmd, True, (stdin, stdout, stderr), kwargs)

    async def subprocess_exec(
        self,
        protocol_factory: Callable[[], Any],
        program: Any,
        *args: Any,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = False,
        bufsize: int = 0,
        encoding: None = None,
        errors: None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """Start a program with arguments; returns (transport, protocol). Other options as subprocess.Popen's.

        Raises ValueError for options that mean text instead of bytes, OSError (FileNotFoundError, PermissionError)
        if it cannot be started; then nothing is left open.
        """
        if shell:
            raise ValueError("shell must be False")
        check_bytes(universal_newlines, bufsize, text, encoding, errors)
        log = f"execute program {program!r}"  # without its arguments, which may be secret
        command = (program, *args)
        return await self._start_child(protocol_factory, log, command, False, (stdin, stdout, stderr), kwargs)

    async def _start_child(
        self,
        factory: Callable[[], Any],
        log: str,
        args: Any,
        shell: bool,
        ends: tuple[Any, Any, Any],
        options: dict[str, Any],
    ) -> tuple[Any, Any]:
        protocol = factory()
        debug = self.get_debug()
        if debug:
            logger.debug(" ".join([log, *describe(*ends)]))
        transport = await self._make_subprocess_transport(protocol, args, shell, *ends, 0, **options)
        if debug:
            logger.info("%s: %r", log, transport)
        return transport, protocol

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **options: Any,
    ) -> ProcessTransport:
        transport = ProcessTransport(self, protocol, extra)
        options.update(shell=shell, stdin=stdin, stdout=stdout, stderr=stderr, bufsize=bufsize)
        transport._start(args, options)
        try:
            await transport._connect()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            files = transport._files()
            transport.close()
            await transport._wait()
            for file in files:  # a pipe that could not be connected is still open
                file.close()
            raise
        return transport


def check_bytes(universal_newlines: Any, bufsize: Any, text: Any, encoding: Any, errors: Any) -> None:
    """Refuse what would make the pipes text or buffered."""
    if universal_newlines:
        raise ValueError("universal_newlines must be False")
    if bufsize != 0:
        raise ValueError("bufsize must be 0")
    if text:
        raise ValueError("text must be False")
    if encoding is not None:
        raise ValueError("encoding must be None")
    if errors is not None:
        raise ValueError("errors must be None")


def describe(stdin: Any, stdout: Any, stderr: Any) -> list[str]:
    """Where a child's three streams lead, for the debug log."""

    def name(end: Any) -> str:
        return {subprocess.PIPE: "<pipe>", subprocess.STDOUT: "<stdout>"}.get(end, repr(end))

    if stdout is not None and stderr == subprocess.STDOUT:
        ends = {"stdin": stdin, "stdout=stderr": stdout}
    else:
        ends = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    return [f"{which}={name(end)}" for which, end in ends.items() if end is not None]


class ProcessTransport(asyncio.SubprocessTransport):
    """A child process. Made by the loop's subprocess_exec() and subprocess_shell()."""

    def __init__(self, loop: Any, protocol: Any, extra: dict[str, Any] | None = None) -> None:
        super().__init__(extra)
        self._loop = loop
        self._protocol = protocol
        self._closed = False
        self._proc: Any = None
        self._pid: int | None = None
        self._pidfd = -1  # ours to close, also when the loop is closed
        self._returncode: int | None = None
        self._pipes: dict[int, PipeEnd] = {}  # by descriptor number in the child
        # Callbacks that came before the protocol's connection_made(); None from then on.
        self._early: deque[tuple[Any, ...]] | None = deque()
        self._exit_waiters: list[asyncio.Future[int]] = []
        self._grace: asyncio.TimerHandle | None = None
        self._finished = False  # connection_lost() is queued
        self._over = False  # wait() need not wait any more

    # Starting.

    def _start(self, args: Any, options: dict[str, Any]) -> None:
        # stdin too is a pipe: its writing end reports that the reader is gone (pipe(7)), which is what asyncio needs a
        # pair of sockets for on AIX only.
        try:
            self._proc = subprocess.Popen(args, **options)
        except BaseException:
            self._closed = True  # there is nothing to close, and nothing to warn of
            raise
        self._pid = self._proc.pid
        self._extra["subprocess"] = self._proc  # type: ignore[attr-defined]
        if self._loop.get_debug():
            program = args if isinstance(args, (bytes, str)) else args[0]
            logger.debug("process %r created: pid %s", program, self._pid)
        try:
            self._watch()
        except BaseException:
            self._closed = True
            for file in self._files():
                file.close()
            self._proc.kill()
            self._proc.wait()
            raise

    def _watch(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self._pid)  # type: ignore[arg-type]
            # Asked once: Linux 5.3 has pidfds, but cannot wait by them.
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            self._loop._add_reader(self._pidfd, self._ended)
        except (AttributeError, OSError):  # AttributeError: Python was built where there was no pidfd_open
            self._let_go()
            threading.Thread(
                target=wait_in_thread,
                args=(self._loop, self._proc, self._ended),
                daemon=True,
                name=f"noria-wait-{self._pid}",
            ).start()

    async def _connect(self) -> None:
        loop, proc, ends = self._loop, self._proc, self._pipes
        if proc.stdin is not None:
            ends[0] = WriteEnd(self, 0)
        if proc.stdout is not None:
            ends[1] = ReadEnd(self, 1)
        if proc.stderr is not None:
            ends[2] = ReadEnd(self, 2)
        if 0 in ends:
            await loop.connect_write_pipe(lambda: ends[0], proc.stdin)
        if 1 in ends:
            await loop.connect_read_pipe(lambda: ends[1], proc.stdout)
        if 2 in ends:
            await loop.connect_read_pipe(lambda: ends[2], proc.stderr)
        early, self._early = self._early, None
        loop.call_soon(self._protocol.connection_made, self)
        for callback in early or ():
            loop.call_soon(*callback)
        await asyncio.sleep(0)  # connection_made() is queued before us

    def _files(self) -> list[Any]:
        return [file for file in (self._proc.stdin, self._proc.stdout, self._proc.stderr) if file is not None]

    # The child's end.

    def _ended(self) -> None:
        # Called by the loop when the pidfd is readable, or when the thread says so.
        if self._pidfd >= 0:
            self._loop._remove_reader(self._pidfd)
        status = reap(self._proc, self._pidfd)
        self._let_go()
        self._process_exited(status)

    def _let_go(self) -> None:
        if self._pidfd >= 0:
            fd, self._pidfd = self._pidfd, -1
            os.close(fd)

    def _process_exited(self, returncode: int) -> None:
        if self._loop.get_debug():
            logger.info("%r exited with return code %r", self, returncode)
        self._returncode = returncode
        if self._proc.returncode is None:
            self._proc.returncode = returncode
        self._call(self._protocol.process_exited)
        self._try_finish()
        if self._early is not None and self._closed:
            self._wake()  # given up before connection_made(): nothing else will
        elif not self._finished:
            self._give_grace(ASKED)

    def _give_grace(self, left: int) -> None:
        # In pieces, lest a turn of the loop that is longer than GRACE use it up: the end of a pipe that ended with the
        # child is in the kernel by now, but it takes a few turns until it has been asked for and passed on.
        if left:
            self._grace = self._loop.call_later(GRACE / ASKED, self._give_grace, left - 1)
        else:
            self._wake()

    def _wake(self) -> None:
        self._over = True
        waiters, self._exit_waiters = self._exit_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(self._returncode)  # type: ignore[arg-type]

    async def _wait(self) -> int:
        """The child's exit code when it has ended; negative: the signal that killed it."""
        if self._over:
            return self._returncode  # type: ignore[return-value]
        waiter: asyncio.Future[int] = self._loop.create_future()
        self._exit_waiters.append(waiter)
        return await waiter

    # Callbacks, in the order things happened and never inside one another.

    def _call(self, callback: Callable[..., object], *args: Any) -> None:
        if self._early is not None:
            self._early.append((callback, *args))
        else:
            self._loop.call_soon(callback, *args)

    def _pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self._call(self._protocol.pipe_connection_lost, fd, exc)
        self._try_finish()

    def _pipe_data_received(self, fd: int, data: bytes) -> None:
        self._call(self._protocol.pipe_data_received, fd, data)

    def _try_finish(self) -> None:
        if self._returncode is None or self._finished:
            return
        if all(end.disconnected for end in self._pipes.values()):
            self._finished = True
            self._call(self._call_connection_lost, None)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            if self._grace is not None:
                self._grace.cancel()
            self._wake()
            self._loop = None
            self._proc = None
            self._protocol = None

    # What the program may ask and do.

    def set_protocol(self, protocol: Any) -> None:
        """From now on call this protocol."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """The protocol it calls."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def get_pid(self) -> int | None:  # type: ignore[override]
        """The child's process number."""
        return self._pid

    def get_returncode(self) -> int | None:
        """The child's exit code, negative for a signal, or None while it runs."""
        return self._returncode

    def get_pipe_transport(self, fd: int) -> Any:
        """The transport of the pipe to the child's descriptor 0, 1 or 2; None if there is none."""
        end = self._pipes.get(fd)
        return None if end is None else end.pipe

    def send_signal(self, signal: int) -> None:
        """Send the child a signal. Does nothing if it has just ended.

        Raises ProcessLookupError if its end is known already, PermissionError if it now belongs to another user.
        """
        self._check_proc()
        if self._returncode is not None:
            return
        try:
            if self._pidfd >= 0:
                send_by_pidfd(self._pidfd, signal)
            else:
                os.kill(self._proc.pid, signal)
        except ProcessLookupError:
            pass

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _check_proc(self) -> None:
        if self._proc is None:
            raise ProcessLookupError

    def _runs(self) -> bool:
        # Without taking the status. False also in a forked copy of this process: it is not the parent.
        kind, number = (os.P_PIDFD, self._pidfd) if self._pidfd >= 0 else (os.P_PID, self._proc.pid)
        try:
            return os.waitid(kind, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    def close(self) -> None:
        """Close the pipes and kill the child if it runs. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for end in self._pipes.values():
            if end.pipe is not None:
                try:
                    end.pipe.close()
                except RuntimeError:
                    if self._loop is None or not self._loop.is_closed():
                        raise
        if self._proc is None or self._returncode is not None or self._proc.returncode is not None:
            return
        if self._runs():
            if self._loop.get_debug():
                logger.warning("Close running child process: kill %r", self)
            try:
                self._proc.kill()
            except (ProcessLookupError, PermissionError):
                pass  # it has ended, or runs as somebody else
        if self._loop.is_closed():
            self._bury()

    def _bury(self) -> None:
        # No loop will tell of the end of this child, which was killed. Should it take longer, subprocess.Popen looks
        # after it whenever the next child is started.
        if self._pidfd < 0:
            return  # with a thread: that reaps it
        try:
            if self._proc is not None and self._proc.returncode is None:
                if self._runs():
                    ending = select.poll()
                    ending.register(self._pidfd, select.POLLIN)
                    ending.poll(LAST_MOMENTS)
                status = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
                if status is not None:
                    self._proc.returncode = self._returncode = exit_code(status)
                    self._over = True
        except ChildProcessError:
            pass  # somebody else took the status, or this is a forked copy of the parent
        finally:
            self._let_go()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if not self._closed:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self.close()
        if self._pidfd >= 0:  # and the loop's watch on it is going as well, or we would be held
            self._loop._remove_reader(self._pidfd)
            self._bury()

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if self._closed:
            info.append("closed")
        if self._pid is None:
            info.append("not started")
        else:
            info.append(f"pid={self._pid}")
            info.append("running" if self._returncode is None else f"returncode={self._returncode}")
        stdin, stdout, stderr = map(self._pipes.get, range(3))
        if stdin is not None:
            info.append(f"stdin={stdin.pipe}")
        if stdout is not None:
            info.append(f"stdout={stdout.pipe}")
        if stderr is not None:
            info.append(f"stderr={stderr.pipe}")
        return f"<{' '.join(info)}>"


class PipeEnd(asyncio.BaseProtocol):
    """The protocol of one of a child's pipes: passes on what happens, with the descriptor's number in the child."""

    def __init__(self, proc: ProcessTransport, fd: int) -> None:
        self.proc: ProcessTransport | None = proc
        self.fd = fd
        self.pipe: Any = None
        self.disconnected = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.pipe = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        self.disconnected = True
        proc, self.proc = self.proc, None
        if proc is not None:
            proc._pipe_connection_lost(self.fd, exc)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self.fd} pipe={self.pipe!r}>"


class WriteEnd(PipeEnd):
    """The child's stdin."""

    def pause_writing(self) -> None:
        if self.proc is not None:
            self.proc._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self.proc is not None:
            self.proc._protocol.resume_writing()


class ReadEnd(PipeEnd, asyncio.Protocol):
    """The child's stdout or stderr."""

    received = 0  # times that data came

    def data_received(self, data: bytes) -> None:
        if self.proc is not None:
            self.received += 1
            self.proc._pipe_data_received(self.fd, data)


def exit_code(status: Any) -> int:
    """The exit code in what waitid(2) tells; negative for the signal that killed the child."""
    return int(status.si_status if status.si_code == os.CLD_EXITED else -status.si_status)


def reap(child: Any, pidfd: int = -1) -> int:
    """The exit code of a child that has ended; negative for a signal.

    subprocess.Popen knows it already if the program polled it before us. If somebody else took the status it is
    lost: 255, and a warning, as in asyncio.
    """
    if child.returncode is not None:
        return int(child.returncode)
    try:
        if pidfd >= 0:
            return exit_code(os.waitid(os.P_PIDFD, pidfd, os.WEXITED))
        return exit_code(os.waitid(os.P_PID, child.pid, os.WEXITED))
    except ChildProcessError:
        logger.warning(
            "child process pid %d exit status already read:  will report returncode 255", child.pid
        )
        return 255


def wait_in_thread(loop: asyncio.AbstractEventLoop, child: Any, ended: Callable[[], None]) -> None:
    """Wait for a child's end and have the loop call ended(), which reaps it; if the loop is gone, reap it here."""
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        pass
    try:
        loop.call_soon_threadsafe(ended)
    except RuntimeError:
        child.returncode = reap(child)


def send_by_pidfd(pidfd: int, number: int) -> None:
    """Send a signal to the process of a pidfd. Raises ProcessLookupError if it has ended, PermissionError."""
    signal.pidfd_send_signal(pidfd, number)
