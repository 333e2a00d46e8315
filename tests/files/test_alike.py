"""Files behave as io's: random operations on the same content, side by side."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

import noria
from files.loops import WAYS, runner

# Results that are not compared: how a file object looks.
SMALL = st.integers(-1, 40)
CONTENT = st.lists(
    st.sampled_from(
        [
            b"",
            b"\n",
            b"\r",
            b"\r\n",
            b"a",
            b"bc\n",
            "\u00e9".encode(),
            "\u20ac\n".encode(),
            "\U0001f600".encode(),
            b"x" * 30,
        ]
    ),
    max_size=25,
).map(b"".join)
TEXTS = st.lists(
    st.sampled_from(["", "\n", "\r", "\r\n", "a", "bc\n", "\u00e9", "\u20ac\n", "\U0001f600", "x" * 30]),
    max_size=6,
).map("".join)

COMMON = [
    st.tuples(st.just("read"), SMALL),
    st.tuples(st.just("readline"), SMALL.filter(bool)),
    st.tuples(st.just("next")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("tell")),
    st.tuples(st.just("again")),
    st.tuples(st.just("truncate"), st.none() | st.integers(0, 60)),
    st.tuples(st.just("seek"), st.integers(0, 60), st.sampled_from([0, 0, 0, 1, 2])),
]
BINARY = st.lists(
    st.one_of(
        *COMMON,
        st.tuples(st.just("readlines"), SMALL),
        st.tuples(st.just("seek"), st.integers(-20, 5), st.sampled_from([0, 1, 2])),
        st.tuples(st.just("read1"), st.integers(1, 40)),
        st.tuples(st.just("readinto"), st.integers(0, 50)),
        st.tuples(st.just("write"), CONTENT),
        st.tuples(st.just("writelines"), st.lists(CONTENT, max_size=3)),
    ),
    max_size=14,
)
# io's readlines() goes by next(), after which it does not know where it is, unless it has read everything.
TEXT = st.lists(
    st.one_of(
        *COMMON[:-1],
        st.tuples(st.just("readlines"), st.just(-1)),
        st.tuples(st.just("end")),
        st.tuples(st.just("write"), TEXTS),
    ),
    max_size=14,
)


class Both:
    """The same operations on a file of io's and on one of noria's."""

    def __init__(self, theirs: Any, ours: Any) -> None:
        self.theirs = theirs
        self.ours = ours
        self.cookies: list[tuple[int, int]] = []

    async def do(self, name: str, *args: Any) -> None:
        method = getattr(self, f"do_{name}", None)
        if method is not None:
            await method(*args)
            return
        if not hasattr(self.theirs, name):
            return
        try:
            expected = getattr(self.theirs, name)(*args)
        except (OSError, ValueError, TypeError) as error:
            expected = error
        got = await self.outcome(getattr(self.ours, name), *args)
        self.compare(name, args, expected, got)

    @staticmethod
    async def outcome(method: Any, *args: Any) -> Any:
        try:
            return await method(*args)
        except (OSError, ValueError, TypeError) as error:
            return error

    def compare(self, name: str, args: Any, expected: Any, got: Any) -> None:
        if isinstance(expected, Exception):
            assert isinstance(got, Exception), f"{name}{args} gave {got!r}, and not {expected!r}"
            kinds = {io.UnsupportedOperation: OSError}
            assert isinstance(got, kinds.get(type(expected), type(expected))), (
                f"{name}{args}: {got!r}, not {expected!r}"
            )
        else:
            assert got == expected, f"{name}{args} gave {got!r}, and not {expected!r}"

    async def do_next(self) -> None:
        try:
            expected: Any = self.theirs.readline()  # next() would forbid tell()
        except (OSError, ValueError) as error:
            expected = error
        got: Any = None
        try:
            got = await anext(self.ours, type(expected)() if not isinstance(expected, Exception) else None)
        except (OSError, ValueError) as error:
            got = error
        self.compare("next", (), expected, got)

    async def do_readinto(self, size: int) -> None:
        one, two = bytearray(size), bytearray(size)
        try:
            expected: Any = self.theirs.readinto(one)
        except (OSError, ValueError) as error:
            expected = error
        self.compare("readinto", (size,), expected, await self.outcome(self.ours.readinto, two))
        assert one == two

    async def do_tell(self) -> None:
        try:
            if "a" in self.theirs.mode:
                self.theirs.flush()  # while io has something to append it does not know where it is
            expected: Any = self.theirs.tell()
        except (OSError, ValueError) as error:
            expected = error
        if "disabled by next()" in str(expected):
            return  # readlines() on a file that cannot be read leaves io's like that
        got = await self.outcome(self.ours.tell)
        if isinstance(expected, int) and isinstance(got, int):
            self.cookies.append((expected, got))
            # The byte is the same; the rest of a position is the decoder's.
            assert got & (1 << 64) - 1 == expected & (1 << 64) - 1 or (got >> 64 or expected >> 64)
        else:
            self.compare("tell", (), expected, got)

    async def do_again(self) -> None:
        # Back to where tell() was asked last.
        if self.cookies:
            one, two = self.cookies[-1]
            try:
                self.theirs.seek(one)
            except OSError as error:
                self.compare("seek", (two,), error, await self.outcome(self.ours.seek, two))
                return
            assert await self.ours.seek(two) == two

    async def do_end(self) -> None:
        await self.do("seek", 0, 2)


async def compare(content: bytes, mode: str, operations: list[tuple[Any, ...]], **options: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        one, two = Path(directory, "theirs"), Path(directory, "ours")
        if "x" not in mode:
            one.write_bytes(content)
            two.write_bytes(content)
        with open(one, mode, **options) as theirs:
            async with noria.open(two, mode, **options) as ours:
                both = Both(theirs, ours)
                for operation in operations:
                    await both.do(*operation)
                assert theirs.mode == ours.mode
                if "b" not in mode and not both.cookies:  # io's tell() leaves its own account of them wrong
                    assert theirs.newlines == ours.newlines
        assert one.read_bytes() == two.read_bytes()
        with pytest.raises(ValueError):
            await ours.read()


@pytest.mark.parametrize("way", WAYS)
def test_binary_files_do_what_ios_do(way: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        run = runner(way, patch)

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            CONTENT,
            st.sampled_from(["rb", "r+b", "r+b", "wb", "w+b", "ab", "a+b", "xb"]),
            BINARY,
            st.sampled_from([-1, 0, 4, 16]),
        )
        def check(content: bytes, mode: str, operations: list[tuple[Any, ...]], buffering: int) -> None:
            run(compare(content, mode, operations, buffering=buffering))

        check()


@pytest.mark.parametrize("way", WAYS)
def test_text_files_do_what_ios_do(way: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        run = runner(way, patch)

        @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
        # Nothing but a byte order mark, read: the position is behind it.
        @example(b"", "r", [("next",), ("tell",), ("again",), ("tell",)], "utf-8-sig", "strict", None)
        @given(
            CONTENT,
            st.sampled_from(["r", "r", "r+", "w", "w+", "a", "a+"]),
            TEXT,
            st.sampled_from(
                ["utf-8", "utf-8-sig", "latin-1", "utf-16", "ascii", "cp1252", "shift_jis", "utf-7"]
            ),
            st.sampled_from(["strict", "replace", "surrogateescape"]),
            st.sampled_from([None, "", "\n", "\r", "\r\n"]),
        )
        def check(
            content: bytes,
            mode: str,
            operations: list[tuple[Any, ...]],
            encoding: str,
            errors: str,
            newline: str | None,
        ) -> None:
            with contextlib.suppress(UnicodeError):
                content = content.decode().encode(encoding)
            run(compare(content, mode, operations, encoding=encoding, errors=errors, newline=newline))

        check()
