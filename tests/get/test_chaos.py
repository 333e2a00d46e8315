"""A run that is killed again and again, and a server that is: in the end every file is there and right, and
nothing that the journal had recorded was asked for a second time.

The moments are random, by a seed that a failure shows. A kill waits for a number of files to have arrived and not
for a time, so that a slow machine sees the same.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from noria.get.journal import DONE, Journal
from support.nginx import Nginx

pytestmark = pytest.mark.once  # what is tried is the journal, and takes half a minute

FILES = 5_000
KILLS = 20
DEADLINE = 90.0  # seconds for what takes a fraction of one

PROGRAM = """
import sys
import noria
from noria.get import download_all

async def main():
    urls = (line.strip() for line in open(sys.argv[1]))
    options = dict(journal=sys.argv[2] + "/journal", concurrency=50, retries=int(sys.argv[3]), longest_wait=0.3)
    async for result in download_all(urls, sys.argv[2] + "/out", **options):
        if result.error is not None:
            print(result.url, result.error, flush=True)

noria.run(main())
"""


def body(number: int) -> bytes:
    """What is in file `number`: some are large enough to be cut off in the middle."""
    return hashlib.sha256(b"%d" % number).digest() * (16 if number % 50 else 10_000)


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that are served."""
    directory = tmp_path_factory.mktemp("docs")
    for number in range(FILES):
        (directory / f"{number}.bin").write_bytes(body(number))
    return directory


class Chaos:
    """A server, a list, a place, and a process that downloads, which can be killed and started again."""

    def __init__(self, server: Nginx, place: Path, retries: int) -> None:
        self.server = server
        self.place = place
        self.out = place / "out"
        self.out.mkdir()
        (place / "program.py").write_text(PROGRAM)
        (place / "urls").write_text("".join(f"{server.url(f'{number}.bin')}\n" for number in range(FILES)))
        self._retries = retries
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, self.place / "program.py", self.place / "urls", self.place, self._retries]
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
        return self.process

    def kill(self) -> None:
        """End the process as a crash does, if it is not at its end already."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=DEADLINE)

    def wait_for(self, files: int) -> None:
        """Until so many files are in the directory, or the process has ended."""
        assert self.process is not None
        end = time.monotonic() + DEADLINE
        while self.process.poll() is None and len(os.listdir(self.out)) < files:
            assert time.monotonic() < end
            time.sleep(0.001)

    def recorded(self) -> set[str]:
        """The paths of what the journal has as done."""
        if not (self.place / "journal").exists():
            return set()
        with Journal(self.place / "journal", read_only=True) as journal:
            return {record.url.removeprefix(self.server.base) for record in journal.records(DONE)}

    def finish(self) -> str:
        """Wait for the end of the process; what it printed."""
        assert self.process is not None
        printed, _ = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == 0
        return printed

    def check(self) -> None:
        """Every file is right, there is no other, and the journal knows them all."""
        found = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in self.out.iterdir()}
        assert found == {f"{n}.bin": hashlib.sha256(body(n)).digest() for n in range(FILES)}
        assert len(self.recorded()) == FILES

    def asked(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter(request.target for request in self.server.requests())


def test_a_run_killed_at_random_moments_ends_right(
    docs: Path, start_nginx: Callable[..., Nginx], tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    chaos = Chaos(start_nginx(docs), tmp_path, retries=2)
    once: dict[str, int] = {}  # path -> how often it had been asked for when it was recorded
    for files in sorted(rng.sample(range(FILES), KILLS)):
        chaos.start()
        chaos.wait_for(files)
        chaos.kill()
        recorded = chaos.recorded()
        # Nobody asks now; nginx may still have lines to write of connections that have just ended.
        asked = settled(chaos)
        again = {path for path, count in once.items() if asked[path] != count}
        assert not again, sorted(again)[:5]
        once.update({path: asked[path] for path in recorded if path not in once})
    chaos.start()
    assert chaos.finish() == ""
    chaos.check()
    asked = settled(chaos)
    again = {path for path, count in once.items() if asked[path] != count}
    assert not again, sorted(again)[:5]


def settled(chaos: Chaos) -> Counter[str]:
    """How often each path was asked for, once nginx has logged the requests of a client that is gone."""
    end = time.monotonic() + DEADLINE
    while established(chaos.server.port):
        assert time.monotonic() < end
        time.sleep(0.005)
    return chaos.asked()


def established(port: int) -> bool:
    """Whether the server has a connection to anybody."""
    ending = f":{port:04X}"
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    # Its own end, in the states in which nginx still holds it: ESTABLISHED and CLOSE_WAIT.
    return any(row[1].endswith(ending) and row[3] in ("01", "08") for row in rows)


def test_a_server_killed_at_random_moments_gets_every_file_fetched(
    docs: Path, start_nginx: Callable[..., Nginx], tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    chaos = Chaos(start_nginx(docs), tmp_path, retries=200)
    chaos.start()
    for files in sorted(rng.sample(range(FILES), KILLS)):
        chaos.wait_for(files)
        chaos.server.kill()
        recorded = chaos.recorded()
        before = chaos.asked()
        chaos.server.start()
        if files > FILES // 2:  # the check costs time
            continue
        chaos.wait_for(files + 100)
        after = chaos.asked()
        assert not {path for path in recorded if after[path] != before[path]}
    assert chaos.finish() == ""
    chaos.check()
