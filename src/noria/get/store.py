"""Where files go: the interface, and the directory that is the usual answer.

All methods block and are called in threads. A `Part` is one file on its way: it gets its name by `publish`,
when everything is in it, and not before. Its methods are called one at a time.
"""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from noria.get.names import PART_ENDING
from noria.get.partfile import PartFile


class Stamp(NamedTuple):
    """What tells a stored file from others of its name. inode is 0 where there are none; mtime is Unix time."""

    size: int
    inode: int
    mtime: float = 0.0


class Part(Protocol):
    """A file that is being written."""

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append `chunks`. Raises OSError; FileExistsError if the name is taken and may not be replaced."""

    def write_at(self, offset: int, chunks: Sequence[bytes]) -> None:
        """Write `chunks` from `offset` on. Only for a store that is `seekable`."""

    def finish(self, chunks: Sequence[bytes]) -> Stamp:
        """Append `chunks`, the last ones; the file is whole and has no name yet."""

    def publish(self, mtime: float | None = None) -> None:
        """After `finish`: give the file its name, and the time `mtime` if the store can."""

    def keep(self) -> None:
        """Stop here and leave what was written for a later `Store.open(resume=...)`. Raises nothing."""

    def discard(self) -> None:
        """Remove what was written, unless `publish` has succeeded. Raises nothing."""


class Store(Protocol):
    """A place for files. `seekable`: parts stay when the process ends, may be written at any offset, and be
    read again. A store may have `threads`, the calls that may wait at a time (4).
    """

    seekable: bool

    def prepare(self) -> None:
        """Make the place and see that files can be made in it. Raises OSError."""

    def exists(self, name: str) -> bool:
        """Whether a file of this name, or anything else, is there."""

    def stamp(self, name: str) -> Stamp | None:
        """Of the complete file `name`; None if it is not there or no file."""

    def part_stamp(self, name: str) -> Stamp | None:
        """Of what was kept of `name`; None if nothing."""

    def open(
        self, name: str, *, overwrite: bool, resume: int = 0, size: int | None = None, fsync: bool = False
    ) -> Part:
        """A part for `name`. resume: go on after this many bytes of what was kept. size: make it as long as
        this at once, for `write_at`. Nothing is opened before something is written.
        """

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes of what was kept of `name`, or written so far."""

    def remove_part(self, name: str) -> None:
        """Remove what was kept of `name`, if anything. Raises nothing."""

    def where(self, name: str) -> str:
        """The path or address of `name`, for people and for `Result.path`."""


class LocalStore:
    """A directory.

    parts: the name of a directory in it in which parts grow, which has to be there; they grow beside their files if
    it is None. Whoever removes it has whoever still writes there fail, and nothing of his gets its name any more.
    """

    seekable = True

    def __init__(self, directory: str | os.PathLike[str], parts: str | None = None) -> None:
        self.directory = os.fspath(directory)
        self._beginning = os.path.join(self.directory, "")  # of all paths; asked for with each file
        self.parts = parts

    def prepare(self) -> None:
        """Make the directory and see that files can be made in it. Raises OSError."""
        os.makedirs(self.directory, exist_ok=True)
        try:
            os.close(os.open(self.directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError:  # not every file system has such files
            import tempfile

            tempfile.TemporaryFile(dir=self.directory).close()

    def exists(self, name: str) -> bool:
        """Whether `name` is there, be it a broken link."""
        return os.path.lexists(self.where(name))

    def stamp(self, name: str) -> Stamp | None:
        """Of the regular file `name`."""
        return _stamp(self.where(name))

    def part_stamp(self, name: str) -> Stamp | None:
        """Of `name`.part."""
        return _stamp(self._part(name))

    def open(
        self, name: str, *, overwrite: bool, resume: int = 0, size: int | None = None, fsync: bool = False
    ) -> PartFile:
        """A `PartFile`."""
        return PartFile(
            self.where(name),
            overwrite=overwrite,
            resume=resume,
            size=size,
            fsync=fsync,
            part=self._part(name),
        )

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        """From `name`.part. Raises OSError."""
        fd = os.open(self._part(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.pread(fd, size, offset)
        finally:
            os.close(fd)

    def remove_part(self, name: str) -> None:
        """Remove `name`.part."""
        try:
            os.unlink(self._part(name))
        except OSError:
            pass  # the next writer truncates it, or reports why it cannot

    def where(self, name: str) -> str:
        """The path."""
        return self._beginning + name

    def make_parts(self) -> None:
        """Make the directory of the parts. Raises OSError."""
        os.makedirs(os.path.join(self.directory, self.parts or ""), exist_ok=True)

    def has_parts(self) -> bool:
        """Whether it is there."""
        return os.path.isdir(os.path.join(self.directory, self.parts or ""))

    def remove_parts(self) -> None:
        """Remove it with all that is in it. Raises nothing."""
        if self.parts:
            path = os.path.join(self.directory, self.parts)
            gone = path + ".gone"
            try:
                os.rename(path, gone)  # at once, so that nobody makes a file in it while it is emptied
            except OSError:
                return
            import shutil  # which imports all kinds of compression

            shutil.rmtree(gone, ignore_errors=True)

    def _part(self, name: str) -> str:
        return os.path.join(self.directory, self.parts or "", name + PART_ENDING)


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return Stamp(found.st_size, found.st_ino, found.st_mtime) if stat.S_ISREG(found.st_mode) else None
