"""A small ASGI application without a framework, for uvicorn to serve.

It prints when its lifespan begins and ends, says on which loop it runs, reports an upload's size and digest,
streams a download and echoes websocket messages. It stands in a module of its own because uvicorn's command
line imports what it serves.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import noria

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PAYLOAD = hashlib.shake_256(b"wine").digest(4 * 1024 * 1024)


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """The application, as ASGI 3 calls it."""
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)
    elif scope["path"] == "/upload":
        await answer(send, await digest(receive))
    elif scope["path"] == "/download":
        await stream(send)
    else:
        on_noria = isinstance(asyncio.get_running_loop(), noria.Loop)
        await answer(send, {"on_noria": on_noria, "scheme": scope["scheme"], "port": scope["client"][1]})


async def live(receive: Receive, send: Send) -> None:
    """Answer the server's start and its end."""
    while True:
        event = await receive()
        if event["type"] == "lifespan.startup":
            print("lifespan: begun")
            await send({"type": "lifespan.startup.complete"})
        else:
            print("lifespan: ended")
            await send({"type": "lifespan.shutdown.complete"})
            return


async def answer(send: Send, content: Message) -> None:
    """Send `content` as JSON."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


async def digest(receive: Receive) -> Message:
    """Read the whole request; its length and SHA-256."""
    digested, length = hashlib.sha256(), 0
    async for piece in body(receive):
        digested.update(piece)
        length += len(piece)
    return {"length": length, "sha256": digested.hexdigest()}


async def body(receive: Receive) -> AsyncIterator[bytes]:
    """The pieces of the request's body."""
    more = True
    while more:
        event = await receive()
        yield event.get("body", b"")
        more = event.get("more_body", False)


async def stream(send: Send) -> None:
    """Send `PAYLOAD` in pieces."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for start in range(0, len(PAYLOAD), 50_000):
        await send({"type": "http.response.body", "body": PAYLOAD[start : start + 50_000], "more_body": True})
    await send({"type": "http.response.body"})


async def echo(receive: Receive, send: Send) -> None:
    """Send every websocket message back until the client closes."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})
