"""aiohttp's server with a handler of one line, under wrk."""

from __future__ import annotations

from typing import Any

from ...row import Service
from ._web import BODY, wrk


async def serve(aio: Any) -> str:
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.Response(body=BODY)

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    return f"tcp:{runner.addresses[0][1]}"


ROWS = [
    Service(
        key="aiohttp_server",
        title="aiohttp server, 50 connections",
        serve=serve,
        load=wrk,
        needs=("aiohttp",),
        programs=("wrk",),
        quick=True,
    )
]
