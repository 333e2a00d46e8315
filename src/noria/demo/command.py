"""The command `noria demo`: the five downloads three ways, with what each took and why.

Everything printed is measured in that run, the reasons included; only how to put them into words is fixed
here.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

import noria
from noria.demo import ways
from noria.demo.heartbeat import Heartbeat
from noria.demo.pdf import make_pdf
from noria.demo.server import FileServer
from noria.demo.ways import Download

# The names of the text; sizes in bytes.
FILES = {
    "f1040.pdf": 150_000,
    "f1040a.pdf": 100_000,
    "f1040ez.pdf": 60_000,
    "f1040es.pdf": 250_000,
    "f1040sb.pdf": 30_000,
}
LATENCY = 0.2  # seconds
PIECES = 5
PAUSE = 0.04  # seconds

WAYS: dict[str, Callable[[list[str], Path], Awaitable[list[Download]]]] = {
    "a blocking coroutine: urllib inside async def": ways.blocking,
    "one after another: aiohttp, awaited in turn": ways.one_after_another,
    "together: aiohttp and gather": ways.together,
}

_AXIS = 48  # characters for the longest time


@dataclass(frozen=True)
class Measured:
    """One way, run once. Times in seconds; `begin` and those in `downloads` and `heartbeat` are of one clock."""

    title: str
    begin: float
    seconds: float
    downloads: list[Download]
    heartbeat: Heartbeat

    @property
    def sum(self) -> float:
        """How long the downloads took, added up."""
        return sum(download.end - download.begin for download in self.downloads)


def main(arguments: list[str]) -> int:
    """Run `noria demo` and return the exit status: 0, or 130 after an interrupt. Raises SystemExit for
    --help.
    """
    parser = argparse.ArgumentParser(
        prog="noria demo",
        description="Download five PDF files from a server on this machine in three ways, and see what each way"
        " costs and why. Needs no network.",
    )
    parser.parse_args(arguments)
    console = Console(highlight=False)
    files = {name: make_pdf(name, size) for name, size in FILES.items()}
    console.print(Text("noria demo", style="bold"), Text("five files, one loop, three ways", style="dim"))
    console.print(
        f"A server on loopback answers after {LATENCY:g} s and sends each file in {PIECES} pieces,"
        f" {PAUSE:g} s apart, as a distant one might.\n"
    )
    try:
        with FileServer(files, latency=LATENCY, pieces=PIECES, pause=PAUSE) as server:
            urls = [server.url(name) for name in files]
            # One line at a time, so that the user watches the ways differ.
            measured = []
            for number, (title, way) in enumerate(WAYS.items(), 1):
                console.print(Text(f"{number}. {title}", style="bold cyan"))
                measured.append(noria.run(_measure(title, way, urls, files)))
                _show(console, measured[-1], scale=_AXIS / measured[0].seconds)
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    slowest = max(measured, key=lambda one: one.seconds)
    fastest = min(measured, key=lambda one: one.seconds)
    console.print(
        Text(
            f"The same {len(files)} files, {slowest.seconds:.2f} s or {fastest.seconds:.2f} s:"
            f" {slowest.seconds / fastest.seconds:.1f} times faster, on one thread.",
            style="bold green",
        )
    )
    return 0


async def _measure(
    title: str,
    way: Callable[[list[str], Path], Awaitable[list[Download]]],
    urls: list[str],
    files: dict[str, bytes],
) -> Measured:
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="noria-demo-") as directory:
        async with Heartbeat() as heartbeat:
            begin = loop.time()
            downloads = await way(urls, Path(directory))
            seconds = loop.time() - begin
        for name, content in files.items():
            if Path(directory, name).read_bytes() != content:
                raise RuntimeError(f"{name} did not arrive as it was sent: {title}")
    return Measured(title, begin, seconds, downloads, heartbeat)


def _show(console: Console, measured: Measured, scale: float) -> None:
    """Draw when each download ran and when the loop stood still; `scale` is characters a second."""
    rows = [(one.name, [(one.begin, one.end)], "blue") for one in measured.downloads]
    rows.append(("loop blocked", measured.heartbeat.blocked, "red"))
    mark = "#" if console.encoding.lower().startswith(("ascii", "latin", "iso")) else "\u2588"
    for name, spans, style in rows:
        line = [" "] * (_AXIS + 2)
        for begin, end in spans:
            first, last = (round((time - measured.begin) * scale) for time in (begin, end))
            for place in range(max(0, first), min(len(line), max(last, first + 1))):
                line[place] = mark
        bar = Text("".join(line).rstrip(), style=style)
        console.print(Text(f"   {name:<13}").append_text(bar if spans else Text("never", style="green")))
    words = Text(f"{measured.seconds:.2f} s: ", style="bold").append(_reason(measured), style="not bold")
    console.print(Padding(words, (0, 0, 1, 3)))


def _reason(measured: Measured) -> str:
    heartbeat = measured.heartbeat
    expected = len(measured.downloads)
    if heartbeat.total > measured.seconds / 2:
        words = (
            f"the loop stood still for {heartbeat.total:.2f} s of it, up to {heartbeat.longest:.2f} s at a"
            f" stretch; a task that wanted to run every 10 ms got {heartbeat.beats} turns."
        )
        if culprit := heartbeat.culprit:
            held = f"{culprit.coroutine} ({culprit.file} line {culprit.line})"
            words += f" Held by {held}, in {culprit.inside}."
        return words
    free = f"The loop was never blocked, and other tasks got {heartbeat.beats} turns meanwhile."
    if heartbeat.blocked:
        free = f"The loop stood still for {heartbeat.total:.2f} s of it."
    if measured.sum < 1.5 * measured.seconds:
        return (
            f"the {expected} downloads took {measured.sum / expected:.2f} s each, one after the other,"
            f" because each was awaited before the next began. {free}"
        )
    return (
        f"the {expected} downloads took {measured.sum:.2f} s of waiting together, but at the same time: "
        f"{measured.sum / measured.seconds:.1f} of them waited at any moment. {free}"
    )
