"""The tutorial's downloaders: a coroutine that blocks, one file after the other, all together.

Each way takes the URLs and a directory, leaves the files there and returns when each download began and
ended, in seconds of the loop's clock, in the order of the URLs. What differs from the text is only that: the
times are taken, and the syntax is today's.
"""

import asyncio
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import aiohttp


@dataclass(frozen=True)
class Download:
    """One file, and when its download began and ended."""

    name: str
    begin: float
    end: float


async def blocking(urls: list[str], directory: Path) -> list[Download]:
    """Five tasks at once, but in each of them urllib waits for the network and nothing else can run."""
    tasks = [asyncio.create_task(download_with_urllib(url, directory)) for url in urls]
    await asyncio.wait(tasks)
    return [task.result() for task in tasks]


async def one_after_another(urls: list[str], directory: Path) -> list[Download]:
    """aiohttp leaves the loop free while it waits, but the next download begins when the last has ended."""
    async with aiohttp.ClientSession() as session:
        return [await download_with_aiohttp(session, url, directory) for url in urls]


async def together(urls: list[str], directory: Path) -> list[Download]:
    """aiohttp again, and all downloads wait at the same time."""
    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*(download_with_aiohttp(session, url, directory) for url in urls))


async def download_with_urllib(url: str, directory: Path) -> Download:
    """A coroutine in form only: it has no await, so it keeps the loop until it ends."""
    begin = asyncio.get_running_loop().time()
    name = os.path.basename(url)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is on this machine
    with opener.open(url) as response, open(directory / name, "wb") as file:
        while chunk := response.read(1024):
            file.write(chunk)
    return Download(name, begin, asyncio.get_running_loop().time())


async def download_with_aiohttp(session: aiohttp.ClientSession, url: str, directory: Path) -> Download:
    """Gives control back to the loop at each await, that is, whenever it would have to wait."""
    begin = asyncio.get_running_loop().time()
    name = os.path.basename(url)
    async with asyncio.timeout(100), session.get(url) as response:
        response.raise_for_status()
        with open(directory / name, "wb") as file:
            while chunk := await response.content.read(1024):
                file.write(chunk)
    return Download(name, begin, asyncio.get_running_loop().time())
