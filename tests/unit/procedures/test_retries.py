"""Backoff, throttle, the policy's defaults, and Retry-After."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procedures.retries import DAY, HOUR, MINUTE, Backoff, RetryPolicy, parse_retry_after

NOW = 1_783_175_954.0  # 2026-07-04T14:39:14Z, a Saturday
POLICY = RetryPolicy()
_CHANCE = st.floats(min_value=0, max_value=1, exclude_max=True)
_SECONDS = st.floats(min_value=0.001, max_value=1e6)


@given(st.integers(min_value=0, max_value=10_000), _CHANCE, st.booleans())
def test_the_wait_doubles_up_to_an_hour(attempts: int, chance: float, automatic: bool) -> None:
    first = POLICY.automatic.first if automatic else POLICY.asked_for.first
    whole = min(first * 2.0 ** min(max(attempts - 1, 0), 40), HOUR)
    assert whole / 2 <= POLICY.attempt_wait(attempts, chance, automatic=automatic) <= whole


@given(st.integers(min_value=1, max_value=50), _CHANCE, st.floats(min_value=0, max_value=1e12))
def test_retry_after_is_a_lower_bound_up_to_the_longest(
    attempts: int, chance: float, asked: float
) -> None:
    wait = POLICY.attempt_wait(attempts, chance, asked, automatic=False)
    bound = min(asked, POLICY.longest_retry_after)
    assert wait == max(POLICY.attempt_wait(attempts, chance, automatic=False), bound)


def test_first_waits() -> None:
    waits = [POLICY.attempt_wait(1, 0, automatic=automatic) for automatic in (False, True)]
    assert waits == [0.5, 30.0]


@given(_SECONDS, _SECONDS, st.integers(min_value=0, max_value=100), _CHANCE)
def test_the_steps_are_the_waits_without_jitter(
    first: float, longest: float, failures: int, chance: float
) -> None:
    backoff = Backoff(first, longest)
    steps = backoff.steps
    whole = steps[min(max(failures - 1, 0), len(steps) - 1)]
    assert backoff.wait(failures, chance) == pytest.approx(whole * (0.5 + chance / 2))
    assert list(steps) == sorted(steps)
    assert steps[-1] <= longest


def test_the_default_policy_waits_as_documented() -> None:
    assert POLICY.renewal.steps[:2] == (60.0, 120.0)
    assert (POLICY.renewal.steps[-1], len(POLICY.renewal.steps)) == (DAY, 12)
    assert POLICY.throttle.steps[:6] == (0, 0, 0, 10, 20, 40)
    assert POLICY.throttle.steps[-1] == HOUR
    assert (POLICY.host.steps[0], POLICY.host.steps[-1]) == (1.0, HOUR)
    assert POLICY.directory.steps[-1] == MINUTE
    assert [POLICY.busy_host.wait(n, 0) for n in (1, 9)] == [0.5, 0.5]


@given(_SECONDS, _CHANCE)
def test_what_waits_for_a_host_comes_back_later_never_earlier(
    seconds: float, chance: float
) -> None:
    assert seconds <= POLICY.deferred(seconds, chance) <= seconds * 1.5


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
        ("²", None),
    ],
)
def test_both_forms_of_retry_after(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds
