"""Small valid PDF files of any wanted size, for the demonstration and for tests.

The file shows its title on one A4 page. The rest of the wanted size is filled with comment lines, which every
reader skips; their text follows from the title, so files with different titles differ in every part. Nothing
else of the PDF format is covered (ISO 32000-1, section 7.5, describes the four parts written here).
"""

import hashlib

_LINE = 76  # hexadecimal digits in one comment line


def make_pdf(title: str, size: int) -> bytes:
    """A PDF document of exactly `size` bytes whose only page shows `title`.

    Equal arguments give equal bytes. Characters of the title that Latin-1 lacks are shown as "?". Raises
    ValueError when `size` is too small to hold the document: a short title needs about 650 bytes.
    """
    padding = size - len(_document(title, b""))
    if padding < 0:
        raise ValueError(f"a PDF with the title {title!r} needs at least {size - padding} bytes, not {size}")
    return _document(title, _comments(title, padding))


def _document(title: str, padding: bytes) -> bytes:
    text = title.encode("latin-1", "replace")
    for special in (b"\\", b"(", b")"):
        text = text.replace(special, b"\\" + special)
    page = b"BT /F1 24 Tf 72 720 Td (" + text + b") Tj ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(page), page),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    # The second line tells programs which look at the first bytes that this is a binary file.
    document = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(document))
        document += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    document += padding
    table = len(document)
    document += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    document += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    # Ten digits whatever the offset, so that the padding moves it without changing the length of what
    # follows.
    document += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%010d\n%%%%EOF\n" % (
        len(objects) + 1,
        table,
    )
    return bytes(document)


def _comments(title: str, size: int) -> bytes:
    """Comment lines of together exactly `size` bytes; a single byte left over becomes an empty line."""
    digits = hashlib.shake_128(title.encode()).hexdigest(size // 2 + 1).encode()
    lines = bytearray()
    while (left := size - len(lines)) > 1:
        take = min(_LINE, left - 2)
        lines += b"%" + digits[len(lines) : len(lines) + take] + b"\n"
    return bytes(lines) + b"\n" * left
