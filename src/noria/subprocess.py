"""create_subprocess_exec and create_subprocess_shell: children whose standard streams are noria's.

A Process over noria's StreamReader and StreamWriter. What a child writes goes from the driver's buffer to
the reader without a call through Python, as on a connection. On other loops it comes by the protocol's methods.

The rest of `asyncio.subprocess` is here under its names. Leaves to others: starting, watching and signalling children
(process.py).
"""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import subprocess
from typing import Any

from noria.net.pipes import ReadPipeTransport
from noria.streams.connection import Feeder, StreamWriter
from noria.streams.opening import LIMIT
from noria.streams.reader import StreamReader
from noria.sync.gathering import gather

PIPE = subprocess.PIPE
STDOUT = subprocess.STDOUT
DEVNULL = subprocess.DEVNULL

__all__ = ["create_subprocess_exec", "create_subprocess_shell"]


class SubprocessStreamProtocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Gives a child's pipes as streams.

    Source: asyncio.subprocess.SubprocessStreamProtocol.
    """

    _transport: Any
    _loop: Any
    _limit: int
    _pipe_fds: list[int]
    stdin: Any
    stdout: Any
    stderr: Any

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self._delivered = {1: 0, 2: 0}  # times that data came by pipe_data_received()

    def connection_made(self, transport: Any) -> None:
        """Make the streams."""
        self._transport = transport
        if (pipe := transport.get_pipe_transport(1)) is not None:
            self.stdout = self._reader(1, pipe)
        if (pipe := transport.get_pipe_transport(2)) is not None:
            self.stderr = self._reader(2, pipe)
        if (pipe := transport.get_pipe_transport(0)) is not None:
            self.stdin = StreamWriter(pipe, self, None, self._loop)

    def _reader(self, fd: int, pipe: Any) -> StreamReader:
        reader = StreamReader(self._limit, self._loop)
        reader.set_transport(pipe)
        self._pipe_fds.append(fd)
        self._shorten(fd, pipe, reader)
        return reader

    def _shorten(self, fd: int, pipe: Any, reader: StreamReader) -> None:
        # Let the pipe feed the reader itself, once nothing is under way by the longer way, which it would overtake.
        if isinstance(pipe, ReadPipeTransport):
            end: Any = pipe.get_protocol()
            if end is not None and getattr(end, "received", None) == self._delivered[fd]:
                pipe.set_protocol(Feeder(reader, end))

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        """Feed the reader."""
        super().pipe_data_received(fd, data)
        self._delivered[fd] += 1
        pipe = self._transport.get_pipe_transport(fd) if self._transport is not None else None
        reader = self.stdout if fd == 1 else self.stderr
        if pipe is not None and reader is not None:
            self._shorten(fd, pipe, reader)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Tell who waits."""
        super().pipe_connection_lost(fd, exc)
        # The streams refer to us, by their transports and the writer by itself; from now on nothing goes the other way.
        if fd == 0:
            self.stdin = None
        elif fd == 1:
            self.stdout = None
        elif fd == 2:
            self.stderr = None


class Process(asyncio.subprocess.Process):
    """A running child: its number, its streams, and how to wait for it or signal it.

    Source: asyncio.subprocess.Process of CPython 3.13.
    """

    stdin: Any
    stdout: Any
    stderr: Any
    _transport: Any

    async def communicate(self, input: bytes | bytearray | memoryview | None = None) -> tuple[Any, Any]:
        """Send input and close stdin, read stdout and stderr to their ends, wait for the child.

        Returns (stdout, stderr): bytes, or None for what is not a PIPE. stdin is closed without input too (asyncio
        3.11 leaves it open then, and a child that reads to the end of it never ends). That the child stopped reading
        is no error.
        """
        _, stdout, stderr = await gather(
            self._send_all(input), self._read_all(1, self.stdout), self._read_all(2, self.stderr)
        )
        await self.wait()
        return stdout, stderr

    async def _send_all(self, data: bytes | bytearray | memoryview | None) -> None:
        if self.stdin is None:
            return
        try:
            if data is not None:
                self.stdin.write(data)
            await self.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.stdin.close()

    async def _read_all(self, fd: int, stream: Any) -> bytes | None:
        if stream is None:
            return None
        pipe = self._transport.get_pipe_transport(fd)
        data: bytes = await stream.read()
        pipe.close()
        return data


async def create_subprocess_shell(
    cmd: str | bytes,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    limit: int = LIMIT,
    **kwds: Any,
) -> Process:
    """Start a shell command; returns its Process.

    stdin, stdout, stderr: PIPE for a stream, or what subprocess.Popen takes. limit: the readers', in bytes. Everything
    else as `loop.subprocess_shell`, which also says what is raised.

    Source: asyncio.create_subprocess_shell.
    """
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_shell(
        lambda: SubprocessStreamProtocol(limit, loop),
        cmd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        **kwds,
    )
    return Process(transport, protocol, loop)


async def create_subprocess_exec(
    program: Any,
    *args: Any,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    limit: int = LIMIT,
    **kwds: Any,
) -> Process:
    """Start a program with arguments; returns its Process.

    stdin, stdout, stderr: PIPE for a stream, or what subprocess.Popen takes. limit: the readers', in bytes. Everything
    else as `loop.subprocess_exec`, which also says what is raised.

    Source: asyncio.create_subprocess_exec.
    """
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        lambda: SubprocessStreamProtocol(limit, loop),
        program,
        *args,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        **kwds,
    )
    return Process(transport, protocol, loop)
