"""`--report FILE.html`: one page about a run, which needs nothing but a browser.

Charts are SVG made here by hand: three lines over time need no library, follow the page's colours in light and
dark, and show their values where the pointer is by SVG's own <title>. The page runs no script and fetches nothing,
and says so to the browser (Content-Security-Policy), so what a server or a list put into a name or an error stays
text.
"""

import html
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from noria.get.failures import printable, shown_url
from noria.get.tally import Tally
from noria.get.words import duration_text, size_text

_WIDTH, _HEIGHT = 1000, 220  # of a chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 12, 12, 28

_STYLE = """
:root { color-scheme: light dark; --back: #fbfbfa; --card: #ffffff; --text: #1c1f23; --dim: #5c6670;
  --line: #dfe3e6; --one: #1668b8; --two: #c4570a; --bad: #b3261e; --good: #1b7a3d; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --card: #1c2024; --text: #e6e8ea; --dim: #9aa5af;
  --line: #333a41; --one: #6cb1f5; --two: #f0a35a; --bad: #ff8a80; --good: #6fd08c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 0 0 10px; }
.when { color: var(--dim); margin: 2px 0 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: 12px; margin-bottom: 16px; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 16px; } .tile b { display: block; font-size: 1.3rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--dim); font-size: .87rem; }
.bad b, td.bad { color: var(--bad); } .good b { color: var(--good); }
section { padding: 16px 18px; margin-bottom: 16px; overflow-x: auto; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 12px; fill: var(--dim); }
.grid { stroke: var(--line); } .one { stroke: var(--one); } .two { stroke: var(--two); }
.area { fill: var(--one); opacity: .14; } .path { fill: none; stroke-width: 2; stroke-linejoin: round; }
.dash { stroke-dasharray: 5 4; }
.dot { stroke: none; } .dot.one { fill: var(--one); } .dot.two { fill: var(--two); }
.hit { fill: transparent; } .hit:hover { fill: var(--dim); opacity: .18; }
.key { color: var(--dim); font-size: .87rem; margin: 0 0 6px; } .key i { display: inline-block; width: 18px;
  height: 0; border-top: 3px solid var(--one); vertical-align: middle; margin: 0 6px 0 14px; }
.key i.two { border-color: var(--two); } .key i:first-child { margin-left: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: right; color: var(--dim); font-weight: 500; font-size: .87rem; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); } td { text-align: right; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; overflow-wrap: anywhere; }
th:last-child, td:last-child { padding-right: 0; }
details { border-bottom: 1px solid var(--line); padding: 6px 0; } details:last-child { border: 0; }
summary { cursor: pointer; } summary b { color: var(--bad); font-variant-numeric: tabular-nums; }
details p { margin: 6px 0 6px 18px; overflow-wrap: anywhere; } details p span { color: var(--dim); }
@media print { section, .tile { break-inside: avoid; } }
"""


def write_report(path: str, tally: Tally, *, interrupted: bool) -> None:
    """Write the page about the run that `tally` has counted to `path`, replacing it whole. Raises OSError."""
    text = page(tally, interrupted=interrupted)
    folder = os.path.dirname(path) or os.curdir
    if os.path.exists(path) and not os.path.isfile(
        path
    ):  # /dev/stdout and its like are written to as they are
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return
    descriptor, part = tempfile.mkstemp(prefix=".noria-report-", dir=folder)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(part, 0o666 & ~mask)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def page(tally: Tally, *, interrupted: bool) -> str:
    """The page as HTML."""
    activity = tally.activity
    seconds = max(tally.seconds, 1e-9)
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(tally.began))
    stopped = " It was interrupted." if interrupted else ""
    tiles = [
        _tile(f"{activity.done:,}", "downloaded", "good"),
        _tile(f"{activity.failed:,}", "failed", "bad" if activity.failed else ""),
        _tile(size_text(activity.size), "in files"),
        _tile(f"{size_text(activity.received / seconds)}/s", "on average"),
        _tile(f"{activity.done / seconds:,.1f}/s" if activity.done else "0", "files"),
        _tile(duration_text(seconds), "in all"),
    ]
    if activity.skipped:
        tiles.insert(1, _tile(f"{activity.skipped:,}", "there already"))
    if tally.retries:
        tiles.append(_tile(f"{tally.retries:,}", "further attempts"))
    if tally.bad_rows:
        tiles.append(_tile(f"{tally.bad_rows:,}", "bad rows", "bad"))
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>\n"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        "<meta name=viewport content='width=device-width, initial-scale=1'>\n"
        f"<title>noria get, {when}</title><style>{_STYLE}</style></head><body><main>\n"
        f"<h1>noria get</h1><p class=when>Begun {when}, took {duration_text(seconds)}.{stopped}</p>\n"
        f"<div class=tiles>{''.join(tiles)}</div>\n"
        f"{_charts(tally, seconds)}{_failures(tally)}{_hosts(tally)}{_files(tally)}</main></body></html>\n"
    )


def _charts(tally: Tally, seconds: float) -> str:
    buckets = tally.buckets
    if not buckets:
        return ""
    width = tally.width
    # The last bucket may have lasted a moment only: its rate is over what it did last.
    lasted = [width] * (len(buckets) - 1) + [max(min(seconds - (len(buckets) - 1) * width, width), width / 4)]
    rates = [bucket.received / time for bucket, time in zip(buckets, lasted, strict=True)]
    middle = [bucket.quantile(0.5) for bucket in buckets]
    high = [bucket.quantile(0.95) for bucket in buckets]
    active = [float(bucket.active) for bucket in buckets]
    limits = [float(bucket.limit) if bucket.limit else None for bucket in buckets]
    charts = [
        _section(
            "Throughput",
            _chart("throughput", [_Line(rates, "one", area=True)], width, _rate_text, binary=True),
        ),
        _section(
            "Latency",
            "<p class=key><i></i>median time to the first byte<i class=two></i>95 of 100 files are faster</p>"
            + _chart("latency", [_Line(middle, "one"), _Line(high, "two")], width, duration_text),
        )
        if any(value is not None for value in middle)
        else "",
        _section(
            "Concurrency",
            "<p class=key><i></i>downloads at a time<i class=two></i>limit</p>"
            + _chart(
                "concurrency",
                [_Line(active, "one", area=True), _Line(limits, "two", dash=True)],
                width,
                lambda value: f"{value:,.0f}",
                whole=True,
            ),
        ),
    ]
    return "".join(charts)


@dataclass(frozen=True)
class _Line:
    values: Sequence[float | None]  # one for each bucket
    look: str  # class in the style sheet
    area: bool = False
    dash: bool = False


def _chart(
    name: str,
    lines: Sequence[_Line],
    width: float,
    text: Callable[[float], str],
    *,
    binary: bool = False,
    whole: bool = False,
) -> str:
    """Lines over time as SVG. width: seconds of a bucket. binary: round numbers are multiples of 1024's powers."""
    count = len(lines[0].values)
    top = max((value for line in lines for value in line.values if value is not None), default=0.0)
    step = _step(top / 4, binary=binary, whole=whole)
    top = step * max(1, math.ceil(top / step - 1e-9))
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(bucket: float) -> float:
        return _LEFT + inner_width * bucket / count

    def y(value: float) -> float:
        return _TOP + inner_height * (1 - value / top)

    parts = [f'<svg id="{name}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name} over time">']
    for number in range(round(top / step) + 1):
        height = y(number * step)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        )
        label = html.escape(text(number * step))
        parts.append(f'<text x="{_LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{label}</text>')
    span = count * width
    seconds = _time_step(span / 8)
    for number in range(int(span / seconds + 1e-9) + 1):
        where = x(number * seconds / width)
        anchor = "start" if not number else "middle" if where < _WIDTH - 40 else "end"
        parts.append(
            f'<text x="{where:.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">'
            f"{duration_text(number * seconds)}</text>"
        )
    for line in lines:
        for begin, run in _runs(line.values):
            points = [(x(begin + index + 0.5), y(value)) for index, value in enumerate(run)]
            course = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            if len(points) == 1:
                a, b = points[0]
                parts.append(f'<circle class="dot {line.look}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>')
                continue
            if line.area:
                left, right = points[0][0], points[-1][0]
                parts.append(
                    f'<polygon class="area" points="{left:.1f},{y(0)} {course} {right:.1f},{y(0)}"/>'
                )
            dash = " dash" if line.dash else ""
            parts.append(f'<polyline class="path {line.look}{dash}" points="{course}"/>')
    for bucket in range(count):
        values = [text(value) for line in lines if (value := line.values[bucket]) is not None]
        if values:
            moment = f"{duration_text(bucket * width)} to {duration_text((bucket + 1) * width)}: {' / '.join(values)}"
            parts.append(
                f'<rect class="hit" x="{x(bucket):.1f}" y="{_TOP}" width="{inner_width / count:.2f}" '
                f'height="{inner_height}"><title>{html.escape(moment)}</title></rect>'
            )
    return "".join(parts) + "</svg>"


def _runs(values: Sequence[float | None]) -> Iterable[tuple[int, list[float]]]:
    """The stretches of `values` without a gap, each with the place where it begins. Gaps of three are bridged."""
    run: list[float] = []
    begin = last = 0
    for place, value in enumerate(values):
        if value is None:
            continue
        if run and place - last > 3:
            yield begin, run
            run = []
        if not run:
            begin = place
        elif place - last > 1:
            missing = place - last
            run += [run[-1] + (value - run[-1]) * part / missing for part in range(1, missing)]
        run.append(value)
        last = place
    if run:
        yield begin, run


def _step(least: float, *, binary: bool, whole: bool) -> float:
    """A round number of at least `least` for the distance of grid lines."""
    if least <= 0:
        return 1.0
    unit = 1024.0 ** int(math.log(least, 1024)) if binary and least >= 1 else 1.0
    rest = least / unit
    power = 10.0 ** math.floor(math.log10(rest))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    # The largest is taken if rounding has it that none is enough.
    step = next((power * factor for factor in factors if power * factor >= rest * 0.9999), power * 10)
    return max(1.0, unit * step) if whole else unit * step


def _time_step(least: float) -> float:
    for step in (
        0.1,
        0.2,
        0.5,
        1,
        2,
        5,
        10,
        15,
        30,
        60,
        120,
        300,
        600,
        900,
        1800,
        3600,
        7200,
        14_400,
        43_200,
    ):
        if step >= least:
            return step
    return 86_400.0 * math.ceil(least / 86_400)


def _failures(tally: Tally) -> str:
    groups = tally.failures()
    if not groups:
        return ""
    parts = []
    for group in groups:
        examples = "".join(
            f"<p>{_text(shown_url(where))}<br><span>{_text(error)}</span></p>"
            for where, error in group.examples
        )
        more = f"<p><span>and {group.count - len(group.examples):,} more</span></p>"
        parts.append(
            f"<details{' open' if len(groups) <= 4 else ''}><summary><b>{group.count:,}</b> {_text(group.label)}"
            f"</summary>{examples}{more if group.count > len(group.examples) else ''}</details>"
        )
    return _section("Failures", "".join(parts))


def _hosts(tally: Tally) -> str:
    rows = [
        [
            _text(host.name or "(none)"),
            f"{host.done:,}",
            f"{host.failed:,}",
            size_text(host.size),
            duration_text(host.latency) if host.latency is not None else "",
            f"{size_text(host.speed)}/s",
        ]
        for host in tally.busiest_hosts(25)
    ]
    more = len(tally.hosts) - len(rows)
    title = f"Hosts (the 25 with most files, of {len(tally.hosts):,})" if more > 0 else "Hosts"
    head = ["host", "files", "failed", "size", "to the first byte", "speed of a download"]
    return _section(title, _table(head, rows)) if rows else ""


def _files(tally: Tally) -> str:
    rows = [
        [
            _text(shown_url(result.url)),
            duration_text(result.seconds),
            f"{result.attempts}",
            size_text(result.size),
            "arrived" if result.ok else "failed",
        ]
        for result in tally.slowest_files()
    ]
    return _section("Slowest files", _table(["URL", "time", "attempts", "size", "end"], rows)) if rows else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _tile(value: str, words: str, look: str = "") -> str:
    return f'<div class="tile {look}"><b>{_text(value)}</b><span>{words}</span></div>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>\n"


def _text(text: str) -> str:
    """`text` from wherever it comes, as text of the page: markup and invisible characters escaped."""
    return html.escape(printable(text, 2000))


def _rate_text(value: float) -> str:
    return f"{size_text(value)}/s"
