"""Lists of every format, whole and broken: which Targets and bad rows come out, and in how much memory."""

import asyncio
import gzip
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from backports import zstd  # as a child of the test extra, on every interpreter that is supported

import noria
from noria.get.columns import ColumnNames, parse_checksum
from noria.get.sources import BadRow, InputError, Item, open_list
from noria.get.target import Target

A, B, C = "http://h/a", "http://h/b", "http://h/c"
SHA = "ab" * 32


def read(path: Path, form: str | None = None, **columns: str) -> list[Item]:
    async def main() -> list[Item]:
        source = open_list(str(path), form, ColumnNames(**columns))
        try:
            items = [item async for item in source.items()]
            assert source.length == source.count == len(items)
            return items
        finally:
            source.close()

    return noria.run(main())


def bad(items: list[Item]) -> list[tuple[int, str]]:
    return [(item.line, item.error) for item in items if isinstance(item, BadRow)]


def urls(items: list[Item]) -> list[str]:
    return [item.url for item in items if isinstance(item, Target)]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_text_plain_and_compressed(tmp_path: Path, ending: str) -> None:
    text = f"\ufeff# forms\r\n\r\n  {A}\r\n#{B}\n{C}".encode()
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}[ending]
    path = tmp_path / ("list.txt" + ending)
    path.write_bytes(pack(text))
    assert read(path) == [Target(A), Target(C)]


def test_compression_is_told_by_content_and_members_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(gzip.compress(f"{A}\n".encode()) + gzip.compress(f"{B}\n".encode()) + bytes(512))
    assert urls(read(path)) == [A, B]
    path.write_bytes(zstd.compress(f"{A}\n".encode()) + zstd.compress(f"{B}\n".encode()))
    assert urls(read(path)) == [A, B]


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_a_compressed_list_that_breaks_off_is_an_error_after_what_it_had(
    tmp_path: Path, pack: object
) -> None:
    path = tmp_path / "list.csv.packed"
    lines = [f"http://h/{random.getrandbits(64)}" for _ in range(50_000)]
    packed = pack("\n".join(["url", *lines]).encode())  # type: ignore[operator]
    for broken, words in [(packed[:-9], "breaks off"), (packed[:6] + b"?" * 2000, "is broken")]:
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"list.csv.packed .*") as caught:
            read(path, "csv")
        assert words in str(caught.value)
        assert not caught.value.usage


def test_csv_with_every_column(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        "size,URL,filename,sha256,headers,note\n"
        f'12,{A},one.bin,{SHA.upper()},"X-A: 1\nX-B: 2","said ""hello"""\n'
        f'\n,{B},,,"{{""X-C"": ""3""}}",\n'
        f" 7 ,{C}\n"
    )
    assert read(path) == [
        Target(A, "one.bin", f"sha256:{SHA}", 12, {"X-A": "1", "X-B": "2"}),
        Target(B, headers={"X-C": "3"}),
        Target(C, size=7),
    ]


def test_columns_by_other_names_and_other_delimiters(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"url;Where;as\nno;{A};x\n")
    assert read(path, url="where", name="as") == [Target(A, "x")]
    path.write_text(f"a,b\nx,{A}\n")
    with pytest.raises(InputError, match="no column is named url, but only 'a', 'b'") as caught:
        read(path)
    assert caught.value.usage
    with pytest.raises(InputError, match="there is no column 'c'"):
        read(path, url="b", name="c")
    tsv = tmp_path / "list.tsv"
    tsv.write_text(f"url\tname\n{A}?a,b;c\tx, y\n")
    assert read(tsv) == [Target(A + "?a,b;c", "x, y")]


def test_csv_without_a_line_of_names(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"1,{A}\n2,{B}\n")
    assert read(path) == [Target(A), Target(B)]
    assert read(path, name="1") == [Target(A, "1"), Target(B, "2")]


def test_bad_rows_of_csv_are_named_by_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(
        b"url,size,checksum\n"  # 1
        b",5,\n"  # 2
        b"http://h/\xff,,\n"  # 3
        b"http://h/a,-1,\n"  # 4
        b'"http://h/b,1,\n'  # 5: opens a quote
        b"http://h/a,,sha256:12\n"  # 6
        b'"http://h/c\n",,\n'  # 7 and 8
        b'http://h/a,"1"2,\n'  # 9
        b"http://h/b,,\n"  # 10
    )
    items = read(path)
    assert urls(items)[-1] == B
    found = dict(bad(items))
    assert found[2] == "it has no URL"
    assert found[3] == "it is not UTF-8"
    assert found[4] == "its size is no number of bytes: '-1'"
    assert found[6] == "checksum 'sha256:12' is not 64 hexadecimal digits"
    assert 9 in found and 5 in found and 10 not in found


def test_a_quote_that_nothing_closes_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    rows = [f"http://h/{number}" for number in range(30_000)]
    rows[7] = '"' + rows[7]
    path.write_text("url\n" + "\n".join(rows))
    items = read(path)
    assert bad(items) == [(9, "a quote is opened and not closed")]
    assert len(urls(items)) == 29_999


def test_records_that_span_pieces_come_out_whole(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    note = "line\n" * 20_000  # more than a piece has, in one cell
    path.write_text(f'note,url\n"{note}",{A}\n"{note}",{B}\n')
    assert urls(read(path)) == [A, B]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    rows = [
        {"url": A, "name": "x", "checksum": f"sha256:{SHA}", "size": 3, "headers": {"X-A": "1"}},
        B,
        {"size": None, "link": C},
        {"name": "x"},
        {"url": 7},
        [],
        {"url": A, "headers": {"X-A": "1\r\nEvil: 2"}},
        {"url": A, "size": True},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + '\n\n{"url": \n')
    items = read(path)
    assert items[:3] == [Target(A, "x", f"sha256:{SHA}", 3, {"X-A": "1"}), Target(B), Target(C)]
    assert [line for line, _ in bad(items)] == [4, 5, 6, 7, 8, 10]
    path.write_text("[\n" + json.dumps(A))
    with pytest.raises(InputError, match="JSON Lines"):
        read(path)


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "list.parquet"
    many = [f"http://h/{number}" for number in range(5000)]
    table = pa.table(
        {
            "note": ["?"] * 5003,
            "url": [A, None, B, *many],
            "size": [1, 2, -5, *[None] * 5000],
            "headers": pa.array(
                [[("X-A", "1")], None, None, *[None] * 5000], pa.map_(pa.string(), pa.string())
            ),
        }
    )
    parquet.write_table(table, path, row_group_size=700)
    items = read(path)
    assert items[0] == Target(A, size=1, headers={"X-A": "1"})
    assert bad(items) == [(2, "it has no URL"), (3, "its size is no number of bytes: -5")]
    assert urls(items)[1:] == many
    other = tmp_path / "other-ending"
    path.rename(other)
    assert len(read(other)) == 5003
    with pytest.raises(InputError, match="there is no column 'where'"):
        read(other, url="where")
    whole = bytearray(other.read_bytes())
    whole[4:5000] = os.urandom(4996)
    other.write_bytes(whole)
    with pytest.raises(InputError, match="is broken after row 0"):
        read(other)
    other.write_bytes(whole[:3000])
    with pytest.raises(InputError, match="is no Parquet file"):
        read(other)


@pytest.mark.parametrize(
    ("text", "column", "result"),
    [
        (f"SHA256:{SHA}", "", f"sha256:{SHA}"),
        (f"sha-256:{SHA}", "", f"sha256:{SHA}"),
        (SHA, "checksum", f"sha256:{SHA}"),
        ("ab" * 16, "", "md5:" + "ab" * 16),
        ("ab" * 64, "blake2b", "blake2b:" + "ab" * 64),
        ("ab" * 3, "", None),
        ("shake_128:ab", "", None),
        ("rot13:ab", "", None),
        ("sha256:" + "xy" * 32, "", None),
    ],
)
def test_checksums(text: str, column: str, result: str | None) -> None:
    if result is None:
        with pytest.raises(ValueError):
            parse_checksum(text, column)
    else:
        assert parse_checksum(text, column) == result


def test_the_loop_goes_on_while_a_pipe_is_silent_and_rows_come_as_they_are_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)

    async def main() -> None:
        keep = os.open(pipe, os.O_RDWR)
        source = open_list(str(pipe))
        with io.FileIO(keep, "w") as writer:
            items = source.items()
            for url in (A, B):
                writer.write(b"url\n" * (url == A) + url.encode() + b"\n")
                assert await asyncio.wait_for(anext(items), 20) == Target(url)
            waiting = asyncio.ensure_future(anext(items))
            done, _ = await asyncio.wait([waiting], timeout=0.05)
            assert not done
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await items.aclose()
            source.close()

    noria.run(main())


MEMORY = """
import resource, sys
import noria
from noria.get.sources import open_list
async def main():
    source = open_list(sys.argv[1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = 0
    async for item in source.items():
        count += 1
    source.close()
    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
noria.run(main())
"""


@pytest.mark.parametrize("name", ["list.txt.gz", "list.csv.zst", "list.jsonl.gz"])
def test_memory_does_not_grow_with_the_list_nor_with_how_far_it_expands(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    row = (json.dumps(A) if "jsonl" in name else A) + "\n"
    text = ("url\n" * ("csv" in name) + row * 100_000).encode()  # a few KiB, compressed
    path.write_bytes(zstd.compress(text) if name.endswith("zst") else gzip.compress(text, 6))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, timeout=100, check=True
    )
    count, kib = map(int, done.stdout.split())
    assert count >= 100_000
    assert kib < 16 * 1024
