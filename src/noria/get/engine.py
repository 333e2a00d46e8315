"""The downloads themselves: a fixed number of workers take URLs from one iterator until it ends.

A worker takes the next URL only when it is free, so a list of any length is never held in memory; what
remains of a finished download is its file name. Received data is gathered and handed to a small pool of
threads, so the loop never waits for a disk: a small file is opened, written and renamed in one hand-over, a
large one has at most one piece on its way to the disk while the next one gathers, and beyond that aiohttp
stops reading, which makes the server wait.

Every URL ends in exactly one `Result`, whatever its server does. Nothing of `noria` but asyncio's interface
is used.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import aiohttp
from yarl import URL

from noria.get import failures
from noria.get.failures import Failure
from noria.get.names import Names, name_from_header, name_from_url
from noria.get.options import Options, Settings
from noria.get.partfile import PartFile
from noria.get.results import Activity, Result, Transfer
from noria.get.retry import RETRY_STATUSES, RetryPolicy, parse_retry_after
from noria.get.target import Target

_KIB = 1024
_MIB = 1024 * _KIB
_PIECE = 256 * _KIB  # handed to the disk at once, if the downloads are few enough
_ALL_PIECES = 8 * _MIB  # gathering for the disk in all downloads together
_FILE_THREADS = 4
_SHORT_BODY = 64 * _KIB  # of an error page that is read to keep its connection


async def download_all(
    targets: Iterable[str | Target] | AsyncIterable[str | Target],
    directory: str | os.PathLike[str] = ".",
    **options: Unpack[Options],
) -> AsyncGenerator[Result, None]:
    """Download `targets` into `directory`, made if missing, and yield a `Result` for each as it ends.

    `Options` describes the keywords. `targets` is asked for the next one when a download can start; a plain
    iterator is asked on the loop and should not block. Whoever stops early should close the generator
    (`contextlib.aclosing`), which cancels what is under way. Raises ValueError for a senseless argument,
    OSError if `directory` cannot be made or written to, and what `targets` raises, once the downloads under
    way have ended.
    """
    settings = Settings(**options)
    concurrency, ssl, activity = settings.concurrency, settings.ssl, settings.activity
    connect_timeout, stall_timeout, timeout = (
        settings.connect_timeout,
        settings.stall_timeout,
        settings.timeout,
    )
    _refuse_what_is_missing(settings)
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(_FILE_THREADS, thread_name_prefix="noria-get")
    try:
        folder = await loop.run_in_executor(pool, _prepare, os.fspath(directory))
        piece = max(64 * _KIB, min(_PIECE, _ALL_PIECES // concurrency))
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency, ssl=True if ssl is None else ssl),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout, sock_read=stall_timeout),
            headers={"User-Agent": "noria-get", **(settings.headers or {}), "Accept-Encoding": "identity"},
            auto_decompress=False,  # the file is what the server declares the length of
            read_bufsize=64 * _KIB,  # more costs memory in every download at once
            trust_env=_proxy_configured(),  # which costs time for every request, so not without need
        ) as session:
            run = _Run(
                session,
                _Source(targets),
                _Files(folder, pool, piece, settings.overwrite, settings.skip_existing),
                RetryPolicy(settings.retries, longest=settings.longest_wait),
                _Limits(connect_timeout, stall_timeout, timeout),
                activity if activity is not None else Activity(),
            )
            async with contextlib.aclosing(run.results(concurrency)) as results:
                async for result in results:
                    yield result
    finally:
        pool.shutdown(wait=False)  # idle by now, or busy with a disk that the loop must not wait for


_MISSING = [
    "per_host",
    "adaptive",
    "rate",
    "host_rate",
    "segments",
    "first_byte_timeout",
    "update",
    "journal",
    "fsync",
    "decode",
    "allow_downgrade",
    "proxy",
    "netrc",
    "auth",
    "bearer",
    "cookies",
    "family",
    "max_size",
    "content_types",
    "checksum_files",
    "session",
    "store",
]


def _refuse_what_is_missing(settings: Settings) -> None:
    for name in _MISSING:
        if getattr(settings, name) not in (None, False, 0):
            raise NotImplementedError(f"{name} is not implemented yet")


async def download(
    target: str | Target, directory: str | os.PathLike[str] = ".", **options: Unpack[Options]
) -> Result:
    """Download one target; how it ended is in the result. Raises as `download_all` does."""
    async with contextlib.aclosing(download_all([target], directory, **options)) as results:
        async for result in results:
            return result
    raise AssertionError("a target without a result")


class Downloader:
    """Downloads with the same options, over and over. An asynchronous context manager."""

    def __init__(self, directory: str | os.PathLike[str] = ".", **options: Unpack[Options]) -> None:
        self._directory = directory
        self._options = options

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def download(self, target: str | Target) -> Result:
        """As `noria.get.download`."""
        return await download(target, self._directory, **self._options)

    def download_all(
        self, targets: Iterable[str | Target] | AsyncIterable[str | Target]
    ) -> AsyncGenerator[Result, None]:
        """As `noria.get.download_all`."""
        return download_all(targets, self._directory, **self._options)


def _prepare(directory: str) -> str:
    """Make `directory` and see that files can be made in it."""
    os.makedirs(directory, exist_ok=True)
    tempfile.TemporaryFile(dir=directory).close()
    return directory


def _proxy_configured() -> bool:
    names = {"http_proxy", "https_proxy"}
    return any(value for name, value in os.environ.items() if name.lower() in names)


@dataclass(frozen=True, slots=True)
class _Limits:
    """Seconds, or None for no limit; see `download_all`."""

    connect: float | None
    stall: float | None
    total: float | None


@dataclass(slots=True)
class _Job:
    """A URL taken from the list, with a `name` for it: `wanted`, or a numbered form of that. Or a `failure`."""

    text: str
    url: URL | None = None
    wanted: str = ""
    name: str = ""
    failure: Failure | None = None


class _Source:
    """The URLs, one at a time, in order, to whoever asks first; and the names given out to them."""

    def __init__(self, urls: Iterable[str | Target] | AsyncIterable[str | Target]) -> None:
        self._iterator: Iterator[str | Target] | AsyncIterator[str | Target]
        self._iterator = aiter(urls) if isinstance(urls, AsyncIterable) else iter(urls)
        self._turn = asyncio.Lock()
        self._ended = False
        self._names = Names()
        self.error: Exception | None = None

    async def next(self) -> _Job | None:
        """The next URL, its name claimed; None at the end, even if that is an `error`."""
        async with self._turn:  # so that names are claimed in the order of the list
            if self._ended:
                return None
            try:
                if isinstance(self._iterator, AsyncIterator):
                    target = await anext(self._iterator)
                else:
                    target = next(self._iterator)
            except (StopIteration, StopAsyncIteration):
                self._ended = True
                return None
            except Exception as error:
                self._ended = True
                self.error = error
                return None
            if isinstance(target, Target):
                if target.name or target.checksum or target.size is not None or target.headers:
                    raise NotImplementedError("more than the URL of a Target is not implemented yet")
                text = target.url
            else:
                text = target
            try:
                url = failures.parse_url(text)
            except Failure as failure:
                return _Job(text, failure=failure)
            wanted = name_from_url(url)
            return _Job(text, url, wanted, self.claim(wanted))

    def claim(self, name: str) -> str:
        """`name` or, if another download has it, a numbered form of it."""
        return self._names.claim(name)

    async def close(self) -> None:
        """End an asynchronous generator; leave every other iterator to its owner."""
        if isinstance(self._iterator, AsyncGenerator):
            await self._iterator.aclose()


class _Files:
    """Where files go, and the threads that write them."""

    def __init__(
        self, folder: str, pool: ThreadPoolExecutor, piece: int, overwrite: bool, skip_existing: bool
    ) -> None:
        self.folder = folder
        self.pool = pool
        self.piece = piece
        self.overwrite = overwrite
        self.skip_existing = skip_existing

    async def is_there(self, name: str) -> bool:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, os.path.lexists, os.path.join(self.folder, name))


class _Sink:
    """Takes the bytes of one body and passes them to the disk in pieces. One piece may be on its way at a
    time.
    """

    def __init__(self, files: _Files, name: str) -> None:
        self.path = os.path.join(files.folder, name)
        self._file = PartFile(self.path, overwrite=files.overwrite)
        self._pool = files.pool
        self._piece = files.piece
        self._chunks: list[bytes] = []
        self._gathered = 0
        self._writing: asyncio.Future[None] | None = None
        self.received = 0

    def add(self, data: bytes) -> bool:
        """Take `data`; true if it is time for `write`."""
        self._chunks.append(data)
        self._gathered += len(data)
        self.received += len(data)
        return self._gathered >= self._piece

    async def write(self) -> None:
        """Start writing what has gathered, once the piece before it is written. Raises Failure for that one."""
        await self._written()
        self._hand_over(self._file.write)

    async def complete(self) -> None:
        """Write the rest and give the file its final name. Raises Failure, and then nothing is left."""
        try:
            await self._written()
            self._hand_over(self._file.complete)
            await self._written()
        except BaseException:
            await self.discard()
            raise

    async def discard(self) -> None:
        """Give up: remove what was written. A piece on its way ends first."""
        if self._writing is None:
            return  # nothing was opened
        self._writing.add_done_callback(lambda write: write.cancelled() or write.exception())
        removal = asyncio.get_running_loop().run_in_executor(self._pool, self._file.discard)
        await asyncio.shield(removal)

    def _hand_over(self, write: Callable[[list[bytes]], None]) -> None:
        chunks, self._chunks, self._gathered = self._chunks, [], 0
        self._writing = asyncio.get_running_loop().run_in_executor(self._pool, write, chunks)

    async def _written(self) -> None:
        if self._writing is not None:
            try:
                await self._writing
            except OSError as error:
                raise failures.disk_failure(error, self.path) from None


class _Run:
    """One call of `download_all`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        source: _Source,
        files: _Files,
        policy: RetryPolicy,
        limits: _Limits,
        activity: Activity,
    ) -> None:
        self._session = session
        self._source = source
        self._files = files
        self._policy = policy
        self._limits = limits
        self._activity = activity

    async def results(self, concurrency: int) -> AsyncGenerator[Result, None]:
        """Start the workers and yield what they bring until all have ended."""
        # Bounded, so that a slow consumer slows the workers instead of filling the memory.
        queue: asyncio.Queue[Result | None] = asyncio.Queue(concurrency)
        workers = [asyncio.create_task(self._work(queue)) for _ in range(concurrency)]
        try:
            left = concurrency
            while left:
                if (result := await queue.get()) is None:
                    left -= 1
                else:
                    yield result
            if self._source.error is not None:
                raise self._source.error
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._source.close()

    async def _work(self, queue: asyncio.Queue[Result | None]) -> None:
        while (job := await self._source.next()) is not None:
            result = await self._download(job)
            activity = self._activity
            activity.done += result.ok and not result.skipped
            activity.skipped += result.skipped
            activity.failed += not result.ok
            activity.size += result.size
            await queue.put(result)
        await queue.put(None)

    async def _download(self, job: _Job) -> Result:
        loop = asyncio.get_running_loop()
        start = loop.time()
        transfer = Transfer(job.text, job.name)
        size, failure, skipped = 0, job.failure, False
        self._activity.transfers[transfer] = None
        try:
            if failure is None:
                size, skipped = await self._fetch(job, transfer)
        except Failure as error:
            failure = error
        finally:
            del self._activity.transfers[transfer]
        return Result(
            url=job.text,
            path=Path(self._files.folder, job.name) if failure is None else None,
            size=size,
            status=transfer.status,
            error=failure.message if failure else None,
            attempts=transfer.attempts,
            seconds=loop.time() - start,
            skipped=skipped,
        )

    async def _fetch(self, job: _Job, transfer: Transfer) -> tuple[int, bool]:
        """Make the file; its size, and whether it was left alone because it is there. Raises Failure."""
        if self._files.skip_existing and await self._files.is_there(job.name):
            return 0, True
        try:
            async with asyncio.timeout(self._limits.total):
                sink = await self._receive(job, transfer)
        except TimeoutError:
            raise Failure(f"not complete after {self._limits.total:g} s") from None
        except Failure as failure:
            if failure.file_exists and self._files.skip_existing:  # under a name that the server gave
                return 0, True
            raise
        try:
            # Not under the timeout, which could strike when the file has its name already.
            await sink.complete()
        except Failure as failure:
            if failure.file_exists and self._files.skip_existing:
                return 0, True
            raise
        return sink.received, False

    async def _receive(self, job: _Job, transfer: Transfer) -> _Sink:
        """Attempt until the whole body is received, or raise the Failure of the last attempt."""
        while True:
            transfer.attempts += 1
            try:
                return await self._attempt(job, transfer)
            except Failure as error:
                failure = error
            except Exception as error:  # one server's answer, however odd, must not end the other downloads
                failure = failures.network_failure(error, self._limits.connect, self._limits.stall)
            delay = self._policy.delay(transfer.attempts, failure.retry_after) if failure.again else None
            if delay is None:
                if (failure.retry_after or 0.0) > self._policy.longest:
                    raise Failure(f"{failure.message}, and asks to wait {failure.retry_after:g} s")
                raise failure
            transfer.waiting = True
            await asyncio.sleep(delay)
            transfer.waiting = False
            transfer.received = 0

    async def _attempt(self, job: _Job, transfer: Transfer) -> _Sink:
        assert job.url is not None
        async with self._session.get(job.url, max_redirects=failures.MAX_REDIRECTS) as response:
            transfer.status = response.status
            if not 200 <= response.status < 300 or response.status == 206:  # a part was not asked for
                await _read_short_body(response)
                raise failures.status_failure(
                    response.status,
                    response.reason,
                    parse_retry_after(response.headers.get("Retry-After")),
                    again=response.status in RETRY_STATUSES,
                )
            transfer.name = self._name(job, response)
            if "Transfer-Encoding" not in response.headers:  # which would make the length meaningless
                transfer.size = response.content_length
            sink = _Sink(self._files, transfer.name)
            try:
                await self._read_body(response, sink, transfer)
            except BaseException:
                await sink.discard()
                raise
            return sink

    async def _read_body(self, response: aiohttp.ClientResponse, sink: _Sink, transfer: Transfer) -> None:
        closed = False
        try:
            while data := await response.content.readany():
                transfer.received += len(data)
                self._activity.received += len(data)
                if sink.add(data):
                    await sink.write()
        except aiohttp.ClientPayloadError:
            closed = True
        if closed or transfer.size not in (None, sink.received):
            of = "" if transfer.size is None else f" of {transfer.size}"
            raise Failure(f"transfer closed with {sink.received}{of} bytes received", again=True)

    def _name(self, job: _Job, response: aiohttp.ClientResponse) -> str:
        """The name of the file, by the server's suggestion if it makes one."""
        suggested = name_from_header(response.headers.get("Content-Disposition"))
        if suggested and suggested != job.wanted:
            job.wanted = suggested  # remembered, lest a second attempt claim a second name
            job.name = self._source.claim(suggested)
        return job.name


async def _read_short_body(response: aiohttp.ClientResponse) -> None:
    """Read an error page if it is short, because only then can the connection serve the next request."""
    if (response.content_length or _SHORT_BODY) < _SHORT_BODY:
        with contextlib.suppress(aiohttp.ClientError):
            await response.read()
