"""File names for downloads: what the server or the URL suggests, made safe, and no two alike.

Promises: a safe name is one path component that no directory is left by, is never hidden, cannot be taken for
an option by another program, holds no control or invisible formatting characters, and leaves room in the 255
bytes that file systems allow for the endings added later. `Names` gives each name out once. Whether a file of
that name exists already is for the writer to find out.
"""

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yarl import URL


PART_ENDING = ".part"

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")  # what is safe without a closer look
_FALLBACK = "index.html"  # for URLs that end in a slash, as wget does it
_MAX_BYTES = 255 - len(PART_ENDING) - len("-1000000")

# One parameter of a Content-Disposition header (RFC 6266): name, then a quoted string or a token. Servers put
# spaces and raw UTF-8 into tokens, so everything up to the next semicolon counts.
_PARAMETER = re.compile(r'(?:^|;)\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))', re.DOTALL)

# aiohttp reads headers as UTF-8 and keeps other bytes as lone surrogates: those are taken as ISO-8859-1.
_LATIN_1 = {0xDC00 + byte: chr(byte) for byte in range(0x80, 0x100)}


def name_from_url(url: "URL") -> str:
    """The safe name in the last component of the path of `url`; the query takes no part, as with curl -O."""
    from urllib.parse import unquote

    return safe_name(unquote(url.raw_path, errors="replace").rstrip("/")) or _FALLBACK


def name_from_header(header: str | None) -> str | None:
    """The safe name a Content-Disposition header suggests, or None if it suggests none.

    `filename*` (RFC 8187, any of UTF-8 and ISO-8859-1) goes before `filename`, and is ignored if it does not
    decode.
    """
    if not header:
        return None
    found: dict[str, str] = {}
    for match in _PARAMETER.finditer(header):
        key, quoted, token = match.groups()
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else token.strip()
        found.setdefault(key.lower(), value)
    for suggestion in (_extended(found.get("filename*", "")), found.get("filename", "")):
        if name := safe_name(suggestion.translate(_LATIN_1)):
            return name
    return None


def safe_name(text: str) -> str:
    """The last path component of `text` without anything dangerous; the empty string if nothing is left.

    Both / and \\ separate components. Characters that cannot be seen are dropped. A leading dot or hyphen
    gets an underscore before it. Long names lose their middle, not their ending.
    """
    name = re.split(r"[/\\]", text)[-1]
    if _PLAIN.fullmatch(name):
        return name
    name = unicodedata.normalize("NFC", name)
    # Cc control, Cf formatting (such as right-to-left override), Cs lone surrogates, Zl and Zp line
    # separators.
    name = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    name = name.strip()
    if not name.strip("."):
        return ""
    if name[0] in ".-":
        name = "_" + name
    return _shortened(name, _MAX_BYTES)


def numbered(name: str, number: int) -> str:
    """`name` with -`number` before its ending. A safe name stays safe."""
    stem, ending = _split(name)
    return f"{stem}-{number}{ending}"


def is_form_of(name: str, wanted: str) -> bool:
    """Whether `name` is `wanted` or a numbered form of it."""
    stem, ending = _split(wanted)
    return name == wanted or re.fullmatch(rf"{re.escape(stem)}-\d+{re.escape(ending)}", name) is not None


class Names:
    """Hands out each file name once.

    The first who asks for a name gets it, the next gets -2 before the ending, then -3: given the same
    questions in the same order, the answers are the same. One name per download is remembered, nothing more.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._number: dict[str, int] = {}  # wanted name -> the last number tried for it

    def claim(self, name: str) -> str:
        """`name`, or the first numbered form of it that is free. Safe names stay safe."""
        claimed = name
        while self._is_taken(claimed):
            number = self._number[name] = self._number.get(name, 1) + 1
            claimed = numbered(name, number)
        self._taken.add(claimed)
        return claimed

    def _is_taken(self, name: str) -> bool:
        # Two downloads, x and x.part, must not meet in the file x.part either.
        if name in self._taken or name + PART_ENDING in self._taken:
            return True
        return name.endswith(PART_ENDING) and name.removesuffix(PART_ENDING) in self._taken


def _extended(value: str) -> str:
    """Decode `charset'language'percent-encoded`; the empty string if that is not what it is."""
    charset, quote, rest = value.partition("'")
    _, second, encoded = rest.partition("'")
    if not quote or not second or charset.lower() not in ("utf-8", "iso-8859-1"):
        return ""
    from urllib.parse import unquote_to_bytes

    try:
        return unquote_to_bytes(encoded).decode(charset)
    except UnicodeDecodeError:
        return ""


def _split(name: str) -> tuple[str, str]:
    """Stem and ending; `tar.gz` and its like count as one ending."""
    match = re.search(r"(?<=.)(?:\.tar)?\.[^.\s]{1,16}$", name)
    return (name[: match.start()], match[0]) if match else (name, "")


def _shortened(name: str, limit: int) -> str:
    if len(name.encode()) <= limit:
        return name
    stem, ending = _split(name)
    room = limit - len(ending.encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + ending
