"""What a caller may ask of a run: `Options` as keywords of the public functions, `Settings` with the defaults."""

import os
import ssl as ssl_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import aiohttp

    from noria.get.journal import Journal
    from noria.get.results import Activity
    from noria.get.store import Store


class Options(TypedDict, total=False):
    """The keywords of `download_all`, `download` and `Downloader`, of which all may be left out.

    Times are in seconds, None for no limit; rates are in bytes a second.

    concurrency: downloads at a time (32). per_host: of those, to one host and port (no limit of its own).
    adaptive: begin with few for each host, add one after a round of successes, halve on 429, 503 and timeouts.
    rate, host_rate: of all bodies together, and of those from one host. segments: connections for one file; 1
    for one, None (the default) for several if the file is large and the server allows.

    retries: attempts after the first (4). connect_timeout: name lookup, connection and TLS handshake (30).
    first_byte_timeout: from asking, connecting included, to the head of the answer. stall_timeout: without a byte (30).
    timeout: of one URL with all its attempts and waits. longest_wait: between two attempts (60).

    overwrite: replace files that are there; skip_existing: take them for done; update: ask the server
    whether they changed, and replace those that did. None of them: they are errors.

    journal: keeps the run's state in a file, for going on after an interruption: a path, or a Journal, which
    stays the caller's to close. resume: continue partial files, in this run and, by the journal, of earlier
    ones (True). fsync: a file has reached the disk before it gets its name, and the name before it is told.
    store: where files go instead of the directory.

    decode: undo the server's content encoding: gzip, deflate and, with their libraries (extra get-decode), br and
    zstd. max_redirects: 10. allow_downgrade: let https redirect to http. max_size: bytes a file may have.
    content_types: patterns such as "image/*", of which the answer's must match one. checksum_files: ask for URL.sha256
    first and hold the file against it.

    proxy: a URL, or "" for none; by default the environment's http_proxy, https_proxy and no_proxy. headers:
    sent with every request. auth: (user, password), bearer: a token, netrc: read ~/.netrc: all of these, and
    headers Authorization and Cookie, go to the first host only and not on to where it redirects. cookies: a
    file in Netscape's format. ssl: whom to trust and which certificate to show; the system's authorities by
    default. family: socket.AF_INET or AF_INET6 for one of them only. user_agent: "noria-get".

    activity: kept up to date for a display. session: an aiohttp session of the caller's, which stays open;
    connection limits, TLS, proxies, cookies and timeouts for connections are then its own.
    """

    concurrency: int
    per_host: int | None
    adaptive: bool
    rate: float | None
    host_rate: float | None
    segments: int | None
    retries: int
    connect_timeout: float | None
    first_byte_timeout: float | None
    stall_timeout: float | None
    timeout: float | None
    longest_wait: float
    overwrite: bool
    skip_existing: bool
    update: bool
    resume: bool
    journal: "Journal | str | os.PathLike[str] | None"
    fsync: bool
    decode: bool
    max_redirects: int
    allow_downgrade: bool
    proxy: str | None
    netrc: bool
    headers: Mapping[str, str] | None
    auth: tuple[str, str] | None
    bearer: str | None
    cookies: str | os.PathLike[str] | None
    ssl: ssl_module.SSLContext | None
    family: int
    user_agent: str
    max_size: int | None
    content_types: Sequence[str] | None
    checksum_files: bool
    activity: "Activity | None"
    session: "aiohttp.ClientSession | None"
    store: "Store | None"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)  # a repr would show passwords
class Settings:
    """`Options` with the defaults filled in. Raises ValueError for what makes no sense."""

    concurrency: int = 32
    per_host: int | None = None
    adaptive: bool = False
    rate: float | None = None
    host_rate: float | None = None
    segments: int | None = None
    retries: int = 4
    connect_timeout: float | None = 30.0
    first_byte_timeout: float | None = None
    stall_timeout: float | None = 30.0
    timeout: float | None = None
    longest_wait: float = 60.0
    overwrite: bool = False
    skip_existing: bool = False
    update: bool = False
    resume: bool = True
    journal: "Journal | str | os.PathLike[str] | None" = None
    fsync: bool = False
    decode: bool = False
    max_redirects: int = 10
    allow_downgrade: bool = False
    proxy: str | None = None
    netrc: bool = False
    headers: Mapping[str, str] | None = None
    auth: tuple[str, str] | None = None
    bearer: str | None = None
    cookies: str | os.PathLike[str] | None = None
    ssl: ssl_module.SSLContext | None = None
    family: int = 0
    user_agent: str = "noria-get"
    max_size: int | None = None
    content_types: Sequence[str] | None = None
    checksum_files: bool = False
    activity: "Activity | None" = None
    session: "aiohttp.ClientSession | None" = None
    store: "Store | None" = None

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("per_host", 1), ("segments", 1), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        for name in ("max_redirects", "max_size", "longest_wait"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, and is {value}")
        for name in (
            "rate",
            "host_rate",
            "timeout",
            "connect_timeout",
            "first_byte_timeout",
            "stall_timeout",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0, not {value}")
        if sum((self.overwrite, self.skip_existing, self.update)) > 1:
            raise ValueError("overwrite, skip_existing and update exclude each other")
        if self.auth is not None and self.bearer is not None:
            raise ValueError("auth and bearer exclude each other")
