"""A run on a Dask cluster: a scheduler and workers that are real processes, and nginx, on loopback.

dask and distributed live in processes of their own here: the client in one that runs a small program, as a user
would write it, so that their threads and warnings are theirs.
"""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import noria
from get.fault_server import Exchange, FaultServer
from noria.get.cluster import download_on_cluster
from noria.get.journal import DONE, Journal
from support.nginx import Nginx

pytestmark = pytest.mark.once  # what is tried is the cluster, and takes half a minute

FILES = 200
DEADLINE = 60.0  # seconds for what takes two

PROGRAM = """
import asyncio, json, sys
import noria
from noria.get.cluster import ClusterError, download_on_cluster

async def main():
    urls = [line.strip() for line in open(sys.argv[1])]
    try:
        async for result in download_on_cluster(urls, sys.argv[2], **json.loads(sys.argv[3])):
            print(json.dumps([result.url, result.error, result.skipped, str(result.path), result.attempts]),
                  flush=True)
    except (ClusterError, ValueError) as error:
        print(json.dumps(repr(error)), flush=True)

if __name__ == "__main__":
    noria.run(main())
"""


class Client:
    """A process that downloads on a cluster; a context manager that ends it."""

    def __init__(self, tmp_path: Path, urls: list[str], output: str | Path, **options: Any) -> None:
        (tmp_path / "program.py").write_text(PROGRAM)
        (tmp_path / "urls").write_text("\n".join(urls))
        command = [sys.executable, "-W", "ignore", tmp_path / "program.py", tmp_path / "urls", output]
        self.process = subprocess.Popen(
            [*map(str, command), json.dumps(options)],
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def line(self) -> list[Any]:
        """The next result."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "no more results"
        found = json.loads(line)
        assert isinstance(found, list), found
        return found

    def rest(self) -> list[list[Any]]:
        """All other results, once it has ended well."""
        assert self.process.stdout is not None
        found = [json.loads(line) for line in self.process.stdout]
        assert self.process.wait(DEADLINE) == 0
        return found


CLUSTER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A scheduler with two workers, that are the children of this process; its `args` end with the address."""
    program = tmp_path_factory.mktemp("cluster") / "cluster.py"
    program.write_text(CLUSTER)
    command = [sys.executable, "-W", "ignore", str(program)]
    with subprocess.Popen(
        command, cwd=program.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.args = [*command, process.stdout.readline().strip()]
        yield process
        process.kill()  # its workers end with it


@pytest.fixture
def address(cluster: subprocess.Popen[str]) -> str:
    """The address of the scheduler."""
    return str(list(cluster.args)[-1])  # type: ignore[arg-type]


def workers(cluster: subprocess.Popen[str]) -> list[int]:
    """The processes that run the engine."""
    found = []
    for task in Path(f"/proc/{cluster.pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    directory = tmp_path / "docs"
    directory.mkdir()
    for number in range(FILES):
        (directory / f"{number}.bin").write_bytes(hashlib.sha256(b"%d" % number).digest() * 128)
    return directory


def same(out: Path, docs: Path) -> bool:
    """Whether `out` holds the files of `docs` and, the journal left out, nothing else."""
    found = {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".noria")}
    return found == {path.name: path.read_bytes() for path in docs.iterdir()}


def shown_as_done(path: Path) -> set[str]:
    """URLs of what the journal says is done."""
    with Journal(path, read_only=True) as journal:
        return {record.url for record in journal.records(DONE)}


def test_two_processes_fetch_every_file_once(
    cluster: subprocess.Popen[str],
    address: str,
    docs: Path,
    start_nginx: Callable[..., Nginx],
    tmp_path: Path,
) -> None:
    server, out = start_nginx(docs), tmp_path / "out"
    urls = [server.url(path.name) for path in docs.iterdir()] + [server.url("missing.bin"), "ftp://no/x"]
    with Client(tmp_path, urls, out, cluster=address, shard=20, journal=str(tmp_path / "journal")) as client:
        results = {url: error for url, error, *_ in client.rest()}
    assert results.pop("ftp://no/x") == "unsupported protocol 'ftp': only http and https are known"
    assert results.pop(server.url("missing.bin")) == "the server answered 404 Not Found"
    assert results == dict.fromkeys(urls[:-2])
    assert same(out, docs)
    assert len(server.requests(FILES + 1)) == FILES + 1
    assert len(shown_as_done(tmp_path / "journal")) == FILES


def test_a_worker_that_dies_has_its_shard_done_again(
    cluster: subprocess.Popen[str],
    address: str,
    docs: Path,
    start_nginx: Callable[..., Nginx],
    tmp_path: Path,
) -> None:
    server, out = start_nginx(docs), tmp_path / "out"
    urls = [server.url(path.name) for path in docs.iterdir()]
    with Client(
        tmp_path, urls, out, cluster=address, shard=50, concurrency=2, journal=str(tmp_path / "journal")
    ) as client:
        first = [client.line() for _ in range(20)]
        os.kill(workers(cluster)[0], signal.SIGKILL)
        rest = client.rest()
    assert sorted(url for url, *_ in first + rest) == sorted(urls)
    assert [error for _, error, *_ in first + rest if error] == []
    assert same(out, docs)
    asked = Counter(f"{server.base}{request.target}" for request in server.requests(FILES))
    assert {asked[url] for url, *_ in first} == {1}  # what had been recorded
    assert max(asked.values()) <= 2
    assert shown_as_done(tmp_path / "journal") == set(urls)


def test_a_client_that_dies_goes_on_where_it_was(
    cluster: subprocess.Popen[str],
    address: str,
    docs: Path,
    start_nginx: Callable[..., Nginx],
    tmp_path: Path,
) -> None:
    server, out = start_nginx(docs), tmp_path / "out"
    urls = [server.url(path.name) for path in docs.iterdir()]
    journal = tmp_path / "journal"
    with Client(
        tmp_path, urls, out, cluster=address, shard=50, concurrency=2, journal=str(journal)
    ) as client:
        for _ in range(20):
            client.line()
        os.killpg(client.process.pid, signal.SIGKILL)
        client.process.wait(DEADLINE)
    done = shown_as_done(journal)
    assert len(done) >= 20
    with Client(tmp_path, urls, out, cluster=address, shard=50, journal=str(journal)) as client:
        results = client.rest()
    assert [error for _, error, *_ in results if error] == []
    assert same(out, docs)
    asked = Counter(f"{server.base}{request.target}" for request in server.requests(FILES))
    assert {asked[url] for url in done} == {1}


def test_limits_per_host_hold_for_the_whole_cluster(
    address: str, faults: FaultServer, tmp_path: Path
) -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.02)
        await exchange.reply(b"x")

    urls = [faults.on(f"/{number}", slow) for number in range(40)]
    with Client(tmp_path, urls, tmp_path / "out", cluster=address, shard=10, per_host=3) as client:
        assert [error for _, error, *_ in client.rest() if error] == []
    assert len(faults.seen) == 40
    assert faults.most_at_once <= 3 + 1  # a connection whose answer is out may still be closing


def test_files_that_are_there_are_errors_or_done(address: str, faults: FaultServer, tmp_path: Path) -> None:
    url = faults.on("/x", lambda exchange: exchange.reply(b"theirs"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "x").write_bytes(b"mine")
    with Client(tmp_path, [url], out, cluster="local:1") as client:
        assert client.rest()[0][1] == f"{out / 'x'} exists already"
    assert faults.seen == []
    with Client(tmp_path, [url], out, cluster=address, overwrite=True) as client:
        assert client.rest()[0][1] is None
    assert (out / "x").read_bytes() == b"theirs"


def test_a_cluster_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with FaultServer() as gone:
        port = gone.port
    with Client(tmp_path, [], tmp_path / "out", cluster=f"tcp://127.0.0.1:{port}") as client:
        assert client.process.stdout is not None
        line = client.process.stdout.readline()
    assert f"cannot use the cluster tcp://127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    "options",
    [
        {"cluster": "local:0"},
        {"cluster": "local:x"},
        {"cluster": "local:1", "shard": 0},
        {"cluster": "local:1", "concurrency": 0},
        {"cluster": "local:1", "update": True},
        {"cluster": "local:1", "proxy": "ftp://x"},
        {"cluster": "local:1", "session": object()},
        {"cluster": "local:1", "overwrite": True, "skip_existing": True},
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    async def main() -> None:
        async for _ in download_on_cluster([], tmp_path, **options):
            pass

    with pytest.raises(ValueError):
        noria.run(main())
