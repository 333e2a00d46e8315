"""The loop's calls on sockets that the program owns: sock_recv, sock_sendall, sock_connect, sock_accept and kin.

Each tries at once and waits for readiness only if it must. Cancelling one stops the waiting and leaves the socket
usable; what was received, or accepted, is then still in the socket. A blocking socket is refused always, not only in
debug mode: it would stop the whole loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Coroutine
from typing import IO, Any, TypeVar

from noria.core._marks import mark_coroutine_functions
from noria.io import poller
from noria.net import sockwait
from noria.net.resolve import Resolving

_T = TypeVar("_T")

# As they were when noria was imported: watchdogs that put themselves in their places later (blockbuster) would take
# the loop's own calls for a program's that block.
sendfile, stat_path, remove = os.sendfile, os.stat, os.remove

# Bytes that one sendfile(2) is asked for: what a file that is not in memory may hold the loop up by.
SENDFILE_PIECE = 1 << 20


def descriptor(fd: Any) -> int:
    """The number of a descriptor given as such or as an object with fileno(); ValueError if it is neither."""
    number = fd
    if not isinstance(number, int):
        try:
            number = int(fd.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fd!r}") from None
    if number < 0:
        raise ValueError(f"Invalid file descriptor: {number}")
    return number


def tell(future: asyncio.Future[None]) -> None:
    """End a wait, unless it has ended."""
    if not future.done():
        future.set_result(None)


class SocketCalls(Resolving):
    """Readers, writers and the sock_* family."""

    # Readiness.

    def _free(self, fd: Any) -> int:
        number = descriptor(fd)
        user = poller.user(self, number)
        if user is not None and hasattr(user, "is_closing") and not user.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {user!r}")
        return number

    def add_reader(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call callback(*args) whenever fd (a number or an object with fileno()) can be read.

        Raises ValueError for what is no descriptor, RuntimeError if a transport uses it, PermissionError for a
        regular file (epoll(7) cannot watch those).
        """
        self._add_reader(self._free(fd), callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        """Undo add_reader(); returns whether there was one."""
        return self._remove_reader(self._free(fd))

    def add_writer(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call callback(*args) whenever fd can be written. Raises as add_reader()."""
        self._add_writer(self._free(fd), callback, *args)

    def remove_writer(self, fd: Any) -> bool:
        """Undo add_writer(); returns whether there was one."""
        return self._remove_writer(self._free(fd))

    def _add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        return poller.add(self, descriptor(fd), False, callback, args)

    def _remove_reader(self, fd: Any) -> bool:
        return poller.remove(self, descriptor(fd), False)

    def _add_writer(self, fd: Any, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        return poller.add(self, descriptor(fd), True, callback, args)

    def _remove_writer(self, fd: Any) -> bool:
        return poller.remove(self, descriptor(fd), True)

    async def _watch(
        self,
        sock: socket.socket,
        writing: bool,
        future: asyncio.Future[_T],
        callback: Callable[..., object],
        *args: Any,
    ) -> _T:
        """Call callback(*args) each time sock is ready, until the future is done; returns its result."""
        fd = sock.fileno()
        self._free(fd)
        handle = poller.add(self, fd, writing, callback, args)
        try:
            return await future
        finally:
            # Only if it is still ours: the program may have closed the socket, and the number may be another's.
            if not handle.cancelled():
                poller.remove(self, fd, writing)

    async def _when_writable(self, sock: socket.socket, future: asyncio.Future[None] | None = None) -> None:
        """Wait until sock takes data, or until somebody else ends the wait by the future."""
        if future is None:
            future = self.create_future()
        await self._watch(sock, True, future, tell, future)

    async def _receive(self, sock: socket.socket, attempt: Callable[[], _T]) -> _T:
        """Do attempt() until it neither blocks nor is interrupted, each time sock can be read.

        The waiting task does it itself, in the step in which it goes on. Were it done as soon as the socket is ready,
        and the task cancelled before its next step, what was taken from the socket would be lost; in asyncio it is.
        """
        while True:
            try:
                return attempt()
            except (BlockingIOError, InterruptedError):
                pass
            await sockwait.readable(self, sock)

    async def _send(self, sock: socket.socket, attempt: Callable[[], _T]) -> _T:
        """Do attempt() until it neither blocks nor is interrupted, each time sock can be written."""
        try:
            return attempt()
        except (BlockingIOError, InterruptedError):
            pass
        future: asyncio.Future[_T] = self.create_future()

        def retry() -> None:
            if future.done():
                return
            try:
                result = attempt()
            except (BlockingIOError, InterruptedError):
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        return await self._watch(sock, True, future, retry)

    # Receiving.

    def sock_recv(self, sock: socket.socket, n: int) -> Coroutine[Any, Any, bytes]:
        """Receive up to n bytes; b"" at the end of the stream."""
        return sockwait.recv_some(self, sock, n)

    def sock_recv_into(self, sock: socket.socket, buf: Any) -> Coroutine[Any, Any, int]:
        """Receive into a writable buffer; returns the count of bytes."""
        return sockwait.recv_into(self, sock, buf)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of up to bufsize bytes; returns (data, address)."""
        sockwait.check(sock)
        return await self._receive(sock, lambda: sock.recvfrom(bufsize))

    async def sock_recvfrom_into(self, sock: socket.socket, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        """Receive a datagram into buf, at most nbytes (0: all of buf); returns (count, address)."""
        sockwait.check(sock)
        if not nbytes:
            nbytes = len(buf)
        return await self._receive(sock, lambda: sock.recvfrom_into(buf, nbytes))

    # Sending.

    def sock_sendall(self, sock: socket.socket, data: Any) -> Coroutine[Any, Any, None]:
        """Send all of data, a bytes-like object, which must not change meanwhile."""
        return sockwait.sendall(self, sock, data)

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        """Send a datagram to address; returns the count of bytes."""
        sockwait.check(sock)
        return await self._send(sock, lambda: sock.sendto(data, address))

    # Connecting.

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to address. A host name is looked up without blocking."""
        sockwait.check(sock)
        inet = sock.family in (socket.AF_INET, socket.AF_INET6)
        if inet and isinstance(address, tuple) and len(address) >= 2:
            found = await self._resolve(address, family=sock.family, type=sock.type, proto=sock.proto)
            address = found[0][4]
        try:
            sock.connect(address)
            return
        except (BlockingIOError, InterruptedError):
            pass
        future: asyncio.Future[None] = self.create_future()

        def done() -> None:
            if future.done():
                return
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error in (0, 106):  # EISCONN
                future.set_result(None)
            else:
                future.set_exception(OSError(error, f"Connect call failed {address}"))

        await self._watch(sock, True, future, done)

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection; returns (non-blocking socket, address)."""
        sockwait.check(sock)

        def attempt() -> tuple[socket.socket, Any]:
            connection, address = sock.accept()
            connection.setblocking(False)
            return connection, address

        return await self._receive(sock, attempt)

    # Files.

    async def sock_sendfile(
        self,
        sock: socket.socket,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool | None = True,
    ) -> int:
        """Send a file opened in binary mode, from offset, count bytes or to its end; returns the count sent.

        By sendfile(2) where file is a regular one; else by reading and sending if fallback, else
        asyncio.SendfileNotAvailableError.
        """
        sockwait.check(sock)
        check_sendfile(file, offset, count)
        if sock.type != socket.SOCK_STREAM:
            raise ValueError("only SOCK_STREAM type sockets are supported")
        try:
            return await self._sendfile_by_kernel(
                sock, file, offset, count, lambda: self._when_writable(sock)
            )
        except asyncio.SendfileNotAvailableError:
            if not fallback:
                raise
        return await self._sendfile_by_hand(file, offset, count, lambda data: self.sock_sendall(sock, data))

    async def _sendfile_by_kernel(
        self,
        sock: socket.socket,
        file: IO[bytes],
        offset: int,
        count: int | None,
        room: Callable[[], Awaitable[None]],
    ) -> int:
        """sendfile(2) from offset until count or the file's end; room() waits until the socket takes more.

        A piece at a time, and the loop turns between pieces, however fast the peer reads. The file's position is
        behind what was sent afterwards, whatever happens, if anything was. Raises asyncio.SendfileNotAvailableError if
        nothing was sent because the kernel cannot.
        """
        # A descriptor of our own: the program may close the file meanwhile and open another under its number.
        fd, size = regular_file(file)
        at = offset
        try:
            while count is None or at - offset < count:
                left = SENDFILE_PIECE if count is None else count - (at - offset)
                try:
                    sent = sendfile(sock.fileno(), fd, at, min(left, SENDFILE_PIECE))
                except (BlockingIOError, InterruptedError):
                    await room()
                    continue
                except ConnectionError:
                    raise
                except OSError as error:
                    if at == offset:
                        raise asyncio.SendfileNotAvailableError("os.sendfile call failed") from error
                    raise
                if sent == 0:
                    break
                at += sent
                # At the file's end there is nothing to wait for: the next call says whether it has grown.
                if at < size and at - offset != count:
                    await room()
            return at - offset
        finally:
            os.close(fd)
            if at > offset:
                move(file, at)

    async def _sendfile_by_hand(
        self, file: IO[bytes], offset: int, count: int | None, send: Callable[[bytes], Any]
    ) -> int:
        if offset:
            file.seek(offset)
        else:
            move(file, 0)  # what cannot seek, as a pipe, is read from where it is
        total = 0
        try:
            while count is None or total < count:
                room = 256 * 1024 if count is None else min(256 * 1024, count - total)
                data = await self.run_in_executor(None, file.read, room)
                if not data:
                    break
                await send(data)
                total += len(data)
            return total
        finally:
            if total > 0:
                move(file, offset + total)


def regular_file(file: IO[bytes]) -> tuple[int, int]:
    """A descriptor of its own for an open regular file, to be closed by the caller, and the file's size now.

    Raises asyncio.SendfileNotAvailableError for anything else.
    """
    try:
        fd = os.dup(file.fileno())
    except (AttributeError, OSError, ValueError) as error:  # ValueError: it is closed
        raise asyncio.SendfileNotAvailableError("not a regular file") from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise asyncio.SendfileNotAvailableError("not a regular file")
    return fd, found.st_size


def move(file: IO[bytes], to: int) -> None:
    """Set a file's position, if it has one and is still open."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        file.seek(to)


def check_sendfile(file: Any, offset: int, count: int | None) -> None:
    """Refuse what sendfile cannot send, in asyncio's words."""
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if count is not None:
        if not isinstance(count, int):
            raise TypeError(f"count must be a positive integer (got {count!r})")
        if count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
    if not isinstance(offset, int):
        raise TypeError(f"offset must be a non-negative integer (got {offset!r})")
    if offset < 0:
        raise ValueError(f"offset must be a non-negative integer (got {offset!r})")


mark_coroutine_functions(SocketCalls.sock_recv, SocketCalls.sock_recv_into, SocketCalls.sock_sendall)
