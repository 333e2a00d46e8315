"""Rows of tables into `Target`s: which column is what, and what a cell must look like.

A column is found by the name the user gave, or by one of the usual names, in any case of letters. What a row
has wrong is a ValueError whose text is fit to be shown after the file's name and the row's number.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from noria.get.target import Target

# Names that sheets use, the best first.
_USUAL = {
    "url": ("url", "urls", "uri", "link", "href"),
    "name": ("name", "filename", "file_name", "output", "out", "file"),
    "checksum": (
        "checksum",
        "digest",
        "hash",
        "sha256",
        "sha512",
        "sha1",
        "md5",
        "blake2b",
        "sha384",
        "sha224",
    ),
    "size": ("size", "bytes", "length", "content_length"),
    "headers": ("headers", "header"),
}
_ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256", 96: "sha384", 128: "sha512"}  # by hexadecimal digits
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a header's name, RFC 9110
_VARIABLE = ("shake_128", "shake_256")  # digests without a length of their own


class ColumnError(Exception):
    """A column that was asked for, or the one with the URLs, is not there."""


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """The columns the user named; None stands for the usual names, and for doing without if none is there."""

    url: str | None = None
    name: str | None = None
    checksum: str | None = None
    size: str | None = None
    headers: str | None = None


class Columns:
    """The columns of one table, found in `header`, its column names in order. Raises ColumnError.

    The URL's column is a must, and so is every one that the user named.
    """

    def __init__(self, asked: ColumnNames, header: Sequence[str]) -> None:
        there: dict[str, str] = {}
        for column in header:
            there.setdefault(column.strip().lower(), column)
        self.found: dict[str, str] = {}  # field of Target -> column
        for field in fields(Target):
            name: str | None = getattr(asked, field.name)
            if name is not None:
                if name not in header and name.strip().lower() not in there:
                    raise ColumnError(f"there is no column {name!r}, but {_listed(header)}")
                self.found[field.name] = name if name in header else there[name.strip().lower()]
                continue
            for usual in _USUAL[field.name]:
                if usual in there and there[usual] not in self.found.values():
                    self.found[field.name] = there[usual]
                    break
        if "url" not in self.found:
            raise ColumnError(f"no column is named url, but {_listed(header)}; say which one has the URLs")

    def target(self, cell: Callable[[str], object]) -> Target:
        """The Target in the row whose cell of a column `cell` gives. Raises ValueError."""
        values = {field: cell(column) for field, column in self.found.items()}
        checksum = values.get("checksum")
        return Target(
            url=_url(values["url"]),
            name=_name(values.get("name")),
            checksum=None if _is_empty(checksum) else parse_checksum(str(checksum), self.found["checksum"]),
            size=_size(values.get("size")),
            headers=_headers(values.get("headers")),
        )


def parse_checksum(text: str, column: str = "") -> str:
    """`text`, a checksum as people write it, as "algorithm:hex" in lower case. Raises ValueError.

    Without an algorithm before the colon, `column` is the algorithm if it names one, else the number of
    digits tells.
    """
    import hashlib

    algorithm, colon, digits = text.strip().lower().rpartition(":")
    if not colon:
        named = column.strip().lower().replace("-", "")
        algorithm = named if named in hashlib.algorithms_available else _ALGORITHMS.get(len(digits), "")
        if not algorithm:
            raise ValueError(f"checksum {_cut(text)} names no algorithm: write sha256:HEX or the like")
    algorithm = re.sub(r"^sha-", "sha", algorithm.strip())
    if algorithm not in hashlib.algorithms_available or algorithm in _VARIABLE:
        raise ValueError(f"checksum {_cut(text)} is of no known algorithm")
    if not re.fullmatch(r"[0-9a-f]+", digits) or len(digits) != 2 * hashlib.new(algorithm).digest_size:
        raise ValueError(
            f"checksum {_cut(text)} is not {2 * hashlib.new(algorithm).digest_size} hexadecimal digits"
        )
    return f"{algorithm}:{digits}"


def parse_header(line: str) -> tuple[str, str]:
    """Name and value of the header in `line`, "Name: value". Raises ValueError, which shows no value."""
    name, colon, value = line.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _TOKEN.fullmatch(name):
        raise ValueError("a header is not of the form 'Name: value'")
    if any((ord(c) < 32 and c != "\t") or ord(c) == 127 for c in value):
        raise ValueError(f"header {name} has a control character in its value")
    return name, value


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _url(value: object) -> str:
    if _is_empty(value):
        raise ValueError("it has no URL")
    if not isinstance(value, str):
        raise ValueError(f"its URL is no text but {_cut(value)}")
    return value.strip()


def _name(value: object) -> str | None:
    if _is_empty(value):
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"its name is no text but {_cut(value)}")
    return str(value).strip()


def _size(value: object) -> int | None:
    if _is_empty(value):
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,18}\s*", value, re.ASCII):
        value = int(value)
    if (
        isinstance(value, float) and value.is_integer()
    ):  # a column with holes is one of floats to many programs
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError(f"its size is no number of bytes: {_cut(value)}")
    return value


def _headers(value: object) -> dict[str, str] | None:
    """Headers as a mapping, as pairs (a map of Parquet), as a JSON object in text, or as lines of text."""
    import json

    if _is_empty(value):
        return None
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("its headers are no JSON object, though they begin like one") from None
    if isinstance(value, str):
        return dict(parse_header(line) for line in value.splitlines() if line.strip())
    if isinstance(value, Mapping):
        value = list(value.items())
    try:
        pairs = [(name, text) for name, text in value if text is not None]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ValueError("its headers are no object with names and values") from None
    if not all(isinstance(name, str) and isinstance(text, str | int) for name, text in pairs):
        raise ValueError("its headers are no object with names and values")
    return dict(parse_header(f"{name}: {text}") for name, text in pairs) or None


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:12])
    return f"only {shown}" if len(names) <= 12 else f"{shown} and {len(names) - 12} more"
