"""Lists of downloads: text, CSV, JSON Lines and Parquet, plain or compressed, read piece by piece.

Promises: memory does not grow with the list; the loop waits for no disk, no decompression and no parsing (they
happen in a thread, a piece at a time) and for no silent pipe; a row that is wrong is given out as a `BadRow` and
the rest goes on. A list that breaks off (an error of the disk, a compressed stream cut short, no column with
URLs) raises `InputError`.

A piece is at most 64 KiB of text after decompression, so a small file that expands to a huge list costs time
and not memory. A row longer than a MiB is a bad row.
"""

import asyncio
import csv
import importlib
import io
import itertools
import os
import stat
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from noria.get import decoding
from noria.get.columns import ColumnError, ColumnNames, Columns
from noria.get.target import Target

FORMATS = ("text", "csv", "tsv", "jsonl", "parquet")

_ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSED_ENDINGS = (".gz", ".zst", ".zstd")
_PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_PIECE = 65_536  # bytes read or decompressed at once
_LONGEST_ROW = 1 << 20  # bytes
_BATCH = 1024  # rows of a Parquet file handled at once


class InputError(Exception):
    """A list that cannot be read, or not to its end. The text names the list.

    usage: whether it is the user's command that does not fit the list, rather than the list that is broken.
    """

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that leads to no download. source: the list's name. line: counted from 1; of a Parquet file, the row."""

    source: str
    line: int
    error: str


Item = Target | BadRow


def open_list(name: str, form: str | None = None, columns: ColumnNames | None = None) -> "ListFile":
    """Open the list `name`, or standard input if it is "-", of format `form` (None: by its ending or content).

    Raises InputError if it cannot be opened or a package for it is missing.
    """
    columns = columns or ColumnNames()
    shown = "standard input" if name == "-" else name
    try:
        # sys.stdin may be missing; descriptor 0 then gives an error when it is read.
        file = io.FileIO(0, closefd=False) if name == "-" else io.FileIO(name)
    except OSError as error:
        raise InputError(f"cannot read {shown}: {error.strerror}", usage=True) from None
    try:
        return ListFile(file, shown, form or _form_by_ending(name), columns)
    except OSError as error:
        file.close()
        raise InputError(f"cannot read {shown}: {error.strerror}", usage=True) from None
    except BaseException:
        file.close()
        raise


class ListFile:
    """An open list. `items()` gives its rows, once; `close()` when done with it.

    ended: whether all of it has been read. count: rows read so far, bad ones too.
    """

    def __init__(self, file: io.FileIO, shown: str, form: str | None, columns: ColumnNames) -> None:
        self._file = file
        self._shown = shown
        self._columns = columns
        kind = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(None, "Is a directory")
        self._regular = stat.S_ISREG(kind)
        self._disk = self._regular or stat.S_ISBLK(kind)  # never silent for long
        self._bytes = os.fstat(file.fileno()).st_size if self._regular else 0
        self._bytes_read = 0
        self.count = 0
        self.ended = False
        self._bytes_rows: _Bytes | None = None
        self._batches: Iterator[list[Item]] = iter(())  # of what has been read
        self._rows: int | None = None  # in a Parquet file
        magic = os.pread(file.fileno(), 4, 0) if self._regular else b""
        if form == "parquet" or (form is None and magic == _PARQUET_MAGIC):
            if not self._regular:
                raise InputError(
                    f"{shown}: Parquet can only be read from a file, not from a pipe", usage=True
                )
            self._batches = self._parquet(_parquet_module(shown))
        else:
            if magic == _ZSTD_MAGIC:
                _zstd_module(shown)
            self._bytes_rows = _Bytes(shown, form, columns)

    def close(self) -> None:
        """Close the file, if it is not standard input."""
        self._file.close()

    @property
    def length(self) -> int | None:
        """How many rows there are in all: an estimate by the bytes read so far until all is read (a Parquet file
        knows at once), None without any idea.
        """
        if self.ended:
            return self.count
        if self._rows is not None:
            return self._rows
        if self._bytes and self._bytes_read and self.count:
            return round(self.count * self._bytes / self._bytes_read)
        return None

    @property
    def exact(self) -> bool:
        """Whether `length` is exact and no estimate."""
        return self.ended or self._rows is not None

    async def items(self) -> AsyncGenerator[Item, None]:
        """The rows, as they arrive. Raises InputError."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await loop.run_in_executor(None, next, self._batches, None)
            if batch is None:
                if self.ended or self._bytes_rows is None:
                    self.ended = True
                    return
                if not self._disk:
                    await _readable(loop, self._file.fileno())
                await loop.run_in_executor(None, self._read, self._bytes_rows)
                continue
            self.count += len(batch)
            for item in batch:
                yield item

    def _read(self, rows: "_Bytes") -> None:
        """Take the next bytes in hand. In a thread."""
        try:
            data = os.read(self._file.fileno(), _PIECE)
        except OSError as error:
            raise InputError(f"cannot read on in {self._shown}: {error.strerror}") from None
        self._bytes_read += len(data)
        self.ended = not data
        self._batches = rows.step(data)

    def _parquet(self, parquet: Any) -> Iterator[list[Item]]:
        shown = self._shown
        try:
            # buffer_size: read a column's pages as they are needed and not a whole row group's.
            file = parquet.ParquetFile(self._file, buffer_size=_PIECE, pre_buffer=False)
        except Exception as error:
            raise InputError(f"{shown} is no Parquet file that can be read: {_one_line(error)}") from None
        try:
            columns = Columns(self._columns, file.schema_arrow.names)
        except ColumnError as error:
            raise InputError(f"{shown}: {error}", usage=True) from None
        self._rows = file.metadata.num_rows
        return self._parquet_batches(file, columns)

    def _parquet_batches(self, file: Any, columns: Columns) -> Iterator[list[Item]]:
        number = 0
        try:
            for batch in file.iter_batches(_BATCH, columns=list(columns.found.values()), use_threads=False):
                items: list[Item] = []
                for row in batch.to_pylist():
                    number += 1
                    items.append(_item(self._shown, number, columns, row.get))
                yield items
        except Exception as error:  # pyarrow raises its own, and OSError and ValueError, for what is broken
            raise InputError(f"{self._shown} is broken after row {number}: {_one_line(error)}") from None
        finally:
            file.close()


class _Rows(Protocol):
    """Makes rows of lines."""

    def feed(self, lines: list[bytes], last: bool) -> list[Item]:
        """The rows in what has come so far; `last` if nothing more will come."""


class _Bytes:
    """What a descriptor gives: decompressed, cut into lines, made into rows."""

    def __init__(self, shown: str, form: str | None, columns: ColumnNames) -> None:
        self._shown = shown
        self._form = form
        self._columns = columns
        self._start = b""  # until there is enough to tell the compression by
        self._decompress: _Decompressor | None = None
        self._started = False
        self._rest = b""
        self._rows: _Rows | None = None

    def step(self, data: bytes) -> Iterator[list[Item]]:
        """The rows that `data`, the next bytes, completes, in batches; none at all stand for the end."""
        if self._started:
            return self._take(data)
        self._start += data
        if data and len(self._start) < 4:
            return iter(())
        self._begin(self._start)
        return itertools.chain(
            self._take(self._start) if self._start else (), () if data else self._take(b"")
        )

    def _begin(self, start: bytes) -> None:
        self._started = True
        if start.startswith(_GZIP_MAGIC):
            self._decompress = _Decompressor(self._shown, _Gzip)
        elif start.startswith(_ZSTD_MAGIC):
            self._decompress = _Decompressor(self._shown, _zstd_module(self._shown).ZstdDecompressor)
        elif start.startswith(_PARQUET_MAGIC) and self._form is None:
            raise InputError(
                f"{self._shown}: Parquet can only be read from a file, not from a pipe", usage=True
            )

    def _take(self, data: bytes) -> Iterator[list[Item]]:
        if self._decompress is not None:
            for piece in self._decompress.feed(data):
                yield self._lines(piece, last=False)
        if self._decompress is None or not data:
            yield self._lines(data, last=not data)

    def _lines(self, data: bytes, *, last: bool) -> list[Item]:
        if self._rows is None:
            if not data and not last:
                return []
            self._rows = self._make_rows(data)
            data = data.removeprefix(b"\xef\xbb\xbf")
        *lines, self._rest = (self._rest + data).split(b"\n")
        if last and self._rest:
            lines.append(self._rest)
            self._rest = b""
        if len(self._rest) > _LONGEST_ROW:
            self._rest = self._rest[: _LONGEST_ROW + 1]  # too long anyhow, and known by that when it ends
        return self._rows.feed(lines, last)

    def _make_rows(self, start: bytes) -> _Rows:
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputError(f"{self._shown} is UTF-16; save it as UTF-8", usage=True)
        match self._form:
            case "csv" | "tsv":
                return _Csv(self._shown, self._columns, "\t" if self._form == "tsv" else None)
            case "jsonl":
                return _JsonLines(self._shown, self._columns)
            case _:
                return _Text()


class _Text:
    """A URL a line; blank lines and those that begin with # are left out."""

    def feed(self, lines: list[bytes], last: bool) -> list[Item]:
        texts = (line.decode("utf-8", "replace").strip() for line in lines)
        return [Target(text[:_LONGEST_ROW]) for text in texts if text and not text.startswith("#")]


class _JsonLines:
    """An object a line, with the columns as its members, or just a string with the URL."""

    def __init__(self, shown: str, columns: ColumnNames) -> None:
        self._shown = shown
        self._asked = columns
        self._line = 0
        self._columns: dict[tuple[str, ...], Columns] = {}  # by an object's members

    def feed(self, lines: list[bytes], last: bool) -> list[Item]:
        items: list[Item] = []
        for line in lines:
            self._line += 1
            if line.strip():
                try:
                    items.append(self._target(line))
                except ValueError as error:
                    items.append(BadRow(self._shown, self._line, str(error)))
        return items

    def _target(self, line: bytes) -> Target:
        import json

        if len(line) > _LONGEST_ROW:
            raise ValueError("it is longer than a MiB")
        if self._line == 1 and line.strip() in (b"[", b"[{"):
            raise InputError(
                f"{self._shown} is one JSON array; what can be read is JSON Lines, an object a line"
            )
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is no JSON: {error}") from None
        if isinstance(row, str) and row.strip():
            return Target(row.strip())
        if not isinstance(row, dict):
            raise ValueError("it is neither a JSON object nor a string with a URL")
        members = tuple(row)
        columns = self._columns.get(members)
        if columns is None:
            try:
                columns = Columns(_without_missing(self._asked, members), members)
            except ColumnError as error:
                raise ValueError(str(error)) from None
            if len(self._columns) < 100:
                self._columns[members] = columns
        return columns.target(row.get)


class _Csv:
    """RFC 4180 with a line of column names, or without one if that line has a URL already.

    delimiter: None for the one of , ; tab and | that the line of names has most of.
    """

    def __init__(self, shown: str, columns: ColumnNames, delimiter: str | None) -> None:
        self._shown = shown
        self._asked = columns
        self._delimiter = delimiter
        self._columns: Columns | None = None
        self._where: list[tuple[str, int]] = []  # name and place of each column that matters
        self._lines: deque[str | None] = deque()  # not yet made into records; None for one that is no UTF-8
        self._line = 0  # of the first of them, counted from 0

    def feed(self, lines: list[bytes], last: bool) -> list[Item]:
        self._lines.extend(map(_text, lines))
        items: list[Item] = []
        while self._lines:
            taken, record, error = self._record(last)
            if not taken:
                break  # the record goes on in lines that are still to come
            line = self._line + 1
            for _ in range(taken):
                self._lines.popleft()
            self._line += taken
            if error:
                items.append(BadRow(self._shown, line, error))
            elif any(cell.strip() for cell in record):
                if self._columns is None and not self._header(record):
                    continue
                assert self._columns is not None
                row = {name: record[index] for name, index in self._where if index < len(record)}
                items.append(_item(self._shown, line, self._columns, row.get))
        return items

    def _record(self, last: bool) -> tuple[int, list[str], str | None]:
        """The first record: how many lines it takes (0: more than there are), its cells, and what is wrong."""
        if self._delimiter is None and self._lines[0] is not None and self._lines[0].strip():
            self._delimiter = _delimiter(self._lines[0])
        taken = size = 0
        open_quote = False

        def lines() -> Iterator[str]:
            nonlocal taken, size, open_quote
            for line in self._lines:
                if line is None or size > _LONGEST_ROW:
                    return
                taken += 1
                size += len(line)
                yield line
            open_quote = True

        if self._lines[0] is None:
            return 1, [], "it is not UTF-8"
        if len(self._lines[0]) > _LONGEST_ROW:
            return 1, [], "it is longer than a MiB"
        if (
            '"' not in self._lines[0] and "\r" not in self._lines[0]
        ):  # most are like that, and a reader is not free
            return 1, self._lines[0][:-1].split(self._delimiter or ","), None
        try:
            # strict: a record that ends inside quotes is an error and not guessed at.
            record = next(csv.reader(lines(), delimiter=self._delimiter or ",", strict=True))
        except csv.Error as error:
            if open_quote and not last and size <= _LONGEST_ROW:
                return 0, [], None
            if taken > 1 or open_quote:  # a quote that nothing closes: the next line is a new chance
                return 1, [], "a quote is opened and not closed"
            return 1, [], str(error)
        return taken, record, None

    def _header(self, record: list[str]) -> bool:
        """Find the columns in the first record; whether it is a row with a URL itself."""
        names = [cell.strip() for cell in record]
        urls = [cell for cell in names if "://" in cell]
        try:
            if urls:  # no names, so columns are by number
                numbers = [str(number) for number in range(1, len(names) + 1)]
                asked = self._asked
                if asked.url is None:
                    asked = ColumnNames(str(names.index(urls[0]) + 1), *_others(asked))
                self._columns, names = Columns(asked, numbers), numbers
            else:
                self._columns = Columns(self._asked, names)
        except ColumnError as error:
            raise InputError(f"{self._shown}: {error}", usage=True) from None
        self._where = [(name, names.index(name)) for name in self._columns.found.values()]
        return bool(urls)


class _Decompressor:
    """One stream after another, in pieces of bounded size."""

    def __init__(self, shown: str, make: Callable[[], Any]) -> None:
        self._shown = shown
        self._make = make
        self._stream: Any = make()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` expands to; no data stand for the end. Raises InputError for a broken stream."""
        if not data:
            if self._begun and not self._stream.eof:
                raise InputError(f"{self._shown} breaks off: its compressed data has no end")
            return
        while data or not (self._stream.eof or self._stream.needs_input):
            if self._stream.eof:
                if not data.strip(b"\0"):  # padding, as tapes and gzip have it
                    return
                self._stream = self._make()
            self._begun = True
            try:
                piece = self._stream.decompress(data, _PIECE)
            except Exception as error:  # zlib.error, or the zstd module's own
                raise InputError(f"{self._shown} is broken: {_one_line(error)}") from None
            if piece:
                yield piece
            data = self._stream.unused_data if self._stream.eof else b""


class _Gzip:
    """zlib's decompression object with the manners of the standard library's others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, most)
        self.needs_input = not self._zlib.unconsumed_tail and len(piece) < most
        return piece


async def _readable(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    """Wait until `fd` can be read. A thread that waits for a pipe or terminal could not be interrupted."""
    readable = asyncio.Event()
    try:
        loop.add_reader(fd, readable.set)
    except PermissionError:  # epoll's word for descriptors that never make anyone wait, such as /dev/null
        return
    except OSError as error:
        raise InputError(f"cannot read standard input: {error.strerror}") from None
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)


def _item(shown: str, line: int, columns: Columns, cell: Callable[[str], object]) -> Item:
    try:
        return columns.target(cell)
    except ValueError as error:
        return BadRow(shown, line, str(error))


def _form_by_ending(name: str) -> str | None:
    stem, ending = os.path.splitext(name.lower())
    if ending in _COMPRESSED_ENDINGS:
        ending = os.path.splitext(stem)[1]
    return _ENDINGS.get(ending)


def _delimiter(header: str) -> str:
    if "://" in header:
        return ","
    return max(",;\t|", key=header.count)


def _others(asked: ColumnNames) -> tuple[str | None, ...]:
    return (asked.name, asked.checksum, asked.size, asked.headers)


def _without_missing(asked: ColumnNames, members: tuple[str, ...]) -> ColumnNames:
    """`asked` without what an object does not have: only the URL is a must in every row of JSON."""
    return ColumnNames(asked.url, *(name if name in members else None for name in _others(asked)))


def _text(line: bytes) -> str | None:
    try:
        return line.removesuffix(b"\r").decode() + "\n"
    except UnicodeDecodeError:
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _parquet_module(shown: str) -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise InputError(
            f"{shown}: Parquet needs pyarrow: pip install 'noria[get-parquet]'", usage=True
        ) from None


def _zstd_module(shown: str) -> Any:
    try:
        return decoding.zstd_module()
    except ModuleNotFoundError:
        raise InputError(
            f"{shown}: zstd needs backports.zstd: pip install 'noria[get-zstd]'", usage=True
        ) from None
