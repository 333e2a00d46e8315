"""Two clients that `downloads` compares with and that are libraries, not programs: aiohttp on uvloop, and parfive.

    python downloads_clients.py aiohttp|parfive LIST DIRECTORY CONNECTIONS

LIST holds a URL a line. Run by its path, so that nothing of noria is imported. Each does the job in the plainest way
its documentation suggests, without checks or retries of its own.
"""

import asyncio
import os
import sys
from pathlib import Path


async def with_aiohttp(urls: list[str], directory: str, connections: int) -> None:
    """Download with one aiohttp session."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        rest = iter(urls)

        async def work() -> None:
            for url in rest:
                async with session.get(url) as response:
                    response.raise_for_status()
                    with open(os.path.join(directory, url.rsplit("/", 1)[1]), "wb") as file:
                        async for data in response.content.iter_any():
                            file.write(data)

        await asyncio.gather(*(work() for _ in range(connections)))


def main(which: str, listing: str, directory: str, connections: str) -> None:
    """Download the URLs in the file `listing`."""
    urls = Path(listing).read_text().split()
    if which == "aiohttp":
        import uvloop

        uvloop.run(with_aiohttp(urls, directory, int(connections)))
    else:
        import parfive

        downloader = parfive.Downloader(max_conn=int(connections), progress=False)
        for url in urls:
            downloader.enqueue_file(url, path=directory)
        downloader.download()


if __name__ == "__main__":
    main(*sys.argv[1:])
