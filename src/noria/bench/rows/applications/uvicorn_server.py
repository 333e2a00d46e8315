"""uvicorn with httptools and an ASGI application without a framework, under wrk."""

from __future__ import annotations

from typing import Any

from ...row import Service
from ._web import BODY, wrk


async def application(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


serving: list[Any] = []  # loops keep tasks by weak references only


async def serve(aio: Any) -> str:
    import uvicorn

    # `loop` is what uvicorn.run() would make; serve() stays on the loop that runs.
    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=0,
        loop="none",
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
    )
    server = uvicorn.Server(config)
    task = aio.create_task(server.serve())
    serving.extend([server, task])
    while not server.started:
        if task.done():
            task.result()
            raise RuntimeError("uvicorn ended without a reason")
        await aio.sleep(0.01)
    return f"tcp:{server.servers[0].sockets[0].getsockname()[1]}"


ROWS = [
    Service(
        key="uvicorn_server",
        title="uvicorn, 50 connections",
        serve=serve,
        load=wrk,
        needs=("uvicorn", "httptools"),
        programs=("wrk",),
    )
]
