"""One file being downloaded, on the disk's side: `NAME.part` while it grows, `NAME` when it is complete.

Everything here blocks and is meant for a thread; the event loop has no part in it. Methods of one object may
be called from several threads, one after the other or at once: each runs to its end before the next, and
after `discard` or `keep` nothing is written any more. Promises: no file is opened before there is something
to write, the final name appears only with the whole content behind it, a file that is already there is not
replaced unless that was asked for, and symbolic links are not followed. With `fsync` the content has reached
the disk before the name appears, and the name when `publish` returns.
"""

import os
import stat
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from noria.get.largefiles import Intake
from noria.get.names import PART_ENDING

if TYPE_CHECKING:
    from noria.get.store import Stamp

_MOST_BUFFERS = 512  # for one writev; Linux takes 1024


class PartFile:
    """Writes the file `path` (a string: directory and safe name). `overwrite` lets it replace an existing
    file.

    resume: keep this many bytes of the part that is there, and append after them. size: make the part as long
    as this, sparse, for `write_at` in any order; with it, nothing of a part that is there is cut off. part: where
    it grows, on the same file system, if not beside `path`.
    """

    def __init__(
        self,
        path: str,
        *,
        overwrite: bool,
        resume: int = 0,
        size: int | None = None,
        fsync: bool = False,
        part: str | None = None,
    ) -> None:
        self.path = path
        self._part = path + PART_ENDING if part is None else part
        self._overwrite = overwrite
        self._resume = resume
        self._size = size
        self._fsync = fsync
        self._fd = -1
        self._opened = False
        self._over = False
        self._lock = threading.Lock()

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append `chunks`, opening the file first if need be.

        Raises FileExistsError before anything is written if the final name is taken, any OSError that the
        file system answers with, and ValueError after `finish`, `keep` or `discard`.
        """
        with self._lock:
            self._append(chunks)

    def write_at(self, offset: int, chunks: Sequence[bytes]) -> None:
        """Write `chunks` from `offset` on. Raises as `write` does."""
        with self._lock:
            self._open()
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    written = os.pwrite(self._fd, view, offset)
                    offset += written
                    view = view[written:]

    def intake(self, source: int, offset: int, size: int, stall: float | None) -> Intake:
        """What brings `size` bytes from the socket `source` to `offset`, when it is run. Raises as `write` does."""
        with self._lock:
            self._open()
            return Intake(source, self._fd, offset, size, stall)

    def finish(self, chunks: Sequence[bytes]) -> "Stamp":
        """Append `chunks`, the last ones, and close the file. Raises as `write` does."""
        from noria.get.store import Stamp

        with self._lock:
            self._append(chunks)
            self._over = True
            if self._fsync:
                os.fsync(self._fd)
            found = os.fstat(self._fd)
            self._close()
            return Stamp(found.st_size, found.st_ino, found.st_mtime)

    def publish(self, mtime: float | None = None) -> None:
        """After `finish`: set the time of the file, if one is given, and give it its final name."""
        with self._lock:
            if mtime is not None:
                os.utime(self._part, (mtime, mtime), follow_symlinks=False)
            self._move()
            if self._fsync:
                _fsync_directory(os.path.dirname(self.path))

    def complete(self, chunks: Sequence[bytes]) -> None:
        """`finish` and `publish`."""
        self.finish(chunks)
        self.publish()

    def keep(self) -> None:
        """Stop, and leave the part where it is. Raises nothing."""
        with self._lock:
            self._over = True
            try:
                self._close()
            except OSError:
                pass  # a part that is shorter than thought is found out by its length

    def discard(self) -> None:
        """Remove what was written, unless `publish` has succeeded. Raises nothing."""
        with self._lock:
            self._over = True
            try:
                self._close()
                if self._opened:
                    os.unlink(self._part)
            except OSError:
                pass  # it is gone, or cannot go; the failure that led here is reported either way
            self._opened = False

    def _append(self, chunks: Sequence[bytes]) -> None:
        self._open()
        for start in range(0, len(chunks), _MOST_BUFFERS):
            buffers = chunks[start : start + _MOST_BUFFERS]
            written = os.writev(self._fd, buffers)
            if written != sum(map(len, buffers)):  # a disk all but full, or a signal
                self._write_rest(b"".join(buffers)[written:])

    def _open(self) -> None:
        if self._over:
            raise ValueError(f"{self.path} is closed")
        if self._fd >= 0:
            return
        if not self._overwrite and os.path.lexists(self.path):
            raise FileExistsError(f"{self.path} exists")
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        if not self._resume and self._size is None:
            flags |= os.O_TRUNC
        self._fd = os.open(self._part, flags, 0o666)
        self._opened = True
        if self._resume or self._size is not None:
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size < self._resume:
                raise OSError(f"{self._part} is not what was left there")
            os.ftruncate(self._fd, self._resume if self._size is None else self._size)
            os.lseek(self._fd, 0, os.SEEK_END)

    def _write_rest(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)  # network file systems report a full disk here

    def _move(self) -> None:
        if self._overwrite:
            os.replace(self._part, self.path)
        else:
            try:
                os.link(
                    self._part, self.path
                )  # unlike rename, it never replaces what has meanwhile come into being
            except FileExistsError:
                raise FileExistsError(f"{self.path} exists") from None
            except OSError:  # no hard links here (FAT, some network file systems)
                if os.path.lexists(self.path):
                    raise FileExistsError(f"{self.path} exists") from None
                os.rename(self._part, self.path)
            else:
                os.unlink(self._part)
        self._opened = False


def _fsync_directory(path: str) -> None:
    fd = os.open(path or os.curdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
