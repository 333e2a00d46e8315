"""Content encodings undone while they stream, with an eye on bombs.

gzip and deflate are zlib's; br and zstd need a library each (extra `get-decode`), and are asked for where it is. What a
step of a decoder may write is bounded, so the memory is too, whatever the body holds.
"""

import importlib
import importlib.util
import zlib
from collections.abc import Callable
from typing import Any, Protocol, cast

from noria.get.failures import Failure, printable

_HARMLESS = 64 * 1024 * 1024  # bytes of output below which no ratio is suspicious
_MOST_RATIO = 200  # text compresses to a tenth, logs to a hundredth; a bomb reaches 1032 with deflate
_STEP = 256 * 1024
_FIRST_STEP = 1024  # a member that is over copies what it was given beyond its end: be it little
_MOST_PACKING = 1024 * 1024  # bytes by which what arrives may be more than a file may have
_ZSTD_MODULES = ("compression.zstd", "backports.zstd")
_ZSTD_WINDOW = 23  # 8 MiB by its logarithm: more is not for HTTP (RFC 9659)


class _Codec(Protocol):
    """One member or frame; bz2, lzma and zstd agree on these names. unused_data: what was given beyond its end."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Zlib:
    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._full

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        # A full step may have left something inside, even when all the input is taken.
        self._full = len(piece) == max_length or bool(self._stream.unconsumed_tail)
        return piece


class _Brotli:
    unused_data = b""  # the library calls it an error

    def __init__(self) -> None:
        self._stream = importlib.import_module("brotli").Decompressor()
        self._full = False

    @property
    def eof(self) -> bool:
        return bool(self._stream.is_finished())

    @property
    def needs_input(self) -> bool:
        return not self._full and bool(self._stream.can_accept_more_data())

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece: bytes = self._stream.process(data, output_buffer_limit=max_length)
        self._full = len(piece) >= max_length  # it may be more; and then there may be more inside
        return piece


def zstd_module() -> Any:
    """The standard library's module (from 3.14 on), or its backport. Raises ModuleNotFoundError."""
    for name in _ZSTD_MODULES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            pass
    raise ModuleNotFoundError("No module named 'backports.zstd'", name="backports.zstd")


def accepted() -> str:
    """The encodings that can be undone here, for Accept-Encoding."""
    names = ["gzip", "deflate"]
    if importlib.util.find_spec("brotli") is not None:
        names.append("br")
    if any(map(_is_there, _ZSTD_MODULES)):
        names.append("zstd")
    return ", ".join(names)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its package
        return False


class Decoder:
    """Undoes one encoding: gzip, deflate (with or without zlib's frame), br or zstd. Raises Failure for others, and
    for one whose library is missing.
    """

    def __init__(self, encoding: str, max_size: int | None) -> None:
        self._max_size = max_size
        self._taken = self._given = 0
        self._name = "gzip" if encoding.lower() == "x-gzip" else encoding.lower()
        try:
            self._next = self._maker()
            self._codec = self._next()
        except ModuleNotFoundError as error:
            raise Failure(
                f"the content encoding {self._name} needs {error.name}: pip install 'noria[get-decode]'",
                kind="protocol",
            ) from None

    def _maker(self) -> Callable[[], _Codec]:
        """What makes a codec for the first member and each one after it."""
        match self._name:
            case "gzip":
                return lambda: _Zlib(31)
            case "deflate":
                return lambda: _Zlib(15)
            case "br":
                return _Brotli
            case "zstd":
                module = zstd_module()  # looked up once: a frame can be eight bytes long
                options = {module.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
                return lambda: cast(_Codec, module.ZstdDecompressor(options=options))
            case _:
                raise Failure(
                    f"the content encoding {printable(self._name, 50)!r} is not known", kind="protocol"
                )

    def feed(self, data: bytes) -> list[bytes]:
        """What `data` decodes to. Raises Failure if it does not, or to too much."""
        if not self._taken and data and self._name == "deflate" and data[0] & 0x0F != 8:
            self._codec = _Zlib(-15)  # not zlib's frame: raw deflate, as some servers mean it
        self._taken += len(data)
        if self._max_size is not None and self._taken > self._max_size + _MOST_PACKING:
            raise Failure(f"larger than {self._max_size} bytes: {self._taken} arrived", kind="refused")
        try:
            return self._feed(data)
        except Failure:
            raise
        except Exception as error:  # each library has its own, and all they say is that it makes no sense
            raise Failure(
                f"the encoded body makes no sense: {printable(str(error))}", kind="protocol"
            ) from None

    def _feed(self, data: bytes) -> list[bytes]:
        pieces = []
        at, step = 0, len(data)
        while at < len(data):
            if self._codec.eof and self._name != "br":  # which has one member only, and says so
                if self._is_padding(data, at):
                    break
                self._codec = self._next()
                step = _FIRST_STEP
            part = data[at : at + step]
            at += len(part)
            step *= 2
            while True:
                piece = self._codec.decompress(part, _STEP)
                self._given += len(piece)
                self._check()
                if piece:
                    pieces.append(piece)
                if self._codec.eof or self._codec.needs_input:
                    break
                part = b""
            if self._codec.eof:
                at -= len(self._codec.unused_data)
        return pieces

    def _is_padding(self, data: bytes, at: int) -> bool:
        """Whether what follows a member is no other one: zeros after gzip, and after deflate whatever it is."""
        return self._name == "deflate" or (
            self._name == "gzip" and not data[at] and not data[at:].strip(b"\0")
        )

    def end(self) -> None:
        """No more is to come. Raises Failure if the body was cut short."""
        if self._taken and not self._codec.eof:
            raise Failure("the encoded body ends too early", kind="length", again=True)

    def _check(self) -> None:
        if self._max_size is not None and self._given > self._max_size:
            raise Failure(f"larger than {self._max_size} bytes when decoded", kind="refused")
        if self._given > _HARMLESS and self._given > self._taken * _MOST_RATIO:
            raise Failure(
                f"a compression bomb: {self._taken} bytes decode to more than {self._given}", kind="refused"
            )
