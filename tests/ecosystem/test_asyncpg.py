"""asyncpg on noria, against a real PostgreSQL: plain, over TLS, over a Unix socket.

PostgreSQL refuses to run as root, so a run as root hands it to the user `postgres` that its package makes.
"""

import asyncio
import hashlib
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from ecosystem.ground import MIB, OnNoria
from ecosystem.processes import free_port, running
from support.certs import Authority, Identity
from support.tools import require

PAYLOAD = hashlib.shake_256(b"mill race").digest(4 * MIB)


class Database:
    """How to reach the PostgreSQL of this module in each of its ways."""

    def __init__(self, directory: Path, ca: Authority) -> None:
        self.directory = directory
        self.ca = ca
        self.port = free_port()

    def options(self, way: str) -> dict[str, Any]:
        """What `asyncpg.connect` needs to come over "tcp", "tls" or "unix"."""
        options = {"user": "miller", "database": "postgres", "port": self.port, "timeout": 30}
        if way == "unix":
            return {**options, "host": str(self.directory)}
        return {**options, "host": "localhost", "ssl": self.ca.client_context() if way == "tls" else False}


@pytest.fixture(scope="module")
def database(ca: Authority, identity: Identity) -> Iterator[Database]:
    """A PostgreSQL with an empty database that runs as long as this module's tests."""
    programs = Path(require("postgres")).resolve().parent  # Debian links none but psql into the PATH
    user = "postgres" if os.geteuid() == 0 else None
    # pytest's temporary directories are closed to other users, and a Unix socket's path must be short.
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    database = Database(directory, ca)
    try:
        for source, name in ((identity.cert, "server.pem"), (identity.key, "server.key")):
            shutil.copy(source, directory / name)
            (directory / name).chmod(0o600)
        if user is not None:
            for path in (directory, *directory.iterdir()):
                shutil.chown(path, user)
        data = directory / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "miller", "-A", "trust", "-E", "UTF8", "--no-sync"],
            user=user,
            cwd=directory,
            check=True,
            capture_output=True,
        )
        argv = [str(programs / "postgres"), "-D", str(data), "-p", str(database.port), "-k", str(directory)]
        for setting in (
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "ssl=on",
            f"ssl_cert_file={directory / 'server.pem'}",
            f"ssl_key_file={directory / 'server.key'}",
        ):
            argv += ["-c", setting]
        with running(argv, user=user, cwd=directory) as server:
            server.wait_for("ready to accept connections")
            yield database
    finally:
        shutil.rmtree(directory)


@pytest.fixture(params=["tcp", "tls", "unix"])
def options(request: pytest.FixtureRequest, database: Database) -> dict[str, Any]:
    """Makes the test run three times: over TCP, over TLS and over a Unix socket."""
    return database.options(request.param)


def test_values_of_many_types_go_in_and_come_out(on_noria: OnNoria, options: dict[str, Any]) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(**options)
        try:
            used = await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            assert used is bool(options.get("ssl"))
            row = await connection.fetchrow(
                "SELECT $1::int AS a, $2::text AS b, $3::bytea AS c, $4::int[] AS d, $5::float8 AS e, $6::text AS f",
                42,
                "ñoria",
                PAYLOAD,
                [1, None, 3],
                0.5,
                None,
            )
            assert dict(row) == {"a": 42, "b": "ñoria", "c": PAYLOAD, "d": [1, None, 3], "e": 0.5, "f": None}
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.fetchval("SELECT 1 / $1", 0)
            assert await connection.fetchval("SELECT 1 + 1") == 2
        finally:
            await connection.close()

    on_noria(main())


def test_a_table_is_filled_copied_out_and_walked_with_a_cursor(
    on_noria: OnNoria, options: dict[str, Any]
) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(**options)
        try:
            await connection.execute("CREATE TEMPORARY TABLE buckets (number int PRIMARY KEY, content text)")
            await connection.executemany(
                "INSERT INTO buckets VALUES ($1, $2)",
                [(number, f"bucket {number}") for number in range(1000)],
            )

            async def records() -> AsyncIterator[tuple[int, str]]:
                for number in range(1000, 50_000):
                    yield number, f"bucket {number}"

            await connection.copy_records_to_table("buckets", records=records())
            async with connection.transaction():
                walked = [row["number"] async for row in connection.cursor("TABLE buckets ORDER BY number")]
            assert walked == list(range(50_000))
            copied = bytearray()

            async def take(piece: bytes) -> None:
                copied.extend(piece)

            query = "SELECT content FROM buckets ORDER BY number"
            assert await connection.copy_from_query(query, output=take) == "COPY 50000"
            assert copied.decode().splitlines() == [f"bucket {number}" for number in range(50_000)]
        finally:
            await connection.close()

    on_noria(main())


def test_a_pool_serves_more_tasks_than_it_has_connections(on_noria: OnNoria, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with asyncpg.create_pool(**options, min_size=2, max_size=5) as pool:

            async def ask(number: int) -> int:
                async with pool.acquire() as connection, connection.transaction():
                    return int(await connection.fetchval("SELECT $1::int * 2", number))

            assert await asyncio.gather(*map(ask, range(200))) == [number * 2 for number in range(200)]

    on_noria(main())


def test_a_timeout_and_a_cancellation_end_the_query_and_leave_the_connection_usable(
    on_noria: OnNoria, options: dict[str, Any]
) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(**options)
        try:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await connection.fetchval("SELECT pg_sleep(60)", timeout=0.05)
                query = asyncio.create_task(connection.fetchval("SELECT pg_sleep(60)"))
                await asyncio.wait([query], timeout=0.05)
                query.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await query
                assert await connection.fetchval("SELECT 1") == 1
        finally:
            await connection.close()

    on_noria(main())


def test_a_listener_hears_what_another_connection_notifies(
    on_noria: OnNoria, options: dict[str, Any]
) -> None:
    async def main() -> None:
        listening, notifying = await asyncpg.connect(**options), await asyncpg.connect(**options)
        try:
            heard: asyncio.Queue[str] = asyncio.Queue()
            await listening.add_listener("river", lambda *event: heard.put_nowait(event[-1]))
            for number in range(100):
                await notifying.execute(f"NOTIFY river, '{number}'")
            assert [await heard.get() for _ in range(100)] == [str(number) for number in range(100)]
        finally:
            await listening.close()
            await notifying.close()

    on_noria(main())


def test_a_server_of_an_unknown_authority_is_refused(on_noria: OnNoria, database: Database) -> None:
    async def main() -> None:
        options = {**database.options("tls"), "ssl": ssl.create_default_context()}
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncpg.connect(**options)

    on_noria(main())
