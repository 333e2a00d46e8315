"""What is to be downloaded: a URL and what is known about the file before anybody is asked."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One download.

    url: where from. name: what to call the file; by the server or the URL if None. checksum:
    "ALGORITHM:HEX" (sha256, md5, sha1, sha512, blake2b and others of hashlib) that the file must have.
    size: bytes that it must have. headers: sent with the requests for this one, besides those of the run.
    """

    url: str
    name: str | None = None
    checksum: str | None = None
    size: int | None = None
    headers: Mapping[str, str] | None = None
