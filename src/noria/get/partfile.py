"""One file being downloaded, on the disk's side: `NAME.part` while it grows, `NAME` when it is complete.

Everything here blocks and is meant for a thread; the event loop has no part in it. Methods of one object may
be called from several threads, one after the other or at once: each runs to its end before the next, and
after `discard` nothing is written any more. Promises: no file is opened before there is something to write,
the final name appears only with the whole content behind it, a file that is already there is not replaced
unless that was asked for, and symbolic links are not followed. Not promised: that the data has reached the
disk when the name appears (no fsync).
"""

import os
import threading
from collections.abc import Sequence

from noria.get.names import PART_ENDING

_MOST_BUFFERS = 512  # for one writev; Linux takes 1024


class PartFile:
    """Writes the file `path` (a string: directory and safe name). `overwrite` lets it replace an existing
    file.
    """

    def __init__(self, path: str, *, overwrite: bool) -> None:
        self.path = path
        self._part = path + PART_ENDING
        self._overwrite = overwrite
        self._fd = -1
        self._opened = False
        self._over = False
        self._lock = threading.Lock()

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append `chunks`, opening the file first if need be.

        Raises FileExistsError before anything is written if the final name is taken, any OSError that the
        file system answers with, and ValueError after `complete` or `discard`.
        """
        with self._lock:
            self._append(chunks)

    def complete(self, chunks: Sequence[bytes]) -> None:
        """Append `chunks`, the last ones, and give the file its final name. Raises as `write` does."""
        with self._lock:
            self._append(chunks)
            self._over = True
            self._close()
            self._move()

    def discard(self) -> None:
        """Remove what was written, unless `complete` has succeeded. Raises nothing."""
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
        if self._over:
            raise ValueError(f"{self.path} is closed")
        if self._fd < 0:
            if not self._overwrite and os.path.lexists(self.path):
                raise FileExistsError(f"{self.path} exists")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._part, flags, 0o666)
            self._opened = True
        for start in range(0, len(chunks), _MOST_BUFFERS):
            buffers = chunks[start : start + _MOST_BUFFERS]
            written = os.writev(self._fd, buffers)
            if written != sum(map(len, buffers)):  # a disk all but full, or a signal
                self._write_rest(b"".join(buffers)[written:])

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
