"""`noria completion`: what real shells offer after having read the script."""

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from noria.get.arguments import parser
from support.tools import require

NORIA = [sys.executable, "-m", "noria"]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run(
            [*NORIA, "completion", shell], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stderr == ""
        (folder / shell).write_text(done.stdout)
    return folder


def in_bash(scripts: Path, line: str, cwd: Path) -> set[str]:
    """What bash offers for the last word of `line`, by the function that the script registers."""
    words = line.split(" ")
    code = f"""
        source {scripts / "bash"}
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
        COMP_LINE='{line}'; COMP_POINT={len(line)}
        function=$(complete -p noria | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
        "$function" noria "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    bash = ["bash", "--norc", "--noprofile", "-c", code]
    done = subprocess.run(bash, capture_output=True, text=True, timeout=60, cwd=cwd)
    assert "not found" not in done.stderr
    return set(done.stdout.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "list.csv").touch()
    (tmp_path / "papers").mkdir()
    return tmp_path


def test_bash_offers_commands(scripts: Path, folder: Path) -> None:
    assert {"run", "get", "demo", "bench", "completion"} <= in_bash(scripts, "noria ", folder)
    assert in_bash(scripts, "noria ge", folder) == {"get"}
    assert in_bash(scripts, "noria completion ", folder) >= {"bash", "zsh", "fish"}


def test_bash_offers_every_option_of_get(scripts: Path, folder: Path) -> None:
    options = {flag for action in parser()._actions for flag in action.option_strings}
    assert options <= in_bash(scripts, "noria get -", folder)
    assert in_bash(scripts, "noria get --skip", folder) == {"--skip-existing"}


def test_bash_offers_values_of_options(scripts: Path, folder: Path) -> None:
    assert in_bash(scripts, "noria get --input-format ", folder) >= {"text", "csv", "tsv", "jsonl", "parquet"}
    assert "list.csv" in in_bash(scripts, "noria get --input li", folder)
    assert "papers" in in_bash(scripts, "noria get --directory p", folder)
    assert "list.csv" not in in_bash(scripts, "noria get --directory ", folder)
    assert "--rounds" in in_bash(scripts, "noria bench --ro", folder)


def test_bash_offers_status_and_retry_and_then_files(scripts: Path, folder: Path) -> None:
    assert {"status", "retry", "list.csv"} <= in_bash(scripts, "noria get ", folder)
    assert in_bash(scripts, "noria get st", folder) == {"status"}
    assert in_bash(scripts, "noria get retry li", folder) == {"list.csv"}


def test_zsh_takes_the_script(scripts: Path, folder: Path) -> None:
    script = scripts / "zsh"
    code = f'autoload -Uz compinit; compinit -u -d {folder}/dump; eval "$(<{script})"; print $_comps[noria]'
    done = subprocess.run([require("zsh"), "-fc", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "noria" in done.stdout
    # What it would show for `noria get st` is what a shell in a terminal shows.
    code = f'autoload -Uz compinit; compinit -u -d {folder}/dump; eval "$(<{script})"; print ready\n'
    with ZshTerminal(folder) as zsh:
        zsh.say(code, "ready")
        zsh.say("noria get sta\t", "noria get status")
        zsh.say("\x15noria get ret\t", "noria get retry")


class ZshTerminal:
    """zsh on a terminal of its own, in `folder`."""

    def __init__(self, folder: Path) -> None:
        pid, self._fd = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.execvpe(require("zsh"), ["zsh", "-f"], {**os.environ, "PS1": "> ", "TERM": "dumb"})
        self._pid = pid

    def __enter__(self) -> "ZshTerminal":
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._fd)

    def say(self, keys: str, expected: str) -> None:
        """Type `keys` and wait until `expected` is shown."""
        os.write(self._fd, keys.encode())
        shown = ""
        while expected not in shown:
            ready, _, _ = select.select([self._fd], [], [], 20)
            assert ready, shown
            shown += os.read(self._fd, 4096).decode("utf-8", "replace")


def test_fish_offers_commands_and_options(scripts: Path, folder: Path) -> None:
    fish = require("fish")

    def offers(line: str) -> set[str]:
        code = f"source {scripts / 'fish'}; complete -C '{line}'"
        home = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        done = subprocess.run(
            [fish, "-c", code], capture_output=True, text=True, timeout=60, env=home, cwd=folder
        )
        assert done.returncode == 0
        return {offer.split("\t")[0] for offer in done.stdout.splitlines()}

    assert {"run", "get", "demo", "bench"} <= offers("noria ")
    assert "--skip-existing" in offers("noria get --sk")
    assert "--rounds" not in offers("noria get --r")
    assert {"csv", "parquet"} <= offers("noria get --input-format ")
    assert {"status", "retry", "list.csv"} <= offers("noria get ")
    assert "list.csv" in offers("noria get status li")


def test_another_shell_is_wrong_usage() -> None:
    done = subprocess.run([*NORIA, "completion", "cmd"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "invalid choice: 'cmd'" in done.stderr
