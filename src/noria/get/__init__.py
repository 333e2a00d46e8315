"""Downloading many files at once, on noria or any other asyncio loop; the command is `noria get`.

`download_all` is the whole interface:

    async for result in download_all(urls, "papers"):
        print(result.url, result.path or result.error)

`engine` runs the downloads; `names` finds safe file names; `partfile` writes; `retry` decides about another
attempt; `failures` puts errors into words; `sources` and `columns` read lists. The command line is `options`,
`command`, `progress`, `tally` (what a run comes to), `report` (the page) and `man`. Needs the extra `noria[get]`:
aiohttp, and rich for the command.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noria.get.engine import Activity, Result, Transfer, download_all

__all__ = ["Activity", "Result", "Transfer", "download_all"]


def __getattr__(name: str) -> Any:
    # The engine is imported when somebody asks for it: `noria get --help` should not wait for an HTTP client.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from noria.get import engine

    return getattr(engine, name)
