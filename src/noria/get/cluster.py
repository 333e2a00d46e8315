"""The same run on many machines: a Dask cluster whose workers run the engine, each on a loop of noria's.

The client, the process the user started, reads the list, gives out names, looks whether files exist, keeps the
journal and yields the results. It cuts the list into shards, of which one for each worker is out at a time, so
that neither it nor the scheduler ever holds the list. A task gets its number only and asks for its work when it
starts; if its worker dies, Dask starts the task somewhere else, which asks again, and is given what the client
has no result of. So nothing is fetched twice once its result is here.

Everything from the workers comes through one Dask queue, in order:

    ("start", shard, attempt)            the answer is a Variable: the work, as one string of JSON
    ("results", shard, attempt, [...], [...], n)   a few times a second: index and fields of each that has ended,
                                         what is under way, and how many bytes have come in all
    ("end", shard, attempt)              all results are sent
    ("failed", shard, attempt, error)    the worker cannot do it at all: the output is not to be reached

What comes from an attempt that is not the latest of its shard is dropped: a worker that was only thought dead
may still talk. It may still write, too. So each attempt has a directory of its own for what is not whole yet, which
the client makes before it answers and removes before it answers the next attempt: what the one before does then
fails, or goes into a file without a name.

Limits (downloads at a time, of those per host, rates) hold for the cluster: there are never more shards out than
each limit can be divided by, and each gets its share. The price is that a share of a worker at the end of its
shard is nobody's until the next one is there.

Left to the cluster: that noria with this extra is installed on the workers, and that they see the output. A
worker overwrites: the client has seen that the file is not there, or may be replaced, and has written into the
journal that the cluster works on it, so that after a crash of everything nothing of our own is in the way.
"""

import asyncio
import contextlib
import json
import logging
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, Unpack

import noria
from noria.get import failures
from noria.get.credentials import parse_proxy
from noria.get.engine import Downloader, make_job
from noria.get.journal import DONE, FINISHING, Journal, JournalError, Record
from noria.get.names import Names
from noria.get.objects import FsspecStore, make_store
from noria.get.options import Options, Settings
from noria.get.results import Activity, Result, Transfer
from noria.get.store import LocalStore, Stamp
from noria.get.target import Target

SHARD: Final = 200  # targets

_FLUSH = 0.25  # seconds between results of one worker
_CONNECT = 5.0  # seconds to reach the scheduler
_ANSWER = 2.0  # seconds that a task waits for its work before it looks whether anybody wants it
_OVER = ("over",)  # the client's last message, to itself
_UNDER_WAY = Stamp(-1, 0)  # in the journal, of what the cluster works on
_RATES = ("rate", "host_rate")
# Objects of this process, or what only makes sense with a journal beside the files.
_LOCAL = ("session", "store", "update", "ssl")
_OURS = ("journal", "activity", "overwrite", "skip_existing")  # what workers have no use for
_PARTS = ".noria-get-parts-"  # and the attempt's name: the directory of its parts
_TRANSFER = ("url", "name", "size", "received", "status", "attempts", "waiting", "host")


class ClusterError(Exception):
    """The cluster cannot be used, or failed as a whole."""


@dataclass(slots=True)
class _Item:
    """One target of a shard. row: in the journal."""

    target: Target
    name: str
    row: int = 0


@dataclass(slots=True)
class _Shard:
    """A shard that is out. items: those without a result, by index. store: what the attempt writes to.
    transfers and received: what it has under way, and the bytes it said it has.
    """

    items: dict[int, _Item]
    future: Any = None
    attempt: str = ""
    store: LocalStore | FsspecStore | None = None
    transfers: Sequence[Transfer] = ()
    received: int = 0


async def download_on_cluster(
    targets: Iterable[str | Target] | AsyncIterable[str | Target],
    output: str | os.PathLike[str] = ".",
    *,
    cluster: str,
    shard: int = SHARD,
    **options: Unpack[Options],
) -> AsyncGenerator[Result, None]:
    """As `noria.get.download_all`, with the work done by the workers of a Dask cluster. `ClusterDownloader` says
    what is different.
    """
    async with ClusterDownloader(output, cluster=cluster, shard=shard, **options) as downloader:
        async with contextlib.aclosing(downloader.download_all(targets)) as results:
            async for result in results:
                yield result


class ClusterDownloader:
    """As `noria.get.Downloader`, with the work done by the workers of a Dask cluster.

    cluster: `tcp://host:port` or another address of a scheduler, or `local:N` for N processes on this machine
    that end with the run. output: a directory that all see, or a URL for fsspec. shard: targets that one worker
    gets at a time. concurrency: downloads at a time in the whole cluster. The other keywords are those of
    `download_all`, except for `session`, `store`, `ssl` and `update`; files that they name are the workers', save
    for the journal. The observer of `activity` hears of what is done and not of starts and retries.

    A file gets the name in its target or the one in its URL, never one that the server suggests: names have to
    be given out before the work is. If a shard takes down worker after worker, its remaining targets fail.

    Raises ValueError for an argument that makes no sense here; entering raises ClusterError if the cluster cannot be
    reached, ImportError without Dask (extra `get-dask`), and what entering a Downloader raises; `download_all` raises
    ClusterError if the cluster is lost.
    """

    def __init__(
        self,
        output: str | os.PathLike[str] = ".",
        *,
        cluster: str,
        shard: int = SHARD,
        **options: Unpack[Options],
    ) -> None:
        settings = self._settings = Settings(**options)
        given: dict[str, Any] = dict(options)
        for name in _LOCAL:
            if given.get(name):
                raise ValueError(f"{name} does not work on a cluster")
        if shard < 1:
            raise ValueError(f"shard must be at least 1, not {shard}")
        _processes(cluster)
        if settings.proxy:
            parse_proxy(settings.proxy)  # here, rather than on each worker
        self._address = cluster
        self._shard = shard
        self._options = {name: value for name, value in given.items() if name not in _OURS + _LOCAL}
        self._store = make_store(output)
        self._output = (
            output if isinstance(self._store, FsspecStore) else os.path.abspath(self._store.where(""))
        )
        self._activity = settings.activity if settings.activity is not None else Activity()
        self._names = Names()
        self._link: _Link | None = None
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = self._settings
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            pool = self._pool = ThreadPoolExecutor(32, thread_name_prefix="noria-get-cluster")
            stack.callback(pool.shutdown, wait=False)
            await loop.run_in_executor(pool, self._store.prepare)
            self._journal = settings.journal if isinstance(settings.journal, Journal) else None
            if settings.journal is not None and not isinstance(settings.journal, Journal):
                path, durable = settings.journal, settings.fsync
                journal = await loop.run_in_executor(pool, lambda: Journal(path, durable=durable))
                self._journal = journal
                stack.push_async_callback(_through, loop.run_in_executor, pool, journal.close)
            opening = loop.run_in_executor(pool, lambda: _Link(self._address, loop))
            try:
                link = await asyncio.shield(opening)
            except asyncio.CancelledError:
                # Its processes must not be left behind.
                await asyncio.wait([opening])
                if not opening.cancelled() and opening.exception() is None:
                    await _through(loop.run_in_executor, pool, opening.result().close)
                raise
            stack.push_async_callback(_through, loop.run_in_executor, pool, link.close)
            self._link = link
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link = None
        await self._stack.aclose()

    def download_all(
        self, targets: Iterable[str | Target] | AsyncIterable[str | Target]
    ) -> AsyncGenerator[Result, None]:
        """As `noria.get.download_all`; one call at a time."""
        if self._link is None:
            raise RuntimeError("a ClusterDownloader works between `async with` and its end")
        settings = self._settings
        concurrency, per_host = settings.concurrency, settings.per_host
        slots = min(max(1, self._link.workers), concurrency, per_host or concurrency)
        self._activity.limit = concurrency // slots * slots
        share = {**self._options, "concurrency": concurrency // slots, "overwrite": True}
        if per_host is not None:
            share["per_host"] = per_host // slots
        for name in _RATES:
            if (rate := getattr(settings, name)) is not None:
                share[name] = rate / slots
        run = _Run(
            _Source(targets),
            self._store,
            self._journal,
            self._link,
            {"output": os.fspath(self._output), "options": share},
            self._pool,
            self._activity,
            self._names,
            settings,
        )
        return run.results(slots, self._shard)


async def _through(call: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Await what `call` returns to its end, even if cancelled meanwhile."""
    await asyncio.shield(call(*arguments))


class _Source:
    """The targets, whichever kind of iterable they come in."""

    def __init__(self, targets: Iterable[str | Target] | AsyncIterable[str | Target]) -> None:
        self._iterator: Iterator[str | Target] | AsyncIterator[str | Target]
        self._iterator = aiter(targets) if isinstance(targets, AsyncIterable) else iter(targets)

    async def take(self, most: int) -> list[Target]:
        """The next `most`; fewer at the end."""
        taken: list[Target] = []
        while len(taken) < most:
            try:
                if isinstance(self._iterator, AsyncIterator):
                    target = await anext(self._iterator)
                else:
                    target = next(self._iterator)
            except (StopIteration, StopAsyncIteration):
                break
            taken.append(Target(target) if isinstance(target, str) else target)
        return taken

    async def close(self) -> None:
        """End an asynchronous generator; leave every other iterator to its owner."""
        if isinstance(self._iterator, AsyncGenerator):
            await self._iterator.aclose()


class _Link:
    """The connection to the cluster; all methods block. Messages of workers go to `messages`, on the loop, and
    so do ("lost", shard, error) for a task that failed and ("broken", error) for the end of everything.
    """

    def __init__(self, cluster: str, loop: asyncio.AbstractEventLoop) -> None:
        processes = _processes(cluster)
        from distributed import Client, Event, LocalCluster, Queue

        self._loop = loop
        self._cluster: Any = None
        self.messages: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.run = f"noria-get-{uuid.uuid4().hex}"
        try:
            if processes:
                with _no_interrupts():
                    self._cluster = LocalCluster(
                        n_workers=processes,
                        threads_per_worker=1,
                        processes=True,
                        dashboard_address=None,
                        silence_logs=logging.ERROR,
                    )
            self._client = Client(
                cluster if self._cluster is None else self._cluster, set_as_default=False, timeout=_CONNECT
            )
            try:
                self._client.wait_for_workers(1, timeout=60)
                self.workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
                self._channel = Queue(self.run, client=self._client)
                self._stop = Event(f"{self.run}-stop", client=self._client)
            except BaseException:
                self._client.close()
                raise
        except (OSError, TimeoutError, ValueError) as error:
            if self._cluster is not None:
                self._cluster.close()
            reason = failures.printable(str(error) or type(error).__name__)
            raise ClusterError(f"cannot use the cluster {failures.printable(cluster)}: {reason}") from None
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, name="noria-get-cluster-reader", daemon=True)
        self._reader.start()

    def submit(self, number: int) -> Any:
        """Start the task of a shard."""
        future = self._client.submit(
            _run_shard, self.run, number, key=f"{self.run}-{number}", pure=False, retries=0
        )
        future.add_done_callback(lambda done: self._ended(number, done))
        return future

    def answer(self, attempt: str, work: str) -> None:
        """Give an attempt its work."""
        from distributed import Variable

        Variable(f"{self.run}-{attempt}", client=self._client).set(work)

    def stop(self) -> None:
        """Tell the workers to stop."""
        self._over.set()
        with contextlib.suppress(Exception):
            self._stop.set()

    def close(self) -> None:
        """Stop what is under way and let the cluster go."""
        self.stop()
        with contextlib.suppress(Exception):
            self._channel.put(_OVER)
            self._reader.join()
            self._channel.close()
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _read(self) -> None:
        # Without a timeout, of which the scheduler logs each as an error.
        try:
            while (message := tuple(self._channel.get())) != _OVER:
                self._tell(message)
        except Exception as error:
            self._tell(("broken", error))

    def _ended(self, number: int, future: Any) -> None:
        if future.status == "error":
            self._tell(("lost", number, future.exception()))
        elif future.status != "finished" and not self._over.is_set():
            self._tell(("lost", number, ClusterError(f"the scheduler let it go ({future.status})")))

    def _tell(self, message: tuple[Any, ...]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.messages.put_nowait, message)


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Have processes that are started meanwhile, by this thread or those it starts, never see SIGINT: a terminal sends
    it to all at Ctrl-C, and it is the client's to end them. Signals that are blocked are inherited.
    """
    # Else it is started in there, and unblocks the signal when it is (CPython, multiprocessing/resource_tracker.py).
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _processes(cluster: str) -> int:
    """The N of local:N; 0 for an address."""
    kind, _, number = cluster.partition(":")
    if kind != "local":
        return 0
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"local:N needs a number of processes, not {number!r}")
    return int(number)


class _Run:
    """One call of `download_on_cluster`."""

    def __init__(
        self,
        source: _Source,
        store: LocalStore | FsspecStore,
        journal: Journal | None,
        link: _Link,
        work: Mapping[str, Any],
        pool: ThreadPoolExecutor,
        activity: Activity,
        names: Names,
        settings: Settings,
    ) -> None:
        self._source = source
        self._store = store
        self._journal = journal
        self._link = link
        self._work = work
        self._pool = pool
        self._activity = activity
        self._names = names
        self._overwrite = settings.overwrite
        self._skip_existing = settings.skip_existing
        self._shards: dict[int, _Shard] = {}
        self._numbers = 0
        self._ended = False

    async def results(self, slots: int, size: int) -> AsyncGenerator[Result, None]:
        """Keep `slots` shards of `size` out, and yield what comes back."""
        loop = asyncio.get_running_loop()
        journal = self._journal
        if journal is not None:
            await loop.run_in_executor(self._pool, lambda: journal.begin(again=self._overwrite))
        try:
            while True:
                while not self._ended and len(self._shards) < slots:
                    for result in await self._send(size):
                        yield self._counted(result)
                if not self._shards:
                    break
                for result in await self._handle(await self._link.messages.get()):
                    yield self._counted(result)
            if journal is not None:
                await loop.run_in_executor(self._pool, journal.finished)
        finally:
            if self._shards:
                await asyncio.shield(loop.run_in_executor(self._pool, self._link.stop))
            for shard in self._shards.values():
                if shard.store is not None:
                    await asyncio.shield(loop.run_in_executor(self._pool, shard.store.remove_parts))
            await self._source.close()

    async def _send(self, size: int) -> list[Result]:
        """Take targets and send them out; the results of those that need no worker."""
        targets = await self._source.take(size)
        if len(targets) < size:
            self._ended = True
        loop = asyncio.get_running_loop()
        ready, items = await loop.run_in_executor(self._pool, self._sort, targets)
        if items:
            number = self._numbers
            self._numbers += 1
            shard = self._shards[number] = _Shard(dict(enumerate(items)))
            shard.future = await loop.run_in_executor(self._pool, self._link.submit, number)
        return ready

    def _sort(self, targets: list[Target]) -> tuple[list[Result], list[_Item]]:
        """What is done or cannot be, and what is to be fetched; names claimed, the journal told. Blocks."""
        ready: list[Result] = []
        wanted: list[tuple[Target, str]] = []
        for target in targets:
            job = make_job(target)
            if job.failure is not None:
                ready.append(_failed(target, job.failure.message, job.failure.kind))
            else:
                wanted.append((target, job.wanted))
        journal = self._journal
        if journal is None:
            records = [Record(0, target.url, self._names.claim(name), 0) for target, name in wanted]
        else:
            try:
                records = journal.register(wanted)
            except JournalError as full:
                if not full.full:
                    raise
                return ready + [_failed(target, str(full), "disk") for target, _ in wanted], []
        stamps = list(self._pool.map(lambda record: self._look(record), records)) if records else []
        items: list[_Item] = []
        changes: list[Callable[[], None]] = []  # of the journal
        for (target, _), record, (there, size) in zip(wanted, records, stamps, strict=True):
            skipped = Result(
                target.url,
                self._store.where(record.name),
                skipped=True,
                checksum=record.checksum,
                etag=record.etag,
            )
            ours = record.state == FINISHING and record.size == _UNDER_WAY.size
            if record.state == DONE and size == record.size:
                ready.append(skipped)
            elif there and self._skip_existing and not ours:
                ready.append(skipped)
                if journal is not None:
                    changes.append(partial(journal.adopt, record.id, size or 0))
            elif there and not self._overwrite and not ours and record.state != DONE:
                error = f"{self._store.where(record.name)} exists already"
                ready.append(_failed(target, error, "name"))
                if journal is not None:
                    changes.append(partial(journal.failed_row, record.id, error, "name"))
            else:
                items.append(_Item(target, record.name, record.id))
                if journal is not None:
                    changes.append(partial(journal.finishing, record.id, _UNDER_WAY, None, None))
        if journal is not None:
            journal.together(changes)
        return ready, items

    def _look(self, record: Record) -> tuple[bool, int | None]:
        """Whether the file is there, and its size if it matters."""
        if record.state == DONE:
            stamp = self._store.stamp(record.name)
            return stamp is not None, None if stamp is None else stamp.size
        if self._overwrite:
            return False, None
        return self._store.exists(record.name), None

    async def _handle(self, message: tuple[Any, ...]) -> list[Result]:
        """Do what a message asks for; the results it brings."""
        loop = asyncio.get_running_loop()
        if message[0] == "broken":
            raise ClusterError(f"the cluster is lost: {message[1]}")
        shard = self._shards.get(message[1])
        if shard is None:
            return []
        if message[0] == "start":
            await self._end(shard)
            shard.attempt = message[2]
            parts = _PARTS + shard.attempt
            store = shard.store = make_store(self._work["output"], parts)
            work = json.dumps(
                {**self._work, "parts": parts, "items": list(map(self._portable, shard.items.items()))},
                default=str,
            )

            def answer() -> str | None:
                try:
                    store.make_parts()
                except OSError as error:
                    self._link.answer(shard.attempt, json.dumps(None))
                    return str(error.strerror or error)
                self._link.answer(shard.attempt, work)
                return None

            if (reason := await loop.run_in_executor(self._pool, answer)) is None:
                return []
            del self._shards[message[1]]
            unfit = [
                (item, _failed(item.target, f"cannot write to {self._store.where('')}: {reason}", "disk"))
                for item in shard.items.values()
            ]
            return await loop.run_in_executor(self._pool, self._record, unfit)
        if message[0] == "lost":
            await self._end(self._shards.pop(message[1]))
            error = f"no worker could do it: {failures.printable(str(message[2]))}"
            lost = [
                (item, Result(item.target.url, error=error, kind="other")) for item in shard.items.values()
            ]
            return await loop.run_in_executor(self._pool, self._record, lost)
        if message[2] != shard.attempt:
            return []  # from one that was thought dead
        if message[0] == "failed":
            raise ClusterError(f"a worker cannot go on: {failures.printable(message[3])}")
        if message[0] == "end":
            await self._end(self._shards.pop(message[1]))
            assert not shard.items
            return []
        _, _, _, _, transfers, received = message
        self._show(shard, [Transfer(**dict(zip(_TRANSFER, found, strict=True))) for found in transfers])
        self._activity.received += received - shard.received
        shard.received = received
        arrived = [
            (shard.items.pop(index), Result(**found)) for index, found in message[3] if index in shard.items
        ]
        return await loop.run_in_executor(self._pool, self._record, arrived)

    async def _end(self, shard: _Shard) -> None:
        """Of the attempt there was: take from it what it could write to, and forget what it had under way."""
        store, shard.store = shard.store, None
        if store is not None:
            await asyncio.get_running_loop().run_in_executor(self._pool, store.remove_parts)
        self._show(shard, ())
        shard.received = 0

    def _show(self, shard: _Shard, transfers: Sequence[Transfer]) -> None:
        for transfer in shard.transfers:
            del self._activity.transfers[transfer]
        self._activity.transfers.update(dict.fromkeys(transfers))
        shard.transfers = transfers

    @staticmethod
    def _portable(entry: tuple[int, _Item]) -> tuple[int, list[Any]]:
        index, item = entry
        target = item.target
        headers = dict(target.headers) if target.headers else None
        return index, [target.url, item.name, target.checksum, target.size, headers]

    def _record(self, results: list[tuple[_Item, Result]]) -> list[Result]:
        """Write results into the journal, then they may be told. Blocks."""
        journal = self._journal
        if journal is not None:
            try:
                journal.together(
                    [partial(self._write, journal, item.row, result) for item, result in results]
                )
            except JournalError as error:
                if not error.full:
                    raise  # else the rows say as before that the cluster works on them
        return [result for _, result in results]

    @staticmethod
    def _write(journal: Journal, row: int, result: Result) -> None:
        if result.ok:
            journal.finishing(row, Stamp(result.size, 0), result.etag, None)
            journal.done(row, attempts=result.attempts, status=result.status, checksum=result.checksum)
        else:
            journal.failed_row(
                row,
                result.error or "",
                result.kind or "other",
                attempts=result.attempts,
                status=result.status,
            )

    def _counted(self, result: Result) -> Result:
        activity = self._activity
        activity.done += result.ok and not result.skipped
        activity.skipped += result.skipped
        activity.failed += not result.ok
        activity.size += 0 if result.skipped else result.size
        if activity.observer is not None:
            activity.observer("done", result)
        return result


def _failed(target: Target, error: str, kind: str) -> Result:
    return Result(target.url, error=error, kind=kind, started=time.time())


# What runs on a worker.


def _run_shard(run: str, number: int) -> None:
    """The task of a shard. It runs in a thread of the worker, whose own loop is in another one."""
    from distributed import Event, Queue, Variable, get_client, get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def unwanted() -> bool:
        """Whether the run was stopped, or its client has gone, which has the scheduler let go of the task."""
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled" or stop.is_set()

    client = get_client(timeout=_CONNECT)
    channel = Queue(run, client=client)
    stop = Event(f"{run}-stop", client=client)
    attempt = uuid.uuid4().hex
    channel.put(("start", number, attempt))
    answer = Variable(f"{run}-{attempt}", client=client)
    while True:
        try:
            work = json.loads(answer.get(timeout=_ANSWER))
            break
        except TimeoutError:  # its client is busy, or gone
            if unwanted():
                return
    answer.delete()
    if work is None:  # there is no room for it
        return
    try:
        if noria.run(_download(work, number, attempt, channel, unwanted)):
            channel.put(("end", number, attempt))
    except (
        Exception
    ) as error:  # not raised: Dask would pickle it with its frames, or hang over what cannot be
        channel.put(("failed", number, attempt, f"{type(error).__name__}: {error}"))


async def _download(
    work: dict[str, Any], number: int, attempt: str, channel: Any, unwanted: Callable[[], bool]
) -> bool:
    """Fetch everything in `work` and send the results; false if the run was stopped meanwhile."""
    options: dict[str, Any] = work["options"]
    if options.get("auth") is not None:
        options["auth"] = tuple(options["auth"])
    gathered: list[tuple[int, dict[str, Any]]] = []
    items = work["items"]
    finished = asyncio.Event()
    activity = Activity()
    told = 0

    async def send() -> None:
        nonlocal told
        batch, gathered[:] = gathered[:], []
        if batch or activity.received != told:
            told = activity.received
            under_way = [[getattr(one, name) for name in _TRANSFER] for one in activity.transfers]
            await asyncio.to_thread(channel.put, ("results", number, attempt, batch, under_way, told))

    async def send_often() -> bool:
        """False if everything is to stop."""
        while not finished.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(finished.wait(), _FLUSH)
            await send()
            # Without the directory the shard is somebody else's.
            if await asyncio.to_thread(lambda: unwanted() or not store.has_parts()):
                return False
        await send()  # what has come since
        return True

    async def fetch(downloader: Downloader) -> None:
        by_name = {target[1]: index for index, target in items}
        by_url: dict[str, list[int]] = {}
        for index, target in items:
            by_url.setdefault(target[0], []).append(index)
        failed: list[dict[str, Any]] = []
        async with contextlib.aclosing(downloader.download_all(Target(*t) for _, t in items)) as results:
            async for result in results:
                found = result.as_dict()
                if result.where is None and len(by_url[result.url]) > 1:
                    # Which of the equal ones it was shows when the others have their names.
                    failed.append(found)
                    continue
                if result.where is None:
                    index = by_url[result.url][0]
                else:
                    index = by_name[result.where.rsplit("/", 1)[1]]
                    by_url[result.url].remove(index)
                gathered.append((index, found))
        gathered.extend((by_url[found["url"]].pop(), found) for found in failed)

    store = make_store(work["output"], work["parts"])
    async with Downloader(store=store, activity=activity, **options) as downloader:
        sending = asyncio.create_task(send_often())
        fetching = asyncio.create_task(fetch(downloader))
        try:
            await asyncio.wait((sending, fetching), return_when=asyncio.FIRST_COMPLETED)
            if not fetching.done():
                return await sending  # false, or why it could not send
            fetching.result()
            finished.set()
            return await sending
        finally:
            fetching.cancel()
            finished.set()
            await asyncio.gather(fetching, sending, return_exceptions=True)
