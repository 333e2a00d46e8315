"""File names: safe, faithful where that is safe, and each given out once."""

import pytest
from yarl import URL

from noria.get.names import Names, name_from_header, name_from_url, safe_name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/pub/f1040.pdf", "f1040.pdf"),
        ("http://h/pub/f1040.pdf?version=2#page=3", "f1040.pdf"),
        ("http://h/annual%20report.pdf", "annual report.pdf"),
        ("http://h/%E6%B0%B4%E8%BB%8A.txt", "水車.txt"),
        ("http://h/caf%E9.txt", "caf\ufffd.txt"),
        ("http://h/dir/", "dir"),
        ("http://h/", "index.html"),
        ("http://h", "index.html"),
        ("http://h/..%2f..%2fetc%2fpasswd", "passwd"),
        ("http://h/a%5C..%5Cb", "b"),
        ("http://h/%00%0a", "index.html"),
        ("http://h/.%2e", "index.html"),
        ("http://h/.bashrc", "_.bashrc"),
    ],
)
def test_the_last_component_of_the_path_names_the_file(url: str, name: str) -> None:
    assert name_from_url(URL(url)) == name


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("attachment; filename=plain.pdf", "plain.pdf"),
        ('attachment; filename="with space; and semicolon.pdf"', "with space; and semicolon.pdf"),
        (r'attachment; filename="quo\"ted.pdf"', 'quo"ted.pdf'),
        ("attachment; filename=unquoted space.pdf", "unquoted space.pdf"),
        ("ATTACHMENT; FILENAME=x.pdf", "x.pdf"),
        ("inline;filename=x.pdf", "x.pdf"),
        ("filename=x.pdf", "x.pdf"),
        ("attachment; filename*=UTF-8''%e2%82%ac%20rates.txt", "€ rates.txt"),
        ("attachment; filename=\"E rates.txt\"; filename*=utf-8'en'%e2%82%ac%20rates.txt", "€ rates.txt"),
        ("attachment; filename*=iso-8859-1''%a3.txt", "£.txt"),
        ("attachment; filename*=UTF-8''%ff; filename=fallback.txt", "fallback.txt"),
        ("attachment; filename*=UTF-16''%00a; filename=fallback.txt", "fallback.txt"),
        ('attachment; filename="caf\udce9.txt"', "café.txt"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ("attachment; filename*=UTF-8''..%2F..%2Fx", "x"),
        ('attachment; filename="C:\\\\temp\\\\x.exe"', "x.exe"),
    ],
)
def test_a_content_disposition_header_names_the_file(header: str, name: str) -> None:
    assert name_from_header(header) == name


@pytest.mark.parametrize(
    "header",
    [None, "", "attachment", "attachment; filename=", 'attachment; filename=""', 'attachment; filename=".."']
    + ["attachment; filename=/", 'attachment; filename="unfinished', "; ; =", "attachment; filename*=''"],
)
def test_a_header_without_a_usable_name_names_nothing(header: str | None) -> None:
    assert name_from_header(header) is None


@pytest.mark.parametrize("text", ["", ".", "..", "...", "/", "a/..", "\x00\x1b", "\u202e", " ", "\udc80"])
def test_what_holds_no_usable_character_is_no_name(text: str) -> None:
    assert safe_name(text) == ""


@pytest.mark.parametrize(
    "text",
    ["a/b", "..\\..\\x", "-rf", ".hidden", "x\x1b[2J.txt", "gpj\u202eexe.", "\u2028x", "n" * 5000, "水" * 400]
    + ["x." + "y" * 400, "a\nb", "/etc/passwd\x00.txt", "trailing/"],
)
def test_a_safe_name_is_one_visible_component_of_bounded_length(text: str) -> None:
    name = safe_name(text)
    assert "/" not in name
    assert "\\" not in name
    assert not name.startswith((".", "-"))
    assert name.isprintable()
    assert len(name.encode()) <= 255 - len(".part")


def test_a_long_name_keeps_its_ending() -> None:
    assert safe_name("n" * 5000 + ".tar.gz").endswith("nnn.tar.gz")


def test_the_second_asker_for_a_name_gets_a_number_before_the_ending() -> None:
    names = Names()
    claimed = [names.claim(name) for name in ["a.pdf", "a.pdf", "b", "a.pdf", "b", "x.tar.gz", "x.tar.gz"]]
    assert claimed == ["a.pdf", "a-2.pdf", "b", "a-3.pdf", "b-2", "x.tar.gz", "x-2.tar.gz"]


def test_a_number_is_passed_over_when_a_file_is_really_called_so() -> None:
    names = Names()
    assert [names.claim(name) for name in ["a-2.pdf", "a.pdf", "a.pdf"]] == ["a-2.pdf", "a.pdf", "a-3.pdf"]


@pytest.mark.parametrize("order", [["x", "x.part"], ["x.part", "x"]])
def test_no_file_has_the_name_of_another_ones_part(order: list[str]) -> None:
    names = Names()
    claimed = {names.claim(name) for name in order}
    assert not claimed & {name + ".part" for name in claimed}


def test_many_equal_names_are_numbered_without_searching_from_the_start_each_time() -> None:
    names = Names()
    assert [names.claim("x.bin") for _ in range(50_000)][-1] == "x-50000.bin"
