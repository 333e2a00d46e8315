"""BinaryFile: an open file in binary mode, with io's behaviour and none of its waiting.

One class does what io does with FileIO, BufferedReader, BufferedWriter and BufferedRandom. It knows where it is by
itself and names the offset with every read and write, so a read that was cancelled leaves the position where it was.

Promises: operations on one file happen in the order in which they were awaited, one after the other. What was taken
from a pipe or terminal is never lost: a read that was cancelled goes on, and what it brings is there for the next one.
Written data are gathered and go out in large pieces, the next piece being gathered meanwhile; an error of that is
raised by the next write, flush or close, and what could not be written is kept, as io keeps it. A file that is read in
order, and whose bytes are not in memory, is read ahead.

Leaves to others: system calls (engine.pyx), text (text.py).
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
import warnings
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, AnyStr, Generic, TypeVar

from noria.files import engine
from noria.sync.gathering import shield
from noria.sync.locks import Lock

if TYPE_CHECKING:
    from typing_extensions import Buffer

_Self = TypeVar("_Self", bound="File[Any]")

BUFFER = 128 * 1024  # bytes read or gathered for writing at a time, unless told otherwise
_DIRECT = 16 * 1024  # a read of so much goes past the buffer: copying twice costs more than another call
_MOST = 1024 * 1024  # a read of more than this asks for no more than the file may have


class File(Generic[AnyStr]):
    """What binary and text files share. For "characters" read bytes where it is a binary file."""

    __slots__ = ()

    name: object  # the path, or the descriptor's number, as it was given to open()
    _lock: Lock

    @property
    def closed(self) -> bool:
        """Whether it is closed, or being closed."""
        raise NotImplementedError

    async def close(self) -> None:
        """Write what was gathered, and close. Raises OSError if that fails; the file is closed nevertheless."""
        raise NotImplementedError

    async def readline(self, size: int | None = -1, /) -> AnyStr:
        """Read up to and with the end of the line, at most size characters if that is not negative.

        Raises as `read`.
        """
        async with self._lock:
            self._check_readable()
            return await self._readline(-1 if size is None else size)

    async def readlines(self, hint: int | None = -1, /) -> list[AnyStr]:
        """Read all lines, or until they have more than hint characters together. Raises as `read`."""
        async with self._lock:
            self._check_readable()
            lines: list[AnyStr] = []
            total = 0
            while line := await self._readline(-1):
                lines.append(line)
                total += len(line)
                if hint is not None and 0 < hint < total:
                    break
            return lines

    def __aiter__(self: _Self) -> _Self:
        return self

    async def __anext__(self) -> AnyStr:
        async with self._lock:
            self._check_readable()
            line = await self._readline(-1)
        if not line:
            raise StopAsyncIteration
        return line

    def _check_readable(self) -> None:
        raise NotImplementedError

    async def _readline(self, limit: int) -> AnyStr:
        raise NotImplementedError

    async def __aenter__(self: _Self) -> _Self:
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        return self.close()


class BinaryFile(File[bytes]):
    """An open file in binary mode. Made by `noria.open`.

    The methods are those of io.BufferedReader and io.BufferedWriter, as coroutines.
    """

    __slots__ = (
        "__weakref__",
        "_ahead",
        "_append",
        "_arriving",
        "_block",
        "_block_at",
        "_buffer",
        "_closed",
        "_descriptor",
        "_direct",
        "_edge",
        "_gathered",
        "_leaving",
        "_lock",
        "_next",
        "_pieces",
        "_readable",
        "_reading",
        "_room",
        "_seekable",
        "_size",
        "_start",
        "_type",
        "_used",
        "_writable",
        "_writing",
        "mode",
        "name",
    )

    def __init__(
        self,
        descriptor: engine.Descriptor,
        kind: int,
        size: int,
        name: object,
        mode: str,
        readable: bool,
        writable: bool,
        append: bool,
        buffering: int,
        position: int,
    ) -> None:
        """kind, size: st_mode and st_size. buffering: in bytes, 0: none. position: -1 if it has none."""
        self._closed = False
        self._descriptor = descriptor
        self.name = name
        self.mode = mode
        self._type = kind
        self._size = size
        self._readable = readable
        self._writable = writable
        self._append = append
        self._seekable = position >= 0
        self._room = buffering
        self._direct = buffering if buffering < _DIRECT else _DIRECT
        self._lock = Lock()
        # Read: what is in the buffer, how much of it is used, and the offset after its end.
        self._buffer = b""
        self._used = 0
        self._edge = position if position > 0 else 0
        # To be written: pieces, their size, the offset of the first. What is under way, and as what.
        self._pieces: list[bytes] = []
        self._gathered = 0
        self._start = 0
        self._writing: engine.Operation | None = None
        self._block = b""
        self._block_at = 0
        self._leaving: asyncio.Future[Any] | None = None
        # A read that goes on by itself: ahead of who reads, or of a stream.
        self._reading: engine.Operation | None = None
        self._arriving: asyncio.Future[Any] | None = None
        self._ahead = (0, 0)  # of which file that has a position: offset, size
        self._next = 0  # the offset at which a read would be the continuation of the last

    # What it is.

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._closed

    def fileno(self) -> int:
        """The descriptor's number. Its own position in the kernel is not moved by reading and writing here."""
        self._check_open()
        return self._descriptor.fd

    async def readable(self) -> bool:
        """Whether it can be read."""
        self._check_open()
        return self._readable

    async def writable(self) -> bool:
        """Whether it can be written."""
        self._check_open()
        return self._writable

    async def seekable(self) -> bool:
        """Whether it has a position. Pipes and terminals have none."""
        self._check_open()
        return self._seekable

    async def isatty(self) -> bool:
        """Whether it is a terminal."""
        self._check_open()
        return stat.S_ISCHR(self._type) and os.isatty(self._descriptor.fd)

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<noria.files.BinaryFile name={self.name!r} mode={self.mode!r}{state}>"

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        self._closed = True
        warnings.warn(f"unclosed file {self!r}", ResourceWarning, source=self, stacklevel=2)
        if self._gathered:  # as io does: nobody is there to wait, and the data would be lost
            try:
                data = memoryview(b"".join(self._pieces))
                if self._seekable and not self._append:
                    os.pwrite(self._descriptor.fd, data, self._start)
                else:
                    os.write(self._descriptor.fd, data)
            except OSError:
                pass

    # Reading.

    async def read(self, size: int | None = -1, /) -> bytes:
        """Read up to size bytes, all there are if it is None or negative. Fewer come only at the end.

        Raises io.UnsupportedOperation if it was not opened for reading, ValueError if it is closed, OSError.
        """
        async with self._lock:
            self._check_readable()
            return await self._read(-1 if size is None else size)

    async def readall(self) -> bytes:
        """Read all there is. Raises as `read`."""
        return await self.read()

    async def read1(self, size: int = -1, /) -> bytes:
        """Read what is there, up to size bytes: asks the system once at most. Raises as `read`."""
        async with self._lock:
            self._check_readable()
            return await self._read1(size)

    async def peek(self, size: int = 0, /) -> bytes:
        """What comes next, without moving the position: at least a byte, unless it is the end. Raises as `read`."""
        async with self._lock:
            self._check_readable()
            await self._settle()
            if self._used == len(self._buffer):
                self._buffer, self._used = await self._more(), 0
            return self._buffer[self._used :]

    async def readinto(self, buffer: Buffer, /) -> int:
        """Read into a writable buffer. Returns how many bytes came: fewer than it has room for only at the end.

        The buffer must not change its size until the read has ended, also if its task was cancelled. Raises as `read`.
        """
        return await self._readinto(buffer, False)

    async def readinto1(self, buffer: Buffer, /) -> int:
        """`readinto`, asking the system once at most."""
        return await self._readinto(buffer, True)

    # The same for whoever has the lock.

    async def _read(self, size: int) -> bytes:
        if self._gathered or self._writing is not None:
            await self._flush()
        used = self._used
        have = len(self._buffer) - used
        if 0 <= size <= have:
            self._used = used + size
            return self._buffer[used : used + size]
        if not self._seekable:
            return await self._read_stream(size)
        head = self._buffer[used:]
        if size < 0 or size - have >= self._direct:
            data = await self._pull(size - have if size >= 0 else -1, self._edge)
            self._edge += len(data)
            self._buffer, self._used = b"", 0
            return head + data if head else data
        data = await self._fetch(self._room, self._edge)
        self._edge += len(data)
        self._buffer, self._used = data, min(size - have, len(data))
        return head + data[: self._used] if head else data[: self._used]

    async def _read_stream(self, size: int) -> bytes:
        parts = [self._buffer[self._used :]]
        have = len(parts[0])
        self._buffer, self._used = b"", 0
        try:
            while size < 0 or have < size:
                data = await self._fetch_stream(self._room or (size if size > 0 else BUFFER))
                if not data:
                    break
                parts.append(data)
                have += len(data)
                if not self._room and size >= 0:
                    break
        finally:  # a read that is cancelled takes nothing
            self._buffer = b"".join(parts)
        if 0 <= size < have:
            self._used = size
            return self._buffer[:size]
        data, self._buffer = self._buffer, b""
        return data

    async def _read1(self, size: int) -> bytes:
        await self._settle()
        if size < 0:
            size = self._room or BUFFER
        if size == 0:
            return b""
        if self._used == len(self._buffer):
            self._buffer, self._used = await self._more(size), 0
        data = self._buffer[self._used : self._used + size]
        self._used += len(data)
        return data

    async def _readline(self, limit: int) -> bytes:
        await self._settle()
        start = self._used
        found = self._buffer.find(b"\n", start)
        if found >= 0:
            end = found + 1 if limit < 0 else min(found + 1, start + limit)
        elif 0 <= limit <= len(self._buffer) - start:
            end = start + limit
        else:
            end = await self._find_end(limit)
            start = 0
        self._used = end
        return self._buffer[start:end]

    async def _find_end(self, limit: int) -> int:
        # Read on until the line ends, or the file, or there is enough: the buffer begins with the line then.
        parts = [self._buffer[self._used :]]
        have = len(parts[0])
        try:
            while limit < 0 or have < limit:
                data = await self._more()
                if not data:
                    break
                parts.append(data)
                found = data.find(b"\n")
                if found >= 0:
                    have += found + 1
                    break
                have += len(data)
        finally:
            self._buffer, self._used = b"".join(parts), 0
        return have if limit < 0 else min(have, limit)

    async def _readinto(self, buffer: Buffer, once: bool) -> int:
        async with self._lock:
            self._check_readable()
            with memoryview(buffer) as view, view.cast("B") as room:
                if room.readonly:
                    raise TypeError(
                        f"readinto() argument must be read-write bytes-like object, not {type(buffer).__name__}"
                    )
                size = len(room)
                await self._settle()
                have = len(self._buffer) - self._used
                if self._seekable and not have and size >= self._room and not once:
                    operation = engine.readinto(self._descriptor, room, self._edge, False)
                    moved: int = await operation
                    self._edge += moved
                    return moved
                data = await (self._read1(size) if once else self._read(size))
                room[: len(data)] = data
                return len(data)

    async def _more(self, least: int = 1) -> bytes:
        # The piece that follows the buffer; nothing at the end.
        size = max(self._room, least)
        if not self._seekable:
            return await self._fetch_stream(size)
        data = await self._fetch(size, self._edge)
        self._edge += len(data)
        return data

    async def _fetch_stream(self, size: int) -> bytes:
        # The read belongs to the file and not to the task, which may be cancelled.
        if self._arriving is None:
            self._reading = engine.read(self._descriptor, size, -1, True)
            self._arriving = self._reading.start()
        try:
            data = await shield(self._arriving)
        finally:
            if self._arriving.done():
                self._reading = self._arriving = None
        assert isinstance(data, bytes)
        return data

    async def _fetch(self, size: int, at: int) -> bytes:
        # Up to size bytes from there, fewer only at the end of the file.
        if self._arriving is not None:
            data = await self._take_ahead() if self._ahead == (at, size) else None
            if data is not None:
                self._read_ahead(at, size, len(data))
                return data
            self._forget_ahead()
        operation = engine.read(self._descriptor, size, at, False)
        data = await operation
        assert isinstance(data, bytes)
        if operation.waited and at == self._next:
            self._read_ahead(at, size, len(data))
        self._next = at + len(data)
        return data

    def _read_ahead(self, at: int, size: int, last: int) -> None:
        # There is more behind what was just read, and it had to be waited for.
        at += last
        if last == size and at < self._size:
            self._reading = engine.read(self._descriptor, size, at, False)
            self._arriving = self._reading.start()
            self._ahead = (at, size)

    async def _take_ahead(self) -> bytes | None:
        # What was read ahead; None if that failed: the error, if it lasts, is raised to who reads in earnest.
        assert self._arriving is not None
        try:
            data = await shield(self._arriving)
        except OSError:
            return None
        self._reading = self._arriving = None
        assert isinstance(data, bytes)
        return data

    def _forget_ahead(self) -> None:
        if self._reading is not None:
            self._reading.abort()
            self._reading = self._arriving = None

    async def _pull(self, size: int, at: int) -> bytes:
        # Up to size bytes, or all if it is negative, from there, in as many reads as it takes.
        parts: list[bytes] = []
        while size:
            ask = size if 0 <= size <= _MOST else self._size - at + 1 if self._size > at else BUFFER
            if 0 <= size < ask:
                ask = size
            data = await self._fetch(ask, at)
            parts.append(data)
            at += len(data)
            if size > 0:
                size -= len(data)
            if len(data) < ask:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # Writing.

    async def write(self, data: Buffer, /) -> int:
        """Write all of it, later or now. Returns its size in bytes.

        Raises io.UnsupportedOperation if it was not opened for writing, ValueError if it is closed, TypeError for a
        str, OSError if this write or one before it failed.
        """
        async with self._lock:
            self._check_writable()
            size = self._put(data)
            if self._gathered >= self._room:
                await self._send()
                if not self._room:
                    await self._land()
            return size

    async def writelines(self, lines: Iterable[Buffer], /) -> None:
        """Write each of them. Raises as `write`."""
        async with self._lock:
            self._check_open()
            for line in lines:
                self._check_writable()
                self._put(line)
                if self._gathered >= self._room:
                    await self._send()
            if not self._room:
                await self._land()

    async def flush(self) -> None:
        """Give the system what was gathered, and wait until it has it. Raises OSError, ValueError if it is closed."""
        async with self._lock:
            self._check_open("flush of closed file")
            await self._flush()

    async def fsync(self) -> None:
        """`flush`, and wait until the disk has it (fsync(2)). Raises as `flush`."""
        async with self._lock:
            self._check_open()
            await self._flush()
            await engine.fsync(self._descriptor)

    async def fdatasync(self) -> None:
        """`fsync` without what is not needed to read the data again, such as times (fdatasync(2))."""
        async with self._lock:
            self._check_open()
            await self._flush()
            await engine.fdatasync(self._descriptor)

    async def truncate(self, size: int | None = None, /) -> int:
        """Make it size bytes long, by default as long as the position says, which stays. Returns the size."""
        async with self._lock:
            self._check_open()
            if not self._writable:
                raise io.UnsupportedOperation("truncate")
            await self._flush()
            if size is None:
                size = self._tell()
            self._forget_read()
            await engine.truncate(self._descriptor, size)
            self._size = size
            return size

    def _put(self, data: Buffer) -> int:
        # Gather. Bytes are kept, all else is copied: it may change.
        if type(data) is not bytes:
            if isinstance(data, str):
                raise TypeError("a bytes-like object is required, not 'str'")
            with memoryview(data) as view:
                data = view.tobytes()
        if not data:
            return 0
        if not self._gathered:
            self._forget_read()
            self._start = self._edge
        self._pieces.append(data)
        self._gathered += len(data)
        self._edge += len(data)
        return len(data)

    async def _send(self) -> None:
        # Let what was gathered go. One block is under way at a time.
        await self._land()
        if not self._gathered:
            return
        pieces = self._pieces
        self._block = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._block_at = self._start
        self._pieces, self._gathered = [], 0
        offset = self._start if self._seekable and not self._append else -1
        self._writing = engine.write(self._descriptor, self._block, offset, not self._seekable)
        self._leaving = self._writing.start()
        if self._leaving.done():
            await self._land()

    async def _land(self) -> None:
        # Wait for the block under way. If it failed the rest of it is gathered again, before what came after it.
        writing = self._writing
        if writing is None:
            return
        assert self._leaving is not None
        try:
            await shield(self._leaving)
        except OSError:
            rest = self._block[writing.moved :]
            self._start = self._block_at + writing.moved
            self._pieces.insert(0, rest)
            self._gathered += len(rest)
            raise
        finally:
            if self._leaving.done():
                self._writing = self._leaving = None
                self._block = b""
        if self._append and self._seekable and not self._gathered:
            self._edge = os.lseek(self._descriptor.fd, 0, os.SEEK_CUR)

    async def _flush(self) -> None:
        if self._gathered:
            await self._send()
        await self._land()
        if self._edge > self._size:
            self._size = self._edge

    async def _settle(self) -> None:
        # Before reading: what was written must be seen.
        if self._gathered or self._writing is not None:
            await self._flush()

    def _forget_read(self) -> None:
        # The buffer of a file that has no position is not its own copy: it is all there is.
        if self._seekable:
            self._edge -= len(self._buffer) - self._used
            self._buffer, self._used = b"", 0
            self._forget_ahead()

    # The position.

    async def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position: from the start, from here (os.SEEK_CUR) or from the end (os.SEEK_END). Returns it.

        Raises io.UnsupportedOperation if it has none, ValueError for a closed file or another whence, OSError.
        """
        async with self._lock:
            self._check_open("seek of closed file")
            return await self._seek(offset, whence)

    async def tell(self) -> int:
        """The position in bytes. Raises OSError if it has none, ValueError if it is closed."""
        async with self._lock:
            self._check_open("tell of closed file")
            if not self._seekable:
                raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))
            if self._append:  # what is written goes to the end, wherever that is then
                await self._flush()
            return self._tell()

    def _tell(self) -> int:
        return self._edge - len(self._buffer) + self._used

    async def _seek(self, offset: int, whence: int) -> int:
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
            raise ValueError(f"whence value {whence} unsupported")
        if not self._seekable:
            raise io.UnsupportedOperation("File or stream is not seekable.")
        await self._settle()
        if whence == os.SEEK_CUR:
            offset += self._tell()
        elif whence == os.SEEK_END:
            found: os.stat_result = await engine.stat(self._descriptor.fd, True)
            offset += found.st_size
        elif whence != os.SEEK_SET:
            loop = asyncio.get_running_loop()
            offset = await loop.run_in_executor(None, os.lseek, self._descriptor.fd, offset, whence)
        if offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        start = self._edge - len(self._buffer)
        if start <= offset <= self._edge:
            self._used = offset - start
        else:
            self._buffer, self._used = b"", 0
            self._edge = offset
        return offset

    # The end.

    async def close(self) -> None:
        """Write what was gathered, and close. Raises OSError if that fails; the file is closed nevertheless."""
        if self._closed:
            return
        async with self._lock:
            if self._closed:
                return
            last = None
            try:
                if self._gathered and self._seekable and self._descriptor.owned:
                    await self._land()
                    last = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
                elif self._gathered or self._writing is not None:
                    await self._flush()
            finally:
                self._closed = True
                self._forget_ahead()
                self._writing = self._leaving = None
                position = self._tell()
                self._pieces, self._gathered, self._buffer, self._used = [], 0, b"", 0
                if last is not None:
                    await engine.write_and_close(self._descriptor, last, -1 if self._append else self._start)
                elif self._descriptor.owned:
                    await engine.close(self._descriptor)
                elif self._seekable and not self._append:
                    os.lseek(self._descriptor.fd, position, os.SEEK_SET)

    # What is asked for must be possible.

    def _check_open(self, message: str = "I/O operation on closed file") -> None:
        if self._closed:
            raise ValueError(message)

    def _check_readable(self) -> None:
        if self._closed:
            raise ValueError("read of closed file")
        if not self._readable:
            raise io.UnsupportedOperation("read")

    def _check_writable(self) -> None:
        if self._closed:
            raise ValueError("write to closed file")
        if not self._writable:
            raise io.UnsupportedOperation("write")
