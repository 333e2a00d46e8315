"""Downloading many files at once, on noria or any other asyncio loop; the command is `noria get`.

`download_all` is nearly the whole interface:

    async for result in download_all(urls, "papers"):
        print(result.url, result.path or result.error)

`engine` runs the downloads; `target`, `options` and `results` are what goes in and comes out. `hosts` decides which
download is next, `rates` how fast; `fetch` is one download, `client` one request with its `redirects` and
`credentials`, `ranges`, `digests` and `decoding` what is in an answer. `lean` makes plain requests, with `wire` below
it and `response` for the answer; `express` takes small plain files from there to `filebatch` and `smallfiles`, and
`direct` large plain bodies to `largefiles`. `journal` keeps the state of a run; `sink`, `store` and `partfile` write;
`names` finds safe file names; `retry` decides about another attempt; `failures` puts errors into words; `sources` and
`columns` read lists. The command line is `arguments`, `command` and `journal_command`, with `progress`, `display` (on
a terminal), `tally` (what a run comes to), `report` (the page), `words` and `man`. Needs the extra `noria[get]`:
aiohttp, and rich and shtab for the command. `objects` is output to what fsspec reaches (`noria[get-fsspec]`),
`cluster` a run on a Dask cluster (`noria[get-dask]`).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noria.get.engine import Downloader, download, download_all
    from noria.get.journal import Journal, JournalError, JournalStatus
    from noria.get.options import Options
    from noria.get.results import Activity, Result, Transfer
    from noria.get.store import LocalStore, Store
    from noria.get.target import Target

__all__ = [
    "Activity",
    "Downloader",
    "Journal",
    "JournalError",
    "JournalStatus",
    "LocalStore",
    "Options",
    "Result",
    "Store",
    "Target",
    "Transfer",
    "download",
    "download_all",
]

_MODULES = {
    "engine": ("Downloader", "download", "download_all"),
    "journal": ("Journal", "JournalError", "JournalStatus"),
    "options": ("Options",),
    "results": ("Activity", "Result", "Transfer"),
    "store": ("LocalStore", "Store"),
    "target": ("Target",),
}


def __getattr__(name: str) -> Any:
    # Imported when somebody asks: `noria get --help` and a program that wants a Target wait for no HTTP client.
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"noria.get.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
