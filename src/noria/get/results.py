"""What a run tells: how each download ended (`Result`), what is under way (`Transfer`, `Activity`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Result:
    """How one download ended.

    url: as it was given. where: the complete file, its path or URL, or None. size: its bytes. status: of
    the last HTTP answer, or None. error: one line, or None. attempts: requests made, redirects not counted.
    seconds: from taking the URL up to the end, waits included. skipped: nothing was fetched because the file was there.

    host: of the URL. etag: the server's, of what was saved. checksum: "sha256:hex" or the like of what was
    written, if one was computed. first_byte: seconds from the last request to its answer's head. kind: the
    sort of failure (`noria.get.failures.KINDS`), None without one. resumed: bytes taken over from an earlier
    attempt or run. started: Unix time.
    """

    # Written out: one is made for each file, and a frozen dataclass takes three times as long for that.
    __slots__ = (
        "attempts",
        "checksum",
        "error",
        "etag",
        "first_byte",
        "host",
        "kind",
        "resumed",
        "seconds",
        "size",
        "skipped",
        "started",
        "status",
        "url",
        "where",
    )

    def __init__(
        self,
        url: str,
        where: str | None = None,
        size: int = 0,
        status: int | None = None,
        error: str | None = None,
        attempts: int = 0,
        seconds: float = 0.0,
        skipped: bool = False,
        host: str = "",
        etag: str | None = None,
        checksum: str | None = None,
        first_byte: float | None = None,
        kind: str | None = None,
        resumed: int = 0,
        started: float = 0.0,
    ) -> None:
        self.url = url
        self.where = where
        self.size = size
        self.status = status
        self.error = error
        self.attempts = attempts
        self.seconds = seconds
        self.skipped = skipped
        self.host = host
        self.etag = etag
        self.checksum = checksum
        self.first_byte = first_byte
        self.kind = kind
        self.resumed = resumed
        self.started = started

    @property
    def ok(self) -> bool:
        """Whether the complete file is at `path`."""
        return self.error is None

    @property
    def path(self) -> "Path | str | None":
        """The complete file, a string if it is a URL, of which a Path would take a slash, or None."""
        where = self.where
        if where is None:
            return None
        if "://" in where or "::" in where:
            from noria.get.objects import is_url

            if is_url(where):
                return where
        from pathlib import Path

        return Path(where)

    def as_dict(self) -> dict[str, Any]:
        """The fields, in the alphabet's order."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __eq__(self, other: object) -> bool:
        return self.as_dict() == other.as_dict() if isinstance(other, Result) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.url, self.where, self.started))

    def __repr__(self) -> str:
        fields = {"url": self.url, **self.as_dict()}
        return f"Result({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


@dataclass(eq=False, slots=True)
class Transfer:
    """A download under way, for displays. size and received are bytes; size is None while or if it is
    unknown. resumed is the part of received that an earlier attempt or run brought.
    """

    url: str
    name: str = ""
    size: int | None = None
    received: int = 0
    status: int | None = None
    attempts: int = 0
    waiting: bool = False  # for the time of the next attempt
    host: str = ""
    resumed: int = 0
    first_byte: float | None = None


@dataclass(eq=False, slots=True)
class Activity:
    """What a run of `download_all` is doing, kept up to date by it and read by displays, from any thread.

    transfers: those under way, as keys, oldest first. received: bytes of all bodies so far, failed attempts
    included. limit: how many downloads may run at once at present. observer: called on the loop with "start"
    or "retry" and the Transfer, or "done" and the Result; it should be quick and must not raise.
    """

    transfers: dict[Transfer, None] = field(default_factory=dict)
    received: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    size: int = 0  # bytes in the files that are done
    limit: int = 0
    observer: Callable[[str, Transfer | Result], None] | None = None

    def tell(self, event: str, subject: Transfer | Result) -> None:
        """Call the observer, if there is one."""
        if self.observer is not None:
            self.observer(event, subject)
