"""One download from beginning to end: what is there already, attempts, the body, and the name at last.

A partial file is gone on with only under the validator (strong ETag, else Last-Modified) that was kept for
it, in memory between the attempts of a run, in the journal between runs, and only if the server then sends
exactly the bytes that were asked for. Everything else is fetched from its beginning.
"""

import asyncio
import contextlib
import fnmatch
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from noria.get import failures, journal as journals, ranges
from noria.get.client import Client, Response, read_short_body
from noria.get.decoding import Decoder
from noria.get.digests import Digests, Expected, parse_checksum_file, parse_repr_digest
from noria.get.direct import Receivers
from noria.get.express import Address, Express
from noria.get.failures import Failure
from noria.get.filebatch import FileBatch
from noria.get.hosts import Hosts
from noria.get.journal import Journal, JournalError, Record
from noria.get.names import is_form_of, name_from_header
from noria.get.options import Settings
from noria.get.ranges import ContentRange, Validator
from noria.get.rates import TokenBucket
from noria.get.results import Activity, Transfer
from noria.get.retry import RETRY_STATUSES, RetryPolicy, parse_retry_after
from noria.get.sink import Sink
from noria.get.store import Part, Stamp, Store
from noria.get.target import Target

if TYPE_CHECKING:
    from yarl import URL

    from noria.get.response import LeanResponse

_MIB = 1024 * 1024
_LARGE = 32 * _MIB  # from here on a file is worth several connections by itself
_LEAST_SEGMENT = 1 * _MIB
_SEGMENTS = 4  # for a large file, if nothing else was said
_SAVE_EVERY = 1.0  # seconds between two records of how far segments have come
_CHECKSUM_FILE = 64 * 1024
_REREAD = 1 * _MIB
_NO_VALIDATOR = Validator()
_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Job:
    """A target taken from the list. name: `wanted`, or a numbered form of that. failure: it is hopeless. row: the
    journal's, as it was before. validator, have and segments: of the part that can be gone on with.

    address: set if the URL is plain and nothing special is wanted of the file; path: of the request then, while url is
    None until somebody needs it. given: what the first attempt has brought already, an answer or a failure.
    """

    target: Target
    host: str = ""
    url: "URL | None" = None
    wanted: str = ""
    name: str = ""
    failure: Failure | None = None
    row: Record | None = None
    expected: list[Expected] = field(default_factory=list)
    validator: Validator = _NO_VALIDATOR
    recorded: Validator = _NO_VALIDATOR
    have: int = 0
    segments: list[list[int]] | None = None
    last_etag: str | None = None
    address: Address | None = None
    path: str = ""
    given: "LeanResponse | Exception | None" = None

    looked: bool = False  # for a checksum file
    useless: bool = False  # a part is there that nothing can go on with

    def forget_part(self) -> None:
        """What is in the part is of no use: the next attempt begins anew."""
        self.have, self.segments, self.validator = 0, None, Validator()
        self.useless = True

    def parsed(self) -> "URL":
        """The URL."""
        if self.url is None:
            self.url = failures.parse_url(self.target.url)
        return self.url


@dataclass(slots=True, eq=False)
class Outcome:
    """What `Fetcher.fetch` brought."""

    size: int = 0
    skipped: bool = False
    checksum: str | None = None


@dataclass(slots=True, eq=False, repr=False)
class Fetcher:
    """What the downloads of a run share. claim: gives a name out, numbered if it is taken."""

    client: Client
    store: Store
    journal: Journal | None
    settings: Settings
    policy: RetryPolicy
    hosts: Hosts
    activity: Activity
    pool: Executor
    receivers: Receivers
    piece: int
    claim: Callable[[str], str]
    rate: TokenBucket | None
    batch: FileBatch | None = None
    express: Express | None = None
    host_rates: dict[str, TokenBucket] = field(default_factory=dict)

    async def fetch(self, job: Job, transfer: Transfer) -> Outcome:
        """Make the file. Raises Failure; what can be gone on with is kept if there is a journal to say so."""
        if job.failure is not None:
            raise job.failure
        try:
            return await self._fetch(job, transfer)
        except asyncio.CancelledError:
            # Without a journal a part is kept between two attempts only.
            if job.useless or (self.journal is None and (job.have or job.segments)):
                await asyncio.shield(self._blocking(lambda: self.store.remove_part(job.name)))
            raise
        except JournalError as error:
            raise Failure(str(error), kind="disk") from None
        except Failure as failure:
            keep = self._keeps(job) and failure.again
            if not keep and (job.have or job.segments or job.useless):
                await self._blocking(lambda: self.store.remove_part(job.name))
            if self.journal is not None and job.row is not None:
                journal, row, message, kind = self.journal, job.row.id, failure.message, failure.kind
                with contextlib.suppress(JournalError):
                    await self._blocking(
                        lambda: journal.failed_row(
                            row,
                            message,
                            kind,
                            attempts=transfer.attempts,
                            status=transfer.status,
                            part=keep,
                        )
                    )
            raise

    async def _fetch(self, job: Job, transfer: Transfer) -> Outcome:
        settings = self.settings
        if job.address is not None and self.express is not None and (job.row is None or job.row.is_new):
            where = self.store.where(job.name)
            try:
                stamp = await self.express.fetch(job, transfer, where)
            except JournalError:
                raise
            except OSError as error:
                raise failures.disk_failure(error, where) from None
            if stamp is not None:
                self.hosts.outcome(job, congested=False)
                return Outcome(stamp.size)
        elif job.row is not None or settings.skip_existing:
            size = await self._blocking(lambda: self._is_there(job))
            if size is not None:
                return Outcome(0 if job.row is None else size, skipped=True)
        try:
            async with asyncio.timeout(settings.timeout) as limit:
                conclude = await self._receive(job, transfer)
        except TimeoutError:
            if not limit.expired():
                raise
            raise Failure(f"not complete after {settings.timeout:g} s", kind="timeout", again=True) from None
        except Failure as failure:
            if failure.file_exists and settings.skip_existing:  # under a name that the server gave
                return Outcome(skipped=True)
            raise
        if conclude is None:
            return Outcome(skipped=True)
        sink, ending = conclude
        try:
            # Not under the timeout, which could strike when the file has its name already.
            if self.batch is not None and not sink.touched and self._is_plain(job, sink):
                written = self.batch.whole(sink.where, sink.take(), overwrite=self._replaces())
                return Outcome((await sink.outcome(written)).size)
            return await sink.conclude(ending)
        except Failure as failure:
            await sink.end(keep=False)
            job.have, job.segments = 0, None
            if failure.file_exists and settings.skip_existing:
                return Outcome(skipped=True)
            raise
        except BaseException:
            await sink.end(keep=False)  # which leaves alone what has its name
            raise

    def _is_plain(self, job: Job, sink: Sink) -> bool:
        """Whether the file has but to be written and named."""
        settings = self.settings
        return (
            self.journal is None
            and not sink.digests
            and not settings.fsync
            and not settings.update
            and not job.have
            and job.segments is None
        )

    def _is_there(self, job: Job) -> int | None:
        """In a thread: the size of the file if nothing need be done; else find the part to go on with."""
        store, journal, row = self.store, self.journal, job.row
        if row is not None and journal is not None:
            if row.state == journals.FINISHING and (size := self._was_finished(job, row)) is not None:
                with recorded_or_full():
                    journal.adopt(row.id, size)
                return size
            if row.state == journals.DONE and not self.settings.update:
                found = store.stamp(job.name)
                if found is not None and found.size == row.size:
                    return row.size
            if self.settings.resume and row.state in (journals.PENDING, journals.FAILED):
                self._find_part(job, row)
        if self.settings.skip_existing and store.exists(job.name):
            if journal is not None and row is not None:
                found = store.stamp(job.name)
                with recorded_or_full():
                    journal.adopt(row.id, found.size if found else 0)
            return 0
        return None

    def _was_finished(self, job: Job, row: Record) -> int | None:
        """The process died between the two records around the rename: see on which side of it. The size of the file
        if that was its end.
        """
        store = self.store
        found, part = store.stamp(job.name), store.part_stamp(job.name)
        if row.inode == 0:
            # A store without inodes, or one that a cluster worked on (with a size of -1). The name was free then,
            # unless files are replaced; who has it now was given it by us, when he was whole.
            if found is None or self._replaces() or (row.size >= 0 and found.size != row.size):
                return None
            return found.size
        if part is not None and (part.size, part.inode) == (row.size, row.inode):
            if found is not None and found.inode == part.inode:  # it has both names
                store.remove_part(job.name)
            else:
                try:
                    store.open(job.name, overwrite=self._replaces()).publish()
                except OSError:
                    return None
        elif found is None or (found.size, found.inode) != (row.size, row.inode):
            return None
        return row.size

    def _find_part(self, job: Job, row: Record) -> None:
        validator = Validator(row.etag, row.modified)
        if validator.condition() is None or not self.store.seekable:
            return
        part = self.store.part_stamp(job.name)
        if part is None:
            return
        if row.segments is not None:
            if not ranges.fits(row.segments, part.size):
                return
            job.segments = row.segments
        else:
            job.have = part.size
        job.validator = job.recorded = validator

    async def _fetch_checksum(self, job: Job, transfer: Transfer) -> None:
        """Ask for URL.sha256. Without such a file there is nothing to hold the file against."""
        url = job.parsed()
        url = url.with_path(url.raw_path + ".sha256", encoded=True)
        text = b""
        async with self.client.get(url, _beside(transfer), job.target.headers, {}) as response:
            if response.status in RETRY_STATUSES:
                await self._check_status(response)
            if response.status == 200:
                while len(text) < _CHECKSUM_FILE and (data := await response.content.readany()):
                    text += data
            else:
                await read_short_body(response)
        job.looked = True
        found = parse_checksum_file(text[:_CHECKSUM_FILE].decode("utf-8", "replace"), job.parsed().name)
        if found is not None:
            job.expected = [found]

    async def _receive(
        self, job: Job, transfer: Transfer
    ) -> tuple[Sink, Callable[[list[bytes]], Outcome]] | None:
        """Attempt until the whole body is received, or raise the Failure of the last attempt. None: the file that
        is there is still right.
        """
        while True:
            transfer.attempts += 1
            try:
                if self.settings.checksum_files and not job.expected and not job.looked:
                    await self._fetch_checksum(job, transfer)
                attempt = self._attempt if job.segments is None else self._attempt_segments
                concluding = await attempt(job, transfer)
                self.hosts.outcome(job, congested=False)
                return concluding
            except Failure as error:
                failure = error
            except JournalError:
                raise
            except Exception as error:  # one server's answer, however odd, must not end the other downloads
                failure = failures.network_failure(
                    error, self.settings.connect_timeout, self.settings.stall_timeout
                )
            if failure.congested:
                self.hosts.outcome(job, congested=True)
            delay = self.policy.delay(transfer.attempts, failure.retry_after) if failure.again else None
            if delay is None:
                if (failure.retry_after or 0.0) > self.policy.longest:
                    failure.message += f", and asks to wait {failure.retry_after:g} s"
                try:
                    raise failure
                finally:
                    del failure  # which holds this frame, and so all that the attempt used
            transfer.waiting = True
            self.activity.tell("retry", transfer)
            await asyncio.sleep(delay)
            transfer.waiting = False
            transfer.received = 0

    async def _attempt(
        self, job: Job, transfer: Transfer
    ) -> tuple[Sink, Callable[[list[bytes]], Outcome]] | None:
        url = job.parsed()
        given, job.given = job.given, None
        # One byte is asked for again, lest nothing is left to ask for of a part that is complete.
        have = max(0, job.have - 1)
        extra = await self._conditions(job, have)
        async with self.client.get(url, transfer, job.target.headers, extra, given) as response:
            if response.status == 304 and "Range" not in extra and extra:
                return None
            validator = ranges.validator(response.headers)
            part_of: ContentRange | None = None
            if have and response.status in (206, 416):
                part_of = self._check_part(job, response, validator, have, None)
            else:
                await self._check_status(response)
                have = 0
            self._check_headers(job, response)
            job.last_etag = validator.etag or (job.validator.etag if part_of else None)
            transfer.name = await self._name(job, response, fresh=part_of is None)
            decoder = self._decoder(response)
            length = (
                None if "Transfer-Encoding" in response.headers else response.content_length
            )  # which would make the length meaningless
            if part_of is not None:
                assert part_of.total is not None
                total: int | None = part_of.total
            else:
                job.validator, job.have = validator, 0
                total = length
            expected = None if decoder is not None else total
            self._check_size(job, expected)
            transfer.size, transfer.resumed, transfer.received = expected, have, have
            checks = job.expected or (
                [] if decoder else parse_repr_digest(response.headers.getall("Repr-Digest", []))
            )
            if part_of is None and decoder is None:
                count = self._segment_count(job, response, total)
                if count > 1:
                    assert total is not None
                    return await self._split(job, transfer, response, total, count, checks)
            part = self.store.open(
                job.name, overwrite=self._replaces(), resume=have, fsync=self.settings.fsync
            )
            # What is in the part already has to be read again for a checksum, at the end.
            digests = Digests([] if have else checks)
            sink = Sink(part, self.store.where(job.name), self.pool, self.piece, digests)
            try:
                await self._remember(job, expected)
                await self._read_body(job, response, sink, transfer, decoder, total, have)
            except BaseException as error:
                await self._stop(job, sink, error, have, decoder)
                raise
            return sink, self._ending(
                job, transfer, sink.part, digests, checks, reread=have > 0, modified=validator
            )

    async def _stop(
        self, job: Job, sink: Sink, error: BaseException, have: int, decoder: Decoder | None
    ) -> None:
        """An attempt broke off: keep what it brought, if a later one can go on with it."""
        again = not isinstance(error, Failure) or error.again
        cancelled = isinstance(error, asyncio.CancelledError)
        keep = (
            again
            and decoder is None
            and self._can_resume(job)
            and (self.journal is not None or not cancelled)
        )
        await sink.end(keep=keep)
        if sink.touched:
            job.useless = False  # it has been written over, or removed
        if keep and sink.touched:
            stamp = await self._blocking(lambda: self.store.part_stamp(job.name))
            job.have = stamp.size if stamp else 0
        elif not keep:
            job.have = 0
        else:
            job.have = have + 1 if have else 0

    async def _conditions(self, job: Job, have: int) -> dict[str, str]:
        """The headers that make a request conditional."""
        condition = job.validator.condition()
        if have and condition is not None:
            return {"Range": f"bytes={have}-", "If-Range": condition}
        if not self.settings.update:
            return {}
        stamp = await self._blocking(lambda: self.store.stamp(job.name))
        if stamp is None:
            return {}
        from email.utils import formatdate

        row = job.row
        if row is not None and row.state == journals.DONE and row.size == stamp.size:
            if row.etag is not None:
                return {"If-None-Match": row.etag}
            if row.modified is not None:
                return {"If-Modified-Since": row.modified}
        return {"If-Modified-Since": formatdate(stamp.mtime, usegmt=True)}

    def _check_part(
        self,
        job: Job,
        response: Response,
        validator: Validator,
        start: int,
        end: int | None,
    ) -> ContentRange:
        """The range that was asked for, and no other, of the version that was asked for, and no other."""
        found = ranges.parse_content_range(response.headers.get("Content-Range"))
        wrong = None
        if response.status != 206:
            wrong = "the server has no such part any more"
        elif (
            found is None
            or found.total is None
            or found.start != start
            or found.end != (found.total if end is None else end)
        ):
            wrong = "the server sent another part than the one asked for"
        elif job.validator.contradicts(validator):
            wrong = "the file changed on the server in the meantime"
        elif "Content-Encoding" in response.headers and response.headers["Content-Encoding"] != "identity":
            wrong = "the server sent a part of something encoded"
        if wrong is not None:
            job.forget_part()
            raise Failure(wrong, again=True, kind="protocol")
        assert found is not None
        return found

    async def _check_status(self, response: Response) -> None:
        if not 200 <= response.status < 300 or response.status == 206:  # a part was not asked for
            await read_short_body(response)
            raise failures.status_failure(
                response.status,
                response.reason,
                parse_retry_after(response.headers.get("Retry-After")),
                again=response.status in RETRY_STATUSES,
            )

    def _check_headers(self, job: Job, response: Response) -> None:
        patterns = self.settings.content_types
        if patterns:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if not any(fnmatch.fnmatchcase(kind, pattern.lower()) for pattern in patterns):
                named = f"the content type {failures.printable(kind, 100)!r}"
                raise Failure(f"{named if kind else 'no content type'} is not wanted", kind="refused")

    def _check_size(self, job: Job, size: int | None) -> None:
        if size is None:
            return
        if self.settings.max_size is not None and size > self.settings.max_size:
            raise Failure(f"larger than {self.settings.max_size} bytes: {size}", kind="refused")
        if job.target.size is not None and size != job.target.size:
            raise Failure(f"{size} bytes on the server, and {job.target.size} expected", kind="length")

    def _decoder(self, response: Response) -> Decoder | None:
        encoding = ", ".join(response.headers.getall("Content-Encoding", [])).strip()
        if not self.settings.decode or encoding.lower() in ("", "identity"):
            return None
        return Decoder(encoding, self.settings.max_size)

    async def _read_body(
        self,
        job: Job,
        response: Response,
        sink: Sink,
        transfer: Transfer,
        decoder: Decoder | None,
        total: int | None,
        have: int,
    ) -> None:
        most = self.settings.max_size

        async def tell(size: int) -> None:
            self._arrived(transfer, size)

        if decoder is None and total is not None and not self._is_paced():
            await self.receivers.receive(response, sink, have, total - have, tell)
        taken = have + sink.received
        closed = False
        try:
            while data := await response.content.readany():
                taken += len(data)
                self._arrived(transfer, len(data))
                if total is not None and taken > total:
                    raise Failure(f"more than the {total} bytes declared arrived", again=True, kind="length")
                full = False
                for piece in (data,) if decoder is None else decoder.feed(data):
                    full = sink.add(piece)
                if most is not None and have + sink.received > most:
                    raise Failure(f"larger than {most} bytes", kind="refused")
                if full:
                    await sink.write()
                await self._pay(job, len(data))
        except Exception as error:
            if not failures.is_truncated(error):
                raise
            closed = True
        if closed or (total is not None and taken != total):
            of = "" if total is None else f" of {total}"
            raise Failure(f"transfer closed with {taken}{of} bytes received", again=True, kind="length")
        if decoder is not None:
            decoder.end()
        if job.target.size is not None and have + sink.received != job.target.size:
            raise Failure(
                f"{have + sink.received} bytes received, and {job.target.size} expected", kind="length"
            )

    def _arrived(self, transfer: Transfer, size: int) -> None:
        """So many more bytes of a body are here: for whoever looks on."""
        transfer.received += size
        self.activity.received += size

    def _is_paced(self) -> bool:
        """Whether there is a rate to keep to."""
        return self.rate is not None or self.settings.host_rate is not None

    async def _pay(self, job: Job, size: int) -> None:
        delay = self.rate.charge(size) if self.rate is not None else 0.0
        if self.settings.host_rate is not None:
            bucket = self.host_rates.get(job.host)
            if bucket is None:
                bucket = self.host_rates[job.host] = TokenBucket(self.settings.host_rate)
            delay = max(delay, bucket.charge(size))
        if delay > 0:
            await asyncio.sleep(delay)

    def _ending(
        self,
        job: Job,
        transfer: Transfer,
        part: Part,
        digests: Digests,
        checks: list[Expected],
        *,
        reread: bool,
        modified: Validator,
    ) -> Callable[[list[bytes]], Outcome]:
        """The last steps, for a thread: write, verify, record, rename, record."""
        mtime = _timestamp(modified.modified) if self.settings.update else None
        attempts, status, journal, row = transfer.attempts, transfer.status, self.journal, job.row
        validator = job.validator

        def ending(chunks: list[bytes]) -> Outcome:
            summed = digests
            if not reread:
                summed.update(chunks)
            stamp = part.finish(chunks)
            if reread and checks:
                summed = Digests(checks)
                self._reread(job, stamp, summed)
            if (wrong := summed.wrong()) is not None:
                raise Failure(wrong, kind="checksum")
            if journal is not None and row is not None:
                journal.finishing(row.id, stamp, job.last_etag or validator.etag, validator.modified)
            part.publish(mtime)
            if journal is not None and row is not None:
                with recorded_or_full():
                    journal.done(row.id, attempts=attempts, status=status, checksum=summed.text())
            return Outcome(stamp.size, checksum=summed.text())

        return ending

    def _reread(self, job: Job, stamp: Stamp, digests: Digests) -> None:
        for offset in range(0, stamp.size, _REREAD):
            digests.update([self.store.read_part(job.name, offset, _REREAD)])

    # Several connections for one file.

    def _segment_count(self, job: Job, response: Response, size: int | None) -> int:
        """How many connections this file is worth."""
        wanted = self.settings.segments
        if wanted == 1 or size is None or not self.store.seekable or not self.settings.resume:
            return 1
        if response.headers.get("Accept-Ranges", "").strip().lower() != "bytes":
            return 1
        if job.validator.condition() is None or response.status != 200:
            return 1
        if wanted is None:
            if size < _LARGE:
                return 1
            wanted = min(_SEGMENTS, self.settings.concurrency // max(1, len(self.activity.transfers)))
        if self.settings.per_host is not None:
            wanted = min(wanted, self.settings.per_host)
        return min(wanted, size // _LEAST_SEGMENT)

    async def _split(
        self,
        job: Job,
        transfer: Transfer,
        response: Response,
        size: int,
        count: int,
        checks: list[Expected],
    ) -> tuple[Sink, Callable[[list[bytes]], Outcome]]:
        await self._blocking(lambda: self.store.remove_part(job.name))  # which may be a longer one
        job.useless = False
        job.segments = ranges.split(size, count)
        await self._remember(job, None)
        return await self._run_segments(job, transfer, checks, response)

    async def _attempt_segments(
        self, job: Job, transfer: Transfer
    ) -> tuple[Sink, Callable[[list[bytes]], Outcome]] | None:
        assert job.segments is not None
        size = job.segments[-1][1]
        self._check_size(job, size)
        transfer.size, transfer.name = size, job.name
        transfer.resumed = transfer.received = sum(done for _, _, done in job.segments)
        return await self._run_segments(job, transfer, job.expected, None)

    async def _run_segments(
        self,
        job: Job,
        transfer: Transfer,
        checks: list[Expected],
        first: Response | None,
    ) -> tuple[Sink, Callable[[list[bytes]], Outcome]]:
        segments = job.segments
        assert segments is not None
        size = segments[-1][1]
        part = self.store.open(job.name, overwrite=self._replaces(), size=size, fsync=self.settings.fsync)
        sinks = [
            Sink(part, self.store.where(job.name), self.pool, self.piece, Digests([]), start + done)
            for start, _, done in segments
        ]
        # Made at once, and as long as it will be, so that what is recorded of it is always true.
        whole = Sink(part, self.store.where(job.name), self.pool, self.piece, Digests([]), 0)
        await whole.write()
        before = [done for _, _, done in segments]
        saved = [0.0]
        try:
            await whole.settle()
            async with asyncio.TaskGroup() as group:
                for number, segment in enumerate(segments):
                    if segment[2] < segment[1] - segment[0]:
                        given = first if number == 0 else None
                        group.create_task(self._segment(job, transfer, segment, sinks[number], given, saved))
            for sink in sinks:
                await sink.settle()
        except BaseException as error:
            failure: BaseException = error
            while isinstance(failure, BaseExceptionGroup):
                failure = failure.exceptions[0]
            for sink, segment, done in zip(sinks, segments, before, strict=True):
                with contextlib.suppress(Failure):
                    await sink.settle()
                segment[2] = done + sink.written
            again = not isinstance(failure, Failure) or failure.again
            cancelled = isinstance(failure, asyncio.CancelledError)
            keep = again and job.segments is not None and (self.journal is not None or not cancelled)
            await whole.end(keep=keep)
            if keep:
                await self._save_segments(job)
            else:
                job.segments = None
            raise failure from None
        checks = job.expected or checks
        return whole, self._ending(
            job, transfer, part, Digests([]), checks, reread=True, modified=job.validator
        )

    async def _segment(
        self,
        job: Job,
        transfer: Transfer,
        segment: list[int],
        sink: Sink,
        first: Response | None,
        saved: list[float],
    ) -> None:
        """Fetch what is missing of one segment; `first` is the answer that begins with it, if it is there."""
        start, end = segment[0] + segment[2], segment[1]
        if first is not None:
            await self._read_segment(job, transfer, segment, sink, first, end - start, saved)
            if not first.content.at_eof():
                first.close()  # the rest of this answer is what the other connections fetch
            return
        url = job.parsed()
        condition = job.validator.condition()
        assert condition is not None
        extra = {"Range": f"bytes={start}-{end - 1}", "If-Range": condition}
        own = _beside(transfer)
        async with self.client.get(url, own, job.target.headers, extra) as response:
            transfer.status = response.status
            if response.status == 200:
                response.close()
                job.forget_part()
                raise Failure("the file changed on the server in the meantime", again=True, kind="protocol")
            if response.status not in (206, 416):
                await self._check_status(response)
            found = self._check_part(job, response, ranges.validator(response.headers), start, end)
            if found.total != transfer.size:
                job.forget_part()
                raise Failure("the file changed on the server in the meantime", again=True, kind="protocol")
            await self._read_segment(job, transfer, segment, sink, response, end - start, saved)

    async def _read_segment(
        self,
        job: Job,
        transfer: Transfer,
        segment: list[int],
        sink: Sink,
        response: Response,
        size: int,
        saved: list[float],
    ) -> None:
        before = segment[2]

        async def tell(come: int) -> None:
            self._arrived(transfer, come)
            await self._note(job, segment, before + sink.written, saved)

        if not self._is_paced():
            await self.receivers.receive(response, sink, segment[0] + before, size, tell)
        try:
            while sink.received < size:
                data = await response.content.readany()
                if not data:
                    break
                data = data[: size - sink.received]
                self._arrived(transfer, len(data))
                if sink.add(data):
                    await sink.write()
                    await self._note(job, segment, before + sink.written, saved)
                await self._pay(job, len(data))
        except Exception as error:
            if not failures.is_truncated(error):
                raise
        await sink.write()
        await sink.settle()
        segment[2] = before + sink.written
        if sink.received < size:
            raise Failure(
                f"transfer closed with {sink.received} of {size} bytes received", again=True, kind="length"
            )

    async def _note(self, job: Job, segment: list[int], done: int, saved: list[float]) -> None:
        """So much of `segment` is in the part; recorded now and then."""
        segment[2] = done
        now = time.monotonic()
        if self.journal is not None and now - saved[0] > _SAVE_EVERY:
            saved[0] = now
            await self._save_segments(job)

    async def _save_segments(self, job: Job) -> None:
        if self.journal is None or job.row is None or job.segments is None:
            return
        journal, row, segments = self.journal, job.row.id, [list(segment) for segment in job.segments]
        await self._blocking(lambda: journal.progress(row, segments))

    # What the steps share.

    def _replaces(self) -> bool:
        return self.settings.overwrite or self.settings.update

    def _can_resume(self, job: Job) -> bool:
        return (
            self.settings.resume
            and self.store.seekable
            and job.validator.condition() is not None
            and (self.journal is None or job.recorded == job.validator)
        )

    def _keeps(self, job: Job) -> bool:
        return self.journal is not None and self._can_resume(job) and bool(job.have or job.segments)

    async def _remember(self, job: Job, size: int | None) -> None:
        """Record whose bytes the part is about to hold, before it holds any. What fits into one piece has no part
        that could be left behind half written by anything but a crash in that one step, and then it is not trusted.
        """
        if self.journal is None or job.row is None:
            job.recorded = job.validator
            return
        known = job.recorded == job.validator and (job.row.state != journals.DONE)
        if known or (size is not None and size <= self.piece and job.recorded == Validator()):
            return
        journal, row, validator = self.journal, job.row.id, job.validator
        kept = validator if validator.condition() is not None else Validator()
        await self._blocking(lambda: journal.started(row, kept.etag, kept.modified))
        job.recorded = validator

    async def _name(self, job: Job, response: Response, *, fresh: bool) -> str:
        """The name of the file, by the server's suggestion if it makes one and the list does not."""
        if job.target.name is None and fresh:
            suggested = name_from_header(response.headers.get("Content-Disposition"))
            if suggested and suggested != job.wanted and not (job.row and is_form_of(job.name, suggested)):
                job.wanted = suggested  # remembered, lest a second attempt claim a second name
                if self.journal is not None and job.row is not None:
                    journal, row = self.journal, job.row.id
                    job.name = await self._blocking(lambda: journal.rename(row, suggested))
                else:
                    job.name = self.claim(suggested)
        return job.name

    async def _blocking(self, call: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, call)
        except JournalError:
            raise
        except OSError as error:
            raise Failure(f"cannot write: {error.strerror or error}", kind="disk") from None


@contextlib.contextmanager
def recorded_or_full() -> Iterator[None]:
    """Around a record that a file is done. Should there be no room for it, the file is there all the same, and the
    next run finds that out.
    """
    try:
        yield
    except JournalError as error:
        if not error.full:
            raise


def _beside(transfer: Transfer) -> Transfer:
    """A copy for a request beside the main one, whose status and times are not those of the download."""
    return replace(transfer)


def _timestamp(modified: str | None) -> float | None:
    if modified is None:
        return None
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(modified).timestamp()
    except (ValueError, OverflowError):
        return None
