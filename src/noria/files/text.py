"""TextFile: an open file in text mode, on a BinaryFile, with the decoding, newlines and positions of io.TextIOWrapper.

Bytes are decoded by the codec's own incremental decoder behind io.IncrementalNewlineDecoder, a chunk at a time.
Positions are what io calls cookies: the byte offset as long as a decoder can start there from nothing, else with its
state folded in, in the same layout. `tell` finds one by decoding the present chunk again up to the characters that were
read.

Promises: a read that was cancelled took nothing.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable
from typing import Any

from noria.files.binary import BinaryFile, File

_CHUNK = 8192  # bytes decoded at a time, as io does


class TextFile(File[str]):
    """An open file in text mode. Made by `noria.open`. The methods are those of io.TextIOWrapper, as coroutines."""

    __slots__ = (
        "__weakref__",
        "_chunks",
        "_decoder",
        "_encoder",
        "_have",
        "_lock",
        "_newer",
        "_newline",
        "_text",
        "_used",
        "_written_newline",
        "buffer",
        "encoding",
        "errors",
        "line_buffering",
        "mode",
        "name",
    )

    def __init__(
        self,
        buffer: BinaryFile,
        encoding: str,
        errors: str,
        newline: str | None,
        line_buffering: bool,
        mode: str,
    ) -> None:
        self.buffer = buffer
        self.encoding = encoding
        self.errors = errors
        self.line_buffering = line_buffering
        self.mode = mode
        self.name = buffer.name
        self._lock = buffer._lock
        self._newline = newline
        self._written_newline = newline if newline not in (None, "", "\n") else ""
        info = codecs.lookup(encoding)
        self._decoder: Any = None
        if buffer._readable:
            self._decoder = info.incrementaldecoder(errors)
            if not newline:
                self._decoder = io.IncrementalNewlineDecoder(self._decoder, newline is None)
        self._encoder: Any = None
        if buffer._writable:
            self._encoder = info.incrementalencoder(errors)
            if buffer._seekable and buffer._tell():
                self._restart_encoder(False)
        # Characters that were decoded, how many of them are used, what was decoded since, and how many all are. Then
        # the chunks that they came from: the decoder's flags before it, its bytes behind those that the decoder had
        # kept, how many of them were new, how many characters they gave.
        self._text = ""
        self._used = 0
        self._newer: list[str] = []
        self._have = 0
        self._chunks: list[tuple[int, bytes, int, int]] = []

    # What it is.

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self.buffer._closed

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The kinds of line ends seen so far, where they are translated or looked for (PEP 278)."""
        found: str | tuple[str, ...] | None = getattr(self._decoder, "newlines", None)
        return found

    def fileno(self) -> int:
        """The descriptor's number."""
        return self.buffer.fileno()

    async def readable(self) -> bool:
        """Whether it can be read."""
        return await self.buffer.readable()

    async def writable(self) -> bool:
        """Whether it can be written."""
        return await self.buffer.writable()

    async def seekable(self) -> bool:
        """Whether it has a position."""
        return await self.buffer.seekable()

    async def isatty(self) -> bool:
        """Whether it is a terminal."""
        return await self.buffer.isatty()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return (
            f"<noria.files.TextFile name={self.name!r} mode={self.mode!r} encoding={self.encoding!r}{state}>"
        )

    # Reading.

    async def read(self, size: int | None = -1, /) -> str:
        """Read up to size characters, all there are if it is None or negative.

        Raises io.UnsupportedOperation if it was not opened for reading, ValueError if it is closed, UnicodeDecodeError,
        OSError.
        """
        async with self._lock:
            self._check_readable()
            return await self._read(-1 if size is None else size)

    async def _read(self, size: int) -> str:
        await self.buffer._settle()
        if size < 0:
            data = await self.buffer._read(-1)
            self._join()
            text: str = self._text[self._used :] + self._decoder.decode(data, True)
            self._forget()
            return text
        while self._have - self._used < size and await self._chunk():
            pass
        return self._take(min(self._have, self._used + size))

    async def _readline(self, limit: int) -> str:
        await self.buffer._settle()
        self._join()
        end = self._line_end(self._text, self._used)
        while end < 0 and not 0 <= limit <= self._have - self._used:
            last = self._last() if self._newline == "\r\n" and self._have > self._used else ""
            before = self._have - self._used
            more = await self._chunk()
            if self._have - self._used > before:
                piece = last + self._newer[-1]
                end = self._line_end(piece, 0)
                if end >= 0:
                    end += self._have - len(piece)
            if not more:
                break
        if end < 0:
            end = self._have
        if 0 <= limit < end - self._used:
            end = self._used + limit
        return self._take(end)

    def _line_end(self, text: str, start: int) -> int:
        # The index behind the next line end, or -1.
        if self._newline is None or self._newline == "\n":
            return text.find("\n", start) + 1 or -1
        if self._newline:
            found = text.find(self._newline, start)
            return found + len(self._newline) if found >= 0 else -1
        feed = text.find("\n", start)
        back = text.find("\r", start, feed if feed >= 0 else len(text))
        if back < 0 or back == feed - 1:
            return feed + 1 or -1
        return back + 1  # the decoder never gives a carriage return before it knows what follows

    def _last(self) -> str:
        return (self._newer[-1] if self._newer else self._text)[-1:]

    def _take(self, end: int) -> str:
        self._join()
        text = self._text[self._used : end]
        self._used = end
        return text

    def _join(self) -> None:
        if self._newer:
            self._text = "".join((self._text, *self._newer))
            self._newer = []

    def _forget(self) -> None:
        # Nothing is decoded that was not read.
        self._text, self._used, self._newer, self._have, self._chunks = "", 0, [], 0, []

    async def _chunk(self) -> bool:
        # Decode one more. False: that was the end.
        data = await self.buffer._read1(_CHUNK)
        kept, flags = self._decoder.getstate()
        text = self._decoder.decode(data, not data)
        while self._chunks and self._used >= self._chunks[0][3] and (data or text):
            self._drop_chunk()
        if data or text:
            self._chunks.append((flags, kept + data, len(data), len(text)))
        if text:
            self._newer.append(text)
            self._have += len(text)
        return bool(data)

    def _drop_chunk(self) -> None:
        count = self._chunks.pop(0)[3]
        if count:
            self._join()
            self._text = self._text[count:]
            self._used -= count
            self._have -= count

    # Writing.

    async def write(self, text: str, /) -> int:
        """Write all of it, later or now. Returns how many characters it has.

        Raises io.UnsupportedOperation if it was not opened for writing, ValueError if it is closed, TypeError for
        anything but a str, UnicodeEncodeError, OSError if this write or one before it failed.
        """
        async with self._lock:
            self._check_writable()
            await self._write(text)
            return len(text)

    async def writelines(self, lines: Iterable[str], /) -> None:
        """Write each of them. Raises as `write`."""
        async with self._lock:
            self._check_open()
            for line in lines:
                self._check_writable()
                await self._write(line)

    async def flush(self) -> None:
        """Give the system what was gathered, and wait until it has it. Raises OSError, ValueError if it is closed."""
        async with self._lock:
            self._check_open()
            await self.buffer._flush()

    async def fsync(self) -> None:
        """`flush`, and wait until the disk has it (fsync(2)). Raises as `flush`."""
        await self.buffer.fsync()

    async def truncate(self, size: int | None = None, /) -> int:
        """Make it size bytes long, by default as long as the position in bytes says. Returns the size."""
        self._check_open()
        return await self.buffer.truncate(size)

    async def _write(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        lines = self.line_buffering and ("\n" in text or "\r" in text)
        if self._written_newline:
            text = text.replace("\n", self._written_newline)
        buffer = self.buffer
        data = self._encoder.encode(text)
        if buffer._arriving is not None or buffer._used != len(buffer._buffer):
            await buffer._settle()
        buffer._put(data)
        if self._decoder is not None:
            self._forget()
            self._decoder.reset()
        if lines:
            await buffer._flush()
        elif buffer._gathered >= buffer._room:
            await buffer._send()

    # The position.

    async def tell(self) -> int:
        """The position, as a number that `seek` understands; not always a count of bytes.

        Raises io.UnsupportedOperation if it has none, ValueError if it is closed.
        """
        async with self._lock:
            self._check_open()
            if not self.buffer._seekable:
                raise io.UnsupportedOperation("underlying stream is not seekable")
            await self.buffer._flush()
            return self._cookie()

    async def seek(self, cookie: int, whence: int = 0, /) -> int:
        """Go to a position that `tell` gave, or with whence 2 and 0 to the end. Returns the position.

        Raises io.UnsupportedOperation for other offsets from here or from the end and if it has no position, ValueError
        if it is closed or the position can not be, OSError if the file no longer has what it had.
        """
        async with self._lock:
            self._check_open()
            buffer = self.buffer
            if not buffer._seekable:
                raise io.UnsupportedOperation("underlying stream is not seekable")
            if whence == 1:
                if cookie:
                    raise io.UnsupportedOperation("can't do nonzero cur-relative seeks")
                await buffer._flush()
                cookie = self._cookie()
            elif whence == 2:
                if cookie:
                    raise io.UnsupportedOperation("can't do nonzero end-relative seeks")
                end = await buffer._seek(0, 2)
                self._forget()
                if self._decoder is not None:
                    self._decoder.reset()
                self._restart_encoder(end == 0)
                return end
            elif whence != 0:
                raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
            if cookie < 0:
                raise ValueError(f"negative seek position {cookie!r}")
            await self._go(cookie)
            return cookie

    async def _go(self, cookie: int) -> None:
        word = (1 << 64) - 1
        position, flags, feed, skip = (cookie >> shift & word for shift in (0, 64, 128, 192))
        end = bool(cookie >> 256)
        buffer = self.buffer
        await buffer._seek(position, 0)
        self._forget()
        if self._decoder is not None:
            if cookie:
                self._decoder.setstate((b"", flags))
            else:
                self._decoder.reset()
            if skip:
                data = await buffer._read(feed)
                text = self._decoder.decode(data, end)
                self._chunks = [(flags, data, len(data), len(text))]
                self._text, self._have = text, len(text)
                if len(text) < skip:
                    raise OSError("can't restore logical file position")
                self._used = skip
        self._restart_encoder(cookie == 0)

    def _restart_encoder(self, at_start: bool) -> None:
        # Only what begins a file begins with a byte order mark.
        if self._encoder is not None:
            if at_start:
                self._encoder.reset()
            else:
                self._encoder.setstate(0)

    def _cookie(self) -> int:
        position = self.buffer._tell()
        if self._decoder is None or not self._chunks:
            return position
        if self._used == self._have:
            kept, there = self._decoder.getstate()
            if not kept:  # all that was read is used
                here: int = position | there << 64
                return here
        # The chunk in which we are, and how many of its characters are used.
        at, skip = 0, self._used
        while at < len(self._chunks) - 1 and skip >= self._chunks[at][3]:
            skip -= self._chunks[at][3]
            at += 1
        position -= sum(new for _, _, new, _ in self._chunks[at + 1 :])
        flags, data, _, _ = self._chunks[at]
        position -= len(data)
        if not skip:
            return position | flags << 64
        state = self._decoder.getstate()
        try:
            return self._cookie_within(position, flags, data, skip)
        finally:
            self._decoder.setstate(state)

    def _cookie_within(self, position: int, flags: int, data: bytes, skip: int) -> int:
        decoder = self._decoder

        def decoded(count: int) -> int:
            decoder.setstate((b"", flags))
            return len(decoder.decode(data[:count]))

        # The fewest bytes that give so many characters: by halves, as more bytes never give less.
        low, high = 0, len(data)
        while low < high:
            middle = (low + high) // 2
            if decoded(middle) >= skip:
                high = middle
            else:
                low = middle + 1
        # From there back to where the decoder keeps no bytes, and no character is too many.
        feed = start = low
        while True:
            got = decoded(start)
            kept, there = decoder.getstate()
            if not kept and got <= skip:
                break
            start -= 1
        skip -= got
        cookie: int = position + start | there << 64
        if skip:
            need_end = decoded(feed) < got + skip
            cookie |= feed - start << 128 | skip << 192 | need_end << 256
        return cookie

    # The end.

    async def close(self) -> None:
        """Write what was gathered, and close. Raises OSError if that fails; the file is closed nevertheless."""
        await self.buffer.close()

    # What is asked for must be possible.

    def _check_open(self) -> None:
        if self.buffer._closed:
            raise ValueError("I/O operation on closed file.")

    def _check_readable(self) -> None:
        self._check_open()
        if self._decoder is None:
            raise io.UnsupportedOperation("not readable")

    def _check_writable(self) -> None:
        self._check_open()
        if self._encoder is None:
            raise io.UnsupportedOperation("not writable")
