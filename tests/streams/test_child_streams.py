"""The standard streams of child processes as noria's streams."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import noria
from core.running import on_noria
from net.peers import pattern
from noria.streams.connection import Feeder
from sync.loops import Run

CAT = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
LINES = "import sys; [print(line, end='', flush=True) for line in iter(sys.stdin.readline, '')]"
COUNT = "for i in range(20000): print(i, flush=i % 7 == 0)"


def child(program: str, **options: Any) -> Any:
    return noria.create_subprocess_exec(sys.executable, "-c", program, **options)


def test_a_childs_streams_are_norias(run: Run) -> None:
    async def main() -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), noria.subprocess.PIPE)
        process = await child(CAT, **pipes)
        assert type(process.stdin) is noria.StreamWriter
        assert type(process.stdout) is type(process.stderr) is noria.StreamReader
        assert isinstance(process, asyncio.subprocess.Process)
        process.stdin.write(b"line\n")
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()
        assert [line async for line in process.stdout] == [b"line\n"]
        assert await process.stderr.read() == b""
        assert await process.wait() == 0

    run(main())


def test_much_data_goes_through_a_child_and_comes_back_whole(run: Run) -> None:
    data = pattern(3_000_000)

    async def main() -> None:
        process = await child(CAT, stdin=noria.subprocess.PIPE, stdout=noria.subprocess.PIPE)
        assert await process.communicate(data) == (data, None)
        assert process.returncode == 0

    run(main())


def test_what_a_child_writes_comes_in_order_from_its_first_moment_on(run: Run) -> None:
    expected = [b"%d\n" % i for i in range(20000)]

    async def main() -> None:
        for limit in (2**16, 100):
            process = await child(COUNT, stdout=noria.subprocess.PIPE, limit=limit)
            assert [line async for line in process.stdout] == expected
            assert await process.wait() == 0

    run(main())


def test_on_norias_loop_a_childs_pipe_feeds_the_reader_itself() -> None:
    @on_noria
    async def main() -> None:
        process = await child(LINES, stdin=noria.subprocess.PIPE, stdout=noria.subprocess.PIPE)
        process.stdin.write(b"1\n")
        assert await process.stdout.readline() == b"1\n"
        assert isinstance(process._transport.get_pipe_transport(1).get_protocol(), Feeder)
        process.stdin.write(b"2\n")
        assert await process.stdout.readline() == b"2\n"
        await process.communicate()

    main()


def test_a_shell_commands_streams(run: Run) -> None:
    async def main() -> None:
        process = await noria.create_subprocess_shell(
            "echo out; echo err >&2; exit 3", stdout=noria.subprocess.PIPE, stderr=noria.subprocess.PIPE
        )
        assert await process.communicate() == (b"out\n", b"err\n")
        assert process.returncode == 3

    run(main())
