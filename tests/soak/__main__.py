"""A soak: all that noria does at once, for a long time, with every byte accounted for and nothing left behind.

`cd tests && python -m soak --seconds 600`. The time is cut into phases. In a phase all loads run (loads.py); at its end
they finish what they are at, and what the process holds is counted. Exit status 0 if all was right; 1 with a list of what was
not. Best run on a build with AddressSanitizer (`make soak`), which also ends the run when memory is misused.
"""

from __future__ import annotations

import argparse
import logging
import random
import socket
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from aiohttp import web

import noria
from soak.ledger import DEFECTS, PATIENCE, Ledger, Sample
from soak.loads import LOADS, BufferedMirror, DatagramMirror, Mirror, Servers, mirror_lines, mirrored
from support.certs import Authority

PHASE = 5.0  # seconds


async def soak(ledger: Ledger, seconds: float, directory: Path) -> None:
    """Start the servers, run the phases, compare the first count after the warm-up with the last."""
    loop = noria.get_running_loop()
    loop.set_exception_handler(lambda _, context: ledger.problem(_told(context)))
    await ring_opened()
    empty = Sample.take()
    authority = Authority(directory)
    identity = authority.issue("localhost", "127.0.0.1")
    app = web.Application(client_max_size=0)
    app.router.add_post("/mirror", mirrored)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    plain = await loop.create_server(lambda: Mirror(ledger), "127.0.0.1", 0)
    tls = await noria.start_server(mirror_lines, "127.0.0.1", 0, ssl=authority.server_context(identity))
    unix = await loop.create_unix_server(BufferedMirror, directory / "socket")
    datagrams, _ = await loop.create_datagram_endpoint(DatagramMirror, ("127.0.0.1", 0))
    servers = Servers(
        http=runner.addresses[0],
        plain=plain.sockets[0].getsockname(),
        tls=tls.sockets[0].getsockname(),
        udp=datagrams.get_extra_info("sockname"),
        unix=str(directory / "socket"),
        trust=authority.client_context(),
    )

    began = time.monotonic()
    warm: Sample | None = None
    before = 0
    while True:
        passed = time.monotonic() - began
        if passed >= seconds:
            break
        await phase(ledger, servers, min(PHASE, seconds - passed))
        sample = await settled(warm)
        print(f"{time.monotonic() - began:6.0f} s  {ledger.done.total():9,} operations  {sample}", flush=True)
        if warm is None and time.monotonic() - began >= min(60, seconds / 4):
            warm, before = sample, ledger.done.total()
    if warm is None or warm is sample:
        ledger.problem(f"{seconds} seconds are too few to compare anything")
    else:
        for growth in sample.growth_since(warm, ledger.done.total() - before):
            ledger.problem(f"growth: {growth}")

    datagrams.close()
    for server in (plain, tls, unix):
        server.close()
        await server.wait_closed()
    await runner.cleanup()
    for left in (await settled(empty)).left_since(empty):
        ledger.problem(f"left at the end: {left}")


async def ring_opened() -> None:
    """One connection: with it io_uring's driver opens its ring, which the loop keeps."""
    near, far = socket.socketpair()
    near.setblocking(False)
    transport, _ = await noria.get_running_loop().connect_accepted_socket(noria.Protocol, near)
    await noria.sleep(0)
    transport.abort()
    await noria.sleep(0)
    far.close()


async def phase(ledger: Ledger, servers: Servers, seconds: float) -> None:
    """All loads at once for so long."""
    ledger.over = False
    tasks = {
        noria.create_task(load(ledger, servers), name=f"{name}-{number}")
        for name, (load, count) in LOADS.items()
        for number in range(count)
    }
    await noria.wait(tasks, timeout=seconds)
    ledger.over = True
    _, hanging = await noria.wait(tasks, timeout=PATIENCE)
    for task in hanging:
        ledger.problem(f"{task.get_name()}: hangs: {task!r}")
        task.cancel()
    for outcome, task in zip(await noria.gather(*tasks, return_exceptions=True), tasks, strict=True):
        if isinstance(outcome, Exception):
            ledger.problem(f"{task.get_name()}: {outcome!r}")


async def settled(first: Sample | None) -> Sample:
    """The count once the servers have seen that their clients are gone, or after some patience."""
    until = time.monotonic() + 10
    while True:
        await noria.sleep(0.2)
        sample = Sample.take()
        quiet = first is None or (
            len(sample.descriptors) <= len(first.descriptors) and sample.tasks <= first.tasks
        )
        if (quiet and sample.tasks <= 2) or time.monotonic() > until:
            return sample


def _told(context: dict[str, Any]) -> str:
    return f"the loop's exception handler was told: {context.get('message')}: {context.get('exception')!r}"


class _Records(logging.Handler):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.WARNING)
        self.ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        self.ledger.problem(f"logged by {record.name}: {record.getMessage()}")


def main() -> int:
    """Read the command line, soak, and report."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long (default: 600)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the random choices")
    parser.add_argument(
        "--defect", choices=DEFECTS, help="let the run's own servers do this wrong: it must be noticed"
    )
    options = parser.parse_args()
    print(f"seed {options.seed}, Python {sys.version.split()[0]}, {options.seconds:g} s", flush=True)
    ledger = Ledger(random.Random(options.seed), options.defect)
    records = _Records(ledger)
    for name in ("asyncio", "noria"):
        logging.getLogger(name).addHandler(records)

    def warned(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object
    ) -> None:
        ledger.problem(f"{category.__name__}: {message} ({filename}:{lineno})")

    warnings.simplefilter("always")
    warnings.showwarning = warned  # type: ignore[assignment]
    sys.unraisablehook = lambda caught: ledger.problem(f"ignored: {caught.exc_value!r} in {caught.object!r}")
    with tempfile.TemporaryDirectory() as directory:
        noria.run(soak(ledger, options.seconds, Path(directory)))
    for kind, count in sorted(ledger.done.items()):
        print(
            f"{kind:14} {count:9,} operations  {ledger.given[kind]:14,} bytes given {ledger.returned[kind]:14,} back"
        )
    for text, times in {text: ledger.problems.count(text) for text in ledger.problems}.items():
        print(f"WRONG: {text}" + (f" ({times} times)" if times > 1 else ""))
    print(f"{len(ledger.problems)} wrong")
    return 1 if ledger.problems else 0


if __name__ == "__main__":
    sys.exit(main())
