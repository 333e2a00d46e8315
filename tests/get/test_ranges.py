"""Dates in answers, which tell whether a Last-Modified is old enough to be relied on."""

import random
from email.utils import formatdate

import pytest

from noria.get.ranges import Validator, make_validator


def date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def test_a_date_a_second_old_is_relied_on_and_no_younger_one() -> None:
    rng = random.Random(7)
    for _ in range(500):
        now = rng.randrange(1, 4_000_000_000)
        assert make_validator(None, date(now - 1), date(now)) == Validator(None, date(now - 1))
        assert make_validator(None, date(now), date(now)) == Validator()
        assert make_validator(None, date(now + 1), date(now)) == Validator()


@pytest.mark.parametrize(
    "old", ["Monday, 01-Jan-24 00:00:00 GMT", "Mon Jan  1 00:00:00 2024", "Mon, 01 Jan 2024 01:00:00 +0100"]
)
def test_dates_in_old_forms_are_read_too(old: str) -> None:
    moment = 1_704_067_200
    assert make_validator(None, old, date(moment + 86_400)).modified == old


@pytest.mark.parametrize(
    "wrong",
    [
        "Mon, 99 Jan 2024 00:00:00 GMT",
        "Mon, 01 Foo 2024 00:00:00 GMT",
        "Mon, 01 Jan 0000 00:00:00 GMT",
        "x",
        "",
    ],
)
def test_what_is_no_date_is_not_relied_on(wrong: str) -> None:
    assert make_validator(None, wrong, date(2_000_000_000)) == Validator()
    assert make_validator(None, date(1_000_000_000), wrong) == Validator()
