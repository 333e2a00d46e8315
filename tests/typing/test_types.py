"""The types that noria promises: a user's program passes mypy in strict mode, and the stubs tell the truth.

The programs themselves are tests/typing/program.py and primitives.py. The stubs are compared with the compiled modules by mypy.stubtest;
what it may find is listed in stubtest.txt.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import noria

HERE = Path(__file__).parent
PACKAGE = Path(noria.__file__).parent
COMPILED = sorted(
    ".".join(["noria", *path.relative_to(PACKAGE).with_name(path.name.split(".")[0]).parts])
    for path in PACKAGE.rglob("*.so")
)


def run(*arguments: str, cwd: Path) -> str:
    """Run this interpreter with the arguments; return its output, and fail if it does not exit with 0."""
    environment = os.environ | {"MYPYPATH": str(PACKAGE.parent) if PACKAGE.parent.name == "src" else ""}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def mypy() -> None:
    """mypy is there, or the test is skipped; with NORIA_TEST_ALL=1 it fails."""
    if importlib.util.find_spec("mypy") is None:
        reason = "needs mypy: pip install '.[test]'"
        if os.environ.get("NORIA_TEST_ALL") == "1":
            pytest.fail(f"{reason}, and NORIA_TEST_ALL=1 allows no skipping")
        pytest.skip(reason)


PROGRAMS = ["program.py", "primitives.py"]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.usefixtures("mypy")
def test_a_program_that_uses_the_public_api_passes_mypy_strict(program: str, tmp_path: Path) -> None:
    run(
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={tmp_path}",
        str(HERE / program),
        cwd=tmp_path,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_that_program_asserts_also_holds_when_it_runs(program: str, tmp_path: Path) -> None:
    run(str(HERE / program), str(tmp_path), cwd=tmp_path)


@pytest.mark.once
@pytest.mark.usefixtures("mypy")
def test_the_stubs_say_what_the_compiled_modules_have(tmp_path: Path) -> None:
    assert COMPILED, f"no compiled module under {PACKAGE}"
    run(
        "-m",
        "mypy.stubtest",
        "--concise",
        "--ignore-unused-allowlist",
        "--ignore-disjoint-bases",
        f"--allowlist={HERE / 'stubtest.txt'}",
        f"--mypy-config-file={HERE / 'stubtest.ini'}",
        "noria",
        cwd=tmp_path,
    )


def test_every_compiled_module_has_a_stub() -> None:
    without = [name for name in COMPILED if not (PACKAGE.parent / f"{name.replace('.', '/')}.pyi").exists()]
    assert not without
