"""`noria info`: each line is checked against the system itself, asked another way."""

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import noria
from net.rings import DENY, needs_ring

PAGE = Path(__file__).parents[2] / "docs" / "drivers.md"


def info(*, driver: str | None = None, before: str = "") -> dict[str, str]:
    """What the command prints, by the names at the left; `before`: a program text that runs first."""
    environment = {name: value for name, value in os.environ.items() if name != "NORIA_DRIVER"}
    if driver is not None:
        environment["NORIA_DRIVER"] = driver
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\nfrom noria.cli import main\nraise SystemExit(main(['info']))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return facts(done.stdout)


def facts(text: str) -> dict[str, str]:
    return {line[:15].rstrip(): line[15:] for line in text.splitlines()}


def test_version_interpreter_and_system() -> None:
    said = info()
    assert said["noria"] == noria.__version__
    assert said["interpreter"] == f"CPython {platform.python_version()}, {sys.executable}"
    uname = os.uname()
    assert said["system"] == f"Linux {uname.release}, {uname.machine}, {os.cpu_count()} cores"


def test_limits() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = (
        "import resource as r\n"
        f"r.setrlimit(r.RLIMIT_NOFILE, (1234, {hard}))\n"
        "r.setrlimit(r.RLIMIT_MEMLOCK, (2048 * 1024, 2048 * 1024))"
    )
    said = info(before=before)
    shown = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    assert said["descriptors"] == f"1,234 (hard limit {shown})"
    assert said["locked memory"] == "2,048 KiB (hard limit 2,048 KiB)"


def test_the_driver_is_the_one_that_a_loop_gets_and_why() -> None:
    assert info(driver="epoll")["driver"] == "epoll (asked for by NORIA_DRIVER)"
    assert info(driver="kqueue")["driver"] == (
        "none: there is no driver 'kqueue' (asked for by NORIA_DRIVER); choose one of: epoll, io_uring"
    )


@needs_ring
def test_the_default_is_io_uring_on_the_kernels_it_was_measured_on() -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 12):
        assert info()["driver"] == "io_uring (the default)"
    old = "import noria.io.choice as c, noria.io.uring as u\nfound = u.probe()\n" + (
        "c.probe = lambda: (*found[:2], found[2] & ~(1 << 15), found[3])"  # as an older kernel answers
    )
    assert info(before=old)["driver"] == (
        "epoll (io_uring is the default, but only since Linux 6.12: on older kernels it must be asked for)"
    )
    assert info(driver="io_uring", before=old)["driver"] == "io_uring (asked for by NORIA_DRIVER)"


@needs_ring
def test_where_io_uring_is_allowed_it_says_what_the_kernel_has() -> None:
    said = info(driver="io_uring")
    assert said["driver"] == "io_uring (asked for by NORIA_DRIVER)"
    assert said["io_uring"] == "allowed"
    # Without these there would be no ring; the others depend on the kernel.
    assert {"SINGLE_ISSUER", "DEFER_TASKRUN", "TASKRUN_FLAG"} <= set(said["  setup"].split(", "))
    assert {"SINGLE_MMAP", "NODROP", "EXT_ARG"} <= set(said["  features"].split(", "))
    count, last = said["  operations"].split(", the last is number ")
    assert 40 < int(count) <= int(last) + 1
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    assert ("MIN_TIMEOUT" in said["  features"]) == (release >= (6, 12))


def test_where_io_uring_is_refused_it_says_so_and_which_driver_serves_instead() -> None:
    said = info(driver="io_uring", before=DENY + "\ndeny()")
    assert said["io_uring"].startswith("not usable: the system refuses it (")
    assert said["driver"].startswith(
        "epoll (io_uring is asked for by NORIA_DRIVER, but the system refuses it ("
    )
    assert "  setup" not in said
    said = info(before=DENY + "\ndeny()")
    assert said["driver"].startswith("epoll (io_uring is the default, but the system refuses it (")


@pytest.mark.parametrize("refusing", [False, True])
def test_the_page_about_drivers_shows_what_is_printed(refusing: bool) -> None:
    """Of the two examples there: the same names in the same order, and the same words for the same facts."""
    shown = facts(PAGE.read_text(encoding="utf-8").split("```text\n")[2 if refusing else 1].split("```")[0])
    said = info(driver="io_uring" if refusing else None, before=DENY + "\ndeny()" if refusing else "")
    if not refusing and said["io_uring"] != "allowed":
        pytest.skip(f"io_uring: {said['io_uring']}")
    if refusing and "sysctl" in said["io_uring"]:
        pytest.skip("io_uring is refused here by a sysctl, which the page does not show")
    assert list(shown) == list(said)
    assert shown["driver"] == said["driver"]
    assert shown["io_uring"] == said["io_uring"]
