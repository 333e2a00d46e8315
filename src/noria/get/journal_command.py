"""`noria get status DB` and `noria get retry DB`: what a journal knows of a run, and another try of what failed."""

import argparse
import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncGenerator
from typing import Any

from noria.get.arguments import OK, SOME_FAILED, WRONG_USAGE, check, parser
from noria.get.failures import printable, shown_url
from noria.get.journal import FAILED, Journal, JournalError
from noria.get.target import Target
from noria.get.words import size_text

_PAGE = 500  # targets taken from the journal at once
_EXAMPLES = 20  # failures that status shows


def status(arguments: list[str]) -> int:
    """Say what the journal knows. Exit status 1 if something failed or is still to be done."""
    own = argparse.ArgumentParser(
        prog="noria get status",
        description="Print what a journal says of a run: how many files are done, how many failed and why.",
        epilog="Exit status: 0 if all is done, 1 if something failed or is still to be done, 2 if there is no journal.",
    )
    own.add_argument("journal", metavar="DB", help="the journal, .noria-get.db in the directory of a run")
    own.add_argument(
        "--all", action="store_true", help=f"show every failure and not just the first {_EXAMPLES}"
    )
    own.add_argument("--json", action="store_true", help="print it as one JSON object")
    options = own.parse_args(arguments)
    try:
        with Journal(options.journal, read_only=True) as journal:
            known = journal.status()
            failures = itertools.islice(journal.records(FAILED), None if options.all else _EXAMPLES)
            if options.json:
                _print_json(known, failures)
            else:
                _print(known, failures, options.all)
    except JournalError as error:
        return _refuse(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes
    return SOME_FAILED if known.failed or known.pending else OK


def retry(arguments: list[str]) -> int:
    """Download anew what the journal has as failed."""
    from noria.get.command import run

    options_parser = parser()
    options = options_parser.parse_args(arguments)
    if len(options.url) != 1 or options.input:
        options_parser.error("retry takes one journal, DB, and no URLs")
    path: str = options.url[0]
    if options.journal or options.no_journal:
        options_parser.error("retry keeps its state in DB")
    options.directory = options.directory or os.path.dirname(path) or os.curdir
    check(options_parser, options)
    if not os.path.exists(path):
        return _refuse(JournalError(f"cannot use the journal {path}: No such file or directory"))
    try:
        with Journal(path, durable=options.fsync) as journal:
            options.journal = journal
            return run(options, _Failed(journal))
    except JournalError as error:
        return _refuse(error)


class _Failed:
    """What failed, as `noria.get.command.Targets` would give it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._total = journal.status().failed

    def total(self) -> tuple[int | None, bool]:
        return self._total, True

    async def items(self) -> AsyncGenerator[Target, None]:
        loop = asyncio.get_running_loop()
        failed = self._journal.failed()
        left = self._total  # what fails again comes up again behind, and is not for this run
        while left and (page := await loop.run_in_executor(None, _take, failed, min(left, _PAGE))):
            left -= len(page)
            for target in page:
                yield target


def _take(failed: Any, most: int) -> list[Target]:
    return list(itertools.islice(failed, most))


def _print(known: Any, failures: Any, everything: bool) -> None:
    print(
        f"{known.done:,} done ({size_text(known.bytes)}), {known.failed:,} failed, {known.pending:,} to be done"
    )
    if not known.finished:
        print("the last run did not come to the end of its list")
    for kind, count in sorted(known.kinds.items(), key=lambda pair: -pair[1]):
        print(f"  {count:,} {printable(kind)}")
    shown = 0
    for record in failures:
        shown += 1
        print(f"{shown_url(record.url)}: {printable(record.error or '', 2000)}")
    if known.failed > shown and not everything:
        print(f"and {known.failed - shown:,} more (--all)")
    sys.stdout.flush()


def _print_json(known: Any, failures: Any) -> None:
    fields = {
        name: getattr(known, name) for name in ("done", "failed", "pending", "bytes", "kinds", "finished")
    }
    fields["failures"] = [
        {"url": shown_url(record.url), "status": record.status, "kind": record.kind, "error": record.error}
        for record in failures
    ]
    print(json.dumps(fields), flush=True)


def _refuse(error: Exception) -> int:
    print(f"noria get: {printable(str(error), 2000)}", file=sys.stderr)
    return WRONG_USAGE
