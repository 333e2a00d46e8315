"""The command `noria get`: options in, `download_all`, progress, report and exit status out."""

import argparse
import asyncio
import contextlib
import importlib.util
import os
import socket
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import Any

from noria.get.arguments import INTERRUPTED, OK, SOME_FAILED, WRONG_USAGE, check, parser
from noria.get.columns import ColumnNames


def main(arguments: list[str]) -> int:
    """Run `noria get` with `arguments` and return the exit status. Raises SystemExit for --help and wrong
    options, ModuleNotFoundError if a package of the extra `get` is missing.
    """
    try:
        if arguments and arguments[0] in ("status", "retry"):
            from noria.get.journal_command import retry, status

            return (status if arguments[0] == "status" else retry)(arguments[1:])
        options = _parse(arguments)
        if options is None:
            return OK
        return run(options)
    except KeyboardInterrupt:  # before anything began, or when all was over
        return INTERRUPTED


def _parse(arguments: list[str]) -> argparse.Namespace | None:
    options_parser = parser()
    options = options_parser.parse_args(arguments)
    if options.man:
        from noria.get.man import page

        print(page(), end="")
        return None
    check(options_parser, options)
    return options


def run(options: argparse.Namespace, targets: Any = None) -> int:
    """Download what `options` name, or `targets` (with the methods of Targets) if given, and return the exit
    status.
    """
    # Only now, so that --help needs none of this.
    import noria
    from noria.get.progress import summary
    from noria.get.results import Activity
    from noria.get.sources import InputError
    from noria.get.tally import Tally

    tally = Tally(Activity())
    status = OK
    with ExitStack() as stack:
        try:
            store = _store(options)
            if targets is None:
                targets = Targets(options, stack)
            if options.dry_run:
                return noria.run(_dry_run(options, targets, store))
            keywords = _keywords(options, store)
            _check_report(options.report)
        except (InputError, _UsageError) as error:
            return _refuse(str(error))
        except KeyboardInterrupt:
            return INTERRUPTED
        try:
            noria.run(_download(options, targets, keywords, tally))
        except KeyboardInterrupt:
            status = INTERRUPTED
        except _UsageError as error:
            return _refuse(str(error))
        except InputError as error:
            if error.usage:
                return _refuse(str(error))
            _say(f"noria get: {error}")
            tally.add_failure("broken list", str(error), "")
            status = SOME_FAILED
        except _BrokenOff as error:
            _say(f"noria get: {error}")
            tally.add_failure("broken off", str(error), "")
            status = SOME_FAILED
    interrupted = status == INTERRUPTED
    if tally.activity.failed or tally.bad_rows:
        status = status or SOME_FAILED
    if not options.quiet or interrupted:
        _say(summary(tally, interrupted=interrupted))
    if options.report:
        from noria.get.report import write_report

        try:
            write_report(options.report, tally, interrupted=interrupted)
        except OSError as error:
            _say(f"noria get: cannot write {options.report}: {error.strerror or error}")
            status = status or SOME_FAILED
    return status


class _UsageError(Exception):
    """The user has to change the command."""


class _BrokenOff(Exception):
    """What the run stands on is gone: the journal, or the cluster."""


class Targets:
    """What the command line and the lists it names ask for, in that order.

    Raises InputError for a list that cannot be opened. Lists are closed by `stack`.
    """

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        from noria.get.sources import open_list

        self._urls: list[str] = options.url
        self._name: str | None = options.name
        self._checksum: str | None = options.checksum
        columns = ColumnNames(
            options.url_column,
            options.name_column,
            options.checksum_column,
            options.size_column,
            options.headers_column,
        )
        self._lists = []
        for name in options.input:
            source = open_list(name, options.input_format, columns)
            stack.callback(source.close)
            self._lists.append(source)

    def total(self) -> tuple[int | None, bool]:
        """How many rows there are, or None without an idea; and whether the number is exact."""
        lengths = [source.length for source in self._lists]
        exact = all(source.exact for source in self._lists)
        if any(length is None for length in lengths):
            return None, False
        return len(self._urls) + sum(length or 0 for length in lengths), exact

    async def items(self) -> AsyncGenerator[Any, None]:
        """Targets, and BadRows between them. Raises InputError for a list that breaks off."""
        from noria.get.target import Target

        for url in self._urls:
            yield Target(url, self._name, self._checksum)
        for source in self._lists:
            async with contextlib.aclosing(source.items()) as items:
                async for item in items:
                    yield item


async def _download(options: argparse.Namespace, targets: Any, keywords: dict[str, Any], tally: Any) -> None:
    from noria.get.journal import JournalError
    from noria.get.progress import Progress
    from noria.get.sources import BadRow

    async def good() -> AsyncGenerator[Any, None]:
        async with contextlib.aclosing(targets.items()) as items:
            async for item in items:
                if isinstance(item, BadRow):
                    await progress.show_bad_row(item)
                else:
                    yield item

    def total() -> tuple[int | None, bool]:
        rows, exact = targets.total()
        return (None if rows is None else rows - tally.bad_rows), exact

    keywords = {**keywords, "activity": tally.activity}
    opened: Any
    lost: tuple[type[Exception], ...] = ()
    if options.dask:
        from noria.get.cluster import ClusterDownloader, ClusterError

        opened, lost = ClusterDownloader, (ClusterError,)
        keywords["cluster"] = options.dask
    else:
        from noria.get.engine import Downloader

        opened = Downloader
    broken: tuple[type[Exception], ...] = (JournalError, *lost)
    progress = Progress(tally, total, quiet=options.quiet, events=options.json)
    async with contextlib.AsyncExitStack() as stack:
        try:
            downloader = await stack.enter_async_context(opened(options.directory, **keywords))
        except lost as error:
            raise _UsageError(str(error)) from None
        except (JournalError, ValueError) as error:  # ValueError: a file of credentials that is none
            raise _UsageError(str(error)) from None
        except OSError as error:
            raise _UsageError(_os_words(error, options.directory)) from None
        # From here on, an error that nobody expects is a defect and none of the user's.
        results = await stack.enter_async_context(contextlib.aclosing(downloader.download_all(good())))
        await stack.enter_async_context(progress)
        try:
            async for result in results:
                await progress.show(result)
        except broken as error:
            raise _BrokenOff(str(error)) from None


def _os_words(error: OSError, directory: str) -> str:
    """What could not be used, and why."""
    from noria.get.objects import is_url, shown

    if is_url(directory):
        return f"cannot write to {shown(directory)}: {error.strerror or error}"
    where, verb = error.filename, "use"
    if not isinstance(where, str) or os.path.abspath(where).startswith(os.path.abspath(directory)):
        where, verb = directory, "write to"
    return f"cannot {verb} {where}: {error.strerror or error}"


async def _dry_run(options: argparse.Namespace, targets: Any, store: Any) -> int:
    """Print what a run would fetch and where to: URL, tab, path; or with --json a JSON object a line."""
    import json

    from noria.get.failures import Failure, parse_url, printable, shown_url, without_password
    from noria.get.names import Names, name_from_url, safe_name
    from noria.get.sources import BadRow

    loop = asyncio.get_running_loop()
    names = Names()
    status = OK
    lines: list[str] = []

    def write() -> None:
        with contextlib.suppress(OSError):
            print("\n".join(lines), flush=True)
        lines.clear()

    async with contextlib.aclosing(targets.items()) as items:
        async for item in items:
            if isinstance(item, BadRow):
                _say(f"noria get: {printable(item.source)}, line {item.line}: {printable(item.error)}")
                status = SOME_FAILED
                continue
            try:
                wanted = name_from_url(parse_url(item.url))
            except Failure as failure:
                _say(f"noria get: {shown_url(item.url)}: {printable(failure.message)}")
                status = SOME_FAILED
                continue
            name = names.claim(safe_name(item.name or "") or wanted)
            path = (
                os.path.normpath(os.path.join(options.directory, name))
                if store is None
                else store.where(name)
            )
            if options.json:
                event = {"event": "plan", "url": without_password(item.url), "path": path}
                lines.append(json.dumps({**event, "size": item.size, "checksum": item.checksum}))
            else:
                lines.append(f"{shown_url(item.url)}\t{printable(path, 5000)}")
            if len(lines) >= 500:
                await loop.run_in_executor(None, write)
    if lines:
        await loop.run_in_executor(None, write)
    return status


def _store(options: argparse.Namespace) -> Any:
    """Where files go, if that is no directory of this machine's. Raises _UsageError."""
    if ":" not in options.directory:
        return None
    from noria.get.objects import is_url, make_store, shown
    from noria.get.store import LocalStore

    if not is_url(options.directory):
        return None
    try:
        store = make_store(options.directory)
    except ValueError as error:
        raise _UsageError(str(error)) from None
    if isinstance(store, LocalStore):  # file://
        options.directory = store.directory
        return None
    if options.update and not options.journal:
        raise _UsageError(
            f"--update needs --journal FILE for {shown(options.directory)}, which keeps no times"
        )
    if (options.segments or 1) > 1:
        raise _UsageError(
            f"--segments cannot be used for {shown(options.directory)}: files are written in one go"
        )
    return store


def _keywords(options: argparse.Namespace, store: Any) -> dict[str, Any]:
    """The keywords of `Downloader` for `options`. Raises _UsageError."""
    from noria.get.journal import FILE_NAME

    headers = dict(pair for pairs in options.header for pair in pairs)
    journal = options.journal
    if journal is None and store is None:
        journal = os.path.join(options.directory, FILE_NAME)
    if options.dask and importlib.util.find_spec("distributed") is None:
        raise _UsageError("--dask needs Dask: pip install 'noria[get-dask]'")
    elsewhere = options.dask is not None and not options.dask.startswith("local:")
    return {
        "store": None if options.dask else store,
        "concurrency": options.jobs,
        "per_host": options.per_host,
        "adaptive": options.adaptive,
        "rate": options.rate,
        "host_rate": options.host_rate,
        "segments": options.segments,
        "retries": options.retries,
        "connect_timeout": options.connect_timeout or None,
        "first_byte_timeout": options.first_byte_timeout or None,
        "stall_timeout": options.stall_timeout or None,
        "timeout": options.timeout or None,
        "longest_wait": options.max_wait,
        "overwrite": options.overwrite,
        "skip_existing": options.skip_existing,
        "update": options.update,
        "resume": not options.no_resume,
        "journal": None if options.no_journal else journal,
        "fsync": options.fsync,
        "decode": options.decode,
        "max_redirects": options.max_redirects,
        "allow_downgrade": options.allow_downgrade,
        "proxy": options.proxy,
        "netrc": options.netrc,
        "headers": headers or None,
        "auth": _login(options.user) if options.user else None,
        "bearer": _bearer(options),
        "cookies": options.cookies if elsewhere else _readable(options.cookies, "the cookies"),
        "ssl": _trust(options),
        "family": {None: 0, 4: socket.AF_INET, 6: socket.AF_INET6}[options.family],
        "user_agent": options.user_agent,
        "max_size": options.max_size,
        "content_types": options.accept_type,
        "checksum_files": options.checksum_files,
    }


def _login(user: str) -> tuple[str, str]:
    name, colon, password = user.partition(":")
    if not colon:
        known = os.environ.get("NORIA_GET_PASSWORD")
        if known is None and sys.stdin is not None and sys.stdin.isatty():
            try:
                from getpass import getpass

                known = getpass(f"Password of {name}: ")
            except EOFError:
                known = None
        if known is None:
            raise _UsageError(f"no password for {name}: set NORIA_GET_PASSWORD")
        password = known
    return name, password


def _bearer(options: argparse.Namespace) -> str | None:
    token = os.environ.get("NORIA_GET_BEARER") if not options.user else None
    if options.bearer_file:
        try:
            with open(options.bearer_file, encoding="ascii") as file:
                token = file.read()
        except OSError as error:
            raise _UsageError(f"cannot read {options.bearer_file}: {error.strerror}") from None
        except UnicodeDecodeError:
            token = "\0"
    if token is None:
        return None
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise _UsageError(f"{options.bearer_file or 'NORIA_GET_BEARER'} does not hold a bearer token")
    return token


def _readable(path: str | None, what: str) -> str | None:
    if path is not None:
        try:
            open(path, "rb").close()
        except OSError as error:
            raise _UsageError(f"cannot use {what} in {path}: {error.strerror}") from None
    return path


def _trust(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.ca_file and not options.cert:
        return None
    where = options.ca_file
    what = "the certificates"
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.cert:
            where, what = options.cert, "the client certificate"
            context.load_cert_chain(options.cert, options.key, _no_password)
    except OSError as error:
        raise _UsageError(f"cannot use {what} in {where}: {error.strerror or error}") from None
    except _PasswordNeeded:
        raise _UsageError(f"the key of {where} has a password; give one without (openssl pkey)") from None
    return context


class _PasswordNeeded(Exception):
    pass


def _no_password() -> str:
    raise _PasswordNeeded


def _check_report(path: str | None) -> None:
    """Said now, and not after the run. Raises _UsageError."""
    if path is None:
        return
    folder = os.path.dirname(path) or os.curdir
    if os.path.isdir(path):
        raise _UsageError(f"cannot write {path}: Is a directory")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise _UsageError(f"cannot write {path}: no directory {folder} that can be written to")


def _refuse(message: str) -> int:
    from noria.get.failures import printable

    _say(f"noria get: {printable(message, 2000)}")
    return WRONG_USAGE


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads; the exit status says what matters
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)
