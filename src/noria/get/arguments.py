"""The options of `noria get` as an argparse parser, and what its help says besides.

Nothing but the standard library is imported, so `--help`, completion and the man page, which are all made from
this, cost no start of an HTTP client.
"""

import argparse
import os
import re

from noria.get.columns import parse_checksum, parse_header

OK, SOME_FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

DESCRIPTION = "Download files by http and https, many at a time, and go on where an earlier run stopped."

# Exit status -> what it means. Help, man page and docs/get.md say the same.
EXIT_STATUSES = {
    OK: "every file arrived, or was there already and was to be left",
    SOME_FAILED: "some did not, or rows of a list were wrong: each has a line with the reason on standard error; or a "
    "list, the journal or the cluster broke off",
    WRONG_USAGE: "wrong usage: an option, a list that cannot be opened, a directory that cannot be written to, a "
    "cluster that cannot be reached",
    INTERRUPTED: "interrupted by Ctrl-C; what is complete stays, and the same command goes on from there",
}

# Variables of the environment -> what they are for.
ENVIRONMENT = {
    "http_proxy, https_proxy, no_proxy": "proxies, unless --proxy says otherwise",
    "NORIA_GET_PASSWORD": "the password for --user",
    "NORIA_GET_BEARER": "a bearer token, as --bearer-file reads it from a file",
    "NETRC": "the file that --netrc reads, instead of ~/.netrc",
    "NO_COLOR": "no colours on the terminal, if set",
}

EXAMPLES = {
    "noria get https://example.org/a.pdf https://example.org/b.pdf": "two files, into this directory",
    "noria get -i urls.txt.gz -o papers -j 50": "a long list, fifty at a time",
    "find-urls | noria get -i - -o papers": "what another program finds, as it finds it",
    "noria get -i list.parquet --url-column link --dry-run": "see what would be fetched, and where to",
    "noria get -s 8 https://example.org/big.iso": "one large file over eight connections",
    "noria get -i urls.txt -o s3://bucket/papers --journal run.db": "into an object store; run.db knows what is done",
    "noria get -i urls.txt -o /shared/papers --dask tcp://scheduler:8786": "with the workers of a Dask cluster",
    "noria get -i urls.txt -o papers --report run.html": "keep a page with charts of the run",
    "noria get status papers/.noria-get.db": "what is done, what failed and why",
    "noria get retry papers/.noria-get.db": "try again what failed",
}

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parser() -> argparse.ArgumentParser:
    """The parser for `noria get URL ...`. What one option forbids another, `check` says."""
    statuses = "".join(f"  {status:<4} {words}\n" for status, words in EXIT_STATUSES.items())
    parser = argparse.ArgumentParser(
        prog="noria get",
        usage="noria get [OPTIONS] [URL ...]\n       noria get status DB\n       noria get retry DB [OPTIONS]",
        description=DESCRIPTION,
        epilog=f"exit status:\n{statuses}\n"
        "Times are in seconds, and 0 means no limit. Sizes are bytes and may end in K, M, G or T (powers of 1024).\n"
        "A file grows as NAME.part and gets its name when it is complete.\n"
        "'noria get --man' prints the manual page.\n",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=_width()),
        allow_abbrev=False,  # a new option must not change what a script's abbreviation means
    )
    parser.add_argument("url", nargs="*", metavar="URL", help="what to download, by http or https")
    _add_input(parser.add_argument_group("input"))
    _add_output(parser.add_argument_group("output"))
    _add_speed(parser.add_argument_group("speed"))
    _add_patience(parser.add_argument_group("retries and times"))
    _add_http(parser.add_argument_group("HTTP"))
    _add_report(parser.add_argument_group("what you see"))
    return parser


def _width() -> int:
    """Columns of the terminal, less the two that argparse keeps free. It would ask shutil, which imports all that
    compresses, and do so for options that are added, too.
    """
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        columns = 0
    try:
        columns = columns or os.get_terminal_size(1).columns
    except OSError:
        pass
    return (columns or 80) - 2


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the process with a message if the options do not go together."""
    if options.directory is None:
        options.directory = os.curdir
    if not options.url and not options.input:
        parser.error("no URL, and no list of them (-i FILE)")
    if options.input.count("-") > 1:
        parser.error("standard input can be read once only (-i -)")
    if options.checksum and (len(options.url) != 1 or options.input):
        parser.error("--checksum is for a single URL; a list has a column for it")
    if options.name is not None:
        if len(options.url) != 1 or options.input:
            parser.error("--name is for a single URL; a list has a column for it")
        if "/" in options.name or not options.name:
            parser.error("--name is the name of a file; its directory goes with -o")
    chosen = [name for name in ("overwrite", "skip_existing", "update") if getattr(options, name)]
    if len(chosen) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in chosen[:2])
        parser.error(f"argument {second}: not allowed with argument {first}")
    if options.key and not options.cert:
        parser.error("--key needs --cert")
    if options.user and options.bearer_file:
        parser.error("argument --bearer-file: not allowed with argument --user")
    if options.journal and options.no_journal:
        parser.error("argument --no-journal: not allowed with argument --journal")
    if options.dask and options.update:
        parser.error("argument --update: not allowed with argument --dask")
    if options.dask and (options.ca_file or options.cert):
        parser.error(
            f"argument {'--cert' if options.cert else '--ca-file'}: not allowed with argument --dask; "
            "the workers take SSL_CERT_FILE from their environment"
        )


def _add_input(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-i",
        "--input",
        metavar="FILE",
        action="append",
        default=[],
        help="read more URLs from FILE, or from standard input if it is -: text with one a line, CSV, JSON Lines or "
        "Parquet, plain or packed with gzip or zstd; may be given several times",
    )
    group.add_argument(
        "--input-format",
        choices=["text", "csv", "tsv", "jsonl", "parquet"],
        help="what the lists are (default: by their endings, else text)",
    )
    for field, usual, words in [
        ("url", "url, uri, link", "URLs"),
        ("name", "name, filename, output", "names of the files to make"),
        ("checksum", "checksum, sha256, md5", "checksums"),
        ("size", "size, bytes, length", "sizes in bytes"),
        ("headers", "headers", "headers to send: a JSON object, or lines 'Name: value'"),
    ]:
        group.add_argument(
            f"--{field}-column",
            metavar="COLUMN",
            help=f"the column of the lists with {words} (default: the first of {usual} ... that is there)",
        )
    group.add_argument(
        "--checksum", metavar="ALG:HEX", type=_checksum, help="what the one URL's file must have"
    )
    group.add_argument(
        "--checksum-files",
        action="store_true",
        help="ask for URL.sha256 before each URL, and hold the file against what it says",
    )
    group.add_argument(
        "-n",
        "--dry-run",
        action="store_true",
        help="print what would be fetched and where to, and fetch nothing",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-o",
        "--directory",
        metavar="DIR",
        help="where files go (default: here): a directory, or a URL that fsspec knows, as in s3://bucket/prefix",
    )
    group.add_argument("-O", "--name", metavar="NAME", help="what to call the one URL's file")
    group.add_argument("--overwrite", action="store_true", help="replace files that exist")
    group.add_argument("--skip-existing", action="store_true", help="take files that exist for downloaded")
    group.add_argument(
        "--update", action="store_true", help="replace files that exist if the server has a newer one"
    )
    group.add_argument(
        "--no-resume", action="store_true", help="begin anew what an earlier run has left incomplete"
    )
    group.add_argument(
        "--journal",
        metavar="FILE",
        help="where to keep what is done (default: .noria-get.db in the directory; none for a URL)",
    )
    group.add_argument("--no-journal", action="store_true", help="keep no journal")
    group.add_argument(
        "--fsync", action="store_true", help="have each file on the disk before it counts as done"
    )
    group.add_argument(
        "--decode",
        "--compressed",
        action="store_true",
        help="ask for compressed bodies and save them unpacked: gzip and deflate, and with the extra get-decode br and "
        "zstd",
    )
    group.add_argument("--max-size", metavar="SIZE", type=_size, help="refuse files larger than this")
    group.add_argument(
        "--accept-type",
        metavar="PATTERN",
        action="append",
        help="refuse files of other content types, such as text/html or 'image/*'; may be given several times",
    )


def _add_speed(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-j", "--jobs", metavar="N", type=_at_least_one, default=32, help="downloads at a time (32)"
    )
    group.add_argument(
        "--per-host",
        metavar="N",
        type=_at_least_one,
        help="of them, from one host and port (default: as many as in all)",
    )
    group.add_argument(
        "--adaptive", action="store_true", help="find out how many at a time the servers bear, up to -j"
    )
    group.add_argument(
        "-s",
        "--segments",
        metavar="N",
        type=_at_least_one,
        help="connections for one large file (default: as many as pay; 1: never several)",
    )
    group.add_argument(
        "--rate",
        "--limit-rate",
        metavar="RATE",
        type=_rate,
        help="at most so many bytes a second in all, as in 10M",
    )
    group.add_argument("--host-rate", metavar="RATE", type=_rate, help="the same for each host")
    group.add_argument(
        "--dask",
        metavar="CLUSTER",
        type=_cluster,
        help="let a Dask cluster do the work: the address of its scheduler, as in tcp://scheduler:8786, or local:N "
        "for N processes on this machine; the limits above hold for the whole of it",
    )


def _add_patience(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--retries", metavar="N", type=_count, default=4, help="attempts after the first (4)")
    for option, default, words in [
        ("--max-wait", 60.0, "longest wait before another attempt (60)"),
        ("--connect-timeout", 30.0, "longest time for name lookup, connection and TLS together (30)"),
        ("--first-byte-timeout", 0.0, "longest time from the request to the answer (none)"),
        ("--stall-timeout", 30.0, "longest time without a byte (30)"),
        ("--timeout", 0.0, "longest time for one URL, attempts and waits included (none)"),
    ]:
        group.add_argument(option, metavar="S", type=_seconds, default=default, help=words)


def _add_http(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-H",
        "--header",
        metavar="LINE",
        action="append",
        type=_header,
        default=[],
        help="send the header 'Name: value', or those in a file if it is @FILE; may be given several times",
    )
    group.add_argument(
        "-u",
        "--user",
        metavar="NAME[:PASSWORD]",
        help="log in (basic); the password is better in NORIA_GET_PASSWORD, or asked for on the terminal",
    )
    group.add_argument("--bearer-file", metavar="FILE", help="send the bearer token in FILE")
    group.add_argument("--netrc", action="store_true", help="take names and passwords from ~/.netrc")
    group.add_argument("-b", "--cookies", metavar="FILE", help="send the cookies in FILE (Netscape's format)")
    group.add_argument("-x", "--proxy", metavar="URL", help="go through this proxy")
    group.add_argument("--cert", metavar="FILE", help="client certificate (PEM)")
    group.add_argument("--key", metavar="FILE", help="its key, if it is not in the same file")
    group.add_argument(
        "--ca-file", "--cacert", metavar="FILE", help="trust the certificate authorities in FILE (PEM)"
    )
    group.add_argument("-4", "--ipv4", dest="family", action="store_const", const=4, help="use IPv4 only")
    group.add_argument("-6", "--ipv6", dest="family", action="store_const", const=6, help="use IPv6 only")
    group.add_argument(
        "-A", "--user-agent", metavar="NAME", default="noria-get", help="what to call itself (noria-get)"
    )
    group.add_argument("--max-redirects", metavar="N", type=_count, default=10, help="follow so many (10)")
    group.add_argument(
        "--allow-downgrade", action="store_true", help="follow redirects from https to http as well"
    )


def _add_report(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-q", "--quiet", action="store_true", help="report nothing but errors")
    group.add_argument(
        "--json", action="store_true", help="print events on standard output, a JSON object a line"
    )
    group.add_argument("--report", metavar="FILE", help="write a page (HTML) about the run, with charts")
    group.add_argument("--man", action="store_true", help="print the manual page, and do nothing else")


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


def _size(text: str) -> int:
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    value = float(number.removesuffix(unit)) * _UNITS[unit]
    if not 0 <= value < 1 << 63:
        raise ValueError
    return int(value)


def _rate(text: str) -> int:
    value = _size(text.removesuffix("/s"))
    if value < 1:
        raise ValueError
    return value


def _cluster(text: str) -> str:
    if not re.fullmatch(r"local:[1-9]\d{0,2}|(tcp|tls|ucx|wss?)://\S+", text):
        raise ValueError
    return text


def _checksum(text: str) -> str:
    try:
        return parse_checksum(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _header(text: str) -> list[tuple[str, str]]:
    try:
        if not text.startswith("@"):
            return [parse_header(text)]
        with open(text[1:], encoding="utf-8") as file:
            return [parse_header(line) for line in file.read().splitlines() if line.strip()]
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {text[1:]}: {error.strerror}") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# argparse names the function in its message: "invalid seconds value: 'x'".
_seconds.__name__, _count.__name__, _at_least_one.__name__ = "seconds", "count", "number"
_size.__name__, _rate.__name__, _cluster.__name__ = "size", "rate", "cluster"
