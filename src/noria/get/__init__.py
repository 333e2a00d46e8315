"""Downloading many files at once, on noria or any other asyncio loop; the command is `noria get`.

`download_all` is the whole interface:

    async for result in download_all(urls, "papers"):
        print(result.url, result.path or result.error)

`engine` runs the downloads; `names` finds safe file names; `partfile` writes; `retry` decides about another
attempt; `failures` puts errors into words; `sources` reads lists of URLs; `progress` and `command` are the
command line. Needs the extra `noria[get]`: aiohttp, and rich for the command.
"""

from noria.get.engine import Activity, Result, Transfer, download_all

__all__ = ["Activity", "Result", "Transfer", "download_all"]
