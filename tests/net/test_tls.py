"""TLS: ssl= for clients and servers, both sides verified, start_tls, and what goes wrong when it goes wrong."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from core.running import on_noria, reports, turns, until
from net.peers import Echo, Recorder, nothing_left_open, pair, pattern
from net.test_connections import loop_
from support.certs import Authority, Identity


async def finish(server: Any, *transports: Any) -> None:
    for transport in transports:
        transport.close()
    server.close()
    await server.wait_closed()


def test_a_client_and_a_server_speak_tls(ca: Authority, identity: Identity) -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        async with nothing_left_open():
            server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=ca.server_context(identity))
            transport, protocol = await loop.create_connection(
                Recorder,
                "localhost",
                server.sockets[0].getsockname()[1],
                ssl=ca.client_context(),
                family=socket.AF_INET,
            )
            data = pattern(2_000_000)
            transport.write(data)
            assert await protocol.got(len(data)) == data
            assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
            assert transport.get_extra_info("peercert")["subject"]
            assert transport.get_extra_info("cipher")
            assert transport.get_extra_info("peername") == server.sockets[0].getsockname()
            transport.close()
            assert await protocol.lost is None
            await finish(server)

    program()


def test_a_server_may_ask_for_the_clients_certificate(ca: Authority, identity: Identity) -> None:
    client = ca.issue("client.example")
    seen: list[Any] = []

    class Looks(Echo):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            seen.append(transport.get_extra_info("peercert"))

    @on_noria
    async def program() -> None:
        loop = loop_()
        server = await loop.create_server(
            Looks, "127.0.0.1", 0, ssl=ca.server_context(identity, ask_client=True)
        )
        port = server.sockets[0].getsockname()[1]
        transport, protocol = await loop.create_connection(
            Recorder, "127.0.0.1", port, ssl=ca.client_context(client), server_hostname="localhost"
        )
        transport.write(b"known")
        assert await protocol.got(5) == b"known"
        assert ("DNS", "client.example") in seen[0]["subjectAltName"]
        transport.close()
        await protocol.lost
        with reports():  # the server's handshake fails too
            with pytest.raises((ssl.SSLError, OSError)):
                transport, protocol = await loop.create_connection(
                    Recorder, "127.0.0.1", port, ssl=ca.client_context(), server_hostname="localhost"
                )
                error = await protocol.lost  # in TLS 1.3 the client hears of it after its handshake
                raise error or OSError("closed")
            assert len(seen) == 1
            await finish(server)

    program()


def test_a_certificate_for_another_name_or_of_another_authority_is_refused(
    ca: Authority, identity: Identity, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "another authority")

    @on_noria
    async def program() -> None:
        loop = loop_()
        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=ca.server_context(identity))
        port = server.sockets[0].getsockname()[1]
        async with nothing_left_open():
            with reports():
                for context, name in (
                    (ca.client_context(), "wrong.example"),
                    (stranger.client_context(), "localhost"),
                ):
                    with pytest.raises(ssl.SSLCertVerificationError):
                        await loop.create_connection(
                            Recorder, "127.0.0.1", port, ssl=context, server_hostname=name
                        )
                await until(lambda: not server._transports)
        await finish(server)

    program()


def test_a_peer_that_speaks_no_tls_is_an_error_on_both_sides(ca: Authority, identity: Identity) -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        async with nothing_left_open():
            plain = await loop.create_server(Echo, "127.0.0.1", 0)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await loop.create_connection(
                    Recorder, "127.0.0.1", plain.sockets[0].getsockname()[1], ssl=ca.client_context(),
                    server_hostname="localhost",
                )  # fmt: skip
            await finish(plain)
            with reports() as seen:
                tls = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=ca.server_context(identity))
                transport, protocol = await loop.create_connection(Recorder, *tls.sockets[0].getsockname())
                transport.write(b"GET / HTTP/1.1\r\n\r\n" * 5)
                await protocol.lost
                await until(lambda: not tls._transports)
                await finish(tls)
            seen.clear()

    program()


def test_a_peer_that_is_silent_or_goes_in_the_handshake(ca: Authority, identity: Identity) -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        async with nothing_left_open():
            for goes in (False, True):
                with socket.create_server(("127.0.0.1", 0)) as silent:
                    port = silent.getsockname()[1]
                    connecting = asyncio.create_task(
                        loop.create_connection(
                            Recorder, "127.0.0.1", port, ssl=ca.client_context(), server_hostname="localhost",
                            ssl_handshake_timeout=None if goes else 0.05,
                        )
                    )  # fmt: skip
                    silent.settimeout(5)
                    await asyncio.sleep(0.01)
                    accepted, _ = silent.accept()
                    if goes:
                        accepted.close()
                    with accepted, pytest.raises(ConnectionError):
                        await connecting
            server = await loop.create_server(
                Recorder, "127.0.0.1", 0, ssl=ca.server_context(identity), ssl_handshake_timeout=0.05
            )
            with reports() as seen, socket.create_connection(server.sockets[0].getsockname()):
                await until(lambda: server._transports)
                await until(lambda: not server._transports)
            seen.clear()
            with reports() as seen:  # in debug mode, as asyncio does
                for _ in range(20):  # and clients that vanish in mid-handshake leave nothing
                    transport, _ = await loop.create_connection(
                        asyncio.Protocol, *server.sockets[0].getsockname()
                    )
                    transport.write(b"\x16\x03\x01\x02\x00")
                    await turns(2)
                    transport.abort()
                await until(lambda: not server._transports)
                seen.clear()
            await finish(server)

    program()


def test_a_cancelled_handshake_closes_the_connection(ca: Authority) -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        async with nothing_left_open():
            with socket.create_server(("127.0.0.1", 0)) as silent:
                task = asyncio.create_task(
                    loop.create_connection(
                        Recorder, *silent.getsockname(), ssl=ca.client_context(), server_hostname="localhost"
                    )
                )
                await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    program()


def test_start_tls_turns_a_connection_into_a_tls_one(ca: Authority, identity: Identity) -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        near, far = pair("tcp")
        client, client_protocol = await loop.create_connection(Recorder, sock=near)
        server, server_protocol = await loop.connect_accepted_socket(Recorder, far)
        client.write(b"STARTTLS")
        await server_protocol.got(8)
        tls_client, tls_server = await asyncio.gather(
            loop.start_tls(client, client_protocol, ca.client_context(), server_hostname="localhost"),
            loop.start_tls(server, server_protocol, ca.server_context(identity), server_side=True),
        )
        assert isinstance(tls_client._sslcontext, ssl.SSLContext)  # private, and yet looked at
        tls_client.write(b" and secrets")
        assert await server_protocol.got(20) == b"STARTTLS and secrets"
        tls_server.write(b"answer")
        assert await client_protocol.got(6) == b"answer"
        tls_client.close()
        await client_protocol.lost
        await server_protocol.lost

    program()


def test_start_tls_refuses_what_it_cannot_do(ca: Authority) -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        near, far = pair()
        with far:
            transport, protocol = await loop.create_unix_connection(Recorder, sock=near)
            with pytest.raises(TypeError, match="SSLContext"):
                await loop.start_tls(transport, protocol, None)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="not supported by start_tls"):
                await loop.start_tls(object(), protocol, ca.client_context())
            transport.abort()
            await protocol.lost

    program()


def test_unix_sockets_and_accepted_sockets_speak_tls(
    ca: Authority, identity: Identity, tmp_path: Path
) -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        path = str(tmp_path / "tls")
        server = await loop.create_unix_server(Echo, path, ssl=ca.server_context(identity))
        transport, protocol = await loop.create_unix_connection(
            Recorder, path, ssl=ca.client_context(), server_hostname="localhost"
        )
        transport.write(b"unix")
        assert await protocol.got(4) == b"unix"
        transport.close()
        await protocol.lost
        await finish(server)
        near, far = pair("tcp")
        (client, protocol), (accepted, _) = await asyncio.gather(
            loop.create_connection(Recorder, sock=near, ssl=ca.client_context(), server_hostname="localhost"),
            loop.connect_accepted_socket(Echo, far, ssl=ca.server_context(identity)),
        )
        client.write(b"accepted")
        assert await protocol.got(8) == b"accepted"
        client.close()
        await protocol.lost
        await until(accepted.is_closing)
        await turns(3)

    program()


def test_writing_from_inside_callbacks_keeps_the_bytes_in_order(ca: Authority, identity: Identity) -> None:
    class Floods(asyncio.Protocol):
        """Answers each piece by many small writes, from inside data_received."""

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.next = 0

        def data_received(self, data: bytes) -> None:
            for _ in data:
                self.transport.write(self.next.to_bytes(4, "big"))
                self.next += 1

    @on_noria
    async def program() -> None:
        loop = loop_()
        server = await loop.create_server(Floods, "127.0.0.1", 0, ssl=ca.server_context(identity))
        transport, protocol = await loop.create_connection(
            Recorder, *server.sockets[0].getsockname(), ssl=ca.client_context(), server_hostname="localhost"
        )
        for _ in range(50):
            transport.write(bytes(100))
            await turns(1)
        assert await protocol.got(4 * 5000) == b"".join(n.to_bytes(4, "big") for n in range(5000))
        transport.close()
        await protocol.lost
        await finish(server)

    program()


def test_start_tls_on_a_connection_that_is_closed_gives_none_as_asyncios_does(ca: Authority) -> None:
    @on_noria
    async def program() -> None:
        loop = loop_()
        near, far = pair()
        with far:
            transport, protocol = await loop.create_unix_connection(Recorder, sock=near)
            transport.close()
            assert await loop.start_tls(transport, protocol, ca.client_context(), server_hostname="x") is None

    program()
