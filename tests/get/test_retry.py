"""When another attempt is made, and how long before it."""

import time
from email.utils import formatdate

import pytest

from noria.get.retry import RetryPolicy, parse_retry_after


def test_waits_double_up_to_the_bound() -> None:
    policy = RetryPolicy(retries=50, base=1.0, longest=10.0)
    for attempt, whole in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (50, 10)]:
        for _ in range(100):
            delay = policy.delay(attempt)
            assert delay is not None
            assert whole / 2 <= delay <= whole


def test_two_clients_do_not_wait_equally_long() -> None:
    policy = RetryPolicy()
    assert len({policy.delay(3) for _ in range(20)}) > 1


def test_after_the_last_attempt_there_is_no_wait_but_an_end() -> None:
    assert RetryPolicy(retries=2).delay(2) is not None
    assert RetryPolicy(retries=2).delay(3) is None
    assert RetryPolicy(retries=0).delay(1) is None


def test_a_million_attempts_overflow_nothing() -> None:
    delay = RetryPolicy(retries=10**6, longest=5.0).delay(10**6)
    assert delay is not None
    assert delay <= 5.0


def test_the_servers_wish_is_the_least_wait() -> None:
    assert RetryPolicy(base=0.1).delay(1, retry_after=7.0) == 7.0
    assert RetryPolicy(base=0.1).delay(1, retry_after=0.0) is not None


def test_a_wish_beyond_the_bound_ends_it() -> None:
    assert RetryPolicy(longest=60.0).delay(1, retry_after=61.0) is None


@pytest.mark.parametrize(("header", "seconds"), [("0", 0.0), ("120", 120.0), (" 5 ", 5.0)])
def test_retry_after_in_seconds(header: str, seconds: float) -> None:
    assert parse_retry_after(header) == seconds


def test_retry_after_as_a_date() -> None:
    wait = parse_retry_after(formatdate(time.time() + 100, usegmt=True))
    assert wait is not None
    assert 97 <= wait <= 100
    assert parse_retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0.0


@pytest.mark.parametrize("header", [None, "", "soon", "-5", "1.5", "²", "Fri, 99 Foo 1999 99:99:99 GMT"])
def test_an_unreadable_retry_after_is_none(header: str | None) -> None:
    assert parse_retry_after(header) is None


def test_an_endless_number_of_digits_is_only_a_long_wait() -> None:
    wait = parse_retry_after("9" * 10_000)
    assert wait is not None
    assert wait > 1e9
