"""Checksums: those that a caller names ("sha256:hex"), that a server sends (Repr-Digest, RFC 9530) or that lie
beside a file (URL.sha256), and the computing of them.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

# hashlib, which loads OpenSSL, is imported where it is needed: most files have nothing to be held against.

# RFC 9530 names; the others in its registry are deprecated, which does for no assurance.
_REPR_DIGEST = {"sha-256": "sha256", "sha-512": "sha512"}
_ENTRY = re.compile(r"\s*([a-z0-9*_.-]+)=:([A-Za-z0-9+/=]*):\s*(?:;[^,]*)?", re.IGNORECASE)


class Expected(NamedTuple):
    """A checksum that a file must have; `source` says for people who wants it, if it is not the caller."""

    algorithm: str
    digest: bytes
    source: str = ""

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest.hex()}"


def parse_checksum(text: str, source: str = "") -> Expected:
    """From "ALGORITHM:HEX". Raises ValueError if the algorithm is unknown or the digest has another length."""
    import hashlib

    algorithm, _, digits = text.strip().partition(":")
    algorithm = algorithm.strip().lower().replace("-", "")
    algorithm = {"sha2256": "sha256"}.get(algorithm, algorithm)
    try:
        size = hashlib.new(algorithm, usedforsecurity=False).digest_size
        digest = bytes.fromhex(digits)
    except ValueError:
        raise ValueError(f"not a checksum that can be verified: {text[:100]!r}") from None
    if not size or len(digest) != size:
        raise ValueError(f"a {algorithm} checksum has {size} bytes, not {len(digest)}")
    return Expected(algorithm, digest, source)


def parse_repr_digest(lines: list[str]) -> list[Expected]:
    """What the `lines` of a Repr-Digest header say, as far as it is understood and trustworthy."""
    if not lines:
        return []
    import base64
    import binascii
    import hashlib

    found = []
    for match in _ENTRY.finditer(", ".join(lines)[:4096]):
        algorithm = _REPR_DIGEST.get(match[1].lower())
        try:
            digest = base64.b64decode(match[2], validate=True)
        except binascii.Error:
            continue
        if algorithm and len(digest) == hashlib.new(algorithm).digest_size:
            found.append(Expected(algorithm, digest, "the server's Repr-Digest"))
    return found


def parse_checksum_file(text: str, name: str, algorithm: str = "sha256") -> Expected | None:
    """From the text of a checksum file: the line for `name`, or the only line; None if there is no such."""
    import hashlib

    size = hashlib.new(algorithm).digest_size * 2
    digits = rf"([0-9a-fA-F]{{{size}}})"
    gnu = re.compile(rf"\s*{digits}(?:\s+(.*))?")
    bsd = re.compile(rf"\s*{algorithm}\s*\((.*)\)\s*=\s*{digits}\s*", re.IGNORECASE)
    entries = []  # digits, name
    for line in text.splitlines():
        if match := gnu.fullmatch(line):
            entries.append((match[1], (match[2] or "").strip().removeprefix("*")))
        elif match := bsd.fullmatch(line):
            entries.append((match[2], match[1]))
    named = [entry for entry in entries if entry[1].rsplit("/", 1)[-1] == name]
    chosen = named or (entries if len(entries) == 1 else [])
    return Expected(algorithm, bytes.fromhex(chosen[0][0]), f"the .{algorithm} file") if chosen else None


class Digests:
    """Computes what is needed to verify `expected`."""

    def __init__(self, expected: Iterable[Expected]) -> None:
        self._expected = list(expected)
        self._hashes: dict[str, Any] = {}
        if self._expected:
            import hashlib

            names = {e.algorithm for e in self._expected}
            self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names}

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def update(self, chunks: Iterable[bytes]) -> None:
        """Take in `chunks`."""
        for algorithm in self._hashes.values():
            for chunk in chunks:
                algorithm.update(chunk)

    def wrong(self) -> str | None:
        """In words, the first checksum that does not hold; None if all do."""
        for expected in self._expected:
            actual = self._hashes[expected.algorithm].digest()
            if actual != expected.digest:
                wanted = expected.digest.hex()
                wish = f"{expected.source} says {wanted}" if expected.source else f"{wanted} was expected"
                return f"checksum mismatch: {expected.algorithm} is {actual.hex()}, and {wish}"
        return None

    def text(self) -> str | None:
        """The first checksum as "ALGORITHM:HEX"; None if none was computed."""
        for name, computed in self._hashes.items():
            return f"{name}:{computed.hexdigest()}"
        return None
