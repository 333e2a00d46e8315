"""`noria get` with `--dask`, and with `-o` for an object store: the command as a child process, a real cluster of
processes, and moto's server, which speaks S3.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from get.fault_server import Exchange, FaultServer
from noria.get.journal import DONE, FAILED, FINISHING, Journal
from noria.get.store import Stamp
from noria.get.target import Target
from support.nginx import Nginx

GET = [sys.executable, "-m", "noria", "get"]
KEY, SECRET = "the-key-of-a-test", "the-secret-of-a-test"
DEADLINE = 60.0  # seconds for what takes ten


def get(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GET, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


def visible(directory: Path) -> set[str]:
    """What is in `directory`, save for the journal."""
    return {name for name in os.listdir(directory) if not name.startswith(".noria-get.db")}


def done(journal: Path) -> set[str]:
    """URLs of what `journal` has as done."""
    with Journal(journal, read_only=True) as known:
        return {record.url for record in known.records(DONE)}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    directory = tmp_path / "docs"
    directory.mkdir()
    for number in range(60):
        (directory / f"{number}.bin").write_bytes(b"%d" % number * 1000)
    return directory


# What does not go together is said before anything begins.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dask", "local:0"], "argument --dask: invalid cluster value: 'local:0'"),
        (["--dask", "scheduler"], "argument --dask: invalid cluster value: 'scheduler'"),
        (["--dask", "local:1", "--update"], "argument --update: not allowed with argument --dask"),
        (["--dask", "local:1", "--ca-file", "x"], "argument --ca-file: not allowed with argument --dask"),
        (["--dask", "local:1", "--cert", "x"], "argument --cert: not allowed with argument --dask"),
        (["-o", "gopher://x/y"], "gopher://x/y: Protocol not known: gopher"),
        (["-o", "https://x/y"], "https://x/y: by http, files can be fetched only"),
        (["-o", "memory://x", "--update"], "--update needs --journal FILE for memory://x"),
        (["-o", "memory://x", "-s", "2"], "--segments cannot be used for memory://x"),
    ],
)
def test_what_does_not_go_together_is_2(arguments: list[str], words: str) -> None:
    ended = get(*arguments, "http://127.0.0.1/x")
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_directory_may_be_written_as_a_url(pdf_server: Nginx, tmp_path: Path) -> None:
    assert get("-o", f"file://{tmp_path}/a%20b", pdf_server.url("f1040.pdf")).returncode == 0
    assert visible(tmp_path / "a b") == {"f1040.pdf"}
    assert (tmp_path / "a b" / ".noria-get.db").exists()


# A cluster.


@pytest.mark.once
def test_a_cluster_of_two_processes_does_the_work(
    docs: Path, start_nginx: Callable[..., Nginx], tmp_path: Path
) -> None:
    server, out, report = start_nginx(docs), tmp_path / "out", tmp_path / "run.html"
    urls = tmp_path / "urls"
    urls.write_text("\n".join(server.url(name) for name in [*os.listdir(docs), "missing"]) + "\nno url\n")
    ended = get("-i", urls, "-o", out, "--dask", "local:2", "--json", "--report", report)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("60 downloaded, 2 failed, ")
    assert f"{server.url('missing')}: the server answered 404 Not Found" in ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [event["event"] for event in events] == ["done"] * 62 + ["summary"]
    assert events[-1]["received"] == sum(path.stat().st_size for path in docs.iterdir())
    assert {name: (out / name).read_bytes() for name in visible(out)} == {
        path.name: path.read_bytes() for path in docs.iterdir()
    }
    assert "60" in report.read_text()
    asked = len(server.requests(61))
    ended = get("-q", "--dask", "local:1", "-i", urls, "-o", out)
    assert ended.returncode == 1
    assert len(server.requests(asked + 1)) == 62  # the missing one only


@pytest.mark.once
def test_ctrl_c_ends_the_cluster_and_the_same_command_goes_on(
    faults: FaultServer, docs: Path, tmp_path: Path
) -> None:
    async def serve(exchange: Exchange) -> None:
        if exchange.path == "/last.bin" and exchange.number == 1:
            await exchange.hang()
        await exchange.reply(b"right")

    faults.always = serve
    out = tmp_path / "out"
    names = [*(f"{number}.bin" for number in range(20)), "last.bin"]
    command = [*GET, "-o", str(out), "--dask", "local:2", "-j", "4", *(faults.url(f"/{n}") for n in names)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            _wait(lambda: out.exists() and len(visible(out)) >= 20)
            _wait(lambda: len(done(out / ".noria-get.db")) == 20)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
            _, stderr = process.communicate(timeout=DEADLINE)
            assert process.returncode == 130
            _wait(lambda: _is_gone(process.pid))
        finally:
            process.kill()
    assert stderr.splitlines()[-1].startswith("interrupted: 20 downloaded, ")
    assert "Traceback" not in stderr
    assert visible(out) == set(names[:-1])
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert ended.returncode == 0, ended.stderr
    assert visible(out) == set(names)
    assert Counter(faults.seen) == {f"/{name}": 2 if name == "last.bin" else 1 for name in names}


@pytest.mark.once
def test_a_cluster_that_is_not_there_is_2(tmp_path: Path) -> None:
    with FaultServer() as gone:
        port = gone.port
    ended = get("-o", tmp_path, "--dask", f"tcp://127.0.0.1:{port}", "http://127.0.0.1/x")
    assert ended.returncode == 2
    assert f"noria get: cannot use the cluster tcp://127.0.0.1:{port}: " in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.once
def test_a_worker_thought_dead_writes_into_no_file(faults: FaultServer, tmp_path: Path) -> None:
    """It is stopped in the middle of a file, another one makes the file, and then it wakes up."""
    half = 1 << 20
    woken = tmp_path / "woken"

    async def serve(exchange: Exchange) -> None:
        # Each answer has a content of its own, so that it shows if two of them meet in a file.
        letter = b"%d" % exchange.number
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * half))
        await exchange.send(letter * half)
        if exchange.number == 1:
            while not woken.exists():
                await asyncio.sleep(0.02)
        await exchange.send(letter * half)

    url = faults.on("/x.bin", serve)
    out, journal = tmp_path / "out", tmp_path / "journal"
    quick = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "2 s"}
    processes: list[subprocess.Popen[str]] = []

    def start(*command: object, **pipes: int) -> subprocess.Popen[str]:
        process = subprocess.Popen([*map(str, command)], env=quick, text=True, cwd=tmp_path, **pipes)  # type: ignore[call-overload]
        processes.append(process)
        return process  # type: ignore[no-any-return]

    address = f"tcp://127.0.0.1:{_free_port()}"
    dask = [sys.executable, "-W", "ignore", "-m", "dask"]
    worker = [*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        port = address.rsplit(":", 1)[1]
        start(*dask, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", **quiet)
        workers = [start(*worker, **quiet)]
        client = start(*GET, "--dask", address, "-o", out, "--journal", journal, url, stderr=subprocess.PIPE)
        _wait(lambda: _parts(out) and _parts(out)[0].stat().st_size >= half // 2)
        workers[0].send_signal(signal.SIGSTOP)
        workers.append(start(*worker, **quiet))
        _, stderr = client.communicate(timeout=DEADLINE)
        assert client.returncode == 0, stderr
        assert (out / "x.bin").read_bytes() == b"2" * (2 * half)
        inode = (out / "x.bin").stat().st_ino
        workers[0].send_signal(signal.SIGCONT)
        woken.touch()
        # It finds out that nobody wants it, and ends or takes up with the scheduler again.
        time.sleep(3)
        assert (out / "x.bin").read_bytes() == b"2" * (2 * half)
        assert (out / "x.bin").stat().st_ino == inode
        assert visible(out) == {"x.bin"}
        assert done(journal) == {url}
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _parts(out: Path) -> list[Path]:
    return list(out.glob("**/x.bin.part"))


def _wait(what: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def _free_port() -> int:
    with FaultServer() as gone:
        return gone.port


# An object store.


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a place in a new bucket; the environment has what it takes to reach it."""
    name = f"bucket-{uuid.uuid4().hex}"
    for variable, value in [
        ("AWS_ENDPOINT_URL", s3_endpoint),
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ]:
        monkeypatch.setenv(variable, value)
    store(s3_endpoint).mkdir(name)
    return f"s3://{name}/deep"


def store(endpoint: str) -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("s3", endpoint_url=endpoint, key=KEY, secret=SECRET)


def objects(endpoint: str, url: str) -> dict[str, bytes]:
    """What is at `url`, asked anew."""
    s3 = store(endpoint)
    s3.invalidate_cache()
    return {path.rsplit("/", 1)[1]: s3.cat_file(path) for path in s3.find(url.removeprefix("s3://"))}


@pytest.mark.once
def test_files_go_to_a_bucket_and_the_journal_knows(
    s3_endpoint: str, bucket: str, faults: FaultServer, tmp_path: Path
) -> None:
    async def late(exchange: Exchange) -> None:
        await exchange.reply(b"late", "200 OK" if exchange.number > 1 else "404 Not Found")

    urls = [faults.on(f"/{n}", lambda exchange: exchange.reply(exchange.path.encode() * 9)) for n in "abc"]
    urls.append(faults.on("/late", late))
    journal = tmp_path / "run.db"
    ended = get("-o", bucket, "--dry-run", *urls)
    assert ended.stdout.splitlines()[0] == f"{urls[0]}\t{bucket}/a"
    ended = get("-o", bucket, "--journal", journal, *urls)
    assert ended.returncode == 1
    assert f"{bucket}/a  18 B" in ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
    ended = get("retry", journal, "-o", bucket, "--json")
    assert (ended.returncode, ended.stderr.split(",")[0]) == (0, "1 downloaded")
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [event["path"] for event in told if event["event"] == "done"] == [f"{bucket}/late"]
    assert get("-o", bucket, "--journal", journal, *urls).returncode == 0
    assert Counter(faults.seen) == {"/a": 1, "/b": 1, "/c": 1, "/late": 2}
    assert objects(s3_endpoint, bucket) == {n: f"/{n}".encode() * 9 for n in "abc"} | {"late": b"late"}
    assert set(os.listdir(tmp_path)) == {"run.db", "run.db-lock"}
    ended = get("-o", bucket, urls[0])  # without a journal nobody knows whose it is
    assert ended.returncode == 1
    assert f"{bucket}/a exists already" in ended.stderr


@pytest.mark.once
def test_a_death_between_upload_and_record_is_understood(
    s3_endpoint: str, bucket: str, faults: FaultServer, tmp_path: Path
) -> None:
    url = faults.on("/x", lambda exchange: exchange.reply(b"whole"))
    with Journal(tmp_path / "db") as journal:
        journal.begin()
        (row,) = journal.register([(Target(url), "x")])
        journal.finishing(row.id, Stamp(5, 0), None, None)
    store(s3_endpoint).pipe_file(f"{bucket.removeprefix('s3://')}/x", b"whole")
    assert get("-o", bucket, "--journal", tmp_path / "db", url).returncode == 0
    assert faults.seen == []
    with Journal(tmp_path / "db", read_only=True) as journal:
        assert journal.status().done == 1
        assert [*journal.records(FINISHING), *journal.records(FAILED)] == []


@pytest.mark.once
def test_ctrl_c_leaves_no_upload_behind(
    s3_endpoint: str, bucket: str, faults: FaultServer, tmp_path: Path
) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n" + bytes(12_000_000))
        await exchange.hang()

    s3 = store(s3_endpoint)
    name = bucket.split("/")[2]
    command = [*GET, "-o", bucket, "--journal", str(tmp_path / "db"), faults.on("/x", half)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        try:
            _wait(lambda: s3.list_multipart_uploads(name))
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert objects(s3_endpoint, bucket) == {}
    assert s3.list_multipart_uploads(name) == []


@pytest.mark.once
def test_a_cluster_fills_a_bucket(
    s3_endpoint: str, bucket: str, docs: Path, start_nginx: Callable[..., Nginx], tmp_path: Path
) -> None:
    server = start_nginx(docs)
    urls = [server.url(name) for name in os.listdir(docs)]
    arguments = ["-o", bucket, "--dask", "local:2", "--journal", tmp_path / "db", *urls]
    ended = get(*arguments)
    assert ended.returncode == 0, ended.stderr
    assert objects(s3_endpoint, bucket) == {path.name: path.read_bytes() for path in docs.iterdir()}
    assert get(*arguments).returncode == 0
    assert len(server.requests(60)) == 60


@pytest.mark.once
def test_a_bucket_that_is_not_there_has_a_clear_error(bucket: str, faults: FaultServer) -> None:
    url = faults.on("/x", lambda exchange: exchange.reply(b"x"))
    ended = get("-o", "s3://no-such-bucket-anywhere/x", url)
    assert ended.returncode in (1, 2)
    assert "s3://no-such-bucket-anywhere/x" in ended.stderr
    assert "bucket does not exist" in ended.stderr
    assert ended.stderr.count("cannot write") == 1
    assert get("-o", "s3://", url).returncode == 2
