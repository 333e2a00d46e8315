"""What can be done with a path or a descriptor in one go: the functions of `noria.files`.

Leaves to others: system calls (engine.pyx). What the kernel has no single operation for, and whole trees, run in the
loop's default executor, as does everything that calls back into Python.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat as _stat
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from noria.files import engine

if TYPE_CHECKING:
    from typing_extensions import Buffer

StrPath = str | os.PathLike[str]
AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_T = TypeVar("_T")

_PIECE = 16 * 1024 * 1024  # bytes that copyfile asks the kernel to copy at a time


class HasFileno(Protocol):
    """A file object, or whatever else has a descriptor."""

    def fileno(self) -> int: ...


async def _in_thread(function: Callable[..., _T], *args: Any) -> _T:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def _descriptor(file: int | HasFileno) -> engine.Descriptor:
    return engine.Descriptor(file if isinstance(file, int) else file.fileno(), False)


# Bytes of an open file, at an offset.


def pread(file: int | HasFileno, n: int, offset: int, /) -> Awaitable[bytes]:
    """Up to n bytes from the offset on; fewer only at the file's end. The file's position is neither used nor moved.

    file: a descriptor's number or an object with fileno(), which must stay open until the operation has ended. Raises
    OSError, ValueError for a negative n or offset. Source: os.pread, pread(2).
    """
    if n < 0 or offset < 0:
        raise ValueError("negative size or offset")
    return engine.read(_descriptor(file), n, offset, False)


def pwrite(file: int | HasFileno, data: Buffer, offset: int, /) -> Awaitable[int]:
    """Write all of data from the offset on. Returns its size in bytes. Otherwise as `pread`. Source: pwrite(2)."""
    if offset < 0:
        raise ValueError("negative offset")
    return engine.write(_descriptor(file), data, offset, False)


def readinto(file: int | HasFileno, buffer: Buffer, offset: int, /) -> Awaitable[int]:
    """Read from the offset on into a writable buffer. Returns how many bytes came: fewer than it has room for only at
    the file's end. The buffer must keep its size until the operation has ended, even if its task was cancelled.
    Otherwise as `pread`."""
    if offset < 0:
        raise ValueError("negative offset")
    return engine.readinto(_descriptor(file), buffer, offset, False)


def fsync(file: int | HasFileno, /) -> Awaitable[None]:
    """Wait until the disk has what was written to the descriptor. Raises OSError. Source: os.fsync, fsync(2)."""
    return engine.fsync(_descriptor(file))


def fdatasync(file: int | HasFileno, /) -> Awaitable[None]:
    """`fsync` without what is not needed to read the data again. Raises OSError. Source: os.fdatasync."""
    return engine.fdatasync(_descriptor(file))


# Whole files.


async def read_bytes(path: AnyPath) -> bytes:
    """The file's content. Raises OSError. Source: pathlib.Path.read_bytes."""
    descriptor, mode, size = await engine.open_path(path, os.O_RDONLY, 0)
    if not _stat.S_ISREG(mode):
        if _stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        size = 0
    try:
        parts: list[bytes] = []
        at = 0
        while True:
            ask = size - at + 1 if at < size else 65536
            part: bytes = await engine.read(
                descriptor, ask, at if _stat.S_ISREG(mode) else -1, not _stat.S_ISREG(mode)
            )
            parts.append(part)
            at += len(part)
            if not part or (len(part) < ask and _stat.S_ISREG(mode)):
                return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        await engine.close(descriptor)


async def read_text(
    path: AnyPath, encoding: str | None = None, errors: str | None = None, newline: str | None = None
) -> str:
    """The file's content as text. Raises OSError, UnicodeDecodeError. Source: pathlib.Path.read_text."""
    encoding = io.text_encoding(encoding)
    data = await read_bytes(path)
    with io.TextIOWrapper(io.BytesIO(data), encoding, errors, newline) as text:
        return text.read()


async def write_bytes(
    path: AnyPath, data: Buffer, *, atomic: bool = False, fsync: bool = False, append: bool = False
) -> int:
    """Make the file, or replace its content. Returns the size of data in bytes.

    atomic: whoever opens the path finds the old content or all of the new: it is written under another name in the same
    directory, which then takes the path's place (with the permissions of the old file; symbolic links are replaced).
    fsync: wait until the disk has it, the directory's entry included. append: add to the content instead.
    Raises OSError; ValueError for atomic with append. If it is cancelled the file may have been written or not; with
    `atomic` never in part.
    Source: pathlib.Path.write_bytes.
    """
    if atomic and append:
        raise ValueError("a file cannot be appended to atomically")
    other = None
    if atomic:
        directory, name = os.path.split(os.fsencode(path))
        other = os.path.join(directory, b".%s.%s" % (name[:200], os.urandom(6).hex().encode()))
    size: int = await engine.save(path, other, data, 0o666, fsync, append)
    return size


async def write_text(
    path: AnyPath,
    data: str,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    *,
    atomic: bool = False,
    fsync: bool = False,
    append: bool = False,
) -> int:
    """`write_bytes` of text. Returns the number of characters. Raises UnicodeEncodeError as well.

    Source: pathlib.Path.write_text.
    """
    if not isinstance(data, str):
        raise TypeError(f"data must be str, not {type(data).__name__}")
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, io.text_encoding(encoding), errors, newline, write_through=True) as text:
        text.write(data)
        text.flush()
        encoded = raw.getvalue()
    await write_bytes(path, encoded, atomic=atomic, fsync=fsync, append=append)
    return len(data)


async def copyfile(src: StrPath, dst: StrPath, *, follow_symlinks: bool = True) -> StrPath:
    """Copy a file's content inside the kernel: shared blocks where the file system can, else copy_file_range(2), else
    sendfile(2) or reads and writes. Returns dst, whose content is replaced.

    Raises OSError, shutil.SameFileError, shutil.SpecialFileError for a FIFO. If it is cancelled dst may have a part.
    Source: shutil.copyfile.
    """
    stop = threading.Event()
    try:
        await _in_thread(_copy, src, dst, follow_symlinks, stop)
    finally:
        stop.set()  # whoever is cancelled waits no longer than that takes: the thread ends at its next piece
    return dst


def _copy(src: StrPath, dst: StrPath, follow_symlinks: bool, stop: threading.Event) -> None:
    if not follow_symlinks and os.path.islink(src):
        os.symlink(os.readlink(src), dst)
        return
    import shutil  # which imports all kinds of compression

    for path in (src, dst):
        try:
            found = os.stat(path)
        except OSError:
            continue
        if _stat.S_ISFIFO(found.st_mode):
            raise shutil.SpecialFileError(f"`{os.fspath(path)}` is a named pipe")
        if path is dst and os.path.samestat(found, os.stat(src)):
            raise shutil.SameFileError(f"{src!r} and {dst!r} are the same file")
    with open(src, "rb", buffering=0) as source, open(dst, "wb", buffering=0) as target:
        moved = 0
        try:
            while not stop.is_set():
                count = os.copy_file_range(source.fileno(), target.fileno(), _PIECE)
                if not count:
                    break
                moved += count
        except OSError as error:
            if moved or error.errno not in (
                errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY
            ):  # fmt: skip
                error.filename, error.filename2 = src, dst
                raise
        if moved:
            return
        # Another kind of file, or one that says it is empty and is not, such as those of /proc.
        while not stop.is_set() and (piece := source.read(1024 * 1024)):
            view = memoryview(piece)
            while view:
                view = view[target.write(view) :]


# Directories and names.


def stat(path: AnyPath | int, *, follow_symlinks: bool = True) -> Awaitable[os.stat_result]:
    """What the system knows of a path, or of a descriptor's number. Raises OSError. Source: os.stat, statx(2)."""
    return engine.stat(path, follow_symlinks)


def lstat(path: AnyPath) -> Awaitable[os.stat_result]:
    """`stat` of a symbolic link itself. Source: os.lstat."""
    return engine.stat(path, False)


async def exists(path: AnyPath) -> bool:
    """Whether there is something at the path, behind symbolic links. Source: os.path.exists."""
    try:
        await engine.stat(path, True)
    except (OSError, ValueError):
        return False
    return True


async def isfile(path: AnyPath) -> bool:
    """Whether there is a regular file at the path. Source: os.path.isfile."""
    try:
        found: os.stat_result = await engine.stat(path, True)
    except (OSError, ValueError):
        return False
    return _stat.S_ISREG(found.st_mode)


async def isdir(path: AnyPath) -> bool:
    """Whether there is a directory at the path. Source: os.path.isdir."""
    try:
        found: os.stat_result = await engine.stat(path, True)
    except (OSError, ValueError):
        return False
    return _stat.S_ISDIR(found.st_mode)


def mkdir(path: AnyPath, mode: int = 0o777) -> Awaitable[None]:
    """Make a directory. Raises FileExistsError and other OSErrors. Source: os.mkdir."""
    return engine.mkdir(path, mode)


async def makedirs(path: AnyPath, mode: int = 0o777, exist_ok: bool = False) -> None:
    """Make a directory and those above it. Raises OSError. Source: os.makedirs."""
    await _in_thread(os.makedirs, path, mode, exist_ok)


def rmdir(path: AnyPath) -> Awaitable[None]:
    """Remove an empty directory. Raises OSError. Source: os.rmdir."""
    return engine.rmdir(path)


def unlink(path: AnyPath) -> Awaitable[None]:
    """Remove a file. Raises OSError. Source: os.unlink."""
    return engine.unlink(path)


remove = unlink


def rename(src: AnyPath, dst: AnyPath) -> Awaitable[None]:
    """Give a file or directory another name, replacing what has it. Raises OSError. Source: os.rename, os.replace."""
    return engine.rename(src, dst)


replace = rename


def link(src: AnyPath, dst: AnyPath) -> Awaitable[None]:
    """Make dst a second name of the file. Raises OSError. Source: os.link."""
    return engine.link(src, dst)


def symlink(src: AnyPath, dst: AnyPath) -> Awaitable[None]:
    """Make dst a symbolic link that says src. Raises OSError. Source: os.symlink."""
    return engine.symlink(src, dst)


async def readlink(path: AnyPath) -> str | bytes:
    """What a symbolic link says. Raises OSError. Source: os.readlink."""
    return await _in_thread(os.readlink, path)


async def truncate(path: AnyPath | int, length: int) -> None:
    """Make a file so many bytes long. Raises OSError. Source: os.truncate."""
    await _in_thread(os.truncate, path, length)


async def listdir(path: AnyPath = ".") -> list[Any]:
    """The names in a directory, str or bytes as the path is, in no order. Raises OSError. Source: os.listdir."""
    return await _in_thread(os.listdir, path)


async def scandir(path: AnyPath = ".") -> list[os.DirEntry[Any]]:
    """The entries of a directory, all read, in no order. Raises OSError.

    An entry's name, path, inode() and on most file systems is_dir(), is_file() and is_symlink() ask nobody; its stat()
    blocks: use `stat(entry.path)`. Source: os.scandir.
    """
    return await _in_thread(_scan, path)


def _scan(path: AnyPath) -> list[os.DirEntry[Any]]:
    with os.scandir(path) as entries:
        return list(entries)
