"""What `noria get` loads before it begins, and what a defect of its own looks like."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.nginx import Nginx


def imported(*arguments: object) -> set[str]:
    """The modules that `noria get` with these arguments imports, as the interpreter reports them."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "noria", "get", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip() for line in lines}


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """The end of a command, with what it printed."""
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("how", ["-q", "--json", "--fsync"])  # the last one stands for lines in a pipe
def test_no_display_no_rich_and_no_client_for_what_is_not_asked(
    how: str, pdf_server: Nginx, tmp_path: Path
) -> None:
    modules = imported(how, "-o", tmp_path, pdf_server.url("f1040.pdf"))
    assert "noria.get.engine" in modules
    unneeded = {"rich", "aiohttp", "http.cookiejar", "urllib.request", "netrc", "fsspec", "distributed"}
    unneeded |= {"shutil", "ctypes"} | ({"json"} if how != "--json" else set())
    unneeded |= {"urllib.parse", "email.utils"} if how != "--fsync" else set()
    assert modules & unneeded == set()
    assert ("httptools" in modules) == (how == "--fsync")  # which a small plain file can do without
    assert (tmp_path / "f1040.pdf").exists()


def test_without_a_journal_and_checksums_neither_sqlite_nor_openssl(
    pdf_server: Nginx, tmp_path: Path
) -> None:
    modules = imported("-q", "--no-journal", "-o", tmp_path, pdf_server.url("f1040.pdf"))
    assert modules & {"sqlite3", "hashlib", "json", "shutil", "pathlib", "urllib.parse"} == set()
    assert (tmp_path / "f1040.pdf").exists()


def test_the_end_of_the_process_is_an_orderly_one(pdf_server: Nginx, tmp_path: Path) -> None:
    """Nothing is taken apart, and yet what others have to do at the end is done, and output is not lost."""
    program = tmp_path / "program.py"
    program.write_text(
        "import atexit, threading, time\nfrom noria.cli import leave, main\n"
        "if __name__ == '__main__':\n"
        "    atexit.register(print, 'at exit', end='')\n"
        "    threading.Thread(target=lambda: (time.sleep(0.2), print('thread', end=' '))).start()\n"
        "    leave(main())\n"
    )
    command = [sys.executable, program, "get", "-q", "-o", tmp_path / "out", pdf_server.url("f1040.pdf")]
    ended = run(*command)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "thread at exit", "")


def test_help_imports_less_than_a_run() -> None:
    assert imported("--help") & {"rich", "aiohttp", "yarl", "sqlite3", "importlib.metadata"} == set()


def test_a_defect_is_no_wrong_usage(pdf_server: Nginx, tmp_path: Path) -> None:
    """It is put in here: something in the middle of a run raises what a wrong option raises, too."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nimport noria.get.tally\nfrom noria.cli import main\n"
        "def add(self, result):\n    raise ValueError('a defect')\n"
        "noria.get.tally.Tally.add = add\n"
        "if __name__ == '__main__':\n    sys.exit(main(['get', *sys.argv[1:]]))\n"
    )
    command = [sys.executable, program, "-o", tmp_path / "out", pdf_server.url("f1040.pdf")]
    ended = run(*command)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert ended.stderr.splitlines()[-1] == "ValueError: a defect"


def test_a_file_of_credentials_that_is_none_is_wrong_usage(pdf_server: Nginx, tmp_path: Path) -> None:
    (tmp_path / "cookies").write_text("nonsense")
    command = ["-b", tmp_path / "cookies", "-o", tmp_path / "out", pdf_server.url("f1040.pdf")]
    ended = run(sys.executable, "-m", "noria", "get", *command)
    assert ended.returncode == 2
    assert ended.stderr.startswith("noria get: not a cookies file: ")


def catches_sigint(pid: int) -> bool:
    """Whether the process has a handler (proc(5): SigCgt)."""
    (caught,) = re.findall(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(caught, 16) & 1 << signal.SIGINT - 1)


def test_ctrl_c_at_the_very_end_ends_it_without_a_traceback(pdf_server: Nginx, tmp_path: Path) -> None:
    """A thread that does not end, as with a disk that hangs, keeps nobody waiting who will not wait."""
    program = tmp_path / "program.py"
    program.write_text(
        "import threading\nfrom noria.cli import leave, main\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    status = main()\n"
        "    print('over', flush=True)\n"
        "    leave(status)\n"
    )
    command = [sys.executable, program, "get", "-q", "-o", tmp_path / "out", pdf_server.url("f1040.pdf")]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "over\n"
    end = time.monotonic() + 20
    while catches_sigint(process.pid) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (-signal.SIGINT, "")
