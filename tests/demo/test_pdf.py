"""make_pdf: documents of the wanted size whose cross-references hold."""

import re

import pytest

from noria.demo.pdf import make_pdf


@pytest.mark.parametrize("size", [700, 701, 777, 778, 779, 1000, 9_999, 10_000, 10_001, 99_999, 1_000_000])
def test_the_size_is_the_one_asked_for(size: int) -> None:
    assert len(make_pdf("f1040.pdf", size)) == size


def test_the_smallest_size_is_named_and_works() -> None:
    with pytest.raises(ValueError, match=r"needs at least \d+ bytes, not 10") as caught:
        make_pdf("f1040.pdf", 10)
    match = re.search(r"at least (\d+) bytes", str(caught.value))
    assert match
    smallest = int(match[1])
    assert len(make_pdf("f1040.pdf", smallest)) == smallest
    with pytest.raises(ValueError):
        make_pdf("f1040.pdf", smallest - 1)


@pytest.mark.parametrize("title", ["f1040.pdf", "", "(un)balanced\\ ((", "Überweisung 水車"])
@pytest.mark.parametrize("size", [900, 61_441])
def test_every_cross_reference_leads_to_its_object(title: str, size: int) -> None:
    document = make_pdf(title, size)
    assert document.startswith(b"%PDF-1.4\n")
    tail = re.search(rb"startxref\n(\d+)\n%%EOF\n$", document)
    assert tail
    table = document[int(tail[1]) :]
    match = re.match(rb"xref\n0 (\d+)\n", table)
    assert match
    count = int(match[1])
    entries = table[match.end() :]
    assert entries[:20] == b"0000000000 65535 f \n"
    for number in range(1, count):
        entry = entries[20 * number : 20 * number + 20]
        assert re.fullmatch(rb"\d{10} 00000 n \n", entry)
        assert document[int(entry[:10]) :].startswith(b"%d 0 obj\n" % number)
    assert entries[20 * count :].startswith(b"trailer\n<< /Size %d /Root 1 0 R >>\n" % count)
    stream = re.search(rb"<< /Length (\d+) >>\nstream\n(.*)\nendstream", document)
    assert stream
    assert int(stream[1]) == len(stream[2])


def test_equal_arguments_give_equal_bytes_and_titles_differ_throughout() -> None:
    one, two = make_pdf("a", 10_000), make_pdf("b", 10_000)
    assert one == make_pdf("a", 10_000)
    pieces = {one[at : at + 500] for at in range(1000, 9000, 500)}
    assert not pieces & {two[at : at + 500] for at in range(1000, 9000, 500)}
