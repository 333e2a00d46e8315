"""The same run on many machines: a Dask cluster whose workers run the engine, each on a loop of noria's.

The client, the process the user started, reads the list, gives out names, looks whether files exist, keeps the
journal and yields the results. It cuts the list into shards, of which one for each worker is out at a time, so
that neither it nor the scheduler ever holds the list. A task gets its number only and asks for its work when it
starts; if its worker dies, Dask starts the task somewhere else, which asks again, and is given what the client
has no result of. So nothing is fetched twice once its result is here.

Everything from the workers comes through one Dask queue, in order:

    ("start", shard, attempt)            the answer is a Variable: the work, as one string of JSON
    ("results", shard, attempt, [...])   index and fields of each, a few times a second
    ("end", shard, attempt)              all results are sent
    ("failed", shard, attempt, error)    the worker cannot do it at all: the output is not to be reached

What comes from an attempt that is not the latest of its shard is dropped: a worker that was only thought dead
may still talk.

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
import os
import threading
import time
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import noria
from noria.get import failures
from noria.get.engine import Downloader
from noria.get.failures import Failure
from noria.get.journal import DONE, FINISHING, Journal, Record
from noria.get.names import Names, name_from_url, safe_name
from noria.get.objects import FsspecStore, make_store
from noria.get.results import Activity, Result
from noria.get.store import Stamp, Store
from noria.get.target import Target

SHARD: Final = 200  # targets

_FLUSH = 0.25  # seconds between results of one worker
_CONNECT = 5.0  # seconds to reach the scheduler
_ANSWER = 2.0  # seconds that a task waits for its work before it looks whether anybody wants it
_OVER = ("over",)  # the client's last message, to itself
_UNDER_WAY = Stamp(-1, 0)  # in the journal, of what the cluster works on
_SHARED = ("concurrency", "per_host")  # counts: divided, at least 1
_RATES = ("rate", "host_rate")
# Objects of this process, or what only makes sense with a journal beside the files.
_LOCAL = ("session", "store", "update", "segments", "ssl", "activity", "journal")


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
    """A shard that is out. items: those without a result, by index."""

    items: dict[int, _Item]
    future: Any = None
    attempt: str = ""


async def download_on_cluster(
    targets: Iterable[str | Target] | AsyncIterable[str | Target],
    output: str | os.PathLike[str] = ".",
    *,
    cluster: str,
    shard: int = SHARD,
    journal: Journal | str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
    concurrency: int = 32,
    activity: Activity | None = None,
    **options: Any,
) -> AsyncGenerator[Result, None]:
    """As `noria.get.download_all`, with the work done by the workers of a Dask cluster.

    cluster: `tcp://host:port` or another address of a scheduler, or `local:N` for N processes on this machine
    that end with the run. output: a directory that all see, or a URL for fsspec. shard: targets that one worker
    gets at a time. concurrency: downloads at a time in the whole cluster. The other keywords are those of
    `download_all`, except for `session`, `store`, `ssl`, `segments` and `update`.

    A file gets the name in its target or the one in its URL, never one that the server suggests: names have to
    be given out before the work is. If a shard takes down worker after worker, its remaining targets fail.

    Raises ClusterError if the cluster cannot be reached or is lost, ImportError without Dask (extra
    `get-dask`), ValueError for an argument that makes no sense here, and what `download_all` raises.
    """
    if unknown := [name for name in _LOCAL if options.get(name) is not None and options[name] is not False]:
        raise ValueError(f"{unknown[0]} does not work on a cluster")
    if overwrite and skip_existing:
        raise ValueError("overwrite and skip_existing exclude each other")
    if concurrency < 1 or shard < 1:
        raise ValueError("concurrency and shard must be at least 1")
    store = make_store(output)
    place = output if isinstance(store, FsspecStore) else os.path.abspath(store.where(""))
    pool = ThreadPoolExecutor(32, thread_name_prefix="noria-get-cluster")
    loop = asyncio.get_running_loop()
    link: _Link | None = None
    own_journal: Journal | None = None
    try:
        await loop.run_in_executor(pool, store.prepare)
        if journal is not None and not isinstance(journal, Journal):
            path = journal
            journal = own_journal = await loop.run_in_executor(pool, lambda: Journal(path))
        link = await loop.run_in_executor(pool, lambda: _Link(cluster, loop))
        workers = max(1, link.workers)
        counts = [concurrency, *([options["per_host"]] if options.get("per_host") else [])]
        slots = min(workers, *counts)
        share = {**options, "concurrency": concurrency // slots, "overwrite": True}
        for name in options.keys() & {"per_host", *_RATES}:
            if options[name] is not None:
                share[name] = max(1, options[name] // slots) if name == "per_host" else options[name] / slots
        run = _Run(
            _Source(targets),
            store,
            journal,
            link,
            {"output": os.fspath(place), "options": share},
            pool,
            activity if activity is not None else Activity(),
            overwrite,
            skip_existing,
        )
        async with contextlib.aclosing(run.results(slots, shard)) as results:
            async for result in results:
                yield result
    finally:
        closing = [thing.close for thing in (link, own_journal) if thing is not None]
        for close in closing:
            await asyncio.shield(loop.run_in_executor(pool, close))
        pool.shutdown(wait=False)


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
        except (OSError, TimeoutError) as error:
            if self._cluster is not None:
                self._cluster.close()
            raise ClusterError(f"cannot use the cluster {cluster}: {error}") from None
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

    def close(self) -> None:
        """Stop what is under way and let the cluster go."""
        self._over.set()
        with contextlib.suppress(Exception):
            self._stop.set()
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
        store: Store,
        journal: Journal | None,
        link: _Link,
        work: Mapping[str, Any],
        pool: ThreadPoolExecutor,
        activity: Activity,
        overwrite: bool,
        skip_existing: bool,
    ) -> None:
        self._source = source
        self._store = store
        self._journal = journal
        self._link = link
        self._work = work
        self._pool = pool
        self._activity = activity
        self._overwrite = overwrite
        self._skip_existing = skip_existing
        self._names = Names()
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
            try:
                url = failures.parse_url(target.url)
            except Failure as failure:
                ready.append(Result(target.url, error=failure.message, kind="other", started=time.time()))
            else:
                wanted.append((target, safe_name(target.name or "") or name_from_url(url)))
        journal = self._journal
        if journal is None:
            records = [Record(0, target.url, self._names.claim(name), 0) for target, name in wanted]
        else:
            records = journal.register(wanted)
        stamps = list(self._pool.map(lambda record: self._look(record), records)) if records else []
        items: list[_Item] = []
        for (target, _), record, (there, size) in zip(wanted, records, stamps, strict=True):
            skipped = Result(
                target.url,
                Path(self._store.where(record.name)),
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
                    journal.adopt(record.id, size or 0)
            elif there and not self._overwrite and not ours and record.state != DONE:
                error = f"{self._store.where(record.name)} exists already"
                ready.append(Result(target.url, error=error, kind="disk", started=time.time()))
                if journal is not None:
                    journal.failed_row(record.id, error, "disk")
            else:
                items.append(_Item(target, record.name, record.id))
                if journal is not None:
                    journal.finishing(record.id, _UNDER_WAY, None, None)
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
            shard.attempt = message[2]
            work = json.dumps(
                {**self._work, "items": list(map(self._portable, shard.items.items()))}, default=str
            )
            await loop.run_in_executor(self._pool, self._link.answer, shard.attempt, work)
            return []
        if message[0] == "lost":
            del self._shards[message[1]]
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
            del self._shards[message[1]]
            assert not shard.items
            return []
        arrived = [
            (shard.items.pop(index), _result(found)) for index, found in message[3] if index in shard.items
        ]
        return await loop.run_in_executor(self._pool, self._record, arrived)

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
            for item, result in results:
                if result.ok:
                    journal.finishing(item.row, Stamp(result.size, 0), result.etag, None)
                    journal.done(
                        item.row, attempts=result.attempts, status=result.status, checksum=result.checksum
                    )
                else:
                    journal.failed_row(
                        item.row,
                        result.error or "",
                        result.kind or "other",
                        attempts=result.attempts,
                        status=result.status,
                    )
        return [result for _, result in results]

    def _counted(self, result: Result) -> Result:
        activity = self._activity
        activity.done += result.ok and not result.skipped
        activity.skipped += result.skipped
        activity.failed += not result.ok
        activity.size += result.size
        activity.received += result.size
        if activity.observer is not None:
            activity.observer("done", result)
        return result


def _result(found: dict[str, Any]) -> Result:
    path = found.pop("path")
    return Result(**found, path=None if path is None else Path(path))


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

    async def send() -> None:
        batch, gathered[:] = gathered[:], []
        if batch:
            await asyncio.to_thread(channel.put, ("results", number, attempt, batch))

    async def send_often() -> bool:
        """False if everything is to stop."""
        while not finished.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(finished.wait(), _FLUSH)
            await send()
            if await asyncio.to_thread(unwanted):
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
                found = {field.name: getattr(result, field.name) for field in fields(result)}
                if result.path is None and len(by_url[result.url]) > 1:
                    failed.append(
                        found
                    )  # which of the equal ones it was shows when the others have their names
                    continue
                if result.path is None:
                    index = by_url[result.url][0]
                else:
                    found["path"] = str(result.path)
                    index = by_name[result.path.name]
                    by_url[result.url].remove(index)
                gathered.append((index, found))
        gathered.extend((by_url[found["url"]].pop(), found) for found in failed)

    async with Downloader(store=make_store(work["output"]), **options) as downloader:
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
