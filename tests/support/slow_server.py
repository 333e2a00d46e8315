"""A file server on loopback that lets every client wait: nginx answers too quickly to show who waits for what."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def slow_server(docs: Path, delay: float) -> Iterator[str]:
    """Serve `docs`, each answer `delay` seconds late; gives the URL of the directory."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            threading.Event().wait(delay)  # the latency itself, not a wait for something
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(docs))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
