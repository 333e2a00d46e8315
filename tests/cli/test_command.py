"""The command `noria` itself: which commands there are, and what it says when something is missing."""

import subprocess
import sys

import pytest

import noria


def command(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "noria"]
    return subprocess.run(
        [sys.executable, *start, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_version() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"noria {noria.__version__}\n")


def test_help_names_every_command() -> None:
    done = command("--help")
    assert done.returncode == 0
    for name in ("run", "get", "demo", "bench", "info", "completion"):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", ["run", "get", "demo", "bench", "info", "completion"])
def test_every_command_has_help(name: str) -> None:
    done = command(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: noria {name}")


@pytest.mark.parametrize("arguments", [[], ["gte"], ["--frobnicate"], ["demo", "x"]])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: noria")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "package", "needs"),
    [
        (["get", "http://127.0.0.1:9/"], "aiohttp", "aiohttp and rich"),
        (["get", "http://127.0.0.1:9/"], "rich", "aiohttp and rich"),
        (["demo"], "aiohttp", "aiohttp and rich"),
        (["demo"], "rich", "aiohttp and rich"),
        (["completion", "bash"], "shtab", "shtab"),
    ],
)
def test_a_missing_extra_is_named_with_the_cure(arguments: list[str], package: str, needs: str) -> None:
    # None in sys.modules is how Python itself marks a module that is not to be found.
    code = f"import sys; sys.modules[{package!r}] = None; from noria.cli import main; sys.exit(main())"
    done = command(*arguments, code=code)
    assert done.returncode == 2
    assert done.stderr == f"noria {arguments[0]} needs {needs}: pip install 'noria[get]'\n"


def test_run_and_version_need_no_extra() -> None:
    code = "import sys; from noria.cli import main; main(['run', '--help'])\n"
    code += "assert not {'aiohttp', 'rich', 'noria.get', 'noria.demo'} & set(sys.modules)"
    assert command(code=code).returncode == 0
