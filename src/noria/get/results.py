"""What a run tells: how each download ended (`Result`), what is under way (`Transfer`, `Activity`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    """How one download ended.

    url: as it was given. path: the complete file, a string if it is a URL, or None. size: its bytes. status: of
    the last HTTP answer, or None. error: one line, or None. attempts: requests made, redirects not counted.
    seconds: from taking the URL up to the end, waits included. skipped: nothing was fetched because the file was there.

    host: of the URL. etag: the server's, of what was saved. checksum: "sha256:hex" or the like of what was
    written, if one was computed. first_byte: seconds from the last request to its answer's head. kind: the
    sort of failure (`noria.get.failures.KINDS`), None without one. resumed: bytes taken over from an earlier
    attempt or run. started: Unix time.
    """

    url: str
    path: Path | str | None = None
    size: int = 0
    status: int | None = None
    error: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    skipped: bool = False
    host: str = ""
    etag: str | None = None
    checksum: str | None = None
    first_byte: float | None = None
    kind: str | None = None
    resumed: int = 0
    started: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the complete file is at `path`."""
        return self.error is None


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
