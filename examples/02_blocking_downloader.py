"""The text's bad example: a coroutine that never awaits, so that its downloads run one after another.

Changed: `asyncio.wait` refuses bare coroutines since Python 3.11, and a file cannot `await` at its top level.

Arguments: the URL of the directory to download from. Files are written to the current directory.
"""

import asyncio
import os
import sys
import urllib.request


async def download_coroutine(url: str) -> str:
    """
    A coroutine to download the specified url
    """
    request = urllib.request.urlopen(url)
    filename = os.path.basename(url)

    with open(filename, "wb") as file_handle:
        while True:
            chunk = request.read(1024)
            if not chunk:
                break
            file_handle.write(chunk)
    return f"Finished downloading {filename}"


async def main(urls: list[str]) -> None:
    """
    Creates a group of coroutines and waits for them to finish
    """
    tasks = [asyncio.create_task(download_coroutine(url)) for url in urls]
    completed, pending = await asyncio.wait(tasks)
    for item in completed:
        print(item.result())


if __name__ == "__main__":
    base = sys.argv[1] if len(sys.argv) > 1 else "http://www.irs.gov/pub/irs-pdf"
    urls = [
        f"{base}/f1040.pdf",
        f"{base}/f1040a.pdf",
        f"{base}/f1040ez.pdf",
        f"{base}/f1040es.pdf",
        f"{base}/f1040sb.pdf",
    ]

    asyncio.run(main(urls))
