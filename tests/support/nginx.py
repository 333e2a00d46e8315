"""A real nginx for one test: its own directory, its own port on 127.0.0.1, gone when the test ends.

`Nginx` starts one worker in the foreground, in a process group of its own, and answers when the constructor
returns. It can be killed the hard way and started again on the same port. It runs as root and as an ordinary
user. The caller gives it a private, empty directory and the directory to serve.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from support.certs import Identity
from support.tools import require

DEADLINE = 10.0  # seconds for nginx to come up, to go, or to have written its log

CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {pid_file};
error_log {root}/error.log notice;
events {{ worker_connections 900; }}
http {{
    types {{ application/pdf pdf; text/plain txt; }}
    default_type application/octet-stream;
    log_format words '$request_method $request_uri $status $body_bytes_sent $connection';
    access_log {root}/access.log words;
    client_body_temp_path {root}/temp;
    proxy_temp_path {root}/temp;
    fastcgi_temp_path {root}/temp;
    uwsgi_temp_path {root}/temp;
    scgi_temp_path {root}/temp;
    keepalive_requests 100000;
    sendfile on;
    server {{
        listen 127.0.0.1:{port}{tls_flag};
        {tls}
        root {docs};
        {extra}
    }}
}}
"""


class Request(NamedTuple):
    """One line of the access log. `connection` is the same number for all requests of one connection."""

    method: str
    target: str
    status: int
    body_bytes: int
    connection: int


class Nginx:
    """A running nginx that serves `docs`; a context manager that stops it.

    root: an empty directory for the configuration and the logs.
    tls: serve https with this certificate instead of http.
    extra: more lines for the `server` block, such as `limit_rate 64k;` or a `location`.
    """

    def __init__(self, root: Path, docs: Path, *, tls: Identity | None = None, extra: str = "") -> None:
        self.root = root
        self.docs = docs
        self._tls = tls
        self._extra = extra
        self._program = require("nginx")
        self._process: subprocess.Popen[bytes] | None = None
        self._pid_file = root / "nginx.pid"  # nginx writes it once it listens
        while True:  # another process may take the port between our asking for it and nginx's using it
            self.port = _free_port()
            self._configure()
            try:
                self.start()
                return
            except OSError as error:
                if "Address already in use" not in str(error):
                    raise

    @property
    def base(self) -> str:
        """The URL of the served directory, without a slash at the end."""
        # A certificate may name an address, but a host name is what clients meet.
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    def url(self, name: str) -> str:
        """The URL of the served file `name`."""
        return f"{self.base}/{name}"

    def start(self) -> None:
        """Start, or start again on the same port; return once nginx accepts a connection.

        Raises OSError with nginx's own words if it ends instead, TimeoutError if it does neither.
        """
        assert self._process is None, "nginx runs already"
        self._pid_file.unlink(missing_ok=True)
        with open(self.root / "stderr.log", "wb") as stderr:
            self._process = subprocess.Popen(
                [self._program, "-p", str(self.root), "-c", str(self.root / "nginx.conf")],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,  # master and worker form a group that can be killed as one
            )
        try:
            self._wait_until_up(self._process)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill master and worker with SIGKILL, as a crash of the machine would."""
        self._end(os.killpg, signal.SIGKILL)

    def stop(self) -> None:
        """Stop nginx if it runs; connections that are open are closed at once."""
        if self._process is not None:
            self._end(os.kill, signal.SIGTERM)

    def requests(self, at_least: int = 0) -> list[Request]:
        """The requests logged so far, oldest first.

        nginx writes a line after it has sent the response, so a client may be ahead of the log: this waits
        until `at_least` lines are there, and raises TimeoutError if they do not come.
        """
        end = time.monotonic() + DEADLINE
        while True:
            try:
                lines = (self.root / "access.log").read_text().splitlines()
            except FileNotFoundError:
                lines = []
            if len(lines) >= at_least:
                return [_request(line) for line in lines]
            if time.monotonic() > end:
                raise TimeoutError(f"{len(lines)} requests in nginx's log after {DEADLINE} s, not {at_least}")
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _configure(self) -> None:
        tls = ""
        if self._tls is not None:
            tls = f"ssl_certificate {self._tls.cert}; ssl_certificate_key {self._tls.key};"
        config = CONFIG.format(
            # Started by root, the worker would become a user who may not read a test's directory.
            user="user root;" if os.geteuid() == 0 else "",
            root=self.root,
            pid_file=self._pid_file,
            docs=self.docs,
            port=self.port,
            tls_flag=" ssl" if tls else "",
            tls=tls,
            extra=self._extra,
        )
        (self.root / "nginx.conf").write_text(config)

    def _wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + DEADLINE
        while not self._listens():
            if time.monotonic() > end:
                raise TimeoutError(f"nginx did not answer on port {self.port} in {DEADLINE} s")
            try:
                process.wait(timeout=0.01)
            except subprocess.TimeoutExpired:
                continue
            raise OSError(f"nginx did not start: {(self.root / 'stderr.log').read_text()}")

    def _listens(self) -> bool:
        if not self._pid_file.exists():
            return False
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE).close()
        except OSError:
            return False
        return True

    def _end(self, send: Callable[[int, int], None], number: signal.Signals) -> None:
        assert self._process is not None, "nginx does not run"
        process, self._process = self._process, None
        try:
            if process.poll() is None:
                send(process.pid, number)
                process.wait(timeout=DEADLINE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        end = time.monotonic() + DEADLINE
        while self._listens():  # the master is dead; its killed worker may still be on its way out
            if time.monotonic() > end:
                raise TimeoutError(f"port {self.port} still answers {DEADLINE} s after nginx's end")
            time.sleep(0.01)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _request(line: str) -> Request:
    method, target, status, body_bytes, connection = line.split()
    return Request(method, target, int(status), int(body_bytes), int(connection))
