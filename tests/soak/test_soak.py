"""The soak itself: it passes when all is right, and each defect that it is to notice is noticed."""

import subprocess
import sys
from pathlib import Path

import pytest


def soak(seconds: float, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "soak", "--seconds", str(seconds), *arguments],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_short_soak_finds_nothing_wrong() -> None:
    done = soak(12)
    assert done.returncode == 0, done.stdout
    assert "0 wrong" in done.stdout
    for kind in ("http", "tcp", "tls", "unix", "udp", "children", "timers", "cancellations", "vanishing"):
        assert f"\n{kind} " in done.stdout, f"no operation of the kind {kind}:\n{done.stdout}"


@pytest.mark.once  # what is tried is the soak, not noria
@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("byte", "they differ from byte"),
        ("descriptor", "growth: descriptors"),
        ("exception", "the loop's exception handler was told"),
        ("object", "growth: objects"),
        ("timer", "growth: objects"),
    ],
)
def test_a_defect_is_noticed(defect: str, said: str) -> None:
    done = soak(10.5, "--defect", defect)
    assert done.returncode == 1, done.stdout
    assert said in done.stdout
