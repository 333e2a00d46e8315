"""Small plain files by the shortest way: from the request to the file's name with one wait of the worker's between.

Of a list of many small files nearly all are the same to the engine: no checksum, no headers of their own, a new name,
and an answer with nothing special about it. For them `Express.fetch` does what `fetch.Fetcher` would do, without the
steps that come to nothing. What is not so is left to the fetcher, before anything is sent or, if it shows in the answer
only, with the answer that is there (`Job.given`); so is everything that goes wrong.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from noria.get.failures import Failure, os_reason
from noria.get.filebatch import FileBatch, Record
from noria.get.lean import LeanSession, Origin, encoded_fields
from noria.get.ranges import make_validator, short
from noria.get.store import Stamp
from noria.get.wire import Connection, Exchange

if TYPE_CHECKING:
    from noria.get.fetch import Job
    from noria.get.results import Activity, Transfer

# Paths that yarl leaves as they are: no dots to resolve, nothing to quote or unquote. The last component is a safe
# name as it stands (`names.safe_name`).
_PLAIN_PATH = re.compile(
    r"(?:/[A-Za-z0-9_~][A-Za-z0-9._~-]*)*/([A-Za-z0-9_][A-Za-z0-9._-]{0,199})(?:\?[A-Za-z0-9._~&=-]+)?"
)
# Schemes and authorities likewise; numbers and names alike, for whoever looks them up.
_PLAIN_BEGINNING = re.compile(r"(https?)://([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::([1-9][0-9]{0,4}))?")
_LONGEST = 2000
_MOST_SERVERS = 1000  # remembered


class Address:
    """Where plain URLs with the same beginning lead. beginning: of the request. rest: of it, after the path."""

    __slots__ = ("host", "origin", "rest")

    def __init__(self, host: str, origin: Origin, rest: bytes) -> None:
        self.host = host
        self.origin = origin
        self.rest = rest


class Express:
    """headers: of every request. Raises Unsuited or ValueError if these are not for the lean path. most: bytes of a
    file that is small. replaces: whether files that are there may be.
    """

    def __init__(
        self,
        session: LeanSession,
        headers: Mapping[str, str],
        batch: FileBatch,
        activity: "Activity",
        *,
        most: int,
        replaces: bool,
    ) -> None:
        self._session = session
        self._fields = encoded_fields(headers)
        self._batch = batch
        self._activity = activity
        self._most = most
        self._replaces = replaces
        self._loop = asyncio.get_running_loop()
        self._addresses: dict[str, Address | None] = {}

    def address(self, job: "Job") -> bool:
        """Give `job` host and name by its URL, if that is plain."""
        text = job.target.url
        if len(text) > _LONGEST:
            return False
        slash = text.find("/", 8)
        beginning = text[:slash]
        try:
            address = self._addresses[beginning]
        except KeyError:
            address = self._new_address(beginning)
        if address is None or (match := _PLAIN_PATH.fullmatch(text, slash)) is None:
            return False
        job.address = address
        job.host = address.host
        job.wanted = match[1]
        job.path = text[slash:]
        return True

    def _new_address(self, beginning: str) -> Address | None:
        address = None
        match = _PLAIN_BEGINNING.fullmatch(beginning)
        if match is not None and "xn--" not in beginning:
            scheme, host, digits = match.groups()
            default = 443 if scheme == "https" else 80
            port = int(digits or default)
            if port < 65536 and (digits is None or port != default):
                authority = beginning.removeprefix(f"{scheme}://")
                origin = self._session.origin_at(scheme, host, port, authority)
                address = Address(f"{host}:{port}", origin, origin.tail + self._fields)
        if len(self._addresses) >= _MOST_SERVERS:
            self._addresses.clear()
        self._addresses[beginning] = address
        return address

    async def fetch(self, job: "Job", transfer: "Transfer", path: str) -> Stamp | None:
        """Make the file `path`. None if that is the fetcher's to do, with `job.given` if something has come already.

        Raises OSError as `FileBatch` does, JournalError.
        """
        address = job.address
        if address is None or address.origin.unsuited:
            return None
        connection = address.origin.idle_connection(self._loop.time())
        used = connection is not None
        if connection is None:
            try:
                connection = await self._session.connect(address.origin)
            except Failure as failure:
                job.given = failure
                return None
        size = job.target.size
        exchange = Exchange(
            self._loop,
            (job, path, used),
            self._most,
            -1 if size is None else size,
            job.target.name is None,
            self._received,
            self._otherwise,
        )
        exchange.begin(connection, b"GET " + job.path.encode("ascii") + address.rest)
        try:
            stamp = await exchange.future
        except asyncio.CancelledError:
            await self._abandon(exchange, job)
            raise
        if stamp is None:
            return None
        assert isinstance(stamp, Stamp)
        transfer.attempts += 1
        transfer.status = 200
        transfer.first_byte = exchange.first_byte
        transfer.size = transfer.received = stamp.size
        return stamp

    def _received(self, exchange: Exchange) -> None:
        job, path, _ = exchange.subject
        body = exchange.body
        assert body is not None
        self._activity.received += len(body)
        etag = _text(exchange.etag)
        record = None
        if job.row is not None:
            found = make_validator(etag, _text(exchange.last_modified), _text(exchange.date))
            etag = found.etag
            record = Record(job.row.id, etag, found.modified)
        elif etag is not None:
            etag = short(etag)
        job.last_etag = etag
        self._batch.add(path, body, exchange, overwrite=self._replaces, record=record)

    def _otherwise(
        self,
        exchange: Exchange,
        connection: Connection,
        data: list[bytes],
        lost: bool,
        error: Exception | None,
    ) -> None:
        job, _, used = exchange.subject
        if data:
            from noria.get.response import LeanResponse

            job.given = response = LeanResponse(connection, job.parsed())
            response.answer = response.begun
            response.first_byte = exchange.first_byte
            connection.start(None, response)
            for piece in data:
                response.feed(piece)
            if lost:
                response.end(error)
            elif error is not None:
                response.fail(error)
        else:
            if not lost:
                connection.finished(False)
            if not lost:
                job.given = error
            elif not used:  # else the server closed it meanwhile, as it may
                reason = "empty reply: the server closed the connection without answering"
                if error is not None:
                    reason = f"connection lost: {os_reason(error)}"
                job.given = Failure(reason, again=True, kind="connect")
        if not exchange.future.done():
            exchange.future.set_result(None)

    async def _abandon(self, exchange: Exchange, job: "Job") -> None:
        """The worker is cancelled: close the connection, or see through the file that is being made."""
        if exchange.connection is not None:
            exchange.close()
        elif exchange.body is not None:
            if not exchange.settled:
                exchange.future = self._loop.create_future()
                await asyncio.wait([exchange.future])
                exchange.future.exception()
        elif job.given is not None and not isinstance(job.given, Exception):
            job.given.close()
            if (answer := job.given.answer) is not None and answer.done():
                answer.exception()  # it has been seen


def _text(field: bytes | None) -> str | None:
    return None if field is None else field.decode("ascii")
