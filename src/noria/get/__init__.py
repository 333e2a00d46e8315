"""Downloading many files at once, on noria or any other asyncio loop; the command is `noria get`.

`download_all` is the whole interface:

    async for result in download_all(urls, "papers"):
        print(result.url, result.path or result.error)

`engine` runs the downloads; `target`, `options` and `results` are what goes in and comes out; `journal` keeps
the state of a run; `store` and `partfile` write; `names` finds safe file names; `retry` decides about another
attempt; `failures` puts errors into words; `sources` reads lists of URLs; `progress` and `command` are the
command line. Needs the extra `noria[get]`: aiohttp, and rich for the command.
"""

from noria.get.engine import Downloader, download, download_all
from noria.get.options import Options
from noria.get.results import Activity, Result, Transfer
from noria.get.target import Target

__all__ = ["Activity", "Downloader", "Options", "Result", "Target", "Transfer", "download", "download_all"]
