"""The text's better example: aiohttp downloads with a session, a timeout and a file written chunk by chunk.

Changed: timeouts want `async with`; `loop=` and `await release()` serve nothing; a file cannot `await` at top.

`asyncio.timeout` (Python 3.11) stands for `async_timeout.timeout`, which is used the same way; aiohttp finds the
running loop by itself; `async with session.get(...)` releases the connection. The files still come one after
another, because `main` waits for each; but the loop is free meanwhile.

Arguments: the URL of the directory to download from. Files are written to the current directory.
"""

import asyncio
import os
import sys

import aiohttp


async def download_coroutine(session: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(100):
        async with session.get(url) as response:
            filename = os.path.basename(url)
            with open(filename, "wb") as f_handle:
                while True:
                    chunk = await response.content.read(1024)
                    if not chunk:
                        break
                    f_handle.write(chunk)


async def main(base: str) -> None:
    urls = [
        f"{base}/f1040.pdf",
        f"{base}/f1040a.pdf",
        f"{base}/f1040ez.pdf",
        f"{base}/f1040es.pdf",
        f"{base}/f1040sb.pdf",
    ]

    async with aiohttp.ClientSession() as session:
        for url in urls:
            print(await download_coroutine(session, url))  # type: ignore[func-returns-value]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://www.irs.gov/pub/irs-pdf"))
