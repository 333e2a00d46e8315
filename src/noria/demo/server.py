"""A file server on loopback that takes its time, in a thread and on a loop of its own.

The thread matters: one of the demonstrated downloaders blocks its loop, and a server on that same loop could
never answer it.
"""

import asyncio
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from aiohttp import web

import noria


class FileServer:
    """Serves `files`, name -> content, on a free port of 127.0.0.1 while the `with` block runs.

    Like a distant server it answers each request `latency` seconds late and then sends the body in `pieces`
    pieces, `pause` seconds apart. Entering raises OSError if no port can be had.
    """

    def __init__(self, files: Mapping[str, bytes], *, latency: float, pieces: int, pause: float) -> None:
        self._files = files
        self._latency = latency
        self._pieces = pieces
        self._pause = pause
        self._thread = threading.Thread(target=self._serve, name="noria-demo-server", daemon=True)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.port = 0

    def url(self, name: str) -> str:
        """Where the file `name` is."""
        return f"http://127.0.0.1:{self.port}/{name}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self) -> None:
        try:
            noria.run(self._main())
        except BaseException as error:  # it belongs to whoever started the server
            self._failure = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        application = web.Application()
        application.router.add_get("/{name}", self._answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            self._started.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = self._files.get(request.match_info["name"])
        if body is None:
            raise web.HTTPNotFound
        await asyncio.sleep(self._latency)
        response = web.StreamResponse()
        response.content_type = "application/pdf"
        response.content_length = len(body)
        await response.prepare(request)
        size = -(-len(body) // self._pieces)
        for start in range(0, len(body), size):
            await asyncio.sleep(self._pause)
            await response.write(body[start : start + size])
        await response.write_eof()
        return response
