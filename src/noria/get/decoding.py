"""Content encodings undone while they stream, with an eye on bombs."""

import zlib

from noria.get.failures import Failure

ACCEPTED = "gzip, deflate"
_HARMLESS = 64 * 1024 * 1024  # bytes of output below which no ratio is suspicious
_MOST_RATIO = 200  # text compresses to a tenth, logs to a hundredth; a bomb reaches 1032 with deflate
_STEP = 256 * 1024


class Decoder:
    """Undoes one encoding, gzip or deflate (with or without zlib's frame). Raises Failure for others."""

    def __init__(self, encoding: str, max_size: int | None) -> None:
        self._max_size = max_size
        self._taken = self._given = 0
        self._gzip = encoding.lower() in ("gzip", "x-gzip")
        if not self._gzip and encoding.lower() != "deflate":
            raise Failure(f"the content encoding {encoding[:50]!r} is not known", kind="protocol")
        self._zlib = zlib.decompressobj(31 if self._gzip else 15)
        self._first = True

    def feed(self, data: bytes) -> list[bytes]:
        """What `data` decodes to. Raises Failure if it does not, or to too much."""
        self._taken += len(data)
        pieces = []
        try:
            if self._first and not self._gzip and data:
                self._first = False
                if data[0] & 0x0F != 8:  # not zlib's frame: raw deflate, as some servers mean it
                    self._zlib = zlib.decompressobj(-15)
            more = bool(data)
            while more:
                if self._zlib.eof:
                    if not self._gzip or not data.lstrip(b"\0"):
                        break
                    self._zlib = zlib.decompressobj(31)  # the next member
                piece = self._zlib.decompress(data, _STEP)
                data = self._zlib.unconsumed_tail or self._zlib.unused_data
                self._given += len(piece)
                self._check()
                if piece:
                    pieces.append(piece)
                # A full step may have left something inside, even when all the input is taken.
                more = bool(data) or len(piece) == _STEP
        except zlib.error as error:
            raise Failure(f"the encoded body makes no sense: {error}", kind="protocol") from None
        return pieces

    def end(self) -> list[bytes]:
        """The rest. Raises Failure if the body was cut short."""
        if self._taken and not self._zlib.eof:
            raise Failure("the encoded body ends too early", kind="length", again=True)
        return []

    def _check(self) -> None:
        if self._max_size is not None and self._given > self._max_size:
            raise Failure(f"larger than {self._max_size} bytes when decoded", kind="refused")
        if self._given > _HARMLESS and self._given > self._taken * _MOST_RATIO:
            raise Failure(
                f"a compression bomb: {self._taken} bytes decode to more than {self._given}", kind="refused"
            )
