"""open(): what a mode means, and the way from a path to a file object.

The checks and their messages are those of io.open, and so is what becomes of buffering, encoding and newline.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
import sys
import warnings
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, overload

from noria.files import engine
from noria.files.binary import BUFFER, BinaryFile, File
from noria.files.text import TextFile

StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Opener = Callable[[str, int], int]
_F = TypeVar("_F", bound=File[Any])


class Opening(Generic[_F]):
    """What `noria.open` returns: await it for the file, or use it in `async with`, which closes the file as well."""

    __slots__ = ("_file", "_how")

    def __init__(self, *how: Any) -> None:
        """how: what `_begin` takes."""
        self._how = how
        self._file: _F | None = None

    def __await__(self) -> Generator[Any, Any, _F]:
        return _begin(self, *self._how).__await__()

    # No coroutines of their own around those that do it: there may be a thousand of them.

    def __aenter__(self) -> Coroutine[Any, Any, _F]:
        return _begin(self, *self._how)

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        assert self._file is not None
        return self._file.close()


class _Mode:
    """A mode string, understood."""

    def __init__(self, mode: str) -> None:
        letters = set(mode)
        if letters - set("axrwb+t") or len(mode) > len(letters):
            raise ValueError(f"invalid mode: {mode!r}")
        self.text = "b" not in letters
        if "b" in letters and "t" in letters:
            raise ValueError("can't have text and binary mode at once")
        kinds = [letter for letter in "xrwa" if letter in letters]
        if not kinds:
            raise ValueError("Must have exactly one of create/read/write/append mode and at most one plus")
        if len(kinds) != 1:
            raise ValueError("must have exactly one of create/read/write/append mode")
        kind, plus = kinds[0], "+" in letters
        self.append = kind == "a"
        self.readable = kind == "r" or plus
        self.writable = kind != "r" or plus
        self.flags = os.O_RDWR if plus else os.O_RDONLY if kind == "r" else os.O_WRONLY
        self.flags |= {
            "r": 0,
            "w": os.O_CREAT | os.O_TRUNC,
            "x": os.O_CREAT | os.O_EXCL,
            "a": os.O_CREAT | os.O_APPEND,
        }[kind]
        self.raw = ("rb" if kind == "w" and plus else f"{kind}b") + (
            "+" if plus else ""
        )  # as FileIO.mode has it


_MODES: dict[str, _Mode] = {}


def _understood(mode: str) -> _Mode:
    found = _MODES.get(mode)
    if found is None:
        found = _Mode(mode)
        _MODES[mode] = found
    return found


@overload
def open(
    file: int | StrOrBytesPath,
    mode: Literal[
        "rb", "br", "rb+", "r+b", "+rb", "br+", "b+r", "+br", "wb", "bw", "wb+", "w+b", "+wb", "bw+", "b+w", "+bw",
        "ab", "ba", "ab+", "a+b", "+ab", "ba+", "b+a", "+ba", "xb", "bx", "xb+", "x+b", "+xb", "bx+", "b+x", "+bx",
    ],
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[BinaryFile]: ...  # fmt: skip
@overload
def open(
    file: int | StrOrBytesPath,
    mode: Literal[
        "r", "rt", "tr", "r+", "+r", "rt+", "r+t", "+rt", "tr+", "t+r", "+tr",
        "w", "wt", "tw", "w+", "+w", "wt+", "w+t", "+wt", "tw+", "t+w", "+tw",
        "a", "at", "ta", "a+", "+a", "at+", "a+t", "+at", "ta+", "t+a", "+ta",
        "x", "xt", "tx", "x+", "+x", "xt+", "x+t", "+xt", "tx+", "t+x", "+tx",
    ] = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[TextFile]: ...  # fmt: skip
@overload
def open(
    file: int | StrOrBytesPath,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[Any]: ...
def open(
    file: int | StrOrBytesPath,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[Any]:
    """Open a file without blocking the loop: `async with noria.open(...) as f` or `f = await noria.open(...)`.

    The arguments are those of the built-in `open`, and so are the errors: ValueError and TypeError for arguments, at
    once; OSError when the file is opened. An `opener` is called in a thread. Works on every asyncio loop on Linux.

    Source: the built-in open, and aiofiles.open.
    """
    if not isinstance(file, int):
        file = os.fspath(file)
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    how = _understood(mode)
    if how.text:
        if buffering == 0:
            raise ValueError("can't have unbuffered text I/O")
        encoding = io.text_encoding(encoding)
        # io itself says what is wrong with them, and what they come to.
        with io.TextIOWrapper(io.BytesIO(), encoding, errors, newline) as probe:
            encoding, errors = probe.encoding, probe.errors or "strict"
    else:
        if encoding is not None or errors is not None or newline is not None:
            what = (
                "an encoding" if encoding is not None else "an errors" if errors is not None else "a newline"
            )
            raise ValueError(f"binary mode doesn't take {what} argument")
        if buffering == 1:
            warnings.warn(
                "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used",
                RuntimeWarning,
                stacklevel=2,
            )
            buffering = -1
    if isinstance(file, int):
        if file < 0:
            raise ValueError("negative file descriptor")
    elif not closefd:
        raise ValueError("Cannot use closefd=False with file name")

    return Opening(file, mode, how, buffering, encoding, errors, newline, closefd, opener)


async def _begin(
    opening: Opening[Any],
    file: int | str | bytes,
    mode: str,
    how: _Mode,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
    opener: Opener | None,
) -> Any:
    if opener is None and not isinstance(file, int):
        sys.audit("open", file, how.raw, how.flags | os.O_CLOEXEC)
        descriptor, kind, size = await engine.open_path(file, how.flags, 0o666)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        fresh = stat.S_ISREG(kind) and not how.append
    else:
        descriptor, kind, size = await _other_descriptor(file, how, closefd, opener)
        fresh = False
    # Nothing from here on waits: the file is open, and asking for its position does not touch it.
    position = 0
    if not fresh:
        try:
            position = os.lseek(descriptor.fd, 0, os.SEEK_END if how.append else os.SEEK_CUR)
        except OSError:
            position = -1
    lines = buffering == 1
    if buffering < 0 and stat.S_ISCHR(kind) and os.isatty(descriptor.fd):
        lines = True
    if buffering < 0 or buffering == 1:
        buffering = BUFFER
    binary = BinaryFile(
        descriptor, kind, size, file, how.raw, how.readable, how.writable, how.append, buffering, position
    )
    if how.text:
        assert encoding is not None
        assert errors is not None
        opening._file = TextFile(binary, encoding, errors, newline, lines, mode)
    else:
        opening._file = binary
    return opening._file


async def _other_descriptor(
    file: int | str | bytes, how: _Mode, closefd: bool, opener: Opener | None
) -> tuple[engine.Descriptor, int, int]:
    # The program's own, or its opener's.
    if isinstance(file, int):
        descriptor = engine.Descriptor(file, False)
    else:
        fd = await asyncio.get_running_loop().run_in_executor(None, opener, file, how.flags | os.O_CLOEXEC)  # type: ignore[arg-type]
        if not isinstance(fd, int):
            raise TypeError("expected integer from opener")
        if fd < 0:
            raise ValueError(f"opener returned {fd}")
        descriptor = engine.Descriptor(fd, True)
        os.set_inheritable(fd, False)
    status = await engine.stat(descriptor.fd, True)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
    if isinstance(file, int) and closefd:
        descriptor = engine.Descriptor(file, True)
    return descriptor, status.st_mode, status.st_size
