"""The manual page says what the command does, and docs/get.md too."""

import subprocess
import sys
from pathlib import Path

from noria.get.arguments import ENVIRONMENT, EXIT_STATUSES, parser
from noria.get.man import page
from support.tools import require

ROOT = Path(__file__).parents[2]


def test_the_page_in_docs_is_current() -> None:
    committed = (ROOT / "docs/man/noria-get.1").read_text()
    assert committed == page(), "run: python -m noria.get.man > docs/man/noria-get.1"


def test_man_shows_every_option_and_exit_status(tmp_path: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "noria", "get", "--man"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert printed.stderr == ""
    path = tmp_path / "noria-get.1"
    path.write_text(printed.stdout)
    done = subprocess.run(
        [require("man"), "--warnings", "-P", "cat", "-l", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"MANWIDTH": "200", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    for action in parser()._actions:
        for flag in action.option_strings:
            assert flag in done.stdout
    for words in EXIT_STATUSES.values():
        assert words[1:60] in " ".join(done.stdout.split())
    for name in ENVIRONMENT:
        assert name in done.stdout


def test_the_document_names_every_option_and_exit_status() -> None:
    text = (ROOT / "docs/get.md").read_text()
    for action in parser()._actions:
        assert not action.option_strings or any(f"`{flag}" in text for flag in action.option_strings), action
    for status in EXIT_STATUSES:
        assert f"| {status} |" in text


def test_help_needs_no_http_client_and_no_display() -> None:
    code = (
        "import sys\nfrom noria.cli import main\ntry:\n    main(['get', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'aiohttp', 'rich', 'yarl', 'pyarrow', 'shtab', 'sqlite3'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=60, check=True)
