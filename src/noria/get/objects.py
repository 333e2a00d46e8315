"""Files for anything that fsspec reaches: `s3://`, `gs://`, `memory://`, a share by `smb://`, and so on.

`FsspecStore` stands where the store of a local directory stands, and keeps the same promises: a file has its
final name only when it is whole, what is given up leaves nothing behind, and what is there already is not
replaced unless that was asked for. Everything here blocks and is meant for a thread; fsspec's asynchronous file
systems run their own event loop in a thread of theirs.

There are two ways to that. On S3 and Google's storage an upload is invisible until it is closed and can be
aborted, so the file is uploaded under its name, in parts as it comes. Everywhere else it grows under
`NAME.part` and is renamed. Left to the owner of a bucket: uploads of a process that was killed outright are
invisible, but cost storage until a lifecycle rule ("abort incomplete multipart uploads") removes them.

Credentials are fsspec's business (environment, configuration files, the machine's role): a URL that holds some
is shown without them, and so are errors.
"""

import contextlib
import errno
import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from noria.get.failures import printable
from noria.get.names import PART_ENDING
from noria.get.store import LocalStore, Stamp

_MIB = 1 << 20
_BLOCK = 5 * _MIB  # of memory for each upload under way; S3 takes no smaller parts
_BLOCKS_OF_A_SIZE = 500  # then they grow, as S3 takes no more than 10,000 of them
_ATOMIC = frozenset({"s3", "s3a", "gs", "gcs"})  # protocols whose uploads are invisible until closed


class _Writable(Protocol):
    def write(self, data: bytes, /) -> int: ...
    def close(self) -> None: ...


def is_url(output: str | os.PathLike[str]) -> bool:
    """Whether `output` is a URL for `FsspecStore` rather than a directory."""
    return (
        isinstance(output, str) and re.match(r"[a-z][a-z0-9+.-]*(::|://)", output, re.IGNORECASE) is not None
    )


class FsspecStore:
    """The files below `url`, such as `s3://bucket/prefix`.

    options: keywords for the file system, such as `endpoint_url` for `s3`; the rest is taken from where it
    takes it by itself. parts: the name of a directory for what is not whole yet, as with `LocalStore`; not needed where
    uploads are invisible. Raises ValueError if no file system is known for the URL or its package is not installed.
    """

    seekable = False
    threads: Final = 32  # that may block at a time: each waits for the network, none for a disk

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, parts: str | None = None) -> None:
        try:
            import fsspec
        except ImportError:
            raise ValueError(f"{shown(url)} needs fsspec: pip install 'noria[get-fsspec]'") from None
        self.url = url.rstrip("/")
        self.parts = parts
        self._options = dict(options or {})
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, **self._options)
        except (ImportError, ValueError) as error:  # ImportError names the package to install
            raise ValueError(f"{shown(url)}: {_without(self._secrets(), str(error))}") from None
        self._root = self._root.rstrip("/")
        protocols = self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,)
        if "http" in protocols:
            raise ValueError(f"{shown(url)}: by http, files can be fetched only")
        self._atomic = not _ATOMIC.isdisjoint(protocols)

    def __repr__(self) -> str:
        return f"<FsspecStore {shown(self.url)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return FsspecStore, (self.url, self._options, self.parts)

    def where(self, name: str) -> str:
        """Where the file `name` is, as a URL without credentials."""
        return f"{shown(self.url)}/{name}"

    def prepare(self) -> None:
        """Make the directory, where there are directories, and see that it can be reached. Raises OSError."""
        with self._os_errors():
            if self._atomic:
                # Has no directories. Of the bucket, neither listing nor creation need be allowed: a missing name
                # in it says whether it can be asked.
                self._fs.exists(f"{self._root}/.noria-get-probe")
                bucket = self._root.split("/", 1)[0]
                if not bucket:
                    raise FileNotFoundError("no bucket is named")
            else:
                self._fs.makedirs(self._root, exist_ok=True)

    def exists(self, name: str) -> bool:
        """Whether there is a file `name`, asked anew each time. Raises OSError."""
        with self._os_errors(name):
            self._fs.invalidate_cache(self._root)
            return bool(self._fs.exists(self._path(name)))

    def stamp(self, name: str) -> Stamp | None:
        """Of the complete file `name`; the time of its last change is left out. Raises OSError."""
        with self._os_errors(name):
            self._fs.invalidate_cache(self._root)
            try:
                found = self._fs.info(self._path(name))
            except FileNotFoundError:
                return None
            return Stamp(int(found["size"] or 0), 0) if found["type"] == "file" else None

    def part_stamp(self, name: str) -> None:
        """Nothing is ever kept."""
        return

    def open(
        self, name: str, *, overwrite: bool, resume: int = 0, size: int | None = None, fsync: bool = False
    ) -> "ObjectPart":
        """What writes the file `name`. Nothing is opened before there is something to write.

        resume must be 0 and size None, as the store is not `seekable`; fsync is what such places do anyway.
        """
        if resume or size is not None:
            raise ValueError(f"{self.where(name)} can only be written from its beginning to its end")
        return ObjectPart(self, name, overwrite)

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        """Raises OSError: nothing is ever kept."""
        raise FileNotFoundError(f"there is no part of {self.where(name)}")

    def remove_part(self, name: str) -> None:
        """Remove what a process that was killed left, where that can be seen."""
        if not self._atomic:
            with contextlib.suppress(Exception):
                self._fs.rm_file(self._part(name))

    def make_parts(self) -> None:
        """Make the directory of the parts, if it is of use. Raises OSError."""
        if self.parts and not self._atomic:
            with self._os_errors():
                self._fs.makedirs(f"{self._root}/{self.parts}", exist_ok=True)

    def has_parts(self) -> bool:
        """Whether it is there, where that matters; not everywhere are there directories that could be missing."""
        return True

    def remove_parts(self) -> None:
        """Remove it with all that is in it. Raises nothing."""
        if self.parts and not self._atomic:
            with contextlib.suppress(Exception):
                self._fs.rm(f"{self._root}/{self.parts}", recursive=True)

    # What follows is for ObjectPart.

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _part(self, name: str) -> str:
        return (
            f"{self._root}/{self.parts}/{name}{PART_ENDING}" if self.parts else self._path(name + PART_ENDING)
        )

    def _start(self, name: str, overwrite: bool) -> _Writable:
        if not overwrite and self.exists(name):
            raise FileExistsError(f"{self.where(name)} exists")
        with self._os_errors(name):
            if not self._atomic:
                file = self._fs.open(self._part(name), "wb")
            else:
                # "x": the server itself refuses at the end, should somebody else have been faster.
                mode = "wb" if overwrite else "xb"
                file = self._fs.open(self._path(name), mode, block_size=_BLOCK)
            return file  # type: ignore[no-any-return]

    def _finish(self, file: _Writable, name: str, overwrite: bool) -> None:
        try:
            with self._os_errors(name):
                file.close()
                if not self._atomic:
                    if not overwrite and self.exists(name):
                        raise FileExistsError
                    self._fs.mv(self._part(name), self._path(name))
        except OSError:
            # S3 has one answer for all conditions that do not hold; ours is that there was no such file.
            if not overwrite and self._atomic and self.exists(name):
                raise FileExistsError(f"{self.where(name)} exists") from None
            raise

    def _abort(self, file: Any, name: str) -> None:
        if self._atomic:
            try:
                file.discard()
            finally:
                file.closed = True  # else its finalizer would complete the upload
        else:
            with contextlib.suppress(Exception):
                file.close()
            self._fs.rm_file(self._part(name))

    @contextlib.contextmanager
    def _os_errors(self, name: str = "") -> Any:
        """Make every error an OSError of the same kind, in one line, without credentials."""
        try:
            yield
        except Exception as error:
            place = self.where(name) if name else shown(self.url)
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            reason = printable(_without(self._secrets(), reason))
            if isinstance(error, FileExistsError):
                raise FileExistsError(f"{place} exists") from None
            kind = (
                type(error) if type(error) in (FileNotFoundError, PermissionError, TimeoutError) else OSError
            )
            raise kind(getattr(error, "errno", None) or errno.EIO, reason, place) from None

    def _secrets(self) -> list[str]:
        """Every text that no message may hold."""
        found = [value for key, value in os.environ.items() if re.search("SECRET|TOKEN|PASSWORD", key)]
        found += [value for value in self._options.values() if isinstance(value, str)]
        if match := re.search(r"//[^/?#@:]*:([^/?#]*)@", self.url):
            found.append(match[1])
        return [text for text in found if len(text) >= 4 and text not in ("true", "false", "None")]


class ObjectPart:
    """One file being written; see the module. Methods may be called from any thread, each runs to its end
    before the next.
    """

    def __init__(self, store: FsspecStore, name: str, overwrite: bool) -> None:
        self.path = store.where(name)
        self._store = store
        self._name = name
        self._overwrite = overwrite
        self._file: _Writable | None = None
        self._size = 0
        self._finished = False
        self._lock = threading.Lock()

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append `chunks`, starting the upload first if need be.

        Raises FileExistsError before anything is sent if the name is taken, OSError for whatever else goes
        wrong, and ValueError after `complete` or `discard`.
        """
        with self._lock:
            self._append(chunks)

    def write_at(self, offset: int, chunks: Sequence[bytes]) -> None:
        """Raises OSError: the store is not `seekable`."""
        raise OSError(f"{self.path} can only be written from its beginning to its end")

    def finish(self, chunks: Sequence[bytes]) -> Stamp:
        """Append `chunks`, the last ones. Raises as `write` does."""
        with self._lock:
            self._append(chunks)
            self._finished = True
            return Stamp(self._size, 0)

    def publish(self, mtime: float | None = None) -> None:
        """After `finish`: have the file appear; `mtime` is left out. Raises as `write` does."""
        with self._lock:
            assert self._file is not None
            self._store._finish(self._file, self._name, self._overwrite)
            self._file = None

    def keep(self) -> None:
        """As `discard`: nothing can be gone on with."""
        self.discard()

    def discard(self) -> None:
        """Give up and leave nothing, unless `publish` has succeeded. Raises nothing."""
        with self._lock:
            self._finished = True
            file, self._file = self._file, None
            if file is not None:
                with contextlib.suppress(Exception):  # the failure that led here is reported either way
                    self._store._abort(file, self._name)

    def _append(self, chunks: Sequence[bytes]) -> None:
        if self._finished:
            raise ValueError(f"{self.path} is closed")
        if self._file is None:
            self._file = self._store._start(self._name, self._overwrite)
        with self._store._os_errors(self._name):
            for chunk in chunks:
                self._file.write(chunk)
                self._size += len(chunk)
        if self._store._atomic:
            # A multiple of a MiB, as Google's storage takes nothing odd.
            grown = self._size // _BLOCKS_OF_A_SIZE // _MIB * _MIB
            self._file.blocksize = max(_BLOCK, grown)  # type: ignore[attr-defined]


def make_store(output: str | os.PathLike[str], parts: str | None = None) -> LocalStore | FsspecStore:
    """The store for `output`: a directory, `file://` and a directory, or any other URL that fsspec takes. parts: the
    name of a directory in it for what is not whole yet. Raises ValueError for a URL of which nothing is known.
    """
    if not isinstance(output, str) or not is_url(output):
        return LocalStore(output, parts)
    if output.lower().startswith("file://"):
        from urllib.parse import unquote, urlsplit

        return LocalStore(unquote(urlsplit(output).path) or "/", parts)
    return FsspecStore(output, parts=parts)


def shown(url: str) -> str:
    """`url` fit to be shown: without user and password, in printable characters."""
    return printable(re.sub(r"(//)[^/?#@]*@", r"\1", url), 2000)


def _without(secrets: Sequence[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
