"""The command `noria get`: options in, `download_all`, report and exit status out."""

import argparse
import contextlib
import os
import ssl
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack

import noria
from noria.get.engine import download_all
from noria.get.failures import printable
from noria.get.progress import Report, summary
from noria.get.results import Activity
from noria.get.sources import read_urls

OK, SOME_FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """\
exit status:
  0    every file arrived
  1    some did not; each is named on standard error with the reason
  2    wrong usage: options, the list of URLs or the directory
  130  interrupted; what was complete by then stays

A file grows as NAME.part and gets its name when it is complete. Times are in seconds; 0 means no limit.
"""


def main(arguments: list[str]) -> int:
    """Run `noria get` with `arguments` and return the exit status. Raises SystemExit for --help and wrong
    options.
    """
    options = _parse(arguments)
    activity = Activity()
    start = time.monotonic()
    with ExitStack() as stack:
        try:
            context = ssl.create_default_context(cafile=options.cacert) if options.cacert else None
        except OSError as error:
            return _refuse(f"cannot use the certificates in {options.cacert}: {error.strerror or error}")
        try:
            fd = _open_list(options.input, stack) if options.input else None
        except OSError as error:
            return _refuse(f"cannot read {options.input}: {error.strerror}")
        try:
            noria.run(_download(options, fd, context, activity))
        except KeyboardInterrupt:
            _say(summary(activity, time.monotonic() - start, interrupted=True))
            return INTERRUPTED
        except _DirectoryError as error:
            return _refuse(str(error))
        except _ListError as error:
            _say(f"noria get: {error}")
            activity.failed += 1
    if not options.quiet:
        _say(summary(activity, time.monotonic() - start))
    return SOME_FAILED if activity.failed else OK


class _ListError(Exception):
    """The list of URLs broke off."""


class _DirectoryError(Exception):
    """There is nowhere to put files."""


async def _download(
    options: argparse.Namespace, fd: int | None, context: ssl.SSLContext | None, activity: Activity
) -> None:
    results = download_all(
        _urls(options, fd),
        options.directory,
        concurrency=options.jobs,
        retries=options.retries,
        connect_timeout=options.connect_timeout or None,
        stall_timeout=options.stall_timeout or None,
        timeout=options.timeout or None,
        longest_wait=options.max_wait,
        overwrite=options.overwrite,
        skip_existing=options.skip_existing,
        ssl=context,
        activity=activity,
    )
    total = None if options.input else len(options.url)
    async with contextlib.aclosing(results), Report(activity, quiet=options.quiet, total=total) as report:
        try:
            async for result in results:
                await report.show(result)
        except OSError as error:
            raise _DirectoryError(f"cannot write to {options.directory}: {error.strerror or error}") from None


async def _urls(options: argparse.Namespace, fd: int | None) -> AsyncGenerator[str, None]:
    for url in options.url:
        yield url
    if fd is None:
        return
    try:
        async with contextlib.aclosing(read_urls(fd)) as lines:
            async for url in lines:
                yield url
    except OSError as error:
        raise _ListError(f"cannot read on in {options.input}: {error.strerror}") from None


def _open_list(name: str, stack: ExitStack) -> int:
    if name == "-":
        return 0  # sys.stdin may be missing; the descriptor then gives an error when it is read
    return stack.enter_context(open(name, "rb", buffering=0)).fileno()


def _refuse(message: str) -> int:
    _say(f"noria get: {printable(message, 2000)}")
    return WRONG_USAGE


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads; the exit status says what matters
        print(line, file=sys.stderr, flush=True)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="noria get",
        description="Download files, many at a time.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", nargs="*", metavar="URL", help="what to download, by http or https")
    parser.add_argument(
        "-i",
        "--input",
        metavar="FILE",
        help="read more URLs from FILE, one a line, or from standard input if it is -",
    )
    parser.add_argument(
        "-o", "--directory", metavar="DIR", default=os.curdir, help="where files go (default: here)"
    )
    parser.add_argument(
        "-j", "--jobs", metavar="N", type=_at_least_one, default=32, help="downloads at a time (32)"
    )
    parser.add_argument("--retries", metavar="N", type=_count, default=4, help="attempts after the first (4)")
    parser.add_argument(
        "--max-wait",
        metavar="S",
        type=_seconds,
        default=60.0,
        help="longest wait before another attempt (60)",
    )
    parser.add_argument(
        "--connect-timeout",
        metavar="S",
        type=_seconds,
        default=30.0,
        help="for name lookup, connection and TLS (30)",
    )
    parser.add_argument(
        "--stall-timeout", metavar="S", type=_seconds, default=30.0, help="without a byte (30)"
    )
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=_seconds,
        default=0.0,
        help="for one URL, attempts and waits included (none)",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace files that exist")
    existing.add_argument("--skip-existing", action="store_true", help="take files that exist for downloaded")
    parser.add_argument("--cacert", metavar="FILE", help="trust the certificate authorities in FILE (PEM)")
    parser.add_argument("-q", "--quiet", action="store_true", help="report nothing but errors")
    options = parser.parse_args(arguments)
    if not options.url and not options.input:
        parser.error("no URL, and no list of them (-i FILE)")
    return options


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 1_000_000:
        raise ValueError
    return value


def _at_least_one(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10_000:
        raise ValueError
    return value


# argparse names the function in its message: "invalid seconds value: 'x'".
_seconds.__name__, _count.__name__, _at_least_one.__name__ = "seconds", "count", "number"
