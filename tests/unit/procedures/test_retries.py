"""Backoff and Retry-After."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procedures import retries
from procedures.retries import ASKED_FOR, AUTOMATIC, DAY, HOUR, delay, parse_retry_after

NOW = 1_783_175_954.0  # 2026-07-04T14:39:14Z, a Saturday
_JITTER = st.floats(min_value=0, max_value=1, exclude_max=True)


@given(st.integers(min_value=0, max_value=10_000), _JITTER, st.booleans())
def test_the_wait_doubles_up_to_an_hour(attempts: int, jitter: float, automatic: bool) -> None:
    rule = retries.rule_of(automatic=automatic)
    whole = min(rule.first * 2.0 ** min(max(attempts - 1, 0), 40), HOUR)
    assert whole / 2 <= delay(rule, attempts, jitter) <= whole


@given(st.integers(min_value=1, max_value=50), _JITTER, st.floats(min_value=0, max_value=1e12))
def test_retry_after_is_a_lower_bound_of_at_most_a_day(
    attempts: int, jitter: float, asked: float
) -> None:
    wait = delay(ASKED_FOR, attempts, jitter, asked)
    assert wait >= min(asked, DAY)
    assert wait == max(delay(ASKED_FOR, attempts, jitter), min(asked, DAY))


def test_first_waits() -> None:
    assert (delay(ASKED_FOR, 1, 0), delay(AUTOMATIC, 1, 0)) == (0.5, 30.0)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("0", 0),
        (" 120 ", 120),
        ("9" * 5_000, 999_999_999_999),
        ("Sat, 04 Jul 2026 14:40:14 GMT", 60),
        ("Sat, 04 Jul 2026 14:40:14 -0000", 60),
        ("Sat, 04 Jul 2020 14:40:14 GMT", 0),
        ("Sat, 99 Jul 2026 14:40:14 GMT", None),
    ],
)
def test_both_forms_of_retry_after(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds
