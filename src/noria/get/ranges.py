"""Parts of a file by HTTP (RFC 9110, sections 8.8, 13.1.5 and 14): what tells two versions of it apart, how a
server says which bytes it sends, and how a file is cut into segments.
"""

import functools
import itertools
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

# RFC 9110, section 5.6.7.
_IMF_DATE = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.IGNORECASE)


class Validator(NamedTuple):
    """ETag and Last-Modified of an answer, as they were sent, if they were."""

    etag: str | None = None
    modified: str | None = None

    def condition(self) -> str | None:
        """What If-Range may hold: a strong ETag, else a date, which `validator` has only kept if it is strong
        enough. None if there is nothing to tell two versions apart by.
        """
        if self.etag is not None:
            return self.etag if _is_strong(self.etag) else None
        return self.modified

    def contradicts(self, other: "Validator") -> bool:
        """Whether an answer with `other` is certainly of another version."""
        if self.etag is not None and other.etag is not None:
            return self.etag != other.etag
        return None not in (self.modified, other.modified) and self.modified != other.modified


def validator(headers: Mapping[str, str]) -> Validator:
    """Of an answer."""
    return make_validator(headers.get("ETag"), headers.get("Last-Modified"), headers.get("Date"))


def make_validator(etag: str | None, modified: str | None, date: str | None) -> Validator:
    """Of an answer with these fields. A Last-Modified date less than a second before Date could hide a second change
    (RFC 9110, section 8.8.2.2) and does not count.
    """
    if modified is not None and not _is_past(modified, date):
        modified = None
    return Validator(short(etag), short(modified))


class ContentRange(NamedTuple):
    """The bytes start to end (without it) of total, None if the server does not tell."""

    start: int
    end: int
    total: int | None


def parse_content_range(header: str | None) -> ContentRange | None:
    """None if it is missing or makes no sense."""
    match = _CONTENT_RANGE.fullmatch((header or "").strip())
    if match is None:
        return None
    start, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < start or (total is not None and last >= total):
        return None
    return ContentRange(start, last + 1, total)


def split(size: int, count: int) -> list[list[int]]:
    """`size` bytes as `count` segments [start, end, done] of about the same length, nothing done yet."""
    edges = [size * number // count for number in range(count + 1)]
    return [[start, end, 0] for start, end in itertools.pairwise(edges)]


def fits(segments: list[list[int]], size: int) -> bool:
    """Whether `segments` cover a file of `size` bytes, each byte once, and claim nothing impossible."""
    position = 0
    for start, end, done in segments:
        if start != position or not 0 <= done <= end - start:
            return False
        position = end
    return position == size


def _is_strong(etag: str) -> bool:
    return len(etag) >= 2 and etag.startswith('"') and etag.endswith('"')


def _is_past(modified: str, date: str | None) -> bool:
    try:
        return date is not None and (_moment(date) - _moment(modified) >= 1)
    except (ValueError, OverflowError):
        return False


@functools.lru_cache(64)
def _moment(date: str) -> float:
    """Unix time. The same Date comes with each answer of a second. Raises ValueError, OverflowError."""
    match = _IMF_DATE.fullmatch(date)
    if match is not None and match[2] in _MONTHS:
        day, _, year, hour, minute, second = match.groups()
        month = _MONTHS.index(match[2]) + 1
        return datetime(int(year), month, int(day), int(hour), int(minute), int(second), 0, UTC).timestamp()
    # This imports a lot, and what servers send today is the above.
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(date).timestamp()


def short(value: str | None) -> str | None:
    """`value`, an ETag or a date, if it is fit to be kept."""
    return (
        value
        if value is not None and len(value) <= 1024 and value.isascii() and value.isprintable()
        else None
    )
