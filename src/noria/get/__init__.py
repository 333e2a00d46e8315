"""Downloading many files at once, on noria or any other asyncio loop; the command is `noria get`.

`download_all` is nearly the whole interface:

    async for result in download_all(urls, "papers"):
        print(result.url, result.path or result.error)

`engine` runs the downloads; `target`, `options` and `results` are what goes in and comes out; `journal` keeps
the state of a run; `store` and `partfile` write; `names` finds safe file names; `retry` decides about another
attempt; `failures` puts errors into words; `sources` and `columns` read lists. The command line is `arguments`,
`command` and `journal_command`, with `progress`, `tally` (what a run comes to), `report` (the page), `words` and
`man`. Needs the extra `noria[get]`: aiohttp, and rich and shtab for the command.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noria.get.engine import Downloader, download, download_all
    from noria.get.options import Options
    from noria.get.results import Activity, Result, Transfer
    from noria.get.target import Target

__all__ = ["Activity", "Downloader", "Options", "Result", "Target", "Transfer", "download", "download_all"]

_MODULES = {
    "Downloader": "engine",
    "download": "engine",
    "download_all": "engine",
    "Options": "options",
    "Activity": "results",
    "Result": "results",
    "Transfer": "results",
    "Target": "target",
}


def __getattr__(name: str) -> Any:
    # Imported when somebody asks: `noria get --help` and a program that wants a Target wait for no HTTP client.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"noria.get.{_MODULES[name]}"), name)
