"""Loads over HTTP: wrk against a server under test, and an nginx with small files beside a client under test."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BODY = b"Hello, world!"  # what the servers under test answer to GET /

CONNECTIONS = 50


def wrk(address: str, seconds: float) -> tuple[int, float]:
    """Load `tcp:PORT` with wrk: 50 connections kept alive, one thread. wrk counts whole seconds, so it is at least one.

    One request beforehand checks the answer itself, which wrk does not.
    """
    port = int(address.removeprefix("tcp:"))
    _check(port)
    duration = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{duration}s", f"http://127.0.0.1:{port}/"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration + 30, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"wrk did not end within {duration + 30} s") from None
    said = done.stdout
    counted = re.search(r"(\d+) requests in ([\d.]+)s", said)
    if done.returncode != 0 or counted is None:
        raise RuntimeError(
            (done.stderr or said).strip().splitlines()[-1] if done.stderr or said else "wrk failed"
        )
    for complaint in ("Socket errors", "Non-2xx"):
        if complaint in said:
            raise RuntimeError(next(line.strip() for line in said.splitlines() if complaint in line))
    if not int(counted[1]):
        raise RuntimeError(f"not one answer in {duration} s")
    return int(counted[1]), float(counted[2])


def _check(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise RuntimeError(f"GET / failed: {str(error) or type(error).__name__}") from None
    finally:
        connection.close()
    if (answer.status, body) != (200, BODY):
        raise RuntimeError(f"GET / gave {answer.status} and {body[:40]!r}")


FILES = 5_000
FILE_SIZE = 4096

_CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{ worker_connections 900; }}
http {{
    default_type application/octet-stream;
    access_log off;
    keepalive_requests 1000000;
    open_file_cache max={files};
    client_body_temp_path {root}/temp;
    proxy_temp_path {root}/temp;
    fastcgi_temp_path {root}/temp;
    uwsgi_temp_path {root}/temp;
    scgi_temp_path {root}/temp;
    server {{ listen 127.0.0.1:{port}; root {root}/files; }}
}}
"""


@contextlib.contextmanager
def small_files() -> Iterator[str]:
    """nginx with 5,000 files of 4 KiB, called 0 to 4999; the value is the URL of their directory."""
    with tempfile.TemporaryDirectory(prefix="noria-bench-nginx-") as name:
        root = Path(name)
        (root / "files").mkdir()
        for number in range(FILES):
            (root / "files" / str(number)).write_bytes(f"{number:<{FILE_SIZE}}".encode())
        server, port = _start(root)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()  # the master ends its worker, then itself
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _start(root: Path) -> tuple[subprocess.Popen[bytes], int]:
    # nginx cannot choose a port itself, and another process may take the one we found before nginx does.
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        # Started by root, the worker would become a user who may not read the directory.
        user = "user root;" if os.geteuid() == 0 else ""
        (root / "nginx.conf").write_text(_CONFIG.format(user=user, root=root, files=FILES, port=port))
        server = subprocess.Popen(
            [shutil.which("nginx") or "nginx", "-p", str(root), "-c", str(root / "nginx.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 10
        while server.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                if (root / "nginx.pid").exists():  # it is ours that answers
                    return server, port
            time.sleep(0.01)
        server.kill()
        server.wait()
    log = root / "error.log"
    raise RuntimeError(f"nginx did not start: {log.read_text().strip() if log.exists() else 'no message'}")
