"""The downloads themselves: a fixed number of workers take jobs from a window over the list until it ends.

The list is read a bounded way ahead (`hosts.Window`), so that it is never held in memory. With a journal nothing
remains of a finished download; without one, its file name. Received data is gathered and handed to a small pool
of threads (`sink`), so the loop never waits for a disk; a part has at most one piece on its way to the disk while
the next one gathers, and beyond that aiohttp stops reading, which makes the server wait.

Every target ends in exactly one `Result`, whatever its server does (`fetch`). Nothing of `noria` but asyncio's
interface is used.
"""

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from noria.get import failures
from noria.get.client import Client, make_session
from noria.get.credentials import Credentials
from noria.get.digests import parse_checksum
from noria.get.direct import Receivers
from noria.get.express import Express
from noria.get.failures import Failure
from noria.get.fetch import Fetcher, Job, Outcome, recorded_or_full
from noria.get.filebatch import FileBatch
from noria.get.hosts import Hosts, Window
from noria.get.journal import Journal, JournalError
from noria.get.lean import LeanSession, Unsuited
from noria.get.names import Names, name_from_url, safe_name
from noria.get.options import Options, Settings
from noria.get.rates import TokenBucket
from noria.get.results import Activity, Result, Transfer
from noria.get.retry import RetryPolicy
from noria.get.store import LocalStore, Store
from noria.get.target import Target

if TYPE_CHECKING:
    import aiohttp

_KIB = 1024
_MIB = 1024 * _KIB
_PIECE = 256 * _KIB  # handed to the disk at once, if the downloads are few enough
_ALL_PIECES = 8 * _MIB  # gathering for the disk in all downloads together
_FILE_THREADS = 4
_WINDOW = 4  # jobs that wait, for each download at a time
_BATCH = 256  # registered together

Targets = Iterable[str | Target] | AsyncIterable[str | Target]


async def download_all(
    targets: Targets, directory: str | os.PathLike[str] = ".", **options: Unpack[Options]
) -> AsyncGenerator[Result, None]:
    """Download `targets` into `directory`, made if missing, and yield a `Result` for each as it ends.

    `Options` describes the keywords. `targets` is read a bounded way ahead; a plain iterator is asked on the
    loop and should not block. Whoever stops early should close the generator (`contextlib.aclosing`), which
    cancels what is under way; with a journal, what can be gone on with stays. Raises ValueError for a
    senseless argument, OSError if `directory`, the journal or a file of credentials cannot be used, and what
    `targets` raises, once the downloads under way have ended.
    """
    async with Downloader(directory, **options) as downloader:
        async with contextlib.aclosing(downloader.download_all(targets)) as results:
            async for result in results:
                yield result


async def download(
    target: str | Target, directory: str | os.PathLike[str] = ".", **options: Unpack[Options]
) -> Result:
    """Download one target; how it ended is in the result. Raises as `download_all` does."""
    async with Downloader(directory, **options) as downloader:
        return await downloader.download(target)


class Downloader:
    """Downloads with the same options, session and journal, over and over; an asynchronous context manager.

    The arguments are those of `download_all`. Calls may run at once: per_host (concurrency, if it is None), rate,
    host_rate and what adaptive has found out hold for all of them together, concurrency as a whole for each
    `download_all`. Entering raises as `download_all` does.
    """

    def __init__(self, directory: str | os.PathLike[str] = ".", **options: Unpack[Options]) -> None:
        self._settings = Settings(**options)
        self._directory = os.fspath(directory)
        self._stack = contextlib.AsyncExitStack()
        self._names = Names()
        # Of all calls together, however many are made at once.
        settings = self._settings
        self._hosts = Hosts(settings.per_host or settings.concurrency, adaptive=settings.adaptive)
        self._activity = settings.activity if settings.activity is not None else Activity()
        self._session: aiohttp.ClientSession | LeanSession | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            self._store: Store = settings.store if settings.store is not None else LocalStore(self._directory)
            threads = getattr(self._store, "threads", _FILE_THREADS)
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="noria-get")
            # Idle by the end, or busy with a disk that the loop must not wait for.
            stack.callback(self._pool.shutdown, wait=False)
            self._receivers = Receivers(settings.stall_timeout)
            stack.callback(self._receivers.shutdown)
            await loop.run_in_executor(self._pool, self._store.prepare)
            credentials = await loop.run_in_executor(self._pool, Credentials, settings)
            self._journal = settings.journal if isinstance(settings.journal, Journal) else None
            if settings.journal is not None and not isinstance(settings.journal, Journal):
                path, durable = os.fspath(settings.journal), settings.fsync
                journal = await loop.run_in_executor(self._pool, lambda: Journal(path, durable=durable))
                self._journal = journal
                stack.push_async_callback(loop.run_in_executor, self._pool, journal.close)
            # A store of another kind, or one that was given, writes in its own way.
            plain = type(self._store) is LocalStore and self._store.parts is None
            self._batch = FileBatch(self._journal) if plain else None
            if self._batch is not None:
                stack.callback(self._batch.close)
            session: aiohttp.ClientSession | LeanSession | None = settings.session
            if session is None:
                session = await stack.enter_async_context(make_session(settings))
            self._session = session
            self._client = Client(session, settings, credentials)
            self._rate = None if settings.rate is None else TokenBucket(settings.rate)
            self._host_rates: dict[str, TokenBucket] = {}
            if self._journal is not None:
                begin, again = self._journal.begin, settings.overwrite
                await loop.run_in_executor(self._pool, lambda: begin(again=again))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None
        await self._stack.aclose()

    async def download(self, target: str | Target) -> Result:
        """As `noria.get.download`."""
        async with contextlib.aclosing(self._results([target], 1, finish=False)) as results:
            return await anext(results)

    def download_all(self, targets: Targets) -> AsyncGenerator[Result, None]:
        """As `noria.get.download_all`."""
        return self._results(targets, self._settings.concurrency, finish=True)

    def _results(self, targets: Targets, concurrency: int, *, finish: bool) -> AsyncGenerator[Result, None]:
        if self._session is None:
            raise RuntimeError("a Downloader works between `async with` and its end")
        settings = self._settings
        window: Window[Job] = Window(_WINDOW * concurrency, self._hosts)
        activity = self._activity
        fetcher = Fetcher(
            client=self._client,
            store=self._store,
            journal=self._journal,
            settings=settings,
            policy=RetryPolicy(settings.retries, longest=settings.longest_wait),
            hosts=self._hosts,
            activity=activity,
            pool=self._pool,
            receivers=self._receivers,
            piece=max(64 * _KIB, min(_PIECE, _ALL_PIECES // settings.concurrency)),
            claim=self._names.claim,
            rate=self._rate,
            batch=self._batch,
            host_rates=self._host_rates,
        )
        fetcher.express = express = self._express(fetcher)
        source = _Source(targets, window, self._names, self._journal, self._pool, express, finish=finish)
        return _Run(fetcher, source, window, activity, concurrency).results()

    def _express(self, fetcher: Fetcher) -> Express | None:
        """The short way for small plain files, if the settings are for it."""
        settings = self._settings
        headers = self._client.plain_headers
        if self._batch is None or headers is None or not isinstance(self._session, LeanSession):
            return None
        if (
            settings.rate is not None
            or settings.host_rate is not None
            or settings.first_byte_timeout is not None
            or settings.timeout is not None
            or settings.skip_existing
            or settings.update
            or settings.fsync
            or settings.decode
            or settings.content_types
            or settings.checksum_files
        ):
            return None
        most = fetcher.piece if settings.max_size is None else min(fetcher.piece, settings.max_size)
        try:
            return Express(
                self._session,
                headers,
                self._batch,
                fetcher.activity,
                most=most,
                replaces=settings.overwrite,
            )
        except (Unsuited, ValueError):  # the one for aiohttp, the other for a message to each file
            return None


class _Source:
    """Reads the list into the window, and gives out names in its order."""

    def __init__(
        self,
        targets: Targets,
        window: Window[Job],
        names: Names,
        journal: Journal | None,
        pool: ThreadPoolExecutor,
        express: Express | None,
        *,
        finish: bool,
    ) -> None:
        self._express = express
        self._iterator: Iterator[str | Target] | None = None
        self._pump: _Pump | None = None
        if isinstance(targets, AsyncIterable):
            self._pump = _Pump(aiter(targets))
        else:
            self._iterator = iter(targets)
        self._window = window
        self._names = names
        self._journal = journal
        self._pool = pool
        self._finish = finish
        self.error: BaseException | None = None

    async def read(self) -> None:
        """Until the end of the list, even if that is an `error`."""
        try:
            ended = False
            while not ended:
                await self._window.wait_for_room()
                batch, ended = await self._batch(min(_BATCH, self._window.room))
                for job in await self._register([make_job(target, self._express) for target in batch]):
                    self._window.put(job)
            if self._journal is not None and self._finish:
                self.ended = True
        except Exception as error:
            self.error = error
        finally:
            self._window.end()

    ended = False  # the list came to its end

    async def _batch(self, most: int) -> tuple[list[str | Target], bool]:
        """Up to `most` targets, as many as come without waiting after the first; and whether that was the end."""
        if self._pump is not None:
            batch = await self._pump.take(most)
            self.error = self._pump.error  # what came before it is still done
            return batch, self._pump.ended and not batch
        assert self._iterator is not None
        batch = []
        try:
            while len(batch) < most:
                batch.append(next(self._iterator))
        except StopIteration:
            return batch, True
        except Exception as error:
            self.error = error
            return batch, True
        return batch, False

    async def _register(self, jobs: list[Job]) -> list[Job]:
        """Give every job its name and, with a journal, its row."""
        fit = [job for job in jobs if job.failure is None]
        if self._journal is None:
            for job in fit:
                job.name = self._names.claim(job.wanted)
        elif fit:
            entries = [(job.target, job.wanted) for job in fit]
            register = self._journal.register
            try:
                rows = await asyncio.get_running_loop().run_in_executor(self._pool, register, entries)
            except JournalError as error:
                if not error.full:
                    raise
                # Without a row a file has no name that is its own. By the time of the others there may be room.
                for job in fit:
                    job.failure = Failure(str(error), kind="disk")
                return jobs
            for job, row in zip(fit, rows, strict=True):
                job.row, job.name = row, row.name
        return jobs

    async def close(self) -> None:
        """End an asynchronous generator; leave every other iterator to its owner."""
        if self._pump is not None:
            await self._pump.close()


class _Pump:
    """Takes from an asynchronous iterator what comes without waiting, in one task for all of it."""

    def __init__(self, iterator: AsyncIterator[str | Target]) -> None:
        self._iterator = iterator
        self._items: list[str | Target] = []
        self._most = 0
        self._task: asyncio.Task[None] | None = None
        self._asked: asyncio.Future[None] | None = None
        self._brought: asyncio.Future[None] | None = None
        self.error: Exception | None = None
        self.ended = False

    async def take(self, most: int) -> list[str | Target]:
        """Up to `most` items, as many as come without waiting after the first; none at the end."""
        self._most = most
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(None)
        while not self._items and not self.ended:
            self._brought = asyncio.get_running_loop().create_future()
            await self._brought
        items, self._items = self._items[:most], self._items[most:]
        return items

    async def _run(self) -> None:
        try:
            async for item in self._iterator:
                self._items.append(item)
                self._tell()
                while len(self._items) >= self._most:
                    self._asked = asyncio.get_running_loop().create_future()
                    await self._asked
        except Exception as error:
            self.error = error
        finally:
            self.ended = True
            self._tell()

    def _tell(self) -> None:
        if self._brought is not None and not self._brought.done():
            self._brought.set_result(None)

    async def close(self) -> None:
        """End a generator; leave every other iterator to its owner."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if isinstance(self._iterator, AsyncGenerator):
            await self._iterator.aclose()


def make_job(given: str | Target, express: Express | None = None) -> Job:
    """The download that `given` asks for; its `failure` says if it is none."""
    target = given if isinstance(given, Target) else Target(given)
    job = Job(target)
    if express is not None and target.checksum is None and not target.headers and express.address(job):
        if target.name is None or target.name == job.wanted:
            return job
        job.wanted = safe_name(target.name)
        if job.wanted:
            return job
    try:
        job.url = failures.parse_url(target.url)
        target.url.encode()  # a lone surrogate fits neither a request nor the journal
        job.host = f"{job.url.host}:{job.url.port}"
        if target.checksum is not None:
            job.expected = [parse_checksum(target.checksum)]
        if target.name is not None:
            job.wanted = safe_name(target.name)
            if not job.wanted:
                raise Failure(f"not a file name: {failures.printable(target.name)!r}", kind="name")
        else:
            job.wanted = name_from_url(job.url)
    except Failure as failure:
        job.failure = failure
    except UnicodeEncodeError:
        job.failure = Failure("not a URL: it holds characters that are none", kind="protocol")
    except ValueError as error:
        job.failure = Failure(str(error), kind="checksum")
    return job


class _Queue:
    """From many workers to one consumer: results, an error that ends the run, None from a worker that has ended."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[Result | Exception | None] = deque()
        self._getter: asyncio.Future[None] | None = None
        self._putters: deque[asyncio.Future[None]] = deque()

    def put(self, item: Result | Exception | None) -> None:
        """Add `item`, with or without room."""
        self._items.append(item)
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(None)

    @property
    def is_full(self) -> bool:
        """Whether there are more items than the size."""
        return len(self._items) > self._size

    async def room(self) -> None:
        """Wait while there are more items than the size. A consumer that is slow slows the workers."""
        while self.is_full:
            putter = asyncio.get_running_loop().create_future()
            self._putters.append(putter)
            await putter

    async def get(self) -> Result | Exception | None:
        """The next item."""
        while not self._items:
            self._getter = asyncio.get_running_loop().create_future()
            await self._getter
        item = self._items.popleft()
        while self._putters and len(self._items) <= self._size:
            putter = self._putters.popleft()
            if not putter.done():
                putter.set_result(None)
                break
        return item


class _Run:
    """One list."""

    def __init__(
        self, fetcher: Fetcher, source: _Source, window: Window[Job], activity: Activity, concurrency: int
    ) -> None:
        self._fetcher = fetcher
        self._source = source
        self._window = window
        self._activity = activity
        self._concurrency = concurrency

    async def results(self) -> AsyncGenerator[Result, None]:
        """Start the workers and yield what they bring until all have ended."""
        # Bounded, so that a slow consumer slows the workers instead of filling the memory.
        queue = _Queue(self._concurrency)
        tasks = [asyncio.create_task(self._source.read())]
        tasks += [asyncio.create_task(self._work(queue)) for _ in range(self._concurrency)]
        self._show_limit()
        try:
            left = self._concurrency
            while left:
                if (result := await queue.get()) is None:
                    left -= 1
                elif isinstance(result, Exception):
                    raise result
                else:
                    yield result
            if self._source.error is not None:
                raise self._source.error
            journal = self._fetcher.journal
            if self._source.ended and journal is not None:
                with recorded_or_full():
                    await asyncio.get_running_loop().run_in_executor(self._fetcher.pool, journal.finished)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._window.close()
            await self._source.close()

    async def _work(self, queue: _Queue) -> None:
        try:
            await self._take_turns(queue)
        except (
            Exception
        ) as error:  # an observer's, say; it ends the run, which else would wait for this worker
            queue.put(error)
        else:
            queue.put(None)

    async def _take_turns(self, queue: _Queue) -> None:
        while (job := await self._window.take()) is not None:
            try:
                result = await self._download(job)
            finally:
                self._window.release(job)
                self._show_limit()
            activity = self._activity
            activity.done += result.ok and not result.skipped
            activity.skipped += result.skipped
            activity.failed += not result.ok
            if not result.skipped:
                activity.size += result.size
            activity.tell("done", result)
            queue.put(result)
            if queue.is_full:
                await queue.room()

    def _show_limit(self) -> None:
        adaptive = self._fetcher.settings.adaptive
        self._activity.limit = (
            min(self._concurrency, max(1, self._fetcher.hosts.limit)) if adaptive else self._concurrency
        )

    async def _download(self, job: Job) -> Result:
        loop = asyncio.get_running_loop()
        start, started = loop.time(), time.time()
        transfer = Transfer(job.target.url, job.name, host=job.host)
        outcome, failure = Outcome(), None
        self._activity.transfers[transfer] = None
        self._activity.tell("start", transfer)
        try:
            outcome = await self._fetcher.fetch(job, transfer)
        except Failure as error:
            failure = error
        except Exception as error:  # a defect here must not end the other downloads, nor go unseen
            failure = Failure(f"{type(error).__name__}: {failures.printable(str(error))}")
        finally:
            del self._activity.transfers[transfer]
        return Result(
            url=job.target.url,
            where=self._fetcher.store.where(job.name) if failure is None else None,
            size=outcome.size,
            status=transfer.status,
            error=failure.message if failure else None,
            attempts=transfer.attempts,
            seconds=loop.time() - start,
            skipped=outcome.skipped,
            host=job.host,
            etag=job.last_etag if failure is None else None,
            checksum=outcome.checksum,
            first_byte=transfer.first_byte,
            kind=failure.kind if failure else None,
            resumed=transfer.resumed,
            started=started,
        )
