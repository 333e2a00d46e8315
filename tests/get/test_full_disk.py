"""A disk or a quota that is used up, with the files and their journal on it: what does not fit fails, file by file, and
the same command goes on when there is room.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from noria.get.journal import DONE, Journal
from support.nginx import Nginx
from support.tools import require

GET = [sys.executable, "-m", "noria", "get"]
FILES, SIZE = 100, 20_000  # bytes
SHELL = """
set -e
PATH=$PATH:/usr/sbin:/sbin
cd "$1"
{mount}
set +e
"$2" -m noria get -q -j 2 -i list -o full/out >first 2>&1
echo $? >>first
"$2" -m noria get status full/out/.noria-get.db >status
{more}
"$2" -m noria get -q -j 2 -i list -o full/out >second 2>&1
echo $? >>second
cp full/out/[0-9]* full/out/.noria-get.db all
ls -A full/out >all/names
"""
TMPFS = {"mount": "mount -t tmpfs -o size=1500k tmpfs full", "more": "mount -o remount,size=20m full"}
BTRFS = {
    "mount": """truncate -s 130M image && mkfs.btrfs -q -f -M image && mount -o loop image full
btrfs quota enable full && btrfs subvolume create full/out && btrfs qgroup limit 1M full/out && sync""",
    "more": "btrfs qgroup limit none full/out",
}


@pytest.fixture
def server(start_nginx: Callable[..., Nginx], tmp_path: Path) -> Nginx:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(FILES):
        (docs / f"{number}.bin").write_bytes(b"%04d" % number * (SIZE // 4))
    return start_nginx(docs)


@pytest.mark.parametrize("kind", ["full", "quota"])
def test_what_does_not_fit_fails_alone_and_goes_on_when_it_fits(
    kind: str, server: Nginx, tmp_path: Path
) -> None:
    for name in ("full", "all"):
        (tmp_path / name).mkdir()
    urls = [server.url(f"{number}.bin") for number in range(FILES)]
    (tmp_path / "list").write_text("\n".join(urls))
    if kind == "quota":
        require("btrfs")
        if os.geteuid() != 0:
            pytest.skip("needs root, to mount a file system with a quota")
    how = BTRFS if kind == "quota" else TMPFS
    inside = ["sh", "-c", SHELL.format(**how), "sh", str(tmp_path), sys.executable]
    space = [require("unshare"), "-m" if os.geteuid() == 0 else "-rm"]
    probe = subprocess.run(
        [*space, "sh", "-c", f"set -e; PATH=$PATH:/usr/sbin:/sbin; cd {tmp_path}; {how['mount']}"],
        capture_output=True,
        text=True,
    )
    if probe.returncode != 0:
        pytest.skip(f"cannot mount what is to be full: {probe.stderr.strip()}")
    ended = subprocess.run([*space, *inside], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    first = (tmp_path / "first").read_text().splitlines()
    assert first.pop() == "1"  # and not the -7 of SIGBUS
    words = "No space left on device" if kind == "full" else "Disk quota exceeded"
    assert any(
        f"cannot write full/out/{number}.bin: {words}" in line for line in first for number in range(99)
    )
    # One line for each that failed, and no other words.
    failed = {line.split(": ")[1] for line in first}
    assert len(failed) == len(first) > 10
    assert failed <= set(urls)
    assert " to be done" in (tmp_path / "status").read_text()
    assert (tmp_path / "second").read_text() == "0\n"
    for number in range(FILES):
        expected = b"%04d" % number * (SIZE // 4)
        assert (tmp_path / "all" / f"{number}.bin").read_bytes() == expected
    names = (tmp_path / "all" / "names").read_text().split()
    assert len([name for name in names if not name.startswith(".noria")]) == FILES
    with Journal(tmp_path / "all" / ".noria-get.db", read_only=True) as journal:
        assert {record.url for record in journal.records(DONE)} == set(urls)
    asked = Counter(request.target for request in server.requests(FILES))
    arrived = set(urls) - failed
    assert {asked[f"/{url.rsplit('/', 1)[1]}"] for url in arrived} == {1}  # also what could not be recorded


def test_a_journal_that_cannot_be_shared_says_so(server: Nginx, tmp_path: Path) -> None:
    """On btrfs and its like a run has the journal to itself."""
    require("btrfs")
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system")
    (tmp_path / "full").mkdir()
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom noria.get.journal import Journal, JournalError\n"
        "with Journal(sys.argv[1]) as journal:\n    journal.begin()\n"
        "    try:\n        Journal(sys.argv[1], read_only=True).status()\n"
        "    except JournalError as error:\n        print(error)\n"
        "print(Journal(sys.argv[1], read_only=True).status().total)\n"
    )
    mount = "PATH=$PATH:/usr/sbin:/sbin; cd $1; truncate -s 130M image && mkfs.btrfs -q -f -M image && mount -o loop image full && shift"
    inside = ["sh", "-c", f'{mount} && exec "$@"', "sh", str(tmp_path), sys.executable, program, "full/db"]
    ended = subprocess.run([require("unshare"), "-m", *inside], capture_output=True, text=True, timeout=60)
    if "mount:" in ended.stderr:
        pytest.skip(f"cannot mount btrfs: {ended.stderr.strip()}")
    assert ended.stdout.splitlines()[-1] == "0", ended.stderr
    assert "a run has it to itself" in ended.stdout


@pytest.mark.parametrize("journal", [True, False])
def test_what_may_not_be_written_and_what_cannot_be_named_fail_alone(
    server: Nginx, tmp_path: Path, journal: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "1.bin.part").touch(mode=0)  # somebody else's
    (out / "2.bin.part").mkdir()
    (out / "3.bin.part").symlink_to(tmp_path / "elsewhere")
    urls = [server.url(f"{number}.bin") for number in range(6)]
    command = [*GET, "-o", str(out), *([] if journal else ["--no-journal"]), *urls]
    if os.geteuid() == 0:  # root, but without the right to write everywhere
        command = [require("setpriv"), "--bounding-set", "-dac_override,-dac_read_search", *command]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    for number, words in [
        (1, "Permission denied"),
        (2, "Is a directory"),
        (3, "Too many levels of symbolic links"),
    ]:
        assert f"{urls[number]}: cannot write {out}/{number}.bin: {words}" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("3 downloaded, 3 failed, ")
    assert sorted(path.name for path in out.glob("*.bin")) == ["0.bin", "4.bin", "5.bin"]
    assert not (tmp_path / "elsewhere").exists()
