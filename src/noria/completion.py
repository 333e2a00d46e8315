"""`noria completion SHELL`: a script that teaches bash, zsh or fish the commands of noria and their options.

Made from the commands' own parsers, by shtab. To use it, in the shell's start-up file: `eval "$(noria completion
bash)"` (or zsh), `noria completion fish | source`. Needs the extra `get`.
"""

import argparse
import sys
from typing import Any

SHELLS = ("bash", "zsh", "fish")

_FILES = {
    "input", "journal", "bearer_file", "cookies", "cert", "key", "ca_file", "report", "json", "markdown", "from", "db",
    "program",
}  # fmt: skip
_DIRECTORIES = {"directory", "charts"}

# `noria get` takes status or retry, and after them a file.
_COMMAND_OR_FILE = {
    "bash": "_noria_get_first",
    "zsh": "_noria_get_first",
    "fish": "status retry (__fish_complete_path)",
}
_PREAMBLE = {
    "bash": '_noria_get_first() {\n  compgen -W "status retry" -- "$1"\n  compgen -f -- "$1"\n}\n',
    "zsh": "_noria_get_first() {\n  local -a commands=(status retry)\n  _describe command commands\n  _files\n}\n",
}


def main(arguments: list[str]) -> int:
    """Print the script for the shell named in `arguments` and return the exit status.

    Raises SystemExit for --help and wrong usage, ModuleNotFoundError without shtab.
    """
    parser = _own_parser()
    shell: str = parser.parse_args(arguments).shell
    print(script(shell), end="")
    return 0


def script(shell: str) -> str:
    """The script for `shell`, one of SHELLS."""
    import shtab

    text: str = shtab.complete(_all_commands(shtab), shell=shell, preamble=_PREAMBLE.get(shell, ""))
    return text.rstrip("\n") + "\n"


def _own_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="noria completion",
        description="Print a script that completes noria's commands and options in a shell.",
        epilog='bash, zsh:  eval "$(noria completion bash)" in ~/.bashrc, or zsh in ~/.zshrc\n'
        "fish:       noria completion fish > ~/.config/fish/completions/noria.fish\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    return parser


def _all_commands(shtab: Any) -> argparse.ArgumentParser:
    from noria.bench.command import make_parser as bench
    from noria.get.arguments import parser as get

    root = argparse.ArgumentParser(prog="noria", description="asyncio rebuilt in one fast compiled core")
    root.add_argument("--version", action="version", version="noria", help="print the version")
    commands = root.add_subparsers(dest="command")
    run = argparse.ArgumentParser(prog="noria run")
    run.add_argument("-m", metavar="MODULE", help="run a module")
    run.add_argument("program", nargs="*", help="the program to run and its arguments")
    for name, parser, words in [
        ("run", run, "run any Python script or module with noria as its event loop"),
        ("get", get(), "download files, many at a time"),
        ("demo", argparse.ArgumentParser(prog="noria demo"), "see what blocking the loop costs"),
        ("bench", bench(), "compare every event loop that is installed"),
        ("completion", _own_parser(), "print a script for completion in a shell"),
    ]:
        command = commands.add_parser(name, parents=[parser], add_help=False, help=words, description=words)
        for action in command._actions:
            if action.dest in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.dest in _DIRECTORIES:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif name == "get" and action.dest == "url":
                action.complete = _COMMAND_OR_FILE  # type: ignore[attr-defined]
    return root


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
