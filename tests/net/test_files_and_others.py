"""sendfile: what is in the file arrives."""

import asyncio
import io
import os
from pathlib import Path
from typing import Any

import pytest

from core.running import on_noria, turns, until
from net.peers import Recorder, connected, pair, pattern, read_all
from net.test_connections import loop_
from support.certs import Authority, Identity

SIZE = 3_000_001


@pytest.fixture
def file(tmp_path: Path) -> Any:
    path = tmp_path / "file"
    path.write_bytes(pattern(SIZE))
    with path.open("rb") as opened:
        yield opened


# Files.


@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (1000, None), (0, 5000), (777, 2_000_000), (SIZE, None), (5, SIZE)]
)
def test_a_file_is_sent_whole_or_in_part(file: Any, offset: int, count: int | None) -> None:
    expected = pattern(SIZE)[offset : None if count is None else offset + count]

    @on_noria
    async def program() -> None:
        loop = loop_()
        async with connected() as (transport, _, far):
            receiving = asyncio.create_task(read_all(far))
            transport.write(b"before")
            assert await loop.sendfile(transport, file, offset, count) == len(expected)
            transport.write(b"after")
            transport.write_eof()
            assert await receiving == b"before" + expected + b"after"
            if expected:
                assert file.tell() == offset + len(expected)
        near, far = pair()
        with near, far:
            receiving = asyncio.create_task(read_all(far, len(expected)))
            assert await loop.sock_sendfile(near, file, offset, count) == len(expected)
            assert await receiving == expected

    program()


def test_what_is_no_file_is_read_and_sent() -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        data = pattern(500_000)
        async with connected() as (transport, _, far):
            receiving = asyncio.create_task(read_all(far, len(data)))
            assert await loop.sendfile(transport, io.BytesIO(data)) == len(data)
            assert await receiving == data
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sendfile(transport, io.BytesIO(data), fallback=False)
        near, far = pair()
        with near, far:
            receiving = asyncio.create_task(read_all(far, len(data) - 10))
            assert await loop.sock_sendfile(near, io.BytesIO(data), 10) == len(data) - 10
            assert await receiving == data[10:]
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sock_sendfile(near, io.BytesIO(data), fallback=False)

    program()


def test_sendfile_over_tls_reads_and_sends(file: Any, ca: Authority, identity: Identity) -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        received: list[Any] = []

        def factory() -> Recorder:
            received.append(Recorder())
            return received[-1]  # type: ignore[no-any-return]

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=ca.server_context(identity))
        transport, protocol = await loop.create_connection(
            Recorder, *server.sockets[0].getsockname(), ssl=ca.client_context(), server_hostname="localhost"
        )
        assert await loop.sendfile(transport, file) == SIZE
        await until(lambda: received)
        assert await received[0].got(SIZE) == pattern(SIZE)
        # Offset 0 is the file's beginning, wherever the file has been read to: as where the kernel sends it.
        assert file.tell() == SIZE
        assert await loop.sendfile(transport, file, 0, 10) == 10
        assert file.tell() == 10
        assert await received[0].got(SIZE + 10) == pattern(SIZE) + pattern(SIZE)[:10]
        with pytest.raises(RuntimeError, match="fallback"):
            await loop.sendfile(transport, file, fallback=False)
        transport.close()
        await protocol.lost
        server.close()
        await server.wait_closed()

    program()


def test_the_peer_may_talk_while_a_file_is_sent_and_is_heard_after_it(file: Any) -> None:
    @on_noria
    async def program() -> None:
        async with connected() as (transport, protocol, far):
            far.send(b"meanwhile")
            receiving = asyncio.create_task(read_all(far, SIZE))
            await loop_().sendfile(transport, file)
            await receiving
            assert transport.is_reading()
            assert await protocol.got(9) == b"meanwhile"
            assert transport.get_protocol() is protocol

    program()


def test_a_peer_that_goes_while_a_file_is_sent_is_an_error(file: Any) -> None:
    os.truncate(file.name, 1 << 30)  # sparse, and more than the kernel takes at once

    @on_noria
    async def program() -> None:
        async with connected() as (transport, protocol, far):
            sending = asyncio.create_task(loop_().sendfile(transport, file))
            await turns(3)
            far.close()
            with pytest.raises(ConnectionError):
                await sending
            transport.abort()
            await protocol.lost
            with pytest.raises(RuntimeError, match="closing"):
                await loop_().sendfile(transport, file)

    program()


def test_wrong_files_and_counts_are_refused(file: Any, tmp_path: Path) -> None:
    @on_noria
    async def program() -> None:
        async with connected() as (transport, _, _far):
            with (tmp_path / "file").open() as text, pytest.raises(ValueError, match="binary"):
                await loop_().sendfile(transport, text)  # type: ignore[arg-type]
            for offset, count, error in (
                (0, 0, ValueError),
                (0, -1, ValueError),
                (-1, None, ValueError),
                (0, "x", TypeError),
            ):
                with pytest.raises(error):
                    await loop_().sendfile(transport, file, offset, count)  # type: ignore[arg-type]

    program()


def test_a_watchdog_in_the_place_of_os_sendfile_is_not_set_off(
    file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As blockbuster does, with which aiohttp and anyio look for calls that block the loop."""

    def bark(*arguments: object) -> int:
        raise AssertionError(f"os.sendfile{arguments} on the loop")

    monkeypatch.setattr(os, "sendfile", bark)

    @on_noria
    async def program() -> None:
        near, far = pair()
        with near, far:
            receiving = asyncio.create_task(read_all(far, SIZE))
            assert await loop_().sock_sendfile(near, file, fallback=False) == SIZE
            assert await receiving == pattern(SIZE)

    program()
