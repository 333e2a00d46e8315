"""Programs from outside that tests need: found and named here, never assumed.

`require("nginx")` gives the program's path. Where it is missing the test is skipped with the name of the
Debian package that holds it; with `NORIA_TEST_ALL=1` in the environment, which CI sets, it fails instead, so
that nothing goes untested there without anybody noticing.
"""

import os
import shutil
from pathlib import Path

import pytest

# Program -> the Debian package it comes in.
PACKAGES = {
    "btrfs": "btrfs-progs",
    "chromium": "chromium",
    "curl": "curl",
    "fish": "fish",
    "gcc": "gcc",
    "gdb": "gdb",
    "man": "man-db",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "postgres": "postgresql",
    "redis-server": "redis-server",
    "setpriv": "util-linux",
    "strace": "strace",
    "tinyproxy": "tinyproxy-bin",
    "tmux": "tmux",
    "unshare": "util-linux",
    "valgrind": "valgrind",
    "wrk": "wrk",
    "zsh": "zsh",
}

# Where Debian puts programs without their being on an ordinary user's PATH.
OFF_PATH = [
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
    *map(str, Path("/usr/lib/postgresql").glob("*/bin")),
]


def require(name: str) -> str:
    """The path of the program `name`, or the end of this test: skipped, or failed when all must run.

    Raises KeyError for a program missing from PACKAGES: add it there, so that the reason can name it.
    """
    package = PACKAGES[name]
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *OFF_PATH]))
    if path is not None:
        return path
    reason = f"needs {name} (Debian package {package})"
    if os.environ.get("NORIA_TEST_ALL") == "1":
        pytest.fail(f"{reason}, and NORIA_TEST_ALL=1 allows no skipping", pytrace=False)
    pytest.skip(reason)
