"""The manual page noria-get(1), made from the parser, so that it says what the command does.

`noria get --man` prints it; `python -m noria.get.man > docs/man/noria-get.1` makes the one that is installed, and
a test compares the two. The macros are those of man(7).
"""

import argparse
import re

from noria.get import arguments

_INPUTS = """\
A list is text with one URL a line (blank lines and lines that begin with # are left out), CSV or TSV, JSON Lines (an
object a line, or a string with the URL), or Parquet. The ending of its name tells which; other names are taken for
text. Lists packed with gzip or zstd are known by their content.

The columns of a table are found by their usual names, in upper or lower case, or by those given with --url-column and
its like. A CSV file whose first line has a URL has no line of names, and its columns are called 1, 2 and so on.

A row that is wrong is reported with the list's name and the line, the rest goes on, and the exit status is 1.
A list that breaks off ends the run when the downloads under way have ended."""

_COMMANDS = {
    "noria get status DB": "Print what the journal DB says of a run: how many files are done, how many failed and why.",
    "noria get retry DB": "Try again what failed. Files go to the directory of DB unless -o names another one; the "
    "options of a run apply.",
}


def page() -> str:
    """The page as troff source."""
    parser = arguments.parser()
    parts = [
        '.\\" Made by python -m noria.get.man; do not edit.',
        '.TH NORIA-GET 1 "" noria "User Commands"',
        ".SH NAME",
        r"noria-get \- download files, many at a time",
        ".SH SYNOPSIS",
        r".B noria get",
        r"[\fIOPTIONS\fR] [\fIURL\fR ...]",
        ".br",
        r".B noria get status",
        r"\fIDB\fR",
        ".br",
        r".B noria get retry",
        r"\fIDB\fR [\fIOPTIONS\fR]",
        ".SH DESCRIPTION",
        _text(arguments.DESCRIPTION),
        ".PP",
        _text(
            "A file grows as NAME.part and gets its name when it is complete and has the length and checksum that "
            "were declared. What is done is kept in a journal, so that the same command, given again, goes on where "
            "it was."
        ),
        ".PP",
        _text(
            "Times are in seconds, and 0 means no limit. Sizes are bytes and may end in K, M, G or T (powers of 1024)."
        ),
        ".SH OPTIONS",
    ]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help is not argparse.SUPPRESS]
        if not actions:
            continue
        if group.title not in ("options", "positional arguments"):
            parts.append(
                f".SS {_text((group.title or '').capitalize() if group.title != 'HTTP' else 'HTTP')}"
            )
        for action in actions:
            parts += [".TP", _heading(action), _text(_sentence(action.help or ""))]
    parts.append(".SH COMMANDS")
    for command, words in _COMMANDS.items():
        parts += [".TP", rf"\fB{_text(command)}\fR", _text(words)]
    parts.append(".SH INPUTS")
    parts.append("\n.PP\n".join(_text(paragraph) for paragraph in _INPUTS.split("\n\n")))
    parts.append(".SH EXIT STATUS")
    for status, words in arguments.EXIT_STATUSES.items():
        parts += [".TP", rf"\fB{status}\fR", _text(_sentence(words))]
    parts.append(".SH ENVIRONMENT")
    for name, words in arguments.ENVIRONMENT.items():
        parts += [".TP", rf"\fB{_text(name)}\fR", _text(_sentence(words))]
    parts.append(".SH FILES")
    parts += [".TP", r"\fB.noria\-get.db\fR", _text("In the directory of the files: the journal (SQLite).")]
    parts.append(".SH EXAMPLES")
    for command, words in arguments.EXAMPLES.items():
        parts += [".TP", rf"\fB{_text(command)}\fR", _text(_sentence(words))]
    parts += [".SH SEE ALSO", r"\fBcurl\fR(1), \fBwget2\fR(1), \fBaria2c\fR(1)"]
    return "\n".join(parts) + "\n"


def _heading(action: argparse.Action) -> str:
    if not action.option_strings:
        return rf"\fI{_text(str(action.metavar or action.dest))}\fR"
    flags = ", ".join(rf"\fB{_text(flag)}\fR" for flag in action.option_strings)
    if action.nargs == 0:
        return flags
    metavar = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else str(action.metavar)
    return rf"{flags} \fI{_text(metavar)}\fR"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")


def _text(words: str) -> str:
    """`words` for troff: nothing in them is a request or an escape, and each - is a minus, as in options."""
    words = words.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    return re.sub(r"(?m)^\.", r"\\&.", words.replace("~", r"\(ti").replace("^", r"\(ha"))


if __name__ == "__main__":
    print(page(), end="")
